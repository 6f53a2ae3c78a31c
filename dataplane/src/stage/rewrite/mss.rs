//! The maximum segment size that a SYN names, lowered so that what its receiver sends fits the way through the director:
//! the MTU of both ports, less what is put in front of a packet there. Read first: RFC 9293 section 3.7.1, RFC 6691.
//!
//! The size bounds what comes back to the SYN's sender. So where answers bypass the director (direct routing, tunnels) a
//! client's SYN is all that passes: what the client sends is bounded by its backend's SYN-ACK, which nobody here sees.

use crate::rules::Mss;
use crate::wire::{ipv4, ipv6, tcp, tcp_options};

/// The largest segment that fits all of some ways: MTUs, each with whether the packets there are IPv6. Options are no part
/// of a segment's size (RFC 6691): whoever sends them leaves them room.
pub(super) fn fits(ways: [(u16, bool); 2]) -> u16 {
    let of_way = |(mtu, is_v6): (u16, bool)| {
        let headers = if is_v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN } + tcp::HEADER_LEN;
        mtu.saturating_sub(headers as u16)
    };
    ways.map(of_way).into_iter().min().unwrap_or(0)
}

/// Lowers what a SYN names, whose TCP header is at `l4_at`. `fits` is the largest segment that fits the way, `in_front` the
/// bytes of a PROXY protocol's header in front of what the SYN's receiver sends.
pub(super) fn lower(data: &mut [u8], l4_at: u16, mss: Mss, fits: u16, in_front: u32) {
    let Some(header) = data.get_mut(l4_at.into()..) else { return };
    // Shorter than 2^16.
    let in_front = in_front as u16;
    tcp_options::lower_mss(header, |named| match mss {
        Mss::Kept if in_front == 0 => named,
        Mss::Kept | Mss::Clamped => named.min(fits).saturating_sub(in_front),
        Mss::AtMost(most) if in_front == 0 => named.min(most),
        Mss::AtMost(most) => named.min(fits).saturating_sub(in_front).min(most),
    });
}
