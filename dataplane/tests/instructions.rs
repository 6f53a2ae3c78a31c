//! Instructions a packet are the same for 64 and for 1,500 bytes: no byte of payload is touched. Counted by
//! callgrind on `examples/walk.rs`; two runs of different length are subtracted, so that set-up cancels out.
//! And what the flow table does costs the same whatever its fill: counted on `examples/scale`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Bursts of the shorter run; the longer one has twice as many.
const BURSTS: u64 = 200;
/// A flow for each packet of eight bursts: every packet finds its flow, on a warm table.
const FLOWS: u64 = 256;
const BURST_LEN: u64 = 32;

/// An example, built if need be (cargo builds examples for `cargo test`, but not for `cargo test --test`).
fn example(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name, "--manifest-path"])
        .arg(manifest)
        .args(if cfg!(debug_assertions) { None } else { Some("--release") })
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the example {name} does not build");
    // This test is TARGET/PROFILE/deps/instructions-HASH.
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(2).expect("it lies in deps").join("examples").join(name)
}

/// Instructions of a run of `example`, or of the functions that `counted` names; and what it printed.
fn callgrind(example: &Path, counted: Option<&str>, arguments: &[&str]) -> (u64, String) {
    let out = std::env::temp_dir().join(format!("callgrind-{}-{}", std::process::id(), arguments.join("-")));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .args(counted.map(|functions| format!("--toggle-collect={functions}")))
        .arg(example)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("valgrind cannot be run ({error}): apt-get install valgrind"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} under callgrind: {}\n{stderr}", output.status);
    let profile = std::fs::read_to_string(&out).expect("callgrind wrote its profile");
    let _ = std::fs::remove_file(&out);
    let summary = profile
        .lines()
        .find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    let count = summary.and_then(|count| count.trim().parse().ok()).expect("a profile has a summary line");
    (count, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Instructions of a whole run of `walk`.
fn instructions(walk: &Path, mode: &str, frame_len: usize, bursts: u64) -> u64 {
    let arguments = [mode, &frame_len.to_string(), &FLOWS.to_string(), &bursts.to_string()];
    let (count, stdout) = callgrind(walk, None, &arguments);
    let packets = format!("{} packets, 0 dropped", bursts * BURST_LEN);
    assert!(stdout.starts_with(&packets), "not {packets}: {stdout}");
    count
}

/// Instructions of one packet, times a thousand.
fn milli_instructions_a_packet(walk: &Path, mode: &str, frame_len: usize) -> u64 {
    let [short, long] = [BURSTS, 2 * BURSTS].map(|bursts| instructions(walk, mode, frame_len, bursts));
    (long - short) * 1_000 / (BURSTS * BURST_LEN)
}

#[test]
fn a_packet_of_1_500_bytes_costs_what_one_of_64_costs() {
    let walk = example("walk");
    for mode in ["dr", "fullnat"] {
        let [small, large] = [64, 1_500].map(|len| milli_instructions_a_packet(&walk, mode, len));
        println!("{mode}: {small} and {large} thousandths of an instruction");
        assert!(small > 10_000, "{mode}: {small} thousandths: nothing was counted");
        assert!(small.abs_diff(large) * 100 <= small, "{mode}: {small} at 64 bytes, {large} at 1,500");
    }
}

/// Whatever waits in the rings: with the hardest newcomers, three bursts of them from other workers besides the port's.
#[test]
fn a_turn_costs_no_more_with_newcomers_of_other_workers_waiting() {
    let scale = example("scale");
    let [alone, of_four] = ["1", "4"]
        .map(|workers| callgrind(&scale, Some("scale::count::turns"), &["count", "turn", workers]).0);
    println!("30 turns of newcomers: {alone} instructions of one worker, {of_four} of one of four");
    assert!(alone > 1_000_000, "{alone} instructions: nothing was counted");
    // Who is one of four reads the others' counters as well.
    assert!(of_four * 100 <= alone * 140, "{alone} of one worker, {of_four} of one of four");
}

/// Under 5 ms for 1,000 backends. 17 million instructions were 2.8 ms (docs/schedulers.md), so 5 ms are 30 million. What is
/// hardly optimized takes more.
#[test]
fn a_maglev_table_of_a_thousand_backends_is_built_in_under_five_milliseconds_of_instructions() {
    let scale = example("scale");
    let count = callgrind(&scale, Some("scale::count::tables"), &["count", "maglev", "1000"]).0;
    println!("Maglev table of 1,000 backends: {count} instructions");
    assert!(count > 500_000, "{count} instructions: nothing was counted");
    let most = if cfg!(debug_assertions) { 150_000_000 } else { 30_000_000 };
    assert!(count <= most, "{count} instructions");
}

#[test]
fn insert_lookup_and_removal_cost_the_same_in_a_full_table_as_in_an_empty_one() {
    let scale = example("scale");
    for operation in ["insert", "hit", "miss", "remove"] {
        let [sparse, full] = ["10", "90"].map(|fill| {
            // The functions of examples/scale/count.rs: inserts, lookups, removals.
            callgrind(&scale, Some("scale::count::*s"), &["count", operation, fill]).0
        });
        println!("{operation}: {sparse} instructions at 10 %, {full} at 90 % of the places taken");
        assert!(sparse > 10_000, "{operation}: {sparse} instructions: nothing was counted");
        // Every tenth item lies in its second bucket then, and now and then one has to be moved for a new one.
        assert!(full * 100 <= sparse * 130, "{operation}: {sparse} at 10 %, {full} at 90 %");
    }
}
