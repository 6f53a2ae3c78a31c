//! `[[service.route]]` and `prefixes`: where clients go by their addresses.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use dataplane::prefix::Prefix;
use dataplane::rules::route::{TARGETS_MAX, Target};
use ipnet::IpNet;
use toml::Spanned;

use super::backends::{BackendDraft, endpoint_of};
use super::required;
use super::services::Context;
use crate::rules::checked::Endpoint;
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::{RouteTable, ServiceTable};
use crate::rules::near::nearest;
use crate::rules::routes::Prefixes;
use crate::rules::values::endpoint;

/// Of what is wrong with a file of prefixes so much is told.
const FILE_PROBLEMS_MAX: usize = 10;
/// Ten million lines with room to spare.
const FILE_SIZE_MAX: u64 = 1 << 30;

/// The service's backends, as routes name them.
struct Targets<'a> {
    service: &'a Context<'a>,
    endpoints: Vec<Endpoint>,
    /// Every backend could be read: only then one that is not found is really missing.
    complete: bool,
    /// By what is written, as a million lines write the same few.
    known: HashMap<String, Target>,
}

/// The prefixes of a service; nothing within where there are none.
pub(super) fn check(
    table: &ServiceTable,
    service: &Context<'_>,
    backends: &[BackendDraft],
    directory: &Path,
    problems: &mut Problems,
) -> Option<Option<Prefixes>> {
    let mut targets = Targets::new(service, backends);
    let before = problems.len();
    let mut list: Vec<(Prefix, Target)> = Vec::new();
    let mut places: HashMap<Prefix, Range<usize>> = HashMap::new();
    let routes = table.routes.value().map_or(&[][..], |routes| routes.get_ref());
    for table in routes {
        let Some((prefix, target)) = route(table, &mut targets, problems) else { continue };
        match places.get(prefix.get_ref()) {
            Some(earlier) => problems.push(
                Problem::new(format!("two routes from {}", prefix.get_ref()))
                    .at(prefix.span())
                    .context(earlier.clone(), "first here")
                    .help("a client goes to one backend"),
            ),
            None => {
                places.insert(*prefix.get_ref(), prefix.span());
                list.push((*prefix.get_ref(), target));
            }
        }
    }
    if let Some(name) = table.prefixes.value() {
        read(name, directory, &mut targets, &mut list, problems);
    }
    let is_read = problems.len() == before
        && !matches!(table.routes, Field::Unreadable)
        && !matches!(table.prefixes, Field::Unreadable);
    is_read.then(|| (!list.is_empty()).then(|| Prefixes::new(&list, targets.endpoints)))
}

fn route(
    table: &RouteTable,
    targets: &mut Targets<'_>,
    problems: &mut Problems,
) -> Option<(Spanned<Prefix>, Target)> {
    let from = required(&table.from, (&table.place, "from"), problems, |text| prefix(text));
    let target = required(&table.backend, (&table.place, "backend"), problems, |text| targets.find(text))
        .and_then(|found| *found.get_ref());
    Some((from?, target?))
}

/// Adds what the file says, a line at a time: a prefix and a backend; what follows a `#` is for people.
fn read(
    name: &Spanned<String>,
    directory: &Path,
    targets: &mut Targets<'_>,
    list: &mut Vec<(Prefix, Target)>,
    problems: &mut Problems,
) {
    let path = directory.join(name.get_ref());
    let text = match text_of(&path) {
        Ok(text) => text,
        Err(reason) => {
            let help =
                "a file with a prefix and a backend a line; its path is taken from where the rules lie";
            let problem = Problem::new(format!("cannot read {}: {reason}", path.display()));
            return problems.push(problem.at(name.span()).help(help));
        }
    };
    let mut seen: HashMap<Prefix, usize> = HashMap::with_capacity(text.lines().count());
    // Line 0 stands for the rules themselves.
    seen.extend(list.iter().map(|(prefix, _)| (*prefix, 0)));
    let mut wrong = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        match read_line(line, number, targets, &mut seen) {
            Ok(Some(found)) => list.push(found),
            Ok(None) => {}
            Err(problem) => {
                wrong += 1;
                if wrong <= FILE_PROBLEMS_MAX {
                    problems.push(problem.within(&format!("{}:{number}", path.display())).at(name.span()));
                }
            }
        }
    }
    if wrong > FILE_PROBLEMS_MAX {
        let more = wrong - FILE_PROBLEMS_MAX;
        let problem = Problem::new(format!("{}: {more} more lines are wrong", path.display()));
        problems.push(problem.at(name.span()));
    }
}

fn read_line(
    line: &str,
    number: usize,
    targets: &mut Targets<'_>,
    seen: &mut HashMap<Prefix, usize>,
) -> Result<Option<(Prefix, Target)>, Problem> {
    let mut words = line.split_whitespace();
    let (Some(from), Some(backend), None) = (words.next(), words.next(), words.next()) else {
        return Err(Problem::new(format!("{:?} is not a prefix and a backend", line.trim()))
            .help("a line is `198.51.100.0/24 10.0.0.11`"));
    };
    let prefix = prefix(from)?;
    let target = targets.find(backend)?;
    match seen.insert(prefix, number) {
        None => Ok(target.map(|target| (prefix, target))),
        Some(0) => Err(Problem::new(format!("{prefix} has a [[service.route]] too"))),
        Some(earlier) => Err(Problem::new(format!("{prefix} stands in line {earlier} already"))),
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    if metadata.len() > FILE_SIZE_MAX {
        return Err(format!("it is larger than {} MiB", FILE_SIZE_MAX >> 20));
    }
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))
}

/// `198.51.100.0/24`; an address alone is all its bits.
fn prefix(text: &str) -> Result<Prefix, Problem> {
    if let Ok(address) = std::net::IpAddr::from_str(text) {
        return Ok(Prefix::new(address, u8::MAX));
    }
    let net = IpNet::from_str(text).map_err(|_| {
        Problem::new(format!("{text:?} is not a prefix"))
            .help("an address and a number of bits, such as `198.51.100.0/24` or `2001:db8::/32`")
    })?;
    if net.addr() != net.network() {
        return Err(Problem::new(format!("{net} has bits behind its prefix"))
            .label(format!("did you mean `{}`?", net.trunc())));
    }
    Ok(Prefix::new(net.addr(), net.prefix_len()))
}

impl<'a> Targets<'a> {
    fn new(service: &'a Context<'a>, backends: &[BackendDraft]) -> Self {
        let read = backends.iter().filter_map(|backend| endpoint_of(backend.endpoint.clone()?));
        let endpoints: Vec<Endpoint> = read.take(TARGETS_MAX).collect();
        let complete = endpoints.len() == backends.len();
        Self { service, endpoints, complete, known: HashMap::new() }
    }

    /// The target that `text` says; nothing, and no complaint, where it may be a backend that could not be read.
    fn find(&mut self, text: &str) -> Result<Option<Target>, Problem> {
        if let Some(known) = self.known.get(text) {
            return Ok(Some(*known));
        }
        let (address, own) = endpoint(text)?;
        let Some(l4_port) = own.or(self.service.listens.l4_port()) else { return Ok(None) };
        let meant = Endpoint { address, l4_port };
        let found = self.endpoints.iter().position(|endpoint| *endpoint == meant);
        match found {
            Some(target) => {
                self.known.insert(text.to_owned(), target as Target);
                Ok(Some(target as Target))
            }
            None if !self.complete => Ok(None),
            None => {
                let names: Vec<_> = self.endpoints.iter().map(Endpoint::to_string).collect();
                let problem = Problem::new(format!("{meant} is no backend of the service"));
                Err(match nearest(text, names.iter().map(String::as_str)) {
                    Some(near) => problem.label(format!("did you mean `{near}`?")),
                    None => problem.help("a route leads to one of the service's [[service.backend]]"),
                })
            }
        }
    }
}
