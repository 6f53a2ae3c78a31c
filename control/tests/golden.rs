//! Golden captures: in `tests/golden/NAME`, `rules.toml` and `in.pcap` go through `crossdock replay`, and
//! every byte that leaves (`out.pcap`) and every counter (`counters.json`) must be as recorded. tshark, which
//! nobody here wrote, checks the checksums of what left.
//!
//! `CROSSDOCK_GOLDEN=rewrite cargo test -p control --test golden` records anew, for review in git;
//! `tests/golden/make.py` (scapy) makes the `in.pcap`s.

mod crossdock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What `*.checksum.status` says in tshark.
const BAD: &str = "0";
const GOOD: &str = "1";
/// UDP without a checksum.
const NOT_PRESENT: &str = "3";

fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    let names: Vec<_> = cases.iter().map(|case| case.file_name().unwrap().to_str().unwrap()).collect();
    let expected = ["dr-tcp", "fragments", "fullnat-tcp", "garbage", "lying-lengths", "mh", "udp"];
    assert_eq!(names, expected);
    cases
}

/// Runs one case; the bytes of its output and its counters. The version of the program is no counter.
fn replay(case: &Path) -> (Vec<u8>, Value) {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out.pcap");
    let mut counters = crossdock::replay_json(&case.join("rules.toml"), &case.join("in.pcap"), &output);
    counters.as_object_mut().unwrap().remove("version");
    (fs::read(output).unwrap(), counters)
}

#[test]
fn every_packet_and_every_counter_is_as_recorded() {
    let rewrite = std::env::var("CROSSDOCK_GOLDEN").is_ok_and(|value| value == "rewrite");
    for case in cases() {
        let (packets, counters) = replay(&case);
        let (packets_file, counters_file) = (case.join("out.pcap"), case.join("counters.json"));
        if rewrite {
            fs::write(&packets_file, &packets).unwrap();
            fs::write(&counters_file, format!("{counters:#}\n")).unwrap();
        }
        let recorded = fs::read_to_string(&counters_file).unwrap();
        let recorded: Value = serde_json::from_str(&recorded).unwrap();
        assert_eq!(counters, recorded, "{}: these counters are not the recorded ones", case.display());
        assert!(packets == fs::read(&packets_file).unwrap(), "{} differs", packets_file.display());
    }
}

#[test]
fn the_books_balance() {
    for case in cases() {
        let (_, counters) = replay(&case);
        let ports = counters["ports"].as_array().unwrap();
        let sum = |key: &str| ports.iter().map(|port| port[key].as_u64().unwrap()).sum::<u64>();
        let packets = &counters["packets"];
        let drops = counters["drops"].as_object().unwrap();
        let dropped: u64 = drops.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(packets["dropped"], dropped, "{}", case.display());
        let out = sum("tx_packets") + packets["punted"].as_u64().unwrap() + dropped;
        assert_eq!(sum("rx_packets"), out, "{}", case.display());
    }
}

/// One line a packet: the statuses of its IPv4, TCP and UDP checksums, empty where there is none.
fn checksum_statuses(capture: &Path) -> Vec<[String; 3]> {
    let checks = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.check_checksum:TRUE"));
    let fields = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.checksum.status"));
    let output = Command::new("tshark")
        .arg("-r")
        .arg(capture)
        .args(checks.iter().flat_map(|check| ["-o", check]))
        .args(["-T", "fields", "-E", "separator=,"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .unwrap_or_else(|error| panic!("tshark cannot be run ({error}): apt-get install tshark"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let statuses = |line: &str| -> [String; 3] {
        let columns: Vec<_> = line.split(',').map(str::to_owned).collect();
        columns.try_into().unwrap_or_else(|line| panic!("three columns, not {line:?}"))
    };
    stdout.lines().map(statuses).collect()
}

#[test]
fn tshark_finds_every_checksum_right() {
    let mut checked = 0;
    for case in cases() {
        for (number, [ip, tcp, udp]) in checksum_statuses(&case.join("out.pcap")).into_iter().enumerate() {
            let what = format!("{} packet {}", case.display(), number + 1);
            assert_eq!(ip, GOOD, "{what}: IPv4");
            let l4_is_right = tcp == GOOD || udp == GOOD || udp == NOT_PRESENT;
            assert!(l4_is_right && tcp != BAD && udp != BAD, "{what}: TCP {tcp:?}, UDP {udp:?}");
            checked += 1;
        }
    }
    assert!(checked > 200, "only {checked} packets");
}

#[test]
fn tshark_would_notice_a_wrong_checksum() {
    let case = cases().remove(0);
    let mut capture = fs::read(case.join("out.pcap")).unwrap();
    // The last byte of the first packet's IPv4 source: 24 bytes file header, 16 record header, 14 Ethernet.
    capture[24 + 16 + 14 + 15] ^= 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), capture).unwrap();
    assert_eq!(checksum_statuses(file.path())[0], [BAD.to_owned(), BAD.to_owned(), String::new()]);
}
