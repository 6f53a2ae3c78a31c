//! The memory twin: packets and devices of plain memory, for tests, `crossdock replay` and the bench.

use std::collections::VecDeque;

use crate::device::{Device, Packets, Transmitted};
use crate::index::{PortIndex, WorkerIndex};
use crate::packet::PacketBuf;

/// A frame in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPacket {
    frame: Box<[u8]>,
    packet_len: usize,
    port: PortIndex,
    /// An opaque number the caller gives a packet to know it again (a position in a capture file).
    pub tag: u64,
}

impl MemoryPacket {
    /// A packet that came in by `port`.
    pub fn new(frame: impl Into<Box<[u8]>>, port: PortIndex) -> Self {
        let frame = frame.into();
        Self { packet_len: frame.len(), frame, port, tag: 0 }
    }

    /// The same packet with this length on the wire, in bytes: more than the frame holds where a capture was
    /// cut (`tcpdump -s`). A length below the frame's is taken for the frame's.
    pub fn with_packet_len(self, packet_len: usize) -> Self {
        Self { packet_len: packet_len.max(self.frame.len()), ..self }
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

    fn set_port(&mut self, port: PortIndex) {
        self.port = port;
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
    /// Whether there is a kernel twin.
    pub twin: bool,
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

    fn receive(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            fill(into, &mut port.incoming);
        }
    }

    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) -> Transmitted {
        if let Some(port) = self.port(port) {
            let accepted = port.transmit_room.map_or(packets.len(), |room| room.min(packets.len()));
            port.transmit_room = port.transmit_room.map(|room| room - accepted);
            port.outgoing.extend(packets.drain(..accepted));
        }
        Transmitted::Sent
    }

    fn receive_steered(&mut self, into: &mut Packets<MemoryPacket>) {
        fill(into, &mut self.steered_in);
    }

    fn steer(&mut self, owner: WorkerIndex, packets: &mut Packets<MemoryPacket>) {
        self.steered_out.extend(packets.drain(..).map(|packet| (owner, packet)));
    }

    fn receive_from_twin(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn receive_handed_over(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn has_twin(&self, port: PortIndex) -> bool {
        self.ports.get(port.as_usize()).is_some_and(|port| port.twin)
    }

    fn punt(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) {
        if let Some(port) = self.port(port) {
            port.punted.extend(packets.drain(..));
        }
    }
}
