//! Rulesets by hand: two ports, the clients' and the backends', and whatever services a test wants.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BackendIndex, PortIndex, ServiceIndex};
use dataplane::local_port::LocalPool;
use dataplane::rules::scheduler::{SchedulerKind, Seat};
use dataplane::rules::{
    Backend, Member, Mode, Policy, PortRules, Ruleset, Scheduler, Service, ServiceKey, ServiceState, Vip,
};
use dataplane::wire::ethernet::MacAddress;

/// The port towards the clients.
pub(crate) const FRONT: PortIndex = PortIndex(0);
/// The port towards the backends.
pub(crate) const BACK: PortIndex = PortIndex(1);
/// The MACs of the two ports.
pub(crate) const PORT_MACS: [MacAddress; 2] =
    [MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])];
/// The VIP of every service.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// FullNAT's local addresses.
pub(crate) const LOCAL_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 64), Ipv4Addr::new(10, 0, 0, 65)];
/// Protocol numbers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A service as a test describes it; backend `n` of all services together is 10.0.0.(11 + n).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceSpec {
    pub(crate) protocol: u8,
    pub(crate) l4_port: u16,
    pub(crate) mode: Mode,
    pub(crate) scheduler: &'static str,
    pub(crate) weights: &'static [u16],
}

/// TCP and UDP, DR and FullNAT: port 80 and 53 are DR, 8080 and 5353 are FullNAT.
pub(crate) const ONE_OF_EACH: [ServiceSpec; 4] = [
    ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1, 1] },
    ServiceSpec { protocol: UDP, l4_port: 53, mode: Mode::Dr, scheduler: "wrr", weights: &[2, 1] },
    ServiceSpec { protocol: TCP, l4_port: 8080, mode: Mode::Fullnat, scheduler: "wrr", weights: &[3, 1] },
    ServiceSpec { protocol: UDP, l4_port: 5353, mode: Mode::Fullnat, scheduler: "mh", weights: &[1, 1] },
];

/// The address of a backend.
pub(crate) fn backend_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 11)) + index as u32)
}

/// The MAC of a backend.
pub(crate) fn backend_mac(index: usize) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, index as u8])
}

/// The rules for `services`: everything resolved, all local addresses in one pool on [`BACK`].
pub(crate) fn ruleset(worker_count: u16, services: &[ServiceSpec]) -> Ruleset {
    let mut backends = Vec::new();
    let mut built = Vec::new();
    for spec in services {
        let first = backends.len();
        // A backend of FullNAT listens elsewhere; one of DR owns the VIP, port and all.
        let l4_port = if matches!(spec.mode, Mode::Fullnat | Mode::Nat) { 9_000 } else { spec.l4_port };
        backends.extend(
            (first..first + spec.weights.len()).map(|number| {
                Backend::new(backend_address(number), l4_port, ServiceIndex(built.len() as u16))
            }),
        );
        built.push(Some(Arc::new(service(spec, first, &backends[first..]))));
    }
    let adjacency = |number| Adjacency::resolved(backend_mac(number), PORT_MACS[1], BACK);
    let keys = services.iter().enumerate().map(|(index, spec)| {
        let key = ServiceKey { vip: VIP.into(), l4_port: spec.l4_port, protocol: spec.protocol };
        (key, ServiceIndex(index as u16))
    });
    Ruleset {
        revision: 1,
        fates_set_at: 0,
        has_server_ids: false,
        worker_count,
        rss: None,
        ports: Arc::new([
            PortRules { station: Some(PORT_MACS[0]), ..PortRules::default() },
            PortRules { station: Some(PORT_MACS[1]), local_pool: Some(0), ..PortRules::default() },
        ]),
        matcher: Arc::new(keys.collect()),
        services: built.into(),
        load_readers: (0..backends.len() as u32).map(BackendIndex).collect(),
        bounded: (0..backends.len() as u32).map(BackendIndex).collect(),
        adjacencies: (0..backends.len()).map(adjacency).collect(),
        backends: backends.into(),
        encapsulations: Arc::default(),
        decap: None,
        vips_are_plain: true,
        vips: Arc::new([(VIP, Vip::PLAIN)].into_iter().collect()),
        local_addresses: Arc::new(LOCAL_ADDRESSES.into_iter().collect()),
        local_pools: Arc::new([LocalPool { addresses: LOCAL_ADDRESSES.map(IpAddr::V4).into() }]),
        ..Ruleset::default()
    }
}

/// The rules with this policy for every service.
pub(crate) fn with_policy(rules: Ruleset, policy: &Policy) -> Ruleset {
    let change = |service: &Arc<Service>| Service { policy: policy.clone(), ..Service::clone(service) };
    let services =
        rules.services.iter().map(|service| service.as_ref().map(|service| Arc::new(change(service))));
    Ruleset { services: services.collect(), ..rules }
}

/// What a worker needs with the first ruleset that has these services.
pub(crate) fn states(service_count: usize) -> Vec<(ServiceIndex, Option<Box<ServiceState>>)> {
    (0..service_count).map(|index| (ServiceIndex(index as u16), Some(Box::default()))).collect()
}

fn service(spec: &ServiceSpec, first: usize, backends: &[Backend]) -> Service {
    let members: Box<[Member]> = (spec.weights.iter().enumerate())
        .map(|(number, &weight)| Member {
            backend: BackendIndex((first + number) as u32),
            weight: weight.into(),
        })
        .collect();
    let seat = |(backend, member): (&Backend, &Member)| Seat {
        address: backend.address,
        l4_port: backend.l4_port,
        weight_kept: member.weight,
    };
    let seats: Vec<_> = backends.iter().zip(&members).map(seat).collect();
    let kind = SchedulerKind::ALL.into_iter().find(|kind| kind.name() == spec.scheduler);
    let scheduler = Scheduler::new(kind.expect("a scheduler").into(), &members, &seats).unwrap();
    Service::new(spec.mode, scheduler, members)
}

/// `rules` with the service at `index` changed.
pub(crate) fn with_service(mut rules: Ruleset, index: usize, change: impl FnOnce(&mut Service)) -> Ruleset {
    let mut services = rules.services.to_vec();
    if let Some(service) = &mut services[index] {
        change(Arc::make_mut(service));
    }
    rules.services = services.into();
    rules
}

/// `rules` with the backend at `index` changed.
pub(crate) fn with_backend(mut rules: Ruleset, index: usize, change: impl FnOnce(&mut Backend)) -> Ruleset {
    let mut backends = rules.backends.to_vec();
    change(&mut backends[index]);
    rules.backends = backends.into();
    rules
}
