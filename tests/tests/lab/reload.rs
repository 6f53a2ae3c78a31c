//! SIGHUP under load: connections outlive it, and broken rules change nothing.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

/// wrk keeps 200 connections busy and opens a new one only in place of a lost one, which nginx would count as the 201st.
#[test]
fn two_hundred_connections_survive_reloads() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let text = rules("quickstart.toml");
    let director = Director::start(&lab, &text);
    let url = format!("http://{VIP}:80/");
    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", "-c200", "-d6s", &url]);
    let connections = || servers.logs().iter().map(|log| connections(log)).sum::<usize>();
    assert!(
        until(Duration::from_secs(5), || connections() == 200),
        "wrk opens 200 connections: {}",
        connections()
    );
    // New weights, a backend less (drained: its connections go on), a service more, and back again.
    let more = text.clone()
        + "\n"
        + &replaced(&replaced(&service_of(&text), r#""web""#, r#""more""#), ":80\"", ":81\"");
    let fewer = replaced(&text, "weight  = 1", "weight  = 0");
    for rules in [&replaced(&text, "weight  = 5", "weight  = 2"), &fewer, &more, &text] {
        director.reload(rules);
        thread::sleep(Duration::from_millis(300));
    }
    assert!(wrk.wait(Duration::from_secs(30)).success());
    let out = wrk.stdout();
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    assert_eq!(connections(), 200, "a lost connection is replaced by wrk");
    director.stop();
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
        let said = director.reload(&broken);
        assert!(said.contains("rules.toml"), "says where: {said}");
    }
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    director.stop();
}

fn connections(log: &[String]) -> usize {
    log.iter().filter_map(|line| line.split(' ').next()).collect::<BTreeSet<_>>().len()
}

/// The text from `[[service]]` on.
fn service_of(text: &str) -> String {
    text[text.find("[[service]]").expect("a service")..].to_owned()
}
