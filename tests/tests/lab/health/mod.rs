//! Health checks: servers die and come back while clients are served.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

use crate::taking_out::{HOLDER, TALKER, last_answer, open_connections};
use crate::udp::echo_servers;

/// What becomes of a server is seen within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// What checks say of the backend with this number, from 1.
fn health(director: &Director, number: usize) -> Value {
    director.status()["services"][0]["backends"][number - 1]["health"].clone()
}

/// Of one that is down workers know it, too, so that the next connection goes elsewhere.
fn becomes(director: &Director, number: usize, state: &str) {
    let is_known = || state != "down" || weight_in_force(director, number) == 0.0;
    let is_so = || health(director, number)["state"] == state && is_known();
    assert!(until(PATIENCE, is_so), "{}; stderr:\n{}", health(director, number), director.stderr());
}

fn weight_in_force(director: &Director, number: usize) -> f64 {
    director.status()["services"][0]["backends"][number - 1]["weight_in_force"].as_f64().expect("a number")
}

fn is_checked(director: &Director) {
    let all = || (1..=3).all(|number| health(director, number)["checks"].as_u64() > Some(0));
    assert!(until(PATIENCE, all), "{}", director.status());
}

/// The server of backend 2 dies and comes back. Only connections to it suffer: wrk, which runs from its being found dead until it
/// is back, sees no error.
#[test]
fn a_server_that_dies_is_left_and_comes_back() {
    let lab = Lab::two_arms();
    let mut servers = WebServers::start(&lab, 8080);
    let text = rules("health.toml");
    let director = Director::start(&lab, &text);
    let url = format!("http://{VIP}/");
    is_checked(&director);

    let mut victim = lab.start("client", "victim", &["wrk", "-t1", "-c18", "-d60s", &url]);
    let has_some = || director.status()["services"][0]["backends"][1]["open"].as_u64() > Some(0);
    assert!(until(PATIENCE, has_some), "backend 2 has connections when it dies");
    servers.stop(2);
    becomes(&director, 2, "down");
    assert_eq!(health(&director, 2)["last_error"], "connection refused");
    assert!(director.stderr().contains("service web: backend 10.0.0.12:8080 is down: connection refused"));

    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", "-c18", "-d8s", &url]);
    for _ in 0..9 {
        assert_ne!(lab.fetch(&url), "backend2\n");
    }
    // A reload changes nothing about it.
    let other = replaced(&text, "weight  = 1", "weight  = 2");
    director.reload(&other);
    assert_eq!((health(&director, 2)["state"].as_str(), weight_in_force(&director, 2)), (Some("down"), 0.0));

    servers.start_again(&lab, 2);
    becomes(&director, 2, "up");
    assert!(until(PATIENCE, || weight_in_force(&director, 2) == 3.0));
    let answers: Vec<_> = (0..10).map(|_| lab.fetch(&url)).collect();
    assert!(answers.contains(&"backend2\n".to_owned()), "{answers:?}");

    assert!(wrk.wait(PATIENCE).success());
    let out = wrk.stdout();
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    assert!(director.stderr().contains("service web: backend 10.0.0.12:8080 is up"));
    victim.stop();
    director.stop();
}

/// The VIPs' addresses on the director's twin.
fn twin_has_vip(lab: &Lab) -> bool {
    lab.succeed("director", &["ip", "-o", "addr", "show", "dev", "xd-front"]).contains(&format!(" {VIP}/32 "))
}

/// Of weights 5, 3 and 1 the last is left, and 4 are needed: the VIP leaves the network, comes back with the first, and a hook hears
/// of all of it in order.
#[test]
fn a_service_below_its_quorum_withdraws_its_vip_and_a_hook_is_told() {
    let lab = Lab::two_arms();
    let mut servers = WebServers::start(&lab, 8080);
    let (hook, heard) = (lab.directory().join("hook"), lab.directory().join("heard"));
    let script = "#!/bin/sh\necho \"$CROSSDOCK_EVENT $CROSSDOCK_SERVICE $CROSSDOCK_BACKEND $CROSSDOCK_STATE\" >>\"$1\"\n";
    fs::write(&hook, script).expect("the hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("chmod");
    let settings = format!(
        "rise     = 2\n  quorum   = 4\n  withdraw = true\n  notify   = [\"{}\", \"{}\"]",
        hook.display(),
        heard.display()
    );
    let director = Director::start(&lab, &replaced(&rules("health.toml"), "rise     = 2", &settings));
    is_checked(&director);
    assert!(twin_has_vip(&lab));

    servers.stop(1);
    becomes(&director, 1, "down");
    // Four are left.
    assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend") && twin_has_vip(&lab));
    servers.stop(2);
    becomes(&director, 2, "down");
    assert!(until(PATIENCE, || !twin_has_vip(&lab)), "{}", director.stderr());
    servers.start_again(&lab, 1);
    becomes(&director, 1, "up");
    assert!(until(PATIENCE, || twin_has_vip(&lab)), "{}", director.stderr());
    assert_ne!(lab.fetch(&format!("http://{VIP}/")), "backend2\n");

    let wanted = [
        "backend web 10.0.0.11:8080 down",
        "backend web 10.0.0.12:8080 down",
        "service web  down",
        "backend web 10.0.0.11:8080 up",
        "service web  up",
    ];
    let lines =
        || fs::read_to_string(&heard).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(until(PATIENCE, || lines().len() >= wanted.len()), "{:?}", lines());
    assert_eq!(lines(), wanted);
    director.stop();
}

/// The sorry server takes new connections below the quorum, although one backend is left.
#[test]
fn below_the_quorum_the_sorry_server_answers() {
    let lab = Lab::two_arms();
    let mut servers = WebServers::start(&lab, 8080);
    let text = rules("health.toml");
    let (two, _) =
        text.split_once("  [[service.backend]]\n  address = \"10.0.0.13").expect("a third backend");
    let text = replaced(two, "rise     = 2", "rise     = 2\n  quorum   = 4");
    let text = replaced(&text, "scheduler =", "sorry     = { address = \"10.0.0.13:8080\" }\nscheduler =");
    let director = Director::start(&lab, &text);
    let both = || (1..=2).all(|number| health(&director, number)["checks"].as_u64() > Some(0));
    assert!(until(PATIENCE, both), "{}", director.status());
    let url = format!("http://{VIP}/");
    assert_ne!(lab.fetch(&url), "backend3\n");
    servers.stop(1);
    becomes(&director, 1, "down");
    assert!(until(PATIENCE, || weight_in_force(&director, 2) == 0.0));
    assert_eq!([lab.fetch(&url), lab.fetch(&url)], ["backend3\n", "backend3\n"]);
    servers.start_again(&lab, 1);
    becomes(&director, 1, "up");
    assert!(until(PATIENCE, || weight_in_force(&director, 2) == 3.0));
    assert_ne!(lab.fetch(&url), "backend3\n");
    director.stop();
}

/// Nobody asks, and one server is gone: its clients' connections are refused, which says it all. It is tried again, and taken back.
#[test]
fn a_server_that_refuses_its_clients_is_left_without_being_asked() {
    let lab = Lab::two_arms();
    let mut servers = WebServers::start(&lab, 8080);
    let asks = "check    = \"http\"\n  path     = \"/\"";
    let director = Director::start(&lab, &replaced(&rules("health.toml"), asks, "check    = \"passive\""));
    let url = format!("http://{VIP}/");
    // Without keep-alive, so that every request is a connection.
    let close = ["wrk", "-t1", "-c9", "-d60s", "-H", "Connection: close", &url];
    let mut wrk = lab.start("client", "wrk", &close);
    // wrk gives up when its very first connection is refused.
    let has_some = || director.status()["services"][0]["backends"][1]["connections"].as_u64() > Some(10);
    assert!(until(PATIENCE, has_some), "{}", wrk.stderr());
    servers.stop(2);
    let said = || director.stderr();
    assert!(
        until(PATIENCE, || said().contains("10.0.0.12:8080 is down: ")
            && said().contains("connections refused")),
        "{}",
        said()
    );
    servers.start_again(&lab, 2);
    let serves = || health(&director, 2)["state"] == "up" && lab.fetch(&url) == "backend2\n";
    assert!(until(PATIENCE, serves), "{}", said());
    wrk.stop();
    director.stop();
}

/// From now on checks of this backend are not answered; its server serves clients as before.
fn silence_checks(lab: &Lab, number: usize) {
    lab.succeed(&format!("backend{number}"), &["ip", "route", "add", "blackhole", "10.0.0.5/32"]);
}

/// A failure that checks find resets what is open there, at once and nothing else.
#[test]
fn a_server_that_fails_its_checks_has_its_connections_reset() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text =
        replaced(&rules("health.toml"), "scheduler = \"wrr\"", "scheduler = \"rr\"\non_remove = \"reset\"");
    let director = Director::start(&lab, &text);
    is_checked(&director);
    let holder = lab.start("client", "holder", &["python3", "-c", HOLDER, VIP, "9"]);
    assert!(until(PATIENCE, || holder.stderr().contains("ready")), "{}", holder.stderr());
    assert_eq!(open_connections(&director.status()), [3, 3, 3]);

    silence_checks(&lab, 2);
    becomes(&director, 2, "down");
    let ends = || holder.stderr().lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert!(until(PATIENCE, || ends().len() >= 3), "{:?}", holder.stderr());
    assert!(until(PATIENCE, || open_connections(&director.status()) == [3, 0, 3]), "{}", director.status());
    assert_eq!(ends(), ["reset"; 3]);
    director.stop();
}

/// Likewise a flow of datagrams leaves it, although it never pauses, and although its server still answers.
#[test]
fn datagrams_leave_a_server_that_fails_its_checks() {
    let lab = Lab::two_arms();
    let _servers = echo_servers(&lab, "0.0.0.0");
    let text =
        replaced(&rules("health.toml"), "scheduler = \"wrr\"", "scheduler = \"rr\"\non_remove = \"move\"");
    let text = replaced(&text, &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let text = replaced(&text, ":8080", ":5353");
    let text = replaced(&text, "check    = \"http\"", "check    = \"udp\"\n  send     = \"?\"");
    let text = replaced(&text, "path     = \"/\"", "expect   = \"backend\"");
    let director = Director::start(&lab, &text);
    is_checked(&director);
    let talker = lab.start("client", "talker", &["python3", "-c", TALKER, VIP]);
    let is_answered = || last_answer(&talker).is_some_and(|last| last.starts_with("backend"));
    assert!(until(PATIENCE, is_answered), "{}", talker.stderr());
    let first = last_answer(&talker).expect("an answer");
    let number = first["backend".len()..].parse().expect("a number");

    silence_checks(&lab, number);
    becomes(&director, number, "down");
    let is_elsewhere =
        || last_answer(&talker).is_some_and(|last| last.starts_with("backend") && last != first);
    assert!(until(PATIENCE, is_elsewhere), "{}", talker.stderr());
    assert_eq!(open_connections(&director.status()).iter().sum::<u64>(), 1, "one flow, at its new backend");
    director.stop();
}
