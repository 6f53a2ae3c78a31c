//! `[service.server_ids]`, `[[service.quic_lb]]` and the backends' `server_id`: packets that name their backends.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use dataplane::rules::route::{CONFIGURATIONS_MAX, NONCE_LEN_MIN, PLAINTEXT_LEN_MAX, SERVER_ID_LEN_MAX};
use toml::Spanned;

use super::backends::{BackendDraft, endpoint_of};
use super::services::Context;
use super::{no_duplicates, optional, or_default, prefixes, required};
use crate::rules::checked::{Endpoint, Mode, Protocol, Routes};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{QuicLbTable, ServerIdsTable, ServiceTable};
use crate::rules::routes::{DatagramIds, QuicLbConfiguration};
use crate::rules::values::{choice, whole};

/// Bits of the greatest server ID in a TCP option, and in a connection ID of mvfst.
const TCP_OPTION_BITS: u32 = 32;
const MVFST_BITS: u32 = 24;
/// Within the payload of any Ethernet frame.
const OFFSET_MAX: i128 = 1_400;
/// Bytes of an ID at a fixed place.
const LENGTH_MAX: i128 = 8;

/// `datagrams` of `[service.server_ids]`
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    QuicLb,
    Mvfst,
    Offset,
}

const KINDS: [(&str, Kind); 3] =
    [("quic-lb", Kind::QuicLb), ("mvfst", Kind::Mvfst), ("offset", Kind::Offset)];

pub(super) fn check(
    table: &ServiceTable,
    service: &Context<'_>,
    backends: &[BackendDraft],
    directory: &Path,
    problems: &mut Problems,
) -> Option<Routes> {
    let prefixes = prefixes::check(table, service, backends, directory, problems);
    let before = problems.len();
    let quic_lb = quic_lb(&table.quic_lb, problems);
    let (datagrams, tcp_option) = match table.server_ids.value() {
        Some(ids) => {
            let ids = ids.get_ref();
            (datagrams(ids, table, quic_lb, service, problems), tcp_option(ids, service, problems))
        }
        None => {
            if let Some(tables) = table.quic_lb.value() {
                problems.push(without_use("[[service.quic_lb]]").at(tables.span()));
            }
            (None, None)
        }
    };
    let server_ids = server_ids(table, backends, greatest(datagrams.as_ref(), tcp_option), problems);
    let is_read = problems.len() == before
        && !matches!(table.server_ids, Field::Unreadable)
        && !matches!(table.quic_lb, Field::Unreadable);
    is_read.then_some(())?;
    Some(Routes { datagrams, tcp_option, server_ids: server_ids?, prefixes: prefixes?.map(Arc::new) })
}

fn without_use(what: &str) -> Problem {
    Problem::new(format!("{what}, and no packet is asked for a server ID"))
        .help("`[service.server_ids]` says where packets have one: datagrams = \"quic-lb\" for example")
}

/// `datagrams` with what belongs to its value.
fn datagrams(
    ids: &ServerIdsTable,
    table: &ServiceTable,
    quic_lb: Vec<QuicLbConfiguration>,
    service: &Context<'_>,
    problems: &mut Problems,
) -> Option<DatagramIds> {
    let kind = optional(&ids.datagrams, problems, |text| {
        let kind = choice("where datagrams have a server ID", text, &KINDS)?;
        listens_on(service, Protocol::Udp, "`datagrams`")?;
        Ok(kind)
    });
    if matches!((&ids.datagrams, &ids.tcp_option), (Field::Absent, Field::Absent)) {
        problems.push(
            Problem::new("[service.server_ids] says nowhere that packets have a server ID")
                .at(ids.place.span.clone())
                .label("`datagrams` or `tcp_option` is needed here"),
        );
    }
    let kind = kind.map(|kind| *kind.get_ref());
    // Of a value that could not be read nobody knows what belongs to it.
    if kind.is_some() || matches!(ids.datagrams, Field::Absent) {
        belongs_to(&ids.offset, "`offset`", "offset", kind == Some(Kind::Offset), problems);
        belongs_to(&ids.length, "`length`", "offset", kind == Some(Kind::Offset), problems);
        belongs_to(&table.quic_lb, "[[service.quic_lb]]", "quic-lb", kind == Some(Kind::QuicLb), problems);
    }
    match kind? {
        Kind::Mvfst => Some(DatagramIds::Mvfst),
        Kind::Offset => at_offset(ids, problems),
        Kind::QuicLb => {
            if matches!(table.quic_lb, Field::Absent) {
                problems.push(
                    Problem::new("datagrams = \"quic-lb\" without a configuration")
                        .at(ids.place.span.clone())
                        .help("a [[service.quic_lb]] says how servers make connection IDs: `server_id_length` and `nonce_length`"),
                );
            }
            Some(DatagramIds::QuicLb(quic_lb))
        }
    }
}

fn at_offset(ids: &ServerIdsTable, problems: &mut Problems) -> Option<DatagramIds> {
    let offset = required(&ids.offset, (&ids.place, "offset"), problems, |&offset| {
        whole::<u16>("an offset into the payload", offset, 0, OFFSET_MAX)
    });
    let len = required(&ids.length, (&ids.place, "length"), problems, |&length| {
        whole::<u8>("the length of a server ID", length, 1, LENGTH_MAX)
    });
    Some(DatagramIds::At { offset: offset?.into_inner(), len: len?.into_inner() })
}

/// Notes a key that only another value of `datagrams` gives a meaning.
fn belongs_to<T>(field: &Field<T>, what: &str, value: &str, has_it: bool, problems: &mut Problems) {
    if let (Field::Value(written), false) = (field, has_it) {
        problems.push(
            Problem::new(format!("{what} is read with datagrams = \"{value}\" only")).at(written.span()),
        );
    }
}

fn tcp_option(ids: &ServerIdsTable, service: &Context<'_>, problems: &mut Problems) -> Option<u8> {
    let kind = optional(&ids.tcp_option, problems, |&kind| {
        // The kinds that every stack has (RFC 9293 section 3.1) mean what they mean.
        let kind = whole("the kind of a TCP option", kind, 3, 255)?;
        listens_on(service, Protocol::Tcp, "`tcp_option`")?;
        if matches!(service.mode, Some(Mode::Fullnat | Mode::Snat)) {
            return Err(Problem::new("`tcp_option` in mode \"fullnat\"").help(
                "a backend knows a connection by the local address that its director gave it, which another director does not know",
            ));
        }
        Ok(kind)
    });
    kind.map(Spanned::into_inner)
}

fn listens_on(service: &Context<'_>, protocol: Protocol, what: &str) -> Result<(), Problem> {
    if service.listens.may_have(protocol) {
        return Ok(());
    }
    Err(Problem::new(format!("{what} in a service that does not listen on {protocol}")))
}

/// The configurations that could be read.
fn quic_lb(field: &Field<Vec<QuicLbTable>>, problems: &mut Problems) -> Vec<QuicLbConfiguration> {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let code_points: Vec<_> = tables
        .iter()
        .filter_map(|table| {
            let number = table.code_point.value().map_or(0, |number| *number.get_ref());
            let span = table.code_point.value().map_or(table.place.span.clone(), Spanned::span);
            (!matches!(table.code_point, Field::Unreadable)).then_some((number, span))
        })
        .collect();
    no_duplicates(code_points, problems, |code_point| {
        Problem::new(format!("two configurations with code point {code_point}"))
            .help("connection IDs say by their first three bits which one they are of: `code_point` 0 to 6")
    });
    tables.iter().filter_map(|table| configuration(table, problems)).collect()
}

fn configuration(table: &QuicLbTable, problems: &mut Problems) -> Option<QuicLbConfiguration> {
    let code_point = or_default(&table.code_point, 0, problems, |&number| {
        whole("a code point", number, 0, CONFIGURATIONS_MAX as i128 - 1)
    });
    let place = &table.place;
    let server_id_len = required(&table.server_id_length, (place, "server_id_length"), problems, |&len| {
        whole::<usize>("the length of a server ID in bytes", len, 1, SERVER_ID_LEN_MAX as i128)
    });
    let nonce_len = required(&table.nonce_length, (place, "nonce_length"), problems, |&len| {
        let most = PLAINTEXT_LEN_MAX - server_id_len.as_ref().map_or(1, |len| *len.get_ref());
        whole::<usize>("the length of a nonce in bytes", len, NONCE_LEN_MIN as i128, most as i128)
    });
    let key = optional(&table.key, problems, |text| key(text));
    let encodes_length = or_default(&table.encodes_length, false, problems, |&encodes| Ok(encodes));
    if key.is_none() && !matches!(table.key, Field::Absent) {
        return None;
    }
    Some(QuicLbConfiguration {
        code_point: code_point?,
        server_id_len: server_id_len?.into_inner(),
        nonce_len: nonce_len?.into_inner(),
        key: key.map(Spanned::into_inner),
        encodes_length: encodes_length?,
    })
}

/// 16 bytes; what is wrong is told without what was written.
fn key(text: &str) -> Result<[u8; 16], Problem> {
    let problem =
        || Problem::new("the key is not 32 hexadecimal digits").help("AES-128 has a key of 16 bytes");
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(problem());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| problem())?;
    Ok(number.to_be_bytes())
}

/// The lowest and the greatest server ID that a packet can have, if it can have any.
fn greatest(datagrams: Option<&DatagramIds>, tcp_option: Option<u8>) -> Option<(i128, i128)> {
    let bytes = |len: usize| 8 * len as u32;
    let of_datagrams = datagrams.map(|ids| match ids {
        DatagramIds::QuicLb(list) => {
            (0, list.iter().map(|one| bytes(one.server_id_len)).max().unwrap_or(bytes(SERVER_ID_LEN_MAX)))
        }
        DatagramIds::Mvfst => (1, MVFST_BITS),
        DatagramIds::At { len, .. } => (1, bytes((*len).into())),
    });
    let all = of_datagrams.into_iter().chain(tcp_option.map(|_| (1, TCP_OPTION_BITS)));
    all.reduce(|(a, b), (c, d)| (a.min(c), b.max(d))).map(|(least, bits)| (least, (1 << bits) - 1))
}

/// Whose server IDs there are.
fn server_ids(
    table: &ServiceTable,
    backends: &[BackendDraft],
    possible: Option<(i128, i128)>,
    problems: &mut Problems,
) -> Option<Vec<(u128, Endpoint)>> {
    let mut first: HashMap<i128, Range<usize>> = HashMap::new();
    let mut list = Vec::new();
    for backend in backends {
        let endpoint = backend.endpoint.clone().and_then(endpoint_of);
        for id in backend.server_ids.as_ref()? {
            let (number, span) = (*id.get_ref(), id.span());
            match possible {
                None if matches!(table.server_ids, Field::Absent) => {
                    problems.push(without_use("`server_id`").at(span));
                    return None;
                }
                // What is wrong there has been told.
                None => {}
                Some((least, most)) if !(least..=most).contains(&number) => problems.push(
                    Problem::new(format!("{number:#x} is out of range for a server ID"))
                        .at(span)
                        .help(format!("packets of this service can have {least} to {most:#x}")),
                ),
                Some(_) => match first.get(&number) {
                    Some(earlier) => problems.push(
                        Problem::new(format!("two backends have the server ID {number:#x}"))
                            .at(span)
                            .context(earlier.clone(), "first here"),
                    ),
                    None => {
                        first.insert(number, span);
                        list.extend(endpoint.map(|endpoint| (number as u128, endpoint)));
                    }
                },
            }
        }
    }
    if let (Some(ids), true, true) = (table.server_ids.value(), list.is_empty(), problems.is_empty()) {
        problems.push(
            Problem::new("[service.server_ids], and no backend has a server ID")
                .at(ids.span())
                .help("give the backends theirs: `server_id = 0x31441a`, or a list of such"),
        );
    }
    Some(list)
}
