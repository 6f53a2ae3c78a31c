//! Datagrams in fragments: in any order, at any worker, each to its flow's backend or client, and what must not pass.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BackendIndex, PortIndex, ServiceIndex};
use dataplane::rules::{ClientPart, Flows, Limits, Mode, PortRules, Ruleset, Tunnel, Vip};
use dataplane::verdict::DropReason;
use proptest::prelude::*;

use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{
    BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, backend_address, backend_mac, with_service,
};
use crate::common::{Director, ruleset};
use crate::datagrams::{End, FAMILIES, Whole, client, cut, frame, from_client, rules, vip};
use crate::tunnels::{self, CARRIERS};
use crate::workers::Team;

/// As much as makes five fragments over Ethernet.
fn payload() -> Vec<u8> {
    (0..5_000u32).map(|n| (n % 251) as u8).collect()
}

/// Lets all frames in, each in a turn of its own; what leaves.
fn pass(director: &mut Director, port: PortIndex, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for frame in frames {
        director.receive(port, frame.clone());
        director.turn();
    }
    director.sent().into_iter().map(|(_, frame)| frame).collect()
}

/// The services of both modes for a protocol, as tests know them: DR, FullNAT.
const fn l4_ports(protocol: u8) -> [u16; 2] {
    if protocol == TCP { [80, 8080] } else { [53, 5353] }
}

/// Opens the connection of a client, where the protocol has such a thing.
fn open(director: &mut Director, client: End, l4_port: u16, protocol: u8) {
    if protocol == TCP {
        let mut syn = from_client(client, l4_port, protocol, &[]);
        let at = if client.0.is_ipv6() { 54 } else { 34 };
        // The control bits and their checksum.
        syn[at + 13] = 2;
        director.receive(FRONT, syn);
        director.turn();
        director.sent();
    }
}

#[test]
fn a_datagram_in_fragments_arrives_whole_in_any_order_and_in_every_mode() {
    for is_v6 in FAMILIES {
        for protocol in [UDP, TCP] {
            for l4_port in l4_ports(protocol) {
                let mut director = Director::new(rules(1, is_v6));
                for (number, turned) in
                    (0..4).flat_map(|rotation| [(rotation, false), (rotation, true)]).enumerate()
                {
                    let client = client(number as u16, is_v6);
                    open(&mut director, client, l4_port, protocol);
                    let whole = from_client(client, l4_port, protocol, &payload());
                    let mut fragments = cut(&whole, 1_480, 77);
                    fragments.rotate_left(turned.0);
                    if turned.1 {
                        fragments.reverse();
                    }
                    let out = Whole::of_fragments(&pass(&mut director, FRONT, &fragments));
                    assert_eq!((out.payload, out.hops), (payload(), 63));
                    if l4_port < 1_000 {
                        assert_eq!((out.source, out.destination), (client, vip(l4_port, is_v6)));
                    } else {
                        assert_eq!(out.destination.1, 9_000);
                        let answer =
                            frame(PORT_MACS[1], out.to, (out.destination, out.source), protocol, &payload());
                        let mut fragments = cut(&answer, 1_480, 78);
                        fragments.rotate_left(turned.0);
                        let back = Whole::of_fragments(&pass(&mut director, BACK, &fragments));
                        assert_eq!((back.source, back.destination), (vip(l4_port, is_v6), client));
                        assert_eq!(back.payload, payload());
                    }
                }
                assert_eq!(director.drops(), []);
                director.assert_balanced();
                director.assert_table_adds_up();
                assert_eq!(director.counters.fragments_waiting.value(), 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn wherever_fragments_arrive_their_datagram_gets_through(
        is_v6 in any::<bool>(),
        order in proptest::collection::vec((any::<u32>(), 0usize..4), 4 * 8),
        worker_count in 2u16..5,
        fullnat in any::<bool>(),
    ) {
        let l4_port = l4_ports(UDP)[usize::from(fullnat)];
        let mut team = Team::with(&rules(worker_count, is_v6));
        let mut arrivals = Vec::new();
        for number in 0..8u16 {
            let whole = from_client(client(number, is_v6), l4_port, UDP, &payload());
            // The same identification for all: what tells them apart is their sender.
            arrivals.extend(cut(&whole, 1_480, 5));
        }
        let mut arrivals: Vec<_> = order.into_iter().zip(arrivals).collect();
        arrivals.sort_by_key(|((rank, _), _)| *rank);
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for ((_, at), fragment) in arrivals {
            team.0[at % usize::from(worker_count)].receive(FRONT, fragment);
            team.turn();
            sent.extend(team.0.iter_mut().flat_map(|director| director.sent()).map(|(_, frame)| frame));
        }
        // What tells datagrams apart to a receiver: addresses and identification. FullNAT's all come from few addresses.
        let id = |frame: &Vec<u8>| if is_v6 { frame[22..54].to_vec() } else { [&frame[18..20], &frame[26..34]].concat() };
        let ids: HashSet<_> = sent.iter().map(id).collect();
        prop_assert_eq!(sent.len(), 32);
        if !fullnat || !is_v6 {
            prop_assert_eq!(ids.len(), 8);
        }
        for id_of_one in ids.into_iter().filter(|_| !fullnat || !is_v6) {
            let of_one: Vec<_> = sent.iter().filter(|frame| id(frame) == id_of_one).cloned().collect();
            prop_assert_eq!(Whole::of_fragments(&of_one).payload, payload());
        }
        team.assert_balanced();
        for director in &team.0 {
            prop_assert_eq!(director.drops(), []);
        }
    }
}

/// What is counted when a client's fragments come.
fn drops_of(is_v6: bool, fragments: &[Vec<u8>]) -> (usize, Vec<(DropReason, u64)>) {
    let mut director = Director::new(rules(1, is_v6));
    let out = pass(&mut director, FRONT, fragments);
    director.wait(3_100);
    director.assert_balanced();
    (out.len(), director.drops())
}

#[test]
fn what_overlaps_is_dropped_and_so_is_what_follows() {
    for is_v6 in FAMILIES {
        let whole = from_client(client(1, is_v6), 53, UDP, &payload());
        let (wide, narrow) = (cut(&whole, 1_480, 9), cut(&whole, 1_472, 9));
        let mixed = [&wide[0], &narrow[1], &wide[2], &wide[3]].map(Clone::clone);
        assert_eq!(drops_of(is_v6, &mixed), (1, vec![(DropReason::FragmentOverlap, 3)]));
        let twice = [&wide[0], &wide[1], &wide[1]].map(Clone::clone);
        assert_eq!(drops_of(is_v6, &twice), (2, vec![(DropReason::FragmentOverlap, 1)]));
    }
}

#[test]
fn tiny_first_fragments_and_later_ones_within_the_header_are_dropped() {
    for is_v6 in FAMILIES {
        let whole = from_client(client(1, is_v6), 80, TCP, &[1; 60]);
        let tiny = cut(&whole, 16, 9);
        assert_eq!(drops_of(is_v6, &tiny[..2]), (0, vec![(DropReason::FragmentTiny, 2)]));
        let not_tiny = cut(&whole, 24, 9);
        assert_eq!(drops_of(is_v6, &not_tiny[1..2]).1, [(DropReason::FragmentTimeout, 1)]);
    }
}

#[test]
fn impossible_lengths_are_dropped() {
    for is_v6 in FAMILIES {
        let mut odd = cut(&from_client(client(1, is_v6), 53, UDP, &payload()), 1_480, 9)[0].clone();
        odd.truncate(odd.len() - 3);
        let at = if is_v6 { 18 } else { 16 };
        let len = u16::from_be_bytes([odd[at], odd[at + 1]]) - 3;
        odd[at..at + 2].copy_from_slice(&len.to_be_bytes());
        assert_eq!(drops_of(is_v6, &[odd]), (0, vec![(DropReason::FragmentLength, 1)]));
    }
}

#[test]
fn fragments_that_wait_in_vain_are_dropped_in_time_and_in_bounds() {
    for is_v6 in FAMILIES {
        let orphans: Vec<_> = (0..100u16)
            .flat_map(|number| {
                cut(&from_client(client(number, is_v6), 53, UDP, &payload()), 1_480, 9).split_off(1)
            })
            .collect();
        let waiting_max = 256;
        let expected = vec![
            (DropReason::FragmentTimeout, waiting_max),
            (DropReason::FragmentsFull, orphans.len() as u64 - waiting_max),
        ];
        assert_eq!(drops_of(is_v6, &orphans), (0, expected));
    }
}

#[test]
fn later_fragments_share_the_fate_of_the_first() {
    for is_v6 in FAMILIES {
        let fragments = cut(&from_client(client(1, is_v6), 53, UDP, &payload()), 1_480, 9);
        // Refused: no connection is made of what follows.
        let limits = Limits { connections: Some(0), ..Limits::default() };
        let refusing = with_service(rules(1, is_v6), 1, |service| service.policy.limits = limits);
        let mut director = Director::new(refusing);
        assert_eq!(pass(&mut director, FRONT, &fragments).len(), 0);
        assert_eq!(director.drops(), [(DropReason::Fragment, 3), (DropReason::ConnectionLimit, 1)]);
        // Of no service: the kernel's, all of it.
        let mut director = Director::new(rules(1, is_v6));
        director.worker.device_mut().ports[0].twin = true;
        let unknown = cut(&from_client(client(1, is_v6), 54, UDP, &payload()), 1_480, 9);
        assert_eq!(pass(&mut director, FRONT, &unknown).len(), 0);
        assert_eq!(director.counters.punted.value(), 4);
        director.assert_balanced();
    }
}

/// UDP port 53 without flows.
fn without_flows(is_v6: bool, flows: Flows) -> Ruleset {
    with_service(rules(1, is_v6), 1, |service| service.policy.flows = flows)
}

#[test]
fn a_service_without_flows_sends_a_datagram_to_one_backend() {
    for is_v6 in FAMILIES {
        for flows in [Flows::OnePacket, Flows::None] {
            let mut director = Director::new(without_flows(is_v6, flows));
            let mut places = HashSet::new();
            for number in 0..9 {
                let whole = from_client(client(1, is_v6), 53, UDP, &payload());
                let mut fragments = cut(&whole, 1_480, number);
                fragments.rotate_left(number as usize % 4);
                let out = Whole::of_fragments(&pass(&mut director, FRONT, &fragments));
                places.insert(out.to.0);
            }
            if flows == Flows::OnePacket {
                assert_eq!(places.len(), 2, "each datagram is scheduled anew");
            }
            assert_eq!(director.drops(), []);
            director.assert_balanced();
        }
    }
}

#[test]
fn fragments_that_do_not_fit_are_cut_again_or_their_sender_is_told() {
    for is_v6 in FAMILIES {
        let rules = with_service(rules(1, is_v6), 1, |service| service.policy.fragments = true);
        let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_400)).collect();
        let mut ports = rules.ports.to_vec();
        ports[1].mtu = 1_400;
        let mut director = Director::new(Ruleset { ports: ports.into(), adjacencies, ..rules });
        let fragments = cut(&from_client(client(1, is_v6), 53, UDP, &payload()), 1_448, 9);
        let out = pass(&mut director, FRONT, &fragments);
        if is_v6 {
            // Each but the last is too big, and only its sender may cut it.
            assert_eq!(director.counters.too_bigs.value(), 3);
        } else {
            assert_eq!(out.len(), 7);
            assert_eq!(Whole::of_fragments(&out).payload, payload());
            assert_eq!(director.drops(), []);
        }
    }
}

#[test]
fn an_ipv6_fragment_that_is_all_of_its_datagram_is_a_packet() {
    let mut director = Director::new(rules(1, true));
    let whole = from_client(client(1, true), 5353, UDP, b"abc");
    let atomic = cut(&whole, 1_480, 9);
    assert_eq!(atomic.len(), 1);
    for _ in 0..2 {
        let out = pass(&mut director, FRONT, &atomic);
        assert_eq!(Whole::of_fragments(&out).payload, b"abc");
    }
    assert_eq!(director.counters.backend(BackendIndex(6)).opened.value(), 1);
}

#[test]
fn a_fragment_waits_no_longer_than_its_own_worker_needs() {
    // One burst that has it all, out of order: the first fragment releases those before it.
    for is_v6 in FAMILIES {
        let mut director = Director::new(rules(1, is_v6));
        let mut fragments = cut(&from_client(client(1, is_v6), 5353, UDP, &payload()), 1_480, 9);
        fragments.reverse();
        for fragment in fragments {
            director.receive(FRONT, fragment);
        }
        director.worker.turn();
        let out: Vec<_> = director.sent().into_iter().map(|(_, frame)| frame).collect();
        let out = Whole::of_fragments(&out);
        assert_eq!((out.payload, IpAddr::is_ipv6(&out.source.0)), (payload(), is_v6));
        director.assert_balanced();
    }
}

/// A UDP service of NAT on port 53, whose only backend listens there too.
pub(crate) fn nat_rules(worker_count: u16) -> Ruleset {
    let spec = ServiceSpec { protocol: UDP, l4_port: 53, mode: Mode::Nat, scheduler: "rr", weights: &[1] };
    let inside = [(backend_address(0), ClientPart::Endpoint)].into_iter().collect();
    Ruleset { inside: Arc::new(inside), ..ruleset(worker_count, &[spec]) }
}

#[test]
fn answers_of_nat_backends_arrive_whole_though_no_fragment_names_the_director() {
    for worker_count in [1, 3] {
        let mut team = Team::with(&nat_rules(worker_count));
        let mut pass = |port: PortIndex, fragments: Vec<Vec<u8>>| {
            let mut sent = Vec::new();
            for (number, fragment) in fragments.into_iter().enumerate() {
                team.0[number % usize::from(worker_count)].receive(port, fragment);
                team.turn();
                sent.extend(team.0.iter_mut().flat_map(|director| director.sent()).map(|(_, frame)| frame));
            }
            Whole::of_fragments(&sent)
        };
        for number in 0..10 {
            let client = client(number, false);
            let mut question = cut(&from_client(client, 53, UDP, &payload()), 1_480, number.into());
            question.rotate_left(2);
            let there = pass(FRONT, question);
            assert_eq!((there.source, there.payload), (client, payload()));
            assert_eq!(there.destination.0, IpAddr::from(backend_address(0)));
            let answer = frame(PORT_MACS[1], there.to, (there.destination, client), UDP, &payload());
            let mut answer = cut(&answer, 1_480, number.into());
            answer.rotate_left(1);
            let back = pass(BACK, answer);
            assert_eq!((back.source, back.destination), (vip(53, false), client));
            assert_eq!(back.payload, payload());
        }
        team.assert_balanced();
        assert!(team.0.iter().all(|director| director.drops().is_empty()));
    }
}

#[test]
fn while_owners_change_every_datagram_finds_the_one_it_has() {
    let changing =
        Vip { part: ClientPart::Network { host_bits: 0 }, part_before: Some(ClientPart::Endpoint) };
    for is_v6 in FAMILIES {
        let rules = rules(3, is_v6);
        let vips = Arc::new([(vip(0, is_v6).0, changing)].into_iter().collect());
        let mut team = Team::with(&Ruleset { vips, vips_are_plain: false, ..rules });
        let mut pass = |number: usize, fragments: Vec<Vec<u8>>| {
            let mut sent = Vec::new();
            for fragment in fragments {
                team.0[number % 3].receive(FRONT, fragment);
                team.turn();
                sent.extend(team.0.iter_mut().flat_map(|director| director.sent()).map(|(_, frame)| frame));
            }
            if sent.len() == 1 { Whole::of(&sent[0]) } else { Whole::of_fragments(&sent) }
        };
        for number in 0..90 {
            let client = client(number, is_v6);
            let sends = |payload: &[u8]| from_client(client, 5353, UDP, payload);
            // All of it in one fragment, where the family has such; in several; and a packet, before or after them.
            let mut ways = vec![vec![sends(b"whole")], cut(&sends(&payload()), 1_480, number.into())];
            ways.extend(is_v6.then(|| cut(&sends(b"atomic"), 1_480, number.into())));
            let turn = usize::from(number) % ways.len();
            ways.rotate_left(turn);
            let places: HashSet<_> = (ways.into_iter())
                .map(|fragments| pass(usize::from(number), fragments))
                .map(|out| (out.to.0, out.source, out.destination))
                .collect();
            assert_eq!(places.len(), 1, "one connection: {places:?}");
        }
        team.assert_balanced();
        assert!(team.0.iter().all(|director| director.drops().is_empty()));
        let opened: u64 = (0..8)
            .map(BackendIndex)
            .flat_map(|backend| {
                team.0.iter().map(move |director| director.counters.backend(backend).opened.value())
            })
            .sum();
        assert_eq!(opened, 90);
    }
}

/// A UDP service of SNAT for what the first backend's address sends anywhere.
fn snat_rules() -> Ruleset {
    let spec = ServiceSpec { protocol: UDP, l4_port: 0, mode: Mode::Snat, scheduler: "rr", weights: &[1] };
    let rules = nat_rules(1);
    let ports = [
        PortRules { station: Some(PORT_MACS[0]), local_pool: Some(0), ..PortRules::default() },
        PortRules { station: Some(PORT_MACS[1]), ..PortRules::default() },
    ];
    Ruleset {
        matcher: Arc::default(),
        ports: Arc::new(ports),
        adjacencies: Arc::new([Adjacency::resolved(CLIENT_MAC, PORT_MACS[0], FRONT)]),
        inside: rules.inside,
        snat: Arc::new([(backend_address(0), ServiceIndex(0))].into_iter().collect()),
        ..ruleset(1, &[spec])
    }
}

#[test]
fn a_host_behind_snat_sends_and_gets_whole_datagrams() {
    let mut director = Director::new(snat_rules());
    let host = (IpAddr::from(backend_address(0)), 50_000);
    for number in 0..4 {
        let server = client(number, false);
        let asked = frame(PORT_MACS[1], backend_mac(0), (host, server), UDP, &payload());
        let mut asked = cut(&asked, 1_480, 7);
        asked.rotate_left(number.into());
        let there = Whole::of_fragments(&pass(&mut director, BACK, &asked));
        assert_eq!((there.to, there.destination, there.payload), (CLIENT_MAC, server, payload()));
        assert_ne!(there.source, host);
        let answer = frame(PORT_MACS[0], CLIENT_MAC, (server, there.source), UDP, &payload());
        let mut answer = cut(&answer, 1_480, 8);
        answer.rotate_left(number.into());
        let back = Whole::of_fragments(&pass(&mut director, FRONT, &answer));
        assert_eq!((back.source, back.destination, back.payload), (server, host, payload()));
    }
    assert_eq!(director.drops(), []);
    director.assert_balanced();
}

/// Each fragment has a tunnel header of its own; the backend puts together what it finds within.
#[test]
fn a_tunnel_carries_each_fragment_to_the_backend_of_the_first() {
    for (carrier, outer_is_v6) in CARRIERS.into_iter().flat_map(|carrier| [(carrier, false), (carrier, true)])
    {
        for is_v6 in FAMILIES {
            let tunnel = Tunnel { carrier, ..Tunnel::default() };
            let mut director = Director::new(tunnels::rules(&tunnel, outer_is_v6));
            let whole = tunnels::Packet { payload: payload(), ..tunnels::Packet::new(is_v6, false) };
            for rotation in 0..4 {
                let mut parts = cut(&whole.frame(), 1_400, 70 + rotation);
                parts.rotate_left(rotation as usize);
                let out: Vec<_> = pass(&mut director, FRONT, &parts)
                    .into_iter()
                    .map(|frame| [&parts[0][..14], &tunnels::unwrap(&frame).packet].concat())
                    .collect();
                let out = Whole::of_fragments(&out);
                assert_eq!((out.payload, out.hops), (payload(), 63), "{carrier:?} {outer_is_v6}");
            }
            assert_eq!(director.drops(), []);
            director.assert_balanced();
        }
    }
}
