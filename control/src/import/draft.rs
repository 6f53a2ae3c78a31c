//! What an import has found, on its way to a rules file: services and backends in LVS's terms, each with notes about what
//! cannot be kept. `fit` makes it what rules can say, `text` writes it.

use std::net::IpAddr;

use crate::ipvsadm::command::Tunnel;
use crate::rules::Protocol;

/// Everything of one import.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// What is for the reader of the rules, at their head.
    pub(super) hints: Vec<String>,
    /// What belongs to no service.
    pub(super) notes: Vec<Note>,
    /// In the order of the input.
    pub(super) services: Vec<Service>,
}

/// Something that has no counterpart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// What, as it was written.
    pub(super) what: String,
    /// Why, or what to do.
    pub(super) why: String,
}

impl Note {
    pub(super) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// A service.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// As it was written, and where.
    pub(super) origin: String,
    /// Its name in the rules, where the input has one; `fit` makes it fit, and one for the others.
    pub(super) name: String,
    /// Why the whole service is a comment.
    pub(super) left_out: Option<Note>,
    pub(super) notes: Vec<Note>,
    /// None are firewall marks, of which the rules know nothing.
    pub(super) listens: Vec<Listen>,
    pub(super) scheduler: String,
    /// What a hashing scheduler hashes includes the client's port.
    pub(super) hashes_l4_port: bool,
    /// A hashing scheduler looks for another backend.
    pub(super) fallback: bool,
    pub(super) persistence: Option<Persistence>,
    pub(super) one_packet: bool,
    /// Who has its VIPs, where that is not Crossdock.
    pub(super) announced_by: Option<String>,
    /// By key of `[service.timeouts]`, seconds.
    pub(super) timeouts: Vec<(&'static str, u32)>,
    pub(super) health: Option<Health>,
    pub(super) sorry: Option<Backend>,
    /// In the order in which they were added; `fit` turns it around.
    pub(super) backends: Vec<Backend>,
    /// How all of them are reached; `fit` finds it.
    pub(super) way: Option<Way>,
}

impl Service {
    /// Notes what has no counterpart, once.
    pub(super) fn note(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let note = Note::new(what, why);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// A place that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Listen {
    pub(super) protocol: Protocol,
    pub(super) vip: IpAddr,
    /// Host order; 0 is every port.
    pub(super) l4_port: u16,
}

/// A client stays with its backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Persistence {
    pub(super) timeout_s: u32,
    /// Of the VIPs' family.
    pub(super) prefix_len: Option<u8>,
}

/// How packets get to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Dr,
    Nat,
    Tunnel(Tunnel),
}

impl Way {
    /// The word of `mode`.
    pub(super) fn mode(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Tunnel(_) => "tunnel",
        }
    }
}

/// A real server, or a sorry server.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// Why it is a comment.
    pub(super) left_out: Option<Note>,
    pub(super) notes: Vec<Note>,
    pub(super) address: IpAddr,
    /// Host order; none is the service's.
    pub(super) l4_port: Option<u16>,
    pub(super) way: Way,
    pub(super) weight: u32,
    /// 0 is none, as for IPVS.
    pub(super) max_connections: u32,
    pub(super) resume_below: u32,
    pub(super) check_address: Option<IpAddr>,
    pub(super) check_l4_port: Option<u16>,
}

impl Backend {
    pub(super) fn new(address: IpAddr, l4_port: Option<u16>, way: Way) -> Self {
        Self {
            left_out: None,
            notes: Vec::new(),
            address,
            l4_port,
            way,
            weight: 1,
            max_connections: 0,
            resume_below: 0,
            check_address: None,
            check_l4_port: None,
        }
    }

    /// As the rules write an endpoint.
    pub(super) fn endpoint(&self) -> String {
        let host = host_text(self.address);
        self.l4_port.map_or_else(|| host.clone(), |l4_port| format!("{host}:{l4_port}"))
    }
}

/// An address as it stands in an endpoint.
pub(super) fn host_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// How backends are checked.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// What is asked.
    pub(super) check: Check,
    pub(super) interval_ms: u64,
    pub(super) timeout_ms: u64,
    pub(super) fall: u32,
    /// keepalived's `alpha`.
    pub(super) begins_down: bool,
    pub(super) inhibit: bool,
    /// 1 is the default.
    pub(super) quorum: u32,
}

/// What is asked of a backend, as keys of `[service.health]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Tcp,
    Http {
        is_tls: bool,
        path: Option<String>,
        host: Option<String>,
        sni: Option<String>,
        /// As `status` takes them.
        status: Vec<String>,
        body: Option<String>,
    },
    Udp {
        send: String,
        expect: Option<String>,
    },
    Dns {
        name: String,
        record_type: String,
    },
    Script {
        argv: Vec<String>,
    },
}

impl Check {
    /// The word of `check`.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http { is_tls: false, .. } => "http",
            Self::Http { is_tls: true, .. } => "https",
            Self::Udp { .. } => "udp",
            Self::Dns { .. } => "dns",
            Self::Script { .. } => "script",
        }
    }
}
