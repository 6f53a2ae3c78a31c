//! FullNAT: both addresses and both l4_ports change, either way; checksums move by the difference
//! (RFC 1624 equation 3), which the entry holds ready.

use super::{Frame, Frame6, udp_checksum};
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::flow::{Addresses, Entry, FlowTable};
use crate::index::EntryIndex;
use crate::verdict::DropReason;
use crate::wire::ipv4::{Ipv4, Ipv4Mut, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{Ipv6, Ipv6Mut};
use crate::wire::{PortPair, checksum, echo, sctp, tcp, udp};

/// Rewrites an IPv4 packet of the flow that `entry` is of.
#[inline(always)]
pub(super) fn rewrite(
    data: &mut [u8],
    shape: Shape,
    entry: &Entry,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let mut frame = Frame::split(data, shape)?;
    if Ipv4(frame.ipv4).ttl() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    rewrite_l4(frame.l4, shape, entry.protocol4(), entry.l4_delta, entry.new_ports())?;
    frame.set_macs(next_hop);
    let mut header = Ipv4Mut(frame.ipv4);
    header.set_addresses(entry.new_addresses());
    header.lower_ttl(entry.ip_delta());
    Ok(())
}

/// Rewrites an IPv6 packet of the flow at `index`: what it becomes is the key of the flow's peer, whose line lies beside.
pub(super) fn rewrite6(
    data: &mut [u8],
    shape: Shape,
    index: EntryIndex,
    table: &FlowTable,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let entry = table.entry(index).ok_or(DropReason::TableFull)?;
    let new = table.entry(index.peer()).ok_or(DropReason::TableFull)?.key().reversed();
    let Addresses::V6(addresses) = new.addresses else { return Err(DropReason::OtherFamily) };
    let mut frame = Frame6::split(data, shape)?;
    if Ipv6(frame.ipv6).hop_limit() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    if udp_checksum::is_missing(frame.l4, new.protocol) {
        return Err(DropReason::UdpChecksum);
    }
    rewrite_l4(frame.l4, shape, new.protocol, entry.l4_delta, new.ports)?;
    frame.set_macs(next_hop);
    let mut header = Ipv6Mut(frame.ipv6);
    header.set_addresses(addresses);
    header.lower_hop_limit();
    Ok(())
}

/// Writes the l4_ports, or what stands for them, and moves the checksum of a TCP, UDP, SCTP or echo header. `shape` is the packet's as it came. One
/// without such a header (a later fragment, an ICMP error) is left as it is: the checksum in the first fragment moves for
/// all of them.
#[inline(always)]
pub(super) fn rewrite_l4(
    l4: &mut [u8],
    shape: Shape,
    protocol: u8,
    delta: u16,
    ports: PortPair,
) -> Result<(), DropReason> {
    let len = l4.len();
    if protocol == PROTOCOL_TCP {
        let Some(header) = l4.first_chunk_mut::<{ tcp::HEADER_LEN }>() else { return without_header(len) };
        rewrite_header::<{ tcp::CHECKSUM_AT }, _>(header, delta, ports, checksum::update);
    } else if protocol != PROTOCOL_UDP {
        // Not the shape itself: it would have to lie in memory for this, and cost the others a spill.
        return rewrite_rarer(l4, shape.l4_len(), protocol, delta, ports);
    } else {
        let Some(header) = l4.first_chunk_mut::<{ udp::HEADER_LEN }>() else { return without_header(len) };
        rewrite_header::<{ udp::CHECKSUM_AT }, _>(header, delta, ports, checksum::update_udp);
    }
    Ok(())
}

/// [`rewrite_l4`] for SCTP and pings, whose header and what follows claim `l4_len` bytes.
#[cold]
fn rewrite_rarer(
    l4: &mut [u8],
    l4_len: usize,
    protocol: u8,
    delta: u16,
    ports: PortPair,
) -> Result<(), DropReason> {
    let len = l4.len();
    if protocol == PROTOCOL_SCTP {
        // Its checksum does not cover addresses.
        let Some(header) = l4.first_chunk_mut() else { return without_header(len) };
        sctp::set_ports(header, ports, l4_len);
    } else {
        let Some(header) = l4.first_chunk_mut() else { return without_header(len) };
        echo::set_identifier(header, delta, ports);
    }
    Ok(())
}

#[cold]
fn without_header(l4_len: usize) -> Result<(), DropReason> {
    if l4_len == 0 { Ok(()) } else { Err(DropReason::Truncated) }
}

/// Writes the l4_ports and moves the checksum of a header whose checksum lies at `CHECKSUM_AT`.
#[inline(always)]
fn rewrite_header<const CHECKSUM_AT: usize, const LEN: usize>(
    header: &mut [u8; LEN],
    delta: u16,
    new_ports: PortPair,
    update: impl Fn(u16, u16) -> u16,
) {
    const { assert!(CHECKSUM_AT + 2 <= LEN && LEN >= 4) };
    let old = u16::from_ne_bytes([header[CHECKSUM_AT], header[CHECKSUM_AT + 1]]);
    [header[CHECKSUM_AT], header[CHECKSUM_AT + 1]] = update(old, delta).to_ne_bytes();
    if let Some(ports) = header.first_chunk_mut() {
        *ports = new_ports.to_wire();
    }
}
