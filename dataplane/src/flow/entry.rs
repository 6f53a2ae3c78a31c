//! One entry: one flow's key and everything rewrite needs for it, in one cache line.
//!
//! A connection rewritten both ways (FullNAT) has two entries side by side, at an even index the client's
//! flow and at the odd one after it the backend's; each direction's packets touch their own line only. A
//! one-way connection (DR) has one entry, at any index.

use super::key::{FlowHash, FlowKey};
use super::tcp_state::TcpState;
use crate::index::{AdjacencyIndex, BackendIndex, EntryIndex};
use crate::time::Millis;
use crate::wire::{AddressPair, PortPair};

/// How the packets of a flow are rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Rewrite {
    /// Not in use; rewrites nothing.
    #[default]
    Free,
    /// Direct routing: the frame's MACs change, the VIP stays.
    Dr,
    /// FullNAT, client to backend: both addresses and both l4_ports change.
    FullnatToBackend,
    /// FullNAT, backend to client: the change undone.
    FullnatToClient,
}

/// An entry of the flow table: 64 bytes, one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Entry {
    /// The flow's key; protocol 0 while free.
    pub key: FlowKey,
    /// Addresses after rewrite.
    pub new_addresses: AddressPair,
    /// l4_ports after rewrite.
    pub new_ports: PortPair,
    /// Moves the IPv4 header checksum: addresses and the lowered TTL.
    pub ip_delta: u16,
    /// Moves the TCP or UDP checksum: addresses and l4_ports.
    pub l4_delta: u16,
    /// When the flow's last packet passed.
    pub last_seen: Millis,
    /// Idle time after which the connection is forgotten, in milliseconds.
    pub timeout_ms: u32,
    /// The backend of the connection.
    pub backend: BackendIndex,
    /// The hash of `key`, so that removal finds the bucket.
    pub hash: FlowHash,
    /// FullNAT: the worker's row for the station the client's packets come from and answers go to.
    pub client_station: AdjacencyIndex,
    /// How the packets are rewritten.
    pub rewrite: Rewrite,
    /// The state of the connection, the same in both entries of a pair.
    pub state: TcpState,
}

const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() == 64);

impl Entry {
    /// Whether the entry holds a flow.
    #[inline(always)]
    pub fn is_used(&self) -> bool {
        !matches!(self.rewrite, Rewrite::Free)
    }

    /// Whether the connection this entry belongs to has two entries.
    #[inline(always)]
    pub fn is_paired(&self) -> bool {
        matches!(self.rewrite, Rewrite::FullnatToBackend | Rewrite::FullnatToClient)
    }
}

impl Entry {
    /// Whether a SYN from the client makes a new connection in this one's place.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.state.is_over(self.rewrite == Rewrite::Dr)
    }
}

impl EntryIndex {
    /// The other entry of a pair.
    #[inline(always)]
    pub const fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }
}
