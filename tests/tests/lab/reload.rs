//! SIGHUP under load: connections outlive it, also when their backend or service has left the rules, and broken rules
//! change nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::{Process, until};

/// wrk keeps 200 connections busy and opens a new one only in place of a lost one, which nginx would count as the 201st.
#[test]
fn two_hundred_connections_survive_reloads() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::start(&lab, &text);
    let url = format!("http://{VIP}:80/");
    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", "-c200", "-d60s", &url]);
    wait_for_connections(&servers, 200);
    // New weights, a backend less (drained: its connections go on), a service more, and back again.
    let more = text.clone()
        + "\n"
        + &replaced(&replaced(&service_of(&text), r#""web""#, r#""more""#), ":80\"", ":81\"");
    let fewer = replaced(&text, "weight  = 1", "weight  = 0");
    for rules in [&replaced(&text, "weight  = 5", "weight  = 2"), &fewer, &more, &text] {
        director.reload(rules);
        thread::sleep(Duration::from_millis(300));
    }
    assert_lost_none(&mut wrk);
    assert_eq!(all_connections(&servers), 200, "a lost connection is replaced by wrk");
    director.stop();
}

/// Out of the file altogether, unlike weight 0: the service's new table does not know the backend, its connections do.
fn a_removed_backend_keeps_its_connections(text: &str) {
    const BUSY: usize = 60;
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, text);
    let url = format!("http://{VIP}:80/");
    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", &format!("-c{BUSY}"), "-d60s", &url]);
    wait_for_connections(&servers, BUSY);
    let of_first = || connections(&servers.logs()[0]);
    let (before, block) =
        (of_first(), "  [[service.backend]]\n  address = \"10.0.0.11:8080\"\n  weight  = 5\n");
    assert!(before > 0, "the backend has connections to keep");
    director.reload(&replaced(text, block, ""));
    let served = servers.requests()[0];
    assert!(
        until(Duration::from_secs(30), || servers.requests()[0] > served),
        "its connections have stalled"
    );
    for _ in 0..18 {
        assert_ne!(lab.fetch(&url), "backend1\n", "a new connection went to the removed backend");
    }
    assert_eq!(of_first(), before);
    // And back, while the old ones still live: it gets five of nine again.
    director.reload(text);
    let answers: Vec<_> = (0..9).map(|_| lab.fetch(&url)).collect();
    assert!(answers.contains(&"backend1\n".to_owned()), "{answers:?}");
    assert_lost_none(&mut wrk);
    assert_eq!(all_connections(&servers), BUSY + 18 + 9, "a lost connection is replaced by wrk");
    director.stop();
}

#[test]
fn a_removed_backend_keeps_its_connections_with_one_worker() {
    a_removed_backend_keeps_its_connections(&rules("quickstart.toml"));
}

#[test]
fn a_removed_backend_keeps_its_connections_with_two_workers() {
    a_removed_backend_keeps_its_connections(&with_two_workers(&rules("quickstart.toml")));
}

/// How many downloads run at once: enough that each of two workers owns some (all on one: once in 2^7 runs), and that
/// every pair of owner and arrival worker occurs.
const DOWNLOADS: usize = 8;
/// Bytes of a download, which takes six seconds at the rate that curl keeps.
const DOWNLOAD_SIZE: usize = 12_000_000;

/// The VIP leaves the director with its service. The client knows its MAC and keeps it, because its downloads go on.
fn a_removed_service_keeps_its_connections(text: &str) {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let content = random_bytes();
    servers.serve_big(&content);
    let director = Director::start(&lab, text);
    let files: Vec<_> = (0..DOWNLOADS).map(|n| lab.directory().join(format!("download{n}"))).collect();
    let mut curl = start_downloads(&lab, &files);
    let sizes = || files.iter().map(|file| fs::metadata(file).map_or(0, |m| m.len())).collect::<Vec<_>>();
    assert!(until(Duration::from_secs(30), || sizes().iter().all(|size| *size > 0)), "{:?}", sizes());
    director.reload(&without_service(text));
    assert!(sizes().iter().all(|size| *size < DOWNLOAD_SIZE as u64), "over too early: {:?}", sizes());
    let new = lab.run("client", &["curl", "-s", "-m", "1", &format!("http://{VIP}/")]);
    assert!(!new.status.success(), "a new connection to the removed service: {new:?}");
    let ended = curl.wait(Duration::from_secs(40));
    assert!(ended.success(), "{ended}, {:?} of {DOWNLOAD_SIZE} bytes: {}", sizes(), curl.stderr());
    for file in &files {
        assert!(fs::read(file).expect("a download") == content, "{} is not what was served", file.display());
    }
    assert_eq!(all_connections(&servers), DOWNLOADS);
    director.reload(text);
    assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"), "the service is back");
    director.stop();
}

#[test]
fn a_removed_service_keeps_its_connections_with_one_worker() {
    a_removed_service_keeps_its_connections(&rules("quickstart.toml"));
}

#[test]
fn a_removed_service_keeps_its_connections_with_two_workers() {
    a_removed_service_keeps_its_connections(&with_two_workers(&rules("quickstart.toml")));
}

/// One curl, a connection a file.
fn start_downloads(lab: &Lab, files: &[PathBuf]) -> Process {
    let url = format!("http://{VIP}/big");
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let mut argv = vec!["curl", "-sS", "--no-progress-meter", "--fail", "-m", "30", "--limit-rate", "2M"];
    argv.extend(["--parallel", "--parallel-immediate"]);
    argv.extend(names.iter().flat_map(|name| ["-o", name.as_str(), url.as_str()]));
    lab.start("client", "curl", &argv)
}

fn random_bytes() -> Vec<u8> {
    let mut content = vec![0; DOWNLOAD_SIZE];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut content)).expect("random bytes");
    content
}

/// Taking a backend out of the rules sends new connections elsewhere.
#[test]
fn reloaded_rules_are_in_force() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::start(&lab, &text);
    let only_third = replaced(&replaced(&text, "weight  = 5", "weight  = 0"), "weight  = 3", "weight  = 0");
    director.reload(&only_third);
    for _ in 0..10 {
        assert_eq!(lab.fetch(&format!("http://{VIP}/")), "backend3\n");
    }
    assert_eq!(servers.requests(), [0, 0, 10]);
    director.stop();
}

#[test]
fn broken_rules_leave_the_running_ones_in_force() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::start(&lab, &text);
    for broken in [replaced(&text, "weight  = 3", "wieght  = 3"), "[[port]\n".to_owned()] {
        let said = director.refused_reload(&broken);
        assert!(said.contains("rules.toml"), "says where: {said}");
    }
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    director.stop();
}

fn wait_for_connections(servers: &WebServers, count: usize) {
    let opened = until(Duration::from_secs(30), || all_connections(servers) == count);
    assert!(opened, "wrk opens {count} connections: {}", all_connections(servers));
}

/// Ends wrk before its time: how long the test takes so far, the machine decides.
fn assert_lost_none(wrk: &mut Process) {
    wrk.signal(Signal::SIGINT);
    assert!(wrk.wait(Duration::from_secs(30)).success());
    let out = wrk.stdout();
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
}

fn all_connections(servers: &WebServers) -> usize {
    servers.logs().iter().map(|log| connections(log)).sum()
}

fn connections(log: &[String]) -> usize {
    log.iter().filter_map(|line| line.split(' ').next()).collect::<BTreeSet<_>>().len()
}

/// The text from `[[service]]` on.
fn service_of(text: &str) -> String {
    text[text.find("[[service]]").expect("a service")..].to_owned()
}

/// The text before `[[service]]`.
fn without_service(text: &str) -> String {
    text[..text.find("[[service]]").expect("a service")].to_owned()
}
