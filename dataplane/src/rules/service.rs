//! Services and backends, as the line sees them.

use std::net::Ipv4Addr;

use super::scheduler::{Position, Scheduler};
use crate::index::BackendIndex;

/// How a service's packets reach its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Direct routing: the frame goes to the backend's MAC, the VIP stays; answers bypass the director.
    Dr,
    /// Both addresses and both l4_ports are rewritten; answers come back through the director.
    Fullnat,
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
}

/// A backend's part in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The backend.
    pub backend: BackendIndex,
    /// Its share of new connections; 0 gets none.
    pub weight: u16,
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its TCP or UDP port number, host order.
    pub l4_port: u16,
}

/// What one worker keeps for one service: allocated by control, given with the first ruleset that has the
/// service, and kept over every later one.
#[derive(Clone, Debug, Default)]
pub struct ServiceState {
    /// Where the scheduler stands.
    pub position: Position,
}
