//! Packets that do not fit their way: their senders are told how much does, or they leave in fragments, as the rules and
//! the packets themselves say.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use dataplane::rules::{Policy, Ruleset};
use dataplane::verdict::DropReason;

use crate::common::frames::{CLIENT_MAC, SYN};
use crate::common::rules::{
    BACK, FRONT, ONE_OF_EACH, PORT_MACS, VIP, backend_address, backend_mac, with_policy,
};
use crate::common::{Director, Frame, ruleset};

/// The way to backends takes 1,400 bytes, that to clients 1,300.
fn director(policy: &Policy) -> Director {
    let rules = with_policy(ruleset(1, &ONE_OF_EACH), policy);
    let mut ports = rules.ports.to_vec();
    (ports[0].mtu, ports[1].mtu) = (1_300, 1_400);
    let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_400)).collect();
    Director::new(Ruleset { ports: ports.into(), adjacencies, ..rules })
}

fn cutting() -> Policy {
    Policy { fragments: true, ..Policy::default() }
}

/// A datagram of `ip_len` bytes, to the FullNAT service or that of direct routing.
fn datagram(l4_port: u16, ip_len: usize, dont_fragment: bool) -> Vec<u8> {
    let client = (Ipv4Addr::new(198, 51, 100, 7), 5_000);
    let payload: Vec<u8> = (0..ip_len - 28).map(|n| (n % 251) as u8).collect();
    let mut frame = Frame::udp(client, (VIP, l4_port)).with_payload(payload).bytes();
    set_dont_fragment(&mut frame, dont_fragment);
    frame
}

fn set_dont_fragment(frame: &mut [u8], dont_fragment: bool) {
    frame[20] = if dont_fragment { 0x40 } else { 0 };
    frame[24..26].fill(0);
    let sum =
        frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

/// The MTU that an ICMP error tells, and what it quotes.
fn told(frame: &[u8]) -> (u32, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match sliced.transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            let header = icmp.header();
            assert_eq!(header.icmp_type.calc_checksum(icmp.payload()), header.checksum);
            let Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
            ) = header.icmp_type
            else {
                panic!("{header:?}")
            };
            (next_hop_mtu.into(), icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            let Icmpv6Type::PacketTooBig { mtu } = icmp.header().icmp_type else { panic!("{icmp:?}") };
            (mtu, icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_that_forbids_cutting_is_told_what_fits() {
    for policy in [Policy::default(), cutting()] {
        for l4_port in [53, 5353] {
            let mut director = director(&policy);
            let frame = datagram(l4_port, 1_401, true);
            let (port, error) = director.pass(FRONT, frame.clone()).unwrap();
            let (mtu, quoted) = told(&error);
            assert_eq!((port, mtu), (FRONT, 1_400));
            assert_eq!(quoted, frame[14..14 + quoted.len()], "as it was sent");
            assert_eq!(quoted.len(), 548);
            assert_eq!((&error[..6], &error[6..12]), (&CLIENT_MAC.0[..], &PORT_MACS[0].0[..]));
            assert_eq!((&error[26..30], &error[30..34]), (&VIP.octets()[..], &[198, 51, 100, 7][..]));
            assert_eq!(director.counters.too_bigs.value(), 1);
            let (port, _) = director.pass(FRONT, datagram(l4_port, 1_400, true)).unwrap();
            assert_eq!(port, BACK, "this fits");
            director.assert_balanced();
        }
    }
}

#[test]
fn what_may_be_cut_is_cut_where_the_rules_say_so_and_else_dropped() {
    for l4_port in [53, 5353] {
        let mut director = director(&Policy::default());
        assert_eq!(director.pass(FRONT, datagram(l4_port, 1_401, false)), None);
        assert_eq!(director.counters.dropped(DropReason::TooBig).value(), 1);
        director.assert_balanced();
    }
    for l4_port in [53, 5353] {
        let mut director = self::director(&cutting());
        let frame = datagram(l4_port, 1_900, false);
        director.receive(FRONT, frame.clone());
        director.turn();
        let parts = director.sent();
        assert_eq!(
            parts.iter().map(|(port, part)| (*port, part.len())).collect::<Vec<_>>(),
            [(BACK, 14 + 20 + 1_376), (BACK, 14 + 20 + 504),]
        );
        let whole: Vec<u8> = parts.iter().flat_map(|(_, part)| part[34..].to_vec()).collect();
        assert_eq!((whole.len(), &whole[8..]), (1_880, &frame[42..]));
        for (_, part) in &parts {
            let Some(NetSlice::Ipv4(ip)) = SlicedPacket::from_ethernet(part).unwrap().net else { panic!() };
            let header = ip.header().to_header();
            assert_eq!((header.header_checksum, header.time_to_live), (header.calc_header_checksum(), 63));
        }
        let counters = &director.counters;
        assert_eq!((counters.fragmented.value(), counters.forwarded.value()), (1, 1));
        assert_eq!(counters.port(BACK).tx.packets.value(), 2);
        director.worker.device_mut().reserve_room = Some(0);
        assert_eq!(director.pass(FRONT, frame), None);
        assert_eq!(director.counters.dropped(DropReason::ReserveEmpty).value(), 1);
    }
}

#[test]
fn many_long_packets_of_one_burst_all_leave() {
    let mut director = director(&cutting());
    for number in 0..32 {
        let frame = datagram(53, if number % 3 == 0 { 200 } else { 1_900 }, false);
        director.receive(FRONT, frame);
    }
    director.turn();
    let sent = director.sent();
    assert_eq!(sent.len(), 11 + 2 * 21);
    assert!(sent.iter().all(|(port, _)| *port == BACK));
}

#[test]
fn a_backend_is_told_too() {
    let mut director = director(&Policy::default());
    let question = datagram(5353, 100, true);
    let (_, there) = director.pass(FRONT, question).unwrap();
    let local = Ipv4Addr::new(there[26], there[27], there[28], there[29]);
    let local_port = u16::from_be_bytes([there[34], there[35]]);
    let server = (0..8).map(backend_address).find(|address| address.octets() == there[30..34]).unwrap();
    let mut answer = Frame {
        to: PORT_MACS[1],
        from: backend_mac(4),
        ..Frame::udp((server, 9_000), (local, local_port)).with_payload(vec![7; 1_300])
    }
    .bytes();
    set_dont_fragment(&mut answer, true);
    let (port, error) = director.pass(BACK, answer.clone()).unwrap();
    let (mtu, quoted) = told(&error);
    assert_eq!((port, mtu), (BACK, 1_300));
    assert_eq!(quoted, answer[14..14 + quoted.len()]);
    set_dont_fragment(&mut answer, false);
    assert_eq!(director.pass(BACK, answer), None, "the rules do not say to cut it");
}

#[test]
fn a_flood_of_long_packets_is_answered_so_often_and_no_more() {
    let mut director = director(&Policy::default());
    for _ in 0..200 {
        director.receive(FRONT, datagram(53, 1_401, true));
    }
    director.turn();
    let answered = director.sent().len();
    assert_eq!(answered, 50);
    assert_eq!(director.counters.dropped(DropReason::ReplyLimit).value(), 150);
    director.assert_balanced();
}

#[test]
fn who_is_no_host_is_not_told() {
    let mut director = director(&Policy::default());
    let mut frame = datagram(53, 1_401, true);
    frame[26..30].copy_from_slice(&[224, 0, 0, 1]);
    assert_eq!(director.pass(FRONT, frame), None);
    assert_eq!(director.counters.dropped(DropReason::Unanswerable).value(), 1);
}

#[test]
fn an_ipv6_sender_is_told_in_its_own_words() {
    let vip: std::net::Ipv6Addr = "2001:db8::10".parse().unwrap();
    let rules = ruleset(1, &ONE_OF_EACH);
    let key = dataplane::rules::ServiceKey { vip: vip.into(), l4_port: 53, protocol: 17 };
    let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_400)).collect();
    let mut director = Director::new(Ruleset {
        matcher: Arc::new([(key, dataplane::index::ServiceIndex(1))].into_iter().collect()),
        vips: Arc::new([(vip, dataplane::rules::Vip::PLAIN)].into_iter().collect()),
        adjacencies,
        ..rules
    });
    let client: SocketAddr = "[2001:db8:7::7]:5000".parse().unwrap();
    let std::net::IpAddr::V6(address) = client.ip() else { panic!() };
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(CLIENT_MAC.0, PORT_MACS[0].0).ipv6(address.octets(), vip.octets(), 64);
    builder.udp(5_000, 53).write(&mut frame, &[9; 1_400]).unwrap();
    let (port, error) = director.pass(FRONT, frame.clone()).unwrap();
    let (mtu, quoted) = told(&error);
    assert_eq!((port, mtu, quoted.len()), (FRONT, 1_400, 1_232));
    assert_eq!(quoted, frame[14..14 + 1_232]);
}

#[test]
fn an_unresolved_next_hop_is_no_matter_of_length() {
    let mut director = director(&Policy::default());
    director.send(Frame::tcp((Ipv4Addr::new(198, 51, 100, 7), 40_000), (VIP, 80), SYN).bytes()).unwrap();
    let rules = director.worker.line().rules.clone();
    let adjacencies = [dataplane::adjacency::Adjacency::UNRESOLVED; 8].into();
    director.publish(Ruleset { adjacencies, revision: 2, ..Ruleset::clone(&rules) });
    assert_eq!(
        director.send(Frame::tcp((Ipv4Addr::new(198, 51, 100, 7), 40_000), (VIP, 80), 0x10).bytes()),
        None
    );
    assert_eq!(director.counters.dropped(DropReason::NextHopUnresolved).value(), 1);
}

#[test]
fn what_is_cut_between_addresses_of_the_director_has_identifications_of_its_own() {
    // Many clients with the same one: their receiver sees one sender.
    let mut director = director(&cutting());
    let mut seen = HashSet::new();
    for number in 0..1_800u16 {
        let client = (Ipv4Addr::new(198, 51, 100, (number % 200) as u8), 5_000 + number);
        let frame = Frame::udp(client, (VIP, 5353)).with_payload([7; 1_472]).bytes();
        let mut frame = frame;
        frame[18..20].copy_from_slice(&[0x12, 0x34]);
        set_dont_fragment(&mut frame, false);
        // Every other one comes in fragments already.
        let frames = if number % 2 == 0 { vec![frame] } else { crate::datagrams::cut(&frame, 1_200, 0x1234) };
        for frame in frames {
            director.receive(FRONT, frame);
            director.turn();
        }
        let ids: HashSet<_> = director.sent().iter().map(|(_, part)| [part[18], part[19]]).collect();
        assert_eq!(ids.len(), 1, "of one datagram");
        assert!(ids.into_iter().all(|id| seen.insert(id)), "of another datagram than {number}");
        director.clock.advance(1);
    }
    assert_eq!(director.drops(), []);
    // In direct routing the sender is the client, and a router leaves it as it is.
    let mut frame = datagram(53, 1_500, false);
    frame[18..20].copy_from_slice(&[0x12, 0x34]);
    set_dont_fragment(&mut frame, false);
    director.receive(FRONT, frame);
    director.turn();
    assert!(director.sent().iter().all(|(_, part)| part[18..20] == [0x12, 0x34]));
}
