//! From the file as typed to the rules as checked: the only place that rejects. It goes through all tables
//! whatever is wrong with the first, and yields rules only when nothing is.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

use super::checked::Rules;
use super::error::{Problem, Problems};
use super::fields::{Field, Place};
use super::file::File;

mod addresses;
mod backends;
mod checks;
mod health;
mod listens;
mod neighbours;
mod policy;
mod ports;
mod prefixes;
mod routes;
mod schedulers;
mod services;
mod settings;
mod tunnels;
mod way;

/// The rules, or nothing when there are problems. Files that the rules name are looked for in `directory`.
pub(super) fn check(file: &File, directory: &Path, problems: &mut Problems) -> Option<Rules> {
    let dataplane = settings::dataplane(&file.dataplane, problems);
    let control = settings::control(&file.control, directory, problems);
    let slow_path = settings::slow_path(&file.slow_path, problems);
    let ports = ports::check(&file.ports, problems);
    let neighbours = neighbours::check(&file.neighbours, &ports, problems);
    let services = services::check(&file.services, (&ports, &neighbours), directory, problems);
    let decap = tunnels::decap(&file.decap, problems);
    let checks = checks::check(&file.checks, problems);
    addresses::check(&ports, &neighbours, &services, problems);
    if !problems.is_empty() {
        return None;
    }
    let rules = Rules {
        dataplane: dataplane?,
        control: control?,
        slow_path: slow_path?,
        decap: decap?,
        checks: checks?,
        ports: ports.list.into_iter().map(ports::PortDraft::finish).collect::<Option<_>>()?,
        neighbours: neighbours
            .list
            .into_iter()
            .map(neighbours::NeighbourDraft::finish)
            .collect::<Option<_>>()?,
        services: services
            .into_iter()
            .map(|service| service.finish().map(Arc::new))
            .collect::<Option<_>>()?,
    };
    checks::overlaps(&file.checks, &rules, problems);
    problems.is_empty().then_some(rules)
}

/// The parsed value; nothing when it is absent or wrong.
fn optional<S, T>(
    field: &Field<S>,
    problems: &mut Problems,
    parse: impl FnOnce(&S) -> Result<T, Problem>,
) -> Option<Spanned<T>> {
    let value = field.value()?;
    problems.take(value.span(), parse(value.get_ref())).map(|parsed| Spanned::new(value.span(), parsed))
}

/// As [`optional`], and an absent key is a problem of the table.
fn required<S, T>(
    field: &Field<S>,
    (place, key): (&Place, &str),
    problems: &mut Problems,
    parse: impl FnOnce(&S) -> Result<T, Problem>,
) -> Option<Spanned<T>> {
    if matches!(field, Field::Absent) {
        problems.push(
            Problem::new(format!("{} has no `{key}`", place.title))
                .at(place.span.clone())
                .label("needed here"),
        );
    }
    optional(field, problems, parse)
}

/// The parsed value, or `default` when it is absent; nothing when it is wrong.
fn or_default<S, T>(
    field: &Field<S>,
    default: T,
    problems: &mut Problems,
    parse: impl FnOnce(&S) -> Result<T, Problem>,
) -> Option<T> {
    match field {
        Field::Absent => Some(default),
        Field::Unreadable => None,
        Field::Value(_) => optional(field, problems, parse).map(Spanned::into_inner),
    }
}

/// Those items of a list that parse; the others are noted.
fn each<S, T>(
    field: &Field<Vec<Spanned<S>>>,
    problems: &mut Problems,
    parse: impl Fn(&S) -> Result<T, Problem>,
) -> Vec<Spanned<T>> {
    let items = field.value().map_or(&[][..], |list| list.get_ref());
    items
        .iter()
        .filter_map(|item| {
            problems.take(item.span(), parse(item.get_ref())).map(|parsed| Spanned::new(item.span(), parsed))
        })
        .collect()
}

/// Notes the first item beyond `max`: the line's tables have that many places.
fn no_more_than<'a, T: 'a>(
    max: usize,
    what: &str,
    items: impl IntoIterator<Item = &'a Spanned<T>>,
    problems: &mut Problems,
) {
    if let Some(first_beyond) = items.into_iter().nth(max) {
        problems.push(
            Problem::new(format!("more than {max} {what}"))
                .at(first_beyond.span())
                .label("the first one too many")
                .help("the line's tables have no more places"),
        );
    }
}

/// Notes every item whose key an earlier one has.
fn no_duplicates<K: Eq + Hash>(
    items: impl IntoIterator<Item = (K, Range<usize>)>,
    problems: &mut Problems,
    describe: impl Fn(&K) -> Problem,
) {
    let mut first: HashMap<K, Range<usize>> = HashMap::new();
    for (key, span) in items {
        match first.get(&key) {
            Some(earlier) => problems.push(describe(&key).at(span).context(earlier.clone(), "first here")),
            None => {
                first.insert(key, span);
            }
        }
    }
}
