//! Mode `tunnel`: every carrier over both families, read back by etherparse; and what comes in tunnels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::flow::tcp_state::TcpState;
use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::rules::{
    Carrier, Decap, Encapsulation, Flows, Mode, OnTimeout, Policy, Ruleset, ServiceKey, Source, Tunnel, Vip,
};
use dataplane::verdict::DropReason;
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader, UdpHeader};
use proptest::prelude::*;

use crate::common::Director;
use crate::common::director::data;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{
    BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, VIP, backend_mac, with_policy, with_service,
};
use crate::common::ruleset;
use crate::workers::Team;

pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
pub(crate) const OUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
pub(crate) const OUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 5);
const BACKEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x11);

pub(crate) const CARRIERS: [Carrier; 5] = [
    Carrier::Ipip,
    Carrier::Gre { key: None },
    Carrier::Gre { key: Some(77) },
    Carrier::Gue { has_header: true, l4_port: 6_080 },
    Carrier::Gue { has_header: false, l4_port: 9_886 },
];

/// A TCP and a UDP service on both VIPs, one backend each, in tunnels like this to a backend of either family.
pub(crate) fn rules(tunnel: &Tunnel, backend_is_v6: bool) -> Ruleset {
    let spec =
        |protocol| ServiceSpec { protocol, l4_port: 80, mode: Mode::Tunnel, scheduler: "rr", weights: &[1] };
    let mut rules = ruleset(1, &[spec(TCP), spec(UDP)]);
    let keys = [VIP.into(), IpAddr::from(VIP6)].into_iter().flat_map(|vip| {
        [TCP, UDP].into_iter().enumerate().map(move |(index, protocol)| {
            (ServiceKey { vip, l4_port: 80, protocol }, ServiceIndex(index as u16))
        })
    });
    rules.matcher = Arc::new(keys.collect());
    rules.vips = Arc::new([(VIP.into(), Vip::PLAIN), (IpAddr::from(VIP6), Vip::PLAIN)].into_iter().collect());
    let mut backends = rules.backends.to_vec();
    for backend in &mut backends {
        backend.address = if backend_is_v6 { BACKEND6.into() } else { backend.address };
    }
    let source = Source::Fixed { v4: Some(OUTER), v6: Some(OUTER6) };
    let tunnel = match tunnel.source {
        Source::PerFlow => *tunnel,
        Source::Fixed { .. } => Tunnel { source, ..*tunnel },
    };
    rules.encapsulations =
        backends.iter().map(|backend| Encapsulation::new(&tunnel, None, backend.address)).collect();
    rules.backends = backends.into();
    rules.tunnel_ends = Arc::new(rules.encapsulations.iter().flatten().copied().collect());
    rules
}

/// A client's packet, without its Ethernet header.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) is_v6: bool,
    pub(crate) is_tcp: bool,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn new(is_v6: bool, is_tcp: bool) -> Self {
        Self { is_v6, is_tcp, ttl: 64, payload: b"what the client says".to_vec() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.frame()[14..].to_vec()
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(CLIENT_MAC.0, PORT_MACS[0].0);
        let ip = if self.is_v6 {
            link.ipv6(CLIENT6.octets(), VIP6.octets(), self.ttl)
        } else {
            link.ipv4(CLIENT.octets(), VIP.octets(), self.ttl)
        };
        let mut frame = Vec::new();
        if self.is_tcp {
            ip.tcp(40_000, 80, 1, 1_024).syn().write(&mut frame, &self.payload).unwrap();
        } else {
            ip.udp(40_000, 80).write(&mut frame, &self.payload).unwrap();
        }
        frame
    }

    /// As a router passes it on.
    pub(crate) fn one_hop_on(&self) -> Vec<u8> {
        Self { ttl: self.ttl - 1, ..self.clone() }.bytes()
    }
}

/// What a tunnel packet carries, every length and checksum of its outer headers asserted.
pub(crate) struct Unwrapped {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    carrier: Carrier,
    pub(crate) udp: Option<UdpHeader>,
    pub(crate) packet: Vec<u8>,
}

pub(crate) fn unwrap(frame: &[u8]) -> Unwrapped {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let ip = packet.net.unwrap();
    let (source, destination, protocol, end) = match &ip {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            (ip.source.into(), ip.destination.into(), ip.protocol.0, 14 + usize::from(ip.total_len))
        }
        NetHeaders::Ipv6(ip, _) => {
            let end = 54 + usize::from(ip.payload_length);
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.next_header.0, end)
        }
        other => panic!("not IP: {other:?}"),
    };
    let l4_at = if destination.is_ipv4() { 34 } else { 54 };
    assert!(end <= frame.len());
    let payload = &frame[l4_at..end];
    let (carrier, udp, packet) = match protocol {
        4 | 41 => (Carrier::Ipip, None, payload),
        47 => {
            let has_key = payload[0] & 0x20 != 0;
            let key = has_key.then(|| u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            (Carrier::Gre { key }, None, &payload[if has_key { 8 } else { 4 }..])
        }
        17 => {
            let Some(TransportHeader::Udp(udp)) = packet.transport.clone() else { panic!("UDP") };
            assert_eq!(usize::from(udp.length), payload.len());
            let has_header = payload[8] >> 4 == 0;
            let full = match &ip {
                NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, &payload[8..]).unwrap(),
                NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, &payload[8..]).unwrap(),
                other => panic!("not IP: {other:?}"),
            };
            assert!(udp.checksum == full || udp.checksum == 0 && destination.is_ipv4());
            let carrier = Carrier::Gue { has_header, l4_port: udp.destination_port };
            (carrier, Some(udp), &payload[if has_header { 12 } else { 8 }..])
        }
        other => panic!("protocol {other}"),
    };
    Unwrapped { source, destination, carrier, udp, packet: packet.to_vec() }
}

#[test]
fn every_carrier_brings_packets_of_both_families_to_backends_of_both() {
    for (carrier, backend_is_v6) in CARRIERS.iter().flat_map(|carrier| [(carrier, false), (carrier, true)]) {
        let mut director =
            Director::new(rules(&Tunnel { carrier: *carrier, ..Tunnel::default() }, backend_is_v6));
        for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let packet = Packet::new(is_v6, is_tcp);
            // The first makes a flow, the second finds it.
            for _ in 0..2 {
                let (port, frame) = director.pass(FRONT, packet.frame()).unwrap();
                let index = usize::from(!is_tcp);
                assert_eq!(
                    (port, &frame[..6], &frame[6..12]),
                    (BACK, &backend_mac(index).0[..], &PORT_MACS[1].0[..])
                );
                let unwrapped = unwrap(&frame);
                assert_eq!((unwrapped.carrier, unwrapped.packet), (*carrier, packet.one_hop_on()));
                let source: IpAddr = if backend_is_v6 { OUTER6.into() } else { OUTER.into() };
                assert_eq!(unwrapped.source, source);
                assert_eq!(unwrapped.destination, director.worker.line().rules.backends[index].address);
            }
        }
        assert_eq!((director.table_used(), director.drops()), (4, vec![]));
        let sent = director.counters.port(BACK).tx.bytes.value();
        let received = director.counters.port(FRONT).rx.bytes.value();
        let added = director.worker.line().rules.encapsulations[0].unwrap().added_len();
        assert_eq!(sent, received + 8 * u64::from(added), "bytes sent are those with the headers");
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn sources_per_flow_spread_flows_and_stay_with_them() {
    let tunnel = Tunnel { source: Source::PerFlow, ..Tunnel::default() };
    let mut director = Director::new(rules(&tunnel, false));
    let source = |frame: Vec<u8>| unwrap(&frame).source;
    let frame = |l4_port: u16| {
        let mut frame = Packet::new(false, true).frame();
        frame[34..36].copy_from_slice(&l4_port.to_be_bytes());
        frame
    };
    let mut sources: Vec<_> = (1..=200).map(|port| source(director.send(frame(port)).unwrap())).collect();
    assert_eq!(source(director.send(frame(7)).unwrap()), sources[6]);
    sources.sort();
    sources.dedup();
    assert_eq!(sources.len(), 200);
}

#[test]
fn a_service_without_flows_tunnels_each_packet() {
    for flows in [Flows::None, Flows::OnePacket] {
        let rules = with_service(rules(&Tunnel::default(), true), 1, |service| service.policy.flows = flows);
        let mut director = Director::new(rules);
        for is_v6 in [false, true] {
            let packet = Packet::new(is_v6, false);
            let frame = director.send(packet.frame()).unwrap();
            assert_eq!(unwrap(&frame).packet, packet.one_hop_on());
        }
        assert_eq!((director.table_used(), director.drops()), (0, vec![]));
        director.assert_balanced();
    }
}

#[test]
fn the_last_hop_is_not_spent_in_a_tunnel_unless_the_rules_keep_the_ttl() {
    for is_v6 in [false, true] {
        let packet = Packet { ttl: 1, ..Packet::new(is_v6, true) };
        let mut director = Director::new(rules(&Tunnel::default(), false));
        assert_eq!(director.send(packet.frame()), None);
        assert_eq!(director.drops(), [(DropReason::TtlExpired, 1)]);
        let mut director = Director::new(rules(&Tunnel { lowers_ttl: false, ..Tunnel::default() }, false));
        assert_eq!(unwrap(&director.send(packet.frame()).unwrap()).packet, packet.bytes());
    }
}

#[test]
fn a_checksum_that_came_in_wrong_goes_out_wrong_inside_and_outside() {
    let carrier = CARRIERS[4];
    let mut director = Director::new(rules(&Tunnel { carrier, ..Tunnel::default() }, true));
    let mut frame = Packet::new(false, true).frame();
    *frame.last_mut().unwrap() ^= 1;
    let sent = director.send(frame.clone()).unwrap();
    let packet = PacketHeaders::from_ethernet_slice(&sent).unwrap();
    let (Some(TransportHeader::Udp(udp)), Some(ip)) = (packet.transport, packet.net) else { panic!("UDP") };
    let NetHeaders::Ipv6(ip, _) = &ip else { panic!("IPv6") };
    assert_ne!(udp.checksum, udp.calc_checksum_ipv6(ip, &sent[62..]).unwrap());
    assert_eq!(sent[62 + 20..], frame[14 + 20..], "all behind the IPv4 header as it came");
}

#[test]
fn a_datagram_without_checksum_and_one_shorter_than_its_packet_have_a_right_one_outside() {
    let carrier = CARRIERS[3];
    let mut director = Director::new(rules(&Tunnel { carrier, ..Tunnel::default() }, true));
    let mut bare = Packet::new(false, false).frame();
    bare[40..42].fill(0);
    // A UDP length that leaves four bytes of the packet to nobody.
    let mut short = Packet::new(false, false).frame();
    short[39] -= 4;
    for frame in [bare, short] {
        let unwrapped = unwrap(&director.send(frame.clone()).unwrap());
        assert_eq!(unwrapped.packet[20..], frame[34..]);
        assert_ne!(unwrapped.udp.unwrap().checksum, 0);
    }
}

#[test]
fn a_packet_that_no_header_fits_before_is_dropped() {
    let mut director = Director::new(rules(&Tunnel::default(), true));
    let packet = Packet { payload: vec![0; 65_535 - 28 - 20], ..Packet::new(false, false) };
    assert_eq!(director.send(packet.frame()), None);
    assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
    director.assert_balanced();
}

#[test]
fn a_backend_hears_in_its_tunnel_that_its_connection_is_forgotten() {
    let policy = Policy { on_timeout: OnTimeout::Reset, ..Policy::default() };
    let mut director = Director::new(with_policy(rules(&Tunnel::default(), false), &policy));
    let syn = Packet::new(false, true).frame();
    director.send(syn.clone()).unwrap();
    let mut data = syn;
    // ACK in place of SYN; the checksum counts both in one word.
    data[47] = 0x10;
    director.send(data).unwrap();
    let established = policy.timeouts.of(TcpState::Established);
    director.clock.advance(established + 1);
    director.turn();
    director.wait(3_000);
    let sent = director.sent();
    let to_backend: Vec<_> = sent.iter().filter(|(port, _)| *port == BACK).collect();
    assert_eq!(to_backend.len(), 1, "{} sent", sent.len());
    let unwrapped = unwrap(&to_backend[0].1);
    let inner = PacketHeaders::from_ip_slice(&unwrapped.packet).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = inner.transport else { panic!("TCP") };
    assert!(tcp.rst && tcp.source_port == 40_000 && unwrapped.destination == Ipv4Addr::new(10, 0, 0, 11));
}

/// Rules that unwrap everything at both outer addresses, and forward by the default tunnel.
fn unwrapping() -> Ruleset {
    let decap = Decap {
        addresses: [IpAddr::from(OUTER), OUTER6.into()].into_iter().collect(),
        ipip: true,
        gre: true,
        gue_port: Some(6_080),
    };
    Ruleset { decap: Some(Arc::new(decap)), ..rules(&Tunnel::default(), false) }
}

/// A frame to the director with `packet` in a tunnel.
fn wrapped(packet: &Packet, carrier: Carrier, is_outer_v6: bool, traffic_class: u8) -> Vec<u8> {
    let carrier = match carrier {
        Carrier::Gue { has_header, .. } => Carrier::Gue { has_header, l4_port: 6_080 },
        other => other,
    };
    let destination: IpAddr = if is_outer_v6 { OUTER6.into() } else { OUTER.into() };
    let tunnel = Tunnel { carrier, source: Source::PerFlow, ..Tunnel::default() };
    let encapsulation = Encapsulation::new(&tunnel, None, destination).unwrap();
    let bytes = packet.bytes();
    let inner = dataplane::rules::Inner {
        is_v6: packet.is_v6,
        traffic_class,
        ttl: 64,
        len: bytes.len() as u16,
        client_tail: [1, 2, 3, 4],
        client_port: 9,
        second_choice: None,
        sum: None,
    };
    let mut frame = [PORT_MACS[0].0, CLIENT_MAC.0].concat();
    frame.extend(encapsulation.ethertype().to_be_bytes());
    frame.extend(&encapsulation.header(&inner)[..encapsulation.added_len().into()]);
    frame.extend(bytes);
    frame
}

#[test]
fn what_comes_in_a_tunnel_is_unwrapped_and_served() {
    for (carrier, is_outer_v6) in CARRIERS.iter().flat_map(|carrier| [(carrier, false), (carrier, true)]) {
        let mut director = Director::new(unwrapping());
        for is_v6 in [false, true] {
            let packet = Packet::new(is_v6, true);
            let mut frame = wrapped(&packet, *carrier, is_outer_v6, 0);
            let bytes = frame.len() as u64;
            // Ethernet's padding is no part of the packet.
            frame.extend([0xee; 9]);
            let before = director.counters.port(FRONT).rx.bytes.value();
            let sent = director.send(frame).unwrap();
            assert_eq!(unwrap(&sent).packet, packet.one_hop_on());
            assert_eq!(director.counters.port(FRONT).rx.bytes.value() - before, bytes + 9);
        }
        assert_eq!((director.counters.decapsulated.value(), director.drops()), (2, vec![]));
        director.assert_balanced();
    }
}

#[test]
fn tunnels_that_do_not_end_here_are_the_kernels() {
    let rules = unwrapping();
    let ipip_alone = Decap { gre: false, gue_port: None, ..Decap::clone(rules.decap.as_deref().unwrap()) };
    let mut director = Director::new(Ruleset { decap: Some(Arc::new(ipip_alone)), ..rules });
    director.worker.device_mut().ports[0].twin = true;
    let packet = Packet::new(false, true);
    let mut elsewhere = wrapped(&packet, Carrier::Ipip, false, 0);
    elsewhere[33] ^= 1;
    for frame in [elsewhere, wrapped(&packet, CARRIERS[1], false, 0), wrapped(&packet, CARRIERS[3], true, 0)]
    {
        director.receive(FRONT, frame.clone());
        director.turn();
        let punted = director.worker.device_mut().ports[0].punted.last().unwrap();
        assert_eq!(data(punted), frame, "untouched");
    }
    assert_eq!(director.counters.decapsulated.value(), 0);
    director.assert_balanced();
}

#[test]
fn what_cannot_be_unwrapped_is_dropped_for_a_reason_each() {
    let packet = Packet::new(false, true);
    let ipip = || wrapped(&packet, Carrier::Ipip, false, 0);
    let changed = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        frame
    };
    let mut nested = ipip();
    let inner = nested.split_off(34);
    let twice = {
        let mut outer = nested.clone();
        outer.extend(&nested[14..]);
        outer.extend(inner);
        let len = (outer.len() - 14) as u16;
        outer[16..18].copy_from_slice(&len.to_be_bytes());
        outer
    };
    for (frame, reason) in [
        (changed(ipip(), 20, 0x20), DropReason::DecapFragment),
        (twice, DropReason::DecapNested),
        (changed(ipip(), 34, 0x65), DropReason::DecapPacket),
        (changed(ipip(), 37, 200), DropReason::DecapPacket),
        (changed(wrapped(&packet, CARRIERS[1], false, 0), 35, 1), DropReason::DecapHeader),
        (changed(wrapped(&packet, CARRIERS[3], false, 0), 42, 0x20), DropReason::DecapHeader),
        (wrapped(&packet, Carrier::Ipip, true, 3), DropReason::DecapCongestion),
    ] {
        let mut director = Director::new(unwrapping());
        assert_eq!(director.send(frame), None);
        assert_eq!(director.drops(), [(reason, 1)]);
        director.assert_balanced();
    }
}

#[test]
fn congestion_in_the_tunnel_is_told_to_whom_it_concerns() {
    for is_v6 in [false, true] {
        for (inner, outer, expected) in
            [(2, 3, 3), (1, 3, 3), (3, 0, 3), (2, 1, 1), (1, 2, 1), (2, 0, 2), (0, 1, 0), (0, 2, 0)]
        {
            let mut frame = wrapped(&Packet::new(is_v6, true), Carrier::Ipip, true, outer);
            if is_v6 {
                frame[55] |= inner << 4;
            } else {
                frame[55] |= inner;
                // RFC 1624 by hand: the checksum loses what the word gains.
                let checksum = u16::from_be_bytes([frame[64], frame[65]]);
                frame[64..66].copy_from_slice(&checksum.wrapping_sub(inner.into()).to_be_bytes());
            }
            let mut director = Director::new(unwrapping());
            let sent = unwrap(&director.send(frame).unwrap()).packet;
            let ecn = if is_v6 { sent[1] >> 4 } else { sent[1] } & 3;
            assert_eq!(ecn, expected, "{inner} in {outer}");
            if let Some(NetHeaders::Ipv4(ip, _)) = PacketHeaders::from_ip_slice(&sent).unwrap().net {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_in_a_tunnel_are_forwarded_punted_or_dropped_and_the_books_balance(
        carrier in 0usize..5, is_outer_v6 in any::<bool>(), is_v6 in any::<bool>(),
        changes in proptest::collection::vec((14usize..110, any::<u8>()), 0..5), cut in 14usize..140
    ) {
        let mut frame = wrapped(&Packet::new(is_v6, true), CARRIERS[carrier], is_outer_v6, 0);
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(cut);
        let mut director = Director::new(unwrapping());
        director.worker.device_mut().ports[0].twin = true;
        director.receive(FRONT, frame);
        director.turn();
        director.assert_balanced();
    }
}

#[test]
fn a_backend_without_an_outer_address_cannot_be_reached() {
    let mut rules = rules(&Tunnel::default(), false);
    rules.encapsulations = Arc::default();
    rules.adjacencies = vec![Adjacency::resolved(backend_mac(0), PORT_MACS[1], BACK); 2].into();
    let mut director = Director::new(rules);
    assert_eq!(director.send(Packet::new(false, true).frame()), None);
    assert_eq!(director.drops(), [(DropReason::NextHopUnresolved, 1)]);
    assert_eq!(director.counters.backend(BackendIndex(0)).opened.value(), 0);
}

#[test]
fn what_comes_in_a_tunnel_crosses_to_the_worker_that_owns_what_is_in_it() {
    let mut team = Team::with(&Ruleset { worker_count: 3, ..unwrapping() });
    for l4_port in 0..60u16 {
        let mut frame = wrapped(&Packet::new(false, true), Carrier::Ipip, false, 0);
        frame[54..56].copy_from_slice(&l4_port.to_be_bytes());
        team.0[0].receive(FRONT, frame);
        team.turn();
    }
    let forwarded: Vec<_> = team.0.iter().map(|director| director.counters.forwarded.value()).collect();
    assert!(forwarded.iter().all(|count| *count > 5) && forwarded.iter().sum::<u64>() == 60, "{forwarded:?}");
    let unwrapped: Vec<_> = team.0.iter().map(|director| director.counters.decapsulated.value()).collect();
    assert_eq!(unwrapped, [60, 0, 0], "once, where they came in");
    for director in &mut team.0 {
        for (_, frame) in director.sent() {
            assert_eq!(unwrap(&frame).packet.len(), Packet::new(false, true).bytes().len());
        }
        assert_eq!(director.drops(), []);
    }
}

#[test]
fn without_room_in_front_a_packet_is_dropped() {
    let mut director = Director::new(rules(&Tunnel::default(), true));
    let mut packet = MemoryPacket::new(Packet::new(false, true).frame(), FRONT);
    // Takes 100 of the 128 bytes there are, and leaves the frame behind them.
    packet.prepend(100).unwrap().fill(0);
    assert!(packet.trim_front(100));
    packet.prepend(100).unwrap();
    let frame = Packet::new(false, true).frame();
    packet.data_mut()[..frame.len()].copy_from_slice(&frame);
    director.worker.device_mut().ports[0].incoming.push_back(packet);
    director.turn();
    assert_eq!(director.drops(), [(DropReason::NoHeadroom, 1)]);
    director.assert_balanced();
}

/// RFC 6935: a sum that nobody can tell without the other segments is left out, and not made up.
#[test]
fn a_datagram_without_checksum_in_several_buffers_has_none_outside_either() {
    let mut director = Director::new(rules(&Tunnel { carrier: CARRIERS[3], ..Tunnel::default() }, true));
    let mut frame = Packet { payload: vec![7; 3_000], ..Packet::new(false, false) }.frame();
    frame[40..42].fill(0);
    let packet = MemoryPacket::new(frame, FRONT).with_first_segment(2_000);
    director.worker.device_mut().ports[0].incoming.push_back(packet);
    director.turn();
    let sent = director.worker.device_mut().ports[1].outgoing.pop().unwrap();
    assert_eq!((sent.packet_len(), &sent.data()[60..62]), (14 + 52 + 3_028, &[0, 0][..]));
}

/// In IPv6 it is none that its receiver may take (RFC 8200 section 8.1), which is for the receiver to say: it is the packet as it came.
#[test]
fn a_datagram_without_checksum_in_ipv6_stays_as_it_is_in_a_tunnel() {
    for (carrier, outer_is_v6) in CARRIERS.into_iter().flat_map(|carrier| [(carrier, false), (carrier, true)])
    {
        let tunnel = Tunnel { carrier, ..Tunnel::default() };
        let mut director = Director::new(rules(&tunnel, outer_is_v6));
        let mut frame = Packet::new(true, false).frame();
        frame[60..62].fill(0);
        let inner = unwrap(&director.send(frame.clone()).unwrap()).packet;
        assert_eq!((inner[7], &inner[8..]), (frame[21] - 1, &frame[22..]));
    }
}
