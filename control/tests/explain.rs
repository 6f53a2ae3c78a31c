//! `crossdock explain` beside `crossdock replay`: what is told of a packet is what becomes of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use control::capture::CaptureReader;
use control::explain::{Explanation, Question, World, digits_of, explain};
use control::rules::Rules;
use dataplane::time::Millis;

fn golden(name: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join(file)
}

fn world(name: &str) -> World {
    World::offline(Rules::load(&golden(name, "rules.toml")).unwrap()).unwrap()
}

fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let mut reader = CaptureReader::open(capture).unwrap();
    std::iter::from_fn(|| reader.next_packet().unwrap().map(|packet| packet.frame.to_vec())).collect()
}

fn about(world: &World, frame: &[u8]) -> Explanation {
    explain(world, &Question { frame: Some(digits_of(frame)), ..Question::default() }).unwrap()
}

/// Every frame of every golden capture has an answer; and the first, which opens a connection, leaves as replay sent it.
#[test]
fn the_first_packet_of_each_golden_is_told_as_it_was_replayed() {
    for name in ["dr-tcp", "mh", "tunnel", "ipv6", "matching"] {
        let world = world(name);
        let (came, left) = (frames(&golden(name, "in.pcap")), frames(&golden(name, "out.pcap")));
        let told = about(&world, &came[0]);
        assert_eq!(told.verdict, "forwarded", "{name}: {told}");
        let replayed = about(&world, &left[0]);
        assert_eq!(told.after, replayed.before, "{name}: {told}");
        assert!(told.service.is_some() && told.backend.is_some(), "{name}: {told}");
        for frame in &came {
            let told = about(&world, frame);
            assert!(!told.verdict.is_empty() && !told.before.is_empty(), "{name}: {told}");
            assert_eq!(told.reason.is_some(), told.verdict == "dropped", "{name}: {told}");
        }
    }
}

/// A token of the workers' bucket is taken by nobody who only asks.
#[test]
fn whoever_asks_uses_up_no_rate() {
    let text = std::fs::read_to_string(golden("dr-tcp", "rules.toml")).unwrap();
    let text = text.replacen("mode", "max_rate = 10\nmode", 1);
    let world = World::offline(Rules::parse("rules.toml", &text).unwrap()).unwrap();
    let came = frames(&golden("dr-tcp", "in.pcap"));
    for _ in 0..100 {
        assert_eq!(about(&world, &came[0]).verdict, "forwarded");
    }
    let service =
        world.ruleset.services.iter().flatten().find(|service| service.policy.limits.rate.is_some());
    assert!(service.unwrap().rate.take(10, Millis(5)), "of one in a tenth of a second");
}

#[test]
fn garbage_is_dropped_for_the_reasons_that_replay_counts() {
    let world = world("garbage");
    let mut reasons: Vec<String> = frames(&golden("garbage", "in.pcap"))
        .iter()
        .filter_map(|frame| about(&world, frame).reason)
        .collect();
    reasons.sort();
    reasons.dedup();
    let counters = std::fs::read_to_string(golden("garbage", "counters.json")).unwrap();
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    assert!(reasons.len() >= 3, "{reasons:?}");
    for reason in reasons {
        assert!(counters["drops"][&reason].as_u64() > Some(0), "{reason} was not counted: {counters}");
    }
}

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn told(words: &[&str]) -> Outcome {
    let rules = golden("mh", "rules.toml");
    let crossdock = env!("CARGO_BIN_EXE_crossdock");
    let output = Command::new(crossdock).args(["explain", "-c"]).arg(rules).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn the_command_line_says_each_step() {
    let Outcome { code, stdout, stderr } = told(&["tcp", "198.51.100.7:4000", "203.0.113.10:80"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for said in [
        "a packet of the flow tcp 198.51.100.7:4000 -> 203.0.113.10:80",
        "service web (tcp 203.0.113.10:80), mode dr",
        "scheduler mh: by hash",
        "<- this one",
        "forwarded by port front",
    ] {
        assert!(stdout.contains(said), "{said:?} is missing: {stdout}");
    }
    let json = told(&["tcp", "198.51.100.7:4000", "203.0.113.10:80", "--json"]).stdout;
    let explanation: Explanation = serde_json::from_str(&json).unwrap();
    assert_eq!(explanation.service.as_deref(), Some("web"));
    let stray = told(&["tcp", "198.51.100.7:4000", "203.0.113.10:80", "--flags", "ack"]).stdout;
    assert!(stray.contains("it opens no connection and belongs to none"), "{stray}");
    let nobody = told(&["udp", "198.51.100.7:4000", "203.0.113.10:80"]).stdout;
    assert!(nobody.contains("no service listens there"), "{nobody}");
}

#[test]
fn a_packet_is_found_in_a_capture_by_its_flow() {
    let capture = golden("mh", "in.pcap").display().to_string();
    let (protocol, from, to) = control::explain::flow_of_frame(&frames(Path::new(&capture))[1]).unwrap();
    let (from, to) = (from.to_string(), to.to_string());
    let Outcome { code, stdout, .. } = told(&[protocol, &from, &to, "--from-pcap", &capture]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains(&format!("the flow {protocol} {from} -> {to}")), "{stdout}");
    let none = told(&["tcp", "9.9.9.9:9", &to, "--from-pcap", &capture]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("no packet of that flow"), "{}", none.stderr);
}

#[test]
fn a_question_that_is_none_is_told_what_to_say() {
    for (words, said) in [
        (&["txp", "1.1.1.1:1", "2.2.2.2:2"][..], "allowed: tcp, udp, sctp, icmp"),
        (&["udp", "1.1.1.1:1", "2.2.2.2:2", "--flags", "syn"], "udp has no flags"),
        (&["tcp", "1.1.1.1:1", "2.2.2.2:2", "--flags", "sin"], "allowed: syn, ack, fin, rst"),
        (&["tcp", "1.1.1.1:1", "[2001:db8::1]:2"], "of two families"),
        (&["tcp", "1.1.1.1:1", "2.2.2.2:2", "--port", "frunt"], "is \"front\" meant?"),
    ] {
        let Outcome { code, stderr, .. } = told(words);
        assert_eq!(code, Some(1), "{words:?}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
}
