//! `[checks]`: the addresses that stand for backends which own the VIP, where their health is checked.

use std::ops::Range;

use dataplane::prefix::Prefix;
use ipnet::IpNet;
use toml::Spanned;

use super::each;
use crate::rules::checked::{Checks, Rules};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::ChecksTable;

/// `[checks]`.
pub(super) fn check(field: &Field<ChecksTable>, problems: &mut Problems) -> Option<Option<Checks>> {
    let table = match field {
        Field::Absent => return Some(None),
        Field::Unreadable => return None,
        Field::Value(table) => table.get_ref(),
    };
    if matches!(table.addresses, Field::Absent) {
        return Some(Some(Checks::default()));
    }
    let before = problems.len();
    let networks = each(&table.addresses, problems, |text| network(text));
    let mut checks = Checks { v4: None, v6: None };
    for network in &networks {
        let place = if network.get_ref().network().is_ipv6() { &mut checks.v6 } else { &mut checks.v4 };
        if place.replace(*network.get_ref()).is_some() {
            problems.push(
                Problem::new(format!("{} is the second network of its family", network.get_ref()))
                    .at(network.span())
                    .help("one of each holds an address for every backend there can be"),
            );
        }
    }
    if networks.is_empty() && problems.len() == before {
        let problem = Problem::new("`addresses` is an empty list");
        let help = format!("leave `addresses` out for {}", Checks::default());
        problems.push(problem.at(span(&table.addresses)).help(help));
    }
    (problems.len() == before).then_some(Some(checks))
}

/// A network with an address for every backend's slot, and one for the way there.
fn network(text: &str) -> Result<Prefix, Problem> {
    let network: IpNet = text
        .parse()
        .map_err(|_| Problem::new(format!("{text:?} is no network")).help("write it as \"198.18.0.0/16\""))?;
    let len_max = if network.addr().is_ipv6() { Checks::LEN_MAX6 } else { Checks::LEN_MAX };
    if network.prefix_len() > len_max {
        return Err(Problem::new(format!("{network} is too small"))
            .help(format!("a network of /{len_max} or less has an address for every backend there can be")));
    }
    if network.addr() != network.network() {
        return Err(Problem::new(format!("{text:?} is an address within a network"))
            .help(format!("write {:?}", network.trunc().to_string())));
    }
    Ok(Prefix::new(network.network(), network.prefix_len()))
}

fn span(field: &Field<Vec<Spanned<String>>>) -> Range<usize> {
    field.value().map_or(0..0, Spanned::span)
}

/// Nobody else may have an address of the networks: the kernel would not reach him.
pub(super) fn overlaps(field: &Field<ChecksTable>, rules: &Rules, problems: &mut Problems) {
    let (Some(checks), Field::Value(table)) = (&rules.checks, field) else { return };
    let ports = rules.ports.iter().flat_map(|port| {
        let nets = port.addresses.iter().chain(&port.local_addresses);
        nets.map(move |net| (net.addr(), format!("of port {:?}", port.name)))
    });
    let services = rules.services.iter().flat_map(|service| {
        let vips = service.vips().map(|vip| vip.network());
        let backends = service.addresses();
        vips.chain(backends).map(move |address| (address, format!("of service {:?}", service.name)))
    });
    let others: Vec<_> = ports.chain(services).collect();
    for network in checks.all() {
        let taken = others.iter().find(|(address, _)| network.contains(*address));
        if let Some((address, whose)) = taken {
            problems.push(
                Problem::new(format!("{network} holds {address}, an address {whose}"))
                    .at(table.span())
                    .help("let [checks] `addresses` name a network that nobody uses"),
            );
        }
    }
}
