//! What a service's rules say about its connections: limits, timeouts, persistence, and what becomes of packets and
//! connections that cannot go on.

use std::ops::Range;
use std::time::Duration;

use dataplane::wire::ipv4::{PROTOCOL_SCTP, PROTOCOL_UDP};
use dataplane::wire::ipv6::PROTOCOL_ICMPV6;
use toml::Spanned;

use super::services::Context;
use super::way;
use super::{optional, or_default};
use crate::rules::checked::{
    Fate, Flows, Limits, Mode, NoBackend, NoFlow, OnTimeout, Persistence, Policy, Protocol, Reuse, Timeouts,
};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{BackendTable, PersistenceTable, RateField, ServiceTable, TimeoutsTable};
use crate::rules::values::{choice, duration, per_second, whole};
use crate::rules::words::{
    FLOWS, NO_BACKEND, NO_FLOW, ON_DRAIN, ON_REMOVE, ON_TIMEOUT, REUSE, TIMEOUTS, TTL,
};

/// Timeouts are told apart by 32 bits of milliseconds that wrap: half of them, 24.8 days, are ahead.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 86_400);

const SLOW_START_MAX: Duration = Duration::from_secs(86_400);

/// keepalived's `persistence_timeout`.
const PERSISTENCE_DEFAULT: Duration = Duration::from_secs(360);

pub(super) fn check(table: &ServiceTable, service: &Context<'_>, problems: &mut Problems) -> Option<Policy> {
    let flows = flows(table, service, problems);
    if keeps_no_connections(table) {
        nothing_about_connections(table, problems);
    } else {
        nothing_of_tcp(table, service, problems);
    }
    let timeouts = timeouts(&table.timeouts, service, problems);
    let persistence = persistence(&table.persistence, service, problems);
    let limits = limits(table, problems);
    let no_backend = or_default(&table.no_backend, NoBackend::default(), problems, |text| {
        choice("a value of `no_backend`", text, &NO_BACKEND)
    });
    let no_flow = or_default(&table.no_flow, NoFlow::default(), problems, |text| {
        choice("a value of `no_flow`", text, &NO_FLOW)
    });
    let reuse = or_default(&table.reuse, Reuse::default(), problems, |text| {
        choice("a value of `reuse`", text, &REUSE)
    });
    let on_timeout = or_default(&table.on_timeout, OnTimeout::default(), problems, |text| {
        choice("a value of `on_timeout`", text, &ON_TIMEOUT)
    });
    let on_remove = or_default(&table.on_remove, Fate::default(), problems, |text| {
        choice("a value of `on_remove`", text, &ON_REMOVE)
    });
    let checks_rst = or_default(&table.check_rst, false, problems, |&check| Ok(check));
    let keeps_ttl = or_default(&table.ttl, false, problems, |text| ttl(text, service));
    let client_address = way::client_address(table, service, problems);
    let mss = way::mss(&table.mss, problems);
    let fragments = or_default(&table.fragment, false, problems, |&fragment| Ok(fragment));
    Some(Policy {
        timeouts: timeouts?,
        persistence: persistence?,
        limits: limits?,
        sorry: None,
        flows: flows?,
        no_backend: no_backend?,
        no_flow: no_flow?,
        reuse: reuse?,
        on_timeout: on_timeout?,
        on_remove: on_remove?,
        ends_drains: table.drain_timeout.value().is_some(),
        client_address: client_address?,
        mss: mss?,
        fragments: fragments?,
        keeps_ttl: keeps_ttl?,
        checks_rst: checks_rst?,
    })
}

/// Whether that is asked for, possible or not.
fn keeps_no_connections(table: &ServiceTable) -> bool {
    let flows = table.flows.value().is_some_and(|flows| flows.get_ref() == "none");
    flows || table.one_packet.value().is_some_and(|one_packet| *one_packet.get_ref())
}

/// `flows` and `one_packet`.
fn flows(table: &ServiceTable, service: &Context<'_>, problems: &mut Problems) -> Option<Flows> {
    let flows = optional(&table.flows, problems, |text| {
        let flows = choice("a value of `flows`", text, &FLOWS)?;
        if flows == Flows::None {
            stateless(service)?;
        }
        Ok(flows)
    });
    let one_packet = optional(&table.one_packet, problems, |&one_packet| {
        if one_packet {
            datagrams(service)?;
        }
        Ok(one_packet)
    });
    let unreadable = |absent: bool, read: bool| !absent && !read;
    if unreadable(matches!(table.flows, Field::Absent), flows.is_some())
        || unreadable(matches!(table.one_packet, Field::Absent), one_packet.is_some())
    {
        return None;
    }
    match (flows, one_packet.filter(|one_packet| *one_packet.get_ref())) {
        (Some(flows), Some(one_packet)) if *flows.get_ref() == Flows::None => {
            problems.push(
                Problem::new("`one_packet = true` and `flows = \"none\"`")
                    .at(one_packet.span())
                    .context(flows.span(), "each packet by its hash")
                    .help("the first schedules each datagram anew, the second by its hash: choose one"),
            );
            None
        }
        (_, Some(_)) => Some(Flows::OnePacket),
        (flows, None) => Some(flows.map_or(Flows::Kept, Spanned::into_inner)),
    }
}

/// Without flows the hash alone keeps a connection at its backend, and no answer can be changed back.
fn stateless(service: &Context<'_>) -> Result<(), Problem> {
    match (service.mode, service.scheduler) {
        (Some(mode), _) if mode.has_answers() => {
            Err(Problem::new(format!("flows = \"none\" in mode \"{mode}\"")).help(needs_flows(mode)))
        }
        (_, Some(scheduler)) if !scheduler.kind.is_hashing() => {
            Err(Problem::new(format!("flows = \"none\" with scheduler \"{}\"", scheduler.kind))
                .help("without flows only a hash finds a connection's backend again: scheduler = \"mh\""))
        }
        _ => Ok(()),
    }
}

/// Whether the client's TTL is kept.
fn ttl(text: &str, service: &Context<'_>) -> Result<bool, Problem> {
    let keeps = choice("a value of `ttl`", text, &TTL)?;
    if let Some(mode) = service.mode.filter(|mode| keeps && mode.has_answers()) {
        return Err(Problem::new(format!("ttl = \"keep\" in mode \"{mode}\"")).help(format!(
            "{mode} is a router for both ends and lowers it; modes \"dr\" and \"tunnel\" can keep it"
        )));
    }
    Ok(keeps)
}

fn datagrams(service: &Context<'_>) -> Result<(), Problem> {
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        if service.listens.may_have(protocol) && service.listens.complete {
            let name = protocol.to_string().to_uppercase();
            return Err(Problem::new(format!("`one_packet = true`, and the service listens on {name}"))
                .help("only datagrams can go each its own way: listen on UDP, or ICMP"));
        }
    }
    match service.mode.filter(|mode| mode.has_answers()) {
        Some(mode) => {
            Err(Problem::new(format!("`one_packet = true` in mode \"{mode}\"")).help(needs_flows(mode)))
        }
        None => Ok(()),
    }
}

fn needs_flows(mode: Mode) -> String {
    format!("{mode} must know each connection to change its answers back; use mode \"dr\"")
}

/// Where a key that is there stands.
pub(super) fn place<T>(field: &Field<T>) -> Option<Range<usize>> {
    field.value().map(Spanned::span)
}

/// Keys about connections, in a service that keeps none.
fn nothing_about_connections(table: &ServiceTable, problems: &mut Problems) {
    let rate = match &table.max_rate {
        RateField::Text(text) => place(text),
        RateField::Number(number) => place(number),
    };
    let backends = table.backends.value().map_or(&[][..], |backends| backends.get_ref());
    let of_backend = |backend: &BackendTable| ("max_connections", place(&backend.max_connections));
    let keys = [
        ("no_flow", place(&table.no_flow)),
        ("reuse", place(&table.reuse)),
        ("on_timeout", place(&table.on_timeout)),
        ("on_remove", place(&table.on_remove)),
        ("drain_timeout", place(&table.drain_timeout)),
        ("check_rst", place(&table.check_rst)),
        ("mss", way::place_of_mss(&table.mss)),
        ("max_connections", place(&table.max_connections)),
        ("max_half_open", place(&table.max_half_open)),
        ("max_rate", rate),
        ("persistence", place(&table.persistence)),
    ];
    let timeouts = table.timeouts.0.iter().map(|(key, field)| (*key, place(field)));
    for (key, span) in keys.into_iter().chain(timeouts).chain(backends.iter().map(of_backend)) {
        let Some(span) = span else { continue };
        problems.push(
            Problem::new(format!("`{key}`, and the service keeps no connections")).at(span).help(
                "with flows = \"none\" or one_packet = true there is no connection to count, time or end",
            ),
        );
    }
}

/// Keys about TCP, in a service that does not listen on it; of some SCTP makes sense too.
fn nothing_of_tcp(table: &ServiceTable, service: &Context<'_>, problems: &mut Problems) {
    if service.listens.may_have(Protocol::Tcp) {
        return;
    }
    let has_sctp = service.listens.may_have(Protocol::Sctp);
    let has_pings = service.listens.may_have(Protocol::Icmp);
    let alone = match (has_sctp, has_pings) {
        (false, false) => "on UDP alone",
        (false, true) if service.listens.are_pings() => "on ICMP alone",
        _ => "not on TCP",
    };
    for (key, span, suits_sctp) in [
        ("no_flow", place(&table.no_flow), true),
        ("reuse", place(&table.reuse), true),
        ("on_timeout", place(&table.on_timeout), false),
        ("check_rst", place(&table.check_rst), false),
        ("mss", way::place_of_mss(&table.mss), false),
        ("max_half_open", place(&table.max_half_open), true),
    ] {
        let Some(span) = span.filter(|_| !(has_sctp && suits_sctp)) else { continue };
        let problem = Problem::new(format!("`{key}` is about TCP, and the service listens {alone}"));
        problems.push(problem.at(span).help("leave it out"));
    }
}

fn timeouts(table: &TimeoutsTable, service: &Context<'_>, problems: &mut Problems) -> Option<Timeouts> {
    let mut timeouts = Some(Timeouts::default());
    for ((key, field), (_, state)) in table.0.iter().zip(TIMEOUTS) {
        let protocol = match state.protocol() {
            PROTOCOL_UDP => Protocol::Udp,
            PROTOCOL_SCTP => Protocol::Sctp,
            PROTOCOL_ICMPV6 => Protocol::Icmp,
            _ => Protocol::Tcp,
        };
        let timeout = optional(field, problems, |text| {
            if !service.listens.may_have(protocol) {
                return Err(Problem::new(format!(
                    "timeout `{key}`, and the service does not listen on {protocol}"
                ))
                .help("leave it out"));
            }
            duration("a timeout", text, TIMEOUT_MIN, TIMEOUT_MAX)
        });
        match (timeout, field) {
            (Some(timeout), _) => {
                if let Some(timeouts) = &mut timeouts {
                    timeouts.set(state, milliseconds(timeout.into_inner()));
                }
            }
            (None, Field::Absent) => {}
            (None, _) => timeouts = None,
        }
    }
    timeouts
}

/// Of a duration within the bounds above, which fit.
fn milliseconds(duration: Duration) -> u32 {
    duration.as_millis() as u32
}

fn persistence(
    field: &Field<PersistenceTable>,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Option<Option<Persistence>> {
    let table = match field {
        Field::Absent => return Some(None),
        Field::Unreadable => return None,
        Field::Value(table) => table.get_ref(),
    };
    let timeout = or_default(&table.timeout, PERSISTENCE_DEFAULT, problems, |text| {
        duration("a persistence timeout", text, TIMEOUT_MIN, TIMEOUT_MAX)
    });
    let prefix_len = or_default(&table.prefix, 32, problems, |&value| {
        of_family(service, false, "prefix")?;
        whole("a prefix of an IPv4 address", value, 1, 32)
    });
    let prefix_len6 = or_default(&table.prefix6, 128, problems, |&value| {
        of_family(service, true, "prefix6")?;
        whole("a prefix of an IPv6 address", value, 1, 128)
    });
    let leaves_drained =
        or_default(&table.on_drain, false, problems, |text| choice("a value of `on_drain`", text, &ON_DRAIN));
    let timeout_ms = milliseconds(timeout?);
    Some(Some(Persistence {
        timeout_ms,
        prefix_len: prefix_len?,
        prefix_len6: prefix_len6?,
        leaves_drained: leaves_drained?,
    }))
}

/// Whether the service has clients of that family.
fn of_family(service: &Context<'_>, is_ipv6: bool, key: &str) -> Result<(), Problem> {
    if service.listens.may_have_family(is_ipv6) {
        return Ok(());
    }
    let (family, other) = if is_ipv6 { ("IPv6", "`prefix`") } else { ("IPv4", "`prefix6`") };
    Err(Problem::new(format!("`{key}` is about {family}, and the service has no such VIP"))
        .help(format!("for the family it has: {other}")))
}

fn limits(table: &ServiceTable, problems: &mut Problems) -> Option<Limits> {
    let max = i128::from(u32::MAX);
    let connections =
        limit(&table.max_connections, problems, |&value| whole("max_connections", value, 1, max));
    let half_open = limit(&table.max_half_open, problems, |&value| whole("max_half_open", value, 1, max));
    let rate = match &table.max_rate {
        RateField::Text(text) => limit(text, problems, |text| whole("max_rate", per_second(text)?, 1, max)),
        RateField::Number(number) => limit(number, problems, |&value| whole("max_rate", value, 1, max)),
    };
    Some(Limits { connections: connections?, half_open: half_open?, rate: rate? })
}

/// A limit, or none; nothing when it is wrong.
fn limit<T>(
    field: &Field<T>,
    problems: &mut Problems,
    parse: impl FnOnce(&T) -> Result<u32, Problem>,
) -> Option<Option<u32>> {
    or_default(field, None, problems, |value| parse(value).map(Some))
}

/// `drain_timeout`.
pub(super) fn drain_timeout(table: &ServiceTable, problems: &mut Problems) -> Option<Option<Duration>> {
    or_default(&table.drain_timeout, None, problems, |text| {
        duration("drain_timeout", text, TIMEOUT_MIN, TIMEOUT_MAX).map(Some)
    })
}

/// `slow_start`, where weights rise and are looked at.
pub(super) fn slow_start(
    table: &ServiceTable,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Option<Option<Duration>> {
    or_default(&table.slow_start, None, problems, |text| {
        let time = duration("slow_start", text, TIMEOUT_MIN, SLOW_START_MAX)?;
        match service.scheduler {
            Some(scheduler) if !scheduler.has_shares() => Err(Problem::new(format!(
                "`slow_start` with scheduler {scheduler}"
            ))
            .help("a weight can rise only where it is a share of the connections: scheduler = \"wrr\"")),
            _ => Ok(Some(time)),
        }
    })
}
