//! ICMP errors about packets of flows: they find the backend, or the client, and quote what that one sent.

use std::net::IpAddr;

use dataplane::index::PortIndex;
use dataplane::rules::{Flows, Ruleset, Tunnel};
use dataplane::verdict::DropReason;
use dataplane::wire::Addresses;
use dataplane::wire::ethernet::MacAddress;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, icmpv4};
use proptest::prelude::*;

use crate::common::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{BACK, FRONT, PORT_MACS, TCP, UDP, VIP, with_service};
use crate::datagrams::{End, FAMILIES, Whole, address, client, frame, from_client, rules, sum, vip};
use crate::fragments::nat_rules;
use crate::tunnels::{self, CARRIERS};
use crate::workers::Team;

/// An error to the sender of `quoted`, an IP packet, from `router`.
pub(crate) fn error(to: MacAddress, from: MacAddress, router: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(from.0, to.0);
    let mut bytes = Vec::new();
    match router {
        IpAddr::V4(router) => {
            let source: [u8; 4] = *quoted[12..].first_chunk().unwrap();
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
            link.ipv4(router.octets(), source, 61)
                .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
                .write(&mut bytes, quoted)
                .unwrap();
        }
        IpAddr::V6(router) => {
            let source: [u8; 16] = *quoted[8..].first_chunk().unwrap();
            link.ipv6(router.octets(), source, 61)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1_400 })
                .write(&mut bytes, quoted)
                .unwrap();
        }
    }
    bytes
}

/// Type and code of fragmentation needed, and of packet too big.
pub(crate) fn too_big(is_v6: bool) -> (u8, u8) {
    if is_v6 { (2, 0) } else { (3, 4) }
}

/// An error as an independent decoder reads it, every checksum found to be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) to: MacAddress,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    hops: u8,
    /// Type and code.
    pub(crate) kind: (u8, u8),
    /// The MTU it tells.
    pub(crate) mtu: u32,
    pub(crate) quoted: Vec<u8>,
}

impl Error {
    pub(crate) fn of(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let message_at = 14 + if frame[14] >> 4 == 6 { 40 } else { 20 };
        let message = &frame[message_at..];
        let mtu = u32::from_be_bytes(*message[4..].first_chunk().unwrap());
        let (source, destination, hops) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(sum(&[message]), 0xffff, "ICMP checksum");
                (IpAddr::from(header.source), IpAddr::from(header.destination), header.time_to_live)
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                let len = (message.len() as u16).to_be_bytes();
                let sum = sum(&[&header.source, &header.destination, &len, &[0, 58], message]);
                assert_eq!(sum, 0xffff, "ICMPv6 checksum");
                (IpAddr::from(header.source), IpAddr::from(header.destination), header.hop_limit)
            }
            other => panic!("{other:?}"),
        };
        let to = MacAddress(*frame.first_chunk().unwrap());
        let kind = (message[0], message[1]);
        Self { to, source, destination, hops, kind, mtu, quoted: message[8..].to_vec() }
    }
}

/// The IP packet of a frame, of which so much is quoted.
fn quote(frame: &[u8], len: usize) -> &[u8] {
    let packet = &frame[14..];
    &packet[..len.min(packet.len())]
}

/// Bytes of an IP header.
const fn ip_header_len(is_v6: bool) -> usize {
    if is_v6 { 40 } else { 20 }
}

/// Lengths that are quoted beyond the IP header: the least, a whole TCP header, and more.
const QUOTED_LENS: [usize; 4] = [8, 20, 27, 500];

fn open(director: &mut Director, client: End, l4_port: u16, protocol: u8) -> Whole {
    let mut first = from_client(client, l4_port, protocol, b"question");
    if protocol == TCP {
        let at = 14 + ip_header_len(client.0.is_ipv6());
        // SYN instead of ACK, and the checksum for that.
        let old = u16::from_be_bytes([first[at + 16], first[at + 17]]);
        first[at + 13] = 2;
        first[at + 16..at + 18].copy_from_slice(&(old + 14).to_be_bytes());
    }
    Whole::of(&director.send(first).unwrap())
}

#[test]
fn an_error_about_an_answer_of_dr_reaches_the_backend_as_it_is() {
    for is_v6 in FAMILIES {
        for (protocol, l4_port) in [(TCP, 80), (UDP, 53)] {
            let mut director = Director::new(rules(1, is_v6));
            let there = open(&mut director, client(1, is_v6), l4_port, protocol);
            let router = address([192, 0, 2, 77].into(), is_v6);
            let ends = (vip(l4_port, is_v6), client(1, is_v6));
            let answer = frame(CLIENT_MAC, there.to, ends, protocol, &[7; 1_400]);
            for len in QUOTED_LENS {
                let quoted = quote(&answer, ip_header_len(is_v6) + len);
                let (port, out) =
                    director.pass(FRONT, error(PORT_MACS[0], CLIENT_MAC, router, quoted)).unwrap();
                let out = Error::of(&out);
                let destination = vip(l4_port, is_v6).0;
                let expected = Error {
                    to: there.to,
                    source: router,
                    destination,
                    hops: 60,
                    kind: too_big(is_v6),
                    mtu: 1_400,
                    quoted: quoted.into(),
                };
                assert_eq!((port, out), (BACK, expected));
            }
            assert_eq!(director.counters.icmp_errors.value(), 4);
            director.assert_balanced();
        }
    }
}

#[test]
fn an_error_about_an_answer_of_fullnat_quotes_what_the_backend_sent() {
    for is_v6 in FAMILIES {
        for (protocol, l4_port) in [(TCP, 8080), (UDP, 5353)] {
            let mut director = Director::new(rules(1, is_v6));
            let there = open(&mut director, client(1, is_v6), l4_port, protocol);
            let router = address([192, 0, 2, 77].into(), is_v6);
            let answer =
                frame(PORT_MACS[1], there.to, (there.destination, there.source), protocol, &[7; 1_400]);
            let (_, at_client) = director.pass(BACK, answer.clone()).unwrap();
            for len in QUOTED_LENS {
                let len = ip_header_len(is_v6) + len;
                let sent = error(PORT_MACS[0], CLIENT_MAC, router, quote(&at_client, len));
                let (port, out) = director.pass(FRONT, sent).unwrap();
                let mut quoted = quote(&answer, len).to_vec();
                // One hop less was left when it was quoted.
                quoted[if is_v6 { 7 } else { 8 }] -= 1;
                if !is_v6 {
                    let header: &mut [u8; 20] = quoted.first_chunk_mut().unwrap();
                    let checksum =
                        etherparse::Ipv4Header::from_slice(header).unwrap().0.calc_header_checksum();
                    header[10..12].copy_from_slice(&checksum.to_be_bytes());
                }
                let (source, destination) = (there.source.0, there.destination.0);
                let kind = too_big(is_v6);
                let expected =
                    Error { to: there.to, source, destination, hops: 60, kind, mtu: 1_400, quoted };
                assert_eq!((port, Error::of(&out)), (BACK, expected));
            }
            director.assert_balanced();
        }
    }
}

#[test]
fn an_error_about_a_question_comes_from_the_vip_and_quotes_what_the_client_sent() {
    for is_v6 in FAMILIES {
        for (protocol, l4_port) in [(TCP, 8080), (UDP, 5353)] {
            let mut director = Director::new(rules(1, is_v6));
            open(&mut director, client(1, is_v6), l4_port, protocol);
            let question = from_client(client(1, is_v6), l4_port, protocol, &[7; 1_400]);
            let (_, at_backend) = director.pass(FRONT, question.clone()).unwrap();
            let there = Whole::of(&at_backend);
            // From the backend itself, and from a router before it.
            for router in [there.destination.0, address([10, 0, 0, 250].into(), is_v6)] {
                for len in QUOTED_LENS {
                    let len = ip_header_len(is_v6) + len;
                    let sent = error(PORT_MACS[1], there.to, router, quote(&at_backend, len));
                    let (port, out) = director.pass(BACK, sent).unwrap();
                    let out = Error::of(&out);
                    assert_eq!((port, out.to, out.mtu), (FRONT, CLIENT_MAC, 1_400));
                    assert_eq!((out.source, out.destination), (vip(l4_port, is_v6).0, client(1, is_v6).0));
                    let mut quoted = quote(&question, len).to_vec();
                    quoted[if is_v6 { 7 } else { 8 }] -= 1;
                    if !is_v6 {
                        let header: &mut [u8; 20] = quoted.first_chunk_mut().unwrap();
                        let decoded = etherparse::Ipv4Header::from_slice(header).unwrap().0;
                        header[10..12].copy_from_slice(&decoded.calc_header_checksum().to_be_bytes());
                    }
                    assert_eq!(out.quoted, quoted);
                }
            }
            director.assert_balanced();
        }
    }
}

#[test]
fn an_error_does_not_change_where_the_client_is_reached() {
    let mut director = Director::new(rules(1, false));
    let there = open(&mut director, client(1, false), 5353, UDP);
    let answer = frame(PORT_MACS[1], there.to, (there.destination, there.source), UDP, b"answer");
    let (_, at_client) = director.pass(BACK, answer.clone()).unwrap();
    let elsewhere = MacAddress([2, 0, 0, 0, 7, 7]);
    let sent = error(PORT_MACS[0], elsewhere, address([192, 0, 2, 77].into(), false), quote(&at_client, 28));
    assert!(director.pass(FRONT, sent).is_some());
    assert_eq!(Whole::of(&director.pass(BACK, answer).unwrap().1).to, CLIENT_MAC);
}

#[test]
fn what_quotes_nothing_true_is_dropped_and_what_concerns_no_flow_is_the_kernels() {
    for is_v6 in FAMILIES {
        let mut director = Director::new(rules(1, is_v6));
        director.worker.device_mut().ports[0].twin = true;
        let there = open(&mut director, client(1, is_v6), 53, UDP);
        let router = address([192, 0, 2, 77].into(), is_v6);
        let sent = |ends: (End, End)| frame(CLIENT_MAC, there.to, ends, UDP, b"answer");
        let answer = sent((vip(53, is_v6), client(1, is_v6)));
        let header_len = ip_header_len(is_v6);
        // Cut within its headers.
        for len in [4, header_len - 1, header_len, header_len + 7] {
            let mut cut = error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, 300));
            let (end, at) = (14 + header_len + 8 + len, if is_v6 { 18 } else { 16 });
            cut.truncate(end);
            let ip_len = (if is_v6 { 8 + len } else { header_len + 8 + len }) as u16;
            cut[at..at + 2].copy_from_slice(&ip_len.to_be_bytes());
            assert_eq!(director.pass(FRONT, cut), None);
        }
        assert_eq!(director.drops(), [(DropReason::IcmpQuote, 4)]);
        // Not sent by the VIP.
        let mut foreign = error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, 300));
        foreign[14 + header_len + 8 + if is_v6 { 23 } else { 15 }] ^= 1;
        assert_eq!(director.pass(FRONT, foreign), None);
        assert_eq!(director.drops(), [(DropReason::IcmpQuote, 5)]);
        // Of a flow that nobody knows, of a port without a service, and no error at all.
        for ends in [(vip(53, is_v6), client(2, is_v6)), (vip(54, is_v6), client(1, is_v6))] {
            let stray = sent(ends);
            assert_eq!(
                director.pass(FRONT, error(PORT_MACS[0], CLIENT_MAC, router, quote(&stray, 300))),
                None
            );
        }
        let mut echo = error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, 300));
        echo[14 + header_len] = if is_v6 { 128 } else { 8 };
        assert_eq!(director.pass(FRONT, echo), None);
        assert_eq!(
            (director.counters.punted.value(), director.drops()),
            (3, vec![(DropReason::IcmpQuote, 5)])
        );
        director.assert_balanced();
    }
}

#[test]
fn a_service_without_flows_sends_an_error_where_it_sends_the_packets() {
    for is_v6 in FAMILIES {
        let rules = with_service(rules(1, is_v6), 1, |service| service.policy.flows = Flows::None);
        let mut director = Director::new(rules);
        // wrr takes turns: what is certain is that the error leaves, and is not rewritten.
        open(&mut director, client(1, is_v6), 53, UDP);
        let ends = (vip(53, is_v6), client(1, is_v6));
        let answer = frame(CLIENT_MAC, PORT_MACS[0], ends, UDP, b"answer");
        let router = address([192, 0, 2, 77].into(), is_v6);
        let (port, out) =
            director.pass(FRONT, error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, 300))).unwrap();
        assert_eq!((port, Error::of(&out).source), (BACK, router));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn errors_find_the_worker_that_owns_the_flow(
        worker_count in 2u16..5, arrivals in proptest::collection::vec((0usize..4, 0usize..4), 30), is_v6 in any::<bool>()
    ) {
        let mut team = Team::with(&rules(worker_count, is_v6));
        let pass = |team: &mut Team, at: usize, port: PortIndex, frame: Vec<u8>| {
            team.0[at % usize::from(worker_count)].receive(port, frame);
            team.turn();
            let mut sent: Vec<_> = team.0.iter_mut().flat_map(|director| director.sent()).collect();
            assert_eq!(sent.len(), 1);
            sent.pop().unwrap()
        };
        for (number, (at, then)) in arrivals.into_iter().enumerate() {
            let question = from_client(client(number as u16, is_v6), 5353, UDP, b"question");
            let (_, at_backend) = pass(&mut team, at, FRONT, question);
            let there = Whole::of(&at_backend);
            let sent = error(PORT_MACS[1], there.to, there.destination.0, quote(&at_backend, 300));
            let (port, out) = pass(&mut team, then, BACK, sent);
            prop_assert_eq!((port, Error::of(&out).destination), (FRONT, client(number as u16, is_v6).0));
            let answer = frame(PORT_MACS[1], there.to, (there.destination, there.source), UDP, b"answer");
            let (_, at_client) = pass(&mut team, then, BACK, answer);
            let router = address([192, 0, 2, 77].into(), is_v6);
            let sent = error(PORT_MACS[0], CLIENT_MAC, router, quote(&at_client, 300));
            let (port, out) = pass(&mut team, at, FRONT, sent);
            prop_assert_eq!((port, Error::of(&out).destination), (BACK, there.destination.0));
        }
        team.assert_balanced();
    }
}

#[test]
fn an_error_that_does_not_fit_is_not_answered_with_another() {
    let rules = rules(1, false);
    let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_400)).collect();
    let mut director = Director::new(Ruleset { adjacencies, ..rules });
    let there = open(&mut director, client(1, false), 53, UDP);
    let ends = (vip(53, false), client(1, false));
    let answer = frame(CLIENT_MAC, there.to, ends, UDP, &[7; 1_500]);
    let router = address([192, 0, 2, 77].into(), false);
    let long = error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, 1_450));
    assert_eq!(director.pass(FRONT, long), None);
    assert_eq!(director.drops(), [(DropReason::TooBig, 1)]);
    director.assert_balanced();
}

/// Both families are told apart by the quote's outer packet, never by the quote itself.
#[test]
fn a_quote_of_the_other_family_is_refused() {
    let mut director = Director::new(rules(1, true));
    let answer = frame(CLIENT_MAC, PORT_MACS[0], (vip(53, false), client(1, false)), UDP, &[0; 40]);
    let Addresses::V6(_) = Addresses::new(vip(53, true).0, client(1, true).0) else { unreachable!() };
    let mut quoting = error(
        PORT_MACS[0],
        CLIENT_MAC,
        address([192, 0, 2, 77].into(), true),
        quote(&frame(CLIENT_MAC, PORT_MACS[0], (vip(53, true), client(1, true)), UDP, &[0; 40]), 300),
    );
    quoting.truncate(14 + 40 + 8);
    quoting.extend(&answer[14..]);
    let len = (quoting.len() - 54) as u16;
    quoting[18..20].copy_from_slice(&len.to_be_bytes());
    assert_eq!(director.pass(FRONT, quoting), None);
    assert_eq!(director.drops(), [(DropReason::IcmpQuote, 1)]);
}

#[test]
fn errors_about_packets_of_nat_find_both_ends() {
    let mut director = Director::new(nat_rules(1));
    let (client, router) = (client(1, false), address([192, 0, 2, 77].into(), false));
    let there = open(&mut director, client, 53, UDP);
    // About an answer: to the VIP, on to the backend.
    let answer = frame(CLIENT_MAC, PORT_MACS[0], (vip(53, false), client), UDP, &[7; 600]);
    for len in QUOTED_LENS.map(|len| 20 + len) {
        let (port, out) =
            director.pass(FRONT, error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, len))).unwrap();
        let out = Error::of(&out);
        assert_eq!((port, out.destination), (BACK, there.destination.0));
        let of_backend = frame(CLIENT_MAC, PORT_MACS[0], (there.destination, client), UDP, &[7; 600]);
        assert_eq!(out.quoted, quote(&of_backend, len));
    }
    // About a question: to the client, from the backend or a router before it, on as if from the VIP.
    let question = frame(CLIENT_MAC, PORT_MACS[0], (client, there.destination), UDP, &[8; 600]);
    let routers = [there.destination.0, address([10, 0, 0, 250].into(), false)];
    for (router, len) in routers.into_iter().flat_map(|router| QUOTED_LENS.map(|len| (router, 20 + len))) {
        let sent = error(PORT_MACS[1], there.to, router, quote(&question, len));
        let (port, out) = director.pass(BACK, sent).unwrap();
        let out = Error::of(&out);
        assert_eq!((port, out.source, out.destination), (FRONT, vip(53, false).0, client.0));
        let of_client = frame(CLIENT_MAC, PORT_MACS[0], (client, vip(53, false)), UDP, &[8; 600]);
        assert_eq!(out.quoted, quote(&of_client, len));
    }
    assert_eq!(director.drops(), []);
    director.assert_balanced();
}

/// As it came, one hop on: the backend has the VIP and reads it as if no director were there.
#[test]
fn an_error_about_an_answer_of_a_tunnels_backend_reaches_it_in_the_tunnel() {
    for (carrier, outer_is_v6) in CARRIERS.into_iter().flat_map(|carrier| [(carrier, false), (carrier, true)])
    {
        for (is_v6, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
            let tunnel = Tunnel { carrier, ..Tunnel::default() };
            let mut director = Director::new(tunnels::rules(&tunnel, outer_is_v6));
            let asked = tunnels::Packet::new(is_v6, protocol == TCP);
            let there = tunnels::unwrap(&director.send(asked.frame()).unwrap());
            let ends: (End, End) = if is_v6 {
                ((tunnels::VIP6.into(), 80), (tunnels::CLIENT6.into(), 40_000))
            } else {
                ((VIP.into(), 80), (tunnels::CLIENT.into(), 40_000))
            };
            let answer = frame(CLIENT_MAC, PORT_MACS[0], ends, protocol, &[7; 900]);
            let router = address([192, 0, 2, 77].into(), is_v6);
            for len in QUOTED_LENS {
                let sent =
                    error(PORT_MACS[0], CLIENT_MAC, router, quote(&answer, ip_header_len(is_v6) + len));
                let (port, out) = director.pass(FRONT, sent.clone()).unwrap();
                let out = tunnels::unwrap(&out);
                assert_eq!((port, out.destination), (BACK, there.destination));
                let read = Error::of(&[&sent[..14], &out.packet].concat());
                assert_eq!(read, Error { hops: 60, ..Error::of(&sent) });
            }
            assert_eq!((director.drops(), director.counters.icmp_errors.value()), (vec![], 4));
            director.assert_balanced();
        }
    }
}
