//! From checked rules to the ruleset that workers read.
//!
//! The builder lives as long as the process: it keeps every service and backend in its slot and shares with the
//! ruleset before whatever did not change. What it needs of the world (ports' MACs, next hops, what workers still
//! hold) comes in as plain data, so the same code serves `run`, `replay` and tests.

mod backends;
mod checks;
mod error;
mod inside;
mod routes;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::checks::Checks;
use dataplane::index::{BACKENDS_MAX, BackendIndex, PortIndex, SERVICES_MAX, ServiceIndex};
use dataplane::local_port::LocalPool;
use dataplane::path::PathReport;
use dataplane::persistence::Templates;
use dataplane::prefix::Prefix;
use dataplane::rules::{
    Backend, ClientPart, Encapsulation, Member, Policy, PortRules, Rss, Ruleset, Scheduler, Service,
    ServicePattern, ServiceState, ServiceTable, Vip, route::Routes,
};
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::Publication;

pub use backends::{BackendKey, Verdicts};
pub use checks::NoCheckAddress;
pub use error::BuildError;

use self::inside::Inside;
use super::checked::{self, Mode, Rules};
use super::drains::Drains;
use super::paths::Paths;
use super::ramps::Ramps;
use super::schedulers::Schedulers;
use super::slots::{Census, Slots};
use super::steering;
use crate::random;

/// What a port turned out to be when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Source MAC of frames sent by it.
    pub mac: MacAddress,
    /// Whether frames to other unicast MACs may reach it and must be dropped: true on a network, false for captures
    /// and rings.
    pub is_station: bool,
    /// Bytes of the longest IP packet it sends; 0 stands for any length.
    pub mtu: u16,
    /// Bytes in front of the IP header of its frames where it computes UDP checksums; see [`PortRules::udp_offload`].
    pub udp_offload: Option<u8>,
}

impl PortFacts {
    /// Bytes of the longest IP packet it sends.
    pub fn mtu_or_any(&self) -> u16 {
        if self.mtu == 0 { u16::MAX } else { self.mtu }
    }
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
pub type NextHops = BTreeMap<IpAddr, NextHop>;

/// A ruleset, and what goes to the workers with it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The rules, the same for every worker.
    pub ruleset: Arc<Ruleset>,
    /// Slots whose service is new: every worker gets a state of its own for each.
    pub fresh_services: Vec<ServiceIndex>,
    /// Slots whose service needs a state, and whether with a cache: the new ones, and those whose scheduler begins
    /// or ceases to have one.
    states: Vec<(ServiceIndex, bool)>,
    /// Slots whose backend is new: counters go on from the tenant before.
    pub fresh_backends: Vec<BackendIndex>,
    /// Clients that each worker gets room for, with the first rules that have persistent services.
    pub templates: Option<u32>,
    /// For the slow path: how backends that own the VIP are checked.
    pub checks: Arc<Checks>,
}

impl Built {
    /// What one worker is sent. `seed` gives where schedulers begin: random numbers, so that a fleet does not begin
    /// with the same backend, or 0 for the first.
    pub fn publication(&self, seed: impl Fn() -> u64) -> Publication {
        let state = |&(index, has_cache): &(ServiceIndex, bool)| {
            let locality = has_cache.then(Box::default);
            (index, Some(Box::new(ServiceState { locality, ..ServiceState::new(seed()) })))
        };
        Publication {
            ruleset: Arc::clone(&self.ruleset),
            states: self.states.iter().map(state).collect(),
            templates: self
                .templates
                .map(|capacity| Templates::new(capacity as usize, [random::word(), random::word()])),
        }
    }
}

/// Builds one ruleset after the other.
#[derive(Clone, Debug)]
pub struct Builder {
    ports: Vec<PortFacts>,
    worker_count: u16,
    rss: Option<Arc<Rss>>,
    services: Slots<ServicePattern>,
    backends: Slots<BackendKey>,
    /// As typed, to know an unchanged service again, and what was said of a removed one; by slot.
    sources: BTreeMap<usize, Arc<checked::Service>>,
    /// By slot; of retired ones as they were last.
    rows: Vec<Backend>,
    /// Towards each backend, by slot; of one whose service has no tunnel any more, as it was last: its connections go on.
    encapsulations: Vec<Option<Encapsulation>>,
    /// What checks say.
    verdicts: Arc<Verdicts>,
    ramps: Ramps,
    drains: Drains,
    paths: Paths,
    schedulers: Schedulers,
    /// What decides who owns connections to each VIP and network of VIPs.
    vips: BTreeMap<Prefix, Vip>,
    /// Hosts whose packets the line changes on their way to anywhere.
    inside: Vec<Inside>,
    /// Whether workers have room for clients.
    has_templates: bool,
    last: Arc<Ruleset>,
    /// As sent with it.
    last_checks: Arc<Checks>,
}

impl Builder {
    /// A builder for ports in the order of the rules, shared by `worker_count` workers.
    pub fn new(ports: Vec<PortFacts>, worker_count: u16) -> Self {
        Self {
            ports,
            worker_count,
            rss: None,
            services: Slots::new(SERVICES_MAX),
            backends: Slots::new(BACKENDS_MAX),
            sources: BTreeMap::new(),
            rows: Vec::new(),
            encapsulations: Vec::new(),
            verdicts: Arc::default(),
            ramps: Ramps::default(),
            drains: Drains::default(),
            paths: Paths::default(),
            schedulers: Schedulers::default(),
            vips: BTreeMap::new(),
            inside: Vec::new(),
            has_templates: false,
            last: Arc::default(),
            last_checks: Arc::default(),
        }
    }

    /// The same, where ports with RSS decide which worker owns a flow.
    pub fn with_rss(self, rss: Option<Arc<Rss>>) -> Self {
        Self { rss, ..self }
    }

    /// Tells the time, counted from any moment, by which weights of slow starters rise, drains end and what routers said of
    /// ways is forgotten with the next ruleset.
    pub fn advance_to(&mut self, now: Duration) {
        self.ramps.advance_to(now);
        self.drains.advance_to(now);
        self.paths.advance_to(now);
    }

    /// Whether the same rules make another ruleset at `now`, because weights have risen, a drain has ended, or a way may have
    /// become wider.
    pub fn is_due(&self, now: Duration) -> bool {
        self.ramps.is_due(now) || self.drains.is_due(now) || self.paths.is_due(now)
    }

    /// Takes up what a worker reports at `now` of the way through a tunnel; whether the same rules then make another
    /// ruleset.
    pub fn hear(&mut self, report: PathReport, now: Duration) -> bool {
        self.paths.hear(report, now)
    }

    /// Bytes of the longest packet, outer header included, on the way of tunnels to `destination`, where a router has said so.
    pub fn path_mtu(&self, destination: &IpAddr) -> Option<u16> {
        self.paths.mtu(destination)
    }

    /// The weight that workers have of the backend in `slot`, while it starts slowly.
    pub fn rising_weight(&self, slot: usize) -> Option<f64> {
        self.ramps.weight(slot)
    }

    /// The slots of services and who has them.
    pub fn services(&self) -> &Slots<ServicePattern> {
        &self.services
    }

    /// The slots of backends and who has them.
    pub fn backends(&self) -> &Slots<BackendKey> {
        &self.backends
    }

    /// The VIPs and networks of VIPs of a service: in the rules, or those it had when it left them.
    pub fn vips(&self, service: &ServicePattern) -> impl Iterator<Item = Prefix> {
        let source = self.services.find(service).and_then(|slot| self.sources.get(&slot));
        source.into_iter().flat_map(|service| service.vips())
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
        let mut built = Built {
            ruleset: Arc::default(),
            fresh_services: Vec::new(),
            states: Vec::new(),
            fresh_backends: Vec::new(),
            templates: self.first_templates(rules),
            checks: Arc::default(),
        };
        let mut services = self.last.services.to_vec();
        for (slot, service) in services.iter_mut().enumerate() {
            if !self.services.is_live(slot) {
                *service = None;
            }
        }
        // Workers know a removed service through the flows of its backends only. Its VIP stays one until the last is
        // gone: by it workers find the owner of a packet.
        let open = self.open_services(census);
        let mut matcher = Vec::new();
        let own = rules.own_addresses();
        for service in &rules.services {
            let Some(key) = service.key() else { continue };
            let given = self
                .services
                .give(key, |_, key, retired_at| retired_at <= in_force && !open.contains(key))
                .map_err(BuildError::Services)?;
            let index = ServiceIndex(given.slot as u16);
            if given.fresh {
                built.fresh_services.push(index);
                self.sources.remove(&given.slot);
            }
            let has_cache = service.scheduler.kind.has_cache();
            if self.schedulers.needs_other_cache(index, has_cache) || given.fresh {
                built.states.push((index, has_cache));
            }
            matcher.extend(service.listens.iter().map(|listen| (listen.pattern(), index)));
            let mut members = self.members(service, key, in_force, census, &mut built.fresh_backends)?;
            backends::set_aside(&mut members, service, |address| {
                own.contains(address)
                    || next_hops.get(address).is_some_and(|hop| hop.is_on_link || service.mode != Mode::Dr)
            });
            let sorry = self.sorry(service, key, in_force, census, &mut built.fresh_backends)?;
            services.resize(services.len().max(given.slot + 1), None);
            let before = services[given.slot].take().filter(|_| !given.fresh);
            services[given.slot] = Some(self.renewed(given.slot, service, members, sorry, before)?);
        }
        self.complete_rows(rules);
        self.ramps.retain(|slot| self.backends.is_live(slot));
        let open_vips = open.iter().flat_map(|key| self.vips(key)).collect();
        self.vips = steering::next(&self.vips, &self.wanted_parts(rules), &open_vips)
            .map_err(BuildError::Steering)?;
        self.inside = self.next_inside(&open)?;
        self.complete_encapsulations(rules, next_hops);
        built.checks = self.checks(rules, next_hops);
        let ruleset = self.ruleset(revision, rules, services, matcher, next_hops);
        built.ruleset = Arc::new(Ruleset { takes_echo: self.takes_echo(&open), ..ruleset });
        self.last = Arc::clone(&built.ruleset);
        self.last_checks = Arc::clone(&built.checks);
        Ok(built)
    }

    /// The service in `slot` as workers shall have it: the one they have where nothing differs.
    fn renewed(
        &mut self,
        slot: usize,
        service: &Arc<checked::Service>,
        mut members: Vec<Member>,
        sorry: Option<BackendIndex>,
        before: Option<Arc<Service>>,
    ) -> Result<Arc<Service>, BuildError> {
        self.ramps.apply(&mut members, service.slow_start, before.as_deref());
        let is_as_before = self.sources.get(&slot) == Some(service);
        if !is_as_before {
            self.sources.insert(slot, Arc::clone(service));
        }
        match before {
            Some(before) if is_as_before && *before.members == *members => Ok(before),
            before => {
                let scheduler = self.schedulers.build(service, &members).map_err(BuildError::Table)?;
                let routes = routes::build(service, &members);
                Ok(Arc::new(build_service(service, scheduler, members, (sorry, routes), before.as_deref())))
            }
        }
    }

    /// Services with open connections, those that left the rules included.
    fn open_services(&self, census: &impl Census) -> HashSet<ServicePattern> {
        let open = (0..self.backends.len()).filter(|slot| census.open_connections(*slot) > 0);
        open.filter_map(|slot| self.backends.key(slot).map(|key| key.service)).collect()
    }

    /// Whether the next build would end the search for connections from before a change of persistence.
    pub fn can_settle_vips(&self, census: &impl Census) -> bool {
        if self.vips.values().all(|vip| vip.part_before.is_none()) {
            return false;
        }
        let open = self.open_services(census);
        steering::can_settle(&self.vips, &open.iter().flat_map(|key| self.vips(key)).collect())
    }

    /// Room for clients: a quarter as many as flows, in each worker.
    fn first_templates(&mut self, rules: &Rules) -> Option<u32> {
        let is_first =
            !self.has_templates && rules.services.iter().any(|service| service.policy.persistence.is_some());
        self.has_templates |= is_first;
        is_first.then_some((rules.dataplane.max_flows / 4).max(1_024))
    }

    /// Retires the slots of what the rules no longer have.
    fn retire(&mut self, rules: &Rules, revision: u64) {
        let keys = rules.services.iter().filter_map(|service| Some((service.key()?, service)));
        let services: BTreeSet<ServicePattern> = keys.clone().map(|(key, _)| key).collect();
        let backends: BTreeSet<_> = keys
            .flat_map(|(key, service)| {
                let backends = service.backends.iter().map(|backend| backend.endpoint);
                backends.chain(service.sorry).map(move |endpoint| (key, endpoint))
            })
            .collect();
        self.services.retire(revision, |key| services.contains(key));
        self.backends.retire(revision, |key| backends.contains(&(key.service, key.endpoint())));
    }

    fn ruleset(
        &self,
        revision: u64,
        rules: &Rules,
        services: Vec<Option<Arc<Service>>>,
        matcher: Vec<(ServicePattern, ServiceIndex)>,
        next_hops: &NextHops,
    ) -> Ruleset {
        let (ports, local_pools) = self.ports(rules);
        let adjacencies = (0..self.backends.len()).map(|slot| self.adjacency(slot, next_hops)).collect();
        let local_addresses = || local_pools.iter().flat_map(|pool| pool.addresses.iter().copied());
        let (snat, exempt) = self.snat(rules, local_addresses());
        Ruleset {
            inside: Arc::new(self.inside.iter().map(|inside| (inside.hosts, inside.part)).collect()),
            snat: Arc::new(snat),
            exempt: Arc::new(exempt),
            revision,
            fates_set_at: self.fates_set_at(revision, &self.rows),
            worker_count: self.worker_count,
            rss: self.rss.clone(),
            ports: ports.into(),
            matcher: Arc::new(matcher.into_iter().collect::<ServiceTable>()),
            has_server_ids: services
                .iter()
                .flatten()
                .any(|service| service.routes.as_deref().is_some_and(Routes::has_server_ids)),
            services: services.into(),
            takes_echo: false,
            backends: self.rows.as_slice().into(),
            adjacencies,
            tunnel_ends: self.tunnel_ends(),
            encapsulations: self.encapsulations(),
            decap: rules.decap.as_ref().map(|decap| Arc::new(tunnels::decap(decap))),
            load_readers: self.load_readers(rules),
            bounded: self.bounded(rules),
            full: Arc::clone(&self.last.full),
            // Answers of NAT do not come by RSS to whoever has the connection.
            vips_are_plain: self.inside.is_empty() && self.vips.values().all(|vip| *vip == Vip::PLAIN),
            vips: Arc::new(self.vips.iter().map(|(vip, how)| (*vip, *how)).collect()),
            local_addresses: Arc::new(local_addresses().collect()),
            local_pools: local_pools.into(),
        }
    }

    /// The members of services whose scheduler asks for loads; a worker alone knows its own.
    fn load_readers(&self, rules: &Rules) -> Arc<[BackendIndex]> {
        let reads =
            |service: &&Arc<checked::Service>| self.worker_count > 1 && service.scheduler.kind.reads_loads();
        self.members_of(rules.services.iter().filter(reads))
    }

    /// The members of services that have thresholds.
    fn bounded(&self, rules: &Rules) -> Arc<[BackendIndex]> {
        self.members_of(rules.services.iter().filter(|service| has_thresholds(service)))
    }

    /// The slots of the backends of `services`.
    fn members_of<'s>(
        &self,
        services: impl Iterator<Item = &'s Arc<checked::Service>>,
    ) -> Arc<[BackendIndex]> {
        let keys = services.filter_map(|service| Some((service.key()?, service)));
        let members = keys.flat_map(|(key, service)| {
            service.backends.iter().map(move |backend| BackendKey::new(key, backend.endpoint))
        });
        let slots = members.filter_map(|key| self.backends.find(&key));
        slots.map(|slot| BackendIndex(slot as u32)).collect()
    }

    /// What the services of the rules ask of their VIPs.
    fn wanted_parts(&self, rules: &Rules) -> BTreeMap<Prefix, ClientPart> {
        let wanted_part = |service: &checked::Service, is_ipv6| {
            let by_persistence = service.policy.persistence.map(|persistence| part_of(persistence, is_ipv6));
            by_persistence.unwrap_or(match (service.mode, &self.rss) {
                (Mode::Nat, Some(_)) => ClientPart::EndpointAlone,
                _ => ClientPart::Endpoint,
            })
        };
        // A service of both families has clients of both, who never share a template.
        let wanted = rules.services.iter().flat_map(|service| {
            [false, true].map(|is_ipv6| (vips_of(service, is_ipv6).collect(), wanted_part(service, is_ipv6)))
        });
        let nat = rules.services.iter().filter(|service| service.mode == Mode::Nat);
        let of_nat = [false, true].map(|is_ipv6| {
            // An answer tells its backend and its client, and not the VIP: so all of them ask the same.
            let part = nat.clone().map(|service| wanted_part(service, is_ipv6)).max();
            let vips = nat.clone().flat_map(|service| vips_of(service, is_ipv6)).collect();
            (vips, part.unwrap_or(ClientPart::Endpoint))
        });
        steering::wanted(&wanted.chain(of_nat).collect::<Vec<_>>())
    }

    /// What the line needs to know of each port. A port without local addresses of a family uses the first pool
    /// there is, for backends that route answers to it.
    fn ports(&self, rules: &Rules) -> (Vec<PortRules>, Vec<LocalPool>) {
        let mut pools = Vec::new();
        let [v4, v6] = [false, true].map(|is_ipv6| {
            let own: Vec<_> = rules.ports.iter().map(|port| add_pool(port, is_ipv6, &mut pools)).collect();
            let first = own.iter().copied().find_map(|index| index);
            own.into_iter().map(|own| own.or(first)).collect::<Vec<_>>()
        });
        let ports =
            self.ports.iter().zip(v4.into_iter().zip(v6)).map(|(facts, (local_pool, local_pool6))| {
                let station = facts.is_station.then_some(facts.mac);
                PortRules { station, mtu: facts.mtu, udp_offload: facts.udp_offload, local_pool, local_pool6 }
            });
        (ports.collect(), pools)
    }
}

/// The index of the pool of a port's local addresses of one family, if it has any.
fn add_pool(port: &checked::Port, is_ipv6: bool, pools: &mut Vec<LocalPool>) -> Option<u16> {
    let nets = port.local_addresses.iter().filter(|net| net.addr().is_ipv6() == is_ipv6);
    let addresses: Box<[IpAddr]> =
        nets.flat_map(|net| Prefix::new(net.network(), net.prefix_len()).addresses()).collect();
    let index = (!addresses.is_empty()).then_some(pools.len() as u16);
    pools.extend(index.map(|_| LocalPool { addresses }));
    index
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

fn build_service(
    service: &checked::Service,
    scheduler: Scheduler,
    members: Vec<Member>,
    (sorry, routes): (Option<BackendIndex>, Option<Box<Routes>>),
    before: Option<&Service>,
) -> Service {
    let mode = match service.mode {
        Mode::Dr => dataplane::rules::Mode::Dr,
        Mode::Tunnel => dataplane::rules::Mode::Tunnel,
        Mode::Fullnat => dataplane::rules::Mode::Fullnat,
        Mode::Nat => dataplane::rules::Mode::Nat,
        Mode::Snat => dataplane::rules::Mode::Snat,
    };
    let rate = before.map(|before| Arc::clone(&before.rate)).unwrap_or_default();
    let has_thresholds = has_thresholds(service);
    let policy = Policy { sorry, ..service.policy.clone() };
    Service { mode, scheduler, members: members.into(), has_thresholds, policy, rate, routes }
}

fn has_thresholds(service: &checked::Service) -> bool {
    service.backends.iter().any(|backend| backend.thresholds.is_some())
}

fn vips_of(service: &checked::Service, is_ipv6: bool) -> impl Iterator<Item = Prefix> {
    service.vips().filter(move |vip| vip.network().is_ipv6() == is_ipv6)
}

/// The part of a client that a persistent service asks for.
fn part_of(persistence: checked::Persistence, is_ipv6: bool) -> ClientPart {
    let (bits, prefix_len) =
        if is_ipv6 { (128u8, persistence.prefix_len6) } else { (32, persistence.prefix_len) };
    ClientPart::Network { host_bits: bits.saturating_sub(prefix_len) }
}
