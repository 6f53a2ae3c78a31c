//! Golden captures: in `tests/golden/NAME`, `rules.toml` and `in.pcap` go through `crossdock replay`, and
//! every byte that leaves (`out.pcap`) and every counter (`counters.json`) must be as recorded. tshark, which
//! nobody here wrote, checks the checksums and the lengths of what left, header by header to the innermost.
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
        "client-address",
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
        "mss",
        "mtu",
        "nat",
        "policy",
        "schedulers",
        "sctp",
        "server-ids",
        "translation",
        "tunnel",
        "tunnel-errors",
        "tunnel-variants",
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
        // What is cut here leaves in two parts, in all cases.
        let own = packets["own_resets"].as_u64().unwrap() + packets["fragmented"].as_u64().unwrap();
        assert_eq!(sum("rx_packets") + own, out, "{}", case.display());
    }
}

/// What tshark says of a packet, of quoted and reassembled ones within it too.
struct Judgement {
    /// The checksum of each IPv4 header.
    ip: Vec<String>,
    /// Of the ICMP or ICMPv6 message, else of the TCP, UDP or SCTP header. Of a TCP header that is quoted tshark says nothing true where
    /// less than the segment is.
    l4: Vec<String>,
    /// It is a fragment: what is told of it is told with the last one of its datagram.
    is_part: bool,
    /// What is not true of its lengths; what tshark calls malformed or bogus.
    complaints: Vec<String>,
}

fn judge(capture: &Path) -> Vec<Judgement> {
    const PROTOCOLS: [&str; 6] = ["ip", "tcp", "udp", "sctp", "icmp", "icmpv6"];
    let checks = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.check_checksum:TRUE"));
    let mut fields = PROTOCOLS.map(|protocol| format!("{protocol}.checksum.status")).to_vec();
    fields.extend(["ip.flags.mf", "ip.frag_offset", "ipv6.fraghdr.ident"].map(str::to_owned));
    fields.extend(["frame.len", "frame.protocols", "ip.len", "ip.hdr_len", "ipv6.plen"].map(str::to_owned));
    // What may hold the separator comes last.
    fields.extend(["udp.length", "gre.key", "_ws.malformed", "_ws.expert.message"].map(str::to_owned));
    let output = Command::new("tshark")
        .arg("-r")
        .arg(capture)
        .args(checks.iter().flat_map(|check| ["-o", check]))
        .args(["-o", "sctp.checksum:crc-32c"])
        // GUE's variant 1 is IP in UDP. What is sent to the ports of DNS here is none.
        .args(["-d", "udp.port==6080,ip", "--disable-protocol", "dns", "--disable-protocol", "mdns"])
        .args(["-T", "fields", "-E", "separator=;"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .unwrap_or_else(|error| panic!("tshark cannot be run ({error}): apt-get install tshark"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| judgement(line, fields.len())).collect()
}

/// Reads a line of tshark's, which has so many fields.
fn judgement(line: &str, field_count: usize) -> Judgement {
    let split = |column: &str| column.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let columns: Vec<Vec<String>> = line.splitn(field_count, ';').map(split).collect();
    let [ip, tcp, udp, sctp, icmp, icmpv6, more, offset, part6, frame_len, names, rest @ ..] = &columns[..]
    else {
        panic!("{line:?}")
    };
    let message = [&icmp[..], icmpv6].concat();
    let l4 = if message.is_empty() { [&tcp[..], udp, sctp].concat() } else { message };
    // The first is the packet's own, the second what it quotes.
    let is_set = |column: &[String]| column.first().is_some_and(|value| value != "0" && value != "False");
    let is_part = is_set(more) || is_set(offset) || !part6.is_empty();
    let [ip_len, header_len, plen, udp_len, key, malformed, expert] = rest else { panic!("{line:?}") };
    let numbers = |column: &[String]| column.iter().map(|text| text.parse().unwrap()).collect::<Vec<usize>>();
    let lengths = Lengths {
        ip: numbers(ip_len).into_iter().zip(numbers(header_len)).collect(),
        ipv6: numbers(plen),
        udp: numbers(udp_len),
        has_gre_key: !key.is_empty(),
    };
    let mut complaints: Vec<_> =
        expert.iter().filter(|text| text.contains("ogus") || text.contains("alformed")).cloned().collect();
    complaints.extend(malformed.iter().map(|_| "malformed".to_owned()));
    complaints.extend(lengths.untrue(numbers(frame_len)[0], &names.join(","), is_part));
    Judgement { ip: ip.clone(), l4, is_part, complaints }
}

/// The lengths that the headers of a packet claim, each kind from the outermost on.
struct Lengths {
    /// Total, and of the header.
    ip: Vec<(usize, usize)>,
    /// Behind the header.
    ipv6: Vec<usize>,
    udp: Vec<usize>,
    has_gre_key: bool,
}

impl Lengths {
    /// A length that is not exactly what the header around leaves. `names` are the packet's protocols as tshark has them. What an ICMP error
    /// quotes, what is put together from fragments, and what stands behind an IPv6 extension may be shorter, and ends the walk; the last
    /// fragment of a datagram is followed to its own header.
    fn untrue(&self, frame_len: usize, names: &str, is_part: bool) -> Option<String> {
        const ETHERNET_LEN: usize = 14;
        const FRAME_LEN_MIN: usize = 60;
        let (mut ip, mut ipv6, mut udp) = (self.ip.iter(), self.ipv6.iter(), self.udp.iter());
        let names: Vec<_> = names.split(':').collect();
        let mut room = frame_len - ETHERNET_LEN;
        for (at, name) in names.iter().enumerate() {
            let is_outermost = room == frame_len - ETHERNET_LEN;
            let (claimed, header_len) = match *name {
                // Of IPv6 in GUE's variant 1 tshark says "ip" first, which it is told to expect.
                "ip" if names.get(at + 1) == Some(&"ipv6") && at > 0 && names[at - 1] == "udp" => continue,
                "ip" => *ip.next()?,
                "ipv6" => (ipv6.next()? + 40, 40),
                "udp" => (*udp.next()?, 8),
                "gre" => (room, if self.has_gre_key { 8 } else { 4 }),
                "eth" | "ethertype" => continue,
                _ => return None,
            };
            // Ethernet pads, and captures that are replayed may be padded beyond that.
            let is_padded = is_outermost && claimed < room && frame_len <= FRAME_LEN_MIN + ETHERNET_LEN;
            if claimed != room && !is_padded {
                return Some(format!("{name} of {claimed} bytes in {room}"));
            }
            if is_part && matches!(*name, "ip" | "ipv6") {
                return None;
            }
            room = claimed - header_len;
        }
        None
    }
}

#[test]
fn tshark_finds_every_checksum_right_and_every_length_true() {
    let mut checked = 0;
    for case in cases() {
        for (number, judgement) in judge(&case.join("out.pcap")).into_iter().enumerate() {
            let Judgement { ip, l4, is_part, complaints } = judgement;
            let what = format!("{} packet {}", case.display(), number + 1);
            assert!(ip.iter().all(|status| status == GOOD), "{what}: IPv4 {ip:?}");
            assert!(l4.iter().all(|status| status != BAD), "{what}: {l4:?}");
            let is_told = l4.first().is_some_and(|status| status == GOOD || status == NOT_PRESENT);
            assert!(is_told || is_part, "{what}: {l4:?}");
            assert!(complaints.is_empty(), "{what}: {complaints:?}");
            checked += 1;
        }
    }
    assert!(checked > 800, "only {checked} packets");
}

#[test]
fn tshark_would_notice_a_wrong_checksum() {
    let case = cases().remove(0);
    let mut capture = fs::read(case.join("out.pcap")).unwrap();
    // The last byte of the first packet's IPv4 source: 24 bytes file header, 16 record header, 14 Ethernet.
    capture[24 + 16 + 14 + 15] ^= 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), capture).unwrap();
    let judged = &judge(file.path())[0];
    assert_eq!((&judged.ip[..], &judged.l4[..]), (&[BAD.to_owned()][..], &[BAD.to_owned()][..]));
}

/// Of a tunnel packet: outer and inner IPv4 lengths, and those of UDP in GUE, each one less than it is.
#[test]
fn tshark_would_notice_a_wrong_length() {
    let case = cases().into_iter().find(|case| case.ends_with("tunnel")).unwrap();
    let capture = fs::read(case.join("out.pcap")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let complaints = |capture: &[u8]| {
        fs::write(file.path(), capture).unwrap();
        judge(file.path()).remove(0).complaints
    };
    assert_eq!(complaints(&capture), Vec::<String>::new());
    // The first packet is IPv4 in IPv4: the low bytes of both total lengths.
    for at in [3, 23] {
        let mut lying = capture.clone();
        lying[24 + 16 + 14 + at] -= 1;
        assert!(!complaints(&lying).is_empty(), "byte {at}");
    }
}
