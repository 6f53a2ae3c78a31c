//! The last hop: a packet whose TTL, or hop limit, would reach zero here goes no further, in any mode and either way.

use dataplane::index::PortIndex;
use dataplane::rules::{Mode, Policy, Ruleset, Tunnel};
use dataplane::verdict::DropReason;

use crate::common::director::Director;
use crate::common::frames::{ACK, CLIENT_MAC, Decoded, Endpoint, Frame, SYN};
use crate::common::rules::{BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, VIP, backend_mac, with_policy};
use crate::common::ruleset;
use crate::datagrams::{self, FAMILIES, client, from_client, sum};
use crate::tunnels;

const CLIENT: Endpoint = (std::net::Ipv4Addr::new(198, 51, 100, 7), 40_000);

/// The frame with so many hops left, its IPv4 checksum right.
fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[14] >> 4 == 6 {
        frame[21] = hops;
        return frame;
    }
    frame[22] = hops;
    frame[24..26].fill(0);
    let check = !sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Fails unless it is dropped with 0 and with 1 left, and leaves with 2.
fn assert_last_hop_ends(director: &mut Director, port: PortIndex, frame: &[u8]) {
    let dropped = || director.counters.dropped(DropReason::TtlExpired).value();
    let before = dropped();
    for hops in [0, 1] {
        assert_eq!(director.pass(port, with_hops(frame.to_vec(), hops)), None, "{hops}");
    }
    assert_eq!(director.drops().iter().map(|(_, count)| count).sum::<u64>(), before + 2);
    assert_eq!(director.counters.dropped(DropReason::TtlExpired).value(), before + 2);
    assert!(director.pass(port, with_hops(frame.to_vec(), 2)).is_some());
    director.assert_balanced();
}

#[test]
fn the_last_hop_ends_in_direct_routing_and_full_nat_of_both_families() {
    for is_v6 in FAMILIES {
        for (protocol, l4_port) in [(TCP, 80), (UDP, 53), (TCP, 8080), (UDP, 5353)] {
            let mut director = Director::new(datagrams::rules(1, is_v6));
            let mut first = from_client(client(1, is_v6), l4_port, protocol, b"");
            if protocol == TCP {
                first[if is_v6 { 54 } else { 34 } + 13] = SYN;
            }
            director.send(first).unwrap();
            let frame = from_client(client(1, is_v6), l4_port, protocol, b"more");
            assert_last_hop_ends(&mut director, FRONT, &frame);
        }
    }
}

#[test]
fn the_last_hop_ends_in_nat_and_full_nat_either_way() {
    for (mode, protocol) in [(Mode::Nat, TCP), (Mode::Nat, UDP), (Mode::Fullnat, TCP), (Mode::Fullnat, UDP)] {
        let spec = ServiceSpec { protocol, l4_port: 80, mode, scheduler: "rr", weights: &[1] };
        let mut director = Director::new(ruleset(1, &[spec]));
        let frame = |source, destination, flags| match protocol {
            TCP => Frame::tcp(source, destination, flags),
            _ => Frame::udp(source, destination).with_payload(*b"what"),
        };
        let there = Decoded::from(&director.send(frame(CLIENT, (VIP, 80), SYN).bytes()).unwrap());
        assert_last_hop_ends(&mut director, FRONT, &frame(CLIENT, (VIP, 80), ACK).bytes());
        let answer = frame(there.destination, there.source, SYN | ACK);
        let answer = Frame { to: PORT_MACS[1], from: backend_mac(0), ..answer }.bytes();
        assert_last_hop_ends(&mut director, BACK, &answer);
    }
}

#[test]
fn the_last_hop_ends_in_a_tunnel() {
    for (is_v6, outer_is_v6) in FAMILIES.into_iter().flat_map(|is_v6| [(is_v6, false), (is_v6, true)]) {
        let mut director = Director::new(tunnels::rules(&Tunnel::default(), outer_is_v6));
        assert_last_hop_ends(&mut director, FRONT, &tunnels::Packet::new(is_v6, true).frame());
    }
}

/// A packet that has no hop left should not have been sent at all (RFC 1812 section 5.3.1).
#[test]
fn where_the_rules_keep_the_ttl_one_that_is_zero_goes_no_further() {
    let keep = Policy { keeps_ttl: true, ..Policy::default() };
    let dr = |is_v6| with_policy(datagrams::rules(1, is_v6), &keep);
    let tunnel = |_| -> Ruleset { tunnels::rules(&Tunnel { lowers_ttl: false, ..Tunnel::default() }, false) };
    for is_v6 in FAMILIES {
        let of_tunnel = tunnels::Packet::new(is_v6, false).frame();
        let of_dr = from_client(client(1, is_v6), 53, UDP, b"what");
        for (rules, frame) in [(dr(is_v6), of_dr), (tunnel(is_v6), of_tunnel)] {
            let mut director = Director::new(rules);
            assert_eq!(director.send(with_hops(frame.clone(), 0)), None);
            assert_eq!(director.drops(), [(DropReason::TtlExpired, 1)]);
            let out = director.send(with_hops(frame.clone(), 1)).unwrap();
            assert!(out.ends_with(&with_hops(frame, 1)[14..]), "as it came");
            assert_ne!(out[..6], CLIENT_MAC.0);
        }
    }
}
