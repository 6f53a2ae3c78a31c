//! The kinds of ports that no other test carries traffic over: captures, a TAP, shared memory between two Crossdocks,
//! raw device arguments. (af_packet, af_xdp, null and ring have tests of their own; PCI ports are in nic_lab.rs.)

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, binary, replaced};
use testbed::lab::{Lab, top};
use testbed::process::{Process, until};

/// How long traffic may take to show.
const PATIENCE: Duration = Duration::from_secs(30);

fn golden(file: &str) -> String {
    top().join("control/tests/golden/mh").join(file).display().to_string()
}

/// The rules of the golden capture, on another device and on the last core.
fn rules(device: &str) -> String {
    let text = std::fs::read_to_string(golden("rules.toml")).expect("the golden rules");
    let last_core = std::thread::available_parallelism().expect("the number of cores").get() - 1;
    let text = replaced(&text, "max_flows = 4096", &format!("max_flows = 4096\nworkers = [{last_core}]"));
    replaced(&text, "device = \"null\"", &format!("device = \"{device}\""))
}

/// What tshark reads in a capture: where each packet goes, and all of it that DR leaves alone.
fn packets(capture: &str) -> Vec<String> {
    let fields =
        ["eth.dst", "ip.src", "ip.dst", "ip.ttl", "ip.checksum", "tcp.srcport", "tcp.seq_raw", "tcp.len"];
    let output = Command::new("tshark")
        .args(["-r", capture, "-T", "fields"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .expect("tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a count is missing: {value}"))
}

fn service_packets(status: &Value) -> u64 {
    number(&status["services"][0]["packets"])
}

/// DPDK's capture port and `crossdock replay` are the same line: the golden capture comes out of both.
#[test]
fn a_capture_port_sends_what_replay_writes() {
    let lab = Lab::two_arms();
    let output = lab.directory().join("out.pcap").display().to_string();
    let path = lab.directory().join("rules.toml");
    let socket = lab.directory().join("capture.sock");
    let rules = rules(&format!("pcap:{},{output}", golden("in.pcap")));
    std::fs::write(&path, format!("[control]\nsocket = \"{}\"\n{rules}", socket.display()))
        .expect("the rules");
    let binary = binary().display().to_string();
    let path = path.display().to_string();
    let argv = [&binary, "run", "-c", &path, "--until-idle", "500ms", "--summary", "json"].map(str::as_ref);
    let stdout = lab.succeed("director", &argv);
    let summary: Value = serde_json::from_str(stdout.lines().last().unwrap_or_default()).expect("a summary");
    let counters = std::fs::read_to_string(golden("counters.json")).expect("the golden counters");
    let counters: Value = serde_json::from_str(&counters).expect("JSON");
    assert_eq!(summary["drops"], counters["drops"]);
    assert_eq!(packets(&output), packets(&golden("out.pcap")));
}

/// The kernel at the other end of a TAP is the client.
#[test]
fn a_tap_port() {
    let lab = Lab::two_arms();
    let mut director =
        Director::start(&lab, &replaced(&rules("tap:xdtap"), "tcp 203.0.113.10:80", "udp 203.0.113.10:80"));
    let mac =
        director.try_status().map(|_| lab.succeed("director", &["cat", "/sys/class/net/xdtap/address"]));
    assert!(mac.is_some(), "the TAP is there");
    lab.succeed("director", &["ip", "link", "set", "xdtap", "up"]);
    lab.succeed("director", &["ip", "address", "add", "198.51.100.1/24", "dev", "xdtap"]);
    lab.succeed("director", &["ip", "route", "add", "203.0.113.10/32", "dev", "xdtap"]);
    let port_mac = port_mac(&director);
    lab.succeed(
        "director",
        &["ip", "neigh", "add", "203.0.113.10", "lladdr", &port_mac, "dev", "xdtap", "nud", "permanent"],
    );
    let send = "for i in 1 2 3 4 5; do echo hello >/dev/udp/203.0.113.10/80; done";
    lab.succeed("director", &["bash", "-c", send]);
    let arrived = || director.try_status().is_some_and(|status| service_packets(&status) == 5);
    assert!(until(PATIENCE, arrived), "{:?}", director.try_status());
    // Signals 32 and above: net_tap's, one a packet. Nobody taking them, they fill the user's share (RLIMIT_SIGPENDING).
    let pid = director.process().pid();
    let pending = || hexadecimal(&status_line(&format!("/proc/{pid}/status"), "ShdPnd:")) >> 31;
    assert!(until(PATIENCE, || pending() == 0), "real-time signals pile up: {:#x}", pending());
    director.stop();
}

/// What /proc says of a process or thread under `key`.
fn status_line(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("{file} has no {key}")).trim().to_owned()
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// EAL starts threads of its own; on a worker's core they would take its time.
#[test]
fn a_workers_core_is_its_own() {
    let cores = std::thread::available_parallelism().expect("the number of cores").get();
    let lab = Lab::two_arms();
    let mut director = Director::start(&lab, &rules("null"));
    let tasks = format!("/proc/{}/task", director.process().pid());
    let mut threads = Vec::new();
    for task in std::fs::read_dir(&tasks).expect("the threads").flatten() {
        let status = task.path().join("status").display().to_string();
        threads.push((status_line(&status, "Name:"), status_line(&status, "Cpus_allowed_list:")));
    }
    assert!(threads.iter().any(|(name, _)| name == "eal-intr-thread"), "{threads:?}");
    // With one core all share it.
    let beside: Vec<_> = threads.iter().filter(|(name, _)| !name.starts_with("worker-")).collect();
    assert!(cores == 1 || beside.iter().all(|(_, allowed)| allowed == "0"), "{threads:?}");
    director.stop();
}

/// The MAC that the director says its first port has.
fn port_mac(director: &Director) -> String {
    let said = director.stderr();
    let line = said.lines().find(|line| line.contains("port front:")).expect("it tells of its port");
    line.split("MAC ").nth(1).and_then(|rest| rest.split(',').next()).expect("a MAC").to_owned()
}

fn second(lab: &Lab, rules: &str) -> Process {
    let path = lab.directory().join("second.toml");
    let socket = lab.directory().join("second.sock");
    std::fs::write(&path, format!("[control]\nsocket = \"{}\"\n{rules}", socket.display()))
        .expect("the rules");
    let binary = binary().display().to_string();
    lab.start("director", "second", &[&binary, "run", "-c", &path.display().to_string(), "--duration", "60s"])
}

/// One Crossdock plays an endless capture (raw device arguments) into shared memory; another takes it from there.
#[test]
fn two_crossdocks_over_shared_memory() {
    let lab = Lab::two_arms();
    let socket = lab.directory().join("memif.sock");
    let mac = "02:00:00:00:00:77";
    let receiver_rules = replaced(
        &rules(&format!("memif:{}", socket.display())),
        "name   = \"front\"",
        &format!("name   = \"front\"\nmac = \"{mac}\""),
    );
    let director = Director::start(&lab, &receiver_rules);
    assert!(Path::new(&socket).exists(), "the first makes the socket");
    // Every backend of the player is the other Crossdock.
    let player = rules(&format!("net_pcap0,rx_pcap={},infinite_rx=1", golden("in.pcap")));
    let player = ["02:00:00:00:01:0b", "02:00:00:00:01:0c", "02:00:00:00:01:0d", "02:00:00:00:01:0e"]
        .iter()
        .fold(player, |rules, backend| replaced(&rules, backend, mac));
    let player = replaced(&player, "port    = \"front\"", "port    = \"wire\"");
    let wire = format!("[[port]]\nname = \"wire\"\ndevice = \"memif:{}\"\n", socket.display());
    let mut playing = second(&lab, &format!("{player}\n{wire}"));
    let arrived = || director.try_status().is_some_and(|status| service_packets(&status) > 1_000);
    assert!(until(PATIENCE, arrived), "{:?}\n{}", director.try_status(), playing.stderr());
    assert!(playing.stop().success(), "{}", playing.stderr());
    director.stop();
}
