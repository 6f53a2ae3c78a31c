//! What the rules say about connections, seen from outside: persistence, limits, a drain that ends, a backend that is
//! taken down, a server on the director itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

/// The service of `quickstart.toml` with more said about it; its backends come after.
fn with_settings(text: &str, settings: &str) -> String {
    replaced(text, "scheduler = \"wrr\"", &format!("scheduler = \"rr\"\n{settings}\n# "))
}

/// A GET from one of the client's addresses, over a connection of its own: the server's name.
fn fetch_from(lab: &Lab, address: &str) -> String {
    let url = format!("http://{VIP}/");
    lab.succeed("client", &["curl", "-sS", "--fail", "-m", "10", "--interface", address, &url])
}

fn clients_return(text: &str) {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let addresses: Vec<_> = (20..40).map(|last| format!("192.0.2.{last}")).collect();
    for address in &addresses {
        lab.succeed("client", &["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"]);
    }
    let director = Director::start(&lab, text);
    let mut servers_of: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..5 {
        for address in &addresses {
            servers_of.entry(address).or_default().insert(fetch_from(&lab, address));
        }
    }
    assert!(servers_of.values().all(|servers| servers.len() == 1), "{servers_of:?}");
    let used: BTreeSet<_> = servers_of.values().flatten().collect();
    assert_eq!(used.len(), 3, "20 clients by rr");
    director.stop();
}

#[test]
fn a_client_returns_to_its_server() {
    clients_return(&with_settings(&rules("quickstart.toml"), "persistence = { timeout = \"60s\" }"));
}

#[test]
fn a_client_returns_to_its_server_with_two_workers() {
    let text = with_settings(&rules("quickstart.toml"), "persistence = { timeout = \"60s\" }");
    clients_return(&with_two_workers(&text));
}

#[test]
fn a_service_that_becomes_persistent_keeps_its_connections() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let plain = with_two_workers(&with_settings(&rules("quickstart.toml"), ""));
    let director = Director::start(&lab, &plain);
    let url = format!("http://{VIP}:80/");
    let mut wrk = lab.start("client", "wrk", &["wrk", "-t1", "-c64", "-d60s", &url]);
    let connections = || {
        let ids = |log: &Vec<String>| {
            log.iter()
                .filter_map(|line| line.split(' ').next().map(str::to_owned))
                .collect::<BTreeSet<_>>()
                .len()
        };
        servers.logs().iter().map(ids).sum::<usize>()
    };
    assert!(until(Duration::from_secs(30), || connections() == 64), "{}", connections());
    director.reload(&with_two_workers(&with_settings(
        &rules("quickstart.toml"),
        "persistence = { timeout = \"60s\", prefix = 24 }",
    )));
    let names: BTreeSet<_> = (0..6).map(|_| lab.fetch(&url)).collect();
    assert_eq!(names.len(), 1, "new connections find their server: {names:?}");
    wrk.signal(Signal::SIGINT);
    assert!(wrk.wait(Duration::from_secs(20)).success());
    assert_eq!(connections(), 64 + 6, "a lost connection is replaced by wrk");
    director.stop();
}

#[test]
fn a_service_takes_no_more_connections_than_its_limit() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text = with_settings(&rules("quickstart.toml"), "max_connections = 3\nno_backend = \"reset\"");
    let director = Director::start(&lab, &text);
    let hold = format!("exec 5<>/dev/tcp/{VIP}/80; sleep 30");
    let _held: Vec<_> =
        (0..3).map(|number| lab.start("client", &format!("hold{number}"), &["bash", "-c", &hold])).collect();
    let open = || director.try_status()?["flows"]["open"].as_u64();
    assert!(until(Duration::from_secs(30), || open() == Some(3)), "{:?}", open());
    let refused = lab.run("client", &["curl", "-sS", "-m", "2", &format!("http://{VIP}/")]);
    assert!(!refused.status.success());
    let status = director.try_status().expect("a status");
    assert!(status["drops"]["connection_limit"].as_u64() > Some(0), "{}", status["drops"]);
    director.stop();
}

/// Packets for it reach the kernel by the twin as they came, so it listens on the VIP itself.
#[test]
fn a_server_on_the_director_is_a_backend_like_others() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 80);
    let text = with_settings(&rules("quickstart.toml"), "");
    let text = replaced(&replaced(&text, ":8080", ":80"), "10.0.0.13:80", "192.0.2.5:80");
    let director = Director::start(&lab, &text);
    let directory = lab.directory().join("own");
    fs::create_dir(&directory)
        .and_then(|()| fs::write(directory.join("index.html"), "director\n"))
        .expect("a page");
    let serve = [
        "python3",
        "-m",
        "http.server",
        "--bind",
        VIP,
        "--directory",
        &directory.display().to_string(),
        "80",
    ];
    let _server = lab.start("director", "own-server", &serve);
    let listens = || lab.succeed("director", &["ss", "-ltn"]).contains(&format!("{VIP}:80"));
    assert!(until(Duration::from_secs(30), listens));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..12 {
        *counts.entry(lab.fetch(&format!("http://{VIP}/"))).or_default() += 1;
    }
    let wanted = ["backend1\n", "backend2\n", "director\n"].map(|name| (name.to_owned(), 4));
    assert_eq!(counts, wanted.into());
    assert_eq!(servers.requests(), [4, 4, 0]);
    director.stop();
}
