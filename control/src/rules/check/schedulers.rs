//! `scheduler` of a service with its flags `hash`, `fallback` and `maglev_slots`: each by itself, and whether they
//! suit each other.

use std::ops::Range;

use dataplane::rules::scheduler::is_prime;
use toml::Spanned;

use super::or_default;
use crate::rules::checked::{HashKey, SchedulerKind, SchedulerSettings};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::ServiceTable;
use crate::rules::values::{choice, whole};

/// A few backends spread badly over fewer.
const MAGLEV_SLOTS_MIN: u32 = 251;
/// 8 MiB: a hundred slots for each of all the backends there can be, and more would not be cached anywhere.
const MAGLEV_SLOTS_MAX: u32 = 4_194_301;

/// The scheduler and its flags; nothing when any of them is wrong.
pub(super) fn check(table: &ServiceTable, problems: &mut Problems) -> Option<SchedulerSettings> {
    let kinds = SchedulerKind::ALL.map(|kind| (kind.name(), kind));
    let kind = or_default(&table.scheduler, SchedulerKind::Wrr, problems, |text| {
        choice("a scheduler", text, &kinds)
    });
    let hash = or_default(&table.hash, None, problems, |text| hash_key(text, kind).map(Some));
    let fallback = or_default(&table.fallback, true, problems, |&fallback| match kind {
        Some(kind) if !kind.is_hashing() => Err(unsuitable(
            "fallback",
            kind,
            SchedulerKind::is_hashing,
            "has no backend that is a client's own",
        )),
        _ => Ok(fallback),
    });
    let slots = or_default(&table.maglev_slots, None, problems, |&slots| {
        maglev_slots(slots, kind, hash.flatten()).map(Some)
    });
    let settings = SchedulerSettings::new(kind?);
    let maglev_slots = slots?;
    enough_slots(maglev_slots, &table.maglev_slots, table, problems)?;
    Some(SchedulerSettings {
        hash: hash?.unwrap_or(settings.hash),
        fallback: fallback?,
        maglev_slots,
        ..settings
    })
}

fn hash_key(text: &str, kind: Option<SchedulerKind>) -> Result<HashKey, Problem> {
    let words = HashKey::ALL.map(|hash| (hash.name(), hash));
    let hash = choice("what can be hashed", text, &words)?;
    let Some(kind) = kind else { return Ok(hash) };
    if kind.default_hash().is_none() {
        return Err(unsuitable("hash", kind, |kind| kind.default_hash().is_some(), "hashes nothing"));
    }
    if hash.is_ipvs() && !kind.has_maglev_table() {
        return Err(Problem::new(format!("hash = \"{hash}\" with scheduler \"{kind}\"")).help(
            "only dh, sh and mh can choose as IPVS does; allowed here: \"5-tuple\", \"source\", \"source-port\", \
             \"source-destination-port\", \"destination\"",
        ));
    }
    if hash == HashKey::IpvsPort && kind == SchedulerKind::Dh {
        return Err(Problem::new("hash = \"ipvs-port\" with scheduler \"dh\"")
            .help("IPVS's dh hashes the destination's address alone: hash = \"ipvs\""));
    }
    Ok(hash)
}

fn maglev_slots(slots: i128, kind: Option<SchedulerKind>, hash: Option<HashKey>) -> Result<u32, Problem> {
    if let Some(kind) = kind.filter(|kind| !kind.has_maglev_table()) {
        return Err(unsuitable("maglev_slots", kind, SchedulerKind::has_maglev_table, "has no Maglev table"));
    }
    if let Some(hash) = hash.filter(|hash| hash.is_ipvs()) {
        return Err(Problem::new(format!("`maglev_slots` with hash = \"{hash}\"")).help(
            "IPVS's tables have the size they have: 256 slots for dh and sh, 4,093 for mh; leave it out",
        ));
    }
    let slots = whole("maglev_slots", slots, MAGLEV_SLOTS_MIN.into(), MAGLEV_SLOTS_MAX.into())?;
    if is_prime(slots as usize) {
        return Ok(slots);
    }
    let next = (slots..=MAGLEV_SLOTS_MAX).find(|slots| is_prime(*slots as usize)).unwrap_or(MAGLEV_SLOTS_MAX);
    Err(Problem::new(format!("`maglev_slots` is {slots}, which is no prime"))
        .label(format!("the next prime is {next}"))
        .help("each backend walks over all slots, and only a prime number of them lets every walk reach all"))
}

/// Whoever has a weight needs a slot; with few more than that the shares are far from the weights.
fn enough_slots(
    slots: Option<u32>,
    field: &Field<i128>,
    table: &ServiceTable,
    problems: &mut Problems,
) -> Option<()> {
    let backends = table.backends.value().map_or(0, |backends| backends.get_ref().len());
    let Some(slots) = slots.filter(|slots| (*slots as usize) < backends) else { return Some(()) };
    let span: Range<usize> = field.value().map(Spanned::span)?;
    problems.push(
        Problem::new(format!("`maglev_slots` is {slots}, and the service has {backends} backends"))
            .at(span)
            .help("each needs a slot at least, and a hundred for a fair share; left out, the table fits"),
    );
    None
}

/// A flag that means nothing to the scheduler.
fn unsuitable(flag: &str, kind: SchedulerKind, suits: impl Fn(SchedulerKind) -> bool, why: &str) -> Problem {
    let suitable: Vec<_> =
        SchedulerKind::ALL.into_iter().filter(|kind| suits(*kind)).map(SchedulerKind::name).collect();
    Problem::new(format!("`{flag}` with scheduler \"{kind}\", which {why}"))
        .help(format!("`{flag}` is for {}; leave it out here", suitable.join(", ")))
}
