//! What the data path counted, put together for people and programs: `crossdock status`, the summary `run` ends
//! with, and `replay`.
//!
//! Here are the reports as programs read them; `gather` fills them from the workers' counters, `accounts` keeps apart who counted
//! in a slot that was used again, and `text` writes them for people.

mod accounts;
mod gather;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

pub use accounts::Accounts;
pub use gather::report;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::health::HealthReport;
use crate::service_totals::RoutedReport;
use crate::slow_path::TwinSnapshot;
use crate::slow_path::checks::CheckSnapshot;
use crate::worker_report::{RssReport, WorkerReport};

/// Everything, summed over the workers, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Seconds since the start.
    pub seconds: f64,
    /// The ruleset in force in every worker; one more with each change of rules or next hops.
    pub revision: u64,
    /// The revision of the rules, as changes and `crossdock revisions` count them; 0 in a replay.
    #[serde(default)]
    pub rules_revision: u64,
    /// Workers.
    pub workers: usize,
    /// What each worker counted; empty where there is only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_worker: Vec<WorkerReport>,
    /// Ports, in the order of the rules.
    pub ports: Vec<PortReport>,
    /// Services, in the order of the rules.
    pub services: Vec<ServiceReport>,
    /// Packets dropped, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Where packets went.
    pub packets: PacketReport,
    /// Connections.
    pub flows: FlowReport,
    /// Packets between ports and their kernel twins, by the name of the port; only ports with a twin.
    pub slow_path: BTreeMap<String, TwinSnapshot>,
    /// Packets of health checks to check addresses, once there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<CheckSnapshot>,
    /// How next hops stand, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<NeighbourReport>,
}

/// Another host that packets are sent to: a backend, or a router on the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourReport {
    /// The backend's address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The port towards it; `null` while it is not known.
    pub port: Option<String>,
    /// Its MAC, or its router's.
    pub mac: Option<String>,
    /// Whether that is its own: it stands on a link of the port.
    pub is_on_link: bool,
    /// Who says so: the `rules`, or the `kernel`.
    pub source: String,
    /// Why it is not known, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its device, as in the rules.
    pub device: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received: frames without FCS.
    pub rx_bytes: u64,
    /// Packets the port accepted for sending.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// What the device itself lost; all 0 where its driver does not say.
    pub lost: DeviceLosses,
    /// What its device computes of packets that leave by it: `udp_checksum`, or nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offloads: Vec<String>,
    /// Its MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Bytes of the longest packet it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The interface of its kernel twin, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// Whether it takes frames for other stations.
    #[serde(default)]
    pub promiscuous: bool,
    /// Its link; nothing where its device does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkReport>,
    /// What it did with the packets it spreads by RSS; nothing where packets are steered in software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss: Option<RssReport>,
}

/// The link of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkReport {
    /// Whether there is somebody at the other end.
    pub up: bool,
    /// Megabits a second; `null` where the device does not say.
    pub speed_mbps: Option<u32>,
}

impl fmt::Display for LinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.up, self.speed_mbps) {
            (false, _) => f.write_str("down"),
            (true, Some(speed)) if speed > 0 => write!(f, "up, {speed} Mbit/s"),
            (true, _) => f.write_str("up"),
        }
    }
}

/// Packets that a device lost before the line saw them, or after it let them go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceLosses {
    /// Arrived and found no free descriptor: the worker was too slow.
    pub rx_missed: u64,
    /// Arrived damaged.
    pub rx_errors: u64,
    /// Arrived when the mempool was empty.
    pub rx_no_mbuf: u64,
    /// Accepted for sending and not sent.
    pub tx_errors: u64,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// What it listens on, as in the rules.
    pub listen: String,
    /// Its mode, as in the rules.
    pub mode: String,
    /// Its scheduler.
    pub scheduler: String,
    /// Packets both ways, of backends that left the service too.
    pub packets: u64,
    /// Bytes of those: IP packets.
    pub bytes: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections refused: no backend, no local port, no room.
    pub refused: u64,
    /// Where the scheduler was overruled; only of services whose rules may overrule it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<RoutedReport>,
    /// Its backends, in the order of the rules.
    pub backends: Vec<BackendReport>,
    /// Its sorry server, where it has one.
    pub sorry: Option<BackendReport>,
}

/// One backend of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendReport {
    /// Address and l4_port; the address alone where the l4_port is the one clients use.
    pub address: String,
    /// Its weight; 0 of a sorry server.
    pub weight: u32,
    /// Its weight as workers have it: less while it starts slowly, 0 unless it is `up` by the rules and by its checks.
    pub weight_in_force: f64,
    /// `up`, `drain` or `down`, as the rules say.
    pub state: String,
    /// What checks say of it; nothing where it is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthReport>,
    /// Packets both ways.
    pub packets: u64,
    /// Bytes of those: IP packets.
    pub bytes: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets from the backend, where answers come back through the director.
    pub packets_out: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections held now.
    pub open: u64,
    /// MAC of the next hop, or `this host`; `null` while it is not known, and then nothing is sent to the backend.
    pub next_hop: Option<String>,
    /// Bytes of the longest packet on the way of its tunnel, outer header included, where a router has said that it takes
    /// less than the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Where its health is checked as the service's packets reach it, if it is; not where it has an address of its own for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_address: Option<String>,
}

/// Where packets went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketReport {
    /// Forwarded to a backend or back to a client, before the port had its say.
    pub forwarded: u64,
    /// Answered with a TCP RST.
    pub resets: u64,
    /// Answered with ICMP destination unreachable.
    pub unreachables: u64,
    /// Answered with how long a packet may be: ICMP fragmentation needed, ICMPv6 packet too big.
    pub too_bigs: u64,
    /// Forwarded in fragments; each of them counts once.
    pub fragmented: u64,
    /// Forwarded without the option that tells the client's address, for want of room.
    pub client_address_withheld: u64,
    /// RSTs that told the ends of a connection that it was forgotten; no packet was received for them.
    pub own_resets: u64,
    /// Those that were not sent: no buffer, no way, or too many in a second.
    pub own_resets_withheld: u64,
    /// ICMP errors about connections: of the forwarded ones.
    #[serde(default)]
    pub icmp_errors: u64,
    /// Fragments that wait for the first of their datagram, now.
    #[serde(default)]
    pub fragments_waiting: u64,
    /// UDP checksums over whole datagrams that were left to the port.
    #[serde(default)]
    pub checksums_offloaded: u64,
    /// Those that were summed up in software.
    #[serde(default)]
    pub checksums_summed: u64,
    /// Taken out of tunnels that end here; then forwarded, handed on or dropped like any other.
    #[serde(default)]
    pub decapsulated: u64,
    /// Handed to the slow path.
    pub punted: u64,
    /// Dropped, for whatever reason.
    pub dropped: u64,
    /// Handed from one worker to another.
    pub steered: u64,
    /// Sent for the kernel twins.
    pub from_slow_path: u64,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowReport {
    /// Held now.
    pub open: u64,
    /// Made since the start.
    pub opened: u64,
    /// Gone because they outlived their timeout.
    pub expired: u64,
    /// Pushed out of a full table.
    pub evicted: u64,
    /// Forgotten by `crossdock flows delete`.
    pub deleted: u64,
    /// Forgotten because their backend has left the rules or is down, as `on_remove` says.
    pub purged: u64,
    /// Table entries in use: one for a DR connection, two for FullNAT.
    pub entries: u64,
}
