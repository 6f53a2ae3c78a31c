//! The rules as a worker reads them: immutable, built by control, shared by `Arc`.
//!
//! A [`Ruleset`] is made of parts that are shared with the one before where nothing changed, so a change to
//! one service costs that service and the tables it stands in, not all of them.

mod address_set;
pub mod scheduler;
mod service;
mod service_table;

use std::sync::Arc;

pub use address_set::AddressSet;
pub use scheduler::{Choice, Position, Scheduler};
pub use service::{Backend, Member, Mode, Service, ServiceState};
pub use service_table::{ServiceKey, ServiceTable};

use crate::adjacency::Adjacency;
use crate::index::{BackendIndex, PortIndex, ServiceIndex, WorkerIndex};
use crate::local_port::LocalPool;
use crate::wire::ethernet::MacAddress;

/// What the line knows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// The port's own MAC: unicast frames to others are dropped. `None` takes every frame (captures, rings).
    pub station: Option<MacAddress>,
    /// The pool of FullNAT local addresses for backends reached by this port: an index into `local_pools`.
    pub local_pool: Option<u16>,
}

/// Everything the line needs to decide, immutable.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// Counts publications, from 1.
    pub revision: u64,
    /// Workers that share the traffic; 1 switches steering off. 0 counts as 1.
    pub worker_count: u16,
    /// By [`PortIndex`].
    pub ports: Arc<[PortRules]>,
    /// From VIP, l4_port and protocol to a service.
    pub matcher: Arc<ServiceTable>,
    /// By [`ServiceIndex`]; retired services are `None`.
    pub services: Arc<[Option<Arc<Service>>]>,
    /// By [`BackendIndex`], retired ones included until their last flow is gone.
    pub backends: Arc<[Backend]>,
    /// Next hops towards backends, by [`BackendIndex`].
    pub adjacencies: Arc<[Adjacency]>,
    /// All VIPs, for steering and for fragments.
    pub vips: Arc<AddressSet>,
    /// All FullNAT local addresses, for steering.
    pub local_addresses: Arc<AddressSet>,
    /// FullNAT local addresses by pool.
    pub local_pools: Arc<[LocalPool]>,
}

impl Ruleset {
    /// What is known of `port`.
    #[inline(always)]
    pub fn port(&self, port: PortIndex) -> PortRules {
        self.ports.get(port.as_usize()).copied().unwrap_or(PortRules { station: None, local_pool: None })
    }

    /// The service at `index`, unless retired.
    pub fn service(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(index.as_usize())?.as_deref()
    }

    /// The backend at `index`.
    pub fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        self.backends.get(index.as_usize())
    }

    /// The next hop towards the backend at `index`.
    #[inline(always)]
    pub fn adjacency(&self, index: BackendIndex) -> Adjacency {
        self.adjacencies.get(index.as_usize()).copied().unwrap_or(Adjacency::UNRESOLVED)
    }

    /// The local addresses for connections to backends reached by `port`.
    pub fn local_pool(&self, port: PortIndex) -> Option<(u16, &LocalPool)> {
        let index = self.port(port).local_pool?;
        Some((index, self.local_pools.get(usize::from(index))?))
    }

    /// The worker that owns FullNAT's local port `l4_port`, whatever the address.
    #[inline(always)]
    pub fn local_port_owner(&self, l4_port: u16) -> WorkerIndex {
        WorkerIndex(l4_port % self.worker_count.max(1))
    }
}
