//! Persistent services: a client returns to its backend.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::rules::{Admits, ClientPart, Member, Mode, Persistence, Ruleset, ServiceKey, Vip};

use super::ipv6;
use crate::common::frames::{ACK, Decoded, RST, SYN};
use crate::common::rules::{ServiceSpec, TCP, VIP, with_backend, with_service};
use crate::common::{Director, Frame, ruleset};

const MINUTE_MS: u32 = 60_000;

/// Two services of three backends each, on ports 80 and 443, clients of both remembered.
fn rules(mode: Mode, prefix_len: u8, leaves_drained: bool) -> Ruleset {
    let spec = |l4_port| ServiceSpec { protocol: TCP, l4_port, mode, scheduler: "rr", weights: &[1, 1, 1] };
    let persistence =
        Some(Persistence { timeout_ms: 5 * MINUTE_MS, prefix_len, prefix_len6: 128, leaves_drained });
    let rules = ruleset(1, &[spec(80), spec(443)]);
    let rules = with_service(rules, 0, |service| service.policy.persistence = persistence);
    with_service(rules, 1, |service| service.policy.persistence = persistence)
}

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number)
}

/// Opens a connection of `client`; which backend got it.
fn open(director: &mut Director, client: Ipv4Addr, client_port: u16, l4_port: u16) -> Option<u8> {
    let frame = Frame::tcp((client, client_port), (VIP, l4_port), SYN).bytes();
    director.send(frame).map(|sent| Decoded::from(&sent).to.0[5])
}

#[test]
fn a_client_returns_to_its_backend_and_others_go_elsewhere() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let mut director = Director::new(rules(mode, 32, false));
        let first = open(&mut director, client(1), 1_000, 80);
        let other = open(&mut director, client(2), 1_000, 80);
        assert_ne!(first, other, "rr");
        for client_port in 1_001..1_020 {
            assert_eq!(open(&mut director, client(1), client_port, 80), first);
        }
        assert_eq!(open(&mut director, client(2), 1_001, 80), other);
        assert_eq!(director.counters.templates_used.value(), 2);
        assert!(director.drops().is_empty());
    }
}

#[test]
fn a_network_returns_as_one_client() {
    let mut director = Director::new(rules(Mode::Dr, 24, false));
    let first = open(&mut director, client(1), 1_000, 80);
    assert_eq!(open(&mut director, client(200), 1_000, 80), first);
    assert_ne!(open(&mut director, Ipv4Addr::new(198, 51, 101, 1), 1_000, 80), first);
}

/// One service of IPv6 on ports 80 and 443, whose clients are remembered by their /64: by direct routing to three backends.
pub(crate) fn group_of_ipv6(worker_count: u16) -> Ruleset {
    let spec =
        ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1, 1, 1] };
    let rules = with_service(ipv6::rules(&[spec]), 0, |service| {
        service.policy.persistence = Some(Persistence {
            timeout_ms: 5 * MINUTE_MS,
            prefix_len: 32,
            prefix_len6: 64,
            leaves_drained: false,
        });
    });
    let key = |l4_port| ServiceKey { vip: ipv6::VIP.into(), l4_port, protocol: TCP };
    let matcher = [80, 443].map(|l4_port| (key(l4_port), ServiceIndex(0)));
    let vip = Vip { part: ClientPart::Network { host_bits: 64 }, part_before: None };
    Ruleset {
        worker_count,
        matcher: Arc::new(matcher.into_iter().collect()),
        vips: Arc::new([(ipv6::VIP, vip)].into_iter().collect()),
        vips_are_plain: false,
        ..rules
    }
}

/// A host of one of the networks whose clients are one client.
pub(crate) fn host_of(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x77, network, host, 0, 7, host)
}

#[test]
fn a_network_of_ipv6_returns_as_one_client_to_every_port_of_a_group() {
    let mut director = Director::new(group_of_ipv6(1));
    let mut open = |network, host, l4_port| {
        let source = (host_of(network, host), 2_000 + host);
        director.send(ipv6::syn(source, l4_port)).map(|sent| sent[5])
    };
    let homes = [1, 2, 3].map(|network| open(network, 1, 80));
    assert_eq!(homes, [Some(0), Some(1), Some(2)], "rr");
    for (home, network) in homes.into_iter().zip(1..) {
        for (host, l4_port) in [(2, 443), (3, 80), (0x7fff, 443)] {
            assert_eq!(open(network, host, l4_port), home, "{network}:{host} to {l4_port}");
        }
    }
    assert_eq!(director.counters.templates_used.value(), 3);
}

#[test]
fn a_client_is_forgotten_after_its_time_and_a_minute_after_its_last_connection() {
    let mut director = Director::new(rules(Mode::Dr, 32, false));
    let first = open(&mut director, client(1), 1_000, 80);
    let send = |director: &mut Director, flags| {
        assert!(director.send(Frame::tcp((client(1), 1_000), (VIP, 80), flags).bytes()).is_some());
    };
    send(&mut director, ACK);
    director.wait(14 * MINUTE_MS);
    // Its time was up long ago, but it has a connection.
    assert_eq!(open(&mut director, client(1), 1_001, 80), first);
    let reset = Frame::tcp((client(1), 1_001), (VIP, 80), RST).bytes();
    assert!(director.send(reset).is_some());
    send(&mut director, RST);
    // Both are forgotten after their timeouts; the template has four minutes left then.
    director.wait(4 * MINUTE_MS);
    assert_eq!((director.table_used(), director.counters.templates_used.value()), (0, 1));
    director.wait(2 * MINUTE_MS + 5_000);
    assert_eq!(director.counters.templates_used.value(), 0);
    director.assert_table_adds_up();
}

#[test]
fn services_remember_apart() {
    let mut director = Director::new(rules(Mode::Dr, 32, false));
    open(&mut director, client(1), 1_000, 80);
    let https = open(&mut director, client(1), 1_000, 443).unwrap();
    assert!(https >= 3, "of the other service's backends");
    assert_eq!(director.counters.templates_used.value(), 2);
}

/// The same rules with the first backend drained, as control builds them.
fn with_first_drained(rules: Ruleset, admits: Admits) -> Ruleset {
    let rules = with_service(rules, 0, |service| {
        service.members[0] = Member { weight: 0, ..service.members[0] };
    });
    Ruleset { revision: 2, ..with_backend(rules, 0, |backend| backend.admits = admits) }
}

#[test]
fn clients_of_a_drained_backend_return_to_it_unless_the_rules_say_otherwise() {
    for (leaves_drained, admits, returns) in [
        (false, Admits::Returning, true),
        (true, Admits::Returning, false),
        (false, Admits::Nobody, false),
        (false, Admits::New, true),
    ] {
        let mut director = Director::new(rules(Mode::Dr, 32, leaves_drained));
        assert_eq!(open(&mut director, client(1), 1_000, 80), Some(0));
        director.publish(with_first_drained(rules(Mode::Dr, 32, leaves_drained), admits));
        let again = open(&mut director, client(1), 1_001, 80);
        assert_eq!(again == Some(0), returns, "{leaves_drained} {admits:?}");
        assert_eq!(open(&mut director, client(1), 1_002, 80), again, "and stays where it went");
        assert_ne!(open(&mut director, client(2), 1_000, 80), Some(0), "no new client");
        let known = director.send(Frame::tcp((client(1), 1_000), (VIP, 80), ACK).bytes()).unwrap();
        assert_eq!(Decoded::from(&known).to.0[5], 0, "what is open stays");
    }
}

#[test]
fn without_room_a_client_is_served_and_counted() {
    let mut director = Director::new(rules(Mode::Dr, 32, false));
    // Room for 1,024 clients; each has a connection, so none gives way.
    for number in 0..3_000u32 {
        let address = Ipv4Addr::from(0x0a00_0000 + number);
        assert!(open(&mut director, address, 1_000, 80).is_some());
    }
    let (used, full) = (director.counters.templates_used.value(), director.counters.templates_full.value());
    assert_eq!(used + full, 3_000);
    assert!((900..=1_024).contains(&used), "{used}");
    assert_eq!(director.counters.backend(BackendIndex(0)).opened.value(), 1_000);
}
