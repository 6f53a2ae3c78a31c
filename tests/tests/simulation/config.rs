//! What the simulated operator wants: services and backends, as rules text; and the places everything has in the
//! simulated network.

use std::fmt::Write;
use std::net::Ipv4Addr;

use control::rules::Rules;
use control::rules::build::{NextHop, NextHops};
use dataplane::flow::tcp_state::TcpState;
use dataplane::index::PortIndex;
use dataplane::wire::ethernet::MacAddress;

use crate::packet::Endpoint;
use crate::random::Random;
use crate::states;

/// The port towards the clients.
pub(crate) const FRONT: PortIndex = PortIndex(0);
/// The port towards the backends.
pub(crate) const BACK: PortIndex = PortIndex(1);
/// The MACs of both.
pub(crate) const PORT_MACS: [MacAddress; 2] =
    [MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])];
/// Backends there may be.
pub(crate) const BACKENDS: usize = 8;
/// The one of them that is a sorry server and nothing else.
pub(crate) const SORRY: usize = BACKENDS - 1;
/// Services there may be.
pub(crate) const SERVICES: usize = 6;

/// The address of backend `id`.
pub(crate) fn backend_address(id: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + id as u8)
}

/// The backend with this address.
pub(crate) fn backend_id(address: Ipv4Addr) -> Option<usize> {
    (0..BACKENDS).find(|id| backend_address(*id) == address)
}

/// What is said about a service's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Idle time of open connections and of flows of datagrams, in seconds; `None` is IPVS's.
    pub(crate) idle_s: Option<u64>,
    /// Timeout in seconds, prefix length, whether clients leave a drained backend.
    pub(crate) persistence: Option<(u64, u8, bool)>,
    /// Whether there is a sorry server.
    pub(crate) has_sorry: bool,
    pub(crate) no_backend: &'static str,
    pub(crate) no_flow: &'static str,
    pub(crate) reuse: &'static str,
    pub(crate) on_remove: &'static str,
    pub(crate) on_timeout: &'static str,
    pub(crate) check_rst: bool,
    pub(crate) max_connections: Option<u64>,
    pub(crate) max_half_open: Option<u64>,
    /// A second.
    pub(crate) max_rate: Option<u64>,
    /// Of each backend.
    pub(crate) threshold: Option<u64>,
    /// Below how many it takes new ones again; `None` is IPVS's three quarters.
    pub(crate) resume_below: Option<u64>,
    pub(crate) flows: Flows,
}

/// What flows a service keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flows {
    Kept,
    None,
    OnePacket,
}

impl Policy {
    /// IPVS's.
    pub(crate) const PLAIN: Self = Self {
        idle_s: None,
        persistence: None,
        has_sorry: false,
        no_backend: "unreachable",
        no_flow: "kernel",
        reuse: "when-over",
        on_remove: "finish",
        on_timeout: "forget",
        check_rst: false,
        max_connections: None,
        max_half_open: None,
        max_rate: None,
        threshold: None,
        resume_below: None,
        flows: Flows::Kept,
    };

    /// Persistence needs connections.
    fn consistent(self) -> Self {
        let flows = if self.persistence.is_some() { Flows::Kept } else { self.flows };
        Self { flows, ..self }
    }

    /// Connections of a backend from which on it takes no new one, and below which it does again.
    pub(crate) fn thresholds(&self) -> Option<(u64, u64)> {
        let upper = self.threshold?;
        Some((upper, self.resume_below.unwrap_or(upper - upper / 4)))
    }

    fn random(random: &mut Random) -> Self {
        let mut some = |values: &[u64], percent| random.chance(percent).then(|| random.pick(values));
        let (idle_s, max_connections) = (some(&[10, 20, 60], 40), some(&[3, 10, 40], 10));
        let (max_half_open, max_rate) = (some(&[2, 8], 10), some(&[5, 50, 1_000], 10));
        let threshold = some(&[1, 4, 12], 15);
        let lower = threshold.filter(|_| random.chance(60));
        let resume_below = lower.map(|upper| random.between(1, upper));
        Self {
            idle_s,
            persistence: random
                .chance(25)
                .then(|| (random.between(2, 30), random.pick(&[32, 32, 30, 24]), random.chance(50))),
            has_sorry: random.chance(15),
            no_backend: random.pick(&["unreachable", "reset", "drop"]),
            no_flow: random.pick(&["kernel", "kernel", "reset", "drop", "schedule"]),
            reuse: random.pick(&["when-over", "when-over", "when-closed", "never"]),
            on_remove: random.pick(&["finish", "finish", "reset", "move"]),
            on_timeout: random.pick(&["forget", "reset"]),
            check_rst: random.chance(25),
            max_connections,
            max_half_open,
            max_rate,
            threshold,
            resume_below,
            flows: random.pick(&[Flows::Kept, Flows::Kept, Flows::Kept, Flows::None, Flows::OnePacket]),
        }
    }
}

/// One service, or one that could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) tcp: bool,
    pub(crate) vip: Ipv4Addr,
    pub(crate) l4_port: u16,
    pub(crate) fullnat: bool,
    pub(crate) scheduler: &'static str,
    /// Which backends with what weight, in the order of the file.
    pub(crate) backends: Vec<(usize, u16)>,
    /// By backend: `up`, `drain` or `down`.
    pub(crate) states: [&'static str; BACKENDS],
    pub(crate) policy: Policy,
    /// Whether it is in the rules.
    pub(crate) is_there: bool,
}

impl Service {
    pub(crate) fn endpoint(&self) -> Endpoint {
        (self.vip, self.l4_port)
    }

    /// Whether the ends of its connections can be told when they are forgotten.
    pub(crate) fn notes_numbers(&self) -> bool {
        let Policy { on_remove, on_timeout, check_rst, .. } = self.policy;
        self.tcp && (on_remove == "reset" || on_timeout == "reset" || check_rst)
    }

    /// How long an idle connection in `state` is kept, in milliseconds.
    pub(crate) fn timeout_ms(&self, state: TcpState) -> u64 {
        let is_set = matches!(state, TcpState::Established | TcpState::Udp) && self.flows() == Flows::Kept;
        let idle_ms = self.policy.idle_s.filter(|_| is_set).map(|idle_s| idle_s * 1_000);
        idle_ms.unwrap_or(states::timeout_ms(state))
    }

    /// What flows it keeps. Without flows only direct routing works, and only datagrams or a hash.
    pub(crate) fn flows(&self) -> Flows {
        match self.policy.flows {
            Flows::None if !self.fullnat && self.scheduler == "mh" => Flows::None,
            Flows::OnePacket if !self.fullnat && !self.tcp => Flows::OnePacket,
            _ => Flows::Kept,
        }
    }

    /// Its clients' persistence, if connections are kept at all.
    pub(crate) fn persistence(&self) -> Option<(u64, u8, bool)> {
        self.policy.persistence.filter(|_| self.flows() == Flows::Kept)
    }

    /// Whether newcomers may be refused although there are backends with weights.
    pub(crate) fn is_choosy(&self) -> bool {
        let Policy { max_connections, max_half_open, max_rate, threshold, .. } = self.policy;
        let limits = [max_connections, max_half_open, max_rate, threshold];
        // Overflow has no backend once each has as many connections as its weight.
        limits.iter().any(Option::is_some) || self.scheduler == "ovf"
    }

    /// What becomes of open connections to a backend, given whether it is in the rules.
    pub(crate) fn fate_of(&self, backend: usize) -> &'static str {
        let is_sorry = self.policy.has_sorry && backend == SORRY;
        let is_member = self.weight_of(backend).is_some() || is_sorry;
        if self.is_there && is_member { "finish" } else { self.fate() }
    }

    /// The backend's share of new connections, 0 where it is drained; `None` where it is no member, or down.
    pub(crate) fn weight_of(&self, backend: usize) -> Option<u16> {
        let (_, weight) = self.backends.iter().find(|(id, _)| *id == backend)?;
        match self.states[backend] {
            "down" => None,
            "drain" => Some(0),
            _ => Some(*weight),
        }
    }

    /// What becomes of open connections to backends that are removed.
    pub(crate) fn fate(&self) -> &'static str {
        // Who keeps no flows has none to end: those from before go on.
        if self.flows() == Flows::Kept { self.policy.on_remove } else { "finish" }
    }

    /// Its keys about connections, as an operator writes them.
    fn policy_text(&self) -> String {
        let Policy { idle_s, has_sorry, no_backend, no_flow, reuse, on_remove, .. } = self.policy;
        let mut text = format!("no_backend = \"{no_backend}\"\n");
        match self.flows() {
            Flows::None => return text + "flows = \"none\"\n",
            Flows::OnePacket => return text + "one_packet = true\n",
            Flows::Kept => {}
        }
        let _ = writeln!(text, "on_remove = \"{on_remove}\"");
        let Policy { on_timeout, check_rst, max_connections, max_half_open, max_rate, .. } = self.policy;
        let mut limits = vec![("max_connections", max_connections), ("max_rate", max_rate)];
        if self.tcp {
            let _ = write!(text, "no_flow = \"{no_flow}\"\nreuse = \"{reuse}\"\n");
            let _ = write!(text, "on_timeout = \"{on_timeout}\"\ncheck_rst = {check_rst}\n");
            limits.push(("max_half_open", max_half_open));
        }
        for (key, limit) in limits {
            if let Some(limit) = limit {
                let _ = writeln!(text, "{key} = {limit}");
            }
        }
        if let Some(idle_s) = idle_s {
            let key = if self.tcp { "established" } else { "udp" };
            let _ = writeln!(text, "timeouts = {{ {key} = \"{idle_s}s\" }}");
        }
        if let Some((timeout_s, prefix, leaves)) = self.persistence() {
            let on_drain = if leaves { "move" } else { "keep" };
            let _ = writeln!(
                text,
                "persistence = {{ timeout = \"{timeout_s}s\", prefix = {prefix}, on_drain = \"{on_drain}\" }}"
            );
        }
        if has_sorry {
            let (address, l4_port) = (backend_address(SORRY), self.backend_port());
            let _ = writeln!(text, "sorry = {{ address = \"{address}:{l4_port}\" }}");
        }
        text
    }

    /// The l4_port of its backends.
    pub(crate) fn backend_port(&self) -> u16 {
        if self.fullnat { 8_000 + self.l4_port } else { self.l4_port }
    }
}

/// How a backend is reached at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// Counts its network cards: a new one has a new MAC.
    pub(crate) card: u8,
    /// Whether the director knows no MAC of it.
    pub(crate) is_lost: bool,
}

impl Way {
    pub(crate) fn mac(self, id: usize) -> MacAddress {
        MacAddress([2, 0, 0, 1, self.card, id as u8])
    }
}

/// Everything the operator and the kernel tell the director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) services: Vec<Service>,
    /// By backend.
    pub(crate) ways: [Way; BACKENDS],
}

/// The schedulers that there are.
const SCHEDULERS: [&str; 15] = [
    "rr", "wrr", "lc", "wlc", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "twos", "sh", "dh", "mh", "conhash",
];

impl Config {
    /// The services of a new simulation.
    pub(crate) fn random(random: &mut Random) -> Self {
        let count = random.between(1, SERVICES as u64) as u8;
        let service = |number: u8, random: &mut Random| {
            let (tcp, fullnat) = (random.chance(70), random.chance(60));
            let mut backends = Vec::new();
            for id in 0..SORRY {
                if random.chance(60) {
                    backends.push((id, random.between(1, 5) as u16));
                }
            }
            Service {
                tcp,
                vip: Ipv4Addr::new(203, 0, 113, 10 + number % 3),
                l4_port: 80 + u16::from(number),
                fullnat,
                scheduler: random.pick(&SCHEDULERS),
                backends,
                states: ["up"; BACKENDS],
                policy: Policy::random(random).consistent(),
                is_there: true,
            }
        };
        let services = (0..count).map(|number| service(number, random)).collect();
        Self { services, ways: [Way::default(); BACKENDS] }
    }

    /// The service that listens there.
    pub(crate) fn service(&self, endpoint: Endpoint, protocol: u8) -> Option<&Service> {
        let tcp = protocol == 6;
        self.services.iter().find(|s| s.is_there && s.tcp == tcp && s.endpoint() == endpoint)
    }

    /// One change of the rules, of any kind.
    pub(crate) fn change_rules(&mut self, random: &mut Random) {
        let at = random.below(self.services.len());
        let others = self.services.len();
        let service = &mut self.services[at];
        if !service.is_there {
            // How it ends was said when it was there: nothing else can be.
            service.is_there = random.chance(50);
            return;
        }
        match random.below(13) {
            0..3 => {
                for (_, weight) in &mut service.backends {
                    *weight = random.pick(&[0, 1, 1, 2, 5]);
                }
            }
            3 => service.backends.iter_mut().for_each(|(_, weight)| *weight = 0),
            4 if !service.backends.is_empty() => {
                service.backends.remove(random.below(service.backends.len()));
            }
            4..7 => {
                let id = random.below(SORRY);
                service.backends.retain(|(there, _)| *there != id);
                let place = random.below(service.backends.len() + 1);
                service.backends.insert(place, (id, random.between(1, 4) as u16));
            }
            7 => service.scheduler = random.pick(&SCHEDULERS),
            // Whether a VIP has persistent services decides which worker owns its connections. While workers take up a change
            // of that one after the other, and it is the second, a packet may miss its owner: left out here, and told in
            // docs/connections.md ("Persistence") and docs/decisions/0008 ("A gap that is left").
            8 => service.is_there = service.policy.persistence.is_some(),
            9 => {
                let Policy { persistence, flows, .. } = service.policy;
                service.policy = Policy { persistence, flows, ..Policy::random(random) };
            }
            10 | 11 => service.states[random.below(SORRY)] = random.pick(&["up", "up", "drain", "down"]),
            _ if random.chance(50) => service.fullnat = !service.fullnat,
            _ => self.services.swap(at, random.below(others)),
        }
    }

    /// One change of the network: a backend's MAC is lost, found again, or another.
    pub(crate) fn change_ways(&mut self, random: &mut Random) {
        let way = &mut self.ways[random.below(BACKENDS)];
        if way.is_lost || random.chance(60) {
            way.is_lost = !way.is_lost;
        } else {
            way.card = way.card.wrapping_add(1);
        }
    }

    /// The rules, as an operator writes them.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "[dataplane]\nmax_flows = 1024\n[[port]]\nname = \"front\"\ndevice = \"af_packet:front\"\nkernel = true\naddresses = [\"192.0.2.5/24\"]\n\
             [[port]]\nname = \"back\"\ndevice = \"af_packet:back\"\nkernel = true\naddresses = [\"10.0.0.5/24\"]\n\
             local_addresses = [\"10.0.0.64/30\"]\n",
        );
        for service in self.services.iter().filter(|service| service.is_there) {
            let Service { tcp, vip, l4_port, fullnat, scheduler, backends, .. } = service;
            let (protocol, mode) =
                (if *tcp { "tcp" } else { "udp" }, if *fullnat { "fullnat" } else { "dr" });
            let _ = write!(
                text,
                "[[service]]\nname = \"{protocol}-{l4_port}\"\nlisten = \"{protocol} {vip}:{l4_port}\"\n\
                 mode = \"{mode}\"\nscheduler = \"{scheduler}\"\n"
            );
            text += &service.policy_text();
            for (id, weight) in backends {
                let (address, l4_port) = (backend_address(*id), service.backend_port());
                let _ = write!(
                    text,
                    "[[service.backend]]\naddress = \"{address}:{l4_port}\"\nweight = {weight}\nstate = \"{}\"\n",
                    service.states[*id]
                );
                if let Some(most) = service.policy.threshold.filter(|_| service.flows() == Flows::Kept) {
                    let _ = writeln!(text, "max_connections = {most}");
                    if let Some(below) = service.policy.resume_below {
                        let _ = writeln!(text, "resume_below = {below}");
                    }
                }
            }
        }
        text
    }

    /// The rules, checked.
    pub(crate) fn rules(&self) -> Rules {
        let text = self.text();
        Rules::parse("simulation", &text).unwrap_or_else(|errors| panic!("{}\n{text}", errors.plain()))
    }

    /// What the kernel knows of the way to each backend.
    pub(crate) fn next_hops(&self) -> NextHops {
        let known = self.ways.iter().enumerate().filter(|(_, way)| !way.is_lost);
        known
            .map(|(id, way)| {
                (backend_address(id).into(), NextHop { port: BACK, mac: way.mac(id), is_on_link: true })
            })
            .collect()
    }
}
