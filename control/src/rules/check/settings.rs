//! `[dataplane]`, `[control]` and `[slow_path]`: values that depend on no other.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::fragments::FragmentLimits;
use dataplane::index::WORKERS_MAX;
use toml::Spanned;

use super::{each, no_duplicates, no_more_than, or_default};
use crate::rules::checked::{CORE_COUNT_MAX, Control, Dataplane, Idle, Memory, Remote, SlowPath, Workers};
use crate::rules::device::SOCKET_PATH_BYTES_MAX;
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{ControlTable, DataplaneTable, SlowPathTable, WorkersField};
use crate::rules::tls::ServerTls;
use crate::rules::values::{choice, duration, whole};

const MAX_FLOWS_DEFAULT: u32 = 1_000_000;
const MAX_FLOWS_MIN: i128 = 1 << 10;
const MAX_FLOWS_MAX: i128 = 1 << 28;

/// Below 2^16: what remembers them counts in 16 bits.
const FRAGMENTS_MIN: i128 = 64;
const FRAGMENTS_MAX: i128 = 65_520;
/// Fragments that come before the first of their datagram are few where nothing is wrong, and each keeps a packet buffer:
/// as many may wait as there are datagrams for one.
const DATAGRAMS_A_WAITING_FRAGMENT: u16 = 16;
const FRAGMENT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// RFC 8200 section 4.5; nobody puts a datagram together after that.
const FRAGMENT_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What useradd(8) and groupadd(8) allow a name.
const GROUP_BYTES_MAX: usize = 32;

const SOCKET_DEFAULT: &str = "/run/crossdock/crossdock.sock";

/// ARP and routing are a few packets per neighbour and second; local leaves room for SSH and health checks;
/// the rest is mostly scans. All together stay well below the 0.8 Mpps that one core writes to a TAP
/// (measured).
const SLOW_PATH_DEFAULT: SlowPath = SlowPath { arp: 2_000, routing: 20_000, local: 50_000, rest: 1_000 };
const SLOW_PATH_MAX: i128 = 10_000_000;

pub(super) fn dataplane(table: &DataplaneTable, problems: &mut Problems) -> Option<Dataplane> {
    let memories = [("auto", Memory::Auto), ("huge", Memory::Huge), ("plain", Memory::Plain)];
    let idles = [("poll", Idle::Poll), ("yield", Idle::Yield), ("sleep", Idle::Sleep)];
    let idle = or_default(&table.idle, Idle::Poll, problems, |text| choice("a way to be idle", text, &idles));
    let workers = workers(&table.workers, matches!(idle, Some(Idle::Yield | Idle::Sleep)), problems);
    let memory =
        or_default(&table.memory, Memory::Auto, problems, |text| choice("a kind of memory", text, &memories));
    let max_flows = or_default(&table.max_flows, MAX_FLOWS_DEFAULT, problems, |&value| {
        whole("max_flows", value, MAX_FLOWS_MIN, MAX_FLOWS_MAX)
    });
    let fragments = fragments(table, problems);
    Some(Dataplane {
        workers: workers?,
        memory: memory?,
        max_flows: max_flows?,
        fragments: fragments?,
        idle: idle?,
    })
}

fn fragments(table: &DataplaneTable, problems: &mut Problems) -> Option<FragmentLimits> {
    let default = FragmentLimits::default();
    let datagrams = or_default(&table.fragments, default.datagrams, problems, |&value| {
        whole("fragments", value, FRAGMENTS_MIN, FRAGMENTS_MAX)
    });
    let default_timeout = Duration::from_millis(default.timeout_ms.into());
    let timeout = or_default(&table.fragment_timeout, default_timeout, problems, |text| {
        duration("a time that fragments wait", text, FRAGMENT_TIMEOUT_MIN, FRAGMENT_TIMEOUT_MAX)
    });
    let datagrams = datagrams?;
    // Below 2^32: at most 60 seconds.
    let timeout_ms = timeout?.as_millis() as u32;
    Some(FragmentLimits { datagrams, waiting: datagrams / DATAGRAMS_A_WAITING_FRAGMENT, timeout_ms })
}

/// `shares_cores`: workers that find nothing to do let others run, so there may be several of them on a core.
fn workers(field: &WorkersField, shares_cores: bool, problems: &mut Problems) -> Option<Workers> {
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
    if !shares_cores {
        no_duplicates(list.iter().map(|core| (*core.get_ref(), core.span())), problems, |core| {
            Problem::new(format!("core {core} is listed twice")).help(
                "one worker per core, unless they give it up when idle: `idle = \"yield\"` or `\"sleep\"`",
            )
        });
    }
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

pub(super) fn control(table: &ControlTable, directory: &Path, problems: &mut Problems) -> Option<Control> {
    let socket = or_default(&table.socket, PathBuf::from(SOCKET_DEFAULT), problems, |text| {
        let fits = text.len() <= SOCKET_PATH_BYTES_MAX && !text.contains('\0');
        if text.starts_with('/') && !text.ends_with('/') && fits {
            return Ok(PathBuf::from(text));
        }
        Err(Problem::new(format!("{text:?} is not a path for a socket")).help(format!(
            "an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes, such as `{SOCKET_DEFAULT}`"
        )))
    });
    let group = or_default(&table.group, None, problems, |text| {
        if !text.is_empty() && text.len() <= GROUP_BYTES_MAX && !text.contains([':', '\0', '/', ' ']) {
            return Ok(Some(text.clone()));
        }
        Err(Problem::new(format!("{text:?} is not a group"))
            .help("the name or the number of a group, such as \"crossdock\""))
    });
    let metrics = or_default(&table.metrics, None, problems, |text| {
        text.parse().map(Some).map_err(|_| {
            Problem::new(format!("{text:?} is not an address and a port")).help(
                "such as \"127.0.0.1:9090\" or \"[::1]:9090\"; whoever reaches it reads all that is counted",
            )
        })
    });
    let remote = remote(table, directory, problems);
    Some(Control { socket: socket?, group: group?, metrics: metrics?, remote: remote? })
}

/// `listen` with its three files, which have no use without it.
fn remote(table: &ControlTable, directory: &Path, problems: &mut Problems) -> Option<Option<Remote>> {
    let files = [("certificate", &table.certificate), ("key", &table.key), ("client_ca", &table.client_ca)];
    let Field::Value(listen) = &table.listen else {
        for (key, written) in files.iter().filter_map(|(key, field)| Some((key, field.value()?))) {
            problems.push(
                Problem::new(format!("`{key}` without `listen`"))
                    .at(written.span())
                    .help("`listen = \"192.0.2.5:9443\"` says where the API is asked over TCP"),
            );
        }
        return matches!(table.listen, Field::Absent).then_some(None);
    };
    let address: Option<SocketAddr> = problems.take(
        listen.span(),
        listen.get_ref().parse().map_err(|_| {
            Problem::new(format!("{:?} is not an address and a port", listen.get_ref()))
                .help("such as \"192.0.2.5:9443\" or \"[2001:db8::5]:9443\"")
        }),
    );
    let [certificate, key, client_ca] = files.map(|(key, field)| {
        if matches!(field, Field::Absent) {
            problems.push(
                Problem::new(format!("`listen` without `{key}`")).at(listen.span()).label("over TLS alone").help(
                    "it needs `certificate` and `key`, which are its own, and `client_ca`, which vouches for whoever may ask",
                ),
            );
        }
        let file = field.value()?;
        let path = directory.join(file.get_ref());
        let read = fs::read(&path);
        problems.take(
            file.span(),
            read.map_err(|error| Problem::new(format!("cannot read {}: {error}", path.display()))),
        )
    });
    let tls = ServerTls::new(certificate?, key?, client_ca?);
    let tls = problems.take(listen.span(), tls.map_err(Problem::new))?;
    Some(Some(Remote { address: address?, tls }))
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
