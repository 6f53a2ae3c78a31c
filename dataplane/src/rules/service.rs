//! Services and backends, as the line sees them.

use std::net::IpAddr;
use std::sync::Arc;

use super::policy::{Fate, Policy};
use super::rate::RateBucket;
use super::route::Routes;
use super::scheduler::{LocalityCache, Position, Scheduler};
use crate::index::{BackendIndex, ServiceIndex};

/// How a service's packets reach its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Direct routing: the frame goes to the backend's MAC, the VIP stays; answers bypass the director.
    Dr,
    /// As the payload of another packet, whose header is in [`crate::rules::Ruleset::encapsulations`]; the VIP stays, answers
    /// bypass the director.
    Tunnel,
    /// Both addresses and both l4_ports are rewritten; answers come back through the director.
    Fullnat,
    /// The destination is rewritten to the backend's address and l4_port, and the client's address stays; the backend's way
    /// to clients leads through the director, which undoes it (IPVS: masquerading).
    Nat,
    /// Connections of hosts behind the director to anywhere: their source is rewritten to a local address and l4_port. The
    /// backends are the routers they leave by.
    Snat,
}

/// A VIP, protocol and l4_port with its scheduler and backends.
#[derive(Clone, Debug)]
pub struct Service {
    /// How its packets are forwarded.
    pub mode: Mode,
    /// Who gets the next connection.
    pub scheduler: Scheduler,
    /// Its backends in the order of the rules file.
    pub members: Box<[Member]>,
    /// Whether any of them has a connection threshold.
    pub has_thresholds: bool,
    /// What the rules say about its connections.
    pub policy: Policy,
    /// Its rate of new connections, the same over all rulesets that have the service.
    pub rate: Arc<RateBucket>,
    /// What overrules the scheduler.
    pub routes: Option<Box<Routes>>,
}

impl Service {
    /// A service with the default policy, without thresholds.
    pub fn new(mode: Mode, scheduler: Scheduler, members: Box<[Member]>) -> Self {
        let (policy, rate) = (Policy::default(), Arc::default());
        Self { mode, scheduler, members, has_thresholds: false, policy, rate, routes: None }
    }
}

/// A backend's part in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The backend.
    pub backend: BackendIndex,
    /// Its share of new connections; 0 gets none.
    pub weight: u32,
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its TCP or UDP port number, host order; 0 is the one the packet came to.
    pub l4_port: u16,
    /// The service it belongs to; that one may be retired, then its connections keep the default policy.
    pub service: ServiceIndex,
    /// Which connections it takes.
    pub admits: Admits,
    /// What becomes of its open connections.
    pub fate: Fate,
    /// Connections over all workers from which on it takes no new one; 0 is no bound.
    pub connections_upper: u32,
    /// Connections below which it takes new ones again, once it was full.
    pub connections_lower: u32,
    /// It is this director itself: packets go to the kernel twin of the port they came in by.
    pub is_local: bool,
}

/// Which connections a backend takes beside those it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admits {
    /// New ones.
    #[default]
    New,
    /// Those of clients that return to it: it is drained (weight 0).
    Returning,
    /// None: it is down, or no longer in the rules.
    Nobody,
}

impl Backend {
    /// A backend of `service` without bounds, its connections to be finished.
    pub fn new(address: impl Into<IpAddr>, l4_port: u16, service: ServiceIndex) -> Self {
        Self {
            address: address.into(),
            l4_port,
            service,
            admits: Admits::New,
            fate: Fate::Finish,
            connections_upper: 0,
            connections_lower: 0,
            is_local: false,
        }
    }
}

/// What one worker keeps for one service: allocated by control, given with the first ruleset that has the
/// service, and kept over every later one.
#[derive(Clone, Debug, Default)]
pub struct ServiceState {
    /// Where the scheduler stands.
    pub position: Position,
    /// Which member comes first when several are equal: another one for each worker and director, so that a
    /// fleet does not start on the same backend. 0 is the order of the rules file.
    pub seed: u64,
    /// What `lblc` and `lblcr` remember; other schedulers have none.
    pub locality: Option<Box<LocalityCache>>,
}

impl ServiceState {
    /// The state of a new service; `seed` is random, or 0 to begin with the first member.
    pub fn new(seed: u64) -> Self {
        Self { position: Position::from_seed(seed), seed, locality: None }
    }
}
