//! Rules as values: what a file becomes, and that no file, however broken, stops the reader. What is printed
//! about wrong files is compared byte by byte in `tests/check.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::flow::tcp_state::TcpState;
use dataplane::fragments::FragmentLimits;
use dataplane::wire::proxy_protocol::Version;
use proptest::prelude::*;

use super::routes::{DatagramIds, QuicLbConfiguration};
use super::*;

const EVERYTHING: &str = include_str!("../../tests/rules/valid-everything.toml");
const TUNNELS: &str = include_str!("../../tests/rules/valid-tunnels.toml");
const REFERENCE: &str = include_str!("../../../docs/rules.md");
const SMALLEST: &str = "[[port]]\nname = \"p\"\ndevice = \"null\"\n";

fn rules(text: &str) -> Rules {
    Rules::parse("tests/rules/test", text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.plain()))
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
                fragments: FragmentLimits { datagrams: 4_096, waiting: 256, timeout_ms: 3_000 },
                idle: Idle::Poll
            },
            control: Control {
                socket: "/run/crossdock/crossdock.sock".into(),
                group: None,
                metrics: None,
                remote: None
            },
            slow_path: SlowPath { arp: 2_000, routing: 20_000, local: 50_000, rest: 1_000 },
            decap: None,
            checks: None,
            ports: vec![Port {
                name: "p".into(),
                device: Device::Null,
                kernel: false,
                addresses: vec![],
                local_addresses: vec![],
                mac: None,
                vlan: None,
                mtu: None,
                checksum_offload: true,
                promiscuous: false,
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
            fragments: FragmentLimits { datagrams: 1_024, waiting: 64, timeout_ms: 500 },
            idle: Idle::Sleep
        }
    );
    assert_eq!(rules.control.socket, Path::new("/run/crossdock/second.sock"));
    assert_eq!(rules.control.group.as_deref(), Some("crossdock"));
    assert_eq!(rules.slow_path, SlowPath { arp: 100, routing: 200, local: 300, rest: 400 });
    let [front, back] = &rules.ports[..] else { panic!("{:?}", rules.ports) };
    assert_eq!((front.name.as_str(), front.kernel), ("front", true));
    assert_eq!(front.device, Device::Pci { address: "0000:03:00.0".into() });
    assert_eq!(front.addresses, ["192.0.2.5/24".parse().unwrap(), "2001:db8::5/64".parse().unwrap()]);
    assert_eq!(front.mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
    assert_eq!(back.device, Device::AfXdp { interface: "eth1".into() });
    let local_addresses: Vec<_> = back.local_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(local_addresses, ["10.0.0.64/28", "10.0.0.128/25", "2001:db8:1::/120"]);
    assert!(front.checksum_offload && !back.checksum_offload);
    let first = IpAddr::from([10, 0, 0, 11]);
    let second = IpAddr::from([10, 0, 0, 12]);
    assert_eq!(
        rules.neighbours,
        [Neighbour { address: first, mac: MacAddress([2, 0, 0, 0, 0, 11]), port: 1 }]
    );
    let web = Service {
        name: "web".into(),
        mode: Mode::Fullnat,
        scheduler: SchedulerKind::Mh.into(),
        announce: Announce::External,
        backends: vec![
            Backend { weight: 5, ..backend(first, 8080) },
            Backend { weight: 0, ..backend(second, 80) },
        ],
        ..service("tcp 203.0.113.10:80")
    };
    let dns = Service {
        name: "dns".into(),
        announce: Announce::None,
        backends: vec![
            backend(first, 53),
            Backend { weight: 65535, state: BackendState::Drain, ..backend(second, 53) },
        ],
        ..service("udp 203.0.113.53:53")
    };
    assert_eq!(rules.services[..2], [web, dns].map(Arc::new));
}

#[test]
fn an_ipv6_service_arrives_as_it_is_written() {
    let rules = rules(EVERYTHING);
    let ipv6 = rules.services.iter().find(|service| service.name == "ipv6").unwrap();
    assert_eq!(
        ipv6.listens_text(),
        "tcp [2001:db8::10]:80, tcp [2001:db8:f::/48]:8000-8100, udp [2001:db8::10]:*"
    );
    let vips: Vec<_> = ipv6.vips().map(|vips| vips.to_string()).collect();
    assert_eq!(vips, ["2001:db8::10", "2001:db8:f::/48", "2001:db8::10"]);
    let endpoints: Vec<_> = ipv6.backends.iter().map(|backend| backend.endpoint.to_string()).collect();
    assert_eq!(
        endpoints,
        ["[2001:db8:1:1::11]:8080", "[2001:db8:1:1::12]"],
        "of several ports the one it came to"
    );
    let persistence = ipv6.policy.persistence.unwrap();
    assert_eq!((persistence.prefix_len, persistence.prefix_len6), (32, 56));
}

fn backend(address: IpAddr, l4_port: u16) -> Backend {
    let endpoint = Endpoint { address, l4_port };
    Backend { weight: 1, ..Backend::sorry(endpoint) }
}

/// As it is when nothing more is said.
fn service(listen: &str) -> Service {
    Service {
        name: String::new(),
        listens: vec![values::listen(listen).unwrap()],
        from: vec![],
        mode: Mode::Dr,
        tunnel: None,
        scheduler: SchedulerKind::Wrr.into(),
        announce: Announce::Arp,
        policy: Policy::default(),
        health: None,
        sorry: None,
        slow_start: None,
        drain_timeout: None,
        routes: routes::Routes::default(),
        backends: vec![],
    }
}

#[test]
fn everything_about_connections_arrives() {
    let rules = rules(EVERYTHING);
    let named = |name: &str| rules.services.iter().find(|service| service.name == name).unwrap();
    let [shop, syslog, statistics, stateless] = ["shop", "syslog", "statistics", "stateless"].map(named);
    assert_eq!(shop.listens_text(), "tcp 203.0.113.11:80, tcp 203.0.113.11:443, udp 203.0.113.11:443");
    let mut timeouts = Timeouts::default();
    for (state, timeout_ms) in [
        (TcpState::Established, 3_600_000),
        (TcpState::SynRecv, 5_000),
        (TcpState::SynSent, 6_000),
        (TcpState::FinWait, 7_000),
        (TcpState::TimeWait, 8_000),
        (TcpState::Close, 9_000),
        (TcpState::CloseWait, 10_000),
        (TcpState::Udp, 1_500),
    ] {
        timeouts.set(state, timeout_ms);
    }
    let policy = Policy {
        timeouts,
        persistence: Some(Persistence {
            timeout_ms: 600_000,
            prefix_len: 24,
            prefix_len6: 128,
            leaves_drained: true,
        }),
        limits: Limits { connections: Some(100_000), half_open: Some(5_000), rate: Some(1_000) },
        sorry: None,
        flows: Flows::Kept,
        no_backend: NoBackend::Reset,
        no_flow: NoFlow::Schedule,
        reuse: Reuse::Never,
        on_timeout: OnTimeout::Reset,
        ends_drains: true,
        on_remove: Fate::Move,
        client_address: ClientAddress::Hidden,
        mss: Mss::Clamped,
        fragments: true,
        keeps_ttl: false,
        checks_rst: true,
    };
    assert_eq!(shop.policy, policy);
    assert_eq!(shop.sorry.map(|sorry| sorry.to_string()).as_deref(), Some("10.0.0.99:8080"));
    let (half_a_minute, ten_minutes) = (Duration::from_secs(30), Duration::from_secs(600));
    assert_eq!((shop.slow_start, shop.drain_timeout), (Some(half_a_minute), Some(ten_minutes)));
    let thresholds = |upper, lower| Some(Thresholds { upper, lower });
    let own = IpAddr::from([192, 0, 2, 5]);
    assert_eq!(
        shop.backends,
        [
            Backend {
                thresholds: thresholds(1_000, 900),
                check_place: CheckPlace { address: Some(IpAddr::from([10, 1, 0, 11])), l4_port: Some(9_001) },
                ..backend(IpAddr::from([10, 0, 0, 11]), 0)
            },
            Backend {
                thresholds: thresholds(1, 1),
                state: BackendState::Down,
                check_place: CheckPlace { address: None, l4_port: Some(9_002) },
                ..backend(IpAddr::from([10, 0, 0, 12]), 8080)
            },
            backend(own, 0),
        ]
    );
    assert!(rules.own_addresses().contains(&own));
    assert_eq!(syslog.policy.limits.rate, Some(7));
    assert_eq!((statistics.policy.flows, stateless.policy.flows), (Flows::OnePacket, Flows::None));
}

#[test]
fn everything_about_health_arrives() {
    let rules = rules(EVERYTHING);
    let health = |name| {
        let service = rules.services.iter().find(|service| service.name == name).unwrap();
        service.health.as_deref().map(ToString::to_string)
    };
    assert_eq!(
        health("shop").as_deref(),
        Some(
            "http HEAD /healthz?full=1 of shop.example.org, status 200-204,301, port 9000, every 5s within 1500ms, \
             rise 1, fall 4, jitter 25 %, at first down, damping 5m, inhibit, quorum 3, notify /usr/local/bin/tell shop"
        )
    );
    assert_eq!(
        health("text").as_deref(),
        Some(
            "http GET /, status 200, with \"in service\", every 2s within 1s, rise 2, fall 3, jitter 10 %, at first up"
        )
    );
    let asks = |name| health(name).unwrap().split(", every").next().unwrap().to_owned();
    for (name, asked) in [
        ("secure", "https GET /, status 200-399, certificate by ca.pem for www.example.org"),
        ("believing", "tls, any certificate"),
        ("echo", "udp \"ping\", answer with \"pong\""),
        ("resolver", "dns AAAA of www.example.org."),
        ("rpc", "grpc \"shop.v1.Orders\""),
        ("observed", "passive, of 20 connections"),
        ("database", "script /usr/local/bin/check-replication --max 10"),
    ] {
        assert_eq!(asks(name), asked);
    }
    assert!(health("secure").unwrap().ends_with("withdraw"));
    assert_eq!(health("web"), None);
}

#[test]
fn everything_about_routes_arrives() {
    let rules = rules(EVERYTHING);
    let [.., quic, game] = &rules.services[..] else { panic!("two services") };
    let [first, second] =
        [11, 12].map(|host| Endpoint { address: IpAddr::from([10, 0, 0, host]), l4_port: 443 });
    let configuration = QuicLbConfiguration {
        code_point: 0,
        server_id_len: 3,
        nonce_len: 4,
        key: None,
        encodes_length: false,
    };
    let encrypted = QuicLbConfiguration {
        code_point: 1,
        server_id_len: 10,
        nonce_len: 5,
        key: Some(0x8f95_f092_4576_5f80_2569_34e5_0c66_207f_u128.to_be_bytes()),
        encodes_length: true,
    };
    assert_eq!(quic.routes.datagrams, Some(DatagramIds::QuicLb(vec![configuration, encrypted.clone()])));
    assert!(!format!("{encrypted:?}").contains("8f95"), "keys stay out of logs");
    assert_eq!(quic.routes.tcp_option, Some(0xb7));
    let ids = [(0x31_441a, first), (0xc4_605e, second), (0xed79_3a51_d49b_8f5f_ab65, second)];
    assert_eq!(quic.routes.server_ids, ids);
    let prefixes = quic.routes.prefixes.as_deref().unwrap();
    let backend = |address: &str| {
        prefixes.table.find(address.parse().unwrap()).map(|target| prefixes.targets[usize::from(target)])
    };
    assert_eq!(prefixes.count, 5);
    assert_eq!(backend("198.51.100.9"), Some(second), "[[service.route]]");
    assert_eq!(backend("192.0.2.1"), Some(first));
    assert_eq!(backend("192.0.2.65"), Some(second));
    assert_eq!(backend("192.0.2.66"), Some(first));
    assert_eq!(backend("2001:db8::1"), Some(first));
    assert_eq!(backend("192.0.2.200"), None);
    assert_eq!(game.routes.datagrams, Some(DatagramIds::At { offset: 1, len: 3 }));
}

#[test]
fn a_misspelt_key_is_one_error_and_not_also_a_missing_one() {
    let text = SMALLEST.replace("name", "nmae");
    assert_eq!(Rules::parse("test", &text).unwrap_err().count(), 1);
}

#[test]
fn how_backends_are_told_their_clients_arrives() {
    let rules = rules(EVERYTHING);
    let policy =
        |name| rules.services.iter().find(|service| service.name == name).map(|service| &service.policy);
    let (mail, chat, names) = (policy("mail").unwrap(), policy("chat").unwrap(), policy("names").unwrap());
    assert_eq!(mail.client_address, ClientAddress::Proxy(Version::V2));
    assert_eq!((chat.client_address, chat.mss), (ClientAddress::Toa(200), Mss::AtMost(1_360)));
    assert_eq!(names.client_address, ClientAddress::Uoa(30));
    assert_eq!(rules.ports[0].mtu, Some(9_000));
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

/// What stands under a heading, up to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, after) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    after.split("\n#").next().unwrap()
}

#[test]
fn every_key_stands_in_the_reference_and_no_other() {
    for (heading, keys) in file::tables() {
        let section = section(REFERENCE, heading);
        let rows = section.lines().take_while(|line| !line.starts_with("A `device` is"));
        let told: Vec<_> = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
        assert!(keys.iter().all(|key| told.contains(key)), "{heading} tells of {told:?}, and has {keys:?}");
        assert!(told.iter().all(|key| keys.contains(key)), "{heading} tells of {told:?}, and has {keys:?}");
    }
}

#[test]
fn the_files_with_everything_have_every_key() {
    for (table, keys) in file::tables() {
        let is_there = |key: &&str| {
            EVERYTHING
                .lines()
                .chain(TUNNELS.lines())
                .any(|line| line.contains(&format!("{key} ")) || line.contains(&format!(".{key}]")))
        };
        let missing: Vec<_> = keys.iter().filter(|key| !is_there(key)).collect();
        assert!(missing.is_empty(), "{table}: {missing:?}");
    }
}

#[test]
fn the_examples_of_the_reference_are_valid() {
    let ports = "[[port]]\nname = \"front\"\ndevice = \"tap:xd0\"\nkernel = true\naddresses = [\"192.0.2.5/24\"]\n\
                 local_addresses = [\"192.0.2.64/28\"]\n";
    let blocks: Vec<_> =
        REFERENCE.split("```toml\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert!(blocks.len() >= 5);
    for block in blocks {
        let text = if block.contains("[[port]]") { block.to_owned() } else { format!("{ports}{block}") };
        rules(&text);
    }
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

#[test]
fn everything_about_tunnels_arrives() {
    let rules = rules(TUNNELS);
    let tunnels: Vec<_> = rules.services.iter().map(|service| service.tunnel).collect();
    let fixed = |v4: Option<&str>, v6: Option<&str>| Source::Fixed {
        v4: v4.map(|text| text.parse().unwrap()),
        v6: v6.map(|text| text.parse().unwrap()),
    };
    let expected = [
        Tunnel::default(),
        Tunnel {
            carrier: Carrier::Gre { key: Some(77) },
            source: fixed(Some("192.0.2.9"), Some("2001:db8::9")),
            dscp: Some(46),
            ttl: None,
            dont_fragment: false,
            ..Tunnel::default()
        },
        Tunnel {
            carrier: Carrier::Gre { key: None },
            source: fixed(Some("192.0.2.9"), None),
            ..Tunnel::default()
        },
        Tunnel {
            carrier: Carrier::Gue { has_header: true, l4_port: 9_886 },
            source: Source::PerFlow,
            dscp: None,
            ttl: Some(255),
            udp_checksum: true,
            ..Tunnel::default()
        },
        Tunnel {
            carrier: Carrier::Gue { has_header: true, l4_port: 6_080 },
            second_chance: true,
            ..Tunnel::default()
        },
        Tunnel { carrier: Carrier::Gue { has_header: false, l4_port: 6_080 }, ..Tunnel::default() },
    ];
    assert_eq!(tunnels, expected.map(Some));
    assert!(rules.services[1].policy.keeps_ttl && !rules.services[0].policy.keeps_ttl);
    let decap = Decap {
        addresses: vec!["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()],
        ipip: false,
        gre: true,
        gue_port: Some(9_886),
    };
    assert_eq!(rules.decap, Some(decap));
    let checks = rules.checks.unwrap();
    assert_eq!(checks.to_string(), "198.18.0.0/15 and fd00:c::/64");
    assert_eq!(checks.address(0, false), Some("198.18.0.1".parse().unwrap()));
    assert_eq!(checks.address(32_767, false), Some("198.18.128.0".parse().unwrap()));
    assert_eq!(checks.address(9, true), Some("fd00:c::a".parse().unwrap()));
    assert_eq!(checks.gateway(false), Some("198.18.255.254".parse().unwrap()));
}
