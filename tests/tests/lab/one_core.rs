//! A machine with one core: the only worker shares it with control, the kernel and everybody else.

use std::time::Duration;

use testbed::director::binary;
use testbed::lab::{Lab, VIP, WebServers, top};
use testbed::process::until;

#[test]
fn one_core_is_enough() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let quickstart = std::fs::read_to_string(top().join("configs/quickstart.toml")).expect("the quickstart");
    assert!(
        quickstart.contains("workers = \"auto\"") && quickstart.contains("idle    = \"yield\""),
        "as a user has it"
    );
    let socket = lab.directory().join("one.sock").display().to_string();
    let rules = lab.directory().join("one.toml").display().to_string();
    std::fs::write(&rules, format!("[control]\nsocket = \"{socket}\"\n{quickstart}")).expect("the rules");
    let binary = binary().display().to_string();
    let argv = ["taskset", "--cpu-list", "0", &binary, "run", "-c", &rules];
    let mut process = lab.start("director", "crossdock", &argv);
    let answered =
        || lab.run("client", &["curl", "-sf", "-m", "1", &format!("http://{VIP}/")]).status.success();
    assert!(until(Duration::from_secs(30), answered), "{}", process.stderr());
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert!(servers.requests().iter().sum::<usize>() >= 10);
    assert!(process.stop().success(), "{}", process.stderr());
    assert!(process.stderr().contains("worker 0: core 0"), "{}", process.stderr());
}
