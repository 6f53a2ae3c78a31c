//! ICMP errors about translated flows: the error, and what it quotes, become the other family's. Both headers in front of the
//! quoted TCP or UDP header are written anew; that header and what follows stay where they are. So the checksums of what is
//! written anew are looked at first: here alone would bad ones become good.
//!
//! Read first: RFC 7915 sections 4.2 to 4.5 and 5.2 to 5.5, RFC 5508 section 4. The error goes on from the address that the
//! flow's packets have, as other errors about flows do ([`crate::stage::icmp`]).

use super::{Kept, header4, header6, move_front};
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::flow::{Addresses, FlowKey};
use crate::packet::PacketBuf;
use crate::stage::rewrite::set_macs;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::icmp_translation::{Header, to_icmp, to_icmpv6};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP};
use crate::wire::ipv6::{self, Ipv6, PROTOCOL_ICMPV6};
use crate::wire::quote::{self, Quote};
use crate::wire::{checksum, echo, icmp};

/// IPv6's least MTU, which no error exceeds (RFC 4443 section 2.4).
const IP6_LEN_MAX: usize = 1_280;

/// What is read of an error before its headers give way.
struct Error {
    /// Of the packet that carries it.
    outer: Kept,
    /// Of the packet that it quotes.
    quoted: Kept,
    quote: Quote,
    /// Where the quoted TCP or UDP header begins in the frame, and where what is quoted ends.
    l4: (usize, usize),
    header: Header,
}

/// Translates an error that travels with a flow which becomes `new`; `message_at` is where its ICMP header begins.
pub(super) fn rewrite<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    message_at: usize,
    new: &FlowKey,
    next_hop: &Adjacency,
) -> Result<Shape, DropReason> {
    let error = read(packet.data(), shape, message_at)?;
    let to_v6 = new.addresses.is_v6();
    let (ip_header_len, protocol, ethertype) = if to_v6 {
        (ipv6::HEADER_LEN, PROTOCOL_ICMPV6, ETHERTYPE_IPV6)
    } else {
        (ipv4::HEADER_LEN, PROTOCOL_ICMP, ETHERTYPE_IPV4)
    };
    let ip_at = ethernet::HEADER_LEN;
    let l4_at = ip_at + 2 * ip_header_len + icmp::HEADER_LEN;
    let l4_len = error.l4.1.saturating_sub(error.l4.0).min(ip_at + IP6_LEN_MAX - l4_at);
    move_front(packet, error.l4.0, l4_at)?;
    if !packet.truncate(l4_at + l4_len) {
        return Err(DropReason::IcmpQuote);
    }
    let data = packet.data_mut();
    let (headers, l4) = data.split_at_mut_checked(l4_at).ok_or(DropReason::IcmpQuote)?;
    rewrite_quoted(l4, &error, &new.reversed())?;
    let (link, headers) = headers.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
    set_macs(link, next_hop);
    [link[12], link[13]] = ethertype.to_be_bytes();
    let (outer, rest) = headers.split_at_mut_checked(ip_header_len).ok_or(DropReason::Truncated)?;
    let (message, inner) = rest.split_at_mut_checked(icmp::HEADER_LEN).ok_or(DropReason::Truncated)?;
    // At most 1,280 bytes in all.
    let message_len = (icmp::HEADER_LEN + ip_header_len + l4_len) as u16;
    let kept = Kept { protocol, l4_len: message_len, ..error.outer };
    write_header(outer, &kept, new.addresses);
    write_header(inner, &Kept { protocol: new.protocol, ..error.quoted }, new.addresses.reversed());
    message.copy_from_slice(&error.header);
    let pseudo = match new.addresses {
        Addresses::V6(pair) => checksum::sum_of_pseudo_header(pair, PROTOCOL_ICMPV6, message_len),
        Addresses::V4(_) => 0,
    };
    let sum = [&*message, inner, l4]
        .into_iter()
        .fold(pseudo, |sum, part| checksum::combine(sum, checksum::sum(part)));
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&(!sum).to_ne_bytes());
    }
    Ok(Shape { ip_len: (ip_header_len as u16) + message_len, is_v6: to_v6, ..shape })
}

/// Makes the quoted L4 header, and as much of what follows as is quoted, one of the flow `new`.
fn rewrite_quoted(l4: &mut [u8], error: &Error, new: &FlowKey) -> Result<(), DropReason> {
    if !echo::is_icmp(new.protocol) {
        error.quote.rewrite_l4(l4, new);
        return Ok(());
    }
    let delta = echo::delta(&error.quote.key, new);
    let header = l4.first_chunk_mut().ok_or(DropReason::IcmpQuote)?;
    let is_echo = echo::translate(header, new.addresses.is_v6(), delta, error.quoted.l4_len, new.ports);
    if is_echo { Ok(()) } else { Err(DropReason::Untranslatable) }
}

fn read(data: &[u8], shape: Shape, message_at: usize) -> Result<Error, DropReason> {
    let end = data.len().min(ethernet::HEADER_LEN + usize::from(shape.ip_len));
    let message = data.get(message_at..end).ok_or(DropReason::IcmpQuote)?;
    let outer = data.get(ethernet::HEADER_LEN..).ok_or(DropReason::IcmpQuote)?;
    if !shape.is_v6 && !ipv4::adds_up(outer) {
        return Err(DropReason::Ipv4Checksum);
    }
    // One that lies in several buffers, which takes a driver of few bytes a buffer, does not add up either.
    if !icmp::adds_up(message, addresses(outer, shape.is_v6)?) {
        return Err(DropReason::IcmpQuote);
    }
    let quote = quote::read(message, shape.is_v6).map_err(|_| DropReason::IcmpQuote)?;
    let header: Header = *message.first_chunk().ok_or(DropReason::IcmpQuote)?;
    let inner = message.get(icmp::HEADER_LEN..).ok_or(DropReason::IcmpQuote)?;
    // Not the quoted TCP or UDP checksum: its packet may not be there as a whole.
    if !shape.is_v6 && !ipv4::adds_up(inner) {
        return Err(DropReason::IcmpQuote);
    }
    let (outer, quoted) = (kept(outer, shape.is_v6, &quote)?, kept(inner, shape.is_v6, &quote)?);
    if outer.hop_limit <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let translated = if shape.is_v6 {
        to_icmp(header)
    } else {
        to_icmpv6(header, quoted.l4_len.saturating_add(ipv4::HEADER_LEN as u16))
    };
    let header = translated.ok_or(DropReason::Untranslatable)?;
    let l4_at = message_at + quote.l4_at();
    Ok(Error {
        outer: Kept { hop_limit: outer.hop_limit - 1, ..outer },
        quoted,
        quote,
        l4: (l4_at, end),
        header,
    })
}

fn addresses(packet: &[u8], is_v6: bool) -> Result<Addresses, DropReason> {
    Ok(if is_v6 {
        Ipv6(packet.first_chunk().ok_or(DropReason::IcmpQuote)?).addresses().into()
    } else {
        Ipv4(packet.first_chunk().ok_or(DropReason::IcmpQuote)?).addresses().into()
    })
}

/// What of a header goes into the new one, its hops as they are.
fn kept(packet: &[u8], is_v6: bool, quote: &Quote) -> Result<Kept, DropReason> {
    let protocol = quote.key.protocol;
    if is_v6 {
        let header = Ipv6(packet.first_chunk().ok_or(DropReason::IcmpQuote)?);
        let extensions = quote.l4_at().saturating_sub(icmp::HEADER_LEN + ipv6::HEADER_LEN);
        let l4_len = header.payload_len().saturating_sub(extensions) as u16;
        return Ok(Kept {
            traffic_class: header.traffic_class(),
            hop_limit: header.hop_limit(),
            protocol,
            l4_len,
        });
    }
    let header = Ipv4(packet.first_chunk().ok_or(DropReason::IcmpQuote)?);
    let l4_len = header.total_len().saturating_sub(header.header_len()) as u16;
    Ok(Kept { traffic_class: header.tos(), hop_limit: header.ttl(), protocol, l4_len })
}

/// Writes a header of the family of `addresses` to `place`, which has its length.
fn write_header(place: &mut [u8], kept: &Kept, addresses: Addresses) {
    match addresses {
        // An error is not to be fragmented, and the identification of what it quotes went with its header.
        Addresses::V4(pair) => place.copy_from_slice(&header4(kept, pair, None)),
        Addresses::V6(pair) => place.copy_from_slice(&header6(kept, pair)),
    }
}
