//! What `crossdock explain` says of a packet before it is sent, and what becomes of it then.

use serde_json::Value;
use std::time::Duration;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{CLIENT, Lab, VIP, WebServers};
use testbed::process::until;

/// `crossdock explain --json` about a connection from this l4_port of the client.
fn explained(director: &Director, l4_port: u16) -> Value {
    let (from, to) = (format!("{CLIENT}:{l4_port}"), format!("{VIP}:80"));
    let output = director.command(&["explain"], &["--json", "tcp", &from, &to]).output().expect("crossdock");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_connection_goes_where_it_was_said_to_go() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    servers.serve_big(&vec![7; 50_000_000]);
    let text = replaced(&rules("quickstart.toml"), "scheduler = \"wrr\"", "scheduler = \"mh\"");
    let director = Director::start(&lab, &with_two_workers(&text));
    let mut backends = Vec::new();
    for l4_port in 41_000..41_012 {
        let told = explained(&director, l4_port);
        assert_eq!((told["verdict"].as_str(), told["service"].as_str()), (Some("forwarded"), Some("web")));
        assert_eq!(told["connection"], Value::Null);
        let port = l4_port.to_string();
        let url = format!("http://{VIP}/");
        let answer =
            lab.succeed("client", &["curl", "-sS", "--fail", "-m", "10", "--local-port", &port, &url]);
        let number = answer.trim().strip_prefix("backend").expect("a name").to_owned();
        assert_eq!(told["backend"].as_str(), Some(&*format!("10.0.0.1{number}:8080")), "{told:#}");
        backends.push(number);
    }
    backends.sort();
    backends.dedup();
    assert!(backends.len() > 1, "all were told, and went, to the same: {backends:?}");
    // An open one is known, with the worker that owns it.
    let url = format!("http://{VIP}/big");
    let argv = ["curl", "-sS", "--limit-rate", "1M", "--local-port", "42000", "-o", "/dev/null", &url];
    let _download = lab.start("client", "download", &argv);
    let known = || {
        explained(&director, 42_000)["connection"].as_str().is_some_and(|said| said.contains("established"))
    };
    assert!(until(Duration::from_secs(30), known), "{:#}", explained(&director, 42_000));
    let told = explained(&director, 42_000);
    let said = told["connection"].as_str().expect("a connection");
    assert!(said.starts_with(&format!("worker {} sends it to ", told["worker"])), "{told:#}");
    let summary = director.stop();
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "nothing that was explained was counted");
}
