//! The rules as checked: plain data that is valid by construction of
//! [`Rules::parse`](crate::rules::Rules::parse), so no reader validates again. Not the file as typed (that is
//! `file`, private to its parent) and not what workers read (the dataplane's ruleset is built from this).

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

pub use super::device::Device;
pub use dataplane::wire::ethernet::MacAddress;

/// Everything one rules file says, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `[dataplane]`
    pub dataplane: Dataplane,
    /// `[control]`
    pub control: Control,
    /// `[slow_path]`
    pub slow_path: SlowPath,
    /// `[[port]]`, in file order, at least one; names are unique, and no two claim the same device.
    pub ports: Vec<Port>,
    /// `[[neighbour]]`, addresses unique.
    pub neighbours: Vec<Neighbour>,
    /// `[[service]]`, in file order; names are unique, and so is (protocol, VIP, l4 port).
    pub services: Vec<Service>,
}

/// How the workers run. Fixed while the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// On which cores.
    pub workers: Workers,
    /// What flow tables and mempools stand on.
    pub memory: Memory,
    /// Flow table entries of one worker, 1,024 to 2^28.
    pub max_flows: u32,
    /// What a worker does when nothing arrives.
    pub idle: Idle,
}

/// Which cores workers are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Every core but the one that control uses; with a single core, that one.
    Auto,
    /// These cores (the kernel's CPU numbers, below [`CORE_COUNT_MAX`]), one worker each, no core twice; 1 to
    /// 64 (`WORKERS_MAX` of [`dataplane::index`]).
    Cores(Vec<usize>),
}

/// Core numbers are below this: the size of the kernel's `cpu_set_t` (CPU_SETSIZE in sched.h).
pub const CORE_COUNT_MAX: usize = 1024;

/// What memory to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages when there are enough, plain memory when not.
    Auto,
    /// Huge pages or an error.
    Huge,
    /// Plain memory.
    Plain,
}

/// What a worker does when a round over its ports brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on. The least latency, the whole core.
    Poll,
    /// Gives the core to whoever else wants it (sched_yield).
    Yield,
    /// Sleeps for a short while.
    Sleep,
}

/// Where control is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the Unix socket, absolute, at most 107 bytes (`sun_path` and its NUL).
    pub socket: PathBuf,
}

/// Token buckets of the slow path, each in packets per second over all twins, 1 to 10,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowPath {
    /// ARP (and ND).
    pub arp: u32,
    /// Routing protocols: BGP, OSPF, VRRP, BFD.
    pub routing: u32,
    /// Whatever else is for the director's own addresses: SSH, ping, health checks.
    pub local: u32,
    /// The rest.
    pub rest: u32,
}

/// A NIC, real or virtual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// 1 to 12 of `A-Z a-z 0-9 - _ .`: with a prefix of three it still fits an interface name (IFNAMSIZ, 15).
    pub name: String,
    /// What DPDK attaches.
    pub device: Device,
    /// Whether it has a kernel twin.
    pub kernel: bool,
    /// The kernel's addresses, put on the twin; empty without one.
    pub addresses: Vec<IpNet>,
    /// FullNAT's own addresses: networks of at most 4,096 (/20), host bits zero, every address of them used.
    /// They overlap no other address in the rules.
    pub local_addresses: Vec<Ipv4Net>,
    /// The MAC to use instead of the device's own.
    pub mac: Option<MacAddress>,
}

/// A next hop given by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address, host order by type.
    pub address: Ipv4Addr,
    /// Its MAC.
    pub mac: MacAddress,
    /// The port that reaches it: an index into [`Rules::ports`].
    pub port: usize,
}

/// A VIP, protocol and l4 port with its scheduler and backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// 1 to 32 of `A-Z a-z 0-9 - _ .`
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address clients use.
    pub vip: Ipv4Addr,
    /// The l4 port clients use, host order, not zero.
    pub l4_port: u16,
    /// How packets reach the backend.
    pub mode: Mode,
    /// How a new connection finds its backend.
    pub scheduler: Scheduler,
    /// Who tells the network where the VIP is.
    pub announce: Announce,
    /// In file order; (address, l4 port) is unique within the service. May be empty.
    pub backends: Vec<Backend>,
}

impl Service {
    /// What makes it this service and not another one, whatever its name.
    pub fn listen(&self) -> (Protocol, Ipv4Addr, u16) {
        (self.protocol, self.vip, self.l4_port)
    }
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its l4 port, host order, not zero; with [`Mode::Dr`] the service's.
    pub l4_port: u16,
    /// Its share relative to the others'; 0 gets no new connections.
    pub weight: u16,
}

/// The layer-4 protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How a packet is handed to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Direct routing: only the MACs change, the backend owns the VIP and answers the client itself.
    Dr,
    /// FullNAT: both endpoints are rewritten, answers come back through a local address.
    Fullnat,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dr => "dr",
            Self::Fullnat => "fullnat",
        })
    }
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin, weights ignored (but 0 means none).
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Maglev hashing.
    Mh,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Mh => "mh",
        })
    }
}

/// Who puts a VIP where the network finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// Crossdock puts it on the kernel twins, whose kernel answers ARP. Without a twin there is nothing to
    /// announce.
    Arp,
    /// Somebody else does: keepalived's VRRP, a BGP speaker.
    External,
    /// Nobody.
    None,
}

impl fmt::Display for Announce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arp => "arp",
            Self::External => "external",
            Self::None => "none",
        })
    }
}
