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
    let expected = [
        "dr-tcp",
        "echo",
        "fragments",
        "fullnat-tcp",
        "garbage",
        "icmp-errors",
        "ipv6",
        "lying-lengths",
        "matching",
        "mh",
        "nat",
        "policy",
        "schedulers",
        "tunnel",
        "tunnel-errors",
        "udp",
    ];
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
        let own = packets["own_resets"].as_u64().unwrap();
        assert_eq!(sum("rx_packets") + own, out, "{}", case.display());
    }
}

/// What tshark says of the checksums of a packet, quoted ones and reassembled ones among them.
struct Statuses {
    /// Of each IPv4 header.
    ip: Vec<String>,
    /// Of the ICMP or ICMPv6 message, else of the TCP or UDP header. Of a TCP header that is quoted tshark says nothing true where
    /// less than the segment is.
    l4: Vec<String>,
    /// It is a fragment: what is told of it is told with the last one of its datagram.
    is_part: bool,
}

fn statuses(capture: &Path) -> Vec<Statuses> {
    const PROTOCOLS: [&str; 5] = ["ip", "tcp", "udp", "icmp", "icmpv6"];
    let checks = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.check_checksum:TRUE"));
    let mut fields = PROTOCOLS.map(|protocol| format!("{protocol}.checksum.status")).to_vec();
    fields.extend(["ip.flags.mf", "ip.frag_offset", "ipv6.fraghdr.ident"].map(str::to_owned));
    let output = Command::new("tshark")
        .arg("-r")
        .arg(capture)
        .args(checks.iter().flat_map(|check| ["-o", check]))
        // GUE's variant 1 is IP in UDP.
        .args(["-d", "udp.port==6080,ip", "-T", "fields", "-E", "separator=;"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .unwrap_or_else(|error| panic!("tshark cannot be run ({error}): apt-get install tshark"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let of_line = |line: &str| {
        let split =
            |column: &str| column.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
        let columns: Vec<Vec<String>> = line.split(';').map(split).collect();
        let [ip, tcp, udp, icmp, icmpv6, more, offset, part6] = &columns[..] else { panic!("{line:?}") };
        let message = [&icmp[..], icmpv6].concat();
        let l4 = if message.is_empty() { [&tcp[..], udp].concat() } else { message };
        // The first is the packet's own, the second what it quotes.
        let is_set = |column: &[String]| column.first().is_some_and(|value| value != "0" && value != "False");
        let is_part = is_set(more) || is_set(offset) || !part6.is_empty();
        Statuses { ip: ip.clone(), l4, is_part }
    };
    String::from_utf8(output.stdout).unwrap().lines().map(of_line).collect()
}

#[test]
fn tshark_finds_every_checksum_right() {
    let mut checked = 0;
    for case in cases() {
        for (number, Statuses { ip, l4, is_part }) in statuses(&case.join("out.pcap")).into_iter().enumerate()
        {
            let what = format!("{} packet {}", case.display(), number + 1);
            assert!(ip.iter().all(|status| status == GOOD), "{what}: IPv4 {ip:?}");
            assert!(l4.iter().all(|status| status != BAD), "{what}: {l4:?}");
            let is_told = l4.first().is_some_and(|status| status == GOOD || status == NOT_PRESENT);
            assert!(is_told || is_part, "{what}: {l4:?}");
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
    let statuses = &statuses(file.path())[0];
    assert_eq!((&statuses.ip[..], &statuses.l4[..]), (&[BAD.to_owned()][..], &[BAD.to_owned()][..]));
}
