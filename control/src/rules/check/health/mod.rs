//! `[service.health]`, and what backends say about where they are checked. What each kind of check asks is read in `asks`.

mod asks;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::backends::BackendDraft;
use super::policy::place;
use super::services::Context;
use super::{or_default, required};
use crate::rules::checked::{CheckPlace, Health, Mode};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{BackendTable, HealthTable, ServiceTable, StatusField};
use crate::rules::health::{Initial, STREAK_MAX, Via};
use crate::rules::values::{choice, duration, duration_text, endpoint, whole};

const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// Where the interval is not shorter. A server that is a second late for its check is late for its clients too.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// HAProxy's `rise` and `fall`.
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;
/// Enough that checks which begin together soon do not.
const JITTER_DEFAULT: u8 = 10;
const DAMPING_MIN: Duration = Duration::from_secs(1);
const DAMPING_MAX: Duration = Duration::from_secs(86_400);

/// Kinds of checks, without what is said about them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Tls,
    Udp,
    Dns,
    Grpc,
    Script,
    Passive,
}

const KINDS: [(&str, Kind); 9] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("tls", Kind::Tls),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("grpc", Kind::Grpc),
    ("script", Kind::Script),
    ("passive", Kind::Passive),
];

pub(super) fn check(
    service: &ServiceTable,
    context: &Context<'_>,
    backends: &[BackendDraft],
    directory: &Path,
    problems: &mut Problems,
) -> Option<Option<Arc<Health>>> {
    let table = match &service.health {
        Field::Absent => {
            nobody_is_checked(service, problems);
            return Some(None);
        }
        Field::Unreadable => return None,
        Field::Value(table) => table.get_ref(),
    };
    let kind = required(&table.check, (&table.place, "check"), problems, |text| {
        choice("a kind of check", text, &KINDS)
    });
    if let Some(kind) = &kind {
        suits(table, kind, problems);
    }
    if kind.as_ref().is_some_and(|kind| *kind.get_ref() == Kind::Passive) {
        answers_are_seen(table, context, service, problems);
    }
    let of_backends = service.backends.value().map_or(&[][..], |backends| backends.get_ref());
    let is_passive = kind.as_ref().is_some_and(|kind| *kind.get_ref() == Kind::Passive);
    let via = if is_passive { Some(Via::Address) } else { via(table, context.mode, of_backends, problems) };
    let l4_port = l4_port(&table.port, problems);
    if l4_port == Some(None)
        && kind.as_ref().is_some_and(|kind| !matches!(kind.get_ref(), Kind::Script | Kind::Passive))
    {
        every_port_is_known(table, backends, problems);
    }
    let check = kind.and_then(|kind| asks::check(table, &kind, directory, problems));
    let times = times(table, problems);
    let rise = streak(&table.rise, "rise", RISE_DEFAULT, problems);
    let fall = streak(&table.fall, "fall", FALL_DEFAULT, problems);
    let jitter_percent = or_default(&table.jitter, JITTER_DEFAULT, problems, |&value| {
        whole("a jitter in percent", value, 0, 50)
    });
    let initials = [("up", Initial::Up), ("down", Initial::Down)];
    let initial = or_default(&table.initial, Initial::Up, problems, |text| {
        choice("what a backend is at first", text, &initials)
    });
    let damping = or_default(&table.damping, None, problems, |text| {
        duration("a time of damping", text, DAMPING_MIN, DAMPING_MAX).map(Some)
    });
    let quorum = or_default(&table.quorum, None, problems, |&value| {
        whole("a sum of weights", value, 1, u32::MAX.into()).map(Some)
    });
    let notify = or_default(&table.notify, None, problems, |argv| asks::argv(argv).map(Some));
    service_down_matters(service, table, problems);
    let (interval, timeout) = times?;
    Some(Some(Arc::new(Health {
        check: check?,
        interval,
        timeout,
        rise: rise?,
        fall: fall?,
        jitter_percent: jitter_percent?,
        initial: initial?,
        via: via?,
        l4_port: l4_port?,
        damping: damping?,
        inhibit: or_default(&table.inhibit, false, problems, |&inhibit| Ok(inhibit))?,
        quorum: quorum?,
        withdraw: or_default(&table.withdraw, false, problems, |&withdraw| Ok(withdraw))?,
        notify: notify?,
    })))
}

/// Where one backend is checked.
pub(super) fn place_of(table: &BackendTable, problems: &mut Problems) -> Option<CheckPlace> {
    let none = (None, None);
    let address = or_default(&table.check_address, none, problems, |text| {
        endpoint(text).map(|(address, l4_port)| (Some(address), l4_port))
    });
    let alone = l4_port(&table.check_port, problems);
    let ((address, l4_port), alone) = (address?, alone?);
    if let (Some(_), Some(span)) = (l4_port.filter(|_| alone.is_some()), place(&table.check_port)) {
        problems.push(
            Problem::new("`check_address` has a port, and there is `check_port`")
                .at(span)
                .help("leave one of the two ports out"),
        );
        return None;
    }
    Some(CheckPlace { address, l4_port: l4_port.or(alone) })
}

fn l4_port(field: &Field<i128>, problems: &mut Problems) -> Option<Option<u16>> {
    or_default(field, None, problems, |&value| whole("an l4 port", value, 1, 65_535).map(Some))
}

/// Keys of backends about a check, in a service without one.
fn nobody_is_checked(service: &ServiceTable, problems: &mut Problems) {
    let backends = service.backends.value().map_or(&[][..], |backends| backends.get_ref());
    for backend in backends {
        let keys =
            [("check_address", place(&backend.check_address)), ("check_port", place(&backend.check_port))];
        for (key, span) in keys {
            let Some(span) = span else { continue };
            problems.push(
                Problem::new(format!("`{key}`, and the service has no checks"))
                    .at(span)
                    .help("checks are in the service's `[service.health]`: check = \"tcp\""),
            );
        }
    }
}

/// Every key that is there must be about this kind of check.
fn suits(table: &HealthTable, kind: &Spanned<Kind>, problems: &mut Problems) {
    let status = match &table.status {
        StatusField::Number(number) => place(number),
        StatusField::Texts(texts) => place(texts),
    };
    let (http, tls): (&[Kind], &[Kind]) = (&[Kind::Http, Kind::Https], &[Kind::Https, Kind::Tls, Kind::Grpc]);
    for (key, span, kinds) in [
        ("method", place(&table.method), http),
        ("path", place(&table.path), http),
        ("host", place(&table.host), http),
        ("status", status, http),
        ("body", place(&table.body), http),
        ("ca", place(&table.ca), tls),
        ("insecure", place(&table.insecure), tls),
        ("sni", place(&table.sni), tls),
        ("send", place(&table.send), &[Kind::Udp]),
        ("expect", place(&table.expect), &[Kind::Udp]),
        ("query", place(&table.query), &[Kind::Dns]),
        ("type", place(&table.record_type), &[Kind::Dns]),
        ("service", place(&table.grpc_service), &[Kind::Grpc]),
        ("argv", place(&table.argv), &[Kind::Script]),
        ("attempts", place(&table.attempts), &[Kind::Passive]),
    ] {
        let Some(span) = span.filter(|_| !kinds.contains(kind.get_ref())) else { continue };
        let names = |kinds: &[Kind]| {
            let of = KINDS.iter().filter(|(_, known)| kinds.contains(known));
            of.map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        };
        let name = names(&[*kind.get_ref()]);
        problems.push(
            Problem::new(format!("`{key}`, and the check is {name}"))
                .at(span)
                .context(kind.span(), "the check")
                .help(format!("it belongs to check = {}; leave it out", names(kinds))),
        );
    }
}

/// The way of the traffic, unless another one is asked for.
fn via(
    table: &HealthTable,
    mode: Option<Mode>,
    backends: &[BackendTable],
    problems: &mut Problems,
) -> Option<Via> {
    let owns_vip = matches!(mode, Some(Mode::Dr | Mode::Tunnel));
    let default = if owns_vip { Via::Vip } else { Via::Address };
    let via = or_default(&table.via, default, problems, |text| {
        let via = choice("a way", text, &[("address", Via::Address), ("vip", Via::Vip)])?;
        match mode.filter(|_| via == Via::Vip && !owns_vip) {
            Some(mode) => Err(Problem::new(format!("backends of mode \"{mode}\" do not have the VIP"))
                .help("their own addresses are where clients' packets go too: leave `via` out")),
            None => Ok(via),
        }
    })?;
    for span in backends.iter().filter_map(|backend| place(&backend.check_address)) {
        if via == Via::Vip {
            problems.push(
                Problem::new("`check_address`, and the VIP is what is checked")
                    .at(span)
                    .help("leave it out, or let checks go to addresses: `via = \"address\"`"),
            );
        }
    }
    Some(via)
}

/// What is said about a service that is down must come to something.
fn service_down_matters(service: &ServiceTable, table: &HealthTable, problems: &mut Problems) {
    let withdraws = table.withdraw.value().is_some_and(|withdraw| *withdraw.get_ref());
    let has_effect = withdraws || !matches!((&service.sorry, &table.notify), (Field::Absent, Field::Absent));
    if let Some(span) = place(&table.quorum).filter(|_| !has_effect) {
        problems.push(Problem::new("`quorum`, and nothing depends on it").at(span).help(
            "below it a sorry server takes new connections (`[service.sorry]`), the VIP leaves the network (`withdraw = true`), \
             or a hook is told (`notify`): say one of them, or leave `quorum` out",
        ));
    }
    let announce = service.announce.value().filter(|announce| announce.get_ref() != "arp");
    if let (Some(announce), Some(span)) = (announce, place(&table.withdraw).filter(|_| withdraws)) {
        problems.push(
            Problem::new("`withdraw = true`, and Crossdock does not announce the VIP")
                .at(span)
                .context(announce.span(), "somebody else does")
                .help("let `notify` tell whoever announces it, or let `announce` be \"arp\""),
        );
    }
}

/// Passive checks see what passes the director, and nothing is sent by any way to any place.
fn answers_are_seen(
    table: &HealthTable,
    context: &Context<'_>,
    service: &ServiceTable,
    problems: &mut Problems,
) {
    if let Some(mode) = context.mode.filter(|mode| !mode.has_answers()) {
        problems.push(
            Problem::new(format!("check = \"passive\" in mode \"{mode}\""))
                .at(table.place.span.clone())
                .label("answers do not pass the director")
                .help("choose a check that asks, such as check = \"tcp\""),
        );
    }
    let backends = service.backends.value().map_or(&[][..], |backends| backends.get_ref());
    let of_backends =
        backends.iter().flat_map(|backend| [place(&backend.check_address), place(&backend.check_port)]);
    let places = [place(&table.port), place(&table.via), place(&table.timeout)];
    for span in places.into_iter().chain(of_backends).flatten() {
        problems
            .push(Problem::new("a passive check sends nothing to any place").at(span).help("leave it out"));
    }
}

/// Where neither the check nor the backend says a port, and the service listens on several.
fn every_port_is_known(table: &HealthTable, backends: &[BackendDraft], problems: &mut Problems) {
    let unknown = |backend: &&BackendDraft| {
        let own = backend.endpoint.as_ref().and_then(|endpoint| endpoint.get_ref().1);
        own == Some(0) && backend.check_place.is_some_and(|place| place.l4_port.is_none())
    };
    let Some(backend) = backends.iter().find(unknown) else { return };
    let problem = Problem::new("which port of the backends is checked?").at(table.place.span.clone()).help(
        "backends that have no port of their own get each packet at the port it came to: say one, such as `port = 80`",
    );
    problems.push(match &backend.endpoint {
        Some(endpoint) => problem.context(endpoint.span(), "has none"),
        None => problem,
    });
}

/// `interval` and `timeout`.
fn times(table: &HealthTable, problems: &mut Problems) -> Option<(Duration, Duration)> {
    let interval = or_default(&table.interval, INTERVAL_DEFAULT, problems, |text| {
        duration("an interval of checks", text, INTERVAL_MIN, INTERVAL_MAX)
    });
    let default = interval.map_or(TIMEOUT_DEFAULT, |interval| interval.min(TIMEOUT_DEFAULT));
    let timeout = or_default(&table.timeout, default, problems, |text| {
        let timeout = duration("a timeout of checks", text, TIMEOUT_MIN, INTERVAL_MAX)?;
        match interval.filter(|interval| timeout > *interval) {
            Some(interval) => Err(Problem::new(format!(
                "a check may take {text}, and the next one begins after {}",
                duration_text(interval)
            ))
            .help("let `timeout` be at most `interval`")),
            None => Ok(timeout),
        }
    });
    Some((interval?, timeout?))
}

fn streak(field: &Field<i128>, key: &str, default: u32, problems: &mut Problems) -> Option<u32> {
    or_default(field, default, problems, |&value| whole(key, value, 1, STREAK_MAX.into()))
}
