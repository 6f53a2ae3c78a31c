//! ICMP errors of routers between the director and a backend, about packets in tunnels: control hears how much fits, clients
//! hear what concerns them. The errors are put together here by hand, from what the line has sent; etherparse reads what comes of
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::adjacency::Adjacency;
use dataplane::index::WorkerIndex;
use dataplane::path::PathReport;
use dataplane::rules::{Carrier, Flows, Policy, PortRules, Ruleset, Source, Tunnel};
use dataplane::verdict::DropReason;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use proptest::prelude::*;

use crate::common::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{BACK, FRONT, PORT_MACS, VIP, backend_mac, with_policy, with_service};
use crate::datagrams::sum;
use crate::icmp_errors::{Error, too_big};
use crate::tunnels::{CARRIERS, CLIENT, CLIENT6, Packet, VIP6, rules, unwrap};
use crate::workers::Team;

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);
/// ICMP fragmentation needed and ICMPv6 packet too big.
const TOO_BIG: (u8, u8) = (3, 4);
const TOO_BIG6: (u8, u8) = (2, 0);

/// The error that a router sends about a frame of the director's, of which it quotes `quoted_len` bytes: type, code, and what
/// stands in the second word of the header.
pub(crate) fn error(about: &[u8], (kind, code): (u8, u8), word: u32, quoted_len: usize) -> Vec<u8> {
    let quoted = &about[14..about.len().min(14 + quoted_len)];
    let is_v6 = quoted[0] >> 4 == 6;
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(quoted);
    let mut frame = [PORT_MACS[1].0, backend_mac(9).0].concat();
    if is_v6 {
        let to: [u8; 16] = *quoted[8..].first_chunk().unwrap();
        let len = message.len() as u16;
        let check = !sum(&[&ROUTER6.octets(), &to, &len.to_be_bytes(), &[0, 58], &message]);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        frame.extend([0x86, 0xdd]);
        let ip = Ipv6Header {
            payload_length: len,
            next_header: IpNumber::IPV6_ICMP,
            hop_limit: 64,
            source: ROUTER6.octets(),
            destination: to,
            ..Ipv6Header::default()
        };
        frame.extend(ip.to_bytes());
    } else {
        let check = !sum(&[&message]);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        frame.extend([8, 0]);
        let to = *quoted[12..].first_chunk().unwrap();
        let mut ip = Ipv4Header::new(message.len() as u16, 64, IpNumber::ICMP, ROUTER.octets(), to).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend(ip.to_bytes());
    }
    frame.extend(message);
    frame
}

/// What the backend's link would get: a packet that is too long for `mtu` with its outer header.
fn sent_too_long(director: &mut Director, is_v6: bool, is_tcp: bool) -> Vec<u8> {
    let packet = Packet { payload: vec![7; 1_400], ..Packet::new(is_v6, is_tcp) };
    director.send(packet.frame()).unwrap()
}

fn heard(director: &Director) -> Vec<PathReport> {
    let reports = director.worker.path_reports();
    std::iter::from_fn(|| reports.hear()).collect()
}

/// As much as routers quote (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
fn usual(outer_is_v6: bool) -> usize {
    if outer_is_v6 { 1_232 } else { 548 }
}

/// With room at the kernel twins for what is not the line's.
fn director(rules: Ruleset) -> Director {
    let mut director = Director::new(rules);
    director.worker.device_mut().ports.iter_mut().for_each(|port| port.twin = true);
    director
}

fn every_tunnel() -> impl Iterator<Item = (Tunnel, bool)> {
    let carriers = CARRIERS.map(|carrier| Tunnel { carrier, ..Tunnel::default() });
    let spread = carriers.map(|tunnel| Tunnel { source: Source::PerFlow, ..tunnel });
    carriers.into_iter().chain(spread).flat_map(|tunnel| [(tunnel, false), (tunnel, true)])
}

#[test]
fn a_client_hears_at_once_what_fits_and_control_too() {
    for (tunnel, outer_is_v6) in every_tunnel() {
        for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut director = director(rules(&tunnel, outer_is_v6));
            let there = sent_too_long(&mut director, is_v6, is_tcp);
            let unwrapped = unwrap(&there);
            let added = u32::from(director.worker.line().rules.encapsulations[0].unwrap().added_len());
            let frame = error(&there, too_big(outer_is_v6), 1_400, usual(outer_is_v6));
            let (port, told) = director.pass(BACK, frame).expect("an error to the client");
            let told = Error::of(&told);
            let (vip, client): (IpAddr, IpAddr) =
                if is_v6 { (VIP6.into(), CLIENT6.into()) } else { (VIP.into(), CLIENT.into()) };
            assert_eq!((port, told.to), (FRONT, CLIENT_MAC), "{tunnel:?}");
            assert_eq!((told.source, told.destination), (vip, client));
            assert_eq!((told.kind, told.mtu), (too_big(is_v6), 1_400 - added));
            let inner = &unwrapped.packet;
            assert!(told.quoted.len() > 100 && told.quoted == inner[..told.quoted.len()]);
            let report = PathReport { destination: unwrapped.destination, mtu: 1_400 };
            assert_eq!(heard(&director), [report]);
            assert_eq!(director.counters.icmp_errors.value(), 1);
            director.assert_balanced();
        }
    }
}

/// Many routers quote eight bytes behind the IP header: control hears, the client does not.
#[test]
fn a_short_quote_tells_control_alone() {
    for (tunnel, outer_is_v6) in every_tunnel() {
        let mut director = director(rules(&tunnel, outer_is_v6));
        let there = sent_too_long(&mut director, false, true);
        for quoted_len in [8, 9, 20, 27] {
            let quoted_len = quoted_len + if outer_is_v6 { 40 } else { 20 };
            let frame = error(&there, too_big(outer_is_v6), 1_400, quoted_len);
            assert_eq!(director.pass(BACK, frame), None);
            assert_eq!(heard(&director).len(), 1);
        }
        assert_eq!(director.drops(), [(DropReason::TunnelError, 4)]);
        director.assert_balanced();
    }
}

/// RFC 2003 section 4, RFC 2473 section 8: `None` for what is about the outer packet alone.
#[test]
fn a_client_is_told_what_a_router_says_in_its_own_words() {
    let host = Some((3, 1));
    let address = Some((1, 3));
    let cases = [
        (false, (3, 0), host),
        (false, (3, 1), host),
        (false, (3, 2), host),
        (false, (3, 3), None),
        (false, (3, 5), None),
        (false, (3, 13), host),
        (false, (11, 0), host),
        (false, (11, 1), None),
        (false, (12, 0), None),
        (true, (1, 0), address),
        (true, (1, 3), address),
        (true, (1, 4), address),
        (true, (3, 0), address),
        (true, (3, 1), None),
        (true, (4, 0), None),
    ];
    for (outer_is_v6, kind, expected) in cases {
        for is_v6 in [false, true] {
            let mut director = director(rules(&Tunnel::default(), outer_is_v6));
            let there = sent_too_long(&mut director, is_v6, true);
            let told = director.pass(BACK, error(&there, kind, 0, usual(outer_is_v6)));
            let told = told.map(|(_, frame)| Error::of(&frame));
            let expected = expected.map(|_| if is_v6 { (1, 3) } else { (3, 1) });
            assert_eq!(told.as_ref().map(|told| (told.kind, told.mtu)), expected.map(|kind| (kind, 0)));
            assert_eq!(heard(&director), []);
            let dropped = director.counters.dropped(DropReason::TunnelError).value();
            assert_eq!(dropped, u64::from(expected.is_none()), "{kind:?}");
            director.assert_balanced();
        }
    }
    // Where nobody listens for GUE the backend does not know the tunnel.
    let carrier = Carrier::Gue { has_header: true, l4_port: 6_080 };
    let mut director = director(rules(&Tunnel { carrier, ..Tunnel::default() }, false));
    let there = sent_too_long(&mut director, false, true);
    let (_, told) = director.pass(BACK, error(&there, (3, 3), 0, 548)).unwrap();
    assert_eq!(Error::of(&told).kind, (3, 1));
}

#[test]
fn what_this_director_has_not_sent_is_the_kernels() {
    for (tunnel, outer_is_v6) in every_tunnel() {
        let mut director = director(rules(&tunnel, outer_is_v6));
        let there = sent_too_long(&mut director, false, true);
        let sane = error(&there, too_big(outer_is_v6), 1_400, usual(outer_is_v6));
        let quoted_at = 14 + if outer_is_v6 { 48 } else { 28 };
        let ip_len = if outer_is_v6 { 40 } else { 20 };
        let changed = |at: usize, by: u8| {
            let mut frame = sane.clone();
            frame[quoted_at + at] ^= by;
            frame
        };
        let mut frames = vec![
            // Its destination is no backend.
            changed(ip_len - 1, 1),
            // It was sent from another address; neither is that to which the error came.
            changed(if outer_is_v6 { 8 } else { 12 }, 1),
            // Another protocol.
            changed(if outer_is_v6 { 6 } else { 9 }, 0x80),
            // The packet would have fitted.
            error(&there, too_big(outer_is_v6), there.len() as u32 - 14, usual(outer_is_v6)),
            // No error: an echo request.
            error(&there, if outer_is_v6 { (128, 0) } else { (8, 0) }, 0, usual(outer_is_v6)),
        ];
        match tunnel.carrier {
            Carrier::Ipip => {}
            Carrier::Gre { .. } => frames.push(changed(ip_len, 0x80)),
            Carrier::Gue { .. } => frames.extend([changed(ip_len + 3, 1), changed(ip_len + 8, 0x70)]),
        }
        if matches!(tunnel.carrier, Carrier::Gre { key: Some(_) }) {
            frames.push(changed(ip_len + 7, 1));
        }
        if !outer_is_v6 {
            // Routers may cut it.
            frames.push(changed(6, 0x40));
        }
        for frame in &frames {
            director.receive(BACK, frame.clone());
            director.turn();
        }
        assert_eq!(director.counters.punted.value(), frames.len() as u64, "{tunnel:?} {outer_is_v6}");
        assert_eq!((director.sent(), heard(&director), director.drops()), (vec![], vec![], vec![]));
        director.assert_balanced();
    }
}

#[test]
fn no_way_is_believed_to_take_less_than_every_host_does_and_a_router_may_not_say_what() {
    for (outer_is_v6, says, expected) in [
        (false, 68, 576),
        (false, 575, 576),
        (false, 577, 577),
        (false, 0, 1_006),
        (true, 0, 1_280),
        (true, 68, 1_280),
        (true, 1_281, 1_281),
    ] {
        let mut director = director(rules(&Tunnel::default(), outer_is_v6));
        let there = sent_too_long(&mut director, false, true);
        director.pass(BACK, error(&there, too_big(outer_is_v6), says, usual(outer_is_v6))).unwrap();
        let mtus: Vec<_> = heard(&director).into_iter().map(|report| report.mtu).collect();
        assert_eq!(mtus, [expected], "{says}");
    }
}

/// RFC 2473 section 7.1: what every link takes the director brings through in parts.
#[test]
fn an_ipv6_client_is_not_told_of_less_than_every_link_takes() {
    let mut director = director(rules(&Tunnel::default(), true));
    let there = sent_too_long(&mut director, true, false);
    let (_, told) = director.pass(BACK, error(&there, TOO_BIG6, 1_290, 1_232)).unwrap();
    assert_eq!(Error::of(&told).mtu, 1_280);
    let packet = Packet { payload: vec![7; 1_232], ..Packet::new(true, false) };
    let there = director.send(packet.frame()).unwrap();
    assert_eq!(director.pass(BACK, error(&there, TOO_BIG6, 1_290, 1_232)), None);
    assert_eq!(heard(&director).len(), 2);
    director.assert_balanced();
}

#[test]
fn a_sender_that_lets_its_packets_be_cut_is_told_nothing() {
    let mut director = director(rules(&Tunnel::default(), false));
    let mut frame = Packet { payload: vec![7; 1_400], ..Packet::new(false, false) }.frame();
    frame[20] = 0;
    frame[24..26].fill(0);
    let checksum = !sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    let there = director.send(frame).unwrap();
    assert_eq!(director.pass(BACK, error(&there, TOO_BIG, 1_400, 548)), None);
    assert_eq!((heard(&director).len(), director.drops()), (1, vec![(DropReason::TunnelError, 1)]));
}

/// RFC 4884: the quote ends where the header says, whatever follows.
#[test]
fn what_follows_a_quote_is_not_passed_on() {
    for (outer_is_v6, kind, word) in [(false, (3, 1), 32 << 16), (true, (1, 3), 16 << 24)] {
        let mut director = director(rules(&Tunnel::default(), outer_is_v6));
        let there = sent_too_long(&mut director, false, true);
        let (_, told) = director.pass(BACK, error(&there, kind, word, 300)).unwrap();
        let header = if outer_is_v6 { 40 } else { 20 };
        assert_eq!(Error::of(&told).quoted.len(), 128 - header);
    }
}

#[test]
fn without_flows_or_with_other_ones_control_hears_alone() {
    let rules =
        with_service(rules(&Tunnel::default(), false), 1, |service| service.policy.flows = Flows::None);
    let mut director = director(rules);
    let there = sent_too_long(&mut director, false, false);
    assert_eq!(director.pass(BACK, error(&there, TOO_BIG, 1_400, 548)), None);
    let mut there = sent_too_long(&mut director, false, true);
    // Another client's l4_port.
    there[14 + 20 + 20] ^= 1;
    assert_eq!(director.pass(BACK, error(&there, TOO_BIG, 1_400, 548)), None);
    assert_eq!(heard(&director).len(), 2);
    assert_eq!(director.drops(), [(DropReason::TunnelError, 2)]);
    director.assert_balanced();
}

#[test]
fn forged_errors_are_passed_on_so_often_and_no_more() {
    let mut director = director(rules(&Tunnel::default(), false));
    let there = sent_too_long(&mut director, false, true);
    for kind in [TOO_BIG, (3, 1)] {
        for _ in 0..100 {
            director.receive(BACK, error(&there, kind, 1_400, 548));
        }
        director.turn();
        assert_eq!(director.sent().len(), 50);
    }
    assert_eq!(director.drops(), [(DropReason::ReplyLimit, 100)]);
    director.assert_balanced();
}

#[test]
fn an_error_crosses_to_the_worker_that_knows_the_client() {
    let mut team = Team::with(&Ruleset { worker_count: 3, ..rules(&Tunnel::default(), true) });
    let mut senders = std::collections::BTreeSet::new();
    for number in 0..30u16 {
        let mut frame = Packet { payload: vec![7; 1_400], ..Packet::new(false, true) }.frame();
        frame[34..36].copy_from_slice(&(1_000 + number).to_be_bytes());
        team.0[usize::from(number) % 3].receive(FRONT, frame);
        team.turn();
        let there: Vec<_> = team.0.iter_mut().flat_map(Director::sent).collect();
        team.0[usize::from(number / 3) % 3].receive(BACK, error(&there[0].1, TOO_BIG6, 1_400, 1_232));
        team.turn();
        let told: Vec<_> =
            (0..3).flat_map(|at| team.0[at].sent().into_iter().map(move |told| (at, told))).collect();
        let [(at, (FRONT, frame))] = &told[..] else { panic!("{} told", told.len()) };
        let told = Error::of(frame);
        assert_eq!(
            (told.kind, told.mtu, &told.quoted[20..22]),
            (TOO_BIG, 1_360, &(1_000 + number).to_be_bytes()[..])
        );
        assert_eq!(heard(&team.0[*at]).len(), 1, "by whom the client is told");
        senders.insert(*at);
    }
    assert_eq!(senders.len(), 3);
    team.assert_balanced();
}

/// The rules with a way to the backends that takes `mtu` bytes, narrower than the port.
fn narrowed(tunnel: &Tunnel, outer_is_v6: bool, mtu: u16) -> Ruleset {
    let rules = rules(tunnel, outer_is_v6);
    let ports = rules.ports.iter().map(|port| PortRules { mtu: 1_500, ..*port }).collect();
    let added = rules.encapsulations[0].unwrap().added_len();
    let adjacencies: Vec<Adjacency> = rules.adjacencies.iter().map(|row| row.with_mtu(mtu - added)).collect();
    let policy = Policy { fragments: true, ..Policy::default() };
    with_policy(Ruleset { ports, adjacencies: adjacencies.into(), ..rules }, &policy)
}

#[test]
fn what_is_cut_is_cut_to_the_way_and_not_to_the_port() {
    for (tunnel, outer_is_v6) in every_tunnel() {
        for flows in [Flows::Kept, Flows::None] {
            let rules = with_service(narrowed(&tunnel, outer_is_v6, 1_300), 1, |service| {
                service.policy.flows = flows
            });
            let mut director = director(rules);
            let packet = Packet { payload: vec![7; 1_232], ..Packet::new(true, false) };
            director.receive(FRONT, packet.frame());
            director.turn();
            let parts = director.sent();
            let longest = parts.iter().map(|(_, part)| part.len() - 14).max().unwrap();
            let added = usize::from(director.worker.line().rules.encapsulations[0].unwrap().added_len());
            let must_cut = 1_280 + added > 1_300;
            assert_eq!(parts.len(), if must_cut { 2 } else { 1 });
            assert!(longest <= 1_300 && longest > 1_280, "{longest}");
        }
    }
}

/// A router that the parts do not fit reports on each of them; nobody but control can be told.
#[test]
fn an_error_about_a_part_tells_control() {
    let mut director = director(narrowed(&Tunnel::default(), true, 1_300));
    let packet = Packet { payload: vec![7; 1_232], ..Packet::new(true, false) };
    director.receive(FRONT, packet.frame());
    director.turn();
    let parts = director.sent();
    assert_eq!(parts.len(), 2);
    director.receive(BACK, error(&parts[0].1, TOO_BIG6, 1_290, 1_232));
    director.turn();
    let destination = director.worker.line().rules.backends[0].address;
    assert_eq!(heard(&director), [PathReport { destination, mtu: 1_290 }]);
    assert_eq!(director.drops(), [(DropReason::TunnelError, 1)]);
}

/// Gives an error whatever checksums its bytes ask for.
fn sum_up(frame: &mut [u8], is_v6: bool) {
    let (message_at, pseudo) = if is_v6 {
        let len = (frame.len() - 54) as u16;
        (54, [&frame[22..54], &len.to_be_bytes(), &[0, 58]].concat())
    } else {
        frame[24..26].fill(0);
        let check = !sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        (34, Vec::new())
    };
    frame[message_at + 2..message_at + 4].fill(0);
    let check = !sum(&[&pseudo, &frame[message_at..]]);
    frame[message_at + 2..message_at + 4].copy_from_slice(&check.to_be_bytes());
}

proptest! {
    #[test]
    fn any_error_is_passed_on_punted_or_dropped_and_the_books_balance(
        which in 0usize..20, is_v6 in any::<bool>(), kind in (0u8..16, 0u8..16), word in any::<u32>(),
        quoted_len in 0usize..1_300, changes in proptest::collection::vec((14usize..130, any::<u8>()), 0..4),
        adds_up in any::<bool>()
    ) {
        let (tunnel, outer_is_v6) = every_tunnel().nth(which).unwrap();
        let mut director = Director::with(rules(&tunnel, outer_is_v6), WorkerIndex(0), 64);
        director.worker.device_mut().ports.iter_mut().for_each(|port| port.twin = true);
        let there = sent_too_long(&mut director, is_v6, true);
        let quoted_len = quoted_len.max(if outer_is_v6 { 40 } else { 20 });
        let mut frame = error(&there, kind, word, quoted_len);
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        if adds_up {
            sum_up(&mut frame, outer_is_v6);
        }
        director.receive(BACK, frame);
        director.turn();
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn a_connection_in_a_tunnel_gives_back_the_way_to_its_client() {
    let mut director = director(rules(&Tunnel::default(), false));
    director.send(Packet::new(false, true).frame()).unwrap();
    assert_eq!(director.worker.line().state.stations.held(), 1);
    director.clock.advance(10_000_000);
    director.wait(5_000);
    assert_eq!((director.table_used(), director.worker.line().state.stations.held()), (0, 0));
}

/// What a router says is passed on with checksums of the director's own, so it is looked at before.
#[test]
fn an_error_with_a_wrong_checksum_tells_nobody_anything() {
    for (tunnel, outer_is_v6) in every_tunnel() {
        let mut director = director(rules(&tunnel, outer_is_v6));
        let there = sent_too_long(&mut director, false, true);
        let sane = error(&there, too_big(outer_is_v6), 1_400, usual(outer_is_v6));
        let message_at = if outer_is_v6 { 54 } else { 34 };
        // The checksum, the MTU, and within the packet that is quoted last; IPv4's own header.
        let places = [message_at + 2, message_at + 7, sane.len() - 1, sane.len() - 40];
        let places = places.into_iter().chain((!outer_is_v6).then_some(15));
        for at in places.clone() {
            let mut bad = sane.clone();
            bad[at] ^= 0x40;
            assert_eq!(director.pass(BACK, bad), None, "{tunnel:?} byte {at}");
        }
        assert_eq!(heard(&director), []);
        assert_eq!(director.drops(), [(DropReason::TunnelError, places.count() as u64)]);
        assert!(director.pass(BACK, sane).is_some());
        director.assert_balanced();
    }
}
