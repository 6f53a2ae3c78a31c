//! A burst on its walk: the packets, and beside each what the stages found out about it.

use arrayvec::ArrayVec;

use crate::device::{BURST_MAX, Packets};
use crate::flow::{FlowHash, FlowKey};
use crate::fragments::Place;
use crate::index::{EntryIndex, PortIndex, WorkerIndex};
use crate::verdict::{DropReason, Verdict};
use crate::wire::tcp::TcpFlags;

/// What parse found out about one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Offset of the IP header in bytes: behind an untagged Ethernet header. VLAN tags are taken off before parse.
    pub l3_at: u16,
    /// Offset of the TCP or UDP header in bytes, or that of a ping: behind IPv4 options and IPv6 extensions.
    pub l4_at: u16,
    /// Length of the IP packet in bytes, its header included, as that claims.
    pub ip_len: u16,
    /// The TCP control bits; 0 for UDP.
    pub tcp_flags: TcpFlags,
    /// Whether the packet is IPv6.
    pub is_v6: bool,
}

impl Shape {
    /// The same packet with `added` bytes of headers in front of it.
    #[inline(always)]
    pub fn behind(self, added: u16) -> Self {
        let l4_at = if self.has_l4() { self.l4_at + added } else { 0 };
        Self { l3_at: self.l3_at + added, l4_at, ..self }
    }

    /// Whether the packet has the TCP or UDP header of its flow, or is a ping of it: l4_ports, or what stands for them, and
    /// checksum to rewrite, control bits to follow.
    #[inline(always)]
    pub fn has_l4(self) -> bool {
        self.l4_at != 0
    }

    /// The TCP or UDP header and what follows in `data`, as far as the IP header claims; nothing where there is none.
    pub fn l4(self, data: &[u8]) -> &[u8] {
        if !self.has_l4() {
            return &[];
        }
        let at = usize::from(self.l4_at);
        let end = data.len().min(at + self.l4_len());
        data.get(at..end).unwrap_or_default()
    }

    /// Bytes of the TCP or UDP header and what follows, as the IP header claims.
    pub fn l4_len(self) -> usize {
        (usize::from(self.ip_len) + usize::from(self.l3_at)).saturating_sub(self.l4_at.into())
    }
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
    /// rewrite: bytes of the longest IP packet that fits its way, where the verdict is `ForwardInParts`.
    pub mtu_out: u16,
    /// parse: what becomes of the packet; later stages overrule `Forward` only.
    pub verdict: Verdict,
}

/// Nothing found out yet.
const NOTHING: Finding = Finding {
    key: FlowKey::NONE,
    hash: FlowHash(0),
    entry: EntryIndex::NONE,
    shape: Shape { l3_at: 0, l4_at: 0, ip_len: 0, tcp_flags: TcpFlags(0), is_v6: false },
    owner: WorkerIndex(0),
    port_out: PortIndex(0),
    mtu_out: 0,
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
    /// parse: whether there are fragments, see [`Verdict::Hold`].
    pub has_fragments: bool,
    /// parse: whether there are ICMP errors about flows.
    pub has_errors: bool,
    /// parse: whether there are ICMP errors about tunnels, see [`Verdict::Relay`].
    pub has_tunnel_errors: bool,
    /// fragments: where the packets wait whose verdict is [`Verdict::Hold`], in their order.
    pub waiting: ArrayVec<Place, BURST_MAX>,
    /// lookup: whether it missed any packet.
    pub has_misses: bool,
    /// rewrite: whether it changed the length of any packet, so that `bytes` is no longer theirs.
    pub lengths_changed: bool,
    /// rewrite: the one port that all packets leave by; `None` when their fates differ.
    pub common_port: Option<PortIndex>,
}

impl<P> Default for Burst<P> {
    fn default() -> Self {
        Self {
            packets: Packets::new(),
            findings: [NOTHING; BURST_MAX],
            bytes: 0,
            has_fragments: false,
            has_errors: false,
            has_tunnel_errors: false,
            waiting: ArrayVec::new(),
            has_misses: false,
            lengths_changed: false,
            common_port: None,
        }
    }
}
