//! What a service's rules say about its connections, beside who gets them: timeouts, limits, persistence, and
//! what becomes of packets and connections that cannot go on. Decided when the ruleset is built.

use std::net::IpAddr;

use crate::flow::tcp_state::TcpState;
use crate::index::BackendIndex;
use crate::wire::proxy_protocol::Version;

/// The policy of a service; the default is what IPVS does by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long idle connections are kept.
    pub timeouts: Timeouts,
    /// Whether a client returns to its backend.
    pub persistence: Option<Persistence>,
    /// How much the service takes.
    pub limits: Limits,
    /// Takes what no member can.
    pub sorry: Option<BackendIndex>,
    /// What flows are kept.
    pub flows: Flows,
    /// What a newcomer is told when no backend takes it.
    pub no_backend: NoBackend,
    /// What happens to a TCP segment other than SYN that belongs to no known connection.
    pub no_flow: NoFlow,
    /// What a SYN on a known connection does.
    pub reuse: Reuse,
    /// What the ends of a connection are told when it expires.
    pub on_timeout: OnTimeout,
    /// What becomes of the open connections of a backend that will be removed or down: for a RST then, numbers are noted
    /// from a connection's beginning. [`crate::rules::Backend::fate`] is what becomes of them now.
    pub on_remove: Fate,
    /// Whether connections of a drained backend are reset some time.
    pub ends_drains: bool,
    /// How backends are told who their client is, where the addresses do not say so.
    pub client_address: ClientAddress,
    /// How large the segments are that the ends of a TCP connection may send each other.
    pub mss: Mss,
    /// A packet that does not fit its way, and may be cut (IPv4 without "do not fragment"), leaves in fragments.
    pub fragments: bool,
    /// In direct routing and tunnels: the client's TTL, or hop limit, is passed on as it came.
    pub keeps_ttl: bool,
    /// Whether a RST must lie in the window of sequence numbers seen to end a connection (RFC 5961 section 3).
    pub checks_rst: bool,
}

/// Idle times after which a connection is forgotten, in milliseconds, by state. The defaults are IPVS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; TcpState::COUNT]);

impl Timeouts {
    /// The idle time of a connection in `state`, in milliseconds.
    #[inline(always)]
    pub fn of(&self, state: TcpState) -> u32 {
        // One place for each state: the index is in bounds.
        self.0.get(state as usize).copied().unwrap_or_default()
    }

    /// Sets the idle time of connections in `state`, in milliseconds.
    pub fn set(&mut self, state: TcpState, timeout_ms: u32) {
        if let Some(place) = self.0.get_mut(state as usize) {
            *place = timeout_ms;
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self(TcpState::ALL.map(TcpState::timeout_ms))
    }
}

/// A client's connections go to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long after a client's last connection was made, and has ended, its backend is remembered, in milliseconds.
    pub timeout_ms: u32,
    /// Leading bits of the client's IPv4 address that make a client: 32 is each address by itself.
    pub prefix_len: u8,
    /// Likewise of an IPv6 address, up to 128.
    pub prefix_len6: u8,
    /// A client whose backend has weight 0 is scheduled anew (IPVS: `expire_quiescent_template`).
    pub leaves_drained: bool,
}

impl Persistence {
    /// Leading bits of `client` that make a client.
    pub const fn prefix_len_of(&self, client: IpAddr) -> u8 {
        match client {
            IpAddr::V4(_) => self.prefix_len,
            IpAddr::V6(_) => self.prefix_len6,
        }
    }
}

/// Upper bounds of one service over all workers; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: Option<u32>,
    /// Connections whose handshake is not complete, at once.
    pub half_open: Option<u32>,
    /// New connections a second.
    pub rate: Option<u32>,
}

/// What flows a service keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flows {
    /// An entry a connection.
    #[default]
    Kept,
    /// None: each packet is scheduled by its hash alone.
    None,
    /// None: each datagram is scheduled anew (IPVS: one-packet scheduling).
    OnePacket,
}

/// What a newcomer is told when no backend takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoBackend {
    /// ICMP destination unreachable, port unreachable (RFC 792), as IPVS does.
    #[default]
    Unreachable,
    /// TCP RST (RFC 9293 section 3.5.2); UDP, which has none, gets the ICMP error.
    Reset,
    /// Nothing.
    Drop,
}

/// What happens to a TCP segment other than SYN that belongs to no known connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoFlow {
    /// The kernel, which owns the VIP, resets it; so does IPVS.
    #[default]
    Kernel,
    /// Crossdock resets it.
    Reset,
    /// Nothing.
    Drop,
    /// It is scheduled like a SYN (IPVS: `sloppy_tcp`); a RST is not.
    Schedule,
}

/// What a SYN on a known connection does (IPVS: `conn_reuse_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Opens a new connection when the one before is over: closed, or, where answers bypass the director, closed by the client,
    /// after which no more of it can be seen (IPVS: 2).
    #[default]
    WhenOver,
    /// Opens one when the one before is closed from both ends or reset (IPVS: 1, its default).
    WhenClosed,
    /// Goes to the backend of the one before (IPVS: 0).
    Never,
}

/// What the ends of a connection are told when it expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Nothing.
    #[default]
    Forget,
    /// RST to both, when it was open.
    Reset,
}

/// How a backend is told who its client is, where the addresses of packets do not say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// It is not.
    #[default]
    Hidden,
    /// A header of the PROXY protocol in front of the client's first byte (TCP).
    Proxy(Version),
    /// An option of the TCP header, of this kind.
    Toa(u8),
    /// An option of the IPv4 header, of this type (UDP).
    Uoa(u8),
}

/// How large the segments are that the ends of a TCP connection may send each other: what their SYNs name is lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mss {
    /// As large as they agree upon, but for the room that a header of the PROXY protocol needs.
    #[default]
    Kept,
    /// As large as fits the MTU of both ports, and what is put in front.
    Clamped,
    /// At most so many bytes.
    AtMost(u16),
}

/// What becomes of the open connections of a backend that is removed or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// They go on.
    #[default]
    Finish,
    /// RST to both ends; UDP flows are forgotten, and scheduled anew with their next packet.
    Reset,
    /// They are forgotten; what comes next is scheduled anew.
    Move,
}
