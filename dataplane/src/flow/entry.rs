//! One entry: one flow's key and everything rewrite needs for it, in one cache line.
//!
//! A connection rewritten both ways (FullNAT) has two entries side by side, at an even index the client's
//! flow and at the odd one after it the backend's; each direction's packets touch their own line only. A
//! one-way connection (DR) has one entry, at any index.

use super::kept::Kept;
use super::key::FlowKey;
use super::sequence::{End, Numbers, Watch};
use super::tcp_state::TcpState;
use crate::index::{AdjacencyIndex, BACKENDS_MAX, BackendIndex, EntryIndex, ServiceIndex};
use crate::persistence::ClientKey;
use crate::time::Millis;
use crate::wire::checksum::{self, TTL_LOWERED};
use crate::wire::{AddressPair, AddressPair6, Addresses, PortPair, echo};

/// How the packets of a flow are rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Rewrite {
    /// Not in use; rewrites nothing.
    #[default]
    Free,
    /// Direct routing: the frame's MACs change, the VIP stays.
    Dr,
    /// A tunnel: a header is put in front, the VIP stays.
    Tunnel,
    /// FullNAT, client to backend: both addresses and both l4_ports change. NAT and SNAT too: there one of the two endpoints
    /// is what it was.
    FullnatToBackend,
    /// FullNAT, NAT and SNAT, backend to client: the change undone.
    FullnatToClient,
    /// FullNAT to a backend of the other family, client to backend.
    TranslateToBackend,
    /// FullNAT to a backend of the other family, backend to client.
    TranslateToClient,
    /// The backend is this director: the packet goes to the kernel twin as it is.
    Local,
}

impl Rewrite {
    /// Whether the flow is a client's whose connection has two entries.
    #[inline(always)]
    pub const fn is_to_backend(self) -> bool {
        matches!(self, Self::FullnatToBackend | Self::TranslateToBackend)
    }

    /// Whether the flow is a backend's: the second entry of its connection.
    #[inline(always)]
    pub const fn is_to_client(self) -> bool {
        matches!(self, Self::FullnatToClient | Self::TranslateToClient)
    }
}

/// [`Entry::client_prefix_len`] of a connection whose client is not remembered.
pub const NOT_PERSISTENT: u8 = u8::MAX;

/// Set in [`Entry::timeout`] where the flow is IPv6: timeouts are below 2^31 ms.
const IS_V6: u32 = 1 << 31;

/// An entry of the flow table: 64 bytes, one cache line, for a flow of either family.
///
/// The first 32 bytes are the family's. IPv6: source and destination address. IPv4: source and destination; the same after
/// rewrite; l4_ports after rewrite, the IPv4 header checksum's delta and the protocol; 8 bytes that nothing needs yet.
/// What an IPv6 flow is rewritten to is the key of its peer, reversed (decision 0007).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Entry {
    head: [u64; 4],
    /// The flow's l4_ports.
    ports: PortPair,
    /// When the flow's last packet passed.
    pub last_seen: Millis,
    /// See [`Self::timeout_ms`]; and [`IS_V6`].
    timeout: u32,
    /// What is known of the sequence numbers of the flow's sender.
    pub numbers: Numbers,
    backend: u16,
    /// Moves the TCP or UDP checksum: addresses and l4_ports. Of pings see [`echo::delta`].
    pub l4_delta: u16,
    /// Where the client is reached, in FullNAT always, else if [`Watch::holds_station`]: the worker's row for the station the client's packets come from and answers go to.
    pub client_station: AdjacencyIndex,
    /// The service of the connection.
    pub service: ServiceIndex,
    /// In the entry of the client's flow the length of the prefix by which its client is remembered, or
    /// [`NOT_PERSISTENT`]; in the entry of the backend's flow see [`Self::kept`].
    pub client_prefix_len: u8,
    /// How the packets are rewritten.
    pub rewrite: Rewrite,
    /// The state of the connection, the same in both entries of a pair.
    pub state: TcpState,
    /// Why its packets are looked at beyond their rewriting.
    pub watch: Watch,
}

const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() == 64);
const _: () = assert!(BACKENDS_MAX <= 1 << 16);

/// What an IPv4 flow becomes: the third word of its entry's head.
#[derive(Clone, Copy)]
struct Rest4(u64);

impl Rest4 {
    const fn new(new_ports: PortPair, ip_delta: u16, protocol: u8) -> Self {
        Self(new_ports.word() as u64 | (ip_delta as u64) << 32 | (protocol as u64) << 48)
    }

    #[inline(always)]
    const fn new_ports(self) -> PortPair {
        PortPair::from_wire((self.0 as u32).to_ne_bytes())
    }

    #[inline(always)]
    const fn ip_delta(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    const fn protocol(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

impl Entry {
    /// An entry of the flow `key`, which is rewritten to itself but for the TTL; everything else is the caller's to set.
    pub fn new(key: &FlowKey, rewrite: Rewrite, backend: BackendIndex) -> Self {
        let (head, is_v6) = match key.addresses {
            Addresses::V4(pair) => {
                let rest = Rest4::new(key.ports, TTL_LOWERED, key.protocol);
                ([pair.word(), pair.word(), rest.0, 0], 0)
            }
            Addresses::V6(pair) => (pair.words(), IS_V6),
        };
        // Below BACKENDS_MAX, which fits.
        let backend = backend.0 as u16;
        Self { head, ports: key.ports, timeout: is_v6, backend, rewrite, ..Self::default() }
    }

    /// Sets what the flow is rewritten to. Where either is IPv6, `new` must be the peer's key reversed: only the
    /// checksum's delta is kept here.
    pub fn rewrite_to(&mut self, new: &FlowKey) {
        let old = self.key();
        let of_addresses = checksum::delta_of_addresses(old.addresses, new.addresses);
        self.l4_delta = if echo::is_icmp(old.protocol) {
            echo::delta(&old, new)
        } else {
            checksum::combine(of_addresses, checksum::delta_of_ports(old.ports, new.ports))
        };
        if let (Addresses::V4(_), Addresses::V4(pair)) = (old.addresses, new.addresses) {
            let ip_delta = checksum::combine(of_addresses, TTL_LOWERED);
            self.head =
                [self.head[0], pair.word(), Rest4::new(new.ports, ip_delta, old.protocol).0, self.head[3]];
        }
    }

    /// The flow's key; protocol 0 while free.
    #[inline]
    pub fn key(&self) -> FlowKey {
        let addresses = if self.is_v6() {
            AddressPair6::from_words(self.head).into()
        } else {
            AddressPair::from_wire(self.head[0].to_ne_bytes()).into()
        };
        FlowKey { addresses, ports: self.ports, protocol: self.protocol() }
    }

    /// Whether it is the entry of the flow `key`.
    #[inline(always)]
    pub fn has_key(&self, key: &FlowKey) -> bool {
        match key.addresses {
            Addresses::V4(pair) => {
                (self.head[0] == pair.word())
                    & (self.ports == key.ports)
                    & (Rest4(self.head[2]).protocol() == key.protocol)
                    & !self.is_v6()
            }
            Addresses::V6(pair) => {
                self.is_v6()
                    && self.head == pair.words()
                    && self.ports == key.ports
                    && self.state.protocol() == key.protocol
            }
        }
    }

    /// Whether the flow is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.timeout & IS_V6 != 0
    }

    /// The IP protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        if self.is_v6() { self.state.protocol() } else { Rest4(self.head[2]).protocol() }
    }

    /// Of an IPv4 flow: the IP protocol number.
    #[inline(always)]
    pub const fn protocol4(&self) -> u8 {
        Rest4(self.head[2]).protocol()
    }

    /// Of an IPv4 flow: addresses after rewrite.
    #[inline(always)]
    pub const fn new_addresses(&self) -> AddressPair {
        AddressPair::from_wire(self.head[1].to_ne_bytes())
    }

    /// Of an IPv4 flow: l4_ports after rewrite.
    #[inline(always)]
    pub const fn new_ports(&self) -> PortPair {
        Rest4(self.head[2]).new_ports()
    }

    /// Of an IPv4 flow: moves the IPv4 header checksum, for the addresses and the lowered TTL.
    #[inline(always)]
    pub const fn ip_delta(&self) -> u16 {
        Rest4(self.head[2]).ip_delta()
    }

    /// In direct routing: whether the TTL, or hop limit, is lowered.
    #[inline(always)]
    pub const fn lowers_ttl(&self) -> bool {
        self.l4_delta == 0
    }

    /// In direct routing, whose packets keep their l4_ports: sets that the TTL is kept.
    pub const fn keep_ttl(&mut self) {
        self.l4_delta = 1;
    }

    /// The backend of the connection.
    #[inline(always)]
    pub const fn backend(&self) -> BackendIndex {
        BackendIndex(self.backend as u32)
    }

    /// Idle time after which the connection is forgotten, in milliseconds.
    #[inline(always)]
    pub const fn timeout_ms(&self) -> u32 {
        self.timeout & !IS_V6
    }

    /// Sets it; at most 2^31 - 1, which is 24 days.
    pub const fn set_timeout_ms(&mut self, timeout_ms: u32) {
        let timeout_ms = if timeout_ms < IS_V6 { timeout_ms } else { IS_V6 - 1 };
        self.timeout = self.timeout & IS_V6 | timeout_ms;
    }

    /// A free entry's place in a chain of them: the next and the one before, and which chain it is in.
    pub(super) fn chained(next: u32, before: u32, chain: u32) -> Self {
        Self { head: [next as u64, before as u64, 0, 0], timeout: chain, ..Self::default() }
    }

    /// What [`Self::chained`] was given.
    pub(super) const fn chain(&self) -> (u32, u32, u32) {
        (self.head[0] as u32, self.head[1] as u32, self.timeout)
    }

    /// Whether the entry holds a flow.
    #[inline(always)]
    pub fn is_used(&self) -> bool {
        !matches!(self.rewrite, Rewrite::Free)
    }

    /// Whether a SYN of this entry's flow makes a new connection in this one's place: never a backend's, whose SYN is
    /// the old connection's, as with IPVS.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        !self.rewrite.is_to_client() && self.state.is_over(!self.is_paired())
    }

    /// The client whose template the connection holds. Only the entry of the client's flow knows it.
    pub fn client(&self) -> Option<ClientKey> {
        (self.client_prefix_len != NOT_PERSISTENT && !self.rewrite.is_to_client())
            .then(|| ClientKey::new(self.service, self.key().source(), self.client_prefix_len))
    }

    /// Of the entry of a backend's flow: how the backend is told who the client is.
    pub const fn kept(&self) -> Kept {
        Kept::from_byte(self.client_prefix_len)
    }

    /// Sets it.
    pub const fn set_kept(&mut self, kept: Kept) {
        self.client_prefix_len = kept.to_byte();
    }

    /// What is known of the flow's sender.
    pub fn end(&self) -> End {
        End { sent: self.numbers.sent(self.watch), expected: self.numbers.expected(self.watch) }
    }

    /// Whether the connection this entry belongs to has two entries.
    #[inline(always)]
    pub fn is_paired(&self) -> bool {
        self.rewrite.is_to_backend() || self.rewrite.is_to_client()
    }
}

impl EntryIndex {
    /// The other entry of a pair.
    #[inline(always)]
    pub const fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }
}
