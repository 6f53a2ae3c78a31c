//! `[[service]]`: each by itself, then against the ports, the neighbours and the others. What is said about its
//! connections is read in `policy`, and who takes them in `backends`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::index::{BACKENDS_MAX, SERVICES_MAX};
use toml::Spanned;

use super::backends::{self, BackendDraft, endpoint_of};
use super::health;
use super::listens::{self, Listens};
use super::neighbours::Neighbours;
use super::policy;
use super::ports::Ports;
use super::routes;
use super::schedulers;
use super::tunnels;
use super::way;
use super::{no_duplicates, no_more_than, or_default, required};
use crate::rules::checked::{
    Announce, Endpoint, Health, Mode, Policy, Routes, SchedulerSettings, Service, Tunnel,
};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::ServiceTable;
use crate::rules::values::{choice, name};

const NAME_BYTES_MAX: usize = 32;

/// What is known of a service while its parts are read.
pub(super) struct Context<'a> {
    pub(super) listens: &'a Listens,
    pub(super) mode: Option<Mode>,
    pub(super) scheduler: Option<SchedulerSettings>,
}

/// A service of which some values may have been wrong.
pub(super) struct ServiceDraft {
    name: Option<Spanned<String>>,
    pub(super) listens: Listens,
    pub(super) mode: Option<Spanned<Mode>>,
    /// `Some(None)` where its mode has no tunnel.
    pub(super) tunnel: Option<Option<Tunnel>>,
    scheduler: Option<SchedulerSettings>,
    pub(super) announce: Option<Announce>,
    /// Where `announce` is written, when it is.
    pub(super) announce_span: Option<Range<usize>>,
    pub(super) policy: Option<Policy>,
    slow_start: Option<Option<Duration>>,
    drain_timeout: Option<Option<Duration>>,
    /// Whether there is no sorry server, or one that could be read.
    sorry_is_known: bool,
    health: Option<Option<Arc<Health>>>,
    pub(super) sorry: Option<Spanned<(IpAddr, Option<u16>)>>,
    routes: Option<Routes>,
    pub(super) backends: Vec<BackendDraft>,
}

impl ServiceDraft {
    pub(super) fn finish(self) -> Option<Service> {
        let sorry = match (self.sorry_is_known, self.sorry) {
            (true, Some(sorry)) => Some(endpoint_of(sorry)?),
            (known, _) => known.then_some(None)?,
        };
        Some(Service {
            name: self.name?.into_inner(),
            listens: self.listens.list.into_iter().map(Spanned::into_inner).collect(),
            from: self.listens.from.into_iter().map(Spanned::into_inner).collect(),
            mode: self.mode?.into_inner(),
            tunnel: self.tunnel?,
            scheduler: SchedulerSettings {
                second_chance: self.tunnel?.is_some_and(|tunnel| tunnel.second_chance),
                ..self.scheduler?
            },
            announce: self.announce?,
            policy: self.policy?,
            health: self.health?,
            sorry,
            slow_start: self.slow_start?,
            drain_timeout: self.drain_timeout?,
            routes: self.routes?,
            backends: self.backends.into_iter().map(BackendDraft::finish).collect::<Option<_>>()?,
        })
    }

    /// Everything its packets are sent to.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Spanned<(IpAddr, Option<u16>)>> {
        self.backends.iter().filter_map(|backend| backend.endpoint.as_ref()).chain(&self.sorry)
    }
}

pub(super) fn check(
    field: &Field<Vec<ServiceTable>>,
    (ports, neighbours): (&Ports, &Neighbours),
    directory: &Path,
    problems: &mut Problems,
) -> Vec<ServiceDraft> {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let services: Vec<ServiceDraft> =
        tables.iter().map(|table| service(table, directory, problems)).collect();
    let names = || services.iter().filter_map(|service| service.name.as_ref());
    no_duplicates(names().map(|name| (name.get_ref(), name.span())), problems, |name| {
        Problem::new(format!("two services are named {name:?}")).help("a service's name is its own")
    });
    listens::check(&services, ports, problems);
    no_more_than(SERVICES_MAX, "services", names(), problems);
    let endpoints = services.iter().flat_map(ServiceDraft::endpoints);
    no_more_than(BACKENDS_MAX, "backends", endpoints, problems);
    for service in &services {
        local_addresses_to_call_from(service, ports, problems);
        twin_for_arp(service, ports, problems);
        next_hops(service, ports, neighbours, problems);
        local_backends(service, ports, problems);
        tunnels::sources(service, ports, problems);
        way::uoa_needs_ipv4(service, problems);
    }
    services
}

fn service(table: &ServiceTable, directory: &Path, problems: &mut Problems) -> ServiceDraft {
    let modes = [
        ("dr", Mode::Dr),
        ("tunnel", Mode::Tunnel),
        ("nat", Mode::Nat),
        ("fullnat", Mode::Fullnat),
        ("snat", Mode::Snat),
    ];
    let announces = [("arp", Announce::Arp), ("external", Announce::External), ("none", Announce::None)];
    let place = &table.place;
    let name = required(&table.name, (place, "name"), problems, |text| name(text, NAME_BYTES_MAX));
    let mode = required(&table.mode, (place, "mode"), problems, |text| choice("a mode", text, &modes));
    let listens = listens::read(table, mode.as_ref(), problems);
    let scheduler = schedulers::check(table, problems);
    let context = Context { listens: &listens, mode: mode.as_ref().map(|mode| *mode.get_ref()), scheduler };
    let backends = backends::check(&table.backends, &context, problems);
    let sorry = backends::sorry(&table.sorry, &context, &backends, problems);
    tunnels::second_choices(table, scheduler, &backends, problems);
    ServiceDraft {
        announce: or_default(&table.announce, Announce::Arp, problems, |text| {
            choice("an announcement", text, &announces)
        }),
        announce_span: table.announce.value().map(Spanned::span),
        policy: policy::check(table, &context, problems),
        slow_start: policy::slow_start(table, &context, problems),
        drain_timeout: policy::drain_timeout(table, problems),
        routes: routes::check(table, &context, &backends, directory, problems),
        sorry_is_known: matches!(table.sorry, Field::Absent) || sorry.is_some(),
        sorry,
        health: health::check(table, &context, &backends, directory, problems),
        tunnel: tunnels::check(table, mode.as_ref(), problems),
        backends,
        name,
        scheduler,
        mode,
        listens,
    }
}

/// Of each family that its backends have; for SNAT, that its hosts have.
fn local_addresses_to_call_from(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    let Some(mode) = service.mode.as_ref().filter(|_| ports.complete) else { return };
    let mut families: BTreeSet<_> = match mode.get_ref() {
        Mode::Fullnat => service.endpoints().map(|endpoint| endpoint.get_ref().0.is_ipv6()).collect(),
        Mode::Snat => service.listens.from.iter().map(|from| from.get_ref().network().is_ipv6()).collect(),
        Mode::Dr | Mode::Tunnel | Mode::Nat => return,
    };
    if families.is_empty() && !ports.may_have_local_addresses(true) {
        families.insert(false);
    }
    for is_ipv6 in families.into_iter().filter(|is_ipv6| !ports.may_have_local_addresses(*is_ipv6)) {
        let (family, example) =
            if is_ipv6 { ("IPv6 ", "2001:db8:0:1::40/122") } else { ("", "10.0.0.64/28") };
        problems.push(
            Problem::new(format!("mode \"{}\", and no port has {family}`local_addresses`", mode.get_ref()))
                .at(mode.span())
                .label("connects to backends from a local address")
                .help(format!(
                    "give the port towards the backends some: `local_addresses = [\"{example}\"]`"
                )),
        );
    }
}

/// Only where it was asked for: by default there is just nothing to announce.
fn twin_for_arp(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    let Some(span) = &service.announce_span else { return };
    if service.announce == Some(Announce::Arp) && ports.complete && !ports.any_kernel {
        problems.push(
            Problem::new("announce = \"arp\", and no port has a kernel twin")
                .at(span.clone())
                .label("the twin's kernel answers ARP")
                .help("set `kernel = true` on a port, or `announce = \"external\"` or \"none\" here"),
        );
    }
}

fn next_hops(service: &ServiceDraft, ports: &Ports, neighbours: &Neighbours, problems: &mut Problems) {
    if ports.any_kernel || !ports.complete || !neighbours.complete {
        return;
    }
    for endpoint in service.endpoints() {
        let address = endpoint.get_ref().0;
        if !neighbours.contains(address) {
            problems.push(
                Problem::new(format!("backend {address} has no next hop"))
                    .at(endpoint.span())
                    .label("no [[neighbour]] has this address, and no port has a kernel twin to ask")
                    .help(format!(
                        "add [[neighbour]] address = \"{address}\" with its `mac` and `port`, \
                         or set `kernel = true` on a port"
                    )),
            );
        }
    }
}

/// What is for this host itself goes to the kernel as it came: by a VIP that the kernel has, at the l4 port that clients use.
fn local_backends(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    for endpoint in service.endpoints().filter(|endpoint| ports.has_address(endpoint.get_ref().0)) {
        let (address, l4_port) = *endpoint.get_ref();
        let kind = "packets for this host's own kernel are left as they are";
        if let (Some(own), Some(service)) = (l4_port, service.listens.l4_port())
            && own != service
        {
            problems.push(
                Problem::new(format!(
                    "backend {address} is this host, and its port {own} is not the service's"
                ))
                .at(endpoint.span())
                .label(format!("`{}` alone", Endpoint { address, l4_port: 0 }))
                .help(kind),
            );
        }
        if service.announce == Some(Announce::None) {
            let problem = Problem::new(format!("backend {address} is this host, and its kernel has no VIP"))
                .at(endpoint.span())
                .help(format!("{kind}: let `announce` be \"arp\" or \"external\""));
            problems.push(match &service.announce_span {
                Some(span) => problem.context(span.clone(), "nobody puts it on the twin"),
                None => problem,
            });
        }
    }
}
