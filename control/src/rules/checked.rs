//! The rules as checked: plain data that is valid by construction of
//! [`Rules::parse`](crate::rules::Rules::parse), so no reader validates again. Not the file as typed (that is
//! `file`, private to its parent) and not what workers read (the dataplane's ruleset is built from this).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane::fragments::FragmentLimits;
use dataplane::index::BACKENDS_MAX;
use dataplane::rules::ServicePattern;
use dataplane::wire::VlanTags;
use dataplane::wire::echo;
use dataplane::wire::ipv4::{PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use ipnet::IpNet;

pub use super::device::Device;
pub(super) use super::health::{CheckPlace, Health, Via};
pub(super) use super::routes::Routes;
use super::tls::ServerTls;
pub use dataplane::prefix::Prefix;
pub use dataplane::rules::scheduler::{HashKey, SchedulerKind, SchedulerSettings};
pub use dataplane::rules::{Carrier, Source, Tunnel};
pub use dataplane::rules::{
    ClientAddress, Fate, Flows, L4Ports, Limits, Mss, NoBackend, NoFlow, OnTimeout, Persistence, Policy,
    Reuse, Timeouts,
};
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
    /// `[decap]`: the tunnels that end here.
    pub decap: Option<Decap>,
    /// `[checks]`: where backends that own the VIP are checked.
    pub checks: Option<Checks>,
    /// `[[port]]`, in file order, at least one; names are unique, and no two claim the same device.
    pub ports: Vec<Port>,
    /// `[[neighbour]]`, addresses unique.
    pub neighbours: Vec<Neighbour>,
    /// `[[service]]`, in file order; names are unique, and so is what they listen on. Shared with the rules before where
    /// nothing was said about them, by which whoever follows changes knows so without comparing.
    pub services: Vec<Arc<Service>>,
}

impl Rules {
    /// The kernel's own addresses, on the ports' twins: a backend that has one of them is this host.
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.ports.iter().flat_map(|port| &port.addresses).map(IpNet::addr).collect()
    }
}

impl Rules {
    /// The same rules, sharing with `before` the services that are no others: so whoever compares both knows at once.
    #[must_use]
    pub fn sharing_with(mut self, before: &Self) -> Self {
        let by_name: HashMap<_, _> = before.services.iter().map(|service| (&service.name, service)).collect();
        for service in &mut self.services {
            if let Some(same) = by_name.get(&service.name).filter(|same| **same == service) {
                *service = Arc::clone(same);
            }
        }
        self
    }

    /// The networks of check addresses, where any are in use.
    pub fn check_networks(&self) -> Option<Checks> {
        let of_services = || {
            let via_vip =
                |service: &Arc<Service>| service.health.as_ref().is_some_and(|health| health.via == Via::Vip);
            self.services.iter().any(via_vip).then(Checks::default)
        };
        self.checks.or_else(of_services)
    }
}

/// Networks of addresses that stand for backends, one for each slot of a backend and one of each network for the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// At most [`Self::LEN_MAX`] long.
    pub v4: Option<Prefix>,
    /// At most [`Self::LEN_MAX6`] long.
    pub v6: Option<Prefix>,
}

impl Checks {
    /// So that there is an address for each of [`BACKENDS_MAX`] slots.
    pub const LEN_MAX: u8 = 16;
    /// The same of IPv6.
    pub const LEN_MAX6: u8 = 112;

    /// The address for the backend in `slot`.
    pub fn address(&self, slot: usize, is_v6: bool) -> Option<IpAddr> {
        self.nth(slot + 1, is_v6)
    }

    /// The address that the kernel takes for the router to a network: the last but one of as many as there are in any case.
    pub fn gateway(&self, is_v6: bool) -> Option<IpAddr> {
        self.nth((1 << 16) - 2, is_v6)
    }

    /// Both networks.
    pub fn all(&self) -> impl Iterator<Item = Prefix> {
        [self.v4, self.v6].into_iter().flatten()
    }

    fn nth(&self, number: usize, is_v6: bool) -> Option<IpAddr> {
        Some(match if is_v6 { self.v6 } else { self.v4 }?.network() {
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | number as u32).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | number as u128).into(),
        })
    }
}

const _: () = assert!(BACKENDS_MAX < 1 << 16);

impl Default for Checks {
    /// What is set aside for measuring devices (RFC 2544 appendix C.2.2, RFC 5180 section 8), and routed nowhere.
    fn default() -> Self {
        let v4 = Prefix::new(Ipv4Addr::new(198, 18, 0, 0), Self::LEN_MAX);
        let v6 = Prefix::new(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), Self::LEN_MAX6);
        Self { v4: Some(v4), v6: Some(v6) }
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<_> = self.all().map(|network| network.to_string()).collect();
        f.write_str(&networks.join(" and "))
    }
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
    /// How much a worker remembers of datagrams that come in fragments.
    pub fragments: FragmentLimits,
    /// What a worker does when nothing arrives.
    pub idle: Idle,
}

/// Which cores workers are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Every core but the one that control uses; with a single core, that one.
    Auto,
    /// A worker each on these cores (the kernel's CPU numbers, below [`CORE_COUNT_MAX`]); 1 to 64 (`WORKERS_MAX` of
    /// [`dataplane::index`]). With [`Idle::Poll`] no core is there twice.
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
    /// The group that may use it beside its owner: a name or a number, which only the machine knows to be one.
    pub group: Option<String>,
    /// Where `/metrics` is answered over TCP too; nowhere else is anything of the API.
    pub metrics: Option<SocketAddr>,
    /// Where the API is asked over TCP, by TLS.
    pub remote: Option<Remote>,
}

/// The API on TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who it is, and whom it believes; may change while it listens.
    pub tls: ServerTls,
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

/// The tunnels that end here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decap {
    /// Outer destinations, at least one, none twice.
    pub addresses: Vec<IpAddr>,
    /// IP in IP is unwrapped.
    pub ipip: bool,
    /// GRE is.
    pub gre: bool,
    /// GUE is, to this UDP port.
    pub gue_port: Option<u16>,
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
    /// FullNAT's own addresses: networks of at most 4,096 (/20, of IPv6 /116), host bits zero, every address of them used.
    /// They overlap no other address in the rules.
    pub local_addresses: Vec<IpNet>,
    /// The MAC to use instead of the device's own.
    pub mac: Option<MacAddress>,
    /// The tags of its frames; `None` where frames are taken as they are.
    pub vlan: Option<VlanTags>,
    /// Bytes of the longest IP packet, [`MTU_MIN`] and more; `None` is what the device says.
    pub mtu: Option<u16>,
    /// Whether it computes checksums over whole datagrams, where its device can and services need it.
    pub checksum_offload: bool,
    /// Whether it takes frames for other stations, which the line then drops: for devices that filter what they should not.
    pub promiscuous: bool,
}

/// The least MTU of a port: what every IPv4 host accepts (RFC 791 section 3.1).
pub const MTU_MIN: u16 = 576;
/// The least MTU of a link that carries IPv6 (RFC 8200 section 5).
pub const MTU_MIN_IPV6: u16 = 1_280;

/// A next hop given by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: MacAddress,
    /// The port that reaches it: an index into [`Rules::ports`].
    pub port: usize,
}

/// What a service listens on, with its scheduler and backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// 1 to 32 of `A-Z a-z 0-9 - _ .`
    pub name: String,
    /// What it listens on, at least one but in [`Mode::Snat`], which has none; several are a port group: one set of backends and one memory of clients. By
    /// the first it is known again after a reload.
    pub listens: Vec<Listen>,
    /// Hosts whose connections it takes, whatever they are to: in [`Mode::Snat`] at least one network, elsewhere none.
    pub from: Vec<Prefix>,
    /// How packets reach the backend.
    pub mode: Mode,
    /// How they are carried there: in [`Mode::Tunnel`] and no other. Whether their TTL is lowered, the policy says.
    pub tunnel: Option<Tunnel>,
    /// How a new connection finds its backend.
    pub scheduler: SchedulerSettings,
    /// Who tells the network where the VIP is.
    pub announce: Announce,
    /// What is said about its connections. `sorry` is none here: slots are given when rules are built.
    pub policy: Policy,
    /// How it is found out which backends can serve; shared with whoever does that.
    pub health: Option<Arc<Health>>,
    /// Takes what no backend can; none of the backends.
    pub sorry: Option<Endpoint>,
    /// Time in which the weight of a backend that comes later, or back, rises to what the rules say; 1 second to 1 day.
    pub slow_start: Option<Duration>,
    /// Time after which connections of a backend that takes no new ones are reset; 1 second to 24 days.
    pub drain_timeout: Option<Duration>,
    /// What overrules its scheduler.
    pub routes: Routes,
    /// In file order; endpoints are unique within the service. May be empty.
    pub backends: Vec<Backend>,
}

impl Service {
    /// What makes it this service and not another one, whatever its name: the first it listens on, or where its connections
    /// come from. Checked rules have either.
    pub fn key(&self) -> Option<ServicePattern> {
        let from = self.from.first().map(|from| ServicePattern {
            vips: *from,
            l4_ports: L4Ports::ANY,
            // None that a packet could ask for: it is no VIP.
            protocol: 0,
        });
        self.listens.first().map(Listen::pattern).or(from)
    }

    /// Its VIPs and networks of VIPs, in the order of `listens`; one may come twice.
    pub fn vips(&self) -> impl Iterator<Item = Prefix> {
        self.listens.iter().map(|listen| listen.vips)
    }

    /// Addresses its packets are sent to: its backends', in file order, and the sorry server's.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let backends = self.backends.iter().map(|backend| backend.endpoint);
        backends.chain(self.sorry).map(|endpoint| endpoint.address)
    }

    /// What it listens on, or where its connections come from, for people.
    pub fn listens_text(&self) -> String {
        let listens = self.listens.iter().map(Listen::to_string);
        listens.chain(self.from.iter().map(|from| format!("from {from}"))).collect::<Vec<_>>().join(", ")
    }
}

/// A protocol, VIPs and l4 ports that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// TCP or UDP, or one that is rarer.
    pub protocol: Protocol,
    /// The address clients use, or a network of them.
    pub vips: Prefix,
    /// The l4 ports clients use: one from 1 on, a range from 1 on, or all of them ([`L4Ports::ANY`]); of [`Protocol::Icmp`]
    /// the 0 that stands for a ping's ([`echo`]).
    pub l4_ports: L4Ports,
}

impl Listen {
    /// As the line matches it.
    pub fn pattern(&self) -> ServicePattern {
        let protocol = self.protocol.number(self.vips.network().is_ipv6());
        ServicePattern { vips: self.vips, l4_ports: self.l4_ports, protocol }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vips.network() {
            IpAddr::V4(_) => write!(f, "{} {}", self.protocol, self.vips)?,
            IpAddr::V6(_) => write!(f, "{} [{}]", self.protocol, self.vips)?,
        }
        match self.l4_ports {
            _ if self.protocol == Protocol::Icmp => Ok(()),
            L4Ports::ANY => f.write_str(":*"),
            L4Ports { first, last } if first == last => write!(f, ":{first}"),
            L4Ports { first, last } => write!(f, ":{first}-{last}"),
        }
    }
}

/// Where a backend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its l4 port, host order; 0 is the one the packet came to, where the service listens on several. With
    /// [`Mode::Dr`] and on this host itself it is what the service listens on.
    pub l4_port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.l4_port) {
            (IpAddr::V4(address), 0) => write!(f, "{address}"),
            (IpAddr::V6(address), 0) => write!(f, "[{address}]"),
            (address, l4_port) => SocketAddr::new(address, l4_port).fmt(f),
        }
    }
}

/// The greatest weight: IPVS takes any 31-bit number, and its users write thousands.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// Its share relative to the others', at most [`WEIGHT_MAX`]; 0 gets no new connections.
    pub weight: u32,
    /// How many connections it takes.
    pub thresholds: Option<Thresholds>,
    /// Whether it is used.
    pub state: BackendState,
    /// Where its health is checked.
    pub check_place: CheckPlace,
}

impl Backend {
    /// A sorry server, which has no weight.
    pub fn sorry(endpoint: Endpoint) -> Self {
        let check_place = CheckPlace::default();
        Self { endpoint, weight: 0, thresholds: None, state: BackendState::Up, check_place }
    }
}

/// How many connections a backend takes, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// From so many on it takes no new one; at least 1.
    pub upper: u32,
    /// Once it was full, it takes new ones again below so many; 1 to `upper`.
    pub lower: u32,
}

/// Whether a backend is used; the later ones keep more away from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendState {
    /// It takes connections by its weight.
    #[default]
    Up,
    /// As with weight 0: it keeps its connections, and persistent clients as the service's persistence says.
    Drain,
    /// It takes none, and what is open goes as `on_remove` says.
    Down,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Down => "down",
        })
    }
}

/// The layer-4 protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132: associations with one address an end.
    Sctp,
    /// ICMP, IP protocol 1, and ICMPv6, 58: echo requests and their answers.
    Icmp,
}

impl Protocol {
    /// Its IP protocol number, between addresses of the family that `is_ipv6` says.
    pub fn number(self, is_ipv6: bool) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
            Self::Sctp => PROTOCOL_SCTP,
            Self::Icmp => echo::protocol_of(is_ipv6),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        })
    }
}

/// How a packet is handed to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Direct routing: only the MACs change, the backend owns the VIP and answers the client itself.
    Dr,
    /// Each packet goes as the payload of another; the backend owns the VIP and answers the client itself.
    Tunnel,
    /// FullNAT: both endpoints are rewritten, answers come back through a local address.
    Fullnat,
    /// Masquerading: the destination is rewritten, the backend's way to clients leads through the director.
    Nat,
    /// For hosts behind the director: the source is rewritten to a local address; backends are routers.
    Snat,
}

impl Mode {
    /// Whether packets of backends to clients pass the director, which has to know each connection to change them back.
    pub fn has_answers(self) -> bool {
        matches!(self, Self::Fullnat | Self::Nat | Self::Snat)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
            Self::Fullnat => "fullnat",
            Self::Nat => "nat",
            Self::Snat => "snat",
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
