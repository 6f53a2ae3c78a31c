//! From checked rules to the ruleset that workers read.
//!
//! The builder lives as long as the process: it keeps every service and backend in its slot and shares with the
//! ruleset before whatever did not change. What it needs of the world (ports' MACs, next hops, what workers still
//! hold) comes in as plain data, so the same code serves `run`, `replay` and tests.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BACKENDS_MAX, BackendIndex, PortIndex, SERVICES_MAX, ServiceIndex};
use dataplane::local_port::LocalPool;
use dataplane::rules::scheduler::{MaglevTable, WeightedRoundRobin};
use dataplane::rules::{
    AddressSet, Backend, Member, PortRules, Ruleset, Scheduler, Service, ServiceKey, ServiceState,
    ServiceTable,
};
use dataplane::wire::ethernet::MacAddress;
use dataplane::wire::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use dataplane::worker::Publication;

use super::checked::{self, Mode, Protocol, Rules};
use super::slots::{Census, Slots, SlotsFull};

/// What a port turned out to be when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Source MAC of frames sent by it.
    pub mac: MacAddress,
    /// Whether frames to other unicast MACs may reach it and must be dropped: true on a network, false for captures
    /// and rings.
    pub is_station: bool,
}

/// How to reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The port towards it.
    pub port: PortIndex,
    /// The MAC that frames for it go to.
    pub mac: MacAddress,
    /// Whether that is the address's own MAC, and not a router's on the way.
    pub is_on_link: bool,
}

/// How to reach each backend's address; without a row it is not known.
pub type NextHops = BTreeMap<Ipv4Addr, NextHop>;

/// What makes a backend this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    /// Its service.
    pub service: ServiceKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its l4_port.
    pub l4_port: u16,
}

/// Why rules that are valid cannot be put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Too many services, counting removed ones that still have connections.
    Services(SlotsFull),
    /// Too many backends, counting removed ones that still have connections.
    Backends(SlotsFull),
    /// More backends in one service than a Maglev table can name.
    MaglevMembers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = |f: &mut fmt::Formatter<'_>, what, slots_max| {
            write!(
                f,
                "more than {slots_max} {what}, removed ones with open connections included; remove some, or wait for their connections to end"
            )
        };
        match self {
            Self::Services(SlotsFull { slots_max }) => full(f, "services", slots_max),
            Self::Backends(SlotsFull { slots_max }) => full(f, "backends", slots_max),
            Self::MaglevMembers { count, count_max } => {
                write!(
                    f,
                    "a service with scheduler \"mh\" has {count} backends; at most {count_max} are possible"
                )
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// A ruleset, and what goes to the workers with it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The rules, the same for every worker.
    pub ruleset: Arc<Ruleset>,
    /// Slots whose service is new: every worker gets a state of its own for each.
    pub fresh_services: Vec<ServiceIndex>,
    /// Slots whose backend is new: counters go on from the tenant before.
    pub fresh_backends: Vec<BackendIndex>,
}

impl Built {
    /// What one worker is sent.
    pub fn publication(&self) -> Publication {
        let state = |index: &ServiceIndex| (*index, Some(Box::<ServiceState>::default()));
        Publication {
            ruleset: Arc::clone(&self.ruleset),
            states: self.fresh_services.iter().map(state).collect(),
        }
    }
}

/// Builds one ruleset after the other.
#[derive(Clone, Debug)]
pub struct Builder {
    ports: Vec<PortFacts>,
    worker_count: u16,
    services: Slots<ServiceKey>,
    backends: Slots<BackendKey>,
    /// As typed, to know an unchanged service again; by slot.
    sources: BTreeMap<usize, checked::Service>,
    last: Arc<Ruleset>,
}

impl Builder {
    /// A builder for ports in the order of the rules, shared by `worker_count` workers.
    pub fn new(ports: Vec<PortFacts>, worker_count: u16) -> Self {
        Self {
            ports,
            worker_count,
            services: Slots::new(SERVICES_MAX),
            backends: Slots::new(BACKENDS_MAX),
            sources: BTreeMap::new(),
            last: Arc::default(),
        }
    }

    /// The slots of services and who has them.
    pub fn services(&self) -> &Slots<ServiceKey> {
        &self.services
    }

    /// The slots of backends and who has them.
    pub fn backends(&self) -> &Slots<BackendKey> {
        &self.backends
    }

    /// The ruleset built last.
    pub fn last(&self) -> &Arc<Ruleset> {
        &self.last
    }

    /// Builds the next ruleset. On an error everything is as before.
    ///
    /// # Errors
    /// [`BuildError`] when a bound of the line is exceeded.
    pub fn build(
        &mut self,
        rules: &Rules,
        next_hops: &NextHops,
        census: &impl Census,
    ) -> Result<Built, BuildError> {
        let mut next = self.clone();
        let built = next.build_next(rules, next_hops, census)?;
        *self = next;
        Ok(built)
    }

    fn build_next(
        &mut self,
        rules: &Rules,
        next_hops: &NextHops,
        census: &impl Census,
    ) -> Result<Built, BuildError> {
        let revision = self.last.revision + 1;
        let in_force = census.revision_in_force();
        self.retire(rules, revision);
        let mut built =
            Built { ruleset: Arc::default(), fresh_services: Vec::new(), fresh_backends: Vec::new() };
        let mut services = self.last.services.to_vec();
        for (slot, service) in services.iter_mut().enumerate() {
            if !self.services.is_live(slot) {
                *service = None;
                self.sources.remove(&slot);
            }
        }
        // Workers know a removed service through the flows of its backends only. Its VIP stays one until the last is
        // gone: by it workers find the owner of a packet.
        let open: HashSet<ServiceKey> = (0..self.backends.len())
            .filter(|slot| census.open_connections(*slot) > 0)
            .filter_map(|slot| self.backends.key(slot).map(|key| key.service))
            .collect();
        let mut matcher = Vec::new();
        for service in &rules.services {
            let key = service_key(service);
            let given = self
                .services
                .give(key, |_, key, retired_at| retired_at <= in_force && !open.contains(key))
                .map_err(BuildError::Services)?;
            let index = ServiceIndex(given.slot as u16);
            if given.fresh {
                built.fresh_services.push(index);
                self.sources.remove(&given.slot);
            }
            matcher.push((key, index));
            let members = self.members(service, key, in_force, census, &mut built.fresh_backends)?;
            services.resize(services.len().max(given.slot + 1), None);
            if self.sources.get(&given.slot) != Some(service) || services[given.slot].is_none() {
                services[given.slot] = Some(Arc::new(build_service(service, members)?));
                self.sources.insert(given.slot, service.clone());
            }
        }
        let lingering = open.iter().map(|key| key.vip);
        let vips = rules.services.iter().map(|service| service.vip).chain(lingering).collect();
        built.ruleset = Arc::new(self.ruleset(revision, rules, services, matcher, vips, next_hops));
        self.last = Arc::clone(&built.ruleset);
        Ok(built)
    }

    /// Retires the slots of what the rules no longer have.
    fn retire(&mut self, rules: &Rules, revision: u64) {
        let services: BTreeSet<ServiceKey> = rules.services.iter().map(service_key).collect();
        let backends: BTreeSet<_> = rules
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(|b| (service_key(service), b.address, b.l4_port)))
            .collect();
        self.services.retire(revision, |key| services.contains(key));
        self.backends.retire(revision, |key| backends.contains(&(key.service, key.address, key.l4_port)));
    }

    fn members(
        &mut self,
        service: &checked::Service,
        key: ServiceKey,
        in_force: u64,
        census: &impl Census,
        fresh: &mut Vec<BackendIndex>,
    ) -> Result<Vec<Member>, BuildError> {
        let mut members = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let key = BackendKey { service: key, address: backend.address, l4_port: backend.l4_port };
            let given = self
                .backends
                .give(key, |slot, _, retired_at| retired_at <= in_force && census.open_connections(slot) == 0)
                .map_err(BuildError::Backends)?;
            let index = BackendIndex(given.slot as u32);
            if given.fresh {
                fresh.push(index);
            }
            members.push(Member { backend: index, weight: backend.weight });
        }
        Ok(members)
    }

    fn ruleset(
        &self,
        revision: u64,
        rules: &Rules,
        services: Vec<Option<Arc<Service>>>,
        matcher: Vec<(ServiceKey, ServiceIndex)>,
        vips: AddressSet,
        next_hops: &NextHops,
    ) -> Ruleset {
        let (ports, local_pools) = self.ports(rules);
        let backends: Vec<_> = (0..self.backends.len()).filter_map(|slot| self.backend_row(slot)).collect();
        let adjacencies = (0..self.backends.len()).map(|slot| self.adjacency(slot, next_hops)).collect();
        Ruleset {
            revision,
            worker_count: self.worker_count,
            ports: ports.into(),
            matcher: Arc::new(matcher.into_iter().collect::<ServiceTable>()),
            services: services.into(),
            backends: backends.into(),
            adjacencies,
            vips: Arc::new(vips),
            local_addresses: Arc::new(
                local_pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect(),
            ),
            local_pools: local_pools.into(),
        }
    }

    fn backend_row(&self, slot: usize) -> Option<Backend> {
        let key = self.backends.key(slot)?;
        Some(Backend { address: key.address, l4_port: key.l4_port })
    }

    /// The row towards the backend in `slot`. A DR frame that went to a router would come back: it is still for the
    /// VIP. So without a way on the link there is none.
    fn adjacency(&self, slot: usize, next_hops: &NextHops) -> Adjacency {
        let row = self.backends.key(slot).and_then(|key| {
            let NextHop { port, mac, is_on_link } = *next_hops.get(&key.address)?;
            let source = self.ports.get(port.as_usize())?.mac;
            (is_on_link || !self.is_dr(&key.service)).then(|| Adjacency::resolved(mac, source, port))
        });
        row.unwrap_or(Adjacency::UNRESOLVED)
    }

    fn is_dr(&self, service: &ServiceKey) -> bool {
        let source = self.services.find(service).and_then(|slot| self.sources.get(&slot));
        source.is_some_and(|source| source.mode == Mode::Dr)
    }

    /// What the line needs to know of each port. A port without local addresses of its own uses the first pool
    /// there is, for backends that route answers to it.
    fn ports(&self, rules: &Rules) -> (Vec<PortRules>, Vec<LocalPool>) {
        let mut pools = Vec::new();
        let own: Vec<Option<u16>> = rules
            .ports
            .iter()
            .map(|port| {
                let addresses: Box<[Ipv4Addr]> =
                    port.local_addresses.iter().flat_map(|net| all_addresses(*net)).collect();
                let index = (!addresses.is_empty()).then_some(pools.len() as u16);
                pools.extend(index.map(|_| LocalPool { addresses }));
                index
            })
            .collect();
        let first = (!pools.is_empty()).then_some(0);
        let ports = self.ports.iter().zip(own).map(|(facts, own)| PortRules {
            station: facts.is_station.then_some(facts.mac),
            local_pool: own.or(first),
        });
        (ports.collect(), pools)
    }
}

/// The next hops that the rules give by hand.
pub fn static_next_hops(rules: &Rules) -> NextHops {
    rules
        .neighbours
        .iter()
        .map(|neighbour| {
            let port = PortIndex(neighbour.port as u16);
            (neighbour.address, NextHop { port, mac: neighbour.mac, is_on_link: true })
        })
        .collect()
}

/// What a service listens on, as the line matches it.
pub fn service_key(service: &checked::Service) -> ServiceKey {
    let protocol = match service.protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    ServiceKey { vip: service.vip, l4_port: service.l4_port, protocol }
}

fn build_service(service: &checked::Service, members: Vec<Member>) -> Result<Service, BuildError> {
    let scheduler = match service.scheduler {
        checked::Scheduler::Rr => Scheduler::RoundRobin,
        checked::Scheduler::Wrr => Scheduler::WeightedRoundRobin(WeightedRoundRobin::new(&members)),
        checked::Scheduler::Mh => {
            let identities: Vec<_> = service.backends.iter().map(|b| (b.address, b.l4_port)).collect();
            Scheduler::Maglev(MaglevTable::new(&members, &identities).map_err(|error| {
                let dataplane::rules::scheduler::MaglevError::TooManyMembers { count, count_max } = error;
                BuildError::MaglevMembers { count, count_max }
            })?)
        }
    };
    let mode = match service.mode {
        Mode::Dr => dataplane::rules::Mode::Dr,
        Mode::Fullnat => dataplane::rules::Mode::Fullnat,
    };
    Ok(Service { mode, scheduler, members: members.into() })
}

/// Every address of a network, first and last included.
fn all_addresses(net: ipnet::Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (net.network().to_bits()..=net.broadcast().to_bits()).map(Ipv4Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::slots::NoWorkers;

    struct Busy {
        revision: u64,
        open: BTreeMap<usize, u64>,
    }

    impl Census for Busy {
        fn revision_in_force(&self) -> u64 {
            self.revision
        }

        fn open_connections(&self, backend_slot: usize) -> u64 {
            self.open.get(&backend_slot).copied().unwrap_or(0)
        }
    }

    fn rules(services: &[(&str, &[(&str, u16)])]) -> Rules {
        let mut text = String::from(
            "[[port]]\nname = \"p\"\ndevice = \"null\"\nlocal_addresses = [\"192.0.2.64/30\"]\n",
        );
        let addresses: BTreeSet<_> =
            services.iter().flat_map(|(_, backends)| backends.iter()).map(|(a, _)| a).collect();
        for address in addresses {
            let address = address.split(':').next().unwrap();
            text += &format!(
                "[[neighbour]]\naddress = \"{address}\"\nmac = \"02:00:00:00:00:01\"\nport = \"p\"\n"
            );
        }
        for (listen, backends) in services {
            // Named after what it listens on: a service that moves in the file stays the same service.
            let name = listen.replace([' ', ':'], "-");
            text += &format!("[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmode = \"fullnat\"\n");
            for (address, weight) in *backends {
                text += &format!("[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
            }
        }
        Rules::parse("test", &text).unwrap_or_else(|errors| panic!("{}", errors.plain()))
    }

    fn builder() -> Builder {
        Builder::new(vec![PortFacts { mac: MacAddress([2; 6]), is_station: true }], 1)
    }

    #[test]
    fn a_ruleset_has_all_that_the_rules_say() {
        let rules = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:8080", 3), ("10.0.0.2:8080", 1)])]);
        let built = builder().build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
        let set = &built.ruleset;
        assert_eq!((set.revision, set.backends.len(), set.local_pools[0].addresses.len()), (1, 2, 4));
        let found = set.matcher.find(service_key(&rules.services[0])).unwrap();
        assert_eq!(set.service(found).unwrap().members[0].weight, 3);
        let destination = [2, 0, 0, 0, 0, 1];
        assert_eq!(set.adjacencies[1].macs[..6], destination);
        assert_eq!(set.ports[0], PortRules { station: Some(MacAddress([2; 6])), local_pool: Some(0) });
        assert_eq!(built.publication().states.len(), 1);
    }

    #[test]
    fn unchanged_services_are_shared_and_keep_their_slots() {
        let mut builder = builder();
        let one = ("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1u16)] as &[_]);
        let two = ("tcp 203.0.113.2:80", &[("10.0.0.2:80", 1u16)] as &[_]);
        let before = builder.build(&rules(&[one, two]), &NextHops::new(), &NoWorkers).unwrap();
        let heavier = ("tcp 203.0.113.2:80", &[("10.0.0.2:80", 7u16)] as &[_]);
        let after = builder.build(&rules(&[heavier, one]), &NextHops::new(), &NoWorkers).unwrap();
        let service = |built: &Built, slot: usize| built.ruleset.services[slot].clone().unwrap();
        assert!(Arc::ptr_eq(&service(&before, 0), &service(&after, 0)));
        assert_eq!(service(&after, 1).members[0].weight, 7);
        assert!(after.fresh_services.is_empty() && after.fresh_backends.is_empty());
    }

    #[test]
    fn a_removed_backend_keeps_its_row_until_its_last_connection_is_gone() {
        let mut builder = builder();
        let with = |backends: &[(&str, u16)]| rules(&[("tcp 203.0.113.1:80", backends)]);
        builder
            .build(&with(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)]), &NextHops::new(), &NoWorkers)
            .unwrap();
        let mut census = Busy { revision: 1, open: [(0, 9)].into() };
        let without = with(&[("10.0.0.2:80", 1)]);
        let built =
            builder.build(&without, &static_next_hops(&with(&[("10.0.0.1:80", 1)])), &census).unwrap();
        assert_eq!(built.ruleset.backends[0].address, Ipv4Addr::new(10, 0, 0, 1));
        assert!(built.ruleset.adjacencies[0].resolved, "its connections go on");
        assert_eq!(built.ruleset.service(ServiceIndex(0)).unwrap().members.len(), 1);

        let other = with(&[("10.0.0.2:80", 1), ("10.0.0.3:80", 1)]);
        census.revision = 2;
        let built = builder.build(&other, &NextHops::new(), &census).unwrap();
        assert_eq!(built.fresh_backends, [BackendIndex(2)], "slot 0 has connections");

        census.open.clear();
        builder.build(&without, &NextHops::new(), &census).unwrap();
        let last = with(&[("10.0.0.2:80", 1), ("10.0.0.4:80", 1)]);
        let built = builder.build(&last, &NextHops::new(), &census).unwrap();
        assert_eq!(built.fresh_backends, [BackendIndex(0)], "slot 0 is free, slot 2 not yet known to be");
    }

    #[test]
    fn a_removed_service_no_longer_matches() {
        let mut builder = builder();
        let before = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]);
        builder.build(&before, &NextHops::new(), &NoWorkers).unwrap();
        let built = builder.build(&rules(&[]), &NextHops::new(), &NoWorkers).unwrap();
        assert_eq!(built.ruleset.matcher.find(service_key(&before.services[0])), None);
        assert!(built.ruleset.service(ServiceIndex(0)).is_none());
        assert!(!built.ruleset.vips.contains(Ipv4Addr::new(203, 0, 113, 1)));
    }

    #[test]
    fn a_removed_services_vip_stays_one_while_it_has_connections() {
        let mut builder = builder();
        let vip = Ipv4Addr::new(203, 0, 113, 1);
        builder
            .build(&rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]), &NextHops::new(), &NoWorkers)
            .unwrap();
        let mut census = Busy { revision: 1, open: [(0, 1)].into() };
        let built = builder.build(&rules(&[]), &NextHops::new(), &census).unwrap();
        assert!(built.ruleset.vips.contains(vip), "workers find the owner of its packets by it");
        census.open.clear();
        let built = builder.build(&rules(&[]), &NextHops::new(), &census).unwrap();
        assert!(!built.ruleset.vips.contains(vip));
    }

    #[test]
    fn a_direct_routing_backend_behind_a_router_cannot_be_reached() {
        let via_router = |address: &str| {
            let hop = NextHop { port: PortIndex(0), mac: MacAddress([4; 6]), is_on_link: false };
            NextHops::from([(address.parse().unwrap(), hop)])
        };
        let fullnat = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]);
        let mut direct = fullnat.clone();
        direct.services[0].mode = Mode::Dr;
        let row = |rules: &Rules| {
            builder().build(rules, &via_router("10.0.0.1"), &NoWorkers).unwrap().ruleset.adjacencies[0]
        };
        assert!(row(&fullnat).resolved);
        assert!(!row(&direct).resolved, "the router would send it back: it is still for the VIP");
    }
}
