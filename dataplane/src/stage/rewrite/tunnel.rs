//! Tunnels: the packet goes to the backend as the payload of another, whose header is put in front of it. The packet's own
//! TTL, or hop limit, is lowered as by any router; nothing else of it changes, and nothing of it moves: the link header
//! moves to the front, into the buffer's headroom.
//!
//! What the header looks like is [`crate::rules::encapsulation`].

use std::net::Ipv4Addr;

use super::udp_checksum::{self, Egress};
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::flow::{Addresses, FlowKey};
use crate::packet::PacketBuf;
use crate::rules::{Encapsulation, Inner};
use crate::verdict::DropReason;
use crate::wire::checksum::{self, TTL_LOWERED, combine};
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{self, Ipv6, Ipv6Mut};
use crate::wire::udp;

/// Puts the header towards a backend in front of a packet of the flow with `key`, and the link header towards the next hop.
#[inline]
pub(in crate::stage) fn rewrite<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    key: &FlowKey,
    encapsulation: &Encapsulation,
    second_choice: Option<Ipv4Addr>,
    egress: Egress<'_>,
) -> Result<(), DropReason> {
    let l3 = packet.data_mut().get_mut(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    let (ttl, traffic_class) = lower_ttl(l3, shape.is_v6, encapsulation.lowers_ttl())?;
    let wanted =
        if encapsulation.wants_sum() { packet_sum(packet.data(), shape, egress) } else { Sum::Known(None) };
    let sum = if let Sum::Known(sum) = wanted { sum } else { None };
    let inner = Inner { second_choice, sum, ..inner(shape, key, ttl, traffic_class) };
    encapsulate(packet, shape, &inner, encapsulation, egress.next_hop)?;
    match wanted {
        Sum::Known(_) => Ok(()),
        Sum::LeftToPort { l2_len } => udp_checksum::leave_to_port(packet, l2_len, egress),
    }
}

/// The same for a packet that is no client's, such as a health check's: it lies in one buffer and has no second choice, and no
/// port is asked for its checksum.
#[cold]
pub(crate) fn rewrite_own<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    key: &FlowKey,
    encapsulation: &Encapsulation,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let l3 = packet.data_mut().get_mut(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    let (ttl, traffic_class) = lower_ttl(l3, shape.is_v6, encapsulation.lowers_ttl())?;
    let sum = l3.get(..shape.ip_len.into()).filter(|_| encapsulation.wants_sum()).map(checksum::sum);
    let inner = Inner { sum, ..inner(shape, key, ttl, traffic_class) };
    encapsulate(packet, shape, &inner, encapsulation, next_hop)
}

/// What of a packet and its flow goes into the header, but for the sum and the second choice.
#[inline(always)]
fn inner(shape: Shape, key: &FlowKey, ttl: u8, traffic_class: u8) -> Inner {
    Inner {
        is_v6: shape.is_v6,
        traffic_class,
        ttl,
        len: shape.ip_len,
        client_tail: client_tail(key.addresses),
        client_port: key.ports.source(),
        second_choice: None,
        sum: None,
    }
}

/// What the outer UDP checksum is made of.
enum Sum {
    /// The sum of all words of the packet; `None` is not known, and goes without a checksum.
    Known(Option<u16>),
    /// What the port finds behind the outer IP header, which begins at `l2_len`. To the port the outer UDP header is the
    /// packet's only one: that takes no knowledge of tunnels.
    LeftToPort { l2_len: u8 },
}

/// The last four bytes of the client's address.
#[inline(always)]
fn client_tail(addresses: Addresses) -> [u8; 4] {
    match addresses {
        Addresses::V4(pair) => pair.source().octets(),
        Addresses::V6(pair) => (pair.source().to_bits() as u32).to_be_bytes(),
    }
}

/// Lowers the TTL, or hop limit, where it shall be lowered; what it is then, and the TOS byte or traffic class.
#[inline(always)]
fn lower_ttl(l3: &mut [u8], is_v6: bool, lowers: bool) -> Result<(u8, u8), DropReason> {
    if is_v6 {
        let header = l3.first_chunk_mut::<{ ipv6::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        if Ipv6(header).hop_limit() <= u8::from(lowers) {
            return Err(DropReason::TtlExpired);
        }
        if lowers {
            Ipv6Mut(header).lower_hop_limit();
        }
        return Ok((Ipv6(header).hop_limit(), Ipv6(header).traffic_class()));
    }
    let header = l3.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    if Ipv4(header).ttl() <= u8::from(lowers) {
        return Err(DropReason::TtlExpired);
    }
    if lowers {
        Ipv4Mut(header).lower_ttl(TTL_LOWERED);
    }
    Ok((Ipv4(header).ttl(), Ipv4(header).tos()))
}

/// Writes both headers; `inner.len` is what the packet has now.
#[inline(always)]
fn encapsulate<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    inner: &Inner,
    encapsulation: &Encapsulation,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let added = encapsulation.added_len();
    if usize::from(inner.len) + usize::from(added) > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    packet.prepend(added).ok_or(DropReason::NoHeadroom)?;
    let (front, _) = packet
        .data_mut()
        .split_at_mut_checked(usize::from(shape.l3_at) + usize::from(added))
        .ok_or(DropReason::Truncated)?;
    let (link, header) =
        front.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    if let Some((macs, ethertype)) = link.split_first_chunk_mut() {
        *macs = next_hop.macs;
        ethertype.copy_from_slice(&encapsulation.ethertype().to_be_bytes());
    }
    let ready = encapsulation.header(inner);
    header.copy_from_slice(ready.get(..usize::from(added)).ok_or(DropReason::Truncated)?);
    Ok(())
}

/// The sum of all words of the packet, found from its headers alone where they tell it: the words of a TCP segment or UDP
/// datagram with its checksum, and of its pseudo header, sum up to ones. If the checksum is wrong, then so is this sum,
/// and the outer checksum made of it: what came in bad goes out bad. Where the headers tell nothing, and the port computes no
/// checksums, it takes all bytes; not known where part of them lies in further segments.
fn packet_sum(data: &[u8], shape: Shape, egress: Egress<'_>) -> Sum {
    let Some(l3) = data.get(shape.l3_at.into()..) else { return Sum::Known(None) };
    let headers = if shape.is_v6 { headers_sum6(l3, shape) } else { headers_sum4(l3, shape) };
    if headers.is_some() {
        return Sum::Known(headers);
    }
    if let Some(l2_len) = egress.udp_offload(shape.ip_len) {
        return Sum::LeftToPort { l2_len };
    }
    let bytes = l3.get(..shape.ip_len.into());
    if bytes.is_some() {
        egress.count_summed();
    }
    Sum::Known(bytes.map(checksum::sum))
}

/// The sum of a whole IPv4 packet whose headers tell it.
fn headers_sum4(l3: &[u8], shape: Shape) -> Option<u16> {
    let header = Ipv4(l3.first_chunk()?);
    let l4 = l3.get(header.header_len()..).filter(|_| !header.is_fragment())?;
    // A header with the right checksum sums up to ones, which add nothing.
    l4_sum(l4, header.addresses().into(), header.protocol(), shape)
}

/// The same of an IPv6 packet without extensions: a routing header's last destination would not be the header's.
fn headers_sum6(l3: &[u8], shape: Shape) -> Option<u16> {
    let (header, l4) = l3.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let of_l4 = l4_sum(l4, Ipv6(header).addresses().into(), Ipv6(header).next_header(), shape)?;
    Some(combine(checksum::sum(header), of_l4))
}

/// The sum of a TCP segment, or of a UDP datagram that has a checksum and ends with its packet.
fn l4_sum(l4: &[u8], addresses: Addresses, protocol: u8, shape: Shape) -> Option<u16> {
    let len = shape.l4_len();
    let has_checksum = match protocol {
        PROTOCOL_TCP => true,
        PROTOCOL_UDP => {
            let [.., len_high, len_low, a, b] = *l4.first_chunk::<{ udp::HEADER_LEN }>()?;
            [a, b] != [0, 0] && usize::from(u16::from_be_bytes([len_high, len_low])) == len
        }
        _ => false,
    };
    has_checksum.then(|| !checksum::sum_of_pseudo_header(addresses, protocol, len as u16))
}
