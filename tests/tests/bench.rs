//! `scripts/bench` in its shortest form: it measures every row and writes what it measured. How fast anything is, is not tested.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testbed::director::binary;
use testbed::lab::top;

const ROWS: [(&str, u64); 4] = [("dr", 4_096), ("dr", 65_536), ("fullnat", 4_096), ("fullnat", 65_536)];

/// What testpmd would leave behind, if nobody told it another place.
const TESTPMD_RUNTIME: &str = "/run/dpdk/rte";

#[test]
fn the_benchmark_writes_every_row_with_its_single_figures() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = directory.path().join("results.json");
    let (pages_before, runtime_before) = (reserved_huge_pages(), Path::new(TESTPMD_RUNTIME).exists());
    let results = bench(&output);
    assert_eq!(reserved_huge_pages(), pages_before, "huge pages reserved before and after");
    assert_eq!(Path::new(TESTPMD_RUNTIME).exists(), runtime_before, "{TESTPMD_RUNTIME} before and after");
    let rows = results["results"].as_array().expect("a list of rows");
    assert_eq!(rows.len(), ROWS.len());
    for (row, (mode, flows)) in rows.iter().zip(ROWS) {
        assert_eq!((row["mode"].as_str(), row["flows"].as_u64()), (Some(mode), Some(flows)));
        assert_eq!(row["unit"], "Mpps");
        for key in ["crossdock", "peer", "ratio", "ratio_of_pairs"] {
            assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key} of {row}");
        }
        let runs = row["runs"].as_array().expect("a list of runs");
        assert_eq!(runs.len(), 1, "{row}");
        for program in ["crossdock", "peer"] {
            // Both walked the whole capture at least once: 65,536 packets.
            assert!(runs[0][program]["packets"].as_u64().is_some_and(|count| count > 65_536), "{row}");
        }
    }
}

/// tshark reads what scripts/lib/flows.py writes.
#[test]
fn the_traffic_is_valid_has_every_flow_as_often_and_is_the_same_each_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str| {
        let path = directory.path().join(name);
        let script = top().join("scripts/lib/flows.py");
        run(Command::new("python3").arg(script).args(["--flows", "100", "--packets", "1000"]).arg(&path));
        path
    };
    let (first, second) = (write("first.pcap"), write("second.pcap"));
    assert_eq!(fs::read(&first).expect("the capture"), fs::read(&second).expect("the capture"));
    let checks = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields"];
    let fields = ["-e", "frame.len", "-e", "ip.checksum.status", "-e", "udp.checksum.status"];
    let flow = ["-e", "ip.src", "-e", "udp.srcport", "-e", "ip.dst", "-e", "udp.dstport"];
    let text = run(Command::new("tshark").arg("-r").arg(first).args(checks).args(fields).args(flow));
    let mut packets_of: BTreeMap<&str, u32> = BTreeMap::new();
    for line in text.lines() {
        // Status 1 is "good" in tshark's words.
        let flow = line.strip_prefix("60\t1\t1\t").unwrap_or_else(|| panic!("60 bytes, valid: {line}"));
        assert!(flow.ends_with("\t203.0.113.10\t53"), "{line}");
        *packets_of.entry(flow).or_default() += 1;
    }
    assert_eq!(packets_of.len(), 100);
    assert!(packets_of.values().all(|count| *count == 10), "{packets_of:?}");
}

fn bench(output: &Path) -> Value {
    let mut command = Command::new(top().join("scripts/bench"));
    command.args(["--quick", "--runs", "1", "--seconds", "1", "--binary"]).arg(binary());
    run(command.arg("--output").arg(output));
    let text = fs::read_to_string(output).expect("the results");
    serde_json::from_str(&text).expect("JSON")
}

/// Runs it to its end, which must be a good one; what it wrote to stdout.
fn run(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{command:?}: {}\n{out}\n{err}", ended.status);
    out.into_owned()
}

fn reserved_huge_pages() -> u64 {
    let text = fs::read_to_string("/proc/sys/vm/nr_hugepages").expect("a kernel with huge pages");
    text.trim().parse().expect("a number")
}
