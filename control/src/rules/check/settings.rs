//! `[dataplane]`, `[control]` and `[slow_path]`: values that depend on no other.

use std::path::PathBuf;

use dataplane::index::WORKERS_MAX;
use toml::Spanned;

use super::{each, no_duplicates, no_more_than, or_default};
use crate::rules::checked::{CORE_COUNT_MAX, Control, Dataplane, Idle, Memory, SlowPath, Workers};
use crate::rules::device::SOCKET_PATH_BYTES_MAX;
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{ControlTable, DataplaneTable, SlowPathTable, WorkersField};
use crate::rules::values::{choice, whole};

const MAX_FLOWS_DEFAULT: u32 = 1_000_000;
const MAX_FLOWS_MIN: i128 = 1 << 10;
const MAX_FLOWS_MAX: i128 = 1 << 28;

const SOCKET_DEFAULT: &str = "/run/crossdock/crossdock.sock";

/// ARP and routing are a few packets per neighbour and second; local leaves room for SSH and health checks;
/// the rest is mostly scans. All together stay well below the 0.8 Mpps that one core writes to a TAP
/// (measured).
const SLOW_PATH_DEFAULT: SlowPath = SlowPath { arp: 2_000, routing: 20_000, local: 50_000, rest: 1_000 };
const SLOW_PATH_MAX: i128 = 10_000_000;

pub(super) fn dataplane(table: &DataplaneTable, problems: &mut Problems) -> Option<Dataplane> {
    let memories = [("auto", Memory::Auto), ("huge", Memory::Huge), ("plain", Memory::Plain)];
    let idles = [("poll", Idle::Poll), ("yield", Idle::Yield), ("sleep", Idle::Sleep)];
    let workers = workers(&table.workers, problems);
    let memory =
        or_default(&table.memory, Memory::Auto, problems, |text| choice("a kind of memory", text, &memories));
    let max_flows = or_default(&table.max_flows, MAX_FLOWS_DEFAULT, problems, |&value| {
        whole("max_flows", value, MAX_FLOWS_MIN, MAX_FLOWS_MAX)
    });
    let idle = or_default(&table.idle, Idle::Poll, problems, |text| choice("a way to be idle", text, &idles));
    Some(Dataplane { workers: workers?, memory: memory?, max_flows: max_flows?, idle: idle? })
}

fn workers(field: &WorkersField, problems: &mut Problems) -> Option<Workers> {
    let cores = match field {
        WorkersField::Word(word) => {
            return or_default(word, Workers::Auto, problems, |text| match text.as_str() {
                "auto" => Ok(Workers::Auto),
                _ => Err(Problem::new(format!("{text:?} says nothing about workers"))
                    .near(text, ["auto"])
                    .help("allowed: \"auto\", or a list of cores such as [2, 3]")),
            });
        }
        WorkersField::Cores(cores) => cores,
    };
    let highest = CORE_COUNT_MAX as i128 - 1;
    let list: Vec<Spanned<usize>> = each(cores, problems, |&core| whole("a core", core, 0, highest));
    no_duplicates(list.iter().map(|core| (*core.get_ref(), core.span())), problems, |core| {
        Problem::new(format!("core {core} is listed twice")).help("one worker per core")
    });
    no_more_than(WORKERS_MAX, "workers", &list, problems);
    if let Field::Value(written) = cores
        && written.get_ref().is_empty()
    {
        let problem = Problem::new("`workers` is an empty list")
            .help("allowed: \"auto\", or a list of cores such as [2, 3]");
        problems.push(problem.at(written.span()));
    }
    Some(Workers::Cores(list.into_iter().map(Spanned::into_inner).collect()))
}

pub(super) fn control(table: &ControlTable, problems: &mut Problems) -> Option<Control> {
    let socket = or_default(&table.socket, PathBuf::from(SOCKET_DEFAULT), problems, |text| {
        let fits = text.len() <= SOCKET_PATH_BYTES_MAX && !text.contains('\0');
        if text.starts_with('/') && !text.ends_with('/') && fits {
            return Ok(PathBuf::from(text));
        }
        Err(Problem::new(format!("{text:?} is not a path for a socket")).help(format!(
            "an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes, such as `{SOCKET_DEFAULT}`"
        )))
    });
    Some(Control { socket: socket? })
}

pub(super) fn slow_path(table: &SlowPathTable, problems: &mut Problems) -> Option<SlowPath> {
    let mut rate = |field: &Field<i128>, default: u32| {
        or_default(field, default, problems, |&value| {
            whole("a rate in packets per second", value, 1, SLOW_PATH_MAX)
        })
    };
    let arp = rate(&table.arp, SLOW_PATH_DEFAULT.arp);
    let routing = rate(&table.routing, SLOW_PATH_DEFAULT.routing);
    let local = rate(&table.local, SLOW_PATH_DEFAULT.local);
    let rest = rate(&table.rest, SLOW_PATH_DEFAULT.rest);
    Some(SlowPath { arp: arp?, routing: routing?, local: local?, rest: rest? })
}
