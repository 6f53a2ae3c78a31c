//! What each kind of check asks: one key after the other, then what they come to.

use std::fmt::Display;
use std::path::Path;

use hickory_proto::rr::{Name, RecordType};
use toml::Spanned;

use super::super::policy::place;
use super::super::{each, or_default, required};
use super::{Kind, tls};
use crate::rules::error::{Problem, Problems};
use crate::rules::file::{HealthTable, StatusField};
use crate::rules::health::{
    Argv, Check, DnsCheck, GrpcCheck, HttpCheck, PassiveCheck, StatusRanges, UdpCheck,
};
use crate::rules::values::whole;

/// Bytes of a datagram that leaves in one piece, whatever its way: the least MTU of IPv6 without its headers.
const SEND_BYTES_MAX: usize = 1_232;
/// One client that tries thrice is not enough.
const ATTEMPTS_DEFAULT: u32 = 5;
/// Its length is written into seven bits.
const GRPC_SERVICE_BYTES_MAX: usize = 127;

pub(super) fn check(
    table: &HealthTable,
    kind: &Spanned<Kind>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<Check> {
    match kind.get_ref() {
        Kind::Tcp => Some(Check::Tcp),
        Kind::Http => http(table, problems).map(Check::Http),
        Kind::Https => {
            let http = http(table, problems);
            let host = http.as_ref().and_then(|http| http.host.as_deref());
            let tls = tls::check(table, kind, (directory, host), &["http/1.1"], problems);
            Some(Check::Https(http?, tls?))
        }
        Kind::Tls => tls::check(table, kind, (directory, None), &[], problems).map(Check::Tls),
        Kind::Udp => udp(table, problems).map(Check::Udp),
        Kind::Dns => dns(table, problems).map(Check::Dns),
        Kind::Grpc => grpc(table, kind, directory, problems).map(Check::Grpc),
        Kind::Passive => {
            let attempts = or_default(&table.attempts, ATTEMPTS_DEFAULT, problems, |&value| {
                whole("attempts", value, 1, 1_000_000)
            });
            Some(Check::Passive(PassiveCheck { attempts: attempts? }))
        }
        Kind::Script => {
            let argv = required(&table.argv, (&table.place, "argv"), problems, |written| argv(written));
            argv.map(Spanned::into_inner).map(Check::Script)
        }
    }
}

/// A program by its whole path: which of several of a name is meant would depend on who asks.
pub(super) fn argv(written: &[Spanned<String>]) -> Result<Argv, Problem> {
    let help = "the program's whole path, then its arguments, each by itself: `[\"/usr/local/bin/check\", \"-v\"]`; there is no shell";
    let Some(program) = written.first() else { return Err(Problem::new("no program is named").help(help)) };
    if !program.get_ref().starts_with('/') {
        return Err(
            Problem::new(format!("{:?} is not the whole path of a program", program.get_ref())).help(help)
        );
    }
    if written.iter().any(|word| word.get_ref().contains('\0')) {
        return Err(Problem::new("a NUL, where the kernel's words end").help("leave it out"));
    }
    Ok(Argv(written.iter().map(|word| word.get_ref().clone()).collect()))
}

fn udp(table: &HealthTable, problems: &mut Problems) -> Option<UdpCheck> {
    let send = or_default(&table.send, String::new(), problems, |text| {
        if text.len() > SEND_BYTES_MAX {
            let problem = Problem::new(format!("{} bytes do not fit a datagram on every way", text.len()));
            return Err(problem.help(format!("at most {SEND_BYTES_MAX}")));
        }
        Ok(text.clone())
    });
    let expect = or_default(&table.expect, None, problems, |text| Ok(Some(text.clone())));
    Some(UdpCheck { send: send?, expect: expect? })
}

fn dns(table: &HealthTable, problems: &mut Problems) -> Option<DnsCheck> {
    let name = required(&table.query, (&table.place, "query"), problems, |text| {
        let mut name = Name::from_ascii(text)
            .map_err(|_| not(text, "a domain name").help("such as `www.example.org`"))?;
        name.set_fqdn(true);
        Ok(name)
    });
    let record_type = or_default(&table.record_type, RecordType::A, problems, |text| {
        let known = ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"];
        text.parse().ok().filter(|_| known.contains(&text.as_str())).ok_or_else(|| {
            not(text, "a type of DNS records")
                .near(text, known)
                .help(format!("allowed: {}", known.join(", ")))
        })
    });
    Some(DnsCheck { name: name?.into_inner(), record_type: record_type? })
}

fn grpc(
    table: &HealthTable,
    kind: &Spanned<Kind>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<GrpcCheck> {
    let service = or_default(&table.grpc_service, String::new(), problems, |text| {
        if text.len() > GRPC_SERVICE_BYTES_MAX {
            return Err(
                not(text, "the name of a gRPC service").help("at most 127 bytes, such as `shop.v1.Orders`")
            );
        }
        Ok(text.clone())
    });
    let is_secured =
        [place(&table.ca), place(&table.insecure), place(&table.sni)].iter().any(Option::is_some);
    let tls = match is_secured {
        true => Some(tls::check(table, kind, (directory, None), &["h2"], problems)?),
        false => None,
    };
    Some(GrpcCheck { service: service?, tls })
}

/// The request of `"http"` and `"https"`.
fn http(table: &HealthTable, problems: &mut Problems) -> Option<HttpCheck> {
    let method = or_default(&table.method, "GET".to_owned(), problems, |text| {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        fits(text, "a method of HTTP", is_token, "such as `GET` or `HEAD`")
    });
    let path = or_default(&table.path, "/".to_owned(), problems, |text| {
        let help = "a path begins with a slash and has no space, such as `/healthz`";
        let path = fits(text, "a path", |c| c.is_ascii_graphic() && c != '#', help)?;
        if path.starts_with('/') { Ok(path) } else { Err(not(text, "a path").help(help)) }
    });
    let host = or_default(&table.host, None, problems, |text| {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        fits(text, "a host", is_host, "such as `www.example.org`").map(Some)
    });
    let has_no_body = method.as_deref() == Some("HEAD");
    let body = or_default(&table.body, None, problems, |text| match text.as_str() {
        _ if has_no_body => Err(Problem::new("an answer to HEAD has no body")
            .help("leave `body` out, or let `method` be \"GET\"")),
        "" => Err(Problem::new("every body contains an empty text").help("leave `body` out")),
        text => Ok(Some(text.to_owned())),
    });
    let status = status(&table.status, problems);
    Some(HttpCheck { method: method?, path: path?, host: host?, status: status?, body: body? })
}

fn not(text: &str, what: impl Display) -> Problem {
    Problem::new(format!("{text:?} is not {what}"))
}

/// A text of one character and more, all of them allowed.
fn fits(text: &str, what: &str, is_allowed: impl Fn(char) -> bool, help: &str) -> Result<String, Problem> {
    if text.is_empty() || !text.chars().all(is_allowed) {
        return Err(not(text, what).help(help));
    }
    Ok(text.to_owned())
}

fn status(field: &StatusField, problems: &mut Problems) -> Option<StatusRanges> {
    let texts = match field {
        StatusField::Number(number) => {
            let default = StatusRanges::new(vec![(200, 399)]);
            return or_default(number, default, problems, |&value| {
                let status = whole("a status of HTTP", value, 100, 599)?;
                Ok(StatusRanges::new(vec![(status, status)]))
            });
        }
        StatusField::Texts(texts) => texts,
    };
    let before = problems.len();
    let ranges = each(texts, problems, |text| status_range(text));
    if let (Some(span), true) = (place(texts), ranges.is_empty() && problems.len() == before) {
        problems.push(Problem::new("`status` is an empty list").at(span).help("leave it out"));
    }
    let is_whole = problems.len() == before && !ranges.is_empty();
    is_whole.then(|| StatusRanges::new(ranges.into_iter().map(Spanned::into_inner).collect()))
}

/// `200`, or `200-399`.
fn status_range(text: &str) -> Result<(u16, u16), Problem> {
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(not(text, "a status of HTTP").help("allowed: 100 to 599, or a range such as `\"200-399\"`")),
    }
}
