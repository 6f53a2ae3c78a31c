//! The client's address kept where its packets no longer have it (FullNAT): a header of the PROXY protocol in front of the
//! first byte of a TCP connection, or an option of the TCP or IPv4 header. In band: nothing here is a proxy, no payload is
//! stored, moved or acknowledged, and the two ends keep their connection with each other.
//!
//! Read first: docs/decisions/0010-client-address.md; then RFC 9293 section 3.4, RFC 2018 and RFC 1624.
//!
//! PROXY protocol. `first` is the number of the client's first byte, which the backend names in its SYN-ACK. Until the
//! backend acknowledges the header, every segment that begins at `first`, one without data too, carries it, and what
//! begins later is moved on by its length. So whoever has to repeat the first byte, or the ACK that completes the
//! handshake, repeats the header with it: loss needs no timer and no buffer here. From the backend's acknowledgment on,
//! every number of the client's is moved on by the header's length, and back in what the backend acknowledges.
//!
//! Options. Every packet has it until the backend has answered (TCP: with more than its SYN-ACK); after that the flow costs
//! no more than any other.

use super::translate;
use crate::burst::Shape;
use crate::counters::WorkerCounters;
use crate::flow::kept::{Kept, Teller};
use crate::flow::{Entry, FlowKey, FlowTable};
use crate::index::EntryIndex;
use crate::packet::{self, PacketBuf};
use crate::rules::{ClientAddress, Ruleset};
use crate::stage::icmp;
use crate::verdict::DropReason;
use crate::wire::client_option::{self, ClientOption};
use crate::wire::proxy_protocol::{self, Version};
use crate::wire::quote;
use crate::wire::tcp::{self, Tcp, TcpFlags};
use crate::wire::{checksum, ipv4, ipv6, tcp_options};

/// Offset of the checksum of an ICMP or ICMPv6 message (RFC 792, RFC 4443 section 2.1).
const ICMP_CHECKSUM_AT: usize = 2;
/// Half of all numbers: of two, the later is less than so many ahead.
const HALF: u32 = 1 << 31;

/// Tells the backend, with a packet of the client's that is otherwise as it leaves; returns its shape then. `index` is the
/// entry of the client's flow.
pub(super) fn tell<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    index: EntryIndex,
    table: &FlowTable,
    rules: &Ruleset,
    counters: &WorkerCounters,
) -> Result<Shape, DropReason> {
    let (Some(entry), Some(back)) = (table.entry(index), table.entry(index.peer())) else { return Ok(shape) };
    let is_fragment = translate::is_fragment(packet.data(), shape);
    let mtu = rules.adjacency(entry.backend()).mtu;
    match back.kept().teller() {
        Some(Teller::Proxy(version)) => proxy(packet, shape, version, &entry.key(), back, mtu, is_fragment),
        Some(teller @ (Teller::Toa | Teller::Uoa)) => {
            // What grows within the datagram would move the fragments behind it.
            let fits = teller == Teller::Uoa || !is_fragment;
            let option = option_of(entry, teller, rules).filter(|_| fits);
            if let Some(Ok(shape)) = option.map(|option| put_option(packet, shape, &option, mtu)) {
                return Ok(shape);
            }
            counters.client_address_withheld.add(1);
            Ok(shape)
        }
        None => Ok(shape),
    }
}

/// What the backend says about the header, from its packet as it came. Returns where the client's first byte was, while
/// that matters. `index` is the entry of the backend's flow.
pub(super) fn hear<P: PacketBuf>(
    packet: &P,
    shape: Shape,
    index: EntryIndex,
    table: &mut FlowTable,
) -> Option<u32> {
    let entry = table.entry(index)?;
    let (kept, first) = (entry.kept(), entry.end().expected);
    let len = kept.header_len();
    if kept.is_delivered() || shape.tcp_flags.has(TcpFlags::SYN) || shape.tcp_flags.has(TcpFlags::RST) {
        return None;
    }
    let is_delivered = len == 0 || {
        let acknowledgment = Tcp(header(packet.data(), shape).ok()?).acknowledgment();
        let beyond = acknowledgment.wrapping_sub(first?);
        shape.tcp_flags.has(TcpFlags::ACK) && (len..HALF).contains(&beyond)
    };
    if !is_delivered {
        return first;
    }
    table.entry_mut(index)?.set_kept(kept.delivered());
    if len == 0 {
        // An option is told once: from here on the flow is like any other.
        for index in [index, index.peer()] {
            let entry = table.entry_mut(index)?;
            entry.watch = entry.watch.address_told();
        }
    }
    None
}

/// Takes the header out of what the backend's packet, otherwise as it leaves, says of the client's bytes. `first` is what
/// [`hear`] returned.
pub(super) fn take_back<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    index: EntryIndex,
    table: &mut FlowTable,
    first: Option<u32>,
) -> Result<(), DropReason> {
    let Some(entry) = table.entry_mut(index) else { return Ok(()) };
    let len = entry.kept().header_len();
    if let Some(first) = first {
        // What it acknowledges of the header is not what the numbers are counted from.
        entry.numbers.hold_expected(first);
    }
    let is_delivered = entry.kept().is_delivered();
    if len == 0 {
        return Ok(());
    }
    let l4 = packet.data_mut().get_mut(shape.l4_at.into()..).ok_or(DropReason::Truncated)?;
    if shape.tcp_flags.has(TcpFlags::SYN) {
        narrow_window(l4, len);
        return Ok(());
    }
    let back = |number: u32| before(number, len, if is_delivered { Place::Behind } else { first.into() });
    let acknowledgment = Tcp(l4.first_chunk().ok_or(DropReason::Truncated)?).acknowledgment();
    if shape.tcp_flags.has(TcpFlags::ACK) {
        tcp_options::write(l4, tcp::ACKNOWLEDGMENT_AT, back(acknowledgment).to_be_bytes());
        tcp_options::shift_sacks(l4, back);
    }
    Ok(())
}

/// Takes the header out of the number that an ICMP error to the client quotes, which is otherwise as it leaves: the client's
/// TCP would take it for one about somebody else's segment (RFC 5927 section 4.1). `index` is the entry of the backend's flow.
pub(super) fn take_back_quote<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    index: EntryIndex,
    table: &FlowTable,
) -> Option<()> {
    let back = table.entry(index)?;
    let (kept, first) = (back.kept(), back.end().expected);
    let data = packet.data_mut();
    let end = usize::from(shape.l3_at) + usize::from(shape.ip_len);
    let message = data.get(..end).and_then(|data| icmp::message_at(data, shape.is_v6))?;
    let message = data.get_mut(message..end)?;
    let l4_at = quote::read(message, shape.is_v6).ok()?.l4_at();
    let place: &mut [u8; 4] = message.get_mut(l4_at + tcp::SEQUENCE_AT..)?.first_chunk_mut()?;
    let place_in_flow = if kept.is_delivered() { Place::Behind } else { first.into() };
    let new = before(u32::from_be_bytes(*place), kept.header_len(), place_in_flow).to_be_bytes();
    let old = std::mem::replace(place, new);
    let delta = checksum::combine(!checksum::sum(&old), checksum::sum(&new));
    let mut moved = delta;
    if let Some(quoted) = message.get_mut(l4_at + tcp::CHECKSUM_AT..).and_then(|rest| rest.first_chunk_mut())
    {
        let new = checksum::update(u16::from_ne_bytes(*quoted), delta).to_ne_bytes();
        let old = std::mem::replace(quoted, new);
        let of_quoted = checksum::combine(!checksum::sum(&old), checksum::sum(&new));
        moved = checksum::combine(moved, of_quoted);
    }
    let sum = message.get_mut(ICMP_CHECKSUM_AT..)?.first_chunk_mut()?;
    *sum = checksum::update(u16::from_ne_bytes(*sum), moved).to_ne_bytes();
    Some(())
}

/// Where a number of the client's bytes, as its backend counts, lies.
#[derive(Clone, Copy)]
enum Place {
    /// Nothing is known of the client's numbers.
    Unknown,
    /// The header is not acknowledged yet, and lies here.
    At(u32),
    /// Behind the header, which is acknowledged.
    Behind,
}

impl From<Option<u32>> for Place {
    fn from(first: Option<u32>) -> Self {
        first.map_or(Self::Unknown, Self::At)
    }
}

/// What the client counts where its backend has `number`, behind a header of `len` bytes.
fn before(number: u32, len: u32, place: Place) -> u32 {
    match place {
        Place::Behind => number.wrapping_sub(len),
        Place::Unknown => number,
        Place::At(first) => match number.wrapping_sub(first) {
            ahead if ahead >= HALF => number,
            ahead => first.wrapping_add(ahead.saturating_sub(len)),
        },
    }
}

/// A SYN-ACK's window counts from the client's first byte, the backend's from the header's. A window that is not scaled is
/// meant: that of a SYN never is (RFC 7323 section 2.2).
fn narrow_window(l4: &mut [u8], by: u32) {
    let Some(header) = l4.first_chunk() else { return };
    // A header is shorter than 2^16.
    let window = Tcp(header).window().saturating_sub(by as u16);
    tcp_options::write(l4, tcp::WINDOW_AT, window.to_be_bytes());
}

/// Moves a segment on by the header, or puts that into it.
fn proxy<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    version: Version,
    client_key: &FlowKey,
    back: &Entry,
    mtu: u16,
    is_fragment: bool,
) -> Result<Shape, DropReason> {
    if shape.tcp_flags.has(TcpFlags::SYN) {
        // Data with a SYN (TCP Fast Open, RFC 7413) would come before the header: the client sends it again.
        return cut(packet, shape, 0);
    }
    let (kept, first) = (back.kept(), back.end().expected);
    let sequence = Tcp(header(packet.data(), shape)?).sequence();
    let ahead = first.map(|first| sequence.wrapping_sub(first));
    match ahead {
        _ if kept.is_delivered() => shift(packet, shape, kept),
        // The rest of the segment's data could not move on with the header. TCP does not fragment, as a rule.
        Some(0) if is_fragment => Err(DropReason::Fragment),
        Some(0) if !shape.tcp_flags.has(TcpFlags::RST) => {
            let header = proxy_protocol::header(
                version,
                client_key.source(),
                client_key.destination(),
                client_key.ports,
            );
            put_header(packet, shape, &header, mtu)
        }
        // A RST at `first` is taken by a backend that lacks the header, and by one that has it as soon as that has said so.
        Some(1..HALF) => shift(packet, shape, kept),
        _ => Ok(shape),
    }
}

/// Moves the number of a segment on by the header.
fn shift<P: PacketBuf>(packet: &mut P, shape: Shape, kept: Kept) -> Result<Shape, DropReason> {
    let l4 = packet.data_mut().get_mut(shape.l4_at.into()..).ok_or(DropReason::Truncated)?;
    let sequence = Tcp(l4.first_chunk().ok_or(DropReason::Truncated)?).sequence();
    let shifted = sequence.wrapping_add(kept.header_len());
    tcp_options::write(l4, tcp::SEQUENCE_AT, shifted.to_be_bytes());
    Ok(shape)
}

/// Puts the header of the PROXY protocol in front of a segment's data. What does not fit then is cut off: the client, whose
/// segments the SYN-ACK has asked to leave room, sends it again.
fn put_header<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    proxy_header: &[u8],
    mtu: u16,
) -> Result<Shape, DropReason> {
    let data_len = shape.l4_len().saturating_sub(Tcp(header(packet.data(), shape)?).header_len());
    let excess = (usize::from(shape.ip_len) + proxy_header.len()).saturating_sub(mtu.into());
    let shape = if excess > 0 {
        // An even number of bytes stays, so that the sum of the rest can be taken off as it is.
        cut(packet, shape, data_len.checked_sub(excess).ok_or(DropReason::TooBig)? & !1)?
    } else {
        shape
    };
    let l4_at = usize::from(shape.l4_at);
    let sums = sums_of(packet.data(), shape)?;
    packet::insert(packet, l4_at + sums.header_len, proxy_header)?;
    let data = packet.data_mut();
    let l4 = data.get_mut(l4_at..).ok_or(DropReason::Truncated)?;
    let segment = Tcp(l4.first_chunk().ok_or(DropReason::Truncated)?);
    let urgent = segment.flags().has(TcpFlags::URG).then(|| segment.urgent());
    let mut delta = checksum::combine(sums.of_len(proxy_header.len()), checksum::sum(proxy_header));
    if !proxy_header.len().is_multiple_of(2) {
        // The data's bytes are in the other halves of their words now.
        let swapped = checksum::combine(!sums.of_data, sums.of_data.swap_bytes());
        delta = checksum::combine(delta, swapped);
    }
    tcp_options::move_checksum(l4, delta);
    if let Some(urgent) = urgent {
        let urgent = urgent.saturating_add(proxy_header.len() as u16);
        tcp_options::write(l4, tcp::URGENT_AT, urgent.to_be_bytes());
    }
    grow(data, shape, proxy_header.len())
}

/// Cuts a segment to so many bytes of data, an even number, and a FIN with what is cut off.
fn cut<P: PacketBuf>(packet: &mut P, shape: Shape, data_len: usize) -> Result<Shape, DropReason> {
    let l4_at = usize::from(shape.l4_at);
    let header_len = Tcp(header(packet.data(), shape)?).header_len();
    let (from, to) = (l4_at + header_len + data_len, l4_at + shape.l4_len());
    if from >= to {
        return Ok(shape);
    }
    // What lies in further segments of the buffer cannot be summed here.
    let rest = packet.data().get(from..to).ok_or(DropReason::TooBig)?;
    let (l4_len, cut_len) = (shape.l4_len(), to - from);
    let of_len = checksum::combine(!word(l4_len), word(l4_len - cut_len));
    let delta = checksum::combine(!checksum::sum(rest), of_len);
    if !packet.truncate(from) {
        return Err(DropReason::Truncated);
    }
    let data = packet.data_mut();
    let l4 = data.get_mut(l4_at..).ok_or(DropReason::Truncated)?;
    tcp_options::move_checksum(l4, delta);
    let [offset, flags] =
        *l4.get(tcp::DATA_OFFSET_AT..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; 2]);
    tcp_options::write(l4, tcp::DATA_OFFSET_AT, [offset, flags & !TcpFlags::FIN.0]);
    set_ip_len(data, shape, shape.ip_len - cut_len as u16)
}

/// The option that tells the client of `entry`'s flow, whose backend is told by `teller`; `None` where the rules no longer ask
/// for that one.
fn option_of(entry: &Entry, teller: Teller, rules: &Ruleset) -> Option<(ClientAddress, ClientOption)> {
    let wanted = rules.service(entry.service)?.policy.client_address;
    let kind = match (wanted, teller) {
        (ClientAddress::Toa(kind), Teller::Toa) | (ClientAddress::Uoa(kind), Teller::Uoa) => kind,
        _ => return None,
    };
    let key = entry.key();
    Some((wanted, client_option::option(kind, key.source(), key.ports.source())))
}

/// Puts an option into the packet where there is room for it.
fn put_option<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    (wanted, option): &(ClientAddress, ClientOption),
    mtu: u16,
) -> Result<Shape, DropReason> {
    if usize::from(shape.ip_len) + option.len() > usize::from(mtu) {
        return Err(DropReason::TooBig);
    }
    match wanted {
        // A SYN's options are for the handshake; what reads the address reads it from the ACK that completes that.
        ClientAddress::Toa(_) if shape.tcp_flags.has(TcpFlags::SYN) => Ok(shape),
        ClientAddress::Toa(_) => put_tcp_option(packet, shape, option),
        _ => put_ipv4_option(packet, shape, option),
    }
}

/// Puts an option right behind the fixed part of the TCP header, where no padding comes before it.
fn put_tcp_option<P: PacketBuf>(packet: &mut P, shape: Shape, option: &[u8]) -> Result<Shape, DropReason> {
    let l4_at = usize::from(shape.l4_at);
    let header_len = Tcp(header(packet.data(), shape)?).header_len() + option.len();
    if header_len > tcp_options::HEADER_LEN_MAX {
        return Err(DropReason::TooBig);
    }
    let l4_len = shape.l4_len();
    packet::insert(packet, l4_at + tcp::HEADER_LEN, option)?;
    let data = packet.data_mut();
    let l4 = data.get_mut(l4_at..).ok_or(DropReason::Truncated)?;
    let of_len = checksum::combine(!word(l4_len), word(l4_len + option.len()));
    tcp_options::move_checksum(l4, checksum::combine(of_len, checksum::sum(option)));
    let [offset, flags] =
        *l4.get(tcp::DATA_OFFSET_AT..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; 2]);
    // The length is a multiple of four, in units of which the offset is counted, in its byte's upper half.
    let offset = ((header_len / 4) << 4) as u8 | offset & 0xf;
    tcp_options::write(l4, tcp::DATA_OFFSET_AT, [offset, flags]);
    grow(data, shape, option.len())
}

/// Puts an option right behind the fixed part of the IPv4 header.
fn put_ipv4_option<P: PacketBuf>(packet: &mut P, shape: Shape, option: &[u8]) -> Result<Shape, DropReason> {
    let (l3_at, l4_at) = (usize::from(shape.l3_at), usize::from(shape.l4_at));
    if shape.is_v6 || l4_at - l3_at + option.len() > ipv4::HEADER_LEN_MAX {
        return Err(DropReason::TooBig);
    }
    packet::insert(packet, l3_at + ipv4::HEADER_LEN, option)?;
    let data = packet.data_mut();
    let header: &mut [u8; ipv4::HEADER_LEN] =
        data.get_mut(l3_at..).and_then(|rest| rest.first_chunk_mut()).ok_or(DropReason::Truncated)?;
    let [version_and_len, tos, ..] = *header;
    let new = [version_and_len + (option.len() / 4) as u8, tos];
    let of_header = checksum::combine(!checksum::sum(&[version_and_len, tos]), checksum::sum(&new));
    [header[0], header[1]] = new;
    let sum = u16::from_ne_bytes([header[10], header[11]]);
    let delta = checksum::combine(of_header, checksum::sum(option));
    [header[10], header[11]] = checksum::update(sum, delta).to_ne_bytes();
    let shape = grow(data, shape, option.len())?;
    Ok(Shape { l4_at: shape.l4_at + option.len() as u16, ..shape })
}

/// The TCP header of a packet.
fn header(data: &[u8], shape: Shape) -> Result<&[u8; tcp::HEADER_LEN], DropReason> {
    data.get(shape.l4_at.into()..).and_then(|l4| l4.first_chunk()).ok_or(DropReason::Truncated)
}

/// What is known of the sums of a segment, without a look at its data.
struct Sums {
    /// Bytes of the TCP header.
    header_len: usize,
    /// Bytes of header and data.
    l4_len: usize,
    /// The sum of the data, as far as the checksum is right; where that is wrong, it stays so.
    of_data: u16,
}

impl Sums {
    /// The change of the length that the pseudo header has, when `more` bytes come in.
    fn of_len(&self, more: usize) -> u16 {
        checksum::combine(!word(self.l4_len), word(self.l4_len + more))
    }
}

fn sums_of(data: &[u8], shape: Shape) -> Result<Sums, DropReason> {
    let l4 = data.get(shape.l4_at.into()..).ok_or(DropReason::Truncated)?;
    let header_len = Tcp(l4.first_chunk().ok_or(DropReason::Truncated)?).header_len();
    let header = l4.get(..header_len).ok_or(DropReason::Truncated)?;
    // Where the IP headers have both addresses (RFC 791 section 3.1, RFC 8200 section 3).
    let addresses = if shape.is_v6 { 8..40 } else { 12..20 };
    let l3 = data.get(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    let addresses = l3.get(addresses).ok_or(DropReason::Truncated)?;
    let l4_len = shape.l4_len();
    let pseudo = checksum::combine(word(ipv4::PROTOCOL_TCP.into()), word(l4_len));
    let sum = checksum::combine(checksum::combine(checksum::sum(addresses), pseudo), checksum::sum(header));
    // All of it, data too, sums up to ones.
    Ok(Sums { header_len, l4_len, of_data: !sum })
}

/// A number as a word of a sum; lengths are below 2^16.
fn word(number: usize) -> u16 {
    (number as u16).to_be()
}

/// The IP packet is longer by `more` bytes.
fn grow(data: &mut [u8], shape: Shape, more: usize) -> Result<Shape, DropReason> {
    let ip_len = u16::try_from(usize::from(shape.ip_len) + more).map_err(|_| DropReason::TooBig)?;
    set_ip_len(data, shape, ip_len)
}

fn set_ip_len(data: &mut [u8], shape: Shape, ip_len: u16) -> Result<Shape, DropReason> {
    let l3 = data.get_mut(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    if shape.is_v6 {
        let header: &mut [u8; ipv6::HEADER_LEN] = l3.first_chunk_mut().ok_or(DropReason::Truncated)?;
        [header[4], header[5]] = ip_len.saturating_sub(ipv6::HEADER_LEN as u16).to_be_bytes();
    } else {
        let header: &mut [u8; ipv4::HEADER_LEN] = l3.first_chunk_mut().ok_or(DropReason::Truncated)?;
        let before = u16::from_ne_bytes([header[2], header[3]]);
        [header[2], header[3]] = ip_len.to_be_bytes();
        let sum = u16::from_ne_bytes([header[10], header[11]]);
        let delta = checksum::combine(!before, ip_len.to_be());
        [header[10], header[11]] = checksum::update(sum, delta).to_ne_bytes();
    }
    Ok(Shape { ip_len, ..shape })
}
