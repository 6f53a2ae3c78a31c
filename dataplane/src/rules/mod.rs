//! The rules as a worker reads them: immutable, built by control, shared by `Arc`.
//!
//! A [`Ruleset`] is made of parts that are shared with the one before where nothing changed, so a change to
//! one service costs that service and the tables it stands in, not all of them.

mod address_map;
mod decap;
pub mod encapsulation;
mod full;
mod map;
mod policy;
mod rate;
pub mod route;
mod rss;
pub mod scheduler;
mod service;
mod service_table;
mod vip;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use address_map::{AddressMap, AddressSet};
pub use decap::Decap;
pub use encapsulation::{Carrier, Encapsulation, Inner, QuotedTunnel, Source, Tunnel, TunnelEnds};
pub use full::FullBackends;
pub use policy::{
    ClientAddress, Fate, Flows, Limits, Mss, NoBackend, NoFlow, OnTimeout, Persistence, Policy, Reuse,
    Timeouts,
};
pub use rate::RateBucket;
pub use rss::{BUCKETS_MAX, Rss};
pub use scheduler::{Choice, Load, Loads, Position, Scheduler};
pub use service::{Admits, Backend, Member, Mode, Service, ServiceState};
pub use service_table::{L4Ports, ServiceKey, ServicePattern, ServiceTable};
pub use vip::{ClientPart, Vip};

use crate::adjacency::Adjacency;
use crate::flow::FlowKey;
use crate::index::{BackendIndex, PortIndex, ServiceIndex, WorkerIndex};
use crate::local_port::LocalPool;
use crate::wire::ethernet::MacAddress;

/// What the line knows of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRules {
    /// The port's own MAC: unicast frames to others are dropped. `None` takes every frame (captures, rings).
    pub station: Option<MacAddress>,
    /// Bytes of the longest IP packet it sends and receives; 0 stands for any length.
    pub mtu: u16,
    /// Bytes in front of the IP header of frames on its wire, VLAN tags included, where it computes the UDP checksums it is asked
    /// for ([`crate::packet::PacketBuf::request_udp_checksum`]); `None` where it computes none.
    pub udp_offload: Option<u8>,
    /// The pool of FullNAT local addresses for IPv4 backends reached by this port: an index into `local_pools`.
    pub local_pool: Option<u16>,
    /// Likewise for IPv6 backends.
    pub local_pool6: Option<u16>,
}

/// Everything the line needs to decide, immutable.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// Counts publications, from 1.
    pub revision: u64,
    /// The latest revision that gave a backend a [`Fate`] other than to finish: taking up a later one than before, a worker
    /// goes through its connections once and removes those that the fates concern.
    pub fates_set_at: u64,
    /// Workers that share the traffic; 1 switches steering off. 0 counts as 1.
    pub worker_count: u16,
    /// The owners by the hash of ports with RSS, where there are any; the same over every revision.
    pub rss: Option<Arc<Rss>>,
    /// By [`PortIndex`].
    pub ports: Arc<[PortRules]>,
    /// From VIP, l4_port and protocol to the most specific service.
    pub matcher: Arc<ServiceTable>,
    /// By [`ServiceIndex`]; retired services are `None`.
    pub services: Arc<[Option<Arc<Service>>]>,
    /// Whether any of them has packets that name their backends: only then packets of known flows are asked.
    pub has_server_ids: bool,
    /// Whether any service takes pings, or has taken some that are still known: only then echo messages are looked at, and
    /// else they are the kernel's like the rest of ICMP.
    pub takes_echo: bool,
    /// By [`BackendIndex`], retired ones included until their last flow is gone.
    pub backends: Arc<[Backend]>,
    /// Backends whose load over all workers somebody reads: members of services with a scheduler that does.
    pub load_readers: Arc<[BackendIndex]>,
    /// Backends of services that have thresholds of connections, those without one of their own too.
    pub bounded: Arc<[BackendIndex]>,
    /// Which of them rest; the same over every revision.
    pub full: Arc<FullBackends>,
    /// Next hops towards backends, by [`BackendIndex`].
    pub adjacencies: Arc<[Adjacency]>,
    /// The outer headers of tunnels, by [`BackendIndex`]; beyond its end, and where there is none, nothing is put in a tunnel.
    pub encapsulations: Arc<[Option<Encapsulation>]>,
    /// Where these tunnels lead, to know what ICMP errors quote of them.
    pub tunnel_ends: Arc<TunnelEnds>,
    /// What of the tunnels that end here is unwrapped; `None` unwraps nothing.
    pub decap: Option<Arc<Decap>>,
    /// All VIPs and networks of VIPs, for steering and for fragments.
    pub vips: Arc<AddressMap<Vip>>,
    /// Every VIP is [`Vip::PLAIN`]; false, where that is not known, is right too, and slower.
    pub vips_are_plain: bool,
    /// Hosts whose packets to others than the director are answers of [`Mode::Nat`], or are rewritten by [`Mode::Snat`]: for
    /// steering, by what decides who owns the connections of their clients, or of whom they talk to.
    pub inside: Arc<AddressMap<ClientPart>>,
    /// Hosts whose connections a service of [`Mode::Snat`] takes, whatever they are to.
    pub snat: Arc<AddressMap<ServiceIndex>>,
    /// Destinations that no service of [`Mode::Snat`] takes: the director's own, FullNAT's local ones, and those of groups.
    pub exempt: Arc<AddressSet>,
    /// All FullNAT local addresses, for steering.
    pub local_addresses: Arc<AddressSet>,
    /// FullNAT local addresses by pool.
    pub local_pools: Arc<[LocalPool]>,
}

impl Ruleset {
    /// What is known of `port`.
    #[inline(always)]
    pub fn port(&self, port: PortIndex) -> PortRules {
        self.ports.get(port.as_usize()).copied().unwrap_or_default()
    }

    /// The service at `index`, unless retired.
    pub fn service(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(index.as_usize())?.as_deref()
    }

    /// The backend at `index`.
    pub fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        self.backends.get(index.as_usize())
    }

    /// The address of the backend at `index`, where it is IPv4.
    pub fn ipv4_of(&self, index: BackendIndex) -> Option<Ipv4Addr> {
        match self.backend(index)?.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// The next hop towards the backend at `index`.
    #[inline(always)]
    pub fn adjacency(&self, index: BackendIndex) -> Adjacency {
        self.adjacencies.get(index.as_usize()).copied().unwrap_or(Adjacency::UNRESOLVED)
    }

    /// The outer header of the tunnel to the backend at `index`.
    #[inline(always)]
    pub fn encapsulation(&self, index: BackendIndex) -> Option<&Encapsulation> {
        self.encapsulations.get(index.as_usize())?.as_ref()
    }

    /// Bytes of the longest IP packet that fits both `port` and the way to the backend at `index`.
    pub fn way_mtu(&self, index: BackendIndex, port: PortIndex) -> u16 {
        self.adjacency(index).mtu.min(self.port_mtu(port))
    }

    /// Bytes of the longest IP packet that fits `port`.
    pub fn port_mtu(&self, port: PortIndex) -> u16 {
        match self.port(port).mtu {
            0 => u16::MAX,
            mtu => mtu,
        }
    }

    /// The local addresses for connections to `backend`, which is reached by `port`.
    pub fn local_pool(&self, port: PortIndex, backend: IpAddr) -> Option<(u16, &LocalPool)> {
        let PortRules { local_pool, local_pool6, .. } = self.port(port);
        let index = if backend.is_ipv6() { local_pool6 } else { local_pool }?;
        Some((index, self.local_pools.get(usize::from(index))?))
    }

    /// The worker that owns a packet from a client, when `part` of the client decides.
    #[inline(always)]
    pub fn owner_by(&self, part: ClientPart, key: &FlowKey) -> WorkerIndex {
        let by_rss = match (&self.rss, part) {
            (Some(rss), ClientPart::Endpoint) => rss.owner(key),
            _ => None,
        };
        by_rss.unwrap_or_else(|| part.owner(key, self.worker_count))
    }

    /// The worker that owns a packet to a FullNAT local address: the one that has the local l4_port.
    #[inline(always)]
    pub fn owner_of_answer(&self, key: &FlowKey) -> WorkerIndex {
        let by_rss = self.rss.as_deref().and_then(|rss| rss.owner(key));
        by_rss.unwrap_or_else(|| WorkerIndex(key.ports.destination() % self.worker_count.max(1)))
    }
}
