//! The schedulers against what Linux IPVS chose, recorded from a running kernel: `../shared/conformance/ipvs/sched`
//! beside the repository, whose README tells how. Where that is not there, a few of the recorded cases written
//! down here are compared instead.
//!
//! IPVS keeps its list newest first and Crossdock that of the rules, so members stand in reverse order here. IPVS
//! counts no UDP connection as active, and Crossdock every one: the recordings of UDP are fed with IPVS's count.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dataplane::flow::FlowKey;
use dataplane::index::BackendIndex;
use dataplane::rules::scheduler::{HashKey, IpvsTable, SchedulerKind, SchedulerSettings, Seat};
use dataplane::rules::{Load, Loads, Member, Scheduler, ServiceState};
use dataplane::time::Millis;
use serde_json::{Value, json};

/// What each member has to do; all take connections.
struct Held(Vec<Load>);

impl Loads for Held {
    fn load(&self, member: usize) -> Load {
        self.0[member]
    }

    fn takes(&self, _member: usize) -> bool {
        true
    }
}

/// One recorded run, its servers in the order of the kernel's list.
struct Run {
    kind: SchedulerKind,
    flags: String,
    /// The number of each in the order of adding, newest first.
    added: Vec<usize>,
    members: Vec<Member>,
    seats: Vec<Seat>,
}

impl Run {
    fn new(run: &Value) -> Self {
        let numbers = |key: &str| -> Vec<usize> {
            let list = run[key].as_array().into_iter().flatten();
            list.map(|number| number.as_u64().unwrap() as usize).collect()
        };
        let weights = numbers("weights_in_add_order");
        let (quiesced, deleted) = (numbers("quiesced"), numbers("deleted"));
        let is_v6 = run["family"] == 6;
        // Services by firewall mark leave the port alone: those of dh. No recorded hash of dh has it.
        let seat = |number: usize| Seat {
            address: if is_v6 {
                IpAddr::from([0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0xb + number as u16])
            } else {
                IpAddr::from([192, 168, 10, 11 + number as u8])
            },
            l4_port: 8080,
            weight_kept: weights[number] as u32,
        };
        let weight = |number: usize| if quiesced.contains(&number) { 0 } else { weights[number] as u32 };
        let added: Vec<_> = (0..weights.len()).rev().filter(|number| !deleted.contains(number)).collect();
        let member =
            |&number: &usize| Member { backend: BackendIndex(number as u32), weight: weight(number) };
        let name = run["scheduler"].as_str().unwrap();
        Self {
            kind: SchedulerKind::ALL.into_iter().find(|kind| kind.name() == name).unwrap(),
            flags: run["flags"].as_str().unwrap_or_default().to_owned(),
            members: added.iter().map(member).collect(),
            seats: added.iter().map(|number| seat(*number)).collect(),
            added,
        }
    }

    /// The recorded sequence of new connections, replayed: how many differ, of how many.
    fn replay(&self, run: &Value) -> (usize, usize) {
        let scheduler = Scheduler::new(self.kind.into(), &self.members, &self.seats).unwrap();
        let mut state = ServiceState::new(0);
        let mut held = Held(vec![Load::default(); self.members.len()]);
        let (pattern, lag) = (run["pattern"].as_str().unwrap(), run["lag"].as_u64().unwrap_or(0) as usize);
        let mut chosen = Vec::new();
        let mut different = 0;
        let recorded = run["sequence"].as_array().unwrap();
        for (connection, expected) in recorded.iter().enumerate() {
            let key = FlowKey::default();
            let choice = scheduler.choose(&self.members, &state, &key, &held);
            if let Some(choice) = choice {
                scheduler.commit(choice, &self.members, &key, &mut state, Millis(0));
            }
            chosen.push(choice.map(|choice| choice.member));
            if let Some(member) = chosen[connection] {
                match pattern {
                    "close_each" | "udp" => held.0[member].inactive += 1,
                    _ => held.0[member].active += 1,
                }
            }
            let closing = connection.checked_sub(lag).filter(|_| pattern == "lag_close");
            if let Some(member) = closing.and_then(|connection| chosen[connection]) {
                held.0[member].active -= 1;
                held.0[member].inactive += 1;
            }
            different += usize::from(self.is_other(chosen[connection], expected));
        }
        (different, recorded.len())
    }

    /// The recorded choices by hash, made again: how many differ, of how many.
    fn choose_by_hash(&self, run: &Value) -> (usize, usize) {
        let hash = if self.flags.contains("port") { HashKey::IpvsPort } else { HashKey::Ipvs };
        let settings =
            SchedulerSettings { hash, fallback: self.flags.contains("fallback"), ..self.kind.into() };
        let table = IpvsTable::new(settings, &self.members, &self.seats).unwrap();
        let idle = Held(vec![Load::default(); self.members.len()]);
        let choices = run["choices"].as_array().unwrap();
        let differs = |choice: &&Value| {
            let address = |index: usize| choice[index].as_str().unwrap().parse::<IpAddr>().unwrap();
            let source_port = choice[1].as_u64().unwrap() as u16;
            let member = table.member(address(0), source_port, address(2), &self.members, &idle);
            self.is_other(member, &choice[3])
        };
        (choices.iter().filter(differs).count(), choices.len())
    }

    fn is_other(&self, member: Option<usize>, expected: &Value) -> bool {
        member.map(|member| self.added[member] as u64) != expected.as_u64()
    }
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/ipvs/sched")
}

/// All runs of a scheduler: recorded ones where they are, else those written down here.
fn runs(kind: &str) -> Vec<Value> {
    let file = recorded().join(format!("{kind}.json"));
    if !recorded().exists() {
        println!(
            "{kind}: no recordings of IPVS at {}: compared with the few written down here",
            recorded().display()
        );
        let all = few();
        return all.into_iter().filter(|run| run["scheduler"] == kind).collect();
    }
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str::<Value>(&text).unwrap()["runs"].as_array().unwrap().clone()
}

/// Some of the recorded runs, for where the whole recording is not.
fn few() -> Vec<Value> {
    let sequence = |scheduler: &str, pattern: &str, weights: &[u32], sequence: &[usize]| json!({ "scheduler": scheduler, "pattern": pattern, "lag": 7, "weights_in_add_order": weights, "sequence": sequence });
    let choices = |scheduler: &str, flags: &str, quiesced: &[u32], choices: Value| {
        json!({ "scheduler": scheduler, "flags": flags, "family": 4, "weights_in_add_order": [5, 1, 3],
            "quiesced": quiesced, "deleted": [], "choices": choices })
    };
    vec![
        sequence("rr", "syn_hold", &[5, 1, 3], &[2, 1, 0, 2, 1, 0]),
        sequence("wrr", "syn_hold", &[5, 1, 3], &[2, 1, 0, 0, 0, 2, 0, 2, 0, 2, 1, 0]),
        sequence("wrr", "syn_hold", &[2, 0, 3], &[2, 0, 2, 2, 0, 2, 0, 2, 2, 0]),
        sequence("lc", "est_hold", &[2, 0, 3], &[2, 0, 2, 0, 2, 0]),
        sequence("wlc", "est_hold", &[5, 1, 3], &[2, 1, 0, 0, 2, 0, 0, 2, 0, 2, 1, 0]),
        sequence("wlc", "lag_close", &[5, 1, 3], &[2, 1, 0, 0, 2, 0, 0, 2, 2, 1, 0, 0]),
        choices(
            "dh",
            "",
            &[],
            json!([["198.18.1.1", 20000, "203.0.113.1", 0], ["198.18.1.1", 20001, "203.0.113.2", 2]]),
        ),
        choices(
            "sh",
            "",
            &[],
            json!([["198.18.68.146", 56561, "10.0.0.100", 2], ["198.18.32.66", 8751, "10.0.0.100", 0]]),
        ),
        choices(
            "mh",
            "",
            &[],
            json!([["198.18.68.146", 56561, "10.0.0.100", 0], ["198.18.32.66", 8751, "10.0.0.100", 0]]),
        ),
    ]
}

/// Compares every run; fails unless there were some, and prints how many choices were compared.
fn compare(kinds: &[&str], compare: impl Fn(&Run, &Value) -> (usize, usize)) {
    for kind in kinds {
        let (runs, mut compared) = (runs(kind), 0);
        for value in &runs {
            let run = Run::new(value);
            let (different, choices) = compare(&run, value);
            let what = json!([
                kind,
                value["flags"],
                value["weights_in_add_order"],
                value["quiesced"],
                value["pattern"]
            ]);
            assert_eq!(different, 0, "of {choices} choices of {what}");
            compared += choices;
        }
        println!("{kind}: {compared} choices of {} runs are IPVS's", runs.len());
        assert!(compared > 0, "{kind}: nothing was compared");
    }
}

#[test]
fn sequences_are_those_recorded_from_ipvs() {
    compare(&["rr", "wrr", "lc", "wlc"], Run::replay);
}

#[test]
fn hashes_choose_the_backends_recorded_from_ipvs() {
    compare(&["dh", "sh", "mh"], Run::choose_by_hash);
}

#[test]
fn the_cases_written_down_here_hold_as_well() {
    for value in few() {
        let run = Run::new(&value);
        let (different, _) =
            if value["choices"].is_array() { run.choose_by_hash(&value) } else { run.replay(&value) };
        assert_eq!(different, 0, "{value}");
    }
}

/// The README's facts about those whose sequences were not recorded in files.
#[test]
fn sed_nq_fo_and_ovf_do_what_was_measured() {
    let fill = |scheduler: &str, count: usize| {
        let run = Run::new(&json!({ "scheduler": scheduler, "weights_in_add_order": [5, 1, 3] }));
        let scheduler = Scheduler::new(run.kind.into(), &run.members, &run.seats).unwrap();
        let mut held = Held(vec![Load::default(); 3]);
        let mut chosen = Vec::new();
        for _ in 0..count {
            let state = ServiceState::new(0);
            let choice = scheduler.choose(&run.members, &state, &FlowKey::default(), &held);
            chosen.push(choice.map(|choice| run.added[choice.member]));
            choice.into_iter().for_each(|choice| held.0[choice.member].active += 1);
        }
        chosen
    };
    // sed: (active + 1) / weight.
    assert_eq!(fill("sed", 4), [Some(0), Some(2), Some(0), Some(0)]);
    // nq: the first with none, newest first; then as sed.
    assert_eq!(fill("nq", 4), [Some(2), Some(1), Some(0), Some(0)]);
    assert_eq!(fill("fo", 9), [Some(0); 9]);
    // ovf: weight + 1 connections each, the heaviest first, then none.
    let expected = [[Some(0); 6].as_slice(), &[Some(2); 4], &[Some(1); 2], &[None; 2]].concat();
    assert_eq!(fill("ovf", 14), expected);
}
