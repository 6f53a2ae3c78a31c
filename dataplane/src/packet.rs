//! What the line needs of a packet buffer: DPDK's mbuf behind it in service, plain memory in tests.
//!
//! A packet owns its buffer; dropping it gives the buffer back. Nothing here copies payload.

use crate::index::PortIndex;
use crate::verdict::DropReason;

/// A UDP checksum that the port which sends a packet is to compute, over all of it from the UDP header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpChecksum {
    /// Bytes in front of the IP header of the frame as it is on the wire, VLAN tags included.
    pub l2_len: u8,
    /// Bytes of the IP header, with all that stands in front of the UDP header.
    pub l3_len: u16,
    /// Whether that is IPv6.
    pub is_v6: bool,
}

/// A frame in a buffer, and the port it came in by.
pub trait PacketBuf {
    /// The bytes of the first segment, from the Ethernet destination on.
    fn data(&self) -> &[u8];

    /// The same bytes, to rewrite headers in place.
    fn data_mut(&mut self) -> &mut [u8];

    /// Length in bytes over all segments; at least `data().len()`.
    fn packet_len(&self) -> usize;

    /// The port it came in by.
    fn port(&self) -> PortIndex;

    /// The RSS hash that the port reports with it.
    fn rss_hash(&self) -> Option<u32> {
        None
    }

    /// The tag control information of an outer VLAN tag that the port took out and delivers beside the frame.
    fn stripped_tag(&self) -> Option<u16> {
        None
    }

    /// Notes the port it came in by, for a packet that crosses a ring.
    fn set_port(&mut self, port: PortIndex);

    /// Puts `n` bytes in front and returns them, whatever they held before. What was there is not moved. `None`, and
    /// no change, where the headroom is smaller (an mbuf that was received has 128 bytes).
    fn prepend(&mut self, n: u16) -> Option<&mut [u8]>;

    /// Takes `n` bytes off the front: what is behind them is not moved, and they become headroom. False, and no change,
    /// where the first segment is shorter.
    #[must_use]
    fn trim_front(&mut self, n: u16) -> bool;

    /// Puts `n` bytes behind and returns them, whatever they held before. `None`, and no change, where the tailroom
    /// is smaller.
    fn append(&mut self, n: u16) -> Option<&mut [u8]>;

    /// Moves bytes of further segments behind those of the first, until it has `n` or all of the packet. Copies less
    /// than `n` bytes. False where the first segment has no room for them.
    #[must_use]
    fn gather(&mut self, n: usize) -> bool;

    /// Asks the port that sends the packet for its UDP checksum, whose field holds the sum of the pseudo header. Only of a
    /// port that can ([`crate::rules::PortRules::udp_offload`]), and of a packet that is sent as it is but for VLAN tags.
    fn request_udp_checksum(&mut self, wanted: UdpChecksum);

    /// Cuts the packet to `len` bytes over all segments. False, and no change, where it is shorter.
    #[must_use]
    fn truncate(&mut self, len: usize) -> bool;
}

/// Puts `bytes` into the packet at `at`: what comes before moves into the headroom, what comes after stays where it is.
pub fn insert<P: PacketBuf>(packet: &mut P, at: usize, bytes: &[u8]) -> Result<(), DropReason> {
    // Before anything is changed: the headers must lie in the first segment.
    packet.data().get(..at).ok_or(DropReason::Truncated)?;
    packet.prepend(bytes.len() as u16).ok_or(DropReason::NoHeadroom)?;
    let moved = packet.data_mut().get_mut(..at + bytes.len()).ok_or(DropReason::Truncated)?;
    moved.copy_within(bytes.len().., 0);
    moved.get_mut(at..).ok_or(DropReason::Truncated)?.copy_from_slice(bytes);
    Ok(())
}
