//! Facts in, findings out.

use std::collections::{BTreeMap, BTreeSet};

use super::judge;
use crate::doctor::facts::{Availability, Facts, HugePages, Interface, Process, Processors};
use crate::doctor::finding::{Check, Finding, Verdict};
use crate::nic::Nic;
use crate::report::{PortReport, Report};
use crate::rules::Rules;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// A machine that lacks nothing: two nodes, isolated cores, a NIC behind an IOMMU, root.
fn healthy() -> Facts {
    let interface = Interface {
        mtu: 1_500,
        driver: "ixgbe".into(),
        offloads: Some(BTreeSet::new()),
        ..Interface::default()
    };
    Facts {
        huge_pages: vec![
            HugePages { node: 0, kib: 2_048, total: 4_096, free: 4_096 },
            HugePages { node: 1, kib: 2_048, total: 4_096, free: 4_096 },
        ],
        processors: Processors {
            allowed: vec![0, 1, 2, 3],
            isolated: vec![2, 3],
            nodes: BTreeMap::from([(0, 0), (1, 0), (2, 1), (3, 1)]),
            governors: BTreeMap::from([(2, "performance".into()), (3, "performance".into())]),
            clock_source: "tsc".into(),
            clock_sources: vec!["tsc".into(), "hpet".into()],
            flags: names(&["tsc", "constant_tsc", "nonstop_tsc"]),
            ..Processors::default()
        },
        nics: vec![Nic {
            address: "0000:03:00.0".into(),
            driver: Some("vfio-pci".into()),
            numa_node: Some(1),
            iommu_group: Some("17".into()),
            ..Nic::default()
        }],
        iommu_groups: 40,
        pci_drivers: BTreeMap::from([("vfio-pci".to_owned(), Availability::Present)]),
        parts: BTreeMap::from([
            ("tun", Availability::Present),
            ("af_packet", Availability::Present),
            ("af_xdp", Availability::Present),
        ]),
        interface_names: vec!["xeth1".into(), "lo".into()],
        interfaces: BTreeMap::from([("xeth1".to_owned(), interface)]),
        process: Process { capabilities: u64::MAX, ..Process::default() },
        programs: names(&["nft", "ip", "ethtool"]),
        ..Facts::default()
    }
}

fn rules(dataplane: &str, device: &str) -> Rules {
    let port = format!("[[port]]\nname = \"front\"\ndevice = \"{device}\"\nkernel = true\n");
    Rules::parse("test", &format!("[dataplane]\nworkers = [2, 3]\n{dataplane}\n{port}"))
        .unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
}

/// What is wrong, in the order in which it is told.
fn wrong(facts: &Facts, rules: &Rules) -> Vec<Finding> {
    let mut findings = judge(facts, Some(rules), None);
    findings.retain(|finding| finding.verdict != Verdict::Fine);
    findings
}

/// The only thing that is wrong.
fn only(facts: &Facts, rules: &Rules) -> Finding {
    let mut found = wrong(facts, rules);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn to_do(finding: &Finding) -> String {
    finding.remedy.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_machine_that_lacks_nothing_gets_no_advice_with_rules_or_without() {
    for device in ["0000:03:00.0", "af_xdp:xeth1"] {
        assert_eq!(wrong(&healthy(), &rules("memory = \"huge\"", device)), []);
    }
    let without = judge(&healthy(), None, None);
    assert!(without.iter().all(|finding| finding.verdict == Verdict::Fine), "{without:#?}");
}

#[test]
fn huge_pages_are_wanted_as_the_rules_say_and_the_command_reserves_enough() {
    let mut facts = healthy();
    for pages in &mut facts.huge_pages {
        (pages.total, pages.free) = (10, 8);
    }
    assert_eq!(wrong(&facts, &rules("memory = \"plain\"", "af_xdp:xeth1")), []);
    let auto = only(&facts, &rules("memory = \"auto\"", "af_xdp:xeth1"));
    assert_eq!((auto.check, auto.verdict, auto.is_safe), (Check::HugePages, Verdict::Advice, true));
    let wanted_rules = rules("memory = \"huge\"", "af_xdp:xeth1");
    let huge = only(&facts, &wanted_rules);
    assert_eq!(huge.verdict, Verdict::Fault, "{huge:?}");
    let command = to_do(&huge);
    let count = command.strip_prefix("echo ").and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(command.ends_with(" > /proc/sys/vm/nr_hugepages"), "{command}");
    // Half a node each, as the kernel does, less what others hold.
    let count: u64 = count.parse().unwrap();
    for pages in &mut facts.huge_pages {
        (pages.total, pages.free) = (count / 2, count / 2 - 2);
    }
    assert_eq!(wrong(&facts, &wanted_rules), [], "what it told to do is enough");
}

#[test]
fn a_nic_on_a_uio_driver_cannot_do_without_huge_pages() {
    let mut facts = healthy();
    facts.nics[0].driver = Some("uio_pci_generic".into());
    facts.huge_pages.clear();
    let finding = only(&facts, &rules("memory = \"plain\"", "0000:03:00.0"));
    assert_eq!((finding.check, finding.verdict), (Check::HugePages, Verdict::Fault));
    assert!(finding.wanted.contains("0000:03:00.0 on a uio driver"), "{finding:?}");
}

#[test]
fn pages_on_another_node_than_the_workers_are_told() {
    let mut facts = healthy();
    facts.huge_pages[1].free = 0;
    let finding = only(&facts, &rules("", "af_xdp:xeth1"));
    assert_eq!(finding.check, Check::Numa);
    assert!(to_do(&finding).contains("/node1/hugepages/"), "{finding:?}");
}

#[test]
fn a_nic_that_the_kernel_has_or_that_is_not_there_is_a_fault() {
    let mut facts = healthy();
    facts.nics[0].driver = Some("i40e".into());
    let finding = only(&facts, &rules("", "0000:03:00.0"));
    assert_eq!((finding.check, finding.verdict, finding.is_safe), (Check::Nic, Verdict::Fault, false));
    assert_eq!(to_do(&finding), "crossdock nic bind 0000:03:00.0");
    facts.pci_drivers = BTreeMap::from([("vfio-pci".to_owned(), Availability::Loadable)]);
    let found = wrong(&facts, &rules("", "0000:03:00.0"));
    assert!(
        found.iter().any(|finding| to_do(finding) == "modprobe vfio-pci" && finding.is_safe),
        "{found:?}"
    );
    let missing = only(&healthy(), &rules("", "0000:04:00.0"));
    assert!(
        missing.found.contains("there is no NIC 0000:04:00.0; there are: 0000:03:00.0 (vfio-pci)"),
        "{missing:?}"
    );
    facts.nics[0].driver = Some("mlx5_core".into());
    assert_eq!(wrong(&facts, &rules("", "0000:03:00.0")), [], "it shares its NIC");
}

#[test]
fn a_nic_far_from_its_workers_and_one_without_an_iommu_are_advice() {
    let mut facts = healthy();
    facts.nics[0].numa_node = Some(0);
    let far = only(&facts, &rules("", "0000:03:00.0"));
    assert_eq!((far.check, far.verdict), (Check::Numa, Verdict::Advice));
    assert!(to_do(&far).contains("workers = [0, 1]"), "{far:?}");
    let mut facts = healthy();
    facts.iommu_groups = 0;
    facts.nics[0].driver = Some("uio_pci_generic".into());
    assert_eq!(only(&facts, &rules("", "0000:03:00.0")).check, Check::Iommu);
    assert_eq!(wrong(&facts, &rules("", "af_xdp:xeth1")), [], "no PCI port, no need");
}

#[test]
fn cores_that_are_not_there_not_alone_or_slow_are_told() {
    let workers = |list: &str| {
        let text = format!("[dataplane]\nworkers = {list}\n[[port]]\nname = \"front\"\ndevice = \"ring\"\n");
        Rules::parse("test", &text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
    };
    let absent = only(&healthy(), &workers("[2, 9]"));
    assert_eq!((absent.check, absent.verdict), (Check::Cores, Verdict::Fault));
    assert!(absent.found.contains("core 9"), "{absent:?}");
    let busy = only(&healthy(), &workers("[1, 2]"));
    assert!(
        busy.found.contains("1 not isolated") && to_do(&busy).contains("isolcpus=domain,managed_irq,1-2"),
        "{busy:?}"
    );
    let shared = only(&healthy(), &workers("[0, 1, 2, 3]"));
    assert!(shared.wanted.contains("a core for control"), "{shared:?}");
    let mut facts = healthy();
    facts.processors.governors.insert(3, "powersave".into());
    facts.processors.governors.insert(0, "powersave".into());
    let slow = only(&facts, &workers("[2, 3]"));
    assert_eq!((slow.check, slow.is_safe), (Check::Governor, true));
    assert!(
        slow.found.contains("powersave on 3") && to_do(&slow).starts_with("sh -c 'for core in 3; do"),
        "{slow:?}"
    );
    let nobodys = judge(&facts, None, None);
    assert!(nobodys.iter().all(|finding| !finding.is_safe), "nobody said whose cores: {nobodys:?}");
}

#[test]
fn the_clock_must_be_steady_and_the_kernels_own() {
    let clock = |change: &dyn Fn(&mut Processors)| {
        let mut facts = healthy();
        change(&mut facts.processors);
        judge(&facts, None, None).into_iter().find(|finding| finding.check == Check::Clock).unwrap()
    };
    let unsteady = clock(&|processors| _ = processors.flags.remove("nonstop_tsc"));
    assert!(unsteady.found.contains("does not run at one speed"), "{unsteady:?}");
    let other = clock(&|processors| processors.clock_source = "hpet".into());
    assert!(to_do(&other).starts_with("echo tsc > ") && !other.is_safe, "{other:?}");
    let given_up = clock(&|processors| {
        processors.clock_source = "hpet".into();
        processors.clock_sources = vec!["hpet".into()];
    });
    assert!(given_up.found.contains("given the timestamp counter up"), "{given_up:?}");
    let virtual_machine = clock(&|processors| {
        processors.clock_source = "kvm-clock".into();
        processors.flags.insert("hypervisor".into());
    });
    assert_eq!(virtual_machine.verdict, Verdict::Fine);
    assert_eq!(
        clock(&|processors| processors.flags.clear()).verdict,
        Verdict::Fine,
        "arm64 has no such flags"
    );
}

#[test]
fn parts_of_the_kernel_and_programs_are_wanted_by_the_ports_that_need_them() {
    let mut facts = healthy();
    facts.parts.insert("tun", Availability::Loadable);
    facts.parts.insert("af_xdp", Availability::Absent);
    facts.programs.clear();
    let packet = rules("", "af_packet:xeth1");
    let found = wrong(&facts, &packet);
    let commands: Vec<String> =
        found.iter().filter(|finding| finding.verdict == Verdict::Fault).map(to_do).collect();
    assert_eq!(commands, ["modprobe tun", "apt-get install nftables"]);
    let found = wrong(&facts, &rules("", "af_xdp:xeth1"));
    let told: Vec<&str> = found.iter().map(|finding| finding.found.as_str()).collect();
    assert_eq!(told, ["tun is not loaded", "af_xdp is missing", "ip is missing"]);
}

#[test]
fn an_interface_that_cannot_be_a_port_is_a_fault_each_with_its_command() {
    let mut facts = healthy();
    let interface = facts.interfaces.get_mut("xeth1").unwrap();
    interface.controller = Some("br0".into());
    interface.addresses = vec!["192.0.2.7/24".parse().unwrap()];
    let packet = rules("", "af_packet:xeth1");
    let faults = |facts: &Facts, rules: &Rules| {
        let found = wrong(facts, rules).into_iter().filter(|finding| finding.verdict == Verdict::Fault);
        found.map(|finding| to_do(&finding)).collect::<Vec<_>>()
    };
    let expected = ["ip link set dev xeth1 nomaster", "ip address del 192.0.2.7/24 dev xeth1"];
    assert_eq!(faults(&facts, &packet), expected);
    assert_eq!(faults(&facts, &rules("", "af_xdp:xeth1")), [""; 0], "an XDP program hides nothing");
    let missing = wrong(&healthy(), &rules("", "af_packet:eht1")).remove(0);
    assert_eq!(missing.found, "there is no interface eht1; there are: xeth1, lo");
    let mut facts = healthy();
    facts.interface_names.push("xd-front".into());
    let taken = only(&facts, &rules("", "af_xdp:xeth1"));
    assert!(taken.found.contains("xd-front is there already"), "{taken:?}");
    assert!(
        judge(&facts, Some(&packet), Some(&Report::default())).iter().all(|f| f.verdict != Verdict::Fault)
    );
}

#[test]
fn offloads_that_spoil_packets_are_told_with_the_end_where_they_are_switched_off() {
    let offloads = |change: &dyn Fn(&mut Interface)| {
        let mut facts = healthy();
        change(facts.interfaces.get_mut("xeth1").unwrap());
        let rules = rules("", "af_packet:xeth1");
        judge(&facts, Some(&rules), None)
            .into_iter()
            .find(|finding| finding.check == Check::Offloads)
            .unwrap()
    };
    assert_eq!(offloads(&|_| ()).verdict, Verdict::Fine);
    let merged = offloads(&|nic| nic.offloads = Some(names(&["generic-receive-offload", "tx-checksumming"])));
    assert_eq!((to_do(&merged).as_str(), merged.is_safe), ("ethtool -K xeth1 gro off", true));
    let veth = |on: &[&str], peer: Option<(&str, &[&str])>| {
        offloads(&|veth| {
            veth.driver = "veth".into();
            veth.offloads = Some(names(on));
            veth.peer = peer.map(|(name, _)| name.to_owned());
            veth.peer_offloads = peer.map(|(_, on)| names(on));
        })
    };
    let seen = veth(&[], Some(("far", &["tx-checksumming"])));
    assert_eq!(
        (to_do(&seen).as_str(), seen.is_safe),
        ("ethtool -K far tx off", false),
        "far is not in the rules"
    );
    assert_eq!(
        veth(&["tx-checksumming"], Some(("far", &[]))).verdict,
        Verdict::Fine,
        "what this end sends is not ours"
    );
    assert!(to_do(&veth(&["tx-checksumming"], None)).contains("there: ethtool -K"));
    assert_eq!(veth(&[], None).verdict, Verdict::Fine);
    assert!(offloads(&|nic| nic.offloads = None).found.contains("does not say"));
}

/// The cause and the way out, before it happens and after.
#[test]
fn packets_that_af_packet_cuts_are_explained() {
    let before = judge(&healthy(), Some(&rules("", "af_packet:xeth1")), None);
    let cut = before.iter().find(|finding| finding.check == Check::CutPackets).unwrap();
    assert!(cut.verdict == Verdict::Advice && cut.found.contains("longer than 1982 bytes"), "{cut:?}");
    assert!(to_do(cut).contains("af_xdp:xeth1") && to_do(cut).contains("smaller MTU"), "{cut:?}");
    let port = PortReport { name: "front".into(), device: "af_packet:xeth1".into(), ..PortReport::default() };
    let mut running = Report { ports: vec![port], ..Report::default() };
    running.drops.insert("cut_by_driver".into(), 0);
    let of = |running: &Report| judge(&healthy(), None, Some(running)).remove(0);
    assert_eq!(of(&running).verdict, Verdict::Fine);
    running.drops.insert("cut_by_driver".into(), 5);
    let fault = of(&running);
    assert_eq!((fault.check, fault.verdict), (Check::CutPackets, Verdict::Fault));
    assert!(fault.found.contains("dropped 5 packets") && fault.found.contains("(ports front)"), "{fault:?}");
    assert!(to_do(&fault).contains("af_xdp") && to_do(&fault).contains("smaller MTU"), "{fault:?}");
}

#[test]
fn capabilities_count_and_not_who_runs_it() {
    let (net_admin, net_raw, ipc_lock) = (1 << 12, 1 << 13, 1 << 14);
    let mut facts = healthy();
    facts.process.capabilities = net_admin | net_raw;
    assert!(
        wrong(&facts, &rules("", "af_packet:xeth1")).iter().all(|finding| finding.verdict != Verdict::Fault)
    );
    facts.process.capabilities = net_admin;
    let found = wrong(&facts, &rules("", "af_packet:xeth1"));
    assert_eq!((found[0].check, found[0].found.as_str()), (Check::Privileges, "without cap_net_raw"));
    assert!(to_do(&found[0]).contains("setcap cap_net_raw+ep"), "{found:?}");
    let xdp = only(&facts, &rules("", "af_xdp:xeth1"));
    assert_eq!(xdp.found, "without cap_net_raw, cap_bpf");
    facts.process.capabilities = !ipc_lock;
    facts.process.locked_bytes_max = Some(8 << 20);
    let locked = only(&facts, &rules("", "af_xdp:xeth1"));
    assert_eq!((locked.check, locked.verdict), (Check::Limits, Verdict::Fault));
    facts.process.locked_bytes_max = None;
    facts.process.open_files_max = Some(1_024);
    assert_eq!(only(&facts, &rules("", "af_xdp:xeth1")).verdict, Verdict::Advice);
}

#[test]
fn an_arp_ignore_that_silences_vips_is_a_fault_only_where_vips_are_announced() {
    let mut facts = healthy();
    facts.arp_ignore = 2;
    assert_eq!(wrong(&facts, &rules("", "af_xdp:xeth1")), []);
    let service = "[[service]]\nname = \"web\"\nlisten = \"tcp 192.0.2.100:80\"\nmode = \"dr\"\nscheduler = \"rr\"\n\
                   [[service.backend]]\naddress = \"192.0.2.11\"\n";
    let port = "[[port]]\nname = \"front\"\ndevice = \"af_xdp:xeth1\"\nkernel = true\naddresses = [\"192.0.2.5/24\"]\n";
    let rules = Rules::parse("test", &format!("[dataplane]\nworkers = [2, 3]\n{port}{service}"))
        .unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()));
    assert_eq!(to_do(&only(&facts, &rules)), "sysctl -w net.ipv4.conf.all.arp_ignore=1");
}
