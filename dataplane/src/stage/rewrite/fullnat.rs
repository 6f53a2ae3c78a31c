//! FullNAT: both addresses and both l4_ports change, either way; checksums move by the difference
//! (RFC 1624 equation 3), which the entry holds ready.

use super::split;
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::flow::Entry;
use crate::verdict::DropReason;
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut, PROTOCOL_TCP};
use crate::wire::{checksum, tcp, udp};

#[inline(always)]
pub(super) fn rewrite(
    data: &mut [u8],
    shape: Shape,
    entry: &Entry,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let frame = split(data, shape)?;
    if Ipv4(frame.ipv4).ttl() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let options_len = usize::from(shape.l4_at - shape.l3_at).saturating_sub(ipv4::HEADER_LEN);
    let l4 = frame.rest.get_mut(options_len..).ok_or(DropReason::Truncated)?;
    if entry.key.protocol == PROTOCOL_TCP {
        let l4 = l4.first_chunk_mut::<{ tcp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        let old = u16::from_ne_bytes([l4[tcp::CHECKSUM_AT], l4[tcp::CHECKSUM_AT + 1]]);
        let new = checksum::update(old, entry.l4_delta);
        [l4[tcp::CHECKSUM_AT], l4[tcp::CHECKSUM_AT + 1]] = new.to_ne_bytes();
        [l4[0], l4[1], l4[2], l4[3]] = entry.new_ports.to_wire();
    } else {
        let l4 = l4.first_chunk_mut::<{ udp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        let old = u16::from_ne_bytes([l4[udp::CHECKSUM_AT], l4[udp::CHECKSUM_AT + 1]]);
        let new = checksum::update_udp(old, entry.l4_delta);
        [l4[udp::CHECKSUM_AT], l4[udp::CHECKSUM_AT + 1]] = new.to_ne_bytes();
        [l4[0], l4[1], l4[2], l4[3]] = entry.new_ports.to_wire();
    }
    *frame.macs = next_hop.macs;
    let mut header = Ipv4Mut(frame.ipv4);
    header.set_addresses(entry.new_addresses);
    header.lower_ttl(entry.ip_delta);
    Ok(())
}
