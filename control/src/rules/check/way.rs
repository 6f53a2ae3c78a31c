//! What a service's rules say about the way of its packets: how backends are told who their client is, how large segments are.

use std::ops::Range;

use dataplane::wire::client_option::{TOA_DEFAULT, UOA_DEFAULT};

use super::policy::place;
use super::services::{Context, ServiceDraft};
use super::{optional, or_default};
use crate::rules::checked::{ClientAddress, Mode, Mss, Protocol};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{MssField, ServiceTable};
use crate::rules::values::{choice, whole};
use crate::rules::words::CLIENT_ADDRESS;

/// Kinds of TCP options that nobody else's are: IANA's list ends below, but for two experiments.
const TOA_OPTIONS: (i128, i128) = (70, 255);
/// Types of IPv4 options of class control that fragments do not repeat and nobody uses (RFC 791 section 3.1).
const UOA_OPTIONS: (i128, i128) = (26, 31);
/// Segment sizes: what a receiver of the smallest datagrams takes, and what the longest packet has room for.
const MSS: (i128, i128) = (216, 65_495);

/// `client_address`, with `toa_option` and `uoa_option`.
pub(super) fn client_address(
    table: &ServiceTable,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Option<ClientAddress> {
    let wanted = or_default(&table.client_address, ClientAddress::Hidden, problems, |text| {
        let wanted = choice("a value of `client_address`", text, &CLIENT_ADDRESS)?;
        suits(wanted, text, service)?;
        Ok(wanted)
    });
    let said = table.client_address.value().map(|text| text.get_ref().as_str());
    let toa = option(&table.toa_option, ("toa_option", "toa", TOA_OPTIONS), said, problems);
    let uoa = option(&table.uoa_option, ("uoa_option", "uoa", UOA_OPTIONS), said, problems);
    Some(match wanted? {
        ClientAddress::Toa(_) => ClientAddress::Toa(toa?.unwrap_or(TOA_DEFAULT)),
        ClientAddress::Uoa(_) => ClientAddress::Uoa(uoa?.unwrap_or(UOA_DEFAULT)),
        other => {
            toa?;
            uoa?;
            other
        }
    })
}

/// Whether the service has packets that can be told by, all of them.
fn suits(wanted: ClientAddress, text: &str, service: &Context<'_>) -> Result<(), Problem> {
    if wanted != ClientAddress::Hidden && service.mode.is_some_and(|mode| mode != Mode::Fullnat) {
        return Err(Problem::new(format!(
            "client_address = {text:?} in a mode that keeps the client's address"
        ))
        .help("leave it out: only in mode \"fullnat\" do backends see another address than the client's"));
    }
    let (others, help) = match wanted {
        ClientAddress::Hidden => return Ok(()),
        ClientAddress::Proxy(_) => (
            [Protocol::Udp, Protocol::Sctp, Protocol::Icmp],
            "the header goes in front of a TCP stream: listen on TCP alone",
        ),
        ClientAddress::Toa(_) => {
            ([Protocol::Udp, Protocol::Sctp, Protocol::Icmp], "it is an option of TCP: listen on TCP alone")
        }
        ClientAddress::Uoa(_) => (
            [Protocol::Tcp, Protocol::Sctp, Protocol::Icmp],
            "it is for datagrams: listen on UDP alone, and use \"toa\" for TCP",
        ),
    };
    let other = others.into_iter().find(|other| service.listens.complete && service.listens.may_have(*other));
    if let Some(other) = other {
        return Err(
            Problem::new(format!("client_address = {text:?}, and the service listens on {other}")).help(help)
        );
    }
    Ok(())
}

/// The option is one of the IPv4 header: what goes to an IPv6 backend has none.
pub(super) fn uoa_needs_ipv4(service: &ServiceDraft, problems: &mut Problems) {
    if !service.policy.as_ref().is_some_and(|policy| matches!(policy.client_address, ClientAddress::Uoa(_))) {
        return;
    }
    let endpoints = service.endpoints().filter(|endpoint| endpoint.get_ref().0.is_ipv6());
    for endpoint in endpoints {
        problems.push(
            Problem::new("client_address = \"uoa\", and a backend is reached by IPv6")
                .at(endpoint.span())
                .label("its packets have no IPv4 header")
                .help("give it an IPv4 address; or leave `client_address` out, and use mode \"dr\""),
        );
    }
}

/// The number of an option, or none; nothing when it is wrong.
fn option(
    field: &Field<i128>,
    (key, word, (min, max)): (&str, &str, (i128, i128)),
    said: Option<&str>,
    problems: &mut Problems,
) -> Option<Option<u8>> {
    let number = optional(field, problems, |&number| {
        if said != Some(word) {
            return Err(
                Problem::new(format!("`{key}` without client_address = {word:?}")).help("leave it out")
            );
        }
        whole(key, number, min, max)
    });
    match (number, field) {
        (Some(number), _) => Some(Some(number.into_inner())),
        (None, Field::Absent) => Some(None),
        (None, _) => None,
    }
}

/// `mss`
pub(super) fn mss(field: &MssField, problems: &mut Problems) -> Option<Mss> {
    match field {
        MssField::Word(word) => or_default(word, Mss::Kept, problems, |text| {
            choice("a value of `mss`", text, &[("clamp", Mss::Clamped)])
        }),
        MssField::Number(number) => or_default(number, Mss::Kept, problems, |&bytes| {
            whole("mss", bytes, MSS.0, MSS.1).map(Mss::AtMost)
        }),
    }
}

/// Where `mss` stands, when it is there.
pub(super) fn place_of_mss(field: &MssField) -> Option<Range<usize>> {
    match field {
        MssField::Word(word) => place(word),
        MssField::Number(number) => place(number),
    }
}
