//! `crossdock replay`, the real binary: every format that a capture comes in, and everything that may be wrong
//! with one. editcap, which nobody here wrote, makes the formats.

mod crossdock;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crossdock::{replay, replay_json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A golden capture, converted by editcap.
fn edited(directory: &TempDir, name: &str, arguments: &[&str]) -> PathBuf {
    let edited = directory.path().join("edited");
    let status = Command::new("editcap")
        .args(arguments)
        .args([&golden(name).join("in.pcap"), &edited])
        .status()
        .unwrap_or_else(|error| panic!("editcap cannot be run ({error}): apt-get install tshark"));
    assert!(status.success());
    edited
}

#[test]
fn pcap_with_nanoseconds_and_pcapng_give_what_pcap_gives() {
    let directory = TempDir::new().unwrap();
    let output = directory.path().join("out.pcap");
    for format in ["pcap", "nsecpcap", "pcapng"] {
        let input = edited(&directory, "fullnat-tcp", &["-F", format]);
        let _ = replay_json(&golden("fullnat-tcp").join("rules.toml"), &input, &output);
        let recorded = fs::read(golden("fullnat-tcp").join("out.pcap")).unwrap();
        assert!(fs::read(&output).unwrap() == recorded, "{format}");
    }
}

#[test]
fn timestamps_leave_as_they_came_to_the_nanosecond() {
    let directory = TempDir::new().unwrap();
    let output = directory.path().join("out.pcap");
    for format in ["nsecpcap", "pcapng"] {
        let shifted = edited(&directory, "mh", &["-F", format, "-t", "0.000000001"]);
        let _ = replay_json(&golden("mh").join("rules.toml"), &shifted, &output);
        let capture = fs::read(&output).unwrap();
        // The first record's fraction of a second: 24 bytes file header, 4 bytes of seconds.
        let fraction_ns = u32::from_le_bytes(capture[28..32].try_into().unwrap());
        // editcap keeps a pcap's microseconds in pcapng.
        let expected = if format == "nsecpcap" { 1_000_001 } else { 1_000_000 };
        assert_eq!(fraction_ns, expected, "{format}");
    }
}

#[test]
fn packets_cut_by_a_snapshot_length_count_as_whole_ones() {
    let directory = TempDir::new().unwrap();
    let output = directory.path().join("out.pcap");
    let whole = golden("fullnat-tcp").join("counters.json");
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(whole).unwrap()).unwrap();
    let input = edited(&directory, "fullnat-tcp", &["-F", "pcap", "-s", "64"]);
    let cut = replay_json(&golden("fullnat-tcp").join("rules.toml"), &input, &output);
    for key in ["drops", "packets", "flows", "services", "ports"] {
        assert_eq!(cut[key], whole[key], "{key}");
    }
}

#[test]
fn packets_enter_by_the_port_that_is_named() {
    let directory = TempDir::new().unwrap();
    let (rules, input) = (golden("udp").join("rules.toml"), golden("udp").join("in.pcap"));
    let output = directory.path().join("out.pcap");
    let result = replay(&rules, &input, &output, &["--json", "--port", "back"]);
    let counters: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(
        (&counters["ports"][0]["rx_packets"], &counters["ports"][1]["rx_packets"]),
        (&0.into(), &27.into())
    );
    let result = replay(&rules, &input, &output, &["--port", "bck"]);
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert_eq!(result.status.code(), Some(1));
    assert!(stderr.contains("no port \"bck\"") && stderr.contains("front, back"), "{stderr}");
}

#[test]
fn the_summary_is_readable() {
    let directory = TempDir::new().unwrap();
    let case = golden("dr-tcp");
    let output = directory.path().join("out.pcap");
    let result = replay(&case.join("rules.toml"), &case.join("in.pcap"), &output, &[]);
    let stdout = String::from_utf8(result.stdout).unwrap();
    for part in
        ["43 packets in, 38 out, 0 to the kernel, 5 dropped", "ttl_expired", "web tcp 203.0.113.10:80"]
    {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    assert_eq!(result.stderr, b"");
}

#[test]
fn a_backend_without_a_next_hop_is_named() {
    let directory = TempDir::new().unwrap();
    let rules = directory.path().join("rules.toml");
    fs::write(
        &rules,
        r#"
[[port]]
name   = "front"
device = "null"
kernel = true

[[service]]
name   = "web"
listen = "tcp 203.0.113.10:80"
mode   = "dr"

[[service.backend]]
address = "10.0.0.11"
"#,
    )
    .unwrap();
    let input = golden("mh").join("in.pcap");
    let result = replay(&rules, &input, &directory.path().join("out.pcap"), &["--json"]);
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert!(stderr.contains("web: 10.0.0.11 has no [[neighbour]]"), "{stderr}");
    let counters: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(counters["drops"]["next_hop_unresolved"], 80);
    assert_eq!(counters["packets"]["punted"], 10, "ACKs without a flow go to the kernel");
}

/// The one line of an error that replaying `capture` ends with.
fn refusal(capture: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    let input = directory.path().join("bad.pcap");
    fs::write(&input, capture).unwrap();
    let rules = golden("mh").join("rules.toml");
    let result = replay(&rules, &input, &directory.path().join("out.pcap"), &[]);
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert_eq!((result.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.starts_with("crossdock: ") && stderr.contains("bad.pcap: "), "{stderr}");
    stderr
}

#[test]
fn a_capture_that_is_none_is_refused() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\nand so on, more than a header"[..], &[0; 100], &[0xff; 5_000]] {
        assert!(refusal(garbage).contains("neither a pcap nor a pcapng file"), "{}", refusal(garbage));
    }
}

#[test]
fn a_capture_that_is_cut_anywhere_says_at_which_packet() {
    let directory = TempDir::new().unwrap();
    let whole = fs::read(golden("mh").join("in.pcap")).unwrap();
    for len in [0, 1, 4, 23] {
        assert!(refusal(&whole[..len]).contains("the file ends where packet 1 should be"), "{len}");
    }
    // Records of 54 bytes and 16 of their own: the first is cut in its header, the third in its packet.
    assert!(refusal(&whole[..30]).contains("packet 1 should be"));
    assert!(refusal(&whole[..24 + 2 * 70 + 20]).contains("packet 3 should be"));
    let pcapng = fs::read(edited(&directory, "mh", &["-F", "pcapng"])).unwrap();
    assert!(refusal(&pcapng[..pcapng.len() - 2]).contains("packet 90 should be"));
}

#[test]
fn a_record_that_makes_no_sense_says_which() {
    let mut capture = fs::read(golden("mh").join("in.pcap")).unwrap();
    // The captured length of the second record.
    capture[24 + 70 + 8..][..4].copy_from_slice(&[0xff; 4]);
    assert!(refusal(&capture).contains("damaged at packet 2"));
}

#[test]
fn another_link_layer_is_refused_by_its_name() {
    let mut capture = fs::read(golden("mh").join("in.pcap")).unwrap();
    // LINKTYPE_LINUX_SLL: what tcpdump -i any writes.
    capture[20] = 113;
    let stderr = refusal(&capture);
    assert!(stderr.contains("only Ethernet (1) can be replayed") && stderr.contains("LINUX_SLL"), "{stderr}");
}

#[test]
fn the_input_is_never_overwritten() {
    let directory = TempDir::new().unwrap();
    let capture = directory.path().join("capture.pcap");
    fs::copy(golden("mh").join("in.pcap"), &capture).unwrap();
    let result = replay(&golden("mh").join("rules.toml"), &capture, &capture, &[]);
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert!(stderr.contains("input and output are the same file"), "{stderr}");
    assert_eq!(fs::read(&capture).unwrap(), fs::read(golden("mh").join("in.pcap")).unwrap());
}

#[test]
fn any_damage_to_a_capture_ends_in_a_summary_or_an_error() {
    let directory = TempDir::new().unwrap();
    let (input, output) = (directory.path().join("damaged"), directory.path().join("out.pcap"));
    let pcapng = fs::read(edited(&directory, "udp", &["-F", "pcapng"])).unwrap();
    let whole = [fs::read(golden("udp").join("in.pcap")).unwrap(), pcapng];
    // A linear congruential generator (Numerical Recipes): the same damage every time.
    let mut state = 1u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for round in 0..120 {
        let mut capture = whole[round % 2].clone();
        for _ in 0..=random(6) {
            // The beginning is where the headers are; later bytes are records and packets.
            let at = if random(2) == 0 { random(200) } else { random(capture.len()) };
            capture[at] = random(256) as u8;
        }
        fs::write(&input, capture).unwrap();
        let result = replay(&golden("udp").join("rules.toml"), &input, &output, &[]);
        let code = result.status.code();
        let stderr = String::from_utf8_lossy(&result.stderr);
        assert!(
            matches!(code, Some(0 | 1)) && !stderr.contains("panicked"),
            "round {round}: {code:?} {stderr}"
        );
    }
}
