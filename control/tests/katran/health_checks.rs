//! Katran's program for health checks beside the director's check addresses.

use std::net::IpAddr;

use dataplane::adjacency::Adjacency;
use dataplane::checks::carry::{CheckCarrier, ToBackend};
use dataplane::checks::{Check, Checks};
use dataplane::flow::HashSecret;
use dataplane::index::PortIndex;
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::rules::{Carrier, Encapsulation, Source, Tunnel};
use dataplane::time::Millis;

use crate::rules::ROUTER;
use crate::same::TCP;
use crate::sets::{hex, list, recorded, text};

/// Katran's program for health checks tunnels what the checker sends to a VIP, to the real that the socket's mark names. Here the address
/// that the checker connects to names the backend, and the connection has a port of the director's own: with the source
/// and the VIP of the recording all else is the same. Of GUE the recording tells to leave out the source port, which is random there, and
/// with that goes the checksum, of which Katran has none over IPv6 either, and Crossdock must (RFC 8200 section 8.1).
#[test]
fn health_checks_are_carried_as_katran_carries_them() {
    let Some(sets) = recorded() else { return };
    let mut compared = 0;
    for set in sets.iter().filter(|set| text(set, "name").starts_with("healthcheck")) {
        let is_gue = text(set, "name").ends_with("gue");
        for case in list(set, "cases") {
            let (input, recorded) = (hex(&text(case, "input_hex")), hex(&text(case, "expected_hex")));
            let real = set["config"]["fwmark_to_real"][case["skb_mark"].to_string()].as_str();
            let (verdict, sent) = carried(&input, real, is_gue);
            compared += 1;
            if real.is_none() {
                assert_eq!((verdict, &sent), (ToBackend::Other, &recorded), "{}", text(case, "name"));
                continue;
            }
            assert_eq!(verdict, ToBackend::By(PortIndex(0)), "{}", text(case, "name"));
            let outer_len = recorded.len() - input.len();
            let inner_at = 14 + outer_len;
            // The inner l4_port and the checksum over it; of GUE the outer ones.
            let is_v6 = input[14] >> 4 == 6;
            let is_tcp = input[if is_v6 { 20 } else { 23 }] == TCP;
            let l4_at = inner_at + if is_v6 { 40 } else { 20 };
            let mut ranges = vec![(l4_at, 2), (l4_at + if is_tcp { 16 } else { 6 }, 2)];
            if is_gue {
                ranges.extend([(inner_at - 8, 2), (inner_at - 2, 2)]);
            }
            let without = |frame: &[u8]| {
                let mut frame = frame.to_vec();
                ranges.iter().for_each(|(at, len)| frame[*at..at + len].fill(0));
                frame
            };
            assert_eq!(without(&sent), without(&recorded), "{}", text(case, "name"));
        }
    }
    assert_eq!(compared, 8);
}

/// What becomes of a packet that the kernel sends to its own destination, where that is the check address of a backend with this
/// address; and of one to no check address.
fn carried(frame: &[u8], real: Option<&str>, is_gue: bool) -> (ToBackend, Vec<u8>) {
    let (source, vip): (IpAddr, IpAddr) = if frame[14] >> 4 == 6 {
        let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
        (address(22).into(), address(38).into())
    } else {
        let address = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap();
        (address(26).into(), address(30).into())
    };
    let tunnel = Tunnel {
        carrier: if is_gue { Carrier::Gue { has_header: false, l4_port: 9_886 } } else { Carrier::Ipip },
        source: Source::Fixed { v4: "10.0.13.37".parse().ok(), v6: "fc00:2307::1337".parse().ok() },
        dont_fragment: false,
        lowers_ttl: false,
        ..Tunnel::default()
    };
    let (router, own) = (ROUTER.parse().unwrap(), "00:ff:de:ad:be:af".parse().unwrap());
    let check = real.map(|real| Check {
        address: vip,
        vip,
        source,
        next_hop: Adjacency::resolved(router, own, PortIndex(0)),
        encapsulation: Encapsulation::new(&tunnel, None, real.parse().unwrap()),
    });
    let checks = Checks::new([check].into(), []);
    let mut packet = MemoryPacket::new(frame, PortIndex(0));
    let mut carrier = CheckCarrier::new(HashSecret::new([3 << 60 | 7, 5 << 59 | 9]));
    let verdict = carrier.to_backend(&mut packet, &checks, Millis(0));
    (verdict, packet.data().to_vec())
}
