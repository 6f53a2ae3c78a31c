//! With huge pages: they are used, and nothing of them stays. `scripts/test` reserves some for its run.
//!
//! Free pages are not compared before and after: others on this machine may take and give some meanwhile.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use testbed::director::{Director, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};

/// Both ways to ask for them, and both ways to end.
#[test]
fn huge_pages_are_used_and_nothing_stays() {
    let free = number(Path::new("/proc/meminfo"), "HugePages_Free:");
    assert!(
        free >= 200,
        "{free} free huge pages, 200 are needed: run scripts/test, or sysctl vm.nr_hugepages=256"
    );
    let lab = Lab::two_arms();
    let _servers = WebServers::start(&lab, 8080);
    let files_before = files_on_huge_pages();
    for (memory, signal) in [("huge", Signal::SIGTERM), ("auto", Signal::SIGKILL)] {
        let line = format!("memory = \"{memory}\"\nmax_flows = 65_536");
        let mut director =
            Director::start(&lab, &replaced(&rules("quickstart.toml"), r#"memory  = "plain""#, &line));
        lab.fetch(&format!("http://{VIP}/"));
        let pid = director.process().pid();
        // Memory without a name goes with its process; only files could stay.
        assert!(
            number(Path::new(&format!("/proc/{pid}/status")), "HugetlbPages:") > 0,
            "{memory}: none is in use"
        );
        assert_eq!(files_on_huge_pages(), files_before, "{memory}");
        director.process().signal(signal);
        director.process().wait(Duration::from_secs(30));
    }
}

/// Files on every hugetlbfs of this machine.
fn files_on_huge_pages() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    let directories = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "hugetlbfs").then(|| directory.to_owned())
    });
    let files = directories.flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
    files.map(|entry| entry.path().display().to_string()).collect()
}

/// The number after `name` in a file of /proc.
fn number(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let line = text.lines().find(|line| line.starts_with(name)).expect("a kernel with huge pages");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
