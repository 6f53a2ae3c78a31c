//! Second choices of services without flows, and what they are for: a connection lives on when the rules change, though no
//! director knows it. The backends here do what GLB's do: who does not know a connection passes its packets on.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use dataplane::rules::scheduler::{SchedulerKind, SchedulerSettings, Seat};
use dataplane::rules::{Carrier, Encapsulation, Flows, Member, Mode, Ruleset, Scheduler, Source, Tunnel};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

use crate::common::frames::{ACK, SYN};
use crate::common::rules::{ServiceSpec, TCP, UDP, VIP, with_service};
use crate::common::{Director, Frame, ruleset};

const OUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const ALL: [u32; 4] = [1, 1, 1, 1];

/// A service of four backends; those whose weight is 0 are drained, the last one is absent until it gets one.
fn rules(protocol: u8, weights: [u32; 4]) -> Ruleset {
    let spec =
        ServiceSpec { protocol, l4_port: 80, mode: Mode::Tunnel, scheduler: "mh", weights: &[1, 1, 1, 1] };
    let rules = ruleset(1, &[spec]);
    let tunnel = Tunnel {
        carrier: Carrier::Gue { has_header: true, l4_port: 6_080 },
        source: Source::Fixed { v4: Some(OUTER), v6: None },
        second_chance: true,
        ..Tunnel::default()
    };
    let encapsulation = |address| Encapsulation::new(&tunnel, None, address);
    let encapsulations = rules.backends.iter().map(|backend| encapsulation(backend.address)).collect();
    let seats: Vec<Seat> = (rules.backends.iter().zip(weights).enumerate())
        .map(|(index, (backend, weight))| {
            let weight_kept = if index == 3 { weight } else { 1 };
            Seat { address: backend.address, l4_port: 80, weight_kept }
        })
        .collect();
    let rules = with_service(rules, 0, |service| {
        let members: Vec<Member> = (service.members.iter().zip(weights))
            .map(|(member, weight)| Member { weight, ..*member })
            .collect();
        let settings = SchedulerSettings { second_chance: true, ..SchedulerKind::Mh.into() };
        service.scheduler = Scheduler::new(settings, &members, &seats).unwrap();
        service.members = members.into();
        service.policy.flows = Flows::None;
    });
    Ruleset { encapsulations, ..rules }
}

/// Where a frame goes, and where from there: as GLB's format says it (glb-director, docs/development/gue-header.md).
fn choices(frame: &[u8]) -> (IpAddr, Option<IpAddr>) {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(udp))) = (&packet.net, &packet.transport)
    else {
        panic!("no UDP over IPv4");
    };
    assert_eq!(usize::from(ip.total_len) + 14, frame.len());
    assert_eq!((udp.destination_port, usize::from(udp.length)), (6_080, frame.len() - 34));
    let [lead, protocol, flags_high, flags_low, kind_high, kind_low, next, hops, a, b, c, d, inner, ..] =
        frame[42..]
    else {
        panic!("a short header");
    };
    assert_eq!(lead, 2, "variant 0, no control message, two words of private data");
    assert_eq!((protocol, inner >> 4), (4, 4), "IPv4 in it");
    assert_eq!([flags_high, flags_low, kind_high, kind_low, next], [0; 5]);
    assert!(hops <= 1);
    let second = (hops == 1).then_some(IpAddr::from([a, b, c, d]));
    (ip.destination.into(), second)
}

/// A client's segment through the director, and then from backend to backend until one knows its connection.
fn serve(
    director: &mut Director,
    client: u16,
    flags: u8,
    known: &mut HashMap<u16, IpAddr>,
) -> Option<IpAddr> {
    let from = (Ipv4Addr::new(198, 51, 100, (client % 250) as u8), 2_000 + client);
    let frame = director.send(Frame::tcp(from, (VIP, 80), flags).bytes()).expect("a packet for a backend");
    let (first, second) = choices(&frame);
    assert_ne!(Some(first), second);
    if flags == SYN {
        known.insert(client, first);
    }
    [Some(first), second].into_iter().flatten().find(|backend| known[&client] == *backend)
}

#[test]
fn connections_live_on_when_a_backend_comes_is_drained_or_goes() {
    let mut known = HashMap::new();
    let mut director = Director::new(rules(TCP, [1, 1, 1, 0]));
    for client in 0..1_000 {
        serve(&mut director, client, SYN, &mut known);
    }
    assert_eq!(known.values().collect::<HashSet<_>>().len(), 3);
    // Another director, which never saw any of it; a fourth backend takes a quarter of the slots.
    let mut director = Director::new(rules(TCP, ALL));
    let lost = (0..1_000).filter(|&client| serve(&mut director, client, ACK, &mut known).is_none()).count();
    // Maglev moves a few slots between those that stay.
    assert!(lost < 10, "{lost} of 1000 when one came");
    // One of them is drained, and gets no new connection.
    let drained = known[&0];
    let mut director = Director::new(rules(TCP, ALL));
    let mut later: HashMap<u16, IpAddr> = HashMap::new();
    for client in 0..1_000 {
        serve(&mut director, client, SYN, &mut later);
    }
    let weights = [11, 12, 13, 14].map(|last| u32::from(drained != IpAddr::from([10, 0, 0, last])));
    let mut director = Director::new(rules(TCP, weights));
    for client in 0..1_000 {
        assert!(serve(&mut director, client, ACK, &mut later).is_some(), "a connection of {client} is lost");
    }
    for client in 1_000..2_000 {
        serve(&mut director, client, SYN, &mut later);
        assert_ne!(later[&client], drained);
    }
    assert_eq!(director.table_used(), 0);
    director.assert_balanced();
}

#[test]
fn a_later_fragment_has_no_second_choice_and_who_never_served_is_none() {
    let mut director = Director::new(rules(UDP, ALL));
    let datagram = Frame::udp((Ipv4Addr::new(198, 51, 100, 1), 2_000), (VIP, 80)).bytes();
    let (first, second) = choices(&director.send(datagram.clone()).unwrap());
    assert!(second.is_some_and(|second| second != first));
    let mut fragment = datagram.clone();
    // More fragments; and the next one, 8 bytes further, the last.
    (fragment[20], fragment[21]) = (0x20, 0);
    mend(&mut fragment);
    let whole = director.send(fragment.clone()).unwrap();
    assert_eq!(choices(&whole), (first, second));
    (fragment[20], fragment[21]) = (0, 4);
    mend(&mut fragment);
    assert_eq!(choices(&director.send(fragment).unwrap()), (first, None));
    let mut director = Director::new(rules(UDP, [1, 0, 0, 0]));
    let sent = choices(&director.send(datagram).unwrap());
    // Who is drained may know the connection; a backend that never had a weight cannot.
    assert_ne!(sent.1, Some(IpAddr::from([10, 0, 0, 14])));
    director.assert_balanced();
}

/// The header's checksum made right again.
fn mend(frame: &mut [u8]) {
    let (mut header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    frame[14..34].copy_from_slice(&header.to_bytes());
}
