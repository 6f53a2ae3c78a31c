//! Services that keep no flows, and backends that are the director itself.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use dataplane::index::{BackendIndex, PortIndex};
use dataplane::packet::PacketBuf;
use dataplane::rules::{Flows, Mode, NoBackend, Ruleset};
use dataplane::verdict::DropReason;

use crate::common::frames::{ACK, CLIENT_MAC, Decoded, SYN};
use crate::common::rules::{FRONT, PORT_MACS, ServiceSpec, TCP, UDP, VIP, with_backend, with_service};
use crate::common::{Director, Frame, ruleset};
use crate::datagrams::{self, FAMILIES};
use crate::icmp_errors;

fn rules(protocol: u8, scheduler: &'static str, flows: Flows) -> Ruleset {
    let spec = ServiceSpec { protocol, l4_port: 53, mode: Mode::Dr, scheduler, weights: &[1, 1] };
    with_service(ruleset(1, &[spec]), 0, |service| service.policy.flows = flows)
}

fn client(number: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(198, 51, 100, (number % 200) as u8), 2_000 + number)
}

#[test]
fn each_datagram_of_a_one_packet_service_is_scheduled_anew() {
    let mut director = Director::new(rules(UDP, "rr", Flows::OnePacket));
    let to: Vec<_> = (0..6)
        .map(|_| {
            let sent = Decoded::from(&director.send(Frame::udp(client(1), (VIP, 53)).bytes()).unwrap());
            assert_eq!((sent.ttl, sent.ip_checksum.0), (63, sent.ip_checksum.1));
            sent.to.0[5]
        })
        .collect();
    assert_eq!(to, [0, 1, 0, 1, 0, 1]);
    assert_eq!(director.table_used(), 0);
    let backend = director.counters.backend(BackendIndex(0));
    assert_eq!((backend.inbound.packets.value(), backend.opened.value()), (3, 0));
    director.assert_balanced();
}

#[test]
fn a_service_without_flows_sends_each_packet_of_a_connection_to_one_backend_whatever_its_flags() {
    let mut director = Director::new(rules(TCP, "mh", Flows::None));
    let mut places = HashMap::new();
    for number in 0..500 {
        for flags in [SYN, ACK, ACK] {
            let frame = Frame::tcp(client(number), (VIP, 53), flags).bytes();
            let to = Decoded::from(&director.send(frame).unwrap()).to;
            assert_eq!(*places.entry(number).or_insert(to), to);
        }
    }
    assert_eq!(director.table_used(), 0);
    let first = director.counters.backend(BackendIndex(0)).inbound.packets.value();
    assert!((550..950).contains(&first), "{first} of 1500 to the first of two");
    // Another director with the same rules chooses the same: no state is needed.
    let mut other = Director::new(rules(TCP, "mh", Flows::None));
    for (number, to) in places {
        let frame = Frame::tcp(client(number), (VIP, 53), ACK).bytes();
        assert_eq!(Decoded::from(&other.send(frame).unwrap()).to, to);
    }
}

#[test]
fn flows_and_packets_without_flows_share_a_burst() {
    // Eviction within the burst makes admit look everything up again: what has no flow must keep its backend.
    let spec =
        |l4_port| ServiceSpec { protocol: UDP, l4_port, mode: Mode::Dr, scheduler: "rr", weights: &[1] };
    let rules = with_service(ruleset(1, &[spec(53), spec(54)]), 0, |service| {
        service.policy.flows = Flows::OnePacket;
    });
    let mut director = Director::with(rules, dataplane::index::WorkerIndex(0), 16);
    for round in 0..20 {
        for number in 0..12 {
            let l4_port = 53 + number % 2;
            director.receive(FRONT, Frame::udp(client(round * 12 + number), (VIP, l4_port)).bytes());
        }
        director.turn();
        director.clock.advance(2_000);
    }
    assert_eq!(director.drops(), []);
    assert_eq!(director.sent().len(), 240);
    assert!(director.counters.evicted.value() > 0);
    director.assert_balanced();
}

#[test]
fn without_a_backend_a_packet_without_flow_is_refused() {
    let mut rules =
        with_service(rules(UDP, "rr", Flows::OnePacket), 0, |service| service.members = [].into());
    let mut director = Director::new(rules.clone());
    assert!(director.send(Frame::udp(client(1), (VIP, 53)).bytes()).is_some(), "told, as with any service");
    assert_eq!(director.counters.unreachables.value(), 1);
    rules = with_service(rules, 0, |service| service.policy.no_backend = NoBackend::Drop);
    let mut director = Director::new(rules);
    assert!(director.send(Frame::udp(client(1), (VIP, 53)).bytes()).is_none());
    assert_eq!(director.drops(), [(DropReason::NoBackend, 1)]);
}

#[test]
fn without_a_backend_nobody_is_told_of_an_error_or_a_later_fragment() {
    // RFC 1122 section 3.2.2: what answers an error could be answered in turn, for ever.
    for (is_v6, no_backend) in FAMILIES
        .into_iter()
        .flat_map(|is_v6| [NoBackend::Unreachable, NoBackend::Reset].map(|told| (is_v6, told)))
    {
        let mut rules = datagrams::rules(1, is_v6);
        for index in [0, 1] {
            rules = with_service(rules, index, |service| {
                service.members = [].into();
                (service.policy.flows, service.policy.no_backend) = (Flows::OnePacket, no_backend);
            });
        }
        let mut director = Director::new(rules);
        let client = datagrams::client(1, is_v6);
        for (protocol, l4_port) in [(TCP, 80), (UDP, 53)] {
            let answer = datagrams::frame(
                PORT_MACS[0],
                CLIENT_MAC,
                (datagrams::vip(l4_port, is_v6), client),
                protocol,
                b"",
            );
            let router = datagrams::address(Ipv4Addr::new(198, 51, 100, 1), is_v6);
            let error = icmp_errors::error(PORT_MACS[0], CLIENT_MAC, router, &answer[14..]);
            assert_eq!(director.send(error), None, "{protocol} {no_backend:?}");
            let whole = datagrams::from_client(client, l4_port, protocol, &[7; 1_000]);
            let fragments = datagrams::cut(&whole, 800, 9);
            assert!(director.send(fragments[0].clone()).is_some(), "the first one is told");
            assert_eq!(director.send(fragments[1].clone()), None, "{protocol} {no_backend:?}");
        }
        assert_eq!(director.drops(), [(DropReason::NoBackend, 4)]);
        director.assert_balanced();
    }
}

#[test]
fn packets_for_the_director_itself_go_to_its_kernel_as_they_came() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let spec = ServiceSpec { protocol: TCP, l4_port: 53, mode, scheduler: "rr", weights: &[1, 1] };
        let rules = with_backend(ruleset(1, &[spec]), 0, |backend| backend.is_local = true);
        let mut director = Director::new(rules);
        director.worker.device_mut().ports[0].twin = true;
        for flags in [SYN, ACK, ACK] {
            let frame = Frame::tcp(client(1), (VIP, 53), flags).bytes();
            assert_eq!(director.send(frame.clone()), None);
            let punted = director.worker.device_mut().ports[0].punted.last().unwrap();
            assert_eq!((punted.data(), punted.port()), (&frame[..], PortIndex(0)));
        }
        assert!(director.send(Frame::tcp(client(2), (VIP, 53), SYN).bytes()).is_some(), "the other backend");
        let backend = director.counters.backend(BackendIndex(0));
        assert_eq!((backend.inbound.packets.value(), backend.active.value()), (3, 1));
        assert_eq!(director.drops(), []);
        director.assert_balanced();
    }
}
