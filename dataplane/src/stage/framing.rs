//! framing: between frames as they are on a port's wire and frames as the line knows them, which are untagged, whole,
//! and have their headers in one buffer. First step of what a port delivers, last step of what leaves by it, be it from
//! the line, the kernel twin or the worker itself.
//!
//! A port whose frames need none of this ([`Framing::PLAIN`]) is asked once a burst and costs no packet anything.
//!
//! Read first: IEEE 802.1Q-2018 section 9; DPDK Programmer's Guide 22.11, "Mbuf Library", "Packets in several buffers".
//! Not here: the bytes of a tag ([`crate::wire::vlan`]), and which packets are too long for a port.

use crate::counters::WorkerCounters;
use crate::device::Packets;
use crate::packet::PacketBuf;
use crate::verdict::DropReason;
use crate::wire::VlanTags;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::vlan::TAGS_AT;

/// Bytes at the front of a packet that the line may read and write: Ethernet, IPv6 with some extension headers, TCP with
/// all its options; or an ICMP error with what it quotes; or a tunnel's headers with what is in the tunnel.
const HEADERS_LEN: usize = 256;

/// How frames look on the wire of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The VLAN tags all of them have; `None` leaves frames as they are, tags included.
    pub tags: Option<VlanTags>,
    /// The length from which on the driver may have cut a frame, in bytes; 0 where it cuts none.
    pub cut_from: u16,
    /// Whether received packets may lie in several buffers.
    pub is_scattered: bool,
    /// Whether the port sends only packets that lie in one buffer.
    pub takes_one_buffer: bool,
}

impl Framing {
    /// Frames that are as the line wants them.
    pub const PLAIN: Self = Self { tags: None, cut_from: 0, is_scattered: false, takes_one_buffer: false };

    #[inline(always)]
    fn is_plain_in(self) -> bool {
        self.tags.is_none() & (self.cut_from == 0) & !self.is_scattered
    }

    #[inline(always)]
    fn is_plain_out(self) -> bool {
        self.tags.is_none() & !self.takes_one_buffer
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// Makes what a port delivered ready for the line, and drops what cannot be. Returns the bytes that the packets have lost
/// by it, those of dropped ones included.
#[inline(always)]
pub fn unwrap_all<P: PacketBuf>(
    framing: Framing,
    packets: &mut Packets<P>,
    counters: &WorkerCounters,
) -> u64 {
    if framing.is_plain_in() { 0 } else { each(packets, counters, |packet| receive(framing, packet)) }
}

/// Makes packets ready for the wire, and drops what cannot be. Whether it changed anything.
#[inline(always)]
pub fn wrap_all<P: PacketBuf>(framing: Framing, packets: &mut Packets<P>, counters: &WorkerCounters) -> bool {
    if framing.is_plain_out() {
        return false;
    }
    each(packets, counters, |packet| send(framing, packet));
    true
}

/// Does `step` to each packet and drops those that it refuses. Returns the bytes by which they got fewer.
#[inline(never)]
fn each<P: PacketBuf>(
    packets: &mut Packets<P>,
    counters: &WorkerCounters,
    step: impl Fn(&mut P) -> Result<(), DropReason>,
) -> u64 {
    let mut bytes_lost = 0;
    packets.retain(|packet| {
        let before = packet.packet_len() as u64;
        match step(packet) {
            Ok(()) => {
                bytes_lost += before.saturating_sub(packet.packet_len() as u64);
                true
            }
            Err(reason) => {
                bytes_lost += before;
                counters.dropped(reason).add(1);
                false
            }
        }
    });
    bytes_lost
}

fn receive<P: PacketBuf>(framing: Framing, packet: &mut P) -> Result<(), DropReason> {
    if framing.is_scattered && !has_headers(packet) && !packet.gather(HEADERS_LEN) {
        return Err(DropReason::HeadersScattered);
    }
    if let Some(tags) = framing.tags {
        untag(tags, packet)?;
    }
    // A cut frame has the very length at which frames are cut, or a tag less.
    let is_suspect = framing.cut_from > 0 && packet.packet_len() + TAG_BYTES_MAX >= framing.cut_from.into();
    if is_suspect && is_cut(packet.data(), packet.packet_len()) {
        return Err(DropReason::CutByDriver);
    }
    Ok(())
}

fn send<P: PacketBuf>(framing: Framing, packet: &mut P) -> Result<(), DropReason> {
    if framing.takes_one_buffer && !is_one_buffer(packet) && !packet.gather(usize::MAX) {
        return Err(DropReason::SegmentsUnsent);
    }
    framing.tags.map_or(Ok(()), |tags| tag(tags, packet))
}

/// Bytes of tags that were taken off before the length is looked at.
const TAG_BYTES_MAX: usize = 8;

fn is_one_buffer<P: PacketBuf>(packet: &P) -> bool {
    packet.data().len() == packet.packet_len()
}

fn has_headers<P: PacketBuf>(packet: &P) -> bool {
    packet.data().len() >= HEADERS_LEN.min(packet.packet_len())
}

/// Moves the MAC addresses to where the tags end: 12 bytes, whatever the packet's length.
fn untag<P: PacketBuf>(tags: VlanTags, packet: &mut P) -> Result<(), DropReason> {
    let len = tags.taken_off(packet.data(), packet.stripped_tag())?;
    if len == 0 {
        return Ok(());
    }
    let end = TAGS_AT + usize::from(len);
    let front = packet.data_mut().get_mut(..end).ok_or(DropReason::Truncated)?;
    front.copy_within(..TAGS_AT, len.into());
    if packet.trim_front(len) { Ok(()) } else { Err(DropReason::Truncated) }
}

/// Moves the MAC addresses to the front of the headroom's last bytes and puts the tags behind them.
fn tag<P: PacketBuf>(tags: VlanTags, packet: &mut P) -> Result<(), DropReason> {
    let len = tags.len();
    if tags.is_empty() {
        return Ok(());
    }
    packet.prepend(len).ok_or(DropReason::NoHeadroom)?;
    let front = packet.data_mut().get_mut(..TAGS_AT + usize::from(len)).ok_or(DropReason::Truncated)?;
    front.copy_within(usize::from(len).., 0);
    if let Some((_, place)) = front.split_at_mut_checked(TAGS_AT) {
        place.copy_from_slice(tags.bytes());
    }
    Ok(())
}

/// Whether an untagged frame is shorter than its IP header says.
fn is_cut(data: &[u8], packet_len: usize) -> bool {
    let Some((link, packet)) = data.split_first_chunk::<{ ethernet::HEADER_LEN }>() else { return false };
    let length_at = |at: usize| {
        packet.get(at..).and_then(|field| field.first_chunk()).map(|field| u16::from_be_bytes(*field))
    };
    // RFC 791 section 3.1: the total length; RFC 8200 section 3: what follows the fixed header.
    let claimed = match ethernet::Ethernet(link).ethertype() {
        ETHERTYPE_IPV4 => length_at(2).map(usize::from),
        ETHERTYPE_IPV6 => length_at(4).map(|len| usize::from(len) + IPV6_HEADER_LEN),
        _ => None,
    };
    claimed.is_some_and(|claimed| claimed + ethernet::HEADER_LEN > packet_len)
}

/// Bytes of the fixed IPv6 header (RFC 8200 section 3).
const IPV6_HEADER_LEN: usize = 40;

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::index::PortIndex;
    use crate::memory::MemoryPacket;

    fn udp(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2).write(&mut frame, &vec![7; payload]).unwrap();
        frame
    }

    fn udp6(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        link.ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut frame, &vec![7; payload]).unwrap();
        frame
    }

    fn packet(frame: &[u8]) -> MemoryPacket {
        MemoryPacket::new(frame, PortIndex(0))
    }

    fn one(packet: MemoryPacket) -> Packets<MemoryPacket> {
        let mut packets = Packets::new();
        packets.push(packet);
        packets
    }

    const QINQ: Framing = Framing { tags: Some(VlanTags::double(200, 100)), ..Framing::PLAIN };

    #[test]
    fn what_was_tagged_on_the_way_out_comes_in_untagged() {
        let counters = WorkerCounters::default();
        for framing in [VlanTags::NONE, VlanTags::single(7), VlanTags::double(200, 100)]
            .map(|tags| Framing { tags: Some(tags), ..Framing::PLAIN })
        {
            let frame = udp(30);
            let tags = framing.tags.unwrap();
            let mut packets = one(packet(&frame));
            assert!(wrap_all(framing, &mut packets, &counters));
            assert_eq!(packets[0].data(), [&frame[..12], tags.bytes(), &frame[12..]].concat());
            assert_eq!(unwrap_all(framing, &mut packets, &counters), u64::from(tags.len()));
            assert_eq!(packets[0], packet(&frame));
        }
    }

    #[test]
    fn other_frames_are_dropped_with_their_bytes_and_those_behind_them_stay() {
        let counters = WorkerCounters::default();
        let tagged = [&udp(9)[..12], VlanTags::double(200, 100).bytes(), &udp(9)[12..]].concat();
        let mut packets = one(packet(&udp(1)));
        packets.push(packet(&tagged));
        packets.push(packet(&[1, 2, 3]));
        assert_eq!(unwrap_all(QINQ, &mut packets, &counters), 43 + 8 + 3);
        assert_eq!((packets.len(), packets[0].data()), (1, &udp(9)[..]));
        assert_eq!(counters.dropped(DropReason::OtherVlan).value(), 1);
        assert_eq!(counters.dropped(DropReason::Truncated).value(), 1);
    }

    #[test]
    fn a_packet_without_headroom_for_the_tags_is_dropped() {
        let counters = WorkerCounters::default();
        let mut full = packet(&udp(1));
        full.prepend(125).unwrap();
        let mut packets = one(full);
        wrap_all(QINQ, &mut packets, &counters);
        assert!(packets.is_empty() && counters.dropped(DropReason::NoHeadroom).value() == 1);
    }

    #[test]
    fn frames_the_driver_cut_are_known_by_their_ip_length() {
        const CUT_AT: usize = 1_982;
        let counters = WorkerCounters::default();
        let framing = Framing { cut_from: CUT_AT as u16, ..Framing::PLAIN };
        for (cut, whole) in [(udp(3_000), udp(CUT_AT - 42)), (udp6(3_000), udp6(CUT_AT - 62))] {
            let mut packets = one(packet(&cut[..CUT_AT]));
            packets.push(packet(&whole));
            // The sender's own lie, and shorter than anything that was cut.
            packets.push(packet(&cut[..1_000]));
            unwrap_all(framing, &mut packets, &counters);
            assert_eq!(packets.len(), 2);
            assert_eq!(packets[0].data(), whole);
        }
        assert_eq!(counters.dropped(DropReason::CutByDriver).value(), 2);
    }

    #[test]
    fn a_tagged_frame_that_was_cut_is_known_too() {
        let counters = WorkerCounters::default();
        let framing = Framing { cut_from: 1_982, ..QINQ };
        let frame = udp(3_000);
        let tagged = [&frame[..12], VlanTags::double(200, 100).bytes(), &frame[12..]].concat();
        unwrap_all(framing, &mut one(packet(&tagged[..1_986])), &counters);
        assert_eq!(counters.dropped(DropReason::CutByDriver).value(), 1);
    }

    #[test]
    fn headers_in_several_buffers_are_gathered_in_the_first() {
        let counters = WorkerCounters::default();
        let framing = Framing { is_scattered: true, ..QINQ };
        let frame = udp(3_000);
        let tagged = [&frame[..12], VlanTags::double(200, 100).bytes(), &frame[12..]].concat();
        let mut packets = one(packet(&tagged).with_first_segment(13));
        packets.push(packet(&tagged).with_first_segment(2_048));
        assert_eq!(unwrap_all(framing, &mut packets, &counters), 16);
        assert_eq!(packets[0].bytes(), frame);
        assert_eq!(packets[0].data().len(), HEADERS_LEN - 8);
        assert_eq!((packets[1].bytes(), packets[1].data().len()), (frame, 2_040), "as it was");
    }

    #[test]
    fn what_must_leave_in_one_buffer_and_does_not_fit_is_dropped() {
        let counters = WorkerCounters::default();
        let framing = Framing { takes_one_buffer: true, ..QINQ };
        let mut packets = one(packet(&udp(900)).with_first_segment(60));
        packets.push(packet(&udp(3_000)).with_first_segment(2_000));
        wrap_all(framing, &mut packets, &counters);
        assert_eq!((packets.len(), packets[0].data().len()), (1, 950));
        assert_eq!(counters.dropped(DropReason::SegmentsUnsent).value(), 1);
    }
}
