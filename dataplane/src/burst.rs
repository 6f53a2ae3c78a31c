//! A burst on its walk: the packets and what each stage found out about them, stage by stage side by side.

use crate::device::{BURST_MAX, Packets};
use crate::flow::{FlowHash, FlowKey};
use crate::index::{EntryIndex, PortIndex, WorkerIndex};
use crate::verdict::{DropReason, Verdict};
use crate::wire::tcp::TcpFlags;

/// What parse found out about one packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Offset of the IPv4 header in bytes.
    pub l3_at: u16,
    /// Offset of the TCP or UDP header in bytes.
    pub l4_at: u16,
    /// IPv4 total length in bytes.
    pub ip_len: u16,
    /// The TCP control bits; 0 for UDP.
    pub tcp_flags: TcpFlags,
}

/// Up to [`BURST_MAX`] packets of one port. The arrays hold sense for the first `packets.len()` rows only,
/// and each from the stage on that fills it.
pub struct Burst<P> {
    /// The packets.
    pub packets: Packets<P>,
    /// parse: what becomes of each; later stages overrule `Forward` only.
    pub verdicts: [Verdict; BURST_MAX],
    /// parse: where the headers lie.
    pub shapes: [Shape; BURST_MAX],
    /// parse: the flow.
    pub keys: [FlowKey; BURST_MAX],
    /// parse: the hash of the flow.
    pub hashes: [FlowHash; BURST_MAX],
    /// lookup: the likely, then the certain entry of the flow.
    pub entries: [EntryIndex; BURST_MAX],
    /// steer: the worker that owns the flow, where the verdict is `Steer`.
    pub owners: [WorkerIndex; BURST_MAX],
    /// rewrite: the port to leave by, where the verdict is `Forward`.
    pub ports_out: [PortIndex; BURST_MAX],
    /// Whether lookup missed any packet.
    pub has_misses: bool,
}

impl<P> Default for Burst<P> {
    fn default() -> Self {
        Self {
            packets: Packets::new(),
            verdicts: [Verdict::Drop(DropReason::Truncated); BURST_MAX],
            shapes: [Shape::default(); BURST_MAX],
            keys: [FlowKey::default(); BURST_MAX],
            hashes: [FlowHash::default(); BURST_MAX],
            entries: [EntryIndex::NONE; BURST_MAX],
            owners: [WorkerIndex(0); BURST_MAX],
            ports_out: [PortIndex(0); BURST_MAX],
            has_misses: false,
        }
    }
}
