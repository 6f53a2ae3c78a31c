//! Segments lost on either side of the director.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A sender and a receiver of one direction, which know bytes and numbers, and no director.
#[derive(Default)]
struct Received {
    bytes: BTreeMap<u32, u8>,
}

impl Received {
    /// Takes what a segment brings, by its place behind `origin`.
    fn take(&mut self, origin: u32, segment: &Segment) {
        for (at, byte) in segment.data.iter().enumerate() {
            let place = segment.sequence.wrapping_sub(origin).wrapping_add(at as u32);
            let before = self.bytes.insert(place, *byte);
            assert!(before.is_none_or(|before| before == *byte), "one number, two bytes");
        }
    }

    /// How many came without a gap.
    fn in_order(&self) -> usize {
        (0..).take_while(|place| self.bytes.contains_key(place)).count()
    }

    /// The first block beyond a gap.
    fn beyond(&self) -> Option<(u32, u32)> {
        let start = *self.bytes.keys().find(|place| **place as usize > self.in_order())?;
        Some((start, (start..).find(|place| !self.bytes.contains_key(place))?))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is lost, on either side of the director: the backend has the header and then what the client sent, the
    /// client has what the backend sent, and is never told of bytes it did not send.
    #[test]
    fn both_ends_agree_whatever_is_lost(
        variant in 0usize..4,
        lost in proptest::collection::vec(any::<bool>(), 60),
        sizes in proptest::collection::vec(1usize..40, 60),
        speaks_first in any::<bool>(),
    ) {
        let (version, is_v6) = VARIANTS[variant];
        let mut connection = Connection::new(&proxy(version), is_v6);
        let header = connection.header(version);
        let question: Vec<u8> = (0..200).map(|n| n as u8).collect();
        let (mut server_has, mut client_knows) = (Received::default(), 0usize);
        connection.open();
        let mut lost = lost.into_iter().chain(std::iter::repeat(false));
        let mut sizes = sizes.into_iter().cycle();
        // The handshake is complete when the backend gets anything; a backend that speaks first waits for that.
        for round in 0..400 {
            let mut segments = vec![];
            let mut at = client_knows;
            if !(speaks_first && round == 0) {
                for _ in 0..3 {
                    let to = (at + sizes.next().unwrap()).min(question.len());
                    segments.push(connection.of_client(ACK, after(at), SERVER_ISN + 1).with_data(&question[at..to]));
                    at = to;
                }
            } else {
                segments.push(connection.of_client(ACK, first(), SERVER_ISN + 1));
            }
            for segment in segments {
                if lost.next().unwrap() {
                    continue;
                }
                let got = connection.there(&segment);
                if !lost.next().unwrap() {
                    server_has.take(first(), &got);
                }
            }
            let has = server_has.in_order();
            let mut answer = connection.of_server(ACK, SERVER_ISN + 1, after(has));
            if let Some((left, right)) = server_has.beyond() {
                let edges = [after(left as usize).to_be_bytes(), after(right as usize).to_be_bytes()].concat();
                answer = answer.with_options([&[1, 1, 5, 10][..], &edges].concat());
            }
            if server_has.bytes.is_empty() {
                answer = connection.of_server(SYN | ACK, SERVER_ISN, first());
            }
            if lost.next().unwrap() {
                continue;
            }
            let got = connection.back(&answer);
            let acknowledged = got.acknowledgment.wrapping_sub(first()) as usize;
            prop_assert!(acknowledged <= question.len() && acknowledged + header.len() >= has.max(header.len()));
            prop_assert_eq!(acknowledged, has.saturating_sub(header.len()));
            for option in got.options() {
                if let TcpOptionElement::SelectiveAcknowledgement((left, right), _) = option {
                    let (left, right) = (left.wrapping_sub(first()), right.wrapping_sub(first()));
                    prop_assert!(left <= right && right as usize <= question.len());
                }
            }
            client_knows = acknowledged.max(client_knows);
            if client_knows == question.len() {
                break;
            }
        }
        prop_assert_eq!(client_knows, question.len());
        let received: Vec<u8> = server_has.bytes.values().copied().collect();
        prop_assert_eq!(received, [header, question].concat());
    }
}
