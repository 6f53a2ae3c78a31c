//! FullNAT: both addresses and both l4_ports change, either way; checksums move by the difference
//! (RFC 1624 equation 3), which the entry holds ready.

use super::Frame;
use crate::adjacency::Adjacency;
use crate::flow::Entry;
use crate::verdict::DropReason;
use crate::wire::ipv4::{Ipv4, Ipv4Mut, PROTOCOL_TCP};
use crate::wire::{checksum, tcp, udp};

#[inline(always)]
pub(super) fn rewrite(mut frame: Frame<'_>, entry: &Entry, next_hop: &Adjacency) -> Result<(), DropReason> {
    if Ipv4(frame.ipv4).ttl() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    if entry.key.protocol == PROTOCOL_TCP {
        let header = frame.l4.first_chunk_mut::<{ tcp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        rewrite_l4::<{ tcp::CHECKSUM_AT }, _>(header, entry, checksum::update);
    } else {
        let header = frame.l4.first_chunk_mut::<{ udp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        rewrite_l4::<{ udp::CHECKSUM_AT }, _>(header, entry, checksum::update_udp);
    }
    frame.set_macs(next_hop);
    let mut header = Ipv4Mut(frame.ipv4);
    header.set_addresses(entry.new_addresses);
    header.lower_ttl(entry.ip_delta);
    Ok(())
}

/// Writes the l4_ports and moves the checksum of a header whose checksum lies at `CHECKSUM_AT`.
#[inline(always)]
fn rewrite_l4<const CHECKSUM_AT: usize, const LEN: usize>(
    header: &mut [u8; LEN],
    entry: &Entry,
    update: impl Fn(u16, u16) -> u16,
) {
    const { assert!(CHECKSUM_AT + 2 <= LEN && LEN >= 4) };
    let old = u16::from_ne_bytes([header[CHECKSUM_AT], header[CHECKSUM_AT + 1]]);
    [header[CHECKSUM_AT], header[CHECKSUM_AT + 1]] = update(old, entry.l4_delta).to_ne_bytes();
    if let Some(ports) = header.first_chunk_mut() {
        *ports = entry.new_ports.to_wire();
    }
}
