//! What the rules say about the health of a service's backends, checked. Checks themselves are `crate::health`'s; the keys are told
//! in `docs/rules.md`, what they mean in `docs/health.md`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use super::tls::Tls;
use super::values::duration_text;

/// `[service.health]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked of a backend.
    pub check: Check,
    /// From the beginning of one check to that of the next, 100 ms to 1 hour.
    pub interval: Duration,
    /// How long one check may take, at most [`Self::interval`].
    pub timeout: Duration,
    /// Checks in a row that must pass for a backend that is down to be up; 1 to 100.
    pub rise: u32,
    /// Checks in a row that must fail for a backend that is up to be down; 1 to 100.
    pub fall: u32,
    /// By how many percent at most an interval is cut short, at random; 0 to 50.
    pub jitter_percent: u8,
    /// What a backend is before its first check.
    pub initial: Initial,
    /// By which way backends are checked.
    pub via: Via,
    /// The l4_port that is checked where a backend does not say one; none is the backend's own.
    pub l4_port: Option<u16>,
    /// A backend that falls again within this time after it came back must pass twice as many checks as the last time, up to as
    /// many as fit in this time.
    pub damping: Option<Duration>,
    /// Whether a backend that is down keeps what it has, as with weight 0.
    pub inhibit: bool,
    /// The least sum of weights of backends that are up for the service to be up; at least 1.
    pub quorum: Option<u32>,
    /// Whether the VIPs leave the network while the service is down.
    pub withdraw: bool,
    /// Told of every change.
    pub notify: Option<Argv>,
}

impl Health {
    /// The least sum of weights of backends that are up.
    pub fn quorum_or_default(&self) -> u32 {
        self.quorum.unwrap_or(1)
    }
}

/// The most for `rise` and `fall`.
pub(super) const STREAK_MAX: u32 = 100;

/// By which way backends are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a socket to the backend's own address.
    Address,
    /// As the service's packets go, in its encapsulation or with the backend's MAC, to the VIP.
    Vip,
}

/// What a backend is before its first check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// It takes connections.
    Up,
    /// It takes none.
    Down,
}

/// What is asked of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// That it accepts a TCP connection.
    Tcp,
    /// That it answers an HTTP request.
    Http(HttpCheck),
    /// That it does so over TLS.
    Https(HttpCheck, Tls),
    /// That it completes a TLS handshake.
    Tls(Tls),
    /// That it answers a datagram, or at least does not refuse it.
    Udp(UdpCheck),
    /// That it answers a DNS query.
    Dns(DnsCheck),
    /// That it says by the gRPC health checking protocol that it serves.
    Grpc(GrpcCheck),
    /// That a program ends with exit code 0.
    Script(Argv),
    /// That it answers its clients, as the line sees; nothing is asked.
    Passive(PassiveCheck),
}

/// A datagram and the answers that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    /// Its payload.
    pub send: String,
    /// What the answer must contain; none where silence passes too.
    pub expect: Option<String>,
}

/// A DNS query, which must have an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCheck {
    /// Whose records are asked for.
    pub name: Name,
    /// Which.
    pub record_type: RecordType,
}

/// A question of the gRPC health checking protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcCheck {
    /// Whether this service serves; empty is the server as a whole.
    pub service: String,
    /// How it is reached; none is plain text.
    pub tls: Option<Tls>,
}

/// How clients' connections are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveCheck {
    /// New connections in an interval that tell something; at least 1.
    pub attempts: u32,
}

/// A program by its whole path, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// An HTTP request and the answers that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// A token (RFC 9110 section 9.1), such as `GET`.
    pub method: String,
    /// Begins with a slash.
    pub path: String,
    /// The `Host` field; none is the endpoint that is checked.
    pub host: Option<String>,
    /// What the status of the answer may be.
    pub status: StatusRanges,
    /// What its body must contain.
    pub body: Option<String>,
}

/// Status codes of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    /// Ranges of which both ends count; the first is not above the second.
    pub(super) fn new(ranges: Vec<(u16, u16)>) -> Self {
        Self(ranges)
    }

    /// Whether a status is among them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |(first, last): &(u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        f.write_str(&self.0.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// Where a backend is checked, if not where it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckPlace {
    /// Another address.
    pub address: Option<IpAddr>,
    /// Another l4_port, host order.
    pub l4_port: Option<u16>,
}

impl fmt::Display for CheckPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.map(|address| format!("address {address}"));
        let l4_port = self.l4_port.map(|l4_port| format!("port {l4_port}"));
        let parts: Vec<_> = address.into_iter().chain(l4_port).collect();
        f.write_str(if parts.is_empty() { "where it serves" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

impl Check {
    /// What the rules call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(..) => "https",
            Self::Tls(_) => "tls",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Grpc(_) => "grpc",
            Self::Script(_) => "script",
            Self::Passive(_) => "passive",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Tcp => Ok(()),
            Self::Http(http) => write!(f, " {http}"),
            Self::Https(http, tls) => write!(f, " {http}, {tls}"),
            Self::Tls(tls) => write!(f, ", {tls}"),
            Self::Udp(UdpCheck { send, expect: None }) => write!(f, " {send:?}"),
            Self::Udp(UdpCheck { send, expect: Some(expect) }) => {
                write!(f, " {send:?}, answer with {expect:?}")
            }
            Self::Dns(DnsCheck { name, record_type }) => write!(f, " {record_type} of {name}"),
            Self::Grpc(GrpcCheck { service, tls }) => {
                write!(f, " {service:?}")?;
                tls.iter().try_for_each(|tls| write!(f, ", {tls}"))
            }
            Self::Script(argv) => write!(f, " {argv}"),
            Self::Passive(PassiveCheck { attempts }) => write!(f, ", of {attempts} connections"),
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, host, status, body } = self;
        write!(f, "{method} {path}")?;
        if let Some(host) = host {
            write!(f, " of {host}")?;
        }
        write!(f, ", status {status}")?;
        body.iter().try_for_each(|body| write!(f, ", with {body:?}"))
    }
}

/// For what is said about a change of it.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, interval, timeout, rise, fall, jitter_percent, initial, l4_port, .. } = self;
        let Self { damping, inhibit, quorum, withdraw, notify, .. } = self;
        write!(f, "{check}")?;
        f.write_str(if self.via == Via::Vip { ", via the VIP" } else { "" })?;
        if let Some(l4_port) = l4_port {
            write!(f, ", port {l4_port}")?;
        }
        write!(f, ", every {} within {}", duration_text(*interval), duration_text(*timeout))?;
        write!(f, ", rise {rise}, fall {fall}, jitter {jitter_percent} %")?;
        f.write_str(if *initial == Initial::Up { ", at first up" } else { ", at first down" })?;
        damping.iter().try_for_each(|damping| write!(f, ", damping {}", duration_text(*damping)))?;
        f.write_str(if *inhibit { ", inhibit" } else { "" })?;
        quorum.iter().try_for_each(|quorum| write!(f, ", quorum {quorum}"))?;
        f.write_str(if *withdraw { ", withdraw" } else { "" })?;
        notify.iter().try_for_each(|notify| write!(f, ", notify {notify}"))
    }
}
