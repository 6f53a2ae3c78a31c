//! Backends taken out: drained, down, with what is open reset or moved; and the sorry server when none is left.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::{Process, until};

use crate::udp::echo_servers;

/// Argument 1 is the VIP, 2 how many connections. Opens them, says "ready", and then tells of each that ends how it did.
pub(crate) const HOLDER: &str = r#"
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for number in range(int(sys.argv[2])):
    waiting.register(socket.create_connection((sys.argv[1], 80), 5), selectors.EVENT_READ)
print("ready", file=sys.stderr, flush=True)
while True:
    for key, _ in waiting.select():
        try:
            end = "data" if key.fileobj.recv(1) else "closed"
        except ConnectionResetError:
            end = "reset"
        waiting.unregister(key.fileobj)
        print(end, file=sys.stderr, flush=True)
"#;

/// One flow to argument 1, a datagram every 50 ms: says who answered each.
pub(crate) const TALKER: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
s.connect((sys.argv[1], 5353))
while True:
    s.send(b"x")
    try:
        print(s.recv(2000).split(b"\n")[0].decode(), file=sys.stderr, flush=True)
    except TimeoutError:
        print("nobody", file=sys.stderr, flush=True)
    time.sleep(0.05)
"#;

/// What becomes of a change is seen within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// `quickstart.toml` with round robin and `settings`.
fn round_robin(settings: &str) -> String {
    replaced(&rules("quickstart.toml"), "scheduler = \"wrr\"", &format!("scheduler = \"rr\"\n{settings}\n# "))
}

/// The rules with the backend at `address` in `state`.
fn with_state(text: &str, address: &str, state: &str) -> String {
    let line = format!("address = \"{address}\"");
    replaced(text, &line, &format!("{line}\n  state = \"{state}\""))
}

/// The rules without the backend at `address`.
fn without_backend(text: &str, address: &str) -> String {
    let header = "  [[service.backend]]\n";
    assert!(text.contains(address), "the rules have no backend {address}");
    text.split(header).filter(|block| !block.contains(address)).collect::<Vec<_>>().join(header)
}

pub(crate) fn open_connections(status: &Value) -> Vec<u64> {
    let backends = status["services"][0]["backends"].as_array().expect("backends");
    backends.iter().map(|backend| backend["open"].as_u64().expect("a number")).collect()
}

fn a_backend_that_goes_down_resets_its_connections_and_no_others(text: &str) {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, text);
    let holder = lab.start("client", "holder", &["python3", "-c", HOLDER, VIP, "30"]);
    assert!(until(PATIENCE, || holder.stderr().contains("ready")), "{}", holder.stderr());
    let before = open_connections(&director.status());
    assert_eq!(before.iter().sum::<u64>(), 30);
    assert!(before[0] > 0, "{before:?}");

    director.reload(&with_state(text, "10.0.0.11:8080", "drain"));
    assert_eq!(open_connections(&director.status()), before, "a drained backend keeps what it has");
    director.reload(&with_state(text, "10.0.0.11:8080", "down"));
    let ends = || holder.stderr().lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert!(until(PATIENCE, || ends().len() as u64 >= before[0]), "{:?} of {before:?}", ends());
    assert!(ends().iter().all(|end| end == "reset") && ends().len() as u64 == before[0], "{:?}", ends());
    let after = [0, before[1], before[2]];
    assert!(until(PATIENCE, || open_connections(&director.status()) == after), "{:?}", director.status());
    director.stop();
}

#[test]
fn a_backend_that_goes_down_resets_its_connections() {
    a_backend_that_goes_down_resets_its_connections_and_no_others(&round_robin("on_remove = \"reset\""));
}

#[test]
fn a_backend_that_goes_down_resets_its_connections_with_two_workers() {
    let text = with_two_workers(&round_robin("on_remove = \"reset\""));
    a_backend_that_goes_down_resets_its_connections_and_no_others(&text);
}

/// Who answered last.
pub(crate) fn last_answer(talker: &Process) -> Option<String> {
    talker.stderr().lines().last().map(str::to_owned)
}

/// What IPVS users miss most: UDP that leaves a dead backend at once, although it never pauses.
#[test]
fn a_datagram_flow_leaves_a_removed_backend_at_once() {
    let lab = Lab::two_arms();
    let _servers = echo_servers(&lab, "0.0.0.0");
    let text =
        replaced(&round_robin("on_remove = \"move\""), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let text = replaced(&text, ":8080", ":5353");
    let director = Director::start(&lab, &text);
    let talker = lab.start("client", "talker", &["python3", "-c", TALKER, VIP]);
    let answered_by = |wanted: &dyn Fn(&str) -> bool| {
        let answered = until(PATIENCE, || last_answer(&talker).is_some_and(|last| wanted(&last)));
        assert!(answered, "{}", talker.stderr());
        last_answer(&talker).expect("an answer")
    };
    let first = answered_by(&|last| last.starts_with("backend"));
    let address = format!("10.0.0.1{}:5353", &first["backend".len()..]);

    director.reload(&with_state(&text, &address, "drain"));
    let answers = || talker.stderr().lines().count();
    let before = answers();
    assert!(until(PATIENCE, || answers() > before + 5), "it goes on");
    assert_eq!(last_answer(&talker), Some(first.clone()), "a drained backend keeps its flows");

    director.reload(&without_backend(&text, &address));
    answered_by(&|last| last.starts_with("backend") && last != first);
    let open: u64 = open_connections(&director.status()).iter().sum();
    assert_eq!(open, 1, "one flow, at its new backend");
    director.stop();
}

/// Established TCP connections of the server on backend `number`.
fn established(lab: &Lab, number: usize) -> usize {
    let out =
        lab.succeed(&format!("backend{number}"), &["ss", "-Htn", "state", "established", "sport = :8080"]);
    out.lines().count()
}

/// Both ends of what is still open when a drain's time is up are told, and a client that was remembered does not return.
#[test]
fn a_drain_ends() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text = round_robin("drain_timeout = \"3s\"\npersistence = { timeout = \"360s\" }");
    let director = Director::start(&lab, &text);
    let holder = lab.start("client", "holder", &["python3", "-c", HOLDER, VIP, "5"]);
    assert!(until(PATIENCE, || holder.stderr().contains("ready")), "{}", holder.stderr());
    let open = open_connections(&director.status());
    let home = open.iter().position(|count| *count == 5).expect("one client, one backend") + 1;
    assert!(until(PATIENCE, || established(&lab, home) == 5));

    director.reload(&with_state(&text, &format!("10.0.0.1{home}:8080"), "drain"));
    let url = format!("http://{VIP}:80/");
    assert_eq!(lab.fetch(&url), format!("backend{home}\n"), "it returns while the drain lasts");
    assert!(!holder.stderr().contains("reset"), "{}", holder.stderr());

    let resets = || holder.stderr().lines().filter(|line| *line == "reset").count();
    assert!(until(PATIENCE, || resets() == 5), "{}", holder.stderr());
    assert!(until(PATIENCE, || established(&lab, home) == 0), "the server's ends");
    assert!(until(PATIENCE, || open_connections(&director.status())[home - 1] == 0));
    assert_ne!(lab.fetch(&url), format!("backend{home}\n"), "it no longer returns");
    director.stop();
}

#[test]
fn a_drain_ends_for_datagrams_too() {
    let lab = Lab::two_arms();
    let _servers = echo_servers(&lab, "0.0.0.0");
    let text = replaced(
        &round_robin("drain_timeout = \"3s\""),
        &format!("tcp {VIP}:80"),
        &format!("udp {VIP}:5353"),
    );
    let text = replaced(&text, ":8080", ":5353");
    let director = Director::start(&lab, &text);
    let talker = lab.start("client", "talker", &["python3", "-c", TALKER, VIP]);
    let is_answered = || last_answer(&talker).is_some_and(|last| last.starts_with("backend"));
    assert!(until(PATIENCE, is_answered), "{}", talker.stderr());
    let first = last_answer(&talker).expect("an answer");
    director.reload(&with_state(&text, &format!("10.0.0.1{}:5353", &first["backend".len()..]), "drain"));
    let is_elsewhere =
        || last_answer(&talker).is_some_and(|last| last.starts_with("backend") && last != first);
    assert!(until(PATIENCE, is_elsewhere), "{}", talker.stderr());
    let open: u64 = open_connections(&director.status()).iter().sum();
    assert_eq!(open, 1, "one flow, at its new backend");
    director.stop();
}

#[test]
fn the_sorry_server_answers_when_nobody_else_can() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let text = round_robin("sorry = { address = \"10.0.0.13:8080\" }");
    let (others, _) =
        text.split_once("  [[service.backend]]\n  address = \"10.0.0.13").expect("a third backend");
    let director = Director::start(&lab, others);
    let url = format!("http://{VIP}:80/");
    let answers: Vec<_> = (0..4).map(|_| lab.fetch(&url)).collect();
    assert!(!answers.contains(&"backend3\n".to_owned()), "{answers:?}");
    let down = with_state(&with_state(others, "10.0.0.11:8080", "down"), "10.0.0.12:8080", "drain");
    director.reload(&down);
    assert_eq!([lab.fetch(&url), lab.fetch(&url)], ["backend3\n", "backend3\n"]);
    let status = director.status();
    let service = &status["services"][0];
    assert_eq!(
        (&service["sorry"]["address"], &service["sorry"]["connections"]),
        (&"10.0.0.13:8080".into(), &2.into())
    );
    director.reload(others);
    assert_ne!(lab.fetch(&url), "backend3\n");
    assert_eq!(servers.requests()[2], 2);
    director.stop();
}
