//! Settings that a virtual server has, a real server may change for itself, and a check for itself again; and single values.

use super::tree::Statement;
use crate::import::draft::Way;
use crate::ipvsadm::command::{Checksum, Tunnel};

/// When checks come, and what a failure does. Where nothing is said keepalived's defaults are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) delay_loop_ms: Option<u64>,
    pub(super) connect_timeout_ms: Option<u64>,
    pub(super) retry: Option<u32>,
    pub(super) alpha: bool,
    pub(super) inhibit: bool,
    pub(super) virtualhost: Option<String>,
}

/// What became of a statement.
pub(super) enum Taken {
    Yes,
    /// It is known, and has no counterpart, for this reason.
    Note(&'static str),
    /// Its value is wrong; this is allowed.
    Wrong(&'static str),
    /// Another one's.
    No,
}

impl Settings {
    pub(super) fn take(&mut self, statement: &Statement) -> Taken {
        let milliseconds = || statement.argument().and_then(milliseconds);
        let set = |place: &mut Option<u64>| match milliseconds() {
            Some(value) => {
                *place = Some(value);
                Taken::Yes
            }
            None => Taken::Wrong("seconds, such as 3 or 2.5"),
        };
        match statement.keyword() {
            "delay_loop" => set(&mut self.delay_loop_ms),
            "connect_timeout" => set(&mut self.connect_timeout_ms),
            "retry" | "nb_get_retry" => match statement.argument().and_then(|text| text.parse().ok()) {
                Some(retry) => {
                    self.retry = Some(retry);
                    Taken::Yes
                }
                None => Taken::Wrong("a number of 0 and more"),
            },
            "alpha" => self::set(&mut self.alpha, statement),
            "inhibit_on_failure" => self::set(&mut self.inhibit, statement),
            "virtualhost" => match statement.argument() {
                Some(host) => {
                    self.virtualhost = Some(host.to_owned());
                    Taken::Yes
                }
                None => Taken::Wrong("the name of a host"),
            },
            "delay_before_retry" => {
                Taken::Note("a check that failed is repeated after `interval`, as any other")
            }
            "warmup" => Taken::Note("checks begin at random within `interval` by themselves"),
            "log_all_failures" => Taken::Note("`status` shows the last failure and counts them"),
            "smtp_alert" => Taken::Note(
                "mail is sent by nobody here: `notify` of [service.health] runs a program of yours",
            ),
            "snmp_name" => Taken::Note("there is no SNMP here: docs/metrics.md"),
            _ => Taken::No,
        }
    }
}

fn set(place: &mut bool, statement: &Statement) -> Taken {
    match statement.argument().map_or(Some(true), boolean) {
        Some(value) => {
            *place = value;
            Taken::Yes
        }
        None => Taken::Wrong("on, off, true, false, yes or no"),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// TIMER: seconds with a fraction.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| is_number)?;
    // A year; beyond a thousandth of a second nothing is told apart.
    (seconds <= 31_536_000.0).then(|| (seconds * 1_000.0).round() as u64)
}

/// `NAT`, `DR`, or `TUN [type {ipip|gue port NUM|gre} [nocsum|csum|remcsum]]`.
pub(super) fn way(words: &[String]) -> Option<Way> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (method, words) = words.split_first()?;
    match (method.to_ascii_uppercase().as_str(), words) {
        ("NAT", []) => Some(Way::Nat),
        ("DR", []) => Some(Way::Dr),
        ("TUN", []) => Some(Way::Tunnel(Tunnel::Ipip)),
        ("TUN", ["type", rest @ ..]) => tunnel(rest).map(Way::Tunnel),
        _ => None,
    }
}

fn tunnel(words: &[&str]) -> Option<Tunnel> {
    let (words, checksum) = match words {
        [words @ .., "nocsum"] => (words, Checksum::No),
        [words @ .., "csum"] => (words, Checksum::Yes),
        [words @ .., "remcsum"] => (words, Checksum::Remote),
        words => (words, Checksum::No),
    };
    match words {
        ["ipip"] => Some(Tunnel::Ipip),
        ["gre"] => Some(Tunnel::Gre { checksum }),
        ["gue", "port", l4_port] => {
            let l4_port = l4_port.parse().ok().filter(|l4_port| *l4_port > 0)?;
            Some(Tunnel::Gue { l4_port, checksum })
        }
        _ => None,
    }
}
