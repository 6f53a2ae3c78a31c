//! With huge pages: they are used, and free again afterwards. `scripts/test` reserves some for its run.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::until;

#[test]
fn huge_pages_are_used_and_given_back() {
    let before = free_pages();
    assert!(
        before >= 200,
        "{before} free huge pages, 200 are needed: run scripts/test, or sysctl vm.nr_hugepages=256"
    );
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let text =
        replaced(&rules("quickstart.toml"), r#"memory  = "auto""#, "memory = \"huge\"\nmax_flows = 65_536");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut director = Director::start(&lab, &text);
        lab.fetch(&format!("http://{VIP}/"));
        assert!(free_pages() < before, "none is in use");
        director.process().signal(signal);
        director.process().wait(Duration::from_secs(10));
        assert!(
            until(Duration::from_secs(5), || free_pages() == before),
            "{signal}: {} of {before}",
            free_pages()
        );
    }
}

fn free_pages() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = meminfo.lines().find(|l| l.starts_with("HugePages_Free:")).expect("a kernel with huge pages");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
