//! The devices of one worker: its queue on every port and the rings to its neighbours.
//!
//! DPDK stands behind it in service (crate `control`, device.rs), plain memory in tests ([`crate::memory`]).
//! All of it is called from the worker's thread alone.

use arrayvec::ArrayVec;

use crate::index::{PortIndex, WorkerIndex};
use crate::packet::PacketBuf;
use crate::stage::framing::Framing;

/// Packets handled at once: DPDK's customary burst, and small enough that their headers stay in the first-level cache.
pub const BURST_MAX: usize = 32;

/// Packets on their way in or out.
pub type Packets<P> = ArrayVec<P, BURST_MAX>;

/// What became of packets that were to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// The port has them.
    Sent,
    /// A worker that has a queue will send and count them.
    HandedOver,
}

/// What a worker polls and feeds.
///
/// Every sending call takes what it can from the front of `packets` and leaves the rest there; the caller
/// drops and counts them. No call blocks.
pub trait Device {
    /// The packet buffer these devices deal in.
    type Packet: PacketBuf;

    /// Number of ports; port indices are below it.
    fn port_count(&self) -> usize;

    /// How frames look on the wire of `port`. The same throughout.
    #[inline(always)]
    fn framing(&self, _port: PortIndex) -> Framing {
        Framing::PLAIN
    }

    /// Receives from the worker's own queue of `port`, the packets' headers on their way to the cache. `into` is empty
    /// when called.
    fn receive(&mut self, port: PortIndex, into: &mut Packets<Self::Packet>);

    /// Sends by the worker's own queue of `port`; or, where the device has none for this worker, hands over to one
    /// that has.
    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<Self::Packet>) -> Transmitted;

    /// Takes packets that other workers steered here; their `port()` is the one they came in by.
    fn receive_steered(&mut self, into: &mut Packets<Self::Packet>);

    /// Hands packets to the worker that owns their flows.
    fn steer(&mut self, owner: WorkerIndex, packets: &mut Packets<Self::Packet>);

    /// Takes packets that the kernel twin of `port` wants sent by it, ready as they are.
    fn receive_from_twin(&mut self, port: PortIndex, into: &mut Packets<Self::Packet>);

    /// Takes packets that workers without a queue of `port` hand over, ready as they are.
    fn receive_handed_over(&mut self, port: PortIndex, into: &mut Packets<Self::Packet>);

    /// Whether `port` has a kernel twin to punt to.
    fn has_twin(&self, port: PortIndex) -> bool;

    /// Hands packets to the slow path, for the kernel twin of `port`.
    fn punt(&mut self, port: PortIndex, packets: &mut Packets<Self::Packet>);

    /// An empty packet from the worker's own reserve, to be filled; `None` when that is used up. The caller bounds how
    /// many it takes.
    fn reserve(&mut self) -> Option<Self::Packet>;
}
