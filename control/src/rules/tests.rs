//! Rules as values: what a file becomes, and that no file, however broken, stops the reader. What is printed
//! about wrong files is compared byte by byte in `tests/check.rs`.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const EVERYTHING: &str = include_str!("../../tests/rules/valid-everything.toml");
const SMALLEST: &str = "[[port]]\nname = \"p\"\ndevice = \"null\"\n";

fn rules(text: &str) -> Rules {
    Rules::parse("test", text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let rules = rules(SMALLEST);
    assert_eq!(
        rules,
        Rules {
            dataplane: Dataplane {
                workers: Workers::Auto,
                memory: Memory::Auto,
                max_flows: 1_000_000,
                idle: Idle::Poll
            },
            control: Control { socket: "/run/crossdock/crossdock.sock".into() },
            slow_path: SlowPath { arp: 2_000, routing: 20_000, local: 50_000, rest: 1_000 },
            ports: vec![Port {
                name: "p".into(),
                device: Device::Null,
                kernel: false,
                addresses: vec![],
                local_addresses: vec![],
                mac: None
            }],
            neighbours: vec![],
            services: vec![],
        }
    );
}

#[test]
fn every_key_arrives() {
    let rules = rules(EVERYTHING);
    assert_eq!(
        rules.dataplane,
        Dataplane {
            workers: Workers::Cores(vec![2, 3]),
            memory: Memory::Huge,
            max_flows: 1 << 22,
            idle: Idle::Sleep
        }
    );
    assert_eq!(rules.control.socket, Path::new("/run/crossdock/second.sock"));
    assert_eq!(rules.slow_path, SlowPath { arp: 100, routing: 200, local: 300, rest: 400 });
    let [front, back] = &rules.ports[..] else { panic!("{:?}", rules.ports) };
    assert_eq!((front.name.as_str(), front.kernel), ("front", true));
    assert_eq!(front.device, Device::Pci { address: "0000:03:00.0".into() });
    assert_eq!(front.addresses, ["192.0.2.5/24".parse().unwrap(), "2001:db8::5/64".parse().unwrap()]);
    assert_eq!(front.mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
    assert_eq!(back.device, Device::AfXdp { interface: "eth1".into() });
    assert_eq!(back.local_addresses, ["10.0.0.64/28".parse().unwrap(), "10.0.0.128/25".parse().unwrap()]);
    let first = Ipv4Addr::new(10, 0, 0, 11);
    let second = Ipv4Addr::new(10, 0, 0, 12);
    assert_eq!(
        rules.neighbours,
        [Neighbour { address: first, mac: MacAddress([2, 0, 0, 0, 0, 11]), port: 1 }]
    );
    assert_eq!(
        rules.services,
        [
            Service {
                name: "web".into(),
                protocol: Protocol::Tcp,
                vip: Ipv4Addr::new(203, 0, 113, 10),
                l4_port: 80,
                mode: Mode::Fullnat,
                scheduler: Scheduler::Mh,
                announce: Announce::External,
                backends: vec![
                    Backend { address: first, l4_port: 8080, weight: 5 },
                    Backend { address: second, l4_port: 80, weight: 0 }
                ],
            },
            Service {
                name: "dns".into(),
                protocol: Protocol::Udp,
                vip: Ipv4Addr::new(203, 0, 113, 53),
                l4_port: 53,
                mode: Mode::Dr,
                scheduler: Scheduler::Wrr,
                announce: Announce::None,
                backends: vec![
                    Backend { address: first, l4_port: 53, weight: 1 },
                    Backend { address: second, l4_port: 53, weight: 65535 }
                ],
            },
        ]
    );
}

#[test]
fn a_misspelt_key_is_one_error_and_not_also_a_missing_one() {
    let text = SMALLEST.replace("name", "nmae");
    assert_eq!(Rules::parse("test", &text).unwrap_err().count(), 1);
}

#[test]
fn two_ports_of_rings_or_nulls_are_two_ports() {
    let text = SMALLEST.to_owned() + &SMALLEST.replace("\"p\"", "\"q\"");
    assert_eq!(rules(&text).ports.len(), 2);
}

#[test]
fn the_lines_tables_bound_what_there_may_be() {
    let ports = |count: usize| -> String {
        (0..count).map(|i| format!("[[port]]\nname = \"p{i}\"\ndevice = \"null\"\n")).collect()
    };
    assert_eq!(rules(&ports(32)).ports.len(), 32);
    let error = Rules::parse("test", &ports(40)).unwrap_err();
    assert_eq!(error.count(), 1);
    assert!(error.plain().contains("more than 32 ports") && error.plain().contains("\"p32\""));

    let workers = |count: usize| {
        let cores: Vec<String> = (0..count).map(|core| core.to_string()).collect();
        format!("{SMALLEST}[dataplane]\nworkers = [{}]\n", cores.join(","))
    };
    assert!(matches!(rules(&workers(64)).dataplane.workers, Workers::Cores(cores) if cores.len() == 64));
    assert_eq!(Rules::parse("test", &workers(65)).unwrap_err().count(), 1);
}

#[test]
fn a_report_without_colour_has_none_and_the_other_has() {
    let diagnostics = Rules::parse("test", "x = 1").unwrap_err();
    assert!(!diagnostics.plain().contains('\x1b'));
    assert!(diagnostics.coloured().contains('\x1b'));
    assert_eq!(diagnostics.to_string(), format!("test: {} errors", diagnostics.count()));
}

/// Rules or a report of at least one error; both without a panic.
fn answered(text: &str) {
    if let Err(diagnostics) = Rules::parse("test", text) {
        assert!(diagnostics.count() > 0);
        let reported = diagnostics.plain().lines().filter(|line| line.starts_with("error")).count();
        assert!(reported >= diagnostics.count(), "{}", diagnostics.plain());
    }
}

#[test]
fn every_beginning_of_a_file_is_answered() {
    for end in (0..EVERYTHING.len()).filter(|&end| EVERYTHING.is_char_boundary(end)) {
        answered(&EVERYTHING[..end]);
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text: String) {
        answered(&text);
    }

    /// A valid file with one stretch replaced by something from the same alphabet or not.
    #[test]
    fn a_damaged_file_is_answered(
        start in 0..EVERYTHING.len(),
        len in 0..40_usize,
        patch in "[a-z0-9\"=.,:/\\[\\]{}\n \u{0}é🚢-]{0,12}",
    ) {
        let end = (start + len).min(EVERYTHING.len());
        prop_assume!(EVERYTHING.is_char_boundary(start) && EVERYTHING.is_char_boundary(end));
        answered(&[&EVERYTHING[..start], &patch, &EVERYTHING[end..]].concat());
    }
}
