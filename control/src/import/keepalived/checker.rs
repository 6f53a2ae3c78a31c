//! `TCP_CHECK` and the others: what they ask, in the words of `[service.health]`.

use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::Context;
use super::service::wrong;
use super::settings::{Settings, Taken, milliseconds};
use super::tree::Statement;
use crate::import::Problem;
use crate::import::draft::{Backend, Check, Health, Note, Service};
use crate::ipvsadm::script::words_of;
use crate::rules::Protocol;

/// keepalived's.
const DELAY_LOOP_MS: u64 = 60_000;
const CONNECT_TIMEOUT_MS: u64 = 5_000;
const STATUS_DEFAULT: &str = "200-299";

/// A check as one real server has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its name in the file, and where.
    pub(super) what: String,
    pub(super) health: Health,
    /// `connect_ip`
    pub(super) address: Option<IpAddr>,
    /// `connect_port`
    pub(super) l4_port: Option<u16>,
}

impl Found {
    /// The same for all that ask the same at the same times.
    pub(super) fn key(&self) -> String {
        format!("{:?}", self.health)
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

pub(super) fn is_checker(keyword: &str) -> bool {
    matches!(
        keyword,
        "TCP_CHECK"
            | "HTTP_GET"
            | "SSL_GET"
            | "SMTP_CHECK"
            | "DNS_CHECK"
            | "MISC_CHECK"
            | "UDP_CHECK"
            | "PING_CHECK"
            | "BFD_CHECK"
            | "FILE_CHECK"
    )
}

/// What of a block is about the check itself, by what it is.
struct Reader<'a> {
    statement: &'a Statement,
    address: Option<IpAddr>,
    l4_port: Option<u16>,
    /// What the settings do not know.
    words: Vec<&'a Statement>,
}

/// The check; nothing where the rules have none like it, of which a note tells.
pub(super) fn read(
    statement: &Statement,
    settings: &Settings,
    backend: &mut Backend,
    (service, protocol): (&mut Service, Protocol),
    context: &Context<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Found> {
    let mut settings = settings.clone();
    let mut reader = Reader { statement, address: None, l4_port: None, words: Vec::new() };
    for word in statement.block() {
        match settings.take(word) {
            Taken::Yes => {}
            Taken::Note(why) => service.note(word.words.join(" "), why),
            Taken::Wrong(allowed) => problems.push(context.problem(word, wrong(word, allowed))),
            Taken::No => {
                if let Err(allowed) = reader.take(word, service, protocol, context) {
                    problems.push(context.problem(word, wrong(word, allowed)));
                }
            }
        }
    }
    let mut timeout_ms = settings.connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS);
    let interval_ms = settings.delay_loop_ms.unwrap_or(DELAY_LOOP_MS);
    let mut retries = 1;
    let check = match statement.keyword() {
        "TCP_CHECK" => {
            reader.unknown(backend);
            Check::Tcp
        }
        "HTTP_GET" | "SSL_GET" => reader.http(&settings, backend),
        "SMTP_CHECK" => {
            backend.notes.push(statement.note("nobody speaks SMTP here; the port is checked by \"tcp\""));
            Check::Tcp
        }
        "DNS_CHECK" => {
            retries = 3;
            reader.dns(backend)?
        }
        "UDP_CHECK" => reader.udp(backend)?,
        "MISC_CHECK" => {
            retries = 0;
            timeout_ms = interval_ms;
            if let Some(word) = reader.words.iter().find(|word| word.keyword() == "misc_timeout") {
                match word.argument().and_then(milliseconds) {
                    Some(timeout) => timeout_ms = timeout,
                    None => problems.push(context.problem(word, wrong(word, "seconds"))),
                }
            }
            reader.script(backend)?
        }
        _ => {
            backend.notes.push(
                statement.note("there is no check of this kind; a script can do it: check = \"script\""),
            );
            return None;
        }
    };
    let fall = settings.retry.unwrap_or(retries).saturating_add(1);
    let begins_down = settings.alpha;
    let health = Health { check, interval_ms, timeout_ms, fall, begins_down, inhibit: false, quorum: 1 };
    Some(Found { what: statement.text(), health, address: reader.address, l4_port: reader.l4_port })
}

impl<'a> Reader<'a> {
    /// # Errors
    /// What is allowed.
    fn take(
        &mut self,
        word: &'a Statement,
        service: &mut Service,
        protocol: Protocol,
        context: &Context<'_>,
    ) -> Result<(), &'static str> {
        match word.keyword() {
            "connect_ip" => {
                let address = word.argument().and_then(|text| text.parse().ok());
                self.address = Some(address.ok_or("an IP address")?);
            }
            "connect_port" => {
                let l4_port =
                    word.argument().and_then(|text| super::server::l4_port(text, protocol, context));
                self.l4_port = Some(l4_port.filter(|l4_port| *l4_port > 0).ok_or("a port of 1 to 65535")?);
            }
            "bindto" | "bind_if" | "bind_port" | "fwmark" => {
                let why = "checks go from the twin's own address, by the kernel's routes";
                service.note(word.words.join(" "), why);
            }
            _ => self.words.push(word),
        }
        Ok(())
    }

    /// Of words that are left nobody knows what they are.
    fn unknown(&self, backend: &mut Backend) {
        for word in &self.words {
            backend.notes.push(word.note("keepalived.conf(5) does not know this word here"));
        }
    }

    fn http(&self, settings: &Settings, backend: &mut Backend) -> Check {
        let mut host = settings.virtualhost.clone();
        let (mut path, mut body, mut sni) = (None, None, None);
        let mut status: Vec<String> = Vec::new();
        let mut urls = 0;
        for word in &self.words {
            match word.keyword() {
                "url" if urls == 0 => {
                    urls += 1;
                    url(word, (&mut path, &mut host, &mut status, &mut body), backend);
                }
                "url" => backend.notes.push(word.note("one URL is asked for, the first")),
                "enable_sni" => {}
                "sni_name" => match word.argument().filter(|name| ServerName::try_from(*name).is_ok()) {
                    Some(name) => sni = Some(name.to_owned()),
                    None => backend.notes.push(word.note("TLS asks for the name of a host, or an address")),
                },
                "http_protocol" => {
                    backend.notes.push(word.note("requests are of HTTP/1.1 with `Connection: close`"))
                }
                "fast_recovery" => {
                    backend.notes.push(word.note("with one URL a recovery takes one check: rise = 1"))
                }
                "tls_compliant" => backend.notes.push(word.note("TLS is closed as it should be in any case")),
                _ => backend.notes.push(word.note("keepalived.conf(5) does not know this word here")),
            }
        }
        if status.is_empty() {
            status.push(STATUS_DEFAULT.to_owned());
        }
        if let Some(name) = host.take_if(|name| !is_host_name(name)) {
            backend.notes.push(Note::new(format!("virtualhost {name}"), "a host is a name or an address"));
        }
        Check::Http { is_tls: self.statement.keyword() == "SSL_GET", path, host, sni, status, body }
    }

    fn dns(&self, backend: &mut Backend) -> Option<Check> {
        let (mut name, mut record_type) = (".".to_owned(), "SOA".to_owned());
        for word in &self.words {
            match (word.keyword(), word.argument()) {
                ("name", Some(written)) => written.clone_into(&mut name),
                ("type", Some(written)) => written.clone_into(&mut record_type),
                _ => backend.notes.push(word.note("keepalived.conf(5) does not know this word here")),
            }
        }
        let known =
            ["A", "AAAA", "CNAME", "MX", "NS", "SOA", "TXT", "PTR", "SRV"].contains(&record_type.as_str());
        let is_name = hickory_proto::rr::Name::from_ascii(&name).is_ok();
        if !known || !is_name {
            backend.notes.push(self.statement.note(format!("{record_type} of {name:?} cannot be asked for")));
            return None;
        }
        Some(Check::Dns { name, record_type })
    }

    fn udp(&self, backend: &mut Backend) -> Option<Check> {
        let (mut send, mut expect) = (String::new(), None);
        for word in &self.words {
            let digits = word.arguments().join(" ");
            match word.keyword() {
                "payload" => match text_of(&digits) {
                    Some(text) => send = text,
                    None => {
                        backend.notes.push(
                            self.statement
                                .note("its payload is no text, and texts alone are sent: use a script"),
                        );
                        return None;
                    }
                },
                "require_reply" => {
                    expect = Some(text_of(&digits).unwrap_or_else(|| {
                        backend.notes.push(word.note("it is no text: any answer will do here"));
                        String::new()
                    }));
                }
                "min_reply_length" | "max_reply_length" => {
                    backend.notes.push(word.note("the length of an answer is not looked at"));
                }
                _ => backend.notes.push(word.note("keepalived.conf(5) does not know this word here")),
            }
        }
        Some(Check::Udp { send, expect })
    }

    fn script(&self, backend: &mut Backend) -> Option<Check> {
        let mut argv = Vec::new();
        for word in &self.words {
            match word.keyword() {
                "misc_path" => {
                    argv = word.argument().and_then(words_of).unwrap_or_default();
                    if word.arguments().len() > 1 {
                        backend.notes.push(word.note("scripts run as whoever runs Crossdock: what stands behind the script is left out"));
                    }
                }
                "misc_timeout" => {}
                "misc_dynamic" => backend
                    .notes
                    .push(word.note("a script says whether a backend serves, and nothing about its weight")),
                "user" => backend.notes.push(word.note("scripts run as whoever runs Crossdock")),
                _ => backend.notes.push(word.note("keepalived.conf(5) does not know this word here")),
            }
        }
        let own = backend.address.to_string();
        let names_backend = argv.iter().any(|word| word.contains(&own));
        let why = if !argv.first().is_some_and(|program| program.starts_with('/')) {
            "a script is named by its whole path, without a shell"
        } else if argv.iter().any(|word| word.contains('\0')) {
            "there is a NUL in it"
        } else if names_backend {
            "`argv` is one for all backends: let the script read CROSSDOCK_ADDRESS and CROSSDOCK_PORT, and write check = \"script\""
        } else {
            return Some(Check::Script { argv });
        };
        let path = self.words.iter().find(|word| word.keyword() == "misc_path");
        let what = path.map_or_else(|| self.statement.text(), |path| path.text());
        backend.notes.push(Note::new(what, why));
        None
    }
}

type Url<'a> = (&'a mut Option<String>, &'a mut Option<String>, &'a mut Vec<String>, &'a mut Option<String>);

fn url(statement: &Statement, (path, host, status, body): Url<'_>, backend: &mut Backend) {
    for word in statement.block() {
        let note = match (word.keyword(), word.argument()) {
            ("path", Some(written)) if is_path(written) => {
                *path = Some(written.to_owned());
                continue;
            }
            ("virtualhost", Some(written)) => {
                *host = Some(written.to_owned());
                continue;
            }
            ("status_code", Some(_)) if word.arguments().iter().all(|text| is_status(text)) => {
                status.extend(word.arguments().iter().cloned());
                continue;
            }
            ("regex", Some(written)) if is_plain(written) => {
                *body = Some(written.to_owned());
                continue;
            }
            ("path", _) => "a path begins with a slash and has no space",
            ("status_code", _) => "a status is 100 to 599, or a range of them",
            ("digest", _) => "no digest of an answer is made here; `body` is a text that it must contain",
            ("regex", _) => {
                "there are no regular expressions here; `body` is a text that the answer must contain"
            }
            (
                "regex_no_match" | "regex_options" | "regex_stack" | "regex_min_offset" | "regex_max_offset",
                _,
            ) => "there are no regular expressions here",
            ("tls_compliant", _) => "TLS is closed as it should be in any case",
            _ => "keepalived.conf(5) does not know this word here",
        };
        backend.notes.push(word.note(note));
    }
    // A text that must not be there is another check.
    if statement.block().iter().any(|word| word.keyword().starts_with("regex_")) {
        *body = None;
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && c != '#')
}

fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c))
}

fn is_status(text: &str) -> bool {
    let number = |text: &str| {
        text.parse::<u16>().ok().filter(|status| text.len() == 3 && (100..=599).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    number(first).zip(number(last)).is_some_and(|(first, last)| first <= last)
}

/// A regular expression that means what it says.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || " -_:;,=<>/\"'".contains(c))
}

/// Hexadecimal digits, in groups or not, as a text of characters that can be printed; nothing where they are none.
fn text_of(digits: &str) -> Option<String> {
    let mut bytes = Vec::new();
    for group in digits.split_whitespace() {
        for pair in group.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?);
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')))
}
