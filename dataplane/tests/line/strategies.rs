//! Strategies for packets, after capsule's: honest frames with every part variable, and what an adversary
//! makes of them.

use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::common::Frame;
use crate::common::frames::{ACK, Endpoint, FIN, L4, RST, SYN};
use crate::common::rules::{LOCAL_ADDRESSES, PORT_MACS, VIP, backend_address};
use dataplane::wire::ethernet::MacAddress;

/// Clients: few enough that their flows meet again.
pub(crate) fn clients() -> impl Strategy<Value = Endpoint> {
    (0u32..40, 1_024u16..1_034).prop_map(|(host, l4_port)| {
        (Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 1)) + host), l4_port)
    })
}

/// l4_ports of a TCP service in DR, one in FullNAT, the UDP ones, and one that nobody listens on.
pub(crate) fn service_ports() -> impl Strategy<Value = u16> {
    select(vec![80u16, 8080, 53, 5353, 81])
}

/// Options of an IPv4 header, in whole words (RFC 791: no-operation and end of list).
pub(crate) fn ip_options() -> impl Strategy<Value = Vec<u8>> {
    (0usize..=10).prop_map(|words| vec![1; words * 4])
}

/// TCP with any control bits that matter, or UDP with or without a checksum.
pub(crate) fn l4() -> impl Strategy<Value = L4> {
    prop_oneof![
        3 => select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, 0]).prop_map(L4::Tcp),
        2 => any::<bool>().prop_map(|checksum| L4::Udp { checksum }),
    ]
}

/// An honest frame of a client to the VIP.
pub(crate) fn client_frames() -> impl Strategy<Value = Frame> {
    let headers = (clients(), service_ports(), l4(), ip_options(), prop_oneof![9 => 2u8..=255, 1 => 0u8..=1]);
    (headers, vec(any::<u8>(), 0..90)).prop_map(|((client, l4_port, l4, ip_options, ttl), payload)| {
        let frame = Frame::tcp(client, (VIP, l4_port), 0);
        Frame { l4, ip_options, ttl, payload, ..frame }
    })
}

/// A frame that a backend may have sent to a local address, with a port that somebody may have taken: the
/// cursor of local ports starts at 1,024 in the tests.
pub(crate) fn backend_frames() -> impl Strategy<Value = Frame> {
    let endpoints = (0usize..8, select(LOCAL_ADDRESSES.to_vec()), 1_024u16..1_030);
    (endpoints, l4(), vec(any::<u8>(), 0..40)).prop_map(|((backend, local, l4_port), l4, payload)| {
        let frame = Frame::tcp((backend_address(backend), 9_000), (local, l4_port), 0);
        Frame { to: PORT_MACS[1], from: MacAddress([2, 0, 0, 0, 1, 0]), l4, payload, ..frame }
    })
}

/// The IPv4 packet of an ICMP message, its checksums left zero: the line does not look at them.
fn icmp_packet(source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let len = (20 + message.len()) as u16;
    let head = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 1, 0, 0, 64, 1, 0, 0]].concat();
    [&head[..], &source.octets(), &destination.octets(), message].concat()
}

/// Pings, their answers, errors about both, and what else there is of ICMP: to the VIP and to local addresses, under
/// identifiers that somebody may have.
pub(crate) fn icmp_frames() -> impl Strategy<Value = Vec<u8>> {
    let destination = select([&[VIP][..], &LOCAL_ADDRESSES].concat());
    let kinds = (select(vec![8u8, 0, 3, 11, 13]), select(vec![8u8, 0, 13]));
    let identifier = prop_oneof![Just(0u16), 1_024u16..1_030];
    (clients(), destination, kinds, identifier, vec(any::<u8>(), 0..60)).prop_map(
        |(client, destination, (kind, quoted), identifier, payload)| {
            let [a, b] = identifier.to_be_bytes();
            let echo = |kind| [&[kind, 0, 0, 0, a, b, 0, 1][..], &payload].concat();
            let message = match kind {
                3 | 11 => {
                    let about = icmp_packet(destination, client.0, &echo(quoted));
                    [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &about].concat()
                }
                _ => echo(kind),
            };
            let link =
                [&PORT_MACS[usize::from(destination != VIP)].0[..], &[2, 0, 0, 0, 1, 0], &[8, 0]].concat();
            [link, icmp_packet(client.0, destination, &message)].concat()
        },
    )
}

/// What an adversary does to a frame.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    /// Sets a byte of the first 64, where the headers are.
    Byte(Index, u8),
    /// Cuts the frame.
    Cut(Index),
    /// Puts bytes in the middle.
    Insert(Index, Vec<u8>),
    /// Appends bytes: link padding, or more.
    Append(Vec<u8>),
}

impl Mutation {
    fn apply(&self, frame: &mut Vec<u8>) {
        match self {
            Self::Byte(_, _) if frame.is_empty() => {}
            Self::Byte(at, byte) => {
                let at = at.index(frame.len().min(64));
                frame[at] = *byte;
            }
            Self::Cut(at) => frame.truncate(at.index(frame.len() + 1)),
            Self::Insert(at, bytes) => {
                let at = at.index(frame.len() + 1);
                frame.splice(at..at, bytes.iter().copied());
            }
            Self::Append(bytes) => frame.extend(bytes),
        }
    }
}

fn mutations() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        5 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        2 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => vec(any::<u8>(), 1..20).prop_map(Mutation::Append),
    ]
}

/// Any frame: random bytes, honest frames, and honest frames after some mutations.
pub(crate) fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let of_services =
        || prop_oneof![3 => client_frames(), 1 => backend_frames()].prop_map(|frame| frame.bytes());
    let honest = || prop_oneof![4 => of_services(), 1 => icmp_frames()];
    let mutated = (honest(), vec(mutations(), 1..4)).prop_map(|(mut frame, mutations)| {
        mutations.iter().for_each(|mutation| mutation.apply(&mut frame));
        frame
    });
    // Random bytes behind an Ethernet header to us reach further than random bytes alone.
    let to_us = vec(any::<u8>(), 0..100).prop_map(|bytes| {
        let mut frame = [&PORT_MACS[0].0[..], &[2; 6], &[8, 0, 0x45]].concat();
        frame.extend(bytes);
        frame
    });
    prop_oneof![1 => vec(any::<u8>(), 0..120), 1 => to_us, 3 => honest(), 5 => mutated]
}
