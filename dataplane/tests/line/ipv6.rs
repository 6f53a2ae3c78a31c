//! IPv6 through the line, written and read by etherparse.

use std::net::Ipv6Addr;
use std::sync::Arc;

use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::local_port::LocalPool;
use dataplane::rules::{Mode, NoBackend, Policy, PortRules, Ruleset, ServiceKey, Vip};
use dataplane::verdict::DropReason;
use etherparse::{Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::common::director::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{
    BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, backend_mac, ruleset, with_policy, with_service,
};

pub(crate) type Endpoint = (Ipv6Addr, u16);

pub(crate) const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const CLIENT: Endpoint = (Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6), 40_000);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);

fn server(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11 + index)
}

pub(crate) fn rules(specs: &[ServiceSpec]) -> Ruleset {
    let mut rules = ruleset(1, specs);
    let mut backends = rules.backends.to_vec();
    (0..).zip(&mut backends).for_each(|(index, backend)| backend.address = server(index).into());
    rules.backends = backends.into();
    let key = |(index, spec): (usize, &ServiceSpec)| {
        let key = ServiceKey { vip: VIP.into(), l4_port: spec.l4_port, protocol: spec.protocol };
        (key, ServiceIndex(index as u16))
    };
    rules.matcher = Arc::new(specs.iter().enumerate().map(key).collect());
    rules.vips = Arc::new([(VIP, Vip::PLAIN)].into_iter().collect());
    rules.local_addresses = Arc::new([(LOCAL, ())].into_iter().collect());
    rules.local_pools = Arc::new([LocalPool { addresses: [LOCAL.into()].into() }]);
    rules.ports = Arc::new([
        PortRules { station: Some(PORT_MACS[0]), ..PortRules::default() },
        PortRules { station: Some(PORT_MACS[1]), local_pool6: Some(0), ..PortRules::default() },
    ]);
    rules
}

fn spec(protocol: u8, mode: Mode) -> ServiceSpec {
    ServiceSpec { protocol, l4_port: 80, mode, scheduler: "rr", weights: &[1, 1] }
}

/// A TCP SYN or a datagram with three bytes.
fn frame(
    protocol: u8,
    macs: ([u8; 6], [u8; 6]),
    source: Endpoint,
    destination: Endpoint,
    hop_limit: u8,
) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(macs.0, macs.1).ipv6(source.0.octets(), destination.0.octets(), hop_limit);
    let mut frame = Vec::new();
    if protocol == TCP {
        builder.tcp(source.1, destination.1, 1_000, 1_024).syn().write(&mut frame, &[]).unwrap();
    } else {
        builder.udp(source.1, destination.1).write(&mut frame, b"abc").unwrap();
    }
    frame
}

/// The SYN of a client to the VIP.
pub(crate) fn syn(source: Endpoint, l4_port: u16) -> Vec<u8> {
    frame(TCP, (CLIENT_MAC.0, PORT_MACS[0].0), source, (VIP, l4_port), 64)
}

fn of_client(protocol: u8, destination: Endpoint) -> Vec<u8> {
    frame(protocol, (CLIENT_MAC.0, PORT_MACS[0].0), CLIENT, destination, 64)
}

/// Endpoints, hop limit and destination MAC of a frame whose lengths and checksum are right.
fn decode(frame: &[u8]) -> (Endpoint, Endpoint, u8, [u8; 6]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("not IPv6: {packet:?}") };
    let header = ip.header().to_header();
    let (source, destination) = match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let expected = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
            assert_eq!(tcp.checksum(), expected);
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let expected = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
            assert_eq!(udp.checksum(), expected);
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("{other:?}"),
    };
    let endpoint = |address, l4_port| (Ipv6Addr::from(address), l4_port);
    let to = frame[..6].try_into().unwrap();
    (endpoint(header.source, source), endpoint(header.destination, destination), header.hop_limit, to)
}

#[test]
fn direct_routing_lowers_the_hop_limit_and_keeps_the_rest() {
    for protocol in [TCP, UDP] {
        let mut director = Director::new(rules(&[spec(protocol, Mode::Dr)]));
        let (port, out) = director.pass(FRONT, of_client(protocol, (VIP, 80))).unwrap();
        assert_eq!(port, BACK);
        assert_eq!(decode(&out), (CLIENT, (VIP, 80), 63, backend_mac(0).0));
        // The same flow goes the same way.
        let (_, out) = director.pass(FRONT, of_client(protocol, (VIP, 80))).unwrap();
        assert_eq!(decode(&out).3, backend_mac(0).0);
        let last = frame(protocol, (CLIENT_MAC.0, PORT_MACS[0].0), CLIENT, (VIP, 80), 1);
        assert_eq!(director.pass(FRONT, last), None);
        assert_eq!(director.counters.dropped(DropReason::TtlExpired).value(), 1);
    }
}

#[test]
fn the_hop_limit_is_kept_where_the_rules_say_so() {
    let kept = Policy { keeps_ttl: true, ..Policy::default() };
    let mut director = Director::new(with_policy(rules(&[spec(TCP, Mode::Dr)]), &kept));
    let (_, out) = director.pass(FRONT, of_client(TCP, (VIP, 80))).unwrap();
    assert_eq!(decode(&out).2, 64);
}

#[test]
fn full_nat_rewrites_both_ways() {
    for (protocol, mode) in [(TCP, Mode::Fullnat), (UDP, Mode::Fullnat), (TCP, Mode::Nat), (UDP, Mode::Nat)] {
        let mut director = Director::new(rules(&[spec(protocol, mode)]));
        let (_, out) = director.pass(FRONT, of_client(protocol, (VIP, 80))).unwrap();
        let (source, destination, hop_limit, to) = decode(&out);
        assert_eq!((hop_limit, to, destination), (63, backend_mac(0).0, (server(0), 9_000)));
        assert_eq!(source == CLIENT, mode == Mode::Nat);
        assert!(source == CLIENT || source.0 == LOCAL);
        let answer = frame(protocol, (backend_mac(0).0, PORT_MACS[1].0), destination, source, 64);
        let (port, back) = director.pass(BACK, answer).unwrap();
        assert_eq!(port, FRONT);
        assert_eq!(decode(&back), ((VIP, 80), CLIENT, 63, CLIENT_MAC.0));
        assert_eq!(director.worker.line().state.table.used(), 2);
    }
}

#[test]
fn extension_headers_are_stepped_over() {
    let mut director = Director::new(rules(&[spec(UDP, Mode::Fullnat)]));
    let mut with_options = of_client(UDP, (VIP, 80));
    // Destination options of eight bytes in front of UDP, padded (RFC 8200 section 4.6).
    with_options.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    (with_options[20], with_options[19]) = (60, with_options[19] + 8);
    let (_, out) = director.pass(FRONT, with_options).unwrap();
    assert_eq!(decode(&out).1, (server(0), 9_000));
}

#[test]
fn who_finds_no_backend_is_told() {
    for (no_backend, protocol) in
        [(NoBackend::Reset, TCP), (NoBackend::Unreachable, TCP), (NoBackend::Reset, UDP)]
    {
        let policy = Policy { no_backend, ..Policy::default() };
        let rules = with_policy(rules(&[spec(protocol, Mode::Dr)]), &policy);
        let rules = with_service(rules, 0, |service| {
            service.members.iter_mut().for_each(|member| member.weight = 0);
        });
        let mut director = Director::new(rules);
        let asked = of_client(protocol, (VIP, 80));
        let (port, out) = director.pass(FRONT, asked.clone()).unwrap();
        assert_eq!(port, FRONT);
        if (no_backend, protocol) == (NoBackend::Reset, TCP) {
            assert_eq!(decode(&out), ((VIP, 80), CLIENT, 64, CLIENT_MAC.0));
            continue;
        }
        let packet = SlicedPacket::from_ethernet(&out).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&packet.net, &packet.transport)
        else {
            panic!("{packet:?}")
        };
        let unreachable = Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
        assert_eq!(icmp.icmp_type(), unreachable);
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        assert_eq!(icmp.payload(), &asked[14..], "the whole datagram is quoted");
        assert_eq!(director.counters.backend(BackendIndex(0)).opened.value(), 0);
    }
}

#[test]
fn lying_headers_have_a_reason_each() {
    let mut long = of_client(UDP, (VIP, 80));
    long[18] = 0xff;
    let mut old = of_client(UDP, (VIP, 80));
    old[14] = 0x55;
    let mut chain = of_client(UDP, (VIP, 80));
    chain.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0].repeat(9));
    (chain[20], chain[19]) = (60, chain[19] + 72);
    for (frame, reason) in
        [(long, DropReason::Ipv6Length), (old, DropReason::Ipv6Header), (chain, DropReason::Ipv6Extensions)]
    {
        let mut director = Director::new(rules(&[spec(UDP, Mode::Dr)]));
        assert_eq!(director.pass(FRONT, frame), None);
        assert_eq!(director.counters.dropped(reason).value(), 1, "{reason:?}");
    }
}

/// RFC 8200 section 8.1: a receiver has to discard it. It must not seem whole for the director's work; where the director
/// has none to do with it, it is the receiver's affair (RFC 6935 allows it between ends that agree).
#[test]
fn a_datagram_without_checksum_is_not_rewritten() {
    for mode in [Mode::Fullnat, Mode::Nat] {
        let mut director = Director::new(rules(&[spec(UDP, mode)]));
        let (_, out) = director.pass(FRONT, of_client(UDP, (VIP, 80))).unwrap();
        let (source, destination, ..) = decode(&out);
        let answer = frame(UDP, (backend_mac(0).0, PORT_MACS[1].0), destination, source, 64);
        for (port, mut frame) in [(FRONT, of_client(UDP, (VIP, 80))), (BACK, answer)] {
            frame[60..62].fill(0);
            assert_eq!(director.pass(port, frame), None);
        }
        assert_eq!(director.drops(), [(DropReason::UdpChecksum, 2)]);
        director.assert_balanced();
    }
    let mut director = Director::new(rules(&[spec(UDP, Mode::Dr)]));
    let mut bare = of_client(UDP, (VIP, 80));
    bare[60..62].fill(0);
    let (_, out) = director.pass(FRONT, bare.clone()).unwrap();
    assert_eq!((out[21], &out[22..]), (63, &bare[22..]));
}
