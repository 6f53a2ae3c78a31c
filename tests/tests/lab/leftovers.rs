//! What is left of a Crossdock that was killed: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::director::{Director, binary, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

/// Everything Crossdock could leave on a machine, as text that can be compared.
fn traces(lab: &Lab) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    for directory in ["/run/dpdk", "/run/crossdock", "/dev/hugepages"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            traces.insert(entry.path().display().to_string());
        }
    }
    for argv in [
        &["ip", "-brief", "link"][..],
        &["ip", "-brief", "address"],
        &["ip", "route"],
        &["ip", "rule"],
        &["ip", "neighbour"],
        &["nft", "list", "tables"],
        &["ss", "-H", "-ltunw"],
    ] {
        for line in lab.succeed("director", argv).lines() {
            traces.insert(format!("{}: {}", argv.join(" "), lasting(line)));
        }
    }
    let details = lab.succeed("director", &["ip", "-details", "link"]);
    traces.extend(details.lines().filter(|line| line.contains("prog/xdp")).map(str::to_owned));
    traces
}

/// The line without the states a link goes through by itself.
fn lasting(line: &str) -> String {
    let passing = |word: &&str| !matches!(*word, "UP" | "DOWN" | "UNKNOWN") && !word.starts_with('<');
    line.split_whitespace().filter(passing).collect::<Vec<_>>().join(" ")
}

fn assert_nothing_left(end: impl FnOnce(&Lab, Director), device: &str) {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let before = traces(&lab);
    let director = Director::start(&lab, &replaced(&rules("quickstart.toml"), "af_packet:", device));
    lab.fetch(&format!("http://{VIP}/"));
    assert_ne!(traces(&lab), before, "a running Crossdock has twins");
    end(&lab, director);
    // The kernel takes sockets, TAPs and nft tables back when their last holder is gone, which is a little later.
    let left = || traces(&lab).symmetric_difference(&before).cloned().collect::<Vec<_>>();
    assert!(until(Duration::from_secs(30), || left().is_empty()), "left behind: {:#?}", left());
}

fn kill(_: &Lab, mut director: Director) {
    director.process().signal(Signal::SIGKILL);
    director.process().wait(Duration::from_secs(30));
}

#[test]
fn nothing_is_left_after_sigterm() {
    assert_nothing_left(|_, director| drop(director.stop()), "af_packet:");
}

#[test]
fn nothing_is_left_after_sigkill() {
    assert_nothing_left(kill, "af_packet:");
}

#[test]
fn nothing_is_left_after_sigkill_on_af_xdp() {
    assert_nothing_left(kill, "af_xdp:");
}

/// It fails after everything is open and running, because the kernel would not answer ARP for a VIP.
#[test]
fn nothing_is_left_after_a_start_that_fails_late() {
    let lab = Lab::two_arms();
    lab.succeed("director", &["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=8"]);
    let before = traces(&lab);
    let memif = lab.directory().join("memif.sock");
    let rules = replaced(&rules("quickstart.toml"), "af_packet:back", "af_xdp:back");
    let shared = format!("[[port]]\nname = \"shared\"\ndevice = \"memif:{}\"\n", memif.display());
    let mut director = Director::spawn(&lab, &format!("{rules}\n{shared}"));
    let made = until(Duration::from_secs(30), || memif.exists());
    let status = director.process().wait(Duration::from_secs(30));
    let said = director.stderr();
    assert!(made && said.contains("worker 0:") && !status.success(), "not late: {said}");
    assert!(said.contains("arp_ignore"), "{said}");
    assert!(!memif.exists(), "memif's socket is left");
    // At once: nothing here waits for a guard that outlives the process.
    let left: Vec<_> = traces(&lab).symmetric_difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// The signal comes as soon as there is anything to leave behind: while ports are opened.
#[test]
fn nothing_is_left_after_sigterm_during_the_start() {
    let lab = Lab::two_arms();
    let before = traces(&lab);
    let mut director = Director::spawn(&lab, &rules("quickstart.toml"));
    let shielded = || !lab.succeed("director", &["nft", "list", "tables"]).is_empty();
    assert!(until(Duration::from_secs(30), shielded), "{}", director.stderr());
    director.process().signal(Signal::SIGTERM);
    let said = director.stop();
    assert!(said["seconds"].is_number(), "a summary of nothing is a summary: {said}");
    let left = || traces(&lab).symmetric_difference(&before).cloned().collect::<Vec<_>>();
    assert!(until(Duration::from_secs(30), || left().is_empty()), "left behind: {:#?}", left());
}

/// Somebody kills the `nft` that holds a shield. It is put back, also where that takes longer than control's other turns.
#[test]
fn a_shield_that_is_shot_down_is_put_back() {
    let lab = Lab::two_arms();
    let directory = lab.directory().display().to_string();
    let path = std::env::var("PATH").expect("PATH");
    let nft = lab.succeed("director", &["sh", "-c", "command -v nft"]);
    let slow = format!("#!/bin/sh\nsleep 0.3\nexec {} \"$@\"\n", nft.trim());
    fs::write(format!("{directory}/nft"), slow).expect("a slow nft");
    lab.succeed("director", &["chmod", "+x", &format!("{directory}/nft")]);
    let text = format!("[control]\nsocket = \"{directory}/x.sock\"\n{}", rules("quickstart.toml"));
    fs::write(format!("{directory}/x.toml"), text).expect("the rules");
    let (path, binary) = (format!("PATH={directory}:{path}"), binary().display().to_string());
    let argv = ["env", &path, &binary, "run", "-c", &format!("{directory}/x.toml")];
    let mut process = lab.start("director", "slow", &argv);
    assert!(until(Duration::from_secs(30), || process.stderr().contains("ready:")), "{}", process.stderr());
    let tables = || lab.succeed("director", &["nft", "list", "tables"]).lines().count();
    assert_eq!(tables(), 2, "one an interface");
    // Its only children, from the thread that starts them.
    let children = format!("/proc/{0}/task/{0}/children", process.pid());
    let children = fs::read_to_string(&children).expect("the children");
    let first = children.split_whitespace().next().expect("an nft");
    lab.succeed("director", &["kill", "-KILL", first]);
    assert!(
        until(Duration::from_secs(30), || process.stderr().contains("putting it back")),
        "{}",
        process.stderr()
    );
    assert!(until(Duration::from_secs(30), || tables() == 2), "not put back: {}", process.stderr());
    let told = process.stderr().matches("putting it back").count();
    assert_eq!(told, 1, "it took more than one try: {}", process.stderr());
    assert!(process.stop().success(), "{}", process.stderr());
}

/// A second Crossdock starts at once where the first was killed, in the same place.
#[test]
fn a_restart_after_sigkill_works() {
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    kill(&lab, Director::start(&lab, &rules("quickstart.toml")));
    let director = Director::start(&lab, &rules("quickstart.toml"));
    lab.fetch(&format!("http://{VIP}/"));
    director.stop();
}
