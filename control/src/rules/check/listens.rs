//! What services listen on: each by itself, then against what their backends are reached by, and against the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use toml::Spanned;

use super::ports::Ports;
use super::services::ServiceDraft;
use super::{each, no_duplicates, required};
use crate::rules::checked::{Announce, Listen, Mode, Prefix, Protocol};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::ServiceTable;
use crate::rules::values::{TWIN_HOST_BITS_MAX, hosts, listen};

/// What a service listens on, as far as it could be read.
pub(super) struct Listens {
    pub(super) list: Vec<Spanned<Listen>>,
    /// In mode snat: hosts whose connections it takes, of all protocols, in place of that.
    pub(super) from: Vec<Spanned<Prefix>>,
    /// Everything that is written was read: only then is a missing one really missing.
    pub(super) complete: bool,
}

impl Listens {
    /// Whether one of them is of `protocol`, or may be.
    pub(super) fn may_have(&self, protocol: Protocol) -> bool {
        !self.complete
            || !self.from.is_empty()
            || self.list.iter().any(|listen| listen.get_ref().protocol == protocol)
    }

    /// Whether one of them is of IPv6, or of IPv4, or may be.
    pub(super) fn may_have_family(&self, is_ipv6: bool) -> bool {
        let vips = self.list.iter().map(|listen| listen.get_ref().vips);
        let mut all = vips.chain(self.from.iter().map(|from| *from.get_ref()));
        !self.complete || all.any(|prefix| prefix.network().is_ipv6() == is_ipv6)
    }

    /// Whether it takes pings and nothing else.
    pub(super) fn are_pings(&self) -> bool {
        let mut protocols = self.list.iter().map(|listen| listen.get_ref().protocol);
        self.complete && self.from.is_empty() && protocols.all(|protocol| protocol == Protocol::Icmp)
    }

    /// The l4 port of all that have one, 0 where there are several; nothing where it is not known.
    pub(super) fn l4_port(&self) -> Option<u16> {
        if !self.from.is_empty() || self.are_pings() {
            return Some(0);
        }
        let listens = self.list.iter().map(Spanned::get_ref);
        let with_l4_port = listens.filter(|listen| listen.protocol != Protocol::Icmp);
        let mut l4_ports = with_l4_port.map(|listen| listen.l4_ports);
        let first = l4_ports.next().filter(|_| self.complete)?;
        Some(first.single().filter(|_| l4_ports.all(|others| others == first)).unwrap_or(0))
    }
}

pub(super) fn read(table: &ServiceTable, mode: Option<&Spanned<Mode>>, problems: &mut Problems) -> Listens {
    if let Some(mode) = mode.filter(|mode| *mode.get_ref() == Mode::Snat) {
        return read_from(table, mode, problems);
    }
    if let (Field::Value(from), Some(mode)) = (&table.from, mode) {
        problems.push(
            Problem::new(format!("`from` in mode \"{}\"", mode.get_ref()))
                .at(from.span())
                .context(mode.span(), "takes what is to its VIPs")
                .help("mode \"snat\" takes connections by where they come from; here `listen` says what they are to"),
        );
    }
    let none = required(&table.listen, (&table.place, "listen"), problems, |written| {
        if written.is_empty() {
            return Err(Problem::new("`listen` is an empty list")
                .help("a service listens on something: `tcp ADDRESS:PORT`, or a list of such"));
        }
        Ok(written.len())
    });
    let list = each(&table.listen, problems, |text| listen(text));
    let complete = none.is_some_and(|written| *written.get_ref() == list.len());
    Listens { complete, list, from: Vec::new() }
}

/// What a service of mode snat takes.
fn read_from(table: &ServiceTable, mode: &Spanned<Mode>, problems: &mut Problems) -> Listens {
    for (key, span) in [
        ("listen", table.listen.value().map(Spanned::span)),
        ("announce", table.announce.value().map(Spanned::span)),
        ("persistence", table.persistence.value().map(Spanned::span)),
    ] {
        let Some(span) = span else { continue };
        problems.push(
            Problem::new(format!("`{key}` in mode \"snat\""))
                .at(span)
                .context(mode.span(), "has no VIP")
                .help(
                    "it takes the connections of the hosts in `from`, whatever they are to: leave this out",
                ),
        );
    }
    let written = required(&table.from, (&table.place, "from"), problems, |written| {
        if written.is_empty() {
            return Err(Problem::new("`from` is an empty list")
                .help("such as `from = [\"10.0.0.0/24\", \"2001:db8:1::/64\"]`"));
        }
        Ok(written.len())
    });
    let from = each(&table.from, problems, |text| hosts(text, "a network of hosts is whole"));
    let complete = written.is_some_and(|written| *written.get_ref() == from.len());
    Listens { complete, list: Vec::new(), from }
}

/// Those of all services, against each other and against what else the services say.
pub(super) fn check(services: &[ServiceDraft], ports: &Ports, problems: &mut Problems) {
    let listens = services.iter().flat_map(|service| &service.listens.list);
    no_duplicates(listens.map(|listen| (*listen.get_ref(), listen.span())), problems, |listen| {
        Problem::new(format!("{listen} is listened on twice"))
            .help("put the backends of both under one [[service]]")
    });
    let from = services.iter().flat_map(|service| &service.listens.from);
    no_duplicates(from.map(|from| (*from.get_ref(), from.span())), problems, |from| {
        Problem::new(format!("two services take what comes from {from}"))
            .help("nested networks are possible: the smaller one's service takes it")
    });
    ranges_nest(services, problems);
    for service in services {
        one_family(service, problems);
        vips_to_announce(service, ports, problems);
    }
    one_announcement_per_vip(services, problems);
}

/// Where a packet leaves as what it came as, a backend of the other family could not read it.
fn one_family(service: &ServiceDraft, problems: &mut Problems) {
    let Some(mode) = service.mode.as_ref().map(|mode| *mode.get_ref()) else { return };
    match mode {
        Mode::Dr | Mode::Nat => {}
        // Of a router the MAC is all that is needed.
        Mode::Snat => return,
        // The one puts what it has in a packet of the other family, the other translates.
        Mode::Tunnel | Mode::Fullnat => return,
    }
    let listens = service.listens.list.iter();
    let listens = listens.map(|listen| (listen.get_ref().vips.network(), listen.span(), "a VIP"));
    let endpoints = service.endpoints().map(|endpoint| (endpoint.get_ref().0, endpoint.span(), "a backend"));
    let mut all = listens.chain(endpoints);
    let Some((first, span, what)) = all.next() else { return };
    for (address, other, other_what) in all.filter(|(address, ..)| address.is_ipv4() != first.is_ipv4()) {
        problems.push(
            Problem::new(format!(
                "{other_what} is {}, and {what} of the service {}",
                family(address),
                family(first)
            ))
            .at(other)
            .context(span.clone(), family(first))
            .help(format!(
                "mode \"{mode}\" leaves the family as it is: make a service for each, or use mode \"tunnel\" or \"fullnat\""
            )),
        );
    }
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Of two ranges on the same VIPs the narrower has what both hold; where neither holds the other, nobody could say which
/// was meant.
fn ranges_nest(services: &[ServiceDraft], problems: &mut Problems) {
    let mut by_vips: BTreeMap<(Protocol, Prefix), Vec<&Spanned<Listen>>> = BTreeMap::new();
    for listen in services.iter().flat_map(|service| &service.listens.list) {
        by_vips.entry((listen.get_ref().protocol, listen.get_ref().vips)).or_default().push(listen);
    }
    for mut listens in by_vips.into_values() {
        // The wider of two that begin together first, so that what stands before can hold what comes.
        listens
            .sort_by_key(|listen| (listen.get_ref().l4_ports.first, Reverse(listen.get_ref().l4_ports.last)));
        let mut around: Vec<&Spanned<Listen>> = Vec::new();
        for listen in listens {
            let l4_ports = listen.get_ref().l4_ports;
            around.retain(|wider| wider.get_ref().l4_ports.meets(l4_ports));
            if let Some(other) = around.iter().find(|wider| !wider.get_ref().l4_ports.covers(l4_ports)) {
                let (this, that) = (listen.get_ref(), other.get_ref());
                problems.push(
                    Problem::new(format!("{this} and {that} overlap, and neither lies within the other"))
                        .at(listen.span())
                        .context(other.span(), "this range")
                        .help("of nested ranges the narrowest gets the connection: let one end where the other begins"),
                );
            }
            around.push(listen);
        }
    }
}

/// Each of them becomes an address of the twins, as local addresses do.
fn vips_to_announce(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    if service.announce != Some(Announce::Arp) || !ports.any_kernel {
        return;
    }
    for listen in &service.listens.list {
        let vips = listen.get_ref().vips;
        let shortest = vips.prefix_len_max() - TWIN_HOST_BITS_MAX;
        if vips.prefix_len() >= shortest {
            continue;
        }
        let problem = Problem::new(format!("{vips} is too large to be announced address by address"))
            .at(listen.span())
            .help(format!(
                "up to /{shortest} each VIP is put on the twin; route a larger network to the director, and say announce = \"external\" or \"none\""
            ));
        problems.push(match &service.announce_span {
            Some(span) => problem.context(span.clone(), "asked for here"),
            None => problem.label("announce = \"arp\" is the default"),
        });
    }
}

/// A VIP is on the twins or it is not, whichever of its services asks.
fn one_announcement_per_vip(services: &[ServiceDraft], problems: &mut Problems) {
    let mut first: HashMap<Prefix, (Announce, Range<usize>)> = HashMap::new();
    for service in services {
        let Some(announce) = service.announce else { continue };
        for listen in &service.listens.list {
            let vip = listen.get_ref().vips;
            let span = service.announce_span.clone().unwrap_or_else(|| listen.span());
            match first.get(&vip) {
                Some((other, earlier)) if *other != announce => problems.push(
                    Problem::new(format!(
                        "VIP {vip} is announced in two ways: \"{announce}\" and \"{other}\""
                    ))
                    .at(span)
                    .context(earlier.clone(), format!("\"{other}\" here"))
                    .help("all services of one VIP have the same `announce` (the default is \"arp\")"),
                ),
                Some(_) => {}
                None => {
                    first.insert(vip, (announce, span));
                }
            }
        }
    }
}
