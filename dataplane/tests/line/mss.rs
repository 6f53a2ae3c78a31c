//! The segment size in a SYN, lowered where what comes of it would not fit: in every mode, each with what it puts in front. (With the
//! client's address kept: `client_address/segment_size.rs`.)

use std::net::SocketAddr;

use dataplane::index::PortIndex;
use dataplane::rules::{Carrier, Mode, Mss, Policy, Ruleset, Tunnel};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use crate::common::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{BACK, FRONT, PORT_MACS, ServiceSpec, TCP, VIP, backend_mac, with_policy};
use crate::common::ruleset;
use crate::translation;
use crate::tunnels::{self, CARRIERS, CLIENT, CLIENT6, VIP6};

/// A SYN, or SYN-ACK, that names a segment size of 1,460.
fn syn(macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, is_answer: bool) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => link.ipv4(from.ip().octets(), to.ip().octets(), 64),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => link.ipv6(from.ip().octets(), to.ip().octets(), 64),
        ends => panic!("{ends:?}"),
    };
    let tcp = ip.tcp(from.port(), to.port(), 1_000, 1_024).syn();
    let tcp = if is_answer { tcp.ack(7) } else { tcp };
    let tcp = tcp.options(&[TcpOptionElement::Noop, TcpOptionElement::MaximumSegmentSize(1_460)]).unwrap();
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[]).unwrap();
    frame
}

/// Ends and segment size of a SYN whose checksum is right.
fn named(packet: &[u8]) -> (SocketAddr, u16) {
    let packet = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("{packet:?}") };
    let (source, expected) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let source = std::net::IpAddr::from(header.source);
            (source, tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(tcp.checksum(), expected.unwrap());
    let sizes: Vec<_> = (tcp.options_iterator().flatten())
        .filter_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(size) => Some(size),
            _ => None,
        })
        .collect();
    ((source, tcp.source_port()).into(), sizes[0])
}

/// The rules with such an MTU at the clients' port, and of the way to backends.
fn with_mtus(rules: Ruleset, mss: Mss, front: u16, back: u16) -> Ruleset {
    let added = |index: usize| {
        let encapsulation = rules.encapsulations.get(index).copied().flatten();
        encapsulation.map_or(0, |encapsulation| encapsulation.added_len())
    };
    let rows = rules.adjacencies.iter().enumerate();
    let adjacencies = rows.map(|(index, row)| row.with_mtu(back - added(index))).collect();
    let mut ports = rules.ports.to_vec();
    (ports[0].mtu, ports[1].mtu) = (front, back);
    with_policy(Ruleset { adjacencies, ports: ports.into(), ..rules }, &Policy { mss, ..Policy::default() })
}

fn pass(director: &mut Director, port: PortIndex, frame: Vec<u8>) -> Vec<u8> {
    director.pass(port, frame).expect("a SYN").1
}

#[test]
fn direct_routing_bounds_what_a_backend_sends() {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1] };
    for (mss, front, back, expected) in [
        (Mss::Kept, 1_400, 1_300, 1_460),
        (Mss::Clamped, 1_400, 1_300, 1_260),
        (Mss::Clamped, 1_300, 1_400, 1_260),
        (Mss::Clamped, 9_000, 9_000, 1_460),
        (Mss::AtMost(1_200), 1_400, 1_300, 1_200),
    ] {
        let mut director = Director::new(with_mtus(ruleset(1, &[spec]), mss, front, back));
        let (client, vip) = ((CLIENT, 40_000).into(), (VIP, 80).into());
        let out = pass(&mut director, FRONT, syn((CLIENT_MAC.0, PORT_MACS[0].0), client, vip, false));
        assert_eq!(named(&out[14..]), (client, expected));
    }
}

/// The size is changed within the tunnel: the checksums of the segment and of the header around it are right (`unwrap` looks).
#[test]
fn a_tunnel_takes_its_header_off_the_segment_size() {
    let ends = |is_v6| -> (SocketAddr, SocketAddr) {
        if is_v6 {
            ((CLIENT6, 40_000).into(), (VIP6, 80).into())
        } else {
            ((CLIENT, 40_000).into(), (VIP, 80).into())
        }
    };
    for (carrier, outer_is_v6) in CARRIERS.into_iter().flat_map(|carrier| [(carrier, false), (carrier, true)])
    {
        for is_v6 in [false, true] {
            let tunnel = Tunnel { carrier, udp_checksum: true, ..Tunnel::default() };
            let rules = with_mtus(tunnels::rules(&tunnel, outer_is_v6), Mss::Clamped, 1_500, 1_400);
            let mut director = Director::new(rules);
            let (client, vip) = ends(is_v6);
            let out = pass(&mut director, FRONT, syn((CLIENT_MAC.0, PORT_MACS[0].0), client, vip, false));
            let in_front = if outer_is_v6 { 40 } else { 20 }
                + match carrier {
                    Carrier::Ipip => 0,
                    Carrier::Gre { key } => 4 + if key.is_some() { 4 } else { 0 },
                    Carrier::Gue { has_header, .. } => 8 + if has_header { 4 } else { 0 },
                };
            let headers = if is_v6 { 60 } else { 40 };
            assert_eq!(named(&tunnels::unwrap(&out).packet), (client, 1_400 - in_front - headers));
        }
    }
}

/// The two ways differ by the length of their headers: the narrower one in segments counts.
#[test]
fn between_the_families_each_side_has_its_own_headers() {
    for case in translation::cases() {
        let v6_front = case.client.is_ipv6();
        for (front, back) in [(1_400, 1_300), (1_300, 1_400), (1_400, 1_390)] {
            let mut director =
                Director::new(with_mtus(translation::rules(&case, TCP), Mss::Clamped, front, back));
            let of_way = |mtu: u16, is_v6: bool| mtu - if is_v6 { 60 } else { 40 };
            let expected = of_way(front, v6_front).min(of_way(back, !v6_front));
            let asked = syn((CLIENT_MAC.0, PORT_MACS[0].0), case.client, case.vip, false);
            let out = pass(&mut director, FRONT, asked);
            let (local, size) = named(&out[14..]);
            assert_eq!(size, expected);
            let answer = syn((backend_mac(0).0, PORT_MACS[1].0), translation::server(&case), local, true);
            let back_out = director.pass(BACK, answer).expect("a SYN-ACK").1;
            let (vip, size) = named(&back_out[14..]);
            assert_eq!(vip, case.vip);
            // The clients' station has its port's MTU, what bounds the other direction is the same two ways.
            assert_eq!(size, expected);
        }
    }
}
