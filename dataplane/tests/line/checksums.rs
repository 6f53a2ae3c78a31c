//! Checksums after a rewrite are those of a full computation by another implementation; bad ones stay bad.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::common::frames::{Decoded, L4, SYN};
use crate::common::rules::{ONE_OF_EACH, VIP};
use crate::common::{Director, Frame, ruleset};
use crate::strategies::{clients, ip_options};

/// A frame that some service will forward: TCP or UDP, DR or FullNAT, any length, any options.
fn forwarded_frames() -> impl Strategy<Value = Frame> {
    let service = prop_oneof![Just((80, true)), Just((8080, true)), Just((53, false)), Just((5353, false))];
    let body = (ip_options(), 2u8..=255, vec(any::<u8>(), 0..200));
    (clients(), service, body).prop_map(|(client, (l4_port, tcp), (ip_options, ttl, payload))| {
        let l4 = if tcp { L4::Tcp(SYN) } else { L4::Udp { checksum: true } };
        Frame { l4, ip_options, ttl, payload, ..Frame::tcp(client, (VIP, l4_port), 0) }
    })
}

fn forward(frame: Vec<u8>) -> Decoded {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    Decoded::from(&director.send(frame).expect("forwarded"))
}

/// Where the TCP or UDP checksum lies.
fn l4_checksum_at(frame: &Frame) -> usize {
    let l4_at = 34 + frame.ip_options.len();
    l4_at + if matches!(frame.l4, L4::Tcp(_)) { 16 } else { 6 }
}

proptest! {
    #[test]
    fn both_checksums_equal_a_full_computation(frame in forwarded_frames()) {
        let out = forward(frame.bytes());
        prop_assert_eq!(out.ip_checksum.0, out.ip_checksum.1);
        prop_assert_eq!(out.l4_checksum.0, out.l4_checksum.1);
        prop_assert_eq!(out.ttl, frame.ttl - 1);
        prop_assert_eq!(out.payload, frame.payload);
    }

    #[test]
    fn a_bad_checksum_stays_bad(frame in forwarded_frames(), error in 1u16..0xffff, at_ip in any::<bool>()) {
        let mut bytes = frame.bytes();
        let at = if at_ip { 24 } else { l4_checksum_at(&frame) };
        let good = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        // An error of the ones' complement sum; 0 and 0xffff are the same number there, and no error.
        let bad = ((u32::from(good) + u32::from(error)) % 0xffff) as u16;
        prop_assume!(bad != 0 && bad != good % 0xffff);
        bytes[at..at + 2].copy_from_slice(&bad.to_be_bytes());
        let out = forward(bytes);
        let (found, full) = if at_ip { out.ip_checksum } else { out.l4_checksum };
        prop_assert_ne!(found % 0xffff, full % 0xffff);
        let (found, full) = if at_ip { out.l4_checksum } else { out.ip_checksum };
        prop_assert_eq!(found, full, "the other one is not harmed");
    }

    #[test]
    fn payload_damage_is_not_mended(frame in forwarded_frames(), at in any::<Index>(), flip in 1u8..=255) {
        prop_assume!(!frame.payload.is_empty());
        let mut bytes = frame.bytes();
        let start = bytes.len() - frame.payload.len();
        bytes[start + at.index(frame.payload.len())] ^= flip;
        let out = forward(bytes);
        prop_assert_ne!(out.l4_checksum.0, out.l4_checksum.1);
    }

    #[test]
    fn a_udp_datagram_without_checksum_stays_without(frame in forwarded_frames()) {
        prop_assume!(frame.l4 == L4::Udp { checksum: true });
        let out = forward(Frame { l4: L4::Udp { checksum: false }, ..frame }.bytes());
        prop_assert_eq!(out.l4_checksum.0, 0);
        prop_assert_eq!(out.ip_checksum.0, out.ip_checksum.1);
    }
}
