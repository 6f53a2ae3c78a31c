//! HTTP through FullNAT, between two networks on af_packet ports: curl, wrk and nginx.

use std::fs::File;
use std::io::Read;

use testbed::director::{Director, rules, with_two_workers};
use testbed::lab::{Lab, VIP, WebServers};

/// Nine connections are five, three and one; ninety are ten times that.
#[test]
fn requests_are_spread_by_weight() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &rules("quickstart.toml"));
    for _ in 0..90 {
        assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"));
    }
    assert_eq!(servers.requests(), [50, 30, 10]);
    for line in servers.logs().iter().flatten() {
        let client = line.split(' ').nth(1).expect("the client's endpoint");
        assert!(client.starts_with("10.0.0."), "FullNAT connects from a local address: {line}");
    }
    director.stop();
}

#[test]
fn a_download_of_100_mb_arrives_whole() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &rules("quickstart.toml"));
    download_arrives_whole(&lab, &servers);
    director.stop();
}

/// Two workers on one queue each: half of all packets arrive at the worker that does not own them and cross over.
#[test]
fn two_workers_carry_every_connection() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &with_two_workers(&rules("quickstart.toml")));
    let out = lab.succeed("client", &["wrk", "-t1", "-c64", "-d3s", &format!("http://{VIP}:80/")]);
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    for (backend, requests) in servers.requests().into_iter().enumerate() {
        assert!(requests > 0, "backend{} got none", backend + 1);
    }
    download_arrives_whole(&lab, &servers);
    director.stop();
}

/// The client's hash of `/big` is the hash of what the servers have.
pub(crate) fn download_arrives_whole(lab: &Lab, servers: &WebServers) {
    let big = lab.directory().join("backend1/big");
    let mut content = vec![0; 100_000_000];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut content)).expect("random bytes");
    servers.serve_big(&content);
    let big = big.display().to_string();
    let wanted = lab.succeed("client", &["sha256sum", &big]);
    let fetch = format!("curl -sS --fail -m 120 http://{VIP}/big | sha256sum");
    let arrived = lab.succeed("client", &["bash", "-o", "pipefail", "-c", &fetch]);
    assert_eq!(arrived.split(' ').next(), wanted.split(' ').next());
}
