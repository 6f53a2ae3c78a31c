//! Instructions a packet are the same for 64 and for 1,500 bytes: no byte of payload is touched. Counted by
//! callgrind on `examples/walk.rs`; two runs of different length are subtracted, so that set-up cancels out.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Bursts of the shorter run; the longer one has twice as many.
const BURSTS: u64 = 200;
/// A flow for each packet of eight bursts: every packet finds its flow, on a warm table.
const FLOWS: u64 = 256;
const BURST_LEN: u64 = 32;

/// The example, built if need be (cargo builds examples for `cargo test`, but not for `cargo test --test`).
fn walk() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "walk", "--manifest-path"])
        .arg(manifest)
        .args(if cfg!(debug_assertions) { None } else { Some("--release") })
        .status()
        .expect("cargo runs");
    assert!(status.success(), "examples/walk.rs does not build");
    // This test is TARGET/PROFILE/deps/instructions-HASH.
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(2).expect("it lies in deps").join("examples/walk")
}

/// Instructions of a whole run.
fn instructions(walk: &Path, mode: &str, frame_len: usize, bursts: u64) -> u64 {
    let out = std::env::temp_dir().join(format!("walk-{}-{mode}-{frame_len}-{bursts}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(walk)
        .args([mode, &frame_len.to_string(), &FLOWS.to_string(), &bursts.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("valgrind cannot be run ({error}): apt-get install valgrind"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "walk under callgrind: {}\n{stderr}", output.status);
    let packets = format!("{} packets, 0 dropped", bursts * BURST_LEN);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with(&packets), "not {packets}: {stdout}");
    let profile = std::fs::read_to_string(&out).expect("callgrind wrote its profile");
    let _ = std::fs::remove_file(&out);
    let summary = profile
        .lines()
        .find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    summary.and_then(|count| count.trim().parse().ok()).expect("a profile has a summary line")
}

/// Instructions of one packet, times a thousand.
fn milli_instructions_a_packet(walk: &Path, mode: &str, frame_len: usize) -> u64 {
    let [short, long] = [BURSTS, 2 * BURSTS].map(|bursts| instructions(walk, mode, frame_len, bursts));
    (long - short) * 1_000 / (BURSTS * BURST_LEN)
}

#[test]
fn a_packet_of_1_500_bytes_costs_what_one_of_64_costs() {
    let walk = walk();
    for mode in ["dr", "fullnat"] {
        let [small, large] = [64, 1_500].map(|len| milli_instructions_a_packet(&walk, mode, len));
        println!("{mode}: {small} and {large} thousandths of an instruction");
        assert!(small > 10_000, "{mode}: {small} thousandths: nothing was counted");
        assert!(small.abs_diff(large) * 100 <= small, "{mode}: {small} at 64 bytes, {large} at 1,500");
    }
}
