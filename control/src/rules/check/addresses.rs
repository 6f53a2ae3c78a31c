//! Addresses against each other, across all tables: who has an address must be clear from the address alone.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::neighbours::Neighbours;
use super::no_duplicates;
use super::ports::Ports;
use super::services::ServiceDraft;
use crate::rules::checked::Prefix;
use crate::rules::error::{Problem, Problems};

/// Addresses in use, what as, and where the rules say so.
struct Use {
    addresses: Prefix,
    what: &'static str,
    span: Range<usize>,
}

impl Use {
    fn new<T>(value: &Spanned<T>, addresses: impl Into<Prefix>, what: &'static str) -> Self {
        Self { addresses: addresses.into(), what, span: value.span() }
    }
}

pub(super) fn check(
    ports: &Ports,
    neighbours: &Neighbours,
    services: &[ServiceDraft],
    problems: &mut Problems,
) {
    let own = own_addresses(ports, problems);
    let listens = services.iter().flat_map(|service| &service.listens.list);
    let vips: Vec<Use> = listens.map(|listen| Use::new(listen, listen.get_ref().vips, "a VIP")).collect();
    let backends: Vec<Use> = services
        .iter()
        .flat_map(ServiceDraft::endpoints)
        .map(|endpoint| Use::new(endpoint, endpoint.get_ref().0, "a backend's address"))
        .collect();
    let next_hops = neighbours.list.iter().filter_map(|neighbour| neighbour.address.as_ref());
    let next_hops: Vec<Use> =
        next_hops.map(|hop| Use::new(hop, *hop.get_ref(), "a neighbour's address")).collect();
    let edges = network_edges(ports);

    backends_are_no_vips(&backends, &vips, problems);
    own_addresses_are_in_no_network_of_vips(&own, &vips, problems);
    let others: Vec<&Use> = [&own, &vips, &backends, &next_hops, &edges].into_iter().flatten().collect();
    local_addresses_are_their_own(ports, &others, problems);
}

fn own_addresses(ports: &Ports, problems: &mut Problems) -> Vec<Use> {
    let addresses = || ports.list.iter().flat_map(|port| &port.addresses);
    no_duplicates(addresses().map(|net| (net.get_ref().addr(), net.span())), problems, |address: &IpAddr| {
        Problem::new(format!("{address} is given twice")).help("an address belongs to one port")
    });
    addresses().map(|net| Use::new(net, net.get_ref().addr(), "a port's own address")).collect()
}

/// Addresses that hosts in the ports' networks do not answer as others are: IPv4's they take for broadcasts (RFC 1122
/// section 3.2.1.3; there are none in a /31, RFC 3021), and the first of an IPv6 network is every router's (RFC 4291
/// section 2.6.1; not in a /127, RFC 6164).
fn network_edges(ports: &Ports) -> Vec<Use> {
    let networks = ports.list.iter().flat_map(|port| &port.addresses);
    let networks = networks.filter(|net| net.get_ref().prefix_len() + 1 < net.get_ref().max_prefix_len());
    let edges = networks.flat_map(|net| match *net.get_ref() {
        IpNet::V4(v4) => vec![
            Use::new(net, IpAddr::V4(v4.network()), "a port's network address"),
            Use::new(net, IpAddr::V4(v4.broadcast()), "a port's broadcast address"),
        ],
        IpNet::V6(v6) => {
            vec![Use::new(net, IpAddr::V6(v6.network()), "the routers' address of a port's network")]
        }
    });
    edges.collect()
}

/// A packet for a backend leaves by a port, or is this host's own; one for a VIP would come straight back.
fn backends_are_no_vips(backends: &[Use], vips: &[Use], problems: &mut Problems) {
    let vips = Vips::new(vips);
    for backend in backends {
        let Some(other) = vips.around(backend.addresses) else { continue };
        let address = backend.addresses;
        let (message, label) = match other.addresses.address() {
            Some(_) => (format!("backend {address} is also {}", other.what), "this address"),
            None => {
                (format!("backend {address} lies in {}, a network of VIPs", other.addresses), "this network")
            }
        };
        problems.push(
            Problem::new(message).at(backend.span.clone()).context(other.span.clone(), label).help(
                "a backend has an address of its own: another host's, or a port's `addresses` for this one",
            ),
        );
    }
}

/// A single VIP may be the port's own address: whoever writes that means it. In a network it would be an accident, and what
/// is for the director itself would be balanced.
fn own_addresses_are_in_no_network_of_vips(own: &[Use], vips: &[Use], problems: &mut Problems) {
    for own in own {
        let networks = vips.iter().filter(|vips| vips.addresses.address().is_none());
        for vips in networks.filter(|vips| vips.addresses.covers(own.addresses)) {
            problems.push(
                Problem::new(format!("{} contains {}, {}", vips.addresses, own.addresses, own.what))
                    .at(vips.span.clone())
                    .context(own.span.clone(), "here")
                    .help(
                        "what is for the director itself would be balanced: list smaller networks without it",
                    ),
            );
        }
    }
}

/// VIPs by prefix.
struct Vips<'a> {
    by_prefix: HashMap<Prefix, &'a Use>,
    prefix_lens: BTreeSet<u8>,
}

impl<'a> Vips<'a> {
    fn new(vips: &'a [Use]) -> Self {
        Self {
            by_prefix: vips.iter().map(|used| (used.addresses, used)).collect(),
            prefix_lens: vips.iter().map(|used| used.addresses.prefix_len()).collect(),
        }
    }

    /// The most specific one that holds all of `addresses`.
    fn around(&self, addresses: Prefix) -> Option<&'a Use> {
        let lens = self.prefix_lens.range(..=addresses.prefix_len()).rev();
        let mut around = lens.map(|len| Prefix::new(addresses.network(), *len));
        around.find_map(|prefix| self.by_prefix.get(&prefix).copied())
    }
}

/// FullNAT owns every l4 port of a local address: nobody else can use it.
fn local_addresses_are_their_own(ports: &Ports, others: &[&Use], problems: &mut Problems) {
    let help = "local addresses are for FullNAT alone: take a range that nothing else uses";
    let mut earlier: Vec<(Prefix, Range<usize>)> = Vec::new();
    for local in ports.list.iter().flat_map(|port| &port.local_addresses) {
        let written = *local.get_ref();
        let net = Prefix::new(written.network(), written.prefix_len());
        let overlaps = |other: Prefix| other.covers(net) || net.covers(other);
        if let Some((other, span)) = earlier.iter().find(|(other, _)| overlaps(*other)) {
            let problem = Problem::new(format!("local addresses {written} overlap {other}")).help(help);
            problems.push(problem.at(local.span()).context(span.clone(), "these"));
        }
        if let Some(other) = others.iter().find(|other| overlaps(other.addresses)) {
            let message = match other.addresses.address() {
                Some(address) => format!("local addresses {written} contain {address}, {}", other.what),
                None => format!("local addresses {written} overlap {}, a network of VIPs", other.addresses),
            };
            let problem = Problem::new(message).help(help);
            problems.push(problem.at(local.span()).context(other.span.clone(), "here"));
        }
        earlier.push((net, local.span()));
    }
}
