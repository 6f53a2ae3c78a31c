//! Answers that Crossdock itself makes, judged by the kernel's TCP and UDP at the other end: refusals, and RSTs to both
//! ends of a connection that is forgotten.

use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{BACKENDS, Lab, VIP, WebServers};
use testbed::process::{Process, until};

/// The rules with more keys for their service.
fn with_keys(text: &str, keys: &str) -> String {
    replaced(text, "scheduler = \"wrr\"", &format!("scheduler = \"wrr\"\n{keys}\n"))
}

/// The rules with no backend that takes connections.
fn without_backends(text: &str) -> String {
    let text = replaced(text, "weight  = 5", "weight  = 0");
    replaced(&replaced(&text, "weight  = 3", "weight  = 0"), "weight  = 1", "weight  = 0")
}

fn count(director: &Director, kind: &str) -> u64 {
    director.try_status().expect("status")["packets"][kind].as_u64().expect("a counter")
}

#[test]
fn without_a_backend_a_connection_is_refused_at_once() {
    let lab = Lab::two_arms();
    let text = without_backends(&rules("quickstart.toml"));
    let director = Director::start(&lab, &text);
    for (keys, counted) in
        [("no_backend = \"reset\"", "resets"), ("no_backend = \"unreachable\"", "unreachables")]
    {
        director.reload(&with_keys(&text, keys));
        // The kernel would send a SYN again after a second, and give up after ten by curl's wish.
        let output = lab.run("client", &["curl", "-sS", "-m", "10", &format!("http://{VIP}/")]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "curl could not connect: {stderr}");
        assert!(
            stderr.contains("onnection refused") || stderr.contains("Couldn't connect"),
            "{keys}: {stderr}"
        );
        assert_eq!(count(&director, counted), 1, "the first SYN was answered");
    }
    let summary = director.stop();
    assert_eq!(summary["services"][0]["refused"].as_u64(), Some(2));
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
}

/// Sends a datagram and waits for what comes back.
const DATAGRAM: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 5353))
s.send(b"anybody?" * 100)
try:
    print("answered", s.recv(2000))
except ConnectionRefusedError:
    print("refused")
"#;

#[test]
fn without_a_backend_a_datagram_is_refused_too() {
    let lab = Lab::one_arm();
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &without_backends(&text));
    assert_eq!(lab.succeed("client", &["python3", "-c", DATAGRAM, VIP]), "refused\n");
    assert_eq!(count(&director, "unreachables"), 1);
    director.stop();
}

/// Connects to argument 1, sends, and says how the connection ends: by itself, or with argument 2 by a RST of its own; with
/// argument 3 it goes on sending.
const CLIENT: &str = r#"
import socket, struct, sys, time
s = socket.create_connection((sys.argv[1], 80), timeout=10)
s.settimeout(30)
s.send(b"hello")
assert s.recv(5) == b"hello"
print("open", flush=True)
if "abort" in sys.argv:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    sys.exit()
try:
    while "send" in sys.argv:
        s.send(b"more")
        time.sleep(0.1)
    print("more" if s.recv(1) else "closed", flush=True)
except ConnectionResetError:
    print("reset", flush=True)
"#;

/// Echoes the first bytes of a connection, and says how it ends.
const SERVER: &str = r#"
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    s, _ = listener.accept()
    s.send(s.recv(5))
    try:
        while s.recv(100):
            pass
        print("closed", flush=True)
    except ConnectionResetError:
        print("reset", flush=True)
"#;

fn servers(lab: &Lab, address: &str, l4_port: &str) -> Vec<Process> {
    let start = |number| {
        lab.start(
            &format!("backend{number}"),
            &format!("server{number}"),
            &["python3", "-c", SERVER, address, l4_port],
        )
    };
    let servers: Vec<_> = (1..=BACKENDS).map(start).collect();
    let listen = || servers.iter().all(|server| server.stdout().contains("listening"));
    assert!(until(Duration::from_secs(30), listen), "{}", servers[0].stderr());
    servers
}

fn client(lab: &Lab, name: &str, doing: &str) -> Process {
    let client = lab.start("client", name, &["python3", "-c", CLIENT, VIP, doing]);
    assert!(until(Duration::from_secs(30), || client.stdout().contains("open")), "{}", client.stderr());
    client
}

/// How connections ended, over all servers.
fn ends(servers: &[Process]) -> Vec<String> {
    let lines =
        servers.iter().flat_map(|server| server.stdout().lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| line != "listening").collect()
}

fn assert_both_ends_are_told(lab: &Lab, servers: &[Process], text: &str) {
    let keys = "on_timeout = \"reset\"\n[service.timeouts]\nestablished = \"2s\"";
    let director = Director::start(lab, &with_keys(text, keys));
    let mut client = client(lab, "client", "wait");
    assert!(client.wait(Duration::from_secs(20)).success(), "{}", client.stderr());
    assert_eq!(client.stdout(), "open\nreset\n");
    assert!(until(Duration::from_secs(30), || ends(servers) == ["reset"]), "{:?}", ends(servers));
    assert_eq!((count(&director, "own_resets"), count(&director, "own_resets_withheld")), (2, 0));
    director.stop();
}

#[test]
fn both_ends_of_an_expired_connection_see_a_reset_with_fullnat() {
    let lab = Lab::two_arms();
    let servers = servers(&lab, "0.0.0.0", "8080");
    assert_both_ends_are_told(&lab, &servers, &rules("quickstart.toml"));
}

#[test]
fn both_ends_of_an_expired_connection_see_a_reset_with_dr() {
    let lab = Lab::one_arm();
    let servers = servers(&lab, VIP, "80");
    assert_both_ends_are_told(&lab, &servers, &rules("dr.toml"));
}

#[test]
fn both_ends_see_a_reset_when_their_backend_goes_down() {
    let lab = Lab::two_arms();
    let servers = servers(&lab, "0.0.0.0", "8080");
    let text = with_keys(&rules("quickstart.toml"), "on_remove = \"reset\"");
    let director = Director::start(&lab, &text);
    let mut client = client(&lab, "client", "wait");
    let mut down = text;
    for weight in [5, 3, 1] {
        down = replaced(
            &down,
            &format!("weight  = {weight}"),
            &format!("weight  = {weight}\n  state = \"down\""),
        );
    }
    director.reload(&down);
    assert!(client.wait(Duration::from_secs(30)).success(), "{}", client.stderr());
    assert_eq!(client.stdout(), "open\nreset\n");
    assert!(until(Duration::from_secs(30), || ends(&servers) == ["reset"]), "{:?}", ends(&servers));
    assert_eq!(count(&director, "own_resets"), 2);
    director.stop();
}

/// Every way in which honest ends close passes the check; what is forgotten is reset by Crossdock itself.
#[test]
fn honest_resets_pass_the_check_and_strays_are_reset() {
    let lab = Lab::two_arms();
    let servers = servers(&lab, "0.0.0.0", "8080");
    let text = with_keys(&rules("quickstart.toml"), "check_rst = true\nno_flow = \"reset\"");
    let director = Director::start(&lab, &text);
    for number in 0..9 {
        let mut client = client(&lab, &format!("aborting{number}"), "abort");
        assert!(client.wait(Duration::from_secs(30)).success(), "{}", client.stderr());
    }
    assert!(until(Duration::from_secs(30), || ends(&servers) == ["reset"; 9]), "{:?}", ends(&servers));
    let mut client = client(&lab, "client", "send");
    let deleted = director.command(&["flows", "delete"], &["--all"]).output().expect("crossdock flows");
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(client.wait(Duration::from_secs(30)).success(), "{}", client.stderr());
    assert_eq!(client.stdout(), "open\nreset\n");
    let summary = director.stop();
    assert_eq!(summary["drops"]["rst_out_of_window"].as_u64(), Some(0));
    assert!(summary["packets"]["resets"].as_u64() >= Some(1), "{}", summary["packets"]);
}

/// A backend where nobody listens refuses by itself; that RST, too, passes the check.
#[test]
fn a_refusal_of_the_backend_itself_passes_the_check() {
    let lab = Lab::two_arms();
    let text = with_keys(&rules("quickstart.toml"), "check_rst = true");
    let director = Director::start(&lab, &text);
    let output = lab.run("client", &["curl", "-sS", "-m", "10", &format!("http://{VIP}/")]);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = director.stop();
    assert_eq!(summary["drops"]["rst_out_of_window"].as_u64(), Some(0));
    assert_eq!(summary["packets"]["resets"].as_u64(), Some(0), "the backend's own");
}

/// What the numbers cost must not be correctness: real traffic with everything asked for.
#[test]
fn requests_pass_with_everything_noted_and_checked() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text = with_keys(
        &rules("quickstart.toml"),
        "check_rst = true\non_timeout = \"reset\"\non_remove = \"reset\"",
    );
    let director = Director::start(&lab, &text);
    let out = lab.succeed("client", &["wrk", "-t1", "-c64", "-d3s", &format!("http://{VIP}:80/")]);
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    // wrk ends in the middle of its requests. Of its RSTs those are dropped that a later acknowledgment has overtaken, as
    // the backends would drop them too: none of them is left with a connection.
    let open = |number| {
        lab.succeed(&format!("backend{number}"), &["ss", "-Htn", "state", "established", "sport = :8080"])
    };
    let all_closed = || (1..=BACKENDS).all(|number| open(number).is_empty());
    assert!(until(Duration::from_secs(30), all_closed), "{}", open(1));
    let summary = director.stop();
    assert_eq!(summary["packets"]["own_resets"].as_u64(), Some(0));
}
