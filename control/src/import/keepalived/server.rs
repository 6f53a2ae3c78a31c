//! `real_server`: a backend, and how it is checked.

use std::net::IpAddr;

use super::Context;
use super::checker::{self, Found};
use super::service::wrong;
use super::settings::{Settings, Taken, way};
use super::tree::Statement;
use crate::import::Problem;
use crate::import::draft::{Backend, Note, Service, Way};
use crate::rules::Protocol;

/// The backend, its check if it has one that the rules know, and whether it keeps its place when it fails.
pub(super) fn read(
    statement: &Statement,
    (settings, default_way, protocol): (&Settings, Way, Protocol),
    context: &Context<'_>,
    service: &mut Service,
    problems: &mut Vec<Problem>,
) -> Option<(Backend, Option<Found>, bool)> {
    let endpoint = endpoint(statement.arguments(), protocol, context);
    let Ok((address, l4_port)) = endpoint else {
        problems.push(context.problem(statement, wrong(statement, "IP [PORT]")));
        return None;
    };
    let mut backend = Backend::new(address, l4_port, default_way);
    let mut settings = settings.clone();
    let mut checkers = Vec::new();
    for word in statement.block() {
        match settings.take(word) {
            Taken::Yes => continue,
            Taken::Note(why) => {
                service.note(word.words.join(" "), why);
                continue;
            }
            Taken::Wrong(allowed) => {
                problems.push(context.problem(word, wrong(word, allowed)));
                continue;
            }
            Taken::No => {}
        }
        if checker::is_checker(word.keyword()) {
            checkers.push(word);
        } else if let Err(allowed) = take(word, &mut backend) {
            problems.push(context.problem(word, wrong(word, allowed)));
        }
    }
    let mut found = None;
    for word in checkers {
        let read = checker::read(word, &settings, &mut backend, (service, protocol), context, problems);
        match (&found, read) {
            (Some(_), Some(_)) => {
                let why = "a backend has one check, here the first: let a script ask for both";
                backend.notes.push(word.note(why));
            }
            (None, read) => found = read,
            (Some(_), None) => {}
        }
    }
    if let Some(found) = &found {
        backend.check_address = found.address;
        backend.check_l4_port = found.l4_port.or(backend.l4_port);
    }
    Some((backend, found, settings.inhibit))
}

/// # Errors
/// What is allowed.
fn take(word: &Statement, backend: &mut Backend) -> Result<(), &'static str> {
    let number = || word.argument().and_then(|text| text.parse().ok()).ok_or("a number of 0 and more");
    match word.keyword() {
        "weight" => backend.weight = number()?,
        "uthreshold" => backend.max_connections = number()?,
        "lthreshold" => backend.resume_below = number()?,
        "lb_kind" | "lvs_method" => {
            backend.way = way(word.arguments())
                .ok_or("NAT, DR, or TUN [type {ipip|gue port NUM|gre} [nocsum|csum|remcsum]]")?;
        }
        keyword => backend.notes.push(Note::new(word.text(), match keyword {
            "notify_up" | "notify_down" => {
                "`notify` of [service.health] runs one program at every change; CROSSDOCK_BACKEND and CROSSDOCK_STATE tell it this one"
            }
            _ => "keepalived.conf(5) does not know this word here",
        })),
    }
    Ok(())
}

/// `IP [PORT]`
///
/// # Errors
/// What is allowed.
pub(super) fn endpoint(
    words: &[String],
    protocol: Protocol,
    context: &Context<'_>,
) -> Result<(IpAddr, Option<u16>), &'static str> {
    let (address, written) = match words {
        [address] => (address, None),
        [address, l4_port] => (address, Some(l4_port)),
        _ => return Err("IP [PORT]"),
    };
    let address = address.parse().map_err(|_| "an IP address, and perhaps a port behind a space")?;
    let l4_port =
        written.map(|text| l4_port(text, protocol, context).ok_or("a port of 0 to 65535")).transpose()?;
    Ok((address, l4_port.filter(|l4_port| *l4_port > 0)))
}

/// A number, or a name.
pub(super) fn l4_port(text: &str, protocol: Protocol, context: &Context<'_>) -> Option<u16> {
    text.parse().ok().or_else(|| context.names.l4_port(text, protocol))
}
