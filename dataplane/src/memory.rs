//! The memory twin: packets and devices of plain memory, for tests, `crossdock replay` and the bench.

use std::collections::VecDeque;

use crate::device::{Device, Packets, Transmitted};
use crate::index::{PortIndex, WorkerIndex};
use crate::packet::{PacketBuf, UdpChecksum};
use crate::stage::framing::Framing;
use crate::wire::{checksum, udp};

/// Bytes that can be put in front of a frame, as of an mbuf that was received (`RTE_PKTMBUF_HEADROOM`).
const HEADROOM: u16 = 128;
/// Bytes a frame can grow to at its end, as in an mbuf of the usual size (`RTE_MBUF_DEFAULT_DATAROOM`).
const DATA_ROOM: usize = 2_048;

/// A frame in memory of its own. Unlike an mbuf's, its bytes move when something is put in front of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPacket {
    /// The first segment.
    frame: Vec<u8>,
    /// The other segments, one behind the other.
    rest: Vec<u8>,
    headroom: u16,
    packet_len: usize,
    port: PortIndex,
    /// The RSS hash that the port reports with it.
    pub rss_hash: Option<u32>,
    /// The tag control information that the port delivers beside the frame.
    pub stripped_tag: Option<u16>,
    /// The UDP checksum that the port is asked for.
    udp_checksum: Option<UdpChecksum>,
    /// An opaque number the caller gives a packet to know it again (a position in a capture file).
    pub tag: u64,
}

impl MemoryPacket {
    /// A packet that came in by `port`.
    pub fn new(frame: impl Into<Box<[u8]>>, port: PortIndex) -> Self {
        let frame = frame.into().into_vec();
        let packet_len = frame.len();
        Self {
            frame,
            rest: Vec::new(),
            headroom: HEADROOM,
            packet_len,
            port,
            rss_hash: None,
            stripped_tag: None,
            udp_checksum: None,
            tag: 0,
        }
    }

    /// The same packet in several segments, the first of which has `len` bytes, or all there are.
    pub fn with_first_segment(mut self, len: usize) -> Self {
        let rest = self.frame.split_off(len.min(self.frame.len()));
        self.rest.splice(..0, rest);
        self
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> Vec<u8> {
        [self.frame.as_slice(), &self.rest].concat()
    }

    /// The same packet with this length on the wire, in bytes: more than the frame holds where a capture was
    /// cut (`tcpdump -s`). A length below the frame's is taken for the frame's.
    pub fn with_packet_len(self, packet_len: usize) -> Self {
        Self { packet_len: packet_len.max(self.frame.len() + self.rest.len()), ..self }
    }
}

impl MemoryPacket {
    /// Computes the checksum that is asked for, as hardware does: over all from the UDP header to the end of the frame, whatever
    /// the headers say. (virtio 1.1 section 5.1.6.2, `csum_start`; so do Intel's e1000.)
    fn complete_checksum(&mut self) {
        let Some(UdpChecksum { l2_len, l3_len, .. }) = self.udp_checksum.take() else { return };
        let l4_at = usize::from(l2_len) + usize::from(l3_len);
        let sum = !checksum::sum(self.bytes().get(l4_at..).unwrap_or_default());
        let sum = if sum == 0 { 0xffff } else { sum };
        if let Some(field) = self.frame.get_mut(l4_at + udp::CHECKSUM_AT..l4_at + udp::HEADER_LEN) {
            field.copy_from_slice(&sum.to_ne_bytes());
        }
    }

    /// Bytes free behind the first segment.
    fn tailroom(&self) -> usize {
        (usize::from(HEADROOM) + DATA_ROOM).saturating_sub(usize::from(self.headroom) + self.frame.len())
    }
}

impl PacketBuf for MemoryPacket {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        &self.frame
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.frame
    }

    #[inline(always)]
    fn packet_len(&self) -> usize {
        self.packet_len
    }

    #[inline(always)]
    fn port(&self) -> PortIndex {
        self.port
    }

    fn rss_hash(&self) -> Option<u32> {
        self.rss_hash
    }

    fn stripped_tag(&self) -> Option<u16> {
        self.stripped_tag
    }

    fn set_port(&mut self, port: PortIndex) {
        self.port = port;
    }

    fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        self.headroom = self.headroom.checked_sub(n)?;
        self.frame.splice(..0, std::iter::repeat_n(0, n.into()));
        self.packet_len += usize::from(n);
        self.frame.get_mut(..usize::from(n))
    }

    fn trim_front(&mut self, n: u16) -> bool {
        if usize::from(n) > self.frame.len() {
            return false;
        }
        self.frame.drain(..usize::from(n));
        self.packet_len -= usize::from(n);
        self.headroom += n;
        true
    }

    fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        let there = self.frame.len() + self.rest.len();
        // Of further segments, each has its own room; of those that are full here it would be the last one's.
        let room = if self.rest.is_empty() { self.tailroom() } else { DATA_ROOM };
        // Behind a frame that was cut when it was captured there is nothing to put bytes to.
        if usize::from(n) > room || self.packet_len != there {
            return None;
        }
        let last = if self.rest.is_empty() { &mut self.frame } else { &mut self.rest };
        let old_len = last.len();
        last.resize(old_len + usize::from(n), 0);
        self.packet_len += usize::from(n);
        last.get_mut(old_len..)
    }

    fn gather(&mut self, n: usize) -> bool {
        let missing = n.saturating_sub(self.frame.len()).min(self.rest.len());
        if missing > self.tailroom() {
            return false;
        }
        self.frame.extend(self.rest.drain(..missing));
        true
    }

    fn request_udp_checksum(&mut self, wanted: UdpChecksum) {
        self.udp_checksum = Some(wanted);
    }

    fn truncate(&mut self, len: usize) -> bool {
        if len > self.packet_len {
            return false;
        }
        self.rest.truncate(len.saturating_sub(self.frame.len()));
        self.frame.truncate(len);
        self.packet_len = len;
        true
    }
}

/// One port of a [`MemoryDevice`]: queues without bounds, in and out.
#[derive(Debug, Default)]
pub struct MemoryPort {
    /// Waiting to be received.
    pub incoming: VecDeque<MemoryPacket>,
    /// Sent.
    pub outgoing: Vec<MemoryPacket>,
    /// Handed to the kernel twin.
    pub punted: Vec<MemoryPacket>,
    /// What its kernel twin wants sent.
    pub from_twin: VecDeque<MemoryPacket>,
    /// What workers without a queue want sent.
    pub handed_over: VecDeque<MemoryPacket>,
    /// Whether this worker has no queue of it, so that what it sends is handed over.
    pub hands_over: bool,
    /// Whether there is a kernel twin.
    pub twin: bool,
    /// How its frames look on the wire.
    pub framing: Framing,
    /// Whether it computes the UDP checksums it is asked for; one that does not sends what stands there.
    pub computes_udp_checksums: bool,
    /// Packets the port still accepts before it refuses; `None` is no bound.
    pub transmit_room: Option<usize>,
}

/// Devices of plain memory, for one worker.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    /// The ports.
    pub ports: Vec<MemoryPort>,
    /// Packets other workers steered here.
    pub steered_in: VecDeque<MemoryPacket>,
    /// Packets this worker steered away, with their owner.
    pub steered_out: Vec<(WorkerIndex, MemoryPacket)>,
    /// Packets the worker's reserve still gives; `None` is no bound.
    pub reserve_room: Option<usize>,
}

impl MemoryDevice {
    /// A device with `port_count` ports, none with a twin.
    pub fn with_ports(port_count: usize) -> Self {
        Self { ports: (0..port_count).map(|_| MemoryPort::default()).collect(), ..Self::default() }
    }

    fn port(&mut self, port: PortIndex) -> Option<&mut MemoryPort> {
        self.ports.get_mut(port.as_usize())
    }
}

fn fill(into: &mut Packets<MemoryPacket>, from: &mut VecDeque<MemoryPacket>) {
    let room = into.remaining_capacity().min(from.len());
    into.extend(from.drain(..room));
}

impl Device for MemoryDevice {
    type Packet = MemoryPacket;

    fn port_count(&self) -> usize {
        self.ports.len()
    }

    fn framing(&self, port: PortIndex) -> Framing {
        self.ports.get(port.as_usize()).map_or(Framing::PLAIN, |port| port.framing)
    }

    fn receive(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            fill(into, &mut port.incoming);
        }
    }

    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) -> Transmitted {
        if let Some(port) = self.port(port) {
            let accepted = port.transmit_room.map_or(packets.len(), |room| room.min(packets.len()));
            port.transmit_room = port.transmit_room.map(|room| room - accepted);
            for mut packet in packets.drain(..accepted) {
                if port.computes_udp_checksums && !port.hands_over {
                    packet.complete_checksum();
                }
                port.outgoing.push(packet);
            }
            if port.hands_over {
                return Transmitted::HandedOver;
            }
        }
        Transmitted::Sent
    }

    fn receive_steered(&mut self, into: &mut Packets<MemoryPacket>) {
        fill(into, &mut self.steered_in);
    }

    fn steer(&mut self, owner: WorkerIndex, packets: &mut Packets<MemoryPacket>) {
        self.steered_out.extend(packets.drain(..).map(|packet| (owner, packet)));
    }

    fn receive_from_twin(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            fill(into, &mut port.from_twin);
        }
    }

    fn receive_handed_over(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            fill(into, &mut port.handed_over);
        }
    }

    fn has_twin(&self, port: PortIndex) -> bool {
        self.ports.get(port.as_usize()).is_some_and(|port| port.twin)
    }

    fn punt(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            port.punted.extend(packets.drain(..));
        }
    }

    fn reserve(&mut self) -> Option<MemoryPacket> {
        if let Some(room) = &mut self.reserve_room {
            *room = room.checked_sub(1)?;
        }
        Some(MemoryPacket::new([], PortIndex(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_grows_at_both_ends_as_far_as_an_mbuf_would() {
        let mut packet = MemoryPacket::new([1, 2, 3], PortIndex(0));
        assert!(packet.prepend(HEADROOM + 1).is_none());
        packet.prepend(HEADROOM).unwrap().fill(9);
        assert!(packet.prepend(1).is_none(), "the headroom is used up");
        packet.append(2_045).unwrap().fill(8);
        assert!(packet.append(1).is_none(), "so is the tailroom");
        assert_eq!((packet.data().len(), packet.packet_len()), (2_176, 2_176));
        assert_eq!(packet.data()[126..133], [9, 9, 1, 2, 3, 8, 8]);
        assert!(!packet.truncate(2_177) && packet.truncate(130));
        assert_eq!((packet.data()[128..].len(), packet.packet_len()), (2, 130));
    }

    #[test]
    fn bytes_of_further_segments_are_gathered_as_far_as_there_is_room() {
        let frame: Vec<u8> = (0..=255).cycle().take(3_000).collect();
        let mut packet = MemoryPacket::new(frame.clone(), PortIndex(0)).with_first_segment(10);
        assert_eq!((packet.data(), packet.packet_len()), (&frame[..10], 3_000));
        assert!(packet.gather(100) && packet.gather(50));
        assert_eq!((packet.data(), packet.bytes()), (&frame[..100], frame.clone()));
        assert!(!packet.gather(3_000), "a buffer has 2,048 bytes");
        packet.append(2).unwrap().fill(7);
        assert_eq!((packet.data().len(), packet.packet_len(), packet.bytes().len()), (100, 3_002, 3_002));
        assert!(packet.truncate(120) && packet.gather(usize::MAX) && packet.data() == &frame[..120]);
    }

    #[test]
    fn what_is_taken_off_the_front_becomes_headroom() {
        let mut packet = MemoryPacket::new([1, 2, 3, 4, 5], PortIndex(0)).with_packet_len(9);
        assert!(!packet.trim_front(6) && packet.trim_front(4));
        assert_eq!((packet.data(), packet.packet_len()), (&[5][..], 5));
        packet.prepend(HEADROOM + 4).unwrap();
        assert!(packet.prepend(1).is_none());
    }

    #[test]
    fn a_packet_cut_by_its_capture_is_cut_further_and_never_appended_to() {
        let mut packet = MemoryPacket::new([1, 2, 3], PortIndex(0)).with_packet_len(1_000);
        assert!(packet.append(1).is_none());
        assert!(packet.truncate(500) && packet.data().len() == 3 && packet.packet_len() == 500);
        assert!(packet.truncate(2) && packet.data() == [1, 2] && packet.packet_len() == 2);
    }
}
