//! An operator's day: backends come, rest and go, one dies and comes back, changes are taken back, rules come from LVS and the file is
//! upgraded; clients notice nothing but those who were with the one that died.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use testbed::director::{Director, binary, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::{Process, until};

const PATIENCE: Duration = Duration::from_secs(30);

fn done(director: &Director, words: &[&str]) -> String {
    let output = director.command(words, &[]).output().expect("crossdock runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// wrk opens a new connection for each request, so that whoever is chosen wrongly is noticed.
fn clients(lab: &Lab, name: &str) -> Process {
    let url = format!("http://{VIP}/");
    lab.start("client", name, &["wrk", "-t1", "-c8", "-d120s", "-H", "Connection: close", &url])
}

/// Ends wrk; it had requests, and none failed.
fn none_failed(mut wrk: Process) {
    wrk.signal(nix::sys::signal::Signal::SIGINT);
    assert!(wrk.wait(PATIENCE).success());
    let told = wrk.stdout();
    assert!(told.contains("requests in"), "{told}");
    assert!(!told.contains("Socket errors") && !told.contains("Non-2xx"), "{told}");
}

fn state(director: &Director, backend: usize) -> String {
    let status = director.status();
    let health = &status["services"][0]["backends"][backend]["health"]["state"];
    health.as_str().unwrap_or("not checked").to_owned()
}

/// Requests of clients: health checks come from the director's own address, and are asked of those that rest too.
fn requests(servers: &WebServers, number: usize) -> usize {
    servers.logs()[number - 1].iter().filter(|line| !line.contains(" 10.0.0.5:")).count()
}

#[test]
fn an_operators_day() {
    let lab = Lab::two_arms();
    let mut servers = WebServers::start(&lab, 8080);
    let text = rules("health.toml");
    // The day begins with two of three servers.
    let third = "  [[service.backend]]\n  address = \"10.0.0.13:8080\"\n  weight  = 1\n";
    let director = Director::start(&lab, &replaced(&text, third, ""));
    let wrk = clients(&lab, "morning");
    assert!(until(PATIENCE, || requests(&servers, 1) > 20 && requests(&servers, 2) > 20));
    // One more, and it gets its share.
    done(&director, &["backend", "add", "web", "10.0.0.13:8080", "--weight", "4"]);
    assert!(until(PATIENCE, || requests(&servers, 3) > 20), "{:?}", servers.requests());
    // One rests: nothing new for it.
    done(&director, &["backend", "drain", "web", "10.0.0.11:8080"]);
    let rested = requests(&servers, 1);
    let served = requests(&servers, 3);
    assert!(until(PATIENCE, || requests(&servers, 3) > served + 50));
    assert!(requests(&servers, 1) <= rested + 8, "it gets no new connections: {rested}");
    // That was the wrong one.
    done(&director, &["rollback"]);
    assert!(until(PATIENCE, || requests(&servers, 1) > rested + 20));
    let why = done(&director, &["explain", "tcp", "192.0.2.10:40000", &format!("{VIP}:80")]);
    assert!(why.contains("service web") && why.contains("<- this one"), "{why}");
    none_failed(wrk);

    // Its server dies: it is left within fall times interval and a timeout, however busy this machine is.
    servers.stop(2);
    assert!(until(PATIENCE, || state(&director, 1) == "down"), "{}", director.status());
    assert!(until(PATIENCE, || director.status()["services"][0]["backends"][1]["weight_in_force"] == 0.0));
    let wrk = clients(&lab, "noon");
    let served = requests(&servers, 3);
    assert!(until(PATIENCE, || requests(&servers, 3) > served + 50));
    servers.start_again(&lab, 2);
    assert!(until(PATIENCE, || state(&director, 1) == "up"), "{}", director.status());
    let served = requests(&servers, 2);
    assert!(until(PATIENCE, || requests(&servers, 2) > served + 20));

    // Another service, out of LVS's rules: what import writes is applied as far as it is about services.
    let lvs = lab.directory().join("lvs");
    fs::write(&lvs, format!("-A -t {VIP}:8000 -s rr\n-a -t {VIP}:8000 -r 10.0.0.13:8080 -m -w 2\n"))
        .expect("a file");
    let Output { status, stdout, stderr } =
        Command::new(binary()).args(["import", "ipvsadm"]).arg(&lvs).output().expect("crossdock runs");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let imported = String::from_utf8(stdout).expect("text");
    let service = imported.split_once("[[service]]").expect("a service").1;
    let service = replaced(service, "\"nat\"", "\"fullnat\"");
    let next = lab.directory().join("next.toml");
    fs::write(&next, format!("{}\n[[service]]{service}", done(&director, &["rules"]))).expect("a file");
    let told = done(&director, &["apply", &next.display().to_string()]);
    assert!(told.contains("+ service"), "{told}");
    assert_eq!(lab.fetch(&format!("http://{VIP}:8000/")), "backend3\n");

    // The file is upgraded, and is what counts from then on.
    director.reload(&replaced(&text, "weight  = 1", "weight  = 6"));
    let backends = director.status()["services"][0]["backends"].as_array().expect("backends").len();
    assert_eq!(backends, 3);
    none_failed(wrk);
    let revisions = done(&director, &["revisions"]);
    assert!(revisions.lines().filter(|line| line.contains(" by ")).count() >= 6, "{revisions}");
    director.stop();
}
