//! FullNAT there and back: what the client gets comes from the VIP, to the client, with the payload the
//! backend sent.

use proptest::collection::vec;
use proptest::prelude::*;

use dataplane::wire::ethernet::MacAddress;

use crate::common::frames::{ACK, CLIENT_MAC, Decoded, L4, SYN};
use crate::common::rules::{BACK, FRONT, LOCAL_ADDRESSES, ONE_OF_EACH, PORT_MACS, VIP};
use crate::common::{Director, Frame, ruleset};
use crate::strategies::{clients, ip_options};

proptest! {
    #[test]
    fn the_answer_arrives_as_if_the_vip_had_sent_it(
        clients in proptest::collection::hash_set(clients(), 1..30),
        tcp in any::<bool>(),
        ttls in (2u8..=255, 2u8..=255),
        options in ip_options(),
        question in vec(any::<u8>(), 0..60),
        answer in vec(any::<u8>(), 0..60),
    ) {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        let (l4_port, l4) = if tcp { (8080, L4::Tcp(SYN)) } else { (5353, L4::Udp { checksum: true }) };
        let mut taken = std::collections::HashSet::new();
        for client in clients {
            let frame = Frame::tcp(client, (VIP, l4_port), 0).with_ttl(ttls.0).with_payload(question.clone());
            let frame = Frame { l4, ip_options: options.clone(), ..frame };
            let (port, there) = director.pass(FRONT, frame.bytes()).unwrap();
            let there = Decoded::from(&there);
            prop_assert_eq!((port, there.ttl, &there.payload), (BACK, ttls.0 - 1, &question));
            prop_assert_eq!((there.from, there.destination.1), (PORT_MACS[1], 9_000));
            prop_assert!(LOCAL_ADDRESSES.contains(&there.source.0) && there.source.1 >= 1_024);
            prop_assert!(taken.insert((there.source, there.destination)), "each connection its own pair");

            let l4 = if tcp { L4::Tcp(SYN | ACK) } else { l4 };
            let frame = Frame::tcp(there.destination, there.source, 0).with_ttl(ttls.1).with_payload(answer.clone());
            let frame = Frame { to: PORT_MACS[1], from: there.to, ip_options: options.clone(), l4, ..frame };
            let (port, back) = director.pass(BACK, frame.bytes()).unwrap();
            let back = Decoded::from(&back);
            prop_assert_eq!((port, back.ttl, &back.payload), (FRONT, ttls.1 - 1, &answer));
            prop_assert_eq!((back.source, back.destination), ((VIP, l4_port), client));
            prop_assert_eq!((back.from, back.to), (PORT_MACS[0], CLIENT_MAC));
            prop_assert_eq!(back.ip_checksum.0, back.ip_checksum.1);
            prop_assert_eq!(back.l4_checksum.0, back.l4_checksum.1);
        }
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn answers_follow_a_client_whose_router_changed() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    let client = ("198.51.100.7".parse().unwrap(), 40_000);
    let question = Frame::udp(client, (VIP, 5353));
    let there = Decoded::from(&director.send(question.bytes()).unwrap());
    let answer = Frame { to: PORT_MACS[1], from: there.to, ..Frame::udp(there.destination, there.source) };
    let to = |director: &mut Director| Decoded::from(&director.pass(BACK, answer.bytes()).unwrap().1).to;
    assert_eq!(to(&mut director), CLIENT_MAC);
    let other_router = MacAddress([2, 0, 0, 0, 8, 8]);
    director.send(Frame { from: other_router, ..question.clone() }.bytes()).unwrap();
    assert_eq!(to(&mut director), other_router);
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_forwarded() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    let stray = Frame::udp(("10.0.0.11".parse().unwrap(), 9_000), (LOCAL_ADDRESSES[0], 2_000));
    assert_eq!(director.pass(BACK, Frame { to: PORT_MACS[1], ..stray }.bytes()), None);
    director.assert_balanced();
}
