//! Interfaces of the kernel's that ports stand on: whether they can be a port, and what the kernel does to packets there.

use dataplane::verdict::DropReason;

use super::ports;
use crate::doctor::facts::{Facts, Interface};
use crate::doctor::finding::{Check, Finding, Remedy};
use crate::framing;
use crate::report::Report;
use crate::rules::{Announce, KernelDriver, Port, Rules, twin_ifname};

/// ethtool's name for what the kernel leaves to the device: the checksum of what it sends.
const TX_CHECKSUM: &str = "tx-checksumming";
/// ethtool's names for frames that are merged on arrival, and how `ethtool -K` has them.
const MERGES: [(&str, &str); 2] = [("generic-receive-offload", "gro"), ("large-receive-offload", "lro")];

pub(super) fn judge(
    facts: &Facts,
    rules: Option<&Rules>,
    running: Option<&Report>,
    findings: &mut Vec<Finding>,
) {
    for port in ports(rules) {
        match port.device.kernel_interface() {
            Some((KernelDriver::Tap, _)) | None => {}
            Some((driver, name)) => match facts.interfaces.get(name) {
                None => findings.push(no_interface(facts, port, name)),
                Some(interface) => {
                    findings.extend(fitness(port, driver, name, interface));
                    findings.push(offloads(driver, name, interface));
                    findings.extend((driver == KernelDriver::AfPacket).then(|| cuts(port, name)));
                }
            },
        }
        findings.extend(twin(facts, port, running));
    }
    findings.extend(running.and_then(cut_already));
    let announces = rules.is_some_and(|rules| rules.services.iter().any(|s| s.announce == Announce::Arp));
    if announces && ports(rules).iter().any(|port| port.kernel) && facts.arp_ignore > 1 {
        findings.push(Finding::fault(
            Check::Interface,
            format!("net.ipv4.conf.all.arp_ignore is {}", facts.arp_ignore),
            "0 or 1: else the kernel answers ARP for no VIP",
            Remedy::run(&["sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1"]),
        ));
    }
}

fn no_interface(facts: &Facts, port: &Port, name: &str) -> Finding {
    let found = format!("there is no interface {name}; there are: {}", facts.interface_names.join(", "));
    let to_do = format!("name one of those in [[port]] {}", port.name);
    Finding::fault(Check::Interface, found, format!("it, for port {}", port.name), Remedy::Do(to_do))
}

fn fitness(port: &Port, driver: KernelDriver, name: &str, interface: &Interface) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_hidden = matches!(driver, KernelDriver::AfPacket | KernelDriver::Pcap);
    if let (Some(controller), true) = (&interface.controller, is_hidden) {
        findings.push(Finding::fault(
            Check::Interface,
            format!("{name} belongs to {controller}"),
            "an interface of its own: an af_packet port is hidden from the kernel",
            Remedy::run(&["ip", "link", "set", "dev", name, "nomaster"]),
        ));
    }
    if let (Some(address), true) = (interface.addresses.first(), is_hidden) {
        findings.push(Finding::fault(
            Check::Interface,
            format!("{name} has the address {address}"),
            format!(
                "none there, but addresses = [\"{address}\"] under [[port]] {}, with kernel = true",
                port.name
            ),
            Remedy::run(&["ip", "address", "del", &address.to_string(), "dev", name]),
        ));
    }
    let wanted = port.mtu.map(|mtu| u32::from(mtu.saturating_add(framing::second_tag_len(port))));
    if let Some(wanted) = wanted.filter(|wanted| interface.mtu < *wanted) {
        let command = ["ip", "link", "set", "dev", name, "mtu", &wanted.to_string()];
        let found = format!("the MTU of {name} is {}", interface.mtu);
        let for_port = format!("{wanted}, as [[port]] {} says", port.name);
        findings.push(Finding::fault(Check::Interface, found, for_port, Remedy::run(&command)).safe());
    }
    if findings.is_empty() {
        let kind = if interface.driver.is_empty() { "driver unknown" } else { &interface.driver };
        findings.push(Finding::fine(Check::Interface, format!("{name} ({kind}, MTU {})", interface.mtu)));
    }
    findings
}

/// Between the two ends of a veth nothing is on a wire: the sender's kernel leaves checksums unfinished and segments unsplit.
/// Of a NIC it is the receiving side that merges what came.
fn offloads(driver: KernelDriver, name: &str, interface: &Interface) -> Finding {
    let Some(on) = &interface.offloads else {
        let to_do = Remedy::Do("apt-get install ethtool, then ask again".into());
        return Finding::advice(Check::Offloads, format!("{name}: ethtool does not say"), "to know", to_do);
    };
    if interface.driver == "veth" {
        return veth_offloads(name, interface, on.contains(TX_CHECKSUM));
    }
    let merges: Vec<&str> =
        MERGES.iter().filter(|(long, _)| on.contains(*long)).map(|(_, short)| *short).collect();
    if driver == KernelDriver::AfXdp || merges.is_empty() {
        return Finding::fine(
            Check::Offloads,
            format!("{name}: nothing merges packets before the port takes them"),
        );
    }
    let mut command = vec!["ethtool", "-K", name];
    command.extend(merges.iter().flat_map(|short| [*short, "off"]));
    let found =
        format!("{name}: {} on, which merges segments into frames that are cut", merges.join(" and "));
    Finding::advice(Check::Offloads, found, "packets as they were on the wire", Remedy::run(&command)).safe()
}

fn veth_offloads(name: &str, interface: &Interface, own_end_is_on: bool) -> Finding {
    let wanted =
        "tx checksum offload off at the other end: checksums that nobody finished are wrong, and stay so";
    match (&interface.peer, interface.peer_offloads.as_ref().map(|on| on.contains(TX_CHECKSUM))) {
        (Some(peer), Some(true)) => Finding::advice(
            Check::Offloads,
            format!("{name} is a veth, and its other end {peer} sends with unfinished checksums"),
            wanted,
            Remedy::run(&["ethtool", "-K", peer, "tx", "off"]),
        ),
        // Who switched it off here has been told of both.
        (None, _) if own_end_is_on => Finding::advice(
            Check::Offloads,
            format!("{name} is a veth whose other end is in another network namespace, out of sight"),
            wanted,
            Remedy::Do(format!(
                "there: ethtool -K INTERFACE tx off; then here, so that this is not asked again: ethtool -K {name} tx off"
            )),
        ),
        _ => Finding::fine(Check::Offloads, format!("{name}: a veth, checksums are finished")),
    }
}

/// The cause, before anything is lost.
fn cuts(port: &Port, name: &str) -> Finding {
    let bytes = framing::cut_from(port).unwrap_or_default();
    let found = format!(
        "port {}: for af_packet the kernel puts fragments together again, and cuts what is then longer than {bytes} bytes",
        port.name
    );
    let to_do = format!(
        "device = \"af_xdp:{name}\", which takes fragments as they come; or a smaller MTU at those who send to it, so that no \
         frame and no datagram is longer"
    );
    Finding::advice(
        Check::CutPackets,
        found,
        "fragmented datagrams whole (if there are any)",
        Remedy::Do(to_do),
    )
}

/// The same, when it has happened.
fn cut_already(running: &Report) -> Option<Finding> {
    let count = running.drops.get(DropReason::CutByDriver.name()).copied().filter(|count| *count > 0)?;
    let of_port = |device: &str| device.starts_with("af_packet:") || device.starts_with("net_af_packet");
    let names: Vec<&str> =
        running.ports.iter().filter(|port| of_port(&port.device)).map(|port| port.name.as_str()).collect();
    let found = format!(
        "the running Crossdock has dropped {count} packets that the af_packet driver had cut (ports {}): the kernel reassembles \
         fragments or merges segments into more than a frame of the driver's ring holds",
        names.join(", ")
    );
    let to_do = "use af_xdp: in place of af_packet:, or a smaller MTU at those who send; where segments are merged also \
                 ethtool -K INTERFACE gro off lro off";
    Some(Finding::fault(Check::CutPackets, found, "none", Remedy::Do(to_do.into())))
}

/// net_tap would join an interface of that name.
fn twin(facts: &Facts, port: &Port, running: Option<&Report>) -> Option<Finding> {
    let name = twin_ifname(&port.name);
    let is_taken = port.kernel && running.is_none() && facts.interface_names.contains(&name);
    is_taken.then(|| {
        Finding::fault(
            Check::Interface,
            format!("interface {name} is there already; another Crossdock's?"),
            format!("the name free, for the kernel twin of port {}", port.name),
            Remedy::Do(format!("give [[port]] {} another name, or stop whoever has it", port.name)),
        )
    })
}
