//! `[service.tunnel]`, how mode `tunnel` carries packets to backends, and `[decap]`, which tunnels end here.

use std::net::IpAddr;
use std::ops::Range;

use dataplane::rules::scheduler::SECOND_CHANCE_MEMBERS_MAX;
use dataplane::wire::gue;
use toml::Spanned;

use super::backends::BackendDraft;
use super::ports::Ports;
use super::services::ServiceDraft;
use super::{each, no_duplicates, optional, or_default, required};
use crate::rules::checked::{Carrier, Decap, Mode, SchedulerSettings, Source, Tunnel};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{DecapTable, ServiceTable, TunnelTable, WordOrNumber};
use crate::rules::values::{choice, host, whole};

/// What stands between the outer IP header and the packet, without its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rules) enum Encapsulation {
    Ipip,
    Gre,
    Gue,
}

/// What they are called.
pub(in crate::rules) const ENCAPSULATIONS: [(&str, Encapsulation); 3] =
    [("ipip", Encapsulation::Ipip), ("gre", Encapsulation::Gre), ("gue", Encapsulation::Gue)];

/// What stands for a value of the packet's own.
const COPY: &str = "copy";
/// What stands for a source of each flow's own.
const PER_FLOW: &str = "per-flow";

/// The tunnel of a service: `Some(None)` where its mode has none, `None` where something is wrong.
pub(super) fn check(
    table: &ServiceTable,
    mode: Option<&Spanned<Mode>>,
    problems: &mut Problems,
) -> Option<Option<Tunnel>> {
    let mode = mode?;
    match (&table.tunnel, *mode.get_ref() == Mode::Tunnel) {
        (Field::Unreadable, _) => None,
        (Field::Absent, is_tunnel) => Some(is_tunnel.then(Tunnel::default)),
        (Field::Value(tunnel), true) => self::tunnel(tunnel.get_ref(), problems).map(Some),
        (Field::Value(tunnel), false) => {
            let mode_word = *mode.get_ref();
            problems.push(
                Problem::new(format!("[service.tunnel] in mode \"{mode_word}\""))
                    .at(tunnel.span())
                    .context(mode.span(), "no tunnel")
                    .help("with mode = \"tunnel\" packets go to backends in a tunnel"),
            );
            None
        }
    }
}

fn tunnel(table: &TunnelTable, problems: &mut Problems) -> Option<Tunnel> {
    let default = Tunnel::default();
    let carrier = carrier(table, problems);
    let source = source(&table.source, problems);
    let dscp = copied_or(&table.dscp, ("a DSCP", 0, 63), default.dscp, problems);
    let ttl = copied_or(&table.ttl, ("a TTL", 1, 255), default.ttl, problems);
    let dont_fragment = or_default(&table.dont_fragment, default.dont_fragment, problems, |&value| Ok(value));
    let udp_checksum = or_default(&table.udp_checksum, default.udp_checksum, problems, |&value| Ok(value));
    let second_chance = second_chance(&table.second_chance, carrier, problems);
    Some(Tunnel {
        carrier: carrier?,
        source: source?,
        dscp: dscp?,
        ttl: ttl?,
        dont_fragment: dont_fragment?,
        udp_checksum: udp_checksum?,
        second_chance: second_chance?,
        ..default
    })
}

/// The encapsulation with the keys that are its own.
fn carrier(table: &TunnelTable, problems: &mut Problems) -> Option<Carrier> {
    let kind = or_default(&table.encapsulation, Encapsulation::Ipip, problems, |text| {
        choice("an encapsulation", text, &ENCAPSULATIONS)
    });
    let key = optional(&table.key, problems, |&value| whole::<u32>("a GRE key", value, 0, u32::MAX.into()));
    let variant =
        or_default(&table.variant, 1, problems, |&value| whole::<u8>("a variant of GUE", value, 0, 1));
    let l4_port = or_default(&table.port, gue::L4_PORT, problems, |&value| {
        whole("a UDP port", value, 1, u16::MAX.into())
    });
    let kind = kind?;
    let before = problems.len();
    let written = table.encapsulation.value().map(Spanned::span);
    belongs(&table.key, ("key", Encapsulation::Gre), (kind, &written), problems);
    belongs(&table.variant, ("variant", Encapsulation::Gue), (kind, &written), problems);
    belongs(&table.port, ("port", Encapsulation::Gue), (kind, &written), problems);
    belongs(&table.udp_checksum, ("udp_checksum", Encapsulation::Gue), (kind, &written), problems);
    if problems.len() != before {
        return None;
    }
    match kind {
        Encapsulation::Ipip => Some(Carrier::Ipip),
        Encapsulation::Gre => match (&table.key, key) {
            (Field::Absent, _) => Some(Carrier::Gre { key: None }),
            (_, key) => Some(Carrier::Gre { key: Some(key?.into_inner()) }),
        },
        Encapsulation::Gue => Some(Carrier::Gue { has_header: variant? == 0, l4_port: l4_port? }),
    }
}

/// A key of one encapsulation in another is an error and not a setting without effect.
fn belongs<T>(
    field: &Field<T>,
    (key, owner): (&str, Encapsulation),
    (kind, written): (Encapsulation, &Option<Range<usize>>),
    problems: &mut Problems,
) {
    let Some(value) = field.value().filter(|_| kind != owner) else { return };
    let problem = Problem::new(format!("`{key}` with encapsulation \"{}\"", word(kind)))
        .at(value.span())
        .help(format!("`{key}` is about encapsulation = \"{}\"", word(owner)));
    problems.push(match written {
        Some(span) => problem.context(span.clone(), "chosen here"),
        None => problem.label("\"ipip\" is the default"),
    });
}

fn word(kind: Encapsulation) -> &'static str {
    ENCAPSULATIONS.iter().find(|(_, other)| *other == kind).map_or("", |(word, _)| *word)
}

/// Whether the header names a second choice, where it has room for one.
fn second_chance(field: &Field<bool>, carrier: Option<Carrier>, problems: &mut Problems) -> Option<bool> {
    or_default(field, false, problems, |&wanted| match carrier {
        Some(carrier) if wanted && !matches!(carrier, Carrier::Gue { has_header: true, .. }) => {
            Err(Problem::new("`second_chance = true`, and no header has room for a second backend")
                .help("GUE's header of variant 0 has: encapsulation = \"gue\", variant = 0"))
        }
        _ => Ok(wanted),
    })
}

/// Whether the rest of the service suits a tunnel that names second choices; `backends` are the service's.
pub(super) fn second_choices(
    table: &ServiceTable,
    scheduler: Option<SchedulerSettings>,
    backends: &[BackendDraft],
    problems: &mut Problems,
) {
    let Some(place) = table.tunnel.value().and_then(|tunnel| wanted_at(&tunnel.get_ref().second_chance))
    else {
        return;
    };
    let mut refuse = |what: &str, help: &str| {
        let problem = Problem::new(format!("`second_chance = true` {what}"));
        problems.push(problem.at(place.clone()).help(help));
    };
    let keeps_flows = match &table.flows {
        Field::Absent => true,
        Field::Unreadable => false,
        Field::Value(flows) => flows.get_ref() != "none",
    };
    if keeps_flows {
        let help = "a director that keeps flows sends a connection where it was: say `flows = \"none\"`, or leave `second_chance` out";
        refuse("in a service that keeps flows", help);
    }
    if let Some(settings) = scheduler {
        if !settings.kind.has_maglev_table() || settings.hash.is_ipvs() {
            let help = "second choices stand in Maglev's table: scheduler = \"mh\" (or \"sh\", \"dh\") with a `hash` of its own";
            refuse(&format!("with scheduler \"{settings}\""), help);
        } else if !settings.fallback {
            let help = "who takes a drained backend's new clients is the second choice: leave `fallback` out";
            refuse("with `fallback = false`", help);
        }
    }
    if backends.len() > SECOND_CHANCE_MEMBERS_MAX {
        let help =
            format!("at most {SECOND_CHANCE_MEMBERS_MAX} are possible: spread them over several services");
        refuse(&format!("with {} backends", backends.len()), &help);
    }
    for endpoint in backends.iter().filter_map(|backend| backend.endpoint.as_ref()) {
        if endpoint.get_ref().0.is_ipv6() {
            problems.push(
                Problem::new(format!("`second_chance = true`, and backend {} is IPv6", endpoint.get_ref().0))
                    .at(endpoint.span())
                    .context(place.clone(), "names backends in four bytes")
                    .help("GLB's header, which backends read, knows IPv4 addresses alone"),
            );
        }
    }
}

/// Where a key is true.
fn wanted_at(field: &Field<bool>) -> Option<Range<usize>> {
    field.value().filter(|wanted| *wanted.get_ref()).map(Spanned::span)
}

/// `"per-flow"`, or an address of each family at most.
fn source(field: &Field<Vec<Spanned<String>>>, problems: &mut Problems) -> Option<Source> {
    let written = match field {
        Field::Absent => return Some(Source::default()),
        Field::Unreadable => return None,
        Field::Value(written) => written,
    };
    if let [one] = &written.get_ref()[..]
        && one.get_ref() == PER_FLOW
    {
        return Some(Source::PerFlow);
    }
    let before = problems.len();
    let addresses: Vec<Spanned<IpAddr>> = each(field, problems, |text| {
        if text == PER_FLOW {
            return Err(Problem::new("\"per-flow\" beside other sources")
                .help("write `source = \"per-flow\"` alone: then no address is fixed"));
        }
        host(text)
    });
    let (mut v4, mut v6) = (None, None);
    for address in &addresses {
        let second = match *address.get_ref() {
            IpAddr::V4(address) => v4.replace(address).is_some(),
            IpAddr::V6(address) => v6.replace(address).is_some(),
        };
        if second {
            problems.push(
                Problem::new("`source` has two addresses of one family")
                    .at(address.span())
                    .help("one IPv4 and one IPv6 address at most; or \"per-flow\""),
            );
        }
    }
    (problems.len() == before).then_some(Source::Fixed { v4, v6 })
}

/// `"copy"`, or a number.
fn copied_or(
    field: &WordOrNumber,
    (what, min, max): (&str, i128, i128),
    default: Option<u8>,
    problems: &mut Problems,
) -> Option<Option<u8>> {
    match field {
        WordOrNumber::Word(field) => or_default(field, default, problems, |text| {
            if text == COPY {
                return Ok(None);
            }
            Err(Problem::new(format!("{text:?} is not {what}"))
                .near(text, [COPY])
                .help(format!("allowed: \"copy\", and {min} to {max} without quotes")))
        }),
        WordOrNumber::Number(field) => {
            or_default(field, default, problems, |&value| whole(what, value, min, max).map(Some))
        }
    }
}

/// Every outer header has a source: of the tunnel, or of a port.
pub(super) fn sources(service: &ServiceDraft, ports: &Ports, problems: &mut Problems) {
    let Some(Some(Tunnel { source: Source::Fixed { v4, v6 }, .. })) = service.tunnel else { return };
    let Some(mode) = service.mode.as_ref().filter(|_| ports.complete) else { return };
    for is_v6 in [false, true] {
        let is_given = if is_v6 { v6.is_some() } else { v4.is_some() };
        if is_given || ports.has_address_of_family(is_v6) {
            continue;
        }
        let mut endpoints = service.endpoints();
        let of_family = endpoints.find(|endpoint| endpoint.get_ref().0.is_ipv6() == is_v6);
        let Some(endpoint) = of_family else { continue };
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let example = if is_v6 { "2001:db8::5" } else { "192.0.2.5" };
        problems.push(
            Problem::new(format!("the tunnel to backend {} has no source address", endpoint.get_ref().0))
                .at(endpoint.span())
                .context(mode.span(), "puts an IP header in front")
                .help(format!(
                    "say `source = \"{example}\"` (or \"per-flow\") in [service.tunnel], or give a port an {family} address"
                )),
        );
    }
}

/// `[decap]`.
pub(super) fn decap(field: &Field<DecapTable>, problems: &mut Problems) -> Option<Option<Decap>> {
    let table = match field {
        Field::Absent => return Some(None),
        Field::Unreadable => return None,
        Field::Value(table) => table.get_ref(),
    };
    let before = problems.len();
    let some =
        required(&table.addresses, (&table.place, "addresses"), problems, |written| match written.len() {
            0 => {
                Err(Problem::new("`addresses` is an empty list").help("without [decap] no tunnel ends here"))
            }
            _ => Ok(()),
        });
    let addresses: Vec<Spanned<IpAddr>> = each(&table.addresses, problems, |text| host(text));
    no_duplicates(
        addresses.iter().map(|address| (*address.get_ref(), address.span())),
        problems,
        |address| Problem::new(format!("{address} stands here twice")).help("once is enough"),
    );
    let kinds =
        each(&table.encapsulations, problems, |text| choice("an encapsulation", text, &ENCAPSULATIONS));
    let has = |kind| {
        matches!(table.encapsulations, Field::Absent) || kinds.iter().any(|other| *other.get_ref() == kind)
    };
    let l4_port = or_default(&table.gue_port, gue::L4_PORT, problems, |&value| {
        whole("a UDP port", value, 1, u16::MAX.into())
    });
    if let (Field::Value(port), false) = (&table.gue_port, has(Encapsulation::Gue)) {
        problems.push(
            Problem::new("`gue_port`, and \"gue\" is not among `encapsulations`")
                .at(port.span())
                .help("let `encapsulations` name \"gue\", or leave it out for all"),
        );
    }
    if problems.len() != before {
        return None;
    }
    some?;
    Some(Some(Decap {
        addresses: addresses.into_iter().map(Spanned::into_inner).collect(),
        ipip: has(Encapsulation::Ipip),
        gre: has(Encapsulation::Gre),
        gue_port: has(Encapsulation::Gue).then_some(l4_port?),
    }))
}
