//! Packets of either family for the tests of fragments and ICMP errors: made by etherparse, cut and put together here,
//! judged by a full computation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::local_port::LocalPool;
use dataplane::rules::{Backend, Ruleset, ServiceKey, Vip};
use dataplane::wire::Addresses;
use dataplane::wire::ethernet::MacAddress;
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};

use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{LOCAL_ADDRESSES, ONE_OF_EACH, PORT_MACS, TCP, VIP};
use crate::common::ruleset;

/// An endpoint of either family.
pub(crate) type End = (IpAddr, u16);

/// The two families.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

/// The IPv6 address that stands for an IPv4 one in these tests.
pub(crate) fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0x2001, 0xdb8, a, b, c, 0, 0, d)
}

/// The address itself, or the one that stands for it.
pub(crate) fn address(address: Ipv4Addr, is_v6: bool) -> IpAddr {
    if is_v6 { mapped(address).into() } else { address.into() }
}

/// A client's endpoint.
pub(crate) fn client(number: u16, is_v6: bool) -> End {
    (address(Ipv4Addr::new(198, 51, 100, (number % 250) as u8), is_v6), 20_000 + number)
}

/// The VIP's.
pub(crate) fn vip(l4_port: u16, is_v6: bool) -> End {
    (address(VIP, is_v6), l4_port)
}

/// The rules of the other tests, in either family.
pub(crate) fn rules(worker_count: u16, is_v6: bool) -> Ruleset {
    let rules = ruleset(worker_count, &ONE_OF_EACH);
    if is_v6 { in_ipv6(rules) } else { rules }
}

fn in_ipv6(rules: Ruleset) -> Ruleset {
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V6(mapped(address)),
        v6 => v6,
    };
    let backends = rules.backends.iter().map(|backend| Backend { address: v6(backend.address), ..*backend });
    let keys = ONE_OF_EACH.iter().enumerate().map(|(index, spec)| {
        let key = ServiceKey { vip: v6(VIP.into()), l4_port: spec.l4_port, protocol: spec.protocol };
        (key, dataplane::index::ServiceIndex(index as u16))
    });
    let locals = LOCAL_ADDRESSES.map(|address| v6(address.into()));
    let mut ports = rules.ports.to_vec();
    for port in &mut ports {
        (port.local_pool, port.local_pool6) = (None, port.local_pool);
    }
    Ruleset {
        ports: ports.into(),
        backends: backends.collect(),
        matcher: Arc::new(keys.collect()),
        vips: Arc::new([(v6(VIP.into()), Vip::PLAIN)].into_iter().collect()),
        local_addresses: Arc::new(locals.into_iter().collect()),
        local_pools: Arc::new([LocalPool { addresses: locals.into() }]),
        ..rules
    }
}

/// A whole frame from one endpoint to another, its checksums right.
pub(crate) fn frame(
    to: MacAddress,
    from: MacAddress,
    ends: (End, End),
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(from.0, to.0);
    let builder = match Addresses::new(ends.0.0, ends.1.0) {
        Addresses::V4(pair) => link.ipv4(pair.source().octets(), pair.destination().octets(), 64),
        Addresses::V6(pair) => link.ipv6(pair.source().octets(), pair.destination().octets(), 64),
    };
    let mut bytes = Vec::new();
    if protocol == TCP {
        builder.tcp(ends.0.1, ends.1.1, 1_000, 512).ack(77).write(&mut bytes, payload).unwrap();
    } else {
        builder.udp(ends.0.1, ends.1.1).write(&mut bytes, payload).unwrap();
    }
    bytes
}

/// A frame from a client to the VIP.
pub(crate) fn from_client(client: End, l4_port: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ends = (client, vip(l4_port, client.0.is_ipv6()));
    frame(PORT_MACS[0], CLIENT_MAC, ends, protocol, payload)
}

/// Cuts a frame into fragments of at most `size` bytes each, a multiple of eight.
pub(crate) fn cut(frame: &[u8], size: usize, identification: u32) -> Vec<Vec<u8>> {
    let (link, packet) = frame.split_at(14);
    let is_v6 = packet[0] >> 4 == 6;
    let (header, rest) = packet.split_at(if is_v6 { 40 } else { 20 });
    let count = rest.len().div_ceil(size);
    (rest.chunks(size).enumerate())
        .map(|(number, part)| {
            let offset = IpFragOffset::try_new((number * size / 8) as u16).unwrap();
            let more = number + 1 < count;
            let mut bytes = link.to_vec();
            if is_v6 {
                let mut header = Ipv6Header::from_slice(header).unwrap().0;
                let fragment = Ipv6FragmentHeader::new(header.next_header, offset, more, identification);
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                header.payload_length = part.len() as u16 + 8;
                bytes.extend(header.to_bytes());
                bytes.extend(fragment.to_bytes());
            } else {
                let mut header = Ipv4Header::from_slice(header).unwrap().0;
                (header.fragment_offset, header.more_fragments, header.dont_fragment) = (offset, more, false);
                header.identification = identification as u16;
                header.set_payload_len(part.len()).unwrap();
                header.header_checksum = header.calc_header_checksum();
                bytes.extend(header.to_bytes());
            }
            bytes.extend(part);
            bytes
        })
        .collect()
}

/// A whole packet as an independent decoder reads it, all of its checksums found to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) to: MacAddress,
    pub(crate) source: End,
    pub(crate) destination: End,
    pub(crate) hops: u8,
    pub(crate) payload: Vec<u8>,
}

impl Whole {
    /// Reads a frame.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination, hops, pseudo) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let (source, destination) = (header.source, header.destination);
                (
                    IpAddr::from(source),
                    IpAddr::from(destination),
                    header.time_to_live,
                    [&source[..], &destination].concat(),
                )
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                let (source, destination) = (header.source, header.destination);
                (
                    IpAddr::from(source),
                    IpAddr::from(destination),
                    header.hop_limit,
                    [&source[..], &destination].concat(),
                )
            }
            other => panic!("{other:?}"),
        };
        let (ports, payload, protocol, l4_len) = match packet.transport.as_ref().unwrap() {
            TransportSlice::Udp(udp) => {
                ((udp.source_port(), udp.destination_port()), udp.payload(), 17, udp.slice().len())
            }
            TransportSlice::Tcp(tcp) => {
                ((tcp.source_port(), tcp.destination_port()), tcp.payload(), 6, tcp.slice().len())
            }
            other => panic!("{other:?}"),
        };
        let l4 = &frame[frame.len() - l4_len..];
        assert_eq!(
            sum(&[&pseudo, &[0, protocol], &(l4_len as u16).to_be_bytes(), l4]),
            0xffff,
            "L4 checksum"
        );
        Self {
            to: MacAddress(*frame.first_chunk().unwrap()),
            source: (source, ports.0),
            destination: (destination, ports.1),
            hops,
            payload: payload.to_vec(),
        }
    }

    /// Puts fragments together, which must be all of one datagram, and reads that.
    pub(crate) fn of_fragments(fragments: &[Vec<u8>]) -> Self {
        let mut parts: Vec<_> = fragments.iter().map(|fragment| Part::of(fragment)).collect();
        parts.sort_by_key(|part| part.offset);
        let mut reached = 0;
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(part.offset, reached, "a hole or an overlap");
            assert_eq!(part.more, number + 1 < parts.len());
            assert_eq!(part.head, parts[0].head, "MACs, addresses, identification, hops, protocol");
            reached += part.bytes.len();
        }
        let payload: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
        let first = &fragments[fragments.iter().position(|bytes| Part::of(bytes).offset == 0).unwrap()];
        let mut whole = first[..14].to_vec();
        if first[14] >> 4 == 6 {
            let mut header = Ipv6Header::from_slice(&first[14..]).unwrap().0;
            header.next_header = IpNumber(first[54]);
            header.payload_length = payload.len() as u16;
            whole.extend(header.to_bytes());
        } else {
            let mut header = Ipv4Header::from_slice(&first[14..]).unwrap().0;
            header.more_fragments = false;
            header.set_payload_len(payload.len()).unwrap();
            header.header_checksum = header.calc_header_checksum();
            whole.extend(header.to_bytes());
        }
        whole.extend(payload);
        Self::of(&whole)
    }
}

/// One fragment.
struct Part {
    /// What all fragments of a datagram have alike.
    head: Vec<u8>,
    offset: usize,
    more: bool,
    bytes: Vec<u8>,
}

impl Part {
    fn of(frame: &[u8]) -> Self {
        if frame[14] >> 4 == 6 {
            let (header, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
            let (fragment, _) = Ipv6FragmentHeader::from_slice(rest).unwrap();
            let len = usize::from(header.payload_length) - 8;
            Self {
                head: [&frame[..14], &header.source, &header.destination, &rest[4..8], &[header.hop_limit]]
                    .concat(),
                offset: fragment.fragment_offset.byte_offset().into(),
                more: fragment.more_fragments,
                bytes: rest[8..8 + len].to_vec(),
            }
        } else {
            let (header, rest) = Ipv4Header::from_slice(&frame[14..]).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let len = usize::from(header.payload_len().unwrap());
            let (id, hops) = (header.identification.to_be_bytes(), [header.time_to_live, header.protocol.0]);
            Self {
                head: [&frame[..14], &header.source[..], &header.destination, &id, &hops].concat(),
                offset: header.fragment_offset.byte_offset().into(),
                more: header.more_fragments,
                bytes: rest[..len].to_vec(),
            }
        }
    }
}

/// The ones' complement sum of all parts, each but the last of an even length (RFC 1071): all ones over what has a right
/// checksum.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
