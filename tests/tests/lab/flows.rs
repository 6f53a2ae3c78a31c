//! `crossdock flows` against what the machines themselves say of their connections: listed, counted, deleted, and all of
//! it under traffic.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{CLIENT, Lab, VIP, WebServers};
use testbed::process::{Process, until};

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// `crossdock flows --json` with these conditions.
fn list(director: &Director, conditions: &[&str]) -> Vec<Value> {
    let text = succeed(director.command(&["flows"], &[&["--json"], conditions].concat()));
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// A download that is still under way when the test looks, as curl takes it slowly.
fn slow_download(lab: &Lab, name: &str) -> Process {
    let url = format!("http://{VIP}/big");
    lab.start("client", name, &["curl", "-sS", "--limit-rate", "1M", "-o", "/dev/null", &url])
}

/// TCP connections that a machine itself holds open, as `local peer`.
fn sockets(lab: &Lab, role: &str, filter: &str) -> Vec<String> {
    let text = lab.succeed(role, &["ss", "-Htn", "state", "established", filter]);
    let ends = |line: &str| line.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>().join(" ");
    text.lines().map(ends).collect()
}

#[test]
fn a_live_connection_is_told_as_its_ends_see_it_and_deleting_it_ends_it() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    servers.serve_big(&vec![7; 50_000_000]);
    let mut director = Director::start(&lab, &rules("quickstart.toml"));
    let mut download = slow_download(&lab, "download");
    let established = ["--state", "established"];
    assert!(until(Duration::from_secs(30), || !list(&director, &established).is_empty()), "no connection");
    let connections = list(&director, &[]);
    let [connection] = connections.as_slice() else { panic!("one connection: {connections:?}") };
    let text = |field: &str| connection[field].as_str().unwrap_or_else(|| panic!("{field}: {connection}"));
    assert_eq!((text("protocol"), text("state"), text("service")), ("tcp", "established", "web"));
    assert_eq!((text("vip"), text("mode")), (&*format!("{VIP}:80"), "fullnat"));
    assert_eq!(sockets(&lab, "client", "dport = :80"), [format!("{} {VIP}:80", text("client"))]);
    let backend = text("backend").strip_prefix("10.0.0.1").and_then(|rest| rest.split(':').next());
    let backend = format!("backend{}", backend.expect("a backend of the rules"));
    assert_eq!(sockets(&lab, &backend, "sport = :8080"), [format!("{} {}", text("backend"), text("local"))]);
    assert_conditions_choose(&director, text("client"), text("backend"));

    let deleted = succeed(director.command(&["flows", "delete"], &["--client", CLIENT, "-p", "tcp"]));
    assert_eq!(deleted, "1 connection deleted\n");
    assert!(list(&director, &[]).is_empty());
    // The twin's kernel resets what nobody knows, at both ends.
    assert!(!download.wait(Duration::from_secs(30)).success(), "curl was cut off");
    let before = director.try_status().expect("status")["flows"]["opened"].as_u64();
    assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"), "the next one is scheduled anew");
    let flows = director.try_status().expect("status")["flows"].clone();
    assert_eq!(flows["opened"].as_u64(), before.map(|opened| opened + 1));
    assert_eq!(flows["deleted"].as_u64(), Some(1));
    assert!(director.process().ended().is_none());
    director.stop();
}

fn assert_conditions_choose(director: &Director, client: &str, backend: &str) {
    let port = client.rsplit(':').next().expect("a port");
    let (network, vip) = (format!("{CLIENT}/24:{port}"), format!("{VIP}:80"));
    for (conditions, count) in [
        (["--client", network.as_str()].as_slice(), 1),
        (&["--client", "10.1.0.0/16"], 0),
        (&["--vip", &vip, "--backend", backend, "--service", "web", "--worker", "0"], 1),
        (&["--protocol", "udp"], 0),
        (&["--idle", "1h"], 0),
        (&["--state", "close,time_wait"], 0),
    ] {
        assert_eq!(list(director, conditions).len(), count, "{conditions:?}");
        let counted = succeed(director.command(&["flows"], &[&["--count"], conditions].concat()));
        assert_eq!(counted, format!("{count}\n"), "{conditions:?}");
    }
    let table = succeed(director.command(&["flows"], &[]));
    let row = table.lines().nth(1).expect("a row below the heading");
    assert!(row.starts_with("TCP 14:5") || row.starts_with("TCP 15:00"), "{table}");
    assert!(row.contains("ESTABLISHED") && row.contains(client) && row.contains(backend), "{table}");
    for (words, options, told) in [
        (["flows"].as_slice(), ["--service", "wbe"].as_slice(), "is \"web\" meant?"),
        (&["flows"], &["--worker", "9"], "there is no worker 9"),
        (&["flows", "delete"], &[], "say which connections to delete"),
    ] {
        let output = director.command(words, options).output().expect("crossdock flows");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(told), "{options:?}: {stderr}");
    }
}

/// Connections of the great list.
const MANY: usize = 120_000;

/// Sends a datagram from each of the made-up endpoints of 10.0.0.0/8 whose numbers stdin has, not faster than a busy
/// machine takes them.
const FLOOD: &str = r"
import socket, struct, sys, time
vip = socket.inet_aton(sys.argv[1])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for at, number in enumerate(map(int, open(sys.argv[2]))):
    source = struct.pack('!I', 0x0a640000 + number // 100)
    head = struct.pack('!BBHHHBBH', 0x45, 0, 29, 0, 0, 64, 17, 0) + source + vip
    raw.sendto(head + struct.pack('!HHHHB', 2000 + number % 100, 5353, 9, 0, 0), (sys.argv[1], 0))
    if at % 100 == 99:
        time.sleep(0.002)
";

/// The endpoint of a number, as [`FLOOD`] makes it.
fn endpoint(number: usize) -> String {
    let address = Ipv4Addr::from_bits(0x0a64_0000 + (number / 100) as u32);
    format!("{address}:{}", 2_000 + number % 100)
}

#[test]
fn a_hundred_thousand_connections_are_listed_and_deleted_under_traffic() {
    let lab = Lab::one_arm();
    let servers = WebServers::start(&lab, 80);
    servers.serve_big(&vec![7; 50_000_000]);
    let text = rules("dr.toml");
    let udp = text[text.find("[[service]]").expect("a service")..].to_owned();
    let udp = replaced(&udp, &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let udp = replaced(&udp, "name      = \"web\"", "name      = \"dns\"");
    let director = Director::start(&lab, &format!("{text}\n{udp}"));
    make_many(&lab, &director);
    let drops = |director: &Director| director.try_status().expect("status")["drops"].clone();
    let drops_before = drops(&director);
    let mut download = slow_download(&lab, "download");
    // Nobody reads this one, and it stops nothing.
    let mut stuck =
        director.command(&["flows"], &["--json"]).stdout(Stdio::piped()).spawn().expect("crossdock");
    for _ in 0..3 {
        let listed = list(&director, &["--service", "dns"]);
        let clients: HashSet<_> = listed.iter().map(|one| one["client"].to_string()).collect();
        assert_eq!(
            (clients.len(), listed.len()),
            (MANY, MANY),
            "each once: none of one way is moved for a pair"
        );
        assert_eq!(lab.fetch(&format!("http://{VIP}/")).lines().count(), 1);
    }
    // A reader that has had enough: no error, and its walk ends.
    let socket = director.command(&[], &[]);
    let head = format!("set -o pipefail; {:?} flows {} | head -3", socket.get_program(), joined(&socket));
    let head = succeed({
        let mut shell = Command::new("bash");
        shell.args(["-c", &head]);
        shell
    });
    assert_eq!(head.lines().count(), 3, "{head}");
    let deleted = succeed(director.command(&["flows", "delete"], &["--service", "dns"]));
    assert_eq!(deleted, format!("{MANY} connections deleted\n"));
    assert_eq!(succeed(director.command(&["flows"], &["--count", "--service", "dns"])), "0\n");
    let mut rest = String::new();
    stuck.stdout.take().expect("a pipe").read_to_string(&mut rest).expect("the rest of the list");
    assert!(stuck.wait().expect("crossdock flows").success() && rest.ends_with("}\n"));
    assert!(download.ended().is_none(), "the download still runs");
    assert_eq!(drops(&director), drops_before, "nothing was dropped");
    director.stop();
}

fn joined(command: &Command) -> String {
    command.get_args().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

/// Sends until the director holds all of them: sockets and rings in between lose some.
fn make_many(lab: &Lab, director: &Director) {
    let numbers = lab.directory().join("numbers");
    let mut missing: Vec<usize> = (0..MANY).collect();
    for _ in 0..30 {
        let lines: String = missing.iter().map(|number| format!("{number}\n")).collect();
        fs::write(&numbers, lines).expect("the numbers");
        lab.succeed("client", &["python3", "-c", FLOOD, VIP, &numbers.display().to_string()]);
        let listed = list(director, &["--service", "dns"]);
        let there: HashSet<_> = listed.iter().filter_map(|one| one["client"].as_str()).collect();
        missing.retain(|number| !there.contains(&*endpoint(*number)));
        if missing.is_empty() {
            return;
        }
    }
    panic!("{} of {MANY} connections were not made", missing.len());
}
