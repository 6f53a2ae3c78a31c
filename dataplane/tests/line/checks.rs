//! Health checks by check addresses: what the kernel sends becomes a packet to the VIP in the service's own way, and answers come
//! back from the check address. etherparse writes and reads the packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::adjacency::Adjacency;
use dataplane::checks::carry::{CheckCarrier, ToBackend};
use dataplane::checks::{Check, Checks};
use dataplane::flow::HashSecret;
use dataplane::index::BackendIndex;
use dataplane::memory::MemoryPacket;
use dataplane::prefix::Prefix;
use dataplane::rules::{Carrier, Encapsulation, Tunnel};
use dataplane::time::Millis;
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;

use crate::common::director::data;
use crate::common::rules::{BACK, FRONT, PORT_MACS, VIP, backend_mac};
use crate::icmp_errors::Error;
use crate::tunnels::{CARRIERS, VIP6, unwrap};

const NOW: Millis = Millis(7);

fn v4(c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, c, d).into()
}

fn check_address(number: u16, is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, number).into() } else { v4(0, number as u8) }
}

fn vip(is_v6: bool) -> IpAddr {
    if is_v6 { VIP6.into() } else { VIP.into() }
}

/// By which backends are talked to.
fn source(is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 5).into()
    }
}

/// The kernel's own end.
fn twin(is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 5).into()
    }
}

/// Two backends of a service, of which the second is at slot 2.
fn checks(is_v6: bool, carrier: Option<(Carrier, bool)>) -> Checks {
    let check = |number: u16| {
        let encapsulation = carrier.map(|(carrier, outer_is_v6)| {
            let tunnel = Tunnel { carrier, ..Tunnel::default() };
            Encapsulation::new(&tunnel, Some(source(outer_is_v6)), backend(number, outer_is_v6)).unwrap()
        });
        let next_hop = Adjacency::resolved(backend_mac(number.into()), PORT_MACS[1], BACK).with_mtu(1_400);
        Check {
            address: check_address(number, is_v6),
            vip: vip(is_v6),
            source: source(is_v6),
            next_hop,
            encapsulation,
        }
    };
    let networks = [Prefix::new(v4(0, 0), 16), Prefix::new(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 112)];
    Checks::new(Box::new([Some(check(1)), None, Some(check(3))]), networks)
}

fn backend(number: u16, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10 + number).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 10 + number as u8).into()
    }
}

fn carrier() -> CheckCarrier {
    CheckCarrier::new(HashSecret::new([1, 2]))
}

type End = (IpAddr, u16);

fn frame(from: End, to: End, is_tcp: bool, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 2, 2, 2, 2, 2], PORT_MACS[0].0);
    let ip = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    let mut bytes = Vec::new();
    if is_tcp {
        ip.tcp(from.1, to.1, 77, 1_000).syn().write(&mut bytes, payload).unwrap();
    } else {
        ip.udp(from.1, to.1).write(&mut bytes, payload).unwrap();
    }
    bytes
}

/// Source, destination and payload of a packet from its IP header on, its checksums found to be right.
fn read(packet: &[u8]) -> (End, End, Vec<u8>) {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let payload = headers.payload.slice().to_vec();
    let (net, transport) = (headers.net.unwrap(), headers.transport.unwrap());
    let (from, to): (IpAddr, IpAddr) = match &net {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            (ip.source.into(), ip.destination.into())
        }
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        other => panic!("{other:?}"),
    };
    let ports = match (transport, &net) {
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, &payload).unwrap());
            (tcp.source_port, tcp.destination_port)
        }
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv6(ip, _)) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(ip, &payload).unwrap());
            (tcp.source_port, tcp.destination_port)
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, &payload).unwrap());
            (udp.source_port, udp.destination_port)
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv6(ip, _)) => {
            assert_eq!(udp.checksum, udp.calc_checksum_ipv6(ip, &payload).unwrap());
            (udp.source_port, udp.destination_port)
        }
        other => panic!("{other:?}"),
    };
    ((from, ports.0), (to, ports.1), payload)
}

fn packet(frame: Vec<u8>) -> MemoryPacket {
    MemoryPacket::new(frame, FRONT)
}

/// Sends a packet of the kernel's on; what leaves, unwrapped, from its IP header on, and where the tunnel leads.
fn sent(carrier: &mut CheckCarrier, checks: &Checks, frame: Vec<u8>) -> (Vec<u8>, Option<IpAddr>) {
    let mut packet = packet(frame);
    assert_eq!(carrier.to_backend(&mut packet, checks, NOW), ToBackend::By(BACK));
    let bytes = data(&packet);
    if checks.get(BackendIndex(0)).unwrap().encapsulation.is_none() {
        return (bytes[14..].to_vec(), None);
    }
    let unwrapped = unwrap(&bytes);
    (unwrapped.packet, Some(unwrapped.destination))
}

fn every_way() -> impl Iterator<Item = (bool, Option<(Carrier, bool)>)> {
    let tunnels = CARRIERS.into_iter().flat_map(|carrier| [Some((carrier, false)), Some((carrier, true))]);
    std::iter::once(None).chain(tunnels).flat_map(|way| [(false, way), (true, way)])
}

#[test]
fn a_check_reaches_its_backend_in_the_services_way_and_is_answered_from_its_address() {
    for (is_v6, way) in every_way() {
        let (checks, mut carrier) = (checks(is_v6, way), carrier());
        for is_tcp in [true, false] {
            for number in [1, 3] {
                let (own, address) = ((twin(is_v6), 33_000), (check_address(number, is_v6), 80));
                let (out, leads_to) = sent(&mut carrier, &checks, frame(own, address, is_tcp, &[5; 40]));
                let (from, to, payload) = read(&out);
                assert_eq!((from.0, to, payload), (source(is_v6), (vip(is_v6), 80), vec![5; 40]), "{way:?}");
                assert_eq!(leads_to, way.map(|(_, outer_is_v6)| backend(number, outer_is_v6)));
                let mut answer = packet(frame(to, from, is_tcp, b"an answer"));
                assert!(carrier.from_backend(&mut answer, &checks, NOW));
                let answer = data(&answer);
                assert_eq!(read(&answer[14..]), (address, own, b"an answer".to_vec()));
                assert_eq!(answer[..14], frame(to, from, is_tcp, b"")[..14], "to the twin's MAC, as it came");
            }
        }
    }
}

#[test]
fn connections_to_two_backends_from_one_l4_port_are_two() {
    let (checks, mut carrier) = (checks(false, None), carrier());
    let own = (twin(false), 33_000);
    let [one, other] = [1, 3].map(|number| {
        let (out, _) = sent(&mut carrier, &checks, frame(own, (check_address(number, false), 80), true, b""));
        read(&out).0
    });
    assert_ne!(one, other);
    let (again, _) = sent(&mut carrier, &checks, frame(own, (check_address(1, false), 80), true, b"more"));
    assert_eq!(read(&again).0, one);
}

#[test]
fn what_is_no_check_passes_as_it_is() {
    let (checks, mut carrier) = (checks(false, None), carrier());
    let own = (twin(false), 33_000);
    let (out, _) = sent(&mut carrier, &checks, frame(own, (check_address(1, false), 80), true, b""));
    let (from, to, _) = read(&out);
    let elsewhere = frame(own, (Ipv4Addr::new(192, 0, 2, 1).into(), 80), true, b"");
    let mut passing = packet(elsewhere.clone());
    assert_eq!(carrier.to_backend(&mut passing, &checks, NOW), ToBackend::Other);
    assert_eq!(data(&passing), elsewhere);
    // Another protocol, l4_port, VIP, and a connection that there is not; and what is shorter than its headers.
    let strangers = [
        frame(to, from, false, b""),
        frame((to.0, 81), from, true, b""),
        frame((Ipv4Addr::new(203, 0, 113, 11).into(), 80), from, true, b""),
        frame(to, (from.0, from.1 ^ 1), true, b""),
        frame(to, (from.0, 80), true, b""),
        vec![0; 9],
    ];
    for stranger in strangers {
        let mut passing = packet(stranger.clone());
        assert!(!carrier.from_backend(&mut passing, &checks, NOW));
        assert_eq!(data(&passing), stranger);
    }
}

#[test]
fn what_cannot_go_on_is_refused() {
    let (checks, mut carrier) = (checks(false, None), carrier());
    let own = (twin(false), 33_000);
    let mut fragment = frame(own, (check_address(1, false), 80), true, b"");
    fragment[20] = 0x20;
    let mut echo = frame(own, (check_address(1, false), 80), true, b"");
    echo[23] = 1;
    let too_long = frame(own, (check_address(1, false), 80), true, &[0; 1_361]);
    let nobody = frame(own, (check_address(2, false), 80), true, b"");
    for frame in [fragment, echo, too_long, nobody] {
        assert_eq!(carrier.to_backend(&mut packet(frame), &checks, NOW), ToBackend::Refused);
    }
}

/// A datagram to where nobody listens, as the backend and a router report it.
#[test]
fn an_icmp_error_reaches_the_socket_that_it_is_about() {
    for is_v6 in [false, true] {
        let (checks, mut carrier) = (checks(is_v6, None), carrier());
        let (own, address) = ((twin(is_v6), 33_000), (check_address(3, is_v6), 5_355));
        let asked = frame(own, address, false, b"anybody");
        let (out, _) = sent(&mut carrier, &checks, asked.clone());
        for reporter in [vip(is_v6), backend(9, is_v6)] {
            let link = PacketBuilder::ethernet2([2; 6], PORT_MACS[0].0);
            let mut error = Vec::new();
            match (reporter, source(is_v6)) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let kind = etherparse::icmpv4::DestUnreachableHeader::Port;
                    let icmp = link.ipv4(from.octets(), to.octets(), 64);
                    icmp.icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(kind))
                        .write(&mut error, &out)
                        .unwrap();
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let kind = etherparse::icmpv6::DestUnreachableCode::Port;
                    let icmp = link.ipv6(from.octets(), to.octets(), 64);
                    icmp.icmpv6(etherparse::Icmpv6Type::DestinationUnreachable(kind))
                        .write(&mut error, &out)
                        .unwrap();
                }
                _ => unreachable!(),
            }
            let mut packet = packet(error);
            assert!(carrier.from_backend(&mut packet, &checks, NOW));
            let heard = Error::of(&data(&packet));
            assert_eq!((heard.source, heard.destination), (address.0, own.0));
            assert_eq!(read(&heard.quoted), (own, address, b"anybody".to_vec()));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_rewritten_within_their_bounds(
        bytes in proptest::collection::vec(any::<u8>(), 0..120), changes in proptest::collection::vec((12usize..80, any::<u8>()), 0..4), cut in 0usize..120
    ) {
        let (checks, mut carrier) = (checks(false, Some((CARRIERS[3], true))), carrier());
        let mut near = frame((twin(false), 33_000), (check_address(1, false), 80), true, &[1; 40]);
        for (at, byte) in changes {
            near[at] = byte;
        }
        near.truncate(cut);
        for frame in [bytes, near] {
            carrier.to_backend(&mut packet(frame.clone()), &checks, NOW);
            carrier.from_backend(&mut packet(frame), &checks, NOW);
        }
    }
}

#[test]
fn a_backend_that_is_gone_is_answered_no_more() {
    let (all, mut carrier) = (checks(false, None), carrier());
    let own = (twin(false), 33_000);
    let (out, _) = sent(&mut carrier, &all, frame(own, (check_address(1, false), 80), true, b""));
    let (from, to, _) = read(&out);
    let gone = Checks::new(Box::new([None, None, all.get(BackendIndex(2)).copied()]), []);
    assert!(!carrier.from_backend(&mut packet(frame(to, from, true, b"")), &gone, NOW));
    assert!(!gone.is_empty() && Checks::default().is_empty());
}
