//! One packet, one verdict, one counter: fixtures that read as a sentence.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::WorkerIndex;
use dataplane::local_port::LocalPool;
use dataplane::rules::{Mode, Ruleset};
use dataplane::verdict::DropReason;

use crate::common::frames::{ACK, Decoded, Endpoint, L4, SYN};
use crate::common::rules::{FRONT, ONE_OF_EACH, PORT_MACS, ServiceSpec, TCP, VIP, backend_mac};
use crate::common::{Director, Frame, ruleset};

const CLIENT: Endpoint = (Ipv4Addr::new(198, 51, 100, 7), 40_000);

/// What shall become of a packet.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Leaves with this destination MAC.
    ForwardedTo(dataplane::wire::ethernet::MacAddress),
    /// Reaches the kernel twin as it came.
    Punted,
    /// Freed, counted under this reason and no other.
    Dropped(DropReason),
}

use Outcome::{Dropped, ForwardedTo, Punted};

/// Sends one frame through a director and says what became of it.
fn outcome(director: &mut Director, frame: &[u8]) -> Outcome {
    director.worker.device_mut().ports.iter_mut().for_each(|port| port.twin = true);
    let drops_before = director.drops();
    let out = director.pass(FRONT, frame);
    director.assert_balanced();
    director.assert_table_adds_up();
    let mut drops = director.drops();
    for (reason, before) in drops_before {
        drops.iter_mut().filter(|drop| drop.0 == reason).for_each(|drop| drop.1 -= before);
    }
    drops.retain(|drop| drop.1 > 0);
    let punted = std::mem::take(&mut director.worker.device_mut().ports[0].punted);
    // The books of `assert_balanced` count what lies with the twin.
    let was_punted = punted.iter().any(|packet| crate::common::director::data(packet) == frame);
    director.worker.device_mut().ports[0].punted = punted;
    match (out, &drops[..]) {
        (Some((_, frame)), []) => ForwardedTo(Decoded::from(&frame).to),
        (None, []) if was_punted => Punted,
        (None, [(reason, 1)]) => Dropped(*reason),
        other => panic!("neither forwarded nor punted nor dropped once: {other:?}"),
    }
}

fn syn() -> Frame {
    Frame::tcp(CLIENT, (VIP, 80), SYN)
}

fn datagram() -> Frame {
    Frame::udp(CLIENT, (VIP, 53)).with_payload([0xaa; 20])
}

/// `frame` with bytes set.
fn with(frame: &Frame, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
    bytes
}

fn cut(frame: &Frame, len: usize) -> Vec<u8> {
    frame.bytes()[..len].to_vec()
}

#[test]
fn each_packet_has_its_verdict() {
    let first_backend = || ForwardedTo(backend_mac(0));
    let fixtures: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("a SYN to a DR service is forwarded", syn().bytes(), first_backend()),
        ("a datagram to a DR service is forwarded", datagram().bytes(), ForwardedTo(backend_mac(2))),
        ("a SYN padded to 60 bytes is forwarded", [syn().bytes(), vec![0; 6]].concat(), first_backend()),
        ("a SYN with a TTL of 2 is forwarded", syn().with_ttl(2).bytes(), first_backend()),
        ("a TTL of 1 ends here", syn().with_ttl(1).bytes(), Dropped(DropReason::TtlExpired)),
        ("a TTL of 0 ends here", datagram().with_ttl(0).bytes(), Dropped(DropReason::TtlExpired)),
        ("an empty frame is truncated", vec![], Dropped(DropReason::Truncated)),
        ("a frame of 13 bytes is truncated", cut(&syn(), 13), Dropped(DropReason::Truncated)),
        ("an IPv4 header cut short is truncated", cut(&syn(), 33), Dropped(DropReason::Truncated)),
        ("a total length beyond the frame lies", cut(&syn(), 53), Dropped(DropReason::Ipv4Length)),
        (
            "a total length of 65,535 lies",
            with(&syn(), &[(16, 255), (17, 255)]),
            Dropped(DropReason::Ipv4Length),
        ),
        ("a total length below the header lies", with(&syn(), &[(17, 19)]), Dropped(DropReason::Ipv4Length)),
        ("a header of 16 bytes is impossible", with(&syn(), &[(14, 0x44)]), Dropped(DropReason::Ipv4Header)),
        (
            "a header of IP version 5 is impossible",
            with(&syn(), &[(14, 0x55)]),
            Dropped(DropReason::Ipv4Header),
        ),
        (
            "a TCP header of 16 bytes is impossible",
            with(&syn(), &[(46, 0x40)]),
            Dropped(DropReason::TcpHeader),
        ),
        ("a TCP header beyond the packet lies", with(&syn(), &[(46, 0xf0)]), Dropped(DropReason::TcpHeader)),
        ("a UDP length of 7 is impossible", with(&datagram(), &[(39, 7)]), Dropped(DropReason::UdpLength)),
        (
            "a UDP length beyond the packet lies",
            with(&datagram(), &[(39, 29)]),
            Dropped(DropReason::UdpLength),
        ),
        (
            "a fragment of 28 bytes is not followed by another",
            with(&datagram(), &[(20, 0x20), (17, 47)]),
            Dropped(DropReason::FragmentLength),
        ),
        (
            "a fragment behind the end of the longest datagram",
            with(&datagram(), &[(20, 0x1f), (21, 0xff)]),
            Dropped(DropReason::FragmentLength),
        ),
        ("do-not-fragment is no fragment", with(&datagram(), &[(20, 0x40)]), ForwardedTo(backend_mac(2))),
        ("a fragment to another address is the kernel's", with(&datagram(), &[(20, 0x20), (33, 99)]), Punted),
        ("an unknown port of the VIP is the kernel's", Frame::tcp(CLIENT, (VIP, 81), SYN).bytes(), Punted),
        (
            "an ACK without a flow is the kernel's to reset",
            Frame::tcp(CLIENT, (VIP, 80), ACK).bytes(),
            Punted,
        ),
        ("a SYN+ACK opens nothing", Frame::tcp(CLIENT, (VIP, 80), SYN | ACK).bytes(), Punted),
        ("TCP to a UDP service's port is the kernel's", Frame::tcp(CLIENT, (VIP, 53), SYN).bytes(), Punted),
        ("another protocol is the kernel's", with(&datagram(), &[(23, 1)]), Punted),
        ("another address is the kernel's", with(&datagram(), &[(33, 99)]), Punted),
        ("ARP is the kernel's", with(&datagram(), &[(13, 6)]), Punted),
        (
            "IPv4 behind IPv6's EtherType is impossible",
            with(&datagram(), &[(12, 0x86), (13, 0xdd)]),
            Dropped(DropReason::Ipv6Header),
        ),
        ("a broadcast is the kernel's", with(&datagram(), &[(0, 0xff)]), Punted),
        (
            "a frame to another station is nobody's",
            with(&datagram(), &[(5, 77)]),
            Dropped(DropReason::OtherStation),
        ),
    ];
    for (description, frame, expected) in fixtures {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        assert_eq!(outcome(&mut director, &frame), expected, "{description}");
    }
}

#[test]
fn what_a_port_without_a_twin_would_punt_it_drops() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    assert_eq!(director.pass(FRONT, Frame::tcp(CLIENT, (VIP, 81), SYN).bytes()), None);
    assert_eq!(director.drops(), [(DropReason::NoTwin, 1)]);
}

#[test]
fn what_a_port_refuses_is_dropped_and_counted() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    director.worker.device_mut().ports[1].transmit_room = Some(3);
    for number in 0..10 {
        director.receive(FRONT, Frame::tcp((CLIENT.0, 5_000 + number), (VIP, 80), SYN).bytes());
    }
    director.turn();
    assert_eq!(director.sent().len(), 3);
    assert_eq!(director.drops(), [(DropReason::TxRefused, 7)]);
    director.assert_balanced();
}

/// A director whose FullNAT service lacks something, and what that costs a client.
fn refusal(lacking: impl FnOnce(&mut Ruleset)) -> (Outcome, u64) {
    let mut rules = ruleset(1, &ONE_OF_EACH);
    lacking(&mut rules);
    let mut director = Director::new(rules);
    let outcome = outcome(&mut director, &Frame::tcp(CLIENT, (VIP, 8080), SYN).bytes());
    let refused = director.counters.service(dataplane::index::ServiceIndex(2)).refused.value();
    assert_eq!(director.table_used(), 0, "a refused connection leaves nothing");
    (outcome, refused)
}

#[test]
fn a_connection_that_cannot_be_made_is_refused_for_its_reason() {
    let unresolved = |rules: &mut Ruleset| rules.adjacencies = [Adjacency::UNRESOLVED; 8].into();
    assert_eq!(refusal(unresolved), (Dropped(DropReason::NextHopUnresolved), 1));
    let empty_pool = |rules: &mut Ruleset| rules.local_pools = Arc::new([LocalPool::default()]);
    assert_eq!(refusal(empty_pool), (Dropped(DropReason::NoLocalPort), 1));
    let no_pool = |rules: &mut Ruleset| rules.local_pools = Arc::new([]);
    assert_eq!(refusal(no_pool), (Dropped(DropReason::NoLocalPort), 1));
}

#[test]
fn without_a_backend_that_takes_connections_they_are_refused() {
    for scheduler in ["rr", "wrr", "mh"] {
        for weights in [&[0u16, 0][..], &[]] {
            let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler, weights };
            let mut director = Director::new(ruleset(1, &[spec]));
            // As with IPVS, the client is told; see replies.rs.
            assert!(director.send(syn().bytes()).is_some(), "{scheduler} {weights:?}");
            assert_eq!(director.counters.unreachables.value(), 1, "{scheduler} {weights:?}");
            assert_eq!(director.counters.service(dataplane::index::ServiceIndex(0)).refused.value(), 1);
            director.assert_balanced();
        }
    }
}

#[test]
fn a_known_flow_whose_next_hop_is_lost_waits_and_is_not_refused() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    assert_eq!(outcome(&mut director, &syn().bytes()), ForwardedTo(backend_mac(0)));
    let rules = ruleset(1, &ONE_OF_EACH);
    let lost = Ruleset { adjacencies: [Adjacency::UNRESOLVED; 8].into(), revision: 2, ..rules.clone() };
    for (rules, expected) in
        [(lost, Dropped(DropReason::NextHopUnresolved)), (rules, ForwardedTo(backend_mac(0)))]
    {
        let publication =
            dataplane::worker::Publication { ruleset: Arc::new(rules), states: vec![], templates: None };
        director.queue.publish(publication).unwrap();
        assert_eq!(outcome(&mut director, &Frame::tcp(CLIENT, (VIP, 80), ACK).bytes()), expected);
    }
}

#[test]
fn a_local_port_serves_one_connection_to_a_backend_and_when_all_are_taken_more_are_refused() {
    // One local address and 64 workers: worker 0 owns 1,008 l4_ports.
    let spec =
        ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Fullnat, scheduler: "rr", weights: &[1] };
    let mut rules = ruleset(64, &[spec]);
    rules.local_pools = Arc::new([LocalPool { addresses: [Ipv4Addr::new(10, 0, 0, 64).into()].into() }]);
    let mut director = Director::with(rules, WorkerIndex(0), 8_192);
    let (mut made, mut refused) = (std::collections::HashSet::new(), 0);
    for client in 0..80_000u32 {
        let client = (Ipv4Addr::from(0xc633_6401 + (client >> 10)), 1_024 + (client & 1_023) as u16);
        let out = director.send(Frame::tcp(client, (VIP, 80), SYN).bytes());
        director.worker.device_mut().steered_out.clear();
        match out {
            Some(frame) => {
                assert!(made.insert(Decoded::from(&frame).source), "a port given twice");
                // Open, so that it is not evicted for the next one.
                assert!(director.send(Frame::tcp(client, (VIP, 80), ACK).bytes()).is_some());
            }
            None => refused += u64::from(made.len() == 1_008),
        }
    }
    assert_eq!(made.len(), 1_008);
    assert!(made.iter().all(|(_, l4_port)| l4_port % 64 == 0 && *l4_port >= 1_024));
    let counted = director.counters.dropped(DropReason::NoLocalPort).value();
    assert!(refused > 0 && counted > 0);
    assert!(director.drops().iter().all(|(reason, _)| *reason == DropReason::NoLocalPort));
}

#[test]
fn a_table_full_of_busy_connections_refuses_new_ones_and_forgets_none() {
    for (l4_port, connections) in [(53, 64), (5353, 32)] {
        let mut director = Director::with(ruleset(1, &ONE_OF_EACH), WorkerIndex(0), 64);
        let frame = |number: u16| Frame::udp((CLIENT.0, 5_000 + number), (VIP, l4_port)).bytes();
        for number in 0..connections {
            assert!(director.send(frame(number)).is_some(), "{number}");
        }
        assert_eq!(outcome(&mut director, &frame(1_000)), Dropped(DropReason::TableFull));
        assert!((0..connections).all(|number| director.send(frame(number)).is_some()));
        assert_eq!(director.counters.evicted.value(), 0);
        // A second later all of them are idle: one makes room.
        director.clock.advance(1_000);
        assert!(director.send(frame(1_000)).is_some());
        assert_eq!(director.counters.evicted.value(), 1);
        director.assert_table_adds_up();
    }
}

#[test]
fn connections_that_only_sent_a_syn_make_room_for_new_ones() {
    for l4_port in [80, 8080] {
        let mut director = Director::with(ruleset(1, &ONE_OF_EACH), WorkerIndex(0), 64);
        for number in 0..1_000 {
            let frame = Frame::tcp((CLIENT.0, 5_000 + number), (VIP, l4_port), SYN);
            assert!(director.send(frame.bytes()).is_some(), "{number}");
            director.assert_table_adds_up();
        }
        // The reserve for half-open ones included.
        let entries = u64::from(director.worker.line().state.table.entry_count());
        let connections = if l4_port == 80 { entries } else { entries / 2 };
        assert_eq!(director.counters.evicted.value(), 1_000 - connections);
    }
}

#[test]
fn a_flood_of_half_open_connections_leaves_the_books_right_at_every_size_of_table() {
    for capacity in (2..=120).step_by(2) {
        let mut director = Director::with(ruleset(1, &ONE_OF_EACH), WorkerIndex(0), capacity);
        for number in 0..3_000 {
            let l4_port = if number % 5 == 0 { 80 } else { 8080 };
            let frame = Frame::tcp((CLIENT.0, 5_000 + number), (VIP, l4_port), SYN);
            let out = director.send(frame.bytes());
            assert!(out.is_some() || !director.drops().is_empty(), "capacity {capacity}, client {number}");
            director.assert_table_adds_up();
        }
        director.wait(60_000 + 4_001);
        assert_eq!(director.table_used(), 0, "capacity {capacity}");
        director.assert_table_adds_up();
    }
}

#[test]
fn an_honest_frame_is_what_the_fixtures_are_made_of() {
    let decoded = Decoded::from(&syn().bytes());
    assert_eq!((decoded.to, decoded.source, decoded.ttl), (PORT_MACS[0], CLIENT, 64));
    assert_eq!(decoded.ip_checksum.0, decoded.ip_checksum.1);
    assert_eq!(datagram().l4, L4::Udp { checksum: true });
}
