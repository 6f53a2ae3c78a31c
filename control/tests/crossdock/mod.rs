//! Runs the real binary's `replay`.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// `crossdock replay -c RULES IN OUT` with more arguments.
pub(crate) fn replay(rules: &Path, input: &Path, output: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args(["replay", "-c"])
        .args([rules, input, output])
        .args(more)
        .output()
        .unwrap()
}

/// The counters of a replay that must succeed.
pub(crate) fn replay_json(rules: &Path, input: &Path, output: &Path) -> Value {
    let result = replay(rules, input, output, &["--json"]);
    let stderr = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{}: {stderr}", input.display());
    serde_json::from_slice(&result.stdout).unwrap()
}
