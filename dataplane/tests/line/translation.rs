//! FullNAT between the families, written and read by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dataplane::index::{PortIndex, ServiceIndex};
use dataplane::local_port::LocalPool;
use dataplane::rules::{Mode, PortRules, Ruleset, ServiceKey, Vip};
use dataplane::verdict::DropReason;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::common::director::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, backend_mac, ruleset};
use crate::datagrams::sum;
use crate::icmp_errors::Error;
use crate::tunnel_errors;

/// The addresses of one direction of translation.
pub(crate) struct Case {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    local: IpAddr,
    server: SocketAddr,
}

/// The backend's endpoint.
pub(crate) fn server(case: &Case) -> SocketAddr {
    case.server
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// NAT64 and NAT46.
pub(crate) fn cases() -> [Case; 2] {
    let six = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
    [
        Case {
            client: endpoint("[2001:db8:1:2:3:4:5:6]:40000"),
            vip: endpoint("[2001:db8::10]:80"),
            local: Ipv4Addr::new(10, 0, 0, 64).into(),
            server: endpoint("10.0.0.11:9000"),
        },
        Case {
            client: endpoint("198.51.100.7:40000"),
            vip: endpoint("203.0.113.10:80"),
            local: six(0x64),
            server: (six(0x11), 9_000).into(),
        },
    ]
}

pub(crate) fn rules(case: &Case, protocol: u8) -> Ruleset {
    let spec = ServiceSpec { protocol, l4_port: 80, mode: Mode::Fullnat, scheduler: "rr", weights: &[1] };
    let mut rules = ruleset(1, &[spec]);
    let mut backends = rules.backends.to_vec();
    backends[0].address = case.server.ip();
    rules.backends = backends.into();
    let key = ServiceKey { vip: case.vip.ip(), l4_port: 80, protocol };
    rules.matcher = Arc::new([(key, ServiceIndex(0))].into_iter().collect());
    rules.vips = Arc::new([(case.vip.ip(), Vip::PLAIN)].into_iter().collect());
    rules.local_addresses = Arc::new([(case.local, ())].into_iter().collect());
    rules.local_pools = Arc::new([LocalPool { addresses: [case.local].into() }]);
    let station = Some(PORT_MACS[1]);
    rules.ports = Arc::new([
        PortRules { station: Some(PORT_MACS[0]), ..PortRules::default() },
        PortRules { station, local_pool: Some(0), local_pool6: Some(0), ..PortRules::default() },
    ]);
    rules
}

/// A segment or a datagram of such a payload.
pub(crate) fn frame(
    protocol: u8,
    macs: ([u8; 6], [u8; 6]),
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 60),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 60),
        families => panic!("{families:?}"),
    };
    let mut frame = Vec::new();
    if protocol == TCP {
        let tcp = ip.tcp(from.port(), to.port(), 1_000, 1_024);
        let tcp = if payload.is_empty() { tcp.syn() } else { tcp.ack(7) };
        tcp.write(&mut frame, payload).unwrap();
    } else {
        ip.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
    }
    frame
}

/// What an independent decoder reads of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    to: [u8; 6],
    source: SocketAddr,
    destination: SocketAddr,
    hops: u8,
    pub(crate) payload: Vec<u8>,
}

/// Reads a frame whose lengths and checksums are right.
pub(crate) fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let net = packet.net.as_ref().unwrap();
    let (source, destination, hops) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.dont_fragment, header.total_len > 1_260, "RFC 7915 section 5.1");
            assert_eq!(header.identification == 0, header.dont_fragment);
            (IpAddr::from(header.source), IpAddr::from(header.destination), header.time_to_live)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into(), header.hop_limit)
        }
        other => panic!("{other:?}"),
    };
    let (ports, payload) = match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let expected = match net {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                other => panic!("{other:?}"),
            };
            assert_eq!(header.checksum, expected.unwrap());
            ((header.source_port, header.destination_port), payload)
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let expected = match net {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                other => panic!("{other:?}"),
            };
            assert_eq!(header.checksum, expected.unwrap());
            ((header.source_port, header.destination_port), payload)
        }
        other => panic!("{other:?}"),
    };
    Read {
        to: frame[..6].try_into().unwrap(),
        source: (source, ports.0).into(),
        destination: (destination, ports.1).into(),
        hops,
        payload: payload.to_vec(),
    }
}

fn pass(director: &mut Director, port: PortIndex, frame: Vec<u8>) -> Read {
    read(&director.pass(port, frame).expect("a packet").1)
}

#[test]
fn connections_are_translated_both_ways_and_their_payload_stays() {
    for (case, protocol) in cases().iter().flat_map(|case| [(case, TCP), (case, UDP)]) {
        let mut director = Director::new(rules(case, protocol));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        for payload in [&[][..], b"GET / HTTP/1.0", &[0x5a; 1_300]] {
            let asked = frame(protocol, client_macs, case.client, case.vip, payload);
            let there = pass(&mut director, FRONT, asked);
            assert_eq!((there.to, there.destination, there.hops), (backend_mac(0).0, case.server, 59));
            assert_eq!((there.source.ip(), &there.payload[..]), (case.local, payload));
            let answer = frame(protocol, server_macs, case.server, there.source, payload);
            let back = pass(&mut director, BACK, answer);
            let expected = Read {
                to: CLIENT_MAC.0,
                source: case.vip,
                destination: case.client,
                hops: 59,
                payload: payload.to_vec(),
            };
            assert_eq!(back, expected);
        }
        assert_eq!(director.worker.line().state.table.used(), 2, "one connection");
        let bytes = |port: PortIndex| director.counters.port(port).tx.bytes.value();
        assert_ne!(bytes(FRONT), bytes(BACK), "as long as they are now");
    }
}

#[test]
fn a_datagram_without_checksum_gets_the_one_that_ipv6_asks_for() {
    let case = &cases()[1];
    let mut director = Director::new(rules(case, UDP));
    let mut bare = frame(UDP, (CLIENT_MAC.0, PORT_MACS[0].0), case.client, case.vip, b"odd");
    bare[40..42].fill(0);
    assert_eq!(pass(&mut director, FRONT, bare).payload, b"odd");
}

/// Over IPv4 its zero would be what honest senders write; in IPv6 nobody may send it (RFC 8200 section 8.1).
#[test]
fn a_datagram_that_came_without_checksum_in_ipv6_is_not_translated() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        let there = pass(&mut director, FRONT, frame(UDP, client_macs, case.client, case.vip, b"question"));
        let (port, mut bare) = if case.client.is_ipv6() {
            (FRONT, frame(UDP, client_macs, case.client, case.vip, b"question"))
        } else {
            (BACK, frame(UDP, server_macs, case.server, there.source, b"answer"))
        };
        bare[60..62].fill(0);
        assert_eq!(director.pass(port, bare), None);
        assert_eq!(director.drops(), [(DropReason::UdpChecksum, 1)]);
    }
}

/// Sets the TTL, and what it says of the header checksum, or the hop limit.
fn set_hops(frame: &mut [u8], hops: u8) {
    if frame[12] == 0x86 {
        frame[21] = hops;
        return;
    }
    frame[22] = hops;
    frame[24..26].fill(0);
    let check = !sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

#[test]
fn the_last_hop_ends_here() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        let mut frame = frame(UDP, (CLIENT_MAC.0, PORT_MACS[0].0), case.client, case.vip, b"x");
        set_hops(&mut frame, 1);
        assert_eq!(director.pass(FRONT, frame), None);
        assert_eq!(director.counters.dropped(DropReason::TtlExpired).value(), 1);
    }
}

/// An ICMP error of a router about `quoted`, the packet of a frame, which goes back to that frame's sender.
fn error_about(frame: &[u8], macs: ([u8; 6], [u8; 6])) -> Vec<u8> {
    let quoted = &frame[14..];
    let mut error = Vec::new();
    let link = PacketBuilder::ethernet2(macs.0, macs.1);
    if frame[12] == 0x86 {
        let source: [u8; 16] = quoted[8..24].try_into().unwrap();
        let router = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).octets();
        let kind = etherparse::Icmpv6Type::PacketTooBig { mtu: 1_400 };
        link.ipv6(router, source, 60).icmpv6(kind).write(&mut error, quoted).unwrap();
    } else {
        let source: [u8; 4] = quoted[12..16].try_into().unwrap();
        let needed = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
        let kind = etherparse::Icmpv4Type::DestinationUnreachable(needed);
        link.ipv4([192, 0, 2, 1], source, 60).icmpv4(kind).write(&mut error, quoted).unwrap();
    }
    error
}

/// The MTU that an error tells, and what it quotes; its checksum is right.
fn told(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (packet.net.as_ref().unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
            let etherparse::Icmpv6Type::PacketTooBig { mtu } = icmp.icmp_type() else {
                panic!("{:?}", icmp.icmp_type())
            };
            (mtu, icmp.payload().to_vec())
        }
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let message = icmp.slice();
            assert_eq!(
                icmp.header().icmp_type.calc_checksum(icmp.payload()),
                u16::from_be_bytes([message[2], message[3]])
            );
            assert_eq!(message[..2], [3, 4]);
            (u16::from_be_bytes([message[6], message[7]]).into(), icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_about_translated_packets_reach_their_senders_in_their_own_words() {
    for (case, protocol) in cases().iter().flat_map(|case| [(case, TCP), (case, UDP)]) {
        let mut director = Director::new(rules(case, protocol));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        pass(&mut director, FRONT, frame(protocol, client_macs, case.client, case.vip, &[]));
        let asked = frame(protocol, client_macs, case.client, case.vip, &[0x5a; 900]);
        let (_, there) = director.pass(FRONT, asked.clone()).unwrap();
        // A router between the director and the backend cannot send it.
        let (port, out) = director.pass(BACK, error_about(&there, server_macs)).unwrap();
        assert_eq!((port, &out[..6]), (FRONT, &CLIENT_MAC.0[..]));
        let (mtu, quoted) = told(&out);
        assert_eq!(mtu, if case.client.is_ipv6() { 1_420 } else { 1_380 }, "20 bytes between the headers");
        // What it quotes is what the client sent, but for the hops and what IPv4 alone has.
        let header_len = if case.client.is_ipv6() { 40 } else { 20 };
        let addresses_at = header_len - if case.client.is_ipv6() { 32 } else { 8 };
        let sent = &asked[14..];
        assert_eq!(quoted[addresses_at..], sent[addresses_at..][..quoted.len() - addresses_at]);
        assert_eq!(quoted.len(), sent.len().min(1_280 - 48));
        // And one between the client and the director, about the answer.
        let there = read(&there);
        let answer = frame(protocol, server_macs, case.server, there.source, &[0xa5; 900]);
        let (_, back) = director.pass(BACK, answer.clone()).unwrap();
        let (port, out) = director.pass(FRONT, error_about(&back, client_macs)).unwrap();
        assert_eq!((port, &out[..6]), (BACK, &backend_mac(0).0[..]));
        let (mtu, quoted) = told(&out);
        assert_eq!(mtu, if case.client.is_ipv6() { 1_380 } else { 1_420 });
        let header_len = quoted.len() - (answer.len() - 14 - if case.server.is_ipv6() { 40 } else { 20 });
        assert_eq!(quoted[header_len..], answer[answer.len() - (quoted.len() - header_len)..]);
    }
}

#[test]
fn an_error_does_not_move_the_client_to_the_router_that_sent_it() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        let there = pass(&mut director, FRONT, frame(UDP, client_macs, case.client, case.vip, b"question"));
        let answer = frame(UDP, server_macs, case.server, there.source, b"answer");
        let (_, back) = director.pass(BACK, answer.clone()).unwrap();
        let another_router = ([2, 0, 0, 0, 9, 8], PORT_MACS[0].0);
        director.pass(FRONT, error_about(&back, another_router)).expect("told to the backend");
        assert_eq!(pass(&mut director, BACK, answer).to, CLIENT_MAC.0);
    }
}

#[test]
fn the_last_hop_of_an_error_ends_here_too() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        let asked = frame(UDP, client_macs, case.client, case.vip, b"question");
        let (_, there) = director.pass(FRONT, asked).unwrap();
        let mut error = error_about(&there, server_macs);
        set_hops(&mut error, 1);
        assert_eq!(director.pass(BACK, error), None);
        assert_eq!(director.drops(), [(DropReason::TtlExpired, 1)]);
    }
}

/// RFC 7915 section 4.1 leaves the header checksum behind: nobody after the director could tell that it was wrong.
#[test]
fn a_wrong_ipv4_header_does_not_become_a_right_one_of_ipv6() {
    for (case, protocol) in cases().iter().flat_map(|case| [(case, TCP), (case, UDP)]) {
        let mut director = Director::new(rules(case, protocol));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        let there = pass(&mut director, FRONT, frame(protocol, client_macs, case.client, case.vip, &[]));
        let (port, sane) = if case.client.is_ipv4() {
            (FRONT, frame(protocol, client_macs, case.client, case.vip, b"question"))
        } else {
            (BACK, frame(protocol, server_macs, case.server, there.source, b"answer"))
        };
        // DSCP, identification, a flag, hops, and the checksum itself.
        let flips = [(15, 0x10), (18, 0x80), (19, 1), (20, 0x40), (22, 4), (24, 2), (25, 0x20)];
        for (at, bit) in flips {
            let mut bad = sane.clone();
            bad[at] ^= bit;
            assert_eq!(director.pass(port, bad), None, "byte {at}");
        }
        assert_eq!(director.drops(), [(DropReason::Ipv4Checksum, flips.len() as u64)]);
        assert!(director.pass(port, sane).is_some());
        director.assert_balanced();
    }
}

/// The errors of [`error_about`] about a question, to the director's local address, and about an answer, to its VIP.
fn errors(director: &mut Director, case: &Case) -> [(PortIndex, Vec<u8>); 2] {
    let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
    let (_, there) =
        director.pass(FRONT, frame(UDP, client_macs, case.client, case.vip, b"question")).unwrap();
    let answer = frame(UDP, server_macs, case.server, read(&there).source, b"answer");
    let (_, back) = director.pass(BACK, answer).unwrap();
    [(BACK, error_about(&there, server_macs)), (FRONT, error_about(&back, client_macs))]
}

/// RFC 5508 section 4.1: the message is summed up anew, so a bit that has fallen over on the way would be hidden for good.
#[test]
fn an_error_with_a_wrong_checksum_is_not_translated() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        for (port, sane) in errors(&mut director, &case) {
            let message_at = if sane[12] == 0x86 { 54 } else { 34 };
            for at in message_at..sane.len() {
                let mut bad = sane.clone();
                bad[at] ^= 1 << (at % 8);
                director.receive(port, bad);
                director.turn();
                assert_eq!(director.sent(), [], "byte {at}");
            }
            // Of the header around it, IPv4's alone has a checksum.
            if message_at == 34 {
                let dropped = director.counters.dropped(DropReason::Ipv4Checksum).value();
                let mut bad = sane.clone();
                bad[18] ^= 1;
                assert_eq!(director.pass(port, bad), None);
                assert_eq!(director.counters.dropped(DropReason::Ipv4Checksum).value(), dropped + 1);
            }
            assert!(director.pass(port, sane).is_some());
        }
    }
}

/// RFC 5508 section 4.1, point a: of what is quoted the IP header's checksum is looked at, and nothing else.
#[test]
fn an_error_that_quotes_a_wrong_ipv4_header_is_not_translated() {
    for case in cases() {
        let mut director = Director::new(rules(&case, UDP));
        let errors = errors(&mut director, &case);
        let (port, sane) = errors.into_iter().find(|(_, error)| error[12] == 8).unwrap();
        // The quoted header begins at 42; the message's checksum follows each change.
        for (at, is_told) in [(43, false), (46, false), (50, false), (52, false), (68, true)] {
            let mut bad = sane.clone();
            let old = u16::from_be_bytes([bad[at & !1], bad[at | 1]]);
            bad[at] ^= 0x10;
            let new = u16::from_be_bytes([bad[at & !1], bad[at | 1]]);
            let check = u16::from_be_bytes([bad[36], bad[37]]);
            let sum = u32::from(!check) + u32::from(!old) + u32::from(new);
            let sum = (sum & 0xffff) + (sum >> 16);
            let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
            bad[36..38].copy_from_slice(&check.to_be_bytes());
            assert_eq!(director.pass(port, bad).is_some(), is_told, "byte {at}");
        }
        assert_eq!(director.drops(), [(DropReason::IcmpQuote, 4)]);
    }
}

/// `frame` with these bytes behind its IP header: options of IPv4, or the extension headers of IPv6 that `next` begins.
fn extended(frame: &[u8], next: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12] == 0x86 {
        frame.splice(54..54, bytes.iter().copied());
        frame[19] += bytes.len() as u8;
        frame[20] = next;
        return frame;
    }
    frame.splice(34..34, bytes.iter().copied());
    frame[14] += (bytes.len() / 4) as u8;
    frame[17] += bytes.len() as u8;
    frame[24..26].fill(0);
    let check = !sum(&[&frame[14..34 + bytes.len()]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

/// RFC 7915 sections 4.1 and 5.1. A route that has been gone is history and is left behind, as other options are.
#[test]
fn a_packet_on_a_way_that_its_header_names_is_not_translated() {
    const ROUTING: u8 = 43;
    const OPTIONS: u8 = 60;
    // Loose and strict; the pointer is behind the last station, or at it.
    let routes4: [(&[u8], bool); 6] = [
        (&[131, 7, 4, 192, 0, 2, 9, 0], true),
        (&[137, 7, 4, 192, 0, 2, 9, 0], true),
        (&[1, 1, 1, 68, 4, 5, 0, 131, 7, 4, 192, 0, 2, 9, 0, 0], true),
        (&[131, 7, 8, 192, 0, 2, 9, 0], false),
        (&[1, 1, 1, 0, 131, 7, 4, 192], false),
        (&[68, 0, 5, 0], false),
    ];
    // A type that nobody knows, with one and without any segment left.
    let routes6: [(u8, &[u8], bool); 4] = [
        (ROUTING, &[17, 0, 99, 1, 0, 0, 0, 0], true),
        (OPTIONS, &[ROUTING, 0, 1, 4, 0, 0, 0, 0, 17, 0, 99, 1, 0, 0, 0, 0], true),
        (ROUTING, &[17, 0, 99, 0, 0, 0, 0, 0], false),
        (OPTIONS, &[17, 0, 1, 4, 0, 0, 0, 0], false),
    ];
    for case in cases() {
        let routes: Vec<_> = if case.client.is_ipv6() {
            routes6.to_vec()
        } else {
            routes4.iter().map(|(bytes, is_ahead)| (0, *bytes, *is_ahead)).collect()
        };
        for (next, bytes, is_ahead) in routes {
            let mut director = Director::new(rules(&case, UDP));
            let sane = frame(UDP, (CLIENT_MAC.0, PORT_MACS[0].0), case.client, case.vip, b"question");
            let out = director.pass(FRONT, extended(&sane, next, bytes));
            assert_eq!(out.map(|(_, out)| read(&out).payload), (!is_ahead).then(|| b"question".to_vec()));
            assert_eq!(director.counters.dropped(DropReason::SourceRoute).value(), u64::from(is_ahead));
            director.assert_balanced();
        }
    }
}

/// RFC 7915 sections 4.2 and 5.2: unreachable, too big and time exceeded, quoting all that RFC 792 asks for or more.
#[test]
fn errors_are_translated_whatever_their_kind_and_however_little_they_quote() {
    // As ICMPv6 and as ICMP have it.
    const KINDS: [[(u8, u8); 2]; 3] = [[(1, 4), (3, 3)], [(2, 0), (3, 4)], [(3, 0), (11, 0)]];
    let in_family = |kinds: [(u8, u8); 2], is_v6: bool| kinds[usize::from(!is_v6)];
    for (case, protocol) in cases().iter().flat_map(|case| [(case, TCP), (case, UDP)]) {
        let mut director = Director::new(rules(case, protocol));
        let (client_macs, server_macs) = ((CLIENT_MAC.0, PORT_MACS[0].0), (backend_mac(0).0, PORT_MACS[1].0));
        pass(&mut director, FRONT, frame(protocol, client_macs, case.client, case.vip, &[]));
        let asked = frame(protocol, client_macs, case.client, case.vip, &[0x5a; 900]);
        let (_, there) = director.pass(FRONT, asked.clone()).unwrap();
        let answer = frame(protocol, server_macs, case.server, read(&there).source, &[0xa5; 900]);
        let (_, back) = director.pass(BACK, answer.clone()).unwrap();
        let ways = [
            (BACK, FRONT, &there, &asked, server_macs, CLIENT_MAC, case.server, case.vip, case.client),
            (FRONT, BACK, &back, &answer, client_macs, backend_mac(0), case.client, case.server, case.server),
        ];
        for (kinds, quoted_len) in
            KINDS.into_iter().flat_map(|kinds| [8, 9, 20, 27, 500].map(|quoted_len| (kinds, quoted_len)))
        {
            for (port_in, port_out, about, original, macs, to, sender, _, receiver) in ways {
                let (from_v6, to_v6) = (sender.is_ipv6(), receiver.is_ipv6());
                let header_len = |is_v6: bool| if is_v6 { 40 } else { 20 };
                let kind = in_family(kinds, from_v6);
                let mut error = tunnel_errors::error(about, kind, 1_400, header_len(from_v6) + quoted_len);
                error[..6].copy_from_slice(&macs.1);
                error[6..12].copy_from_slice(&macs.0);
                let (port, out) = director.pass(port_in, error).expect("an error");
                let out = Error::of(&out);
                assert_eq!((port, out.to, out.destination), (port_out, to, receiver.ip()));
                assert_eq!(out.kind, in_family(kinds, to_v6), "{quoted_len} bytes");
                let mtu = if from_v6 { 1_380 } else { 1_420 };
                assert_eq!(out.mtu, if kind == in_family(KINDS[1], from_v6) { mtu } else { 0 });
                // The quoted L4 header is the one that its sender wrote, checksum and all.
                let l4 = &original[14 + header_len(to_v6)..];
                assert_eq!(out.quoted[header_len(to_v6)..], l4[..quoted_len], "{quoted_len} bytes");
            }
        }
        assert_eq!((director.drops(), director.counters.icmp_errors.value()), (vec![], 30));
        director.assert_balanced();
    }
}
