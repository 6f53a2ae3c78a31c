//! Addresses against each other, across all tables: who has an address must be clear from the address alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;

use super::neighbours::Neighbours;
use super::no_duplicates;
use super::ports::Ports;
use super::services::ServiceDraft;
use crate::rules::error::{Problem, Problems};

/// An address in use, what as, and where the rules say so.
struct Use {
    address: Ipv4Addr,
    what: &'static str,
    span: Range<usize>,
}

impl Use {
    fn new<T>(value: &Spanned<T>, address: Ipv4Addr, what: &'static str) -> Self {
        Self { address, what, span: value.span() }
    }
}

pub(super) fn check(
    ports: &Ports,
    neighbours: &Neighbours,
    services: &[ServiceDraft],
    problems: &mut Problems,
) {
    let own = own_addresses(ports, problems);
    let listens = services.iter().filter_map(|service| service.listen.as_ref());
    let vips: Vec<Use> = listens.map(|listen| Use::new(listen, listen.get_ref().1, "a VIP")).collect();
    let backends: Vec<Use> = services
        .iter()
        .flat_map(|service| &service.backends)
        .filter_map(|backend| backend.endpoint.as_ref())
        .map(|endpoint| Use::new(endpoint, endpoint.get_ref().0, "a backend's address"))
        .collect();
    let next_hops = neighbours.list.iter().filter_map(|neighbour| neighbour.address.as_ref());
    let next_hops: Vec<Use> =
        next_hops.map(|hop| Use::new(hop, *hop.get_ref(), "a neighbour's address")).collect();
    let edges = network_edges(ports);

    backends_are_elsewhere(&backends, own.iter().chain(&vips), problems);
    let others: Vec<&Use> = [&own, &vips, &backends, &next_hops, &edges].into_iter().flatten().collect();
    local_addresses_are_their_own(ports, &others, problems);
}

fn own_addresses(ports: &Ports, problems: &mut Problems) -> Vec<Use> {
    let addresses = || ports.list.iter().flat_map(|port| &port.addresses);
    no_duplicates(addresses().map(|net| (net.get_ref().addr(), net.span())), problems, |address: &IpAddr| {
        Problem::new(format!("{address} is given twice")).help("an address belongs to one port")
    });
    own_networks(ports)
        .map(|(net, span)| Use { address: net.addr(), what: "a port's own address", span })
        .collect()
}

fn own_networks(ports: &Ports) -> impl Iterator<Item = (Ipv4Net, Range<usize>)> {
    ports.list.iter().flat_map(|port| &port.addresses).filter_map(|net| match net.get_ref() {
        IpNet::V4(v4) => Some((*v4, net.span())),
        IpNet::V6(_) => None,
    })
}

/// Addresses that hosts in the ports' networks take for broadcasts and do not answer (RFC 1122 section
/// 3.2.1.3; there are none in a /31, RFC 3021).
fn network_edges(ports: &Ports) -> Vec<Use> {
    let networks = own_networks(ports).filter(|(net, _)| net.prefix_len() < 31);
    let edges = networks.flat_map(|(net, span)| {
        [(net.network(), "a port's network address"), (net.broadcast(), "a port's broadcast address")]
            .map(|(address, what)| Use { address, what, span: span.clone() })
    });
    edges.collect()
}

/// A packet for a backend leaves by a port; one for an address of this director would come straight back.
fn backends_are_elsewhere<'a>(
    backends: &[Use],
    here: impl Iterator<Item = &'a Use>,
    problems: &mut Problems,
) {
    let here: HashMap<Ipv4Addr, &Use> = here.map(|used| (used.address, used)).collect();
    for backend in backends {
        if let Some(other) = here.get(&backend.address) {
            problems.push(
                Problem::new(format!("backend {} is also {}", backend.address, other.what))
                    .at(backend.span.clone())
                    .context(other.span.clone(), "this address")
                    .help("a backend is another host, with an address of its own"),
            );
        }
    }
}

/// FullNAT owns every l4 port of a local address: nobody else can use it.
fn local_addresses_are_their_own(ports: &Ports, others: &[&Use], problems: &mut Problems) {
    let help = "local addresses are for FullNAT alone: take a range that nothing else uses";
    let mut earlier: Vec<(Ipv4Net, Range<usize>)> = Vec::new();
    for local in ports.list.iter().flat_map(|port| &port.local_addresses) {
        let net = *local.get_ref();
        let overlaps = |other: Ipv4Net| other.contains(&net) || net.contains(&other);
        if let Some((other, span)) = earlier.iter().find(|(other, _)| overlaps(*other)) {
            let problem = Problem::new(format!("local addresses {net} overlap {other}")).help(help);
            problems.push(problem.at(local.span()).context(span.clone(), "these"));
        }
        if let Some(other) = others.iter().find(|other| net.contains(&other.address)) {
            let problem =
                Problem::new(format!("local addresses {net} contain {}, {}", other.address, other.what))
                    .help(help);
            problems.push(problem.at(local.span()).context(other.span.clone(), "here"));
        }
        earlier.push((net, local.span()));
    }
}
