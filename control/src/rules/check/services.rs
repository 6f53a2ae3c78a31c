//! `[[service]]` and `[[service.backend]]`: each by itself, then against the ports, the neighbours and the
//! others.

use std::net::Ipv4Addr;
use std::ops::Range;

use dataplane::index::{BACKENDS_MAX, SERVICES_MAX};
use toml::Spanned;

use super::neighbours::Neighbours;
use super::ports::Ports;
use super::{no_duplicates, no_more_than, or_default, required};
use crate::rules::checked::{Announce, Backend, Mode, Protocol, Scheduler, Service};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{BackendTable, ServiceTable};
use crate::rules::values::{choice, endpoint, listen, name, whole};

const NAME_BYTES_MAX: usize = 32;

/// A service of which some values may have been wrong.
pub(super) struct ServiceDraft {
    name: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<(Protocol, Ipv4Addr, u16)>>,
    mode: Option<Spanned<Mode>>,
    scheduler: Option<Scheduler>,
    announce: Option<Announce>,
    /// Where `announce` is written, when it is.
    announce_span: Option<Range<usize>>,
    pub(super) backends: Vec<BackendDraft>,
}

/// A backend of which some values may have been wrong.
pub(super) struct BackendDraft {
    /// The l4 port is the service's where none was written, and unknown where that is.
    pub(super) endpoint: Option<Spanned<(Ipv4Addr, Option<u16>)>>,
    weight: Option<u16>,
}

impl ServiceDraft {
    pub(super) fn finish(self) -> Option<Service> {
        let (protocol, vip, l4_port) = self.listen?.into_inner();
        Some(Service {
            name: self.name?.into_inner(),
            protocol,
            vip,
            l4_port,
            mode: self.mode?.into_inner(),
            scheduler: self.scheduler?,
            announce: self.announce?,
            backends: self.backends.into_iter().map(BackendDraft::finish).collect::<Option<_>>()?,
        })
    }
}

impl BackendDraft {
    fn finish(self) -> Option<Backend> {
        let (address, l4_port) = self.endpoint?.into_inner();
        Some(Backend { address, l4_port: l4_port?, weight: self.weight? })
    }
}

pub(super) fn check(
    field: &Field<Vec<ServiceTable>>,
    ports: &Ports,
    neighbours: &Neighbours,
    problems: &mut Problems,
) -> Vec<ServiceDraft> {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let services: Vec<ServiceDraft> = tables.iter().map(|table| service(table, problems)).collect();
    let names = services.iter().filter_map(|service| service.name.as_ref());
    no_duplicates(names.map(|name| (name.get_ref(), name.span())), problems, |name| {
        Problem::new(format!("two services are named {name:?}")).help("a service's name is its own")
    });
    let listens = services.iter().filter_map(|service| service.listen.as_ref());
    no_duplicates(
        listens.map(|listen| (*listen.get_ref(), listen.span())),
        problems,
        |(protocol, vip, l4_port)| {
            Problem::new(format!("two services listen on {protocol} {vip}:{l4_port}"))
                .help("put the backends of both under one [[service]]")
        },
    );
    no_more_than(
        SERVICES_MAX,
        "services",
        services.iter().filter_map(|service| service.name.as_ref()),
        problems,
    );
    let backends = services.iter().flat_map(|service| &service.backends);
    no_more_than(
        BACKENDS_MAX,
        "backends",
        backends.filter_map(|backend| backend.endpoint.as_ref()),
        problems,
    );
    for service in &services {
        local_addresses_for_fullnat(service, ports, problems);
        twin_for_arp(service, ports, problems);
        next_hops(service, ports, neighbours, problems);
    }
    one_announcement_per_vip(&services, problems);
    services
}

fn service(table: &ServiceTable, problems: &mut Problems) -> ServiceDraft {
    let modes = [("dr", Mode::Dr), ("fullnat", Mode::Fullnat)];
    let schedulers = [("rr", Scheduler::Rr), ("wrr", Scheduler::Wrr), ("mh", Scheduler::Mh)];
    let announces = [("arp", Announce::Arp), ("external", Announce::External), ("none", Announce::None)];
    let place = &table.place;
    let name = required(&table.name, (place, "name"), problems, |text| name(text, NAME_BYTES_MAX));
    let listen = required(&table.listen, (place, "listen"), problems, |text| listen(text));
    let mode = required(&table.mode, (place, "mode"), problems, |text| choice("a mode", text, &modes));
    let l4_port = listen.as_ref().map(|listen| listen.get_ref().2);
    ServiceDraft {
        scheduler: or_default(&table.scheduler, Scheduler::Wrr, problems, |text| {
            choice("a scheduler", text, &schedulers)
        }),
        announce: or_default(&table.announce, Announce::Arp, problems, |text| {
            choice("an announcement", text, &announces)
        }),
        announce_span: table.announce.value().map(Spanned::span),
        backends: backends(&table.backends, mode.as_ref().map(|mode| *mode.get_ref()), l4_port, problems),
        name,
        listen,
        mode,
    }
}

fn backends(
    field: &Field<Vec<BackendTable>>,
    mode: Option<Mode>,
    l4_port: Option<u16>,
    problems: &mut Problems,
) -> Vec<BackendDraft> {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let backends: Vec<_> = tables.iter().map(|table| backend(table, mode, l4_port, problems)).collect();
    let endpoints = backends.iter().filter_map(|backend| backend.endpoint.as_ref());
    no_duplicates(
        endpoints.map(|endpoint| (*endpoint.get_ref(), endpoint.span())),
        problems,
        |(address, l4_port)| {
            let l4_port = l4_port.map_or(String::new(), |l4_port| format!(":{l4_port}"));
            Problem::new(format!("the service has the backend {address}{l4_port} twice"))
                .help("raise its weight instead")
        },
    );
    backends
}

fn backend(
    table: &BackendTable,
    mode: Option<Mode>,
    l4_port: Option<u16>,
    problems: &mut Problems,
) -> BackendDraft {
    let endpoint = required(&table.address, (&table.place, "address"), problems, |text| {
        let (address, own) = endpoint(text)?;
        match (mode, own, l4_port) {
            (Some(Mode::Dr), Some(own), Some(service)) if own != service => Err(Problem::new(format!(
                "backend port {own} differs from the service's {service}"
            ))
            .label(format!("`{address}` or `{address}:{service}`"))
            .help("mode \"dr\" leaves the packet as it is, its l4 port too; mode \"fullnat\" can change it")),
            _ => Ok((address, own.or(l4_port))),
        }
    });
    let weight =
        or_default(&table.weight, 1, problems, |&weight| whole("a weight", weight, 0, i128::from(u16::MAX)));
    BackendDraft { endpoint, weight }
}

fn local_addresses_for_fullnat(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    let Some(mode) = &service.mode else { return };
    if *mode.get_ref() == Mode::Fullnat && ports.complete && !ports.any_local_addresses {
        problems.push(
            Problem::new("mode \"fullnat\", and no port has `local_addresses`")
                .at(mode.span())
                .label("connects to backends from a local address")
                .help("give the port towards the backends some: `local_addresses = [\"10.0.0.64/28\"]`"),
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
    for endpoint in service.backends.iter().filter_map(|backend| backend.endpoint.as_ref()) {
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

/// A VIP is on the twins or it is not, whichever of its services asks.
fn one_announcement_per_vip(services: &[ServiceDraft], problems: &mut Problems) {
    let mut first: Vec<(Ipv4Addr, Announce, Range<usize>)> = Vec::new();
    for service in services {
        let (Some(listen), Some(announce)) = (&service.listen, service.announce) else { continue };
        let vip = listen.get_ref().1;
        let span = service.announce_span.clone().unwrap_or_else(|| listen.span());
        match first.iter().find(|(known, ..)| *known == vip) {
            Some((_, other, earlier)) if *other != announce => problems.push(
                Problem::new(format!("VIP {vip} is announced in two ways: \"{announce}\" and \"{other}\""))
                    .at(span)
                    .context(earlier.clone(), format!("\"{other}\" here"))
                    .help("all services of one VIP have the same `announce` (the default is \"arp\")"),
            ),
            Some(_) => {}
            None => first.push((vip, announce, span)),
        }
    }
}
