//! A burst on its walk: the packets, and beside each what the stages found out about it.

use crate::device::{BURST_MAX, Packets};
use crate::flow::{FlowHash, FlowKey};
use crate::index::{EntryIndex, PortIndex, WorkerIndex};
use crate::verdict::{DropReason, Verdict};
use crate::wire::tcp::TcpFlags;

/// What parse found out about one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Offset of the TCP or UDP header in bytes.
    pub l4_at: u16,
    /// IPv4 total length in bytes.
    pub ip_len: u16,
    /// The TCP control bits; 0 for UDP.
    pub tcp_flags: TcpFlags,
}

/// What the stages found out about one packet: each fills its own fields.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// parse: the flow.
    pub key: FlowKey,
    /// parse: the hash of the flow.
    pub hash: FlowHash,
    /// lookup: the likely, then the certain entry of the flow.
    pub entry: EntryIndex,
    /// parse: where the headers lie.
    pub shape: Shape,
    /// steer: the worker that owns the flow, where the verdict is `Steer`.
    pub owner: WorkerIndex,
    /// rewrite: the port to leave by, where the verdict is `Forward`.
    pub port_out: PortIndex,
    /// parse: what becomes of the packet; later stages overrule `Forward` only.
    pub verdict: Verdict,
}

/// Nothing found out yet.
const NOTHING: Finding = Finding {
    key: FlowKey::NONE,
    hash: FlowHash(0),
    entry: EntryIndex::NONE,
    shape: Shape { l4_at: 0, ip_len: 0, tcp_flags: TcpFlags(0) },
    owner: WorkerIndex(0),
    port_out: PortIndex(0),
    verdict: Verdict::Drop(DropReason::Truncated),
};

/// Up to [`BURST_MAX`] packets of one port, or steered here by other workers.
pub struct Burst<P> {
    /// The packets.
    pub packets: Packets<P>,
    /// The findings about them, in the same order; beyond `packets.len()` they are stale.
    pub findings: [Finding; BURST_MAX],
    /// parse: bytes of all packets, as received.
    pub bytes: u64,
    /// lookup: whether it missed any packet.
    pub has_misses: bool,
    /// rewrite: the one port that all packets leave by; `None` when their fates differ.
    pub common_port: Option<PortIndex>,
}

impl<P> Default for Burst<P> {
    fn default() -> Self {
        Self {
            packets: Packets::new(),
            findings: [NOTHING; BURST_MAX],
            bytes: 0,
            has_misses: false,
            common_port: None,
        }
    }
}
