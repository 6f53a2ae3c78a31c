//! Packets as Katran forwards them: `../shared/conformance/katran-fixtures.json` beside the repository (its `meta` tells how
//! it was recorded) against the line on plain memory, with rules that say the same. Where that file is not there, the few
//! cases written down here are compared instead.
//!
//! A backend that Katran's ring chose may be another one here: then the bytes that the recording names may differ, and
//! the outer destination must still be a real of the packet's own VIP. Where Crossdock is different and means to be, [`DIFFERENT`] says what
//! becomes of the packet, and `docs/katran.md` why; a case listed there that is equal fails too. The same packets go through `crossdock replay` as captures.

#[path = "../crossdock/mod.rs"]
mod crossdock;
mod different;
mod director;
mod health_checks;
mod replay;
mod rules;
mod same;
mod sets;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use different::{DIFFERENT, why_different};
use director::{Director, Fate, shown};
use rules::rules;
use same::{expected, is_as_recorded};
use sets::{before, claimed, hex, list, recorded, text, written_down};

/// The cases of a set that are not as recorded, each with what became of its packet, and in words; `before` is the set whose packets came
/// before, by other rules.
fn differing(set: &Value, before: Option<&Value>) -> BTreeMap<u64, (Fate, String)> {
    let mut director = Director::new(&rules(before.unwrap_or(set)));
    if let Some(before) = before {
        list(before, "cases").iter().for_each(|case| drop(director.pass(&hex(&text(case, "input_hex")))));
        director.publish(&rules(set));
    }
    let mut differing = BTreeMap::new();
    for case in list(set, "cases") {
        let (expected, fate) = (expected(case), director.pass(&hex(&text(case, "input_hex"))));
        let is_equal = match (&expected, &fate) {
            (Fate::Sent(recorded), Fate::Sent(sent)) => is_as_recorded(case, set, recorded, sent, &[]),
            (expected, fate) => expected == fate,
        };
        if !is_equal {
            let index = case["index"].as_u64().unwrap();
            let words = format!(
                "{}\n  recorded {}\n  here     {}",
                text(case, "name"),
                shown(&expected),
                shown(&fate)
            );
            differing.insert(index, (fate, words));
        }
    }
    differing
}

#[test]
fn packets_are_forwarded_as_katran_forwards_them() {
    let recorded = recorded();
    let is_recorded = recorded.is_some();
    let sets = recorded.unwrap_or_else(|| written_down().as_array().unwrap().clone());
    let (mut equal, mut all, mut problems) = (0, 0, String::new());
    for set in sets.iter().filter(|set| claimed(set)) {
        let name = text(set, "name");
        let differing = differing(set, before(set, &sets));
        let count = list(set, "cases").len();
        println!("{name}: {} of {count} equal", count - differing.len());
        (equal, all) = (equal + count - differing.len(), all + count);
        for case in list(set, "cases") {
            let index = case["index"].as_u64().unwrap();
            match (differing.get(&index), why_different(&name, index)) {
                (Some((_, found)), None) => writeln!(problems, "{name} {index}: {found}").unwrap(),
                (None, Some((why, _))) => {
                    writeln!(problems, "{name} {index} is equal, and not \"{why}\"").unwrap()
                }
                (Some((fate, found)), Some((_, here))) if !here.is(set, case, fate) => {
                    writeln!(problems, "{name} {index} is not {here:?}: {found}").unwrap()
                }
                _ => {}
            }
        }
    }
    println!("{equal} of {all} cases are equal");
    assert!(problems.is_empty(), "{problems}");
    if is_recorded {
        let in_file: usize = sets.iter().map(|set| list(set, "cases").len()).sum();
        assert_eq!((in_file, all, equal), (171, 161, 136), "cases in the file, run here, equal");
    }
}

#[test]
fn the_reference_says_why_what_is_different_is() {
    let reference = include_str!("../../../docs/katran.md");
    for (set, cases, why, _) in DIFFERENT {
        let row = reference.lines().find(|line| line.starts_with("| ") && line.contains(why));
        assert!(row.is_some_and(|row| row.contains(set)), "{set} {cases:?}: {why}");
    }
}

#[test]
fn the_cases_that_are_written_down_are_equal() {
    for set in written_down().as_array().unwrap() {
        assert!(differing(set, None).is_empty());
    }
}
