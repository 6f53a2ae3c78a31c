//! Proof: a worker's steady state makes no system call. strace watches its thread while it moves packets.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testbed::director::Director;
use testbed::lab::Lab;

/// A null port receives packets without end; a ring port is polled and empty.
const RULES: &str = r#"
[dataplane]
workers = [LAST_CORE]
idle = "poll"

[[port]]
name = "null"
device = "null"

[[port]]
name = "ring"
device = "ring"
"#;

/// The thread of `process` that calls itself `name`.
fn thread(process: u32, name: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process's threads");
    let mut ids = tasks.map(|task| task.expect("a thread").file_name().into_string().expect("a number"));
    let is_called = |id: &String| {
        let comm = fs::read_to_string(format!("/proc/{process}/task/{id}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    ids.find(is_called).unwrap_or_else(|| panic!("no thread of {process} is called {name}"))
}

/// System calls of a thread in two seconds, as strace counts them; `None` when there was none.
fn system_calls(thread: &str, output: &Path) -> Option<String> {
    // SIGINT ends strace, which then detaches and writes its table.
    let status = Command::new("timeout")
        .args(["--signal=INT", "2", "strace", "-c", "-p", thread, "-o"])
        .arg(output)
        .status()
        .expect("timeout and strace");
    assert_eq!(status.code(), Some(124), "strace did not watch until it was told to stop");
    let table = fs::read_to_string(output).expect("strace's table");
    (!table.trim().is_empty()).then_some(table)
}

fn received(status: &Value) -> u64 {
    status["ports"][0]["rx_packets"].as_u64().expect("a count")
}

#[test]
fn a_worker_makes_no_system_call() {
    let lab = Lab::two_arms();
    let last_core = std::thread::available_parallelism().expect("the number of cores").get() - 1;
    let mut director = Director::start(&lab, &RULES.replace("LAST_CORE", &last_core.to_string()));
    let process = director.process().pid();
    let output = lab.directory().join("strace");
    let before = received(&director.try_status().expect("a status"));
    let calls = system_calls(&thread(process, "worker-0"), &output);
    let after = received(&director.try_status().expect("a status"));
    assert!(after > before, "the worker was at work meanwhile");
    assert_eq!(calls, None, "the worker's thread made system calls");
    // The same look at the control thread finds some: the check can fail.
    assert!(system_calls(&process.to_string(), &output).is_some(), "control looks around every 50 ms");
    director.stop();
}
