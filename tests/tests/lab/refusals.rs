//! What cannot work ends at once, with status 1 and a message that says what to do, and leaves nothing behind.

use std::time::Duration;

use testbed::director::{Director, binary, replaced, rules};
use testbed::lab::{Lab, VIP, WebServers};

/// How long Crossdock may take to refuse: the EAL's own start is most of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it says instead of running.
fn refusal(lab: &Lab, rules: &str) -> String {
    let mut director = Director::spawn(lab, rules);
    let status = director.process().wait(PATIENCE);
    let said = director.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("crossdock: "), "{said}");
    let links = lab.succeed("director", &["ip", "-brief", "link"]);
    assert!(!links.contains("xd-"), "a twin is left: {links}");
    assert_eq!(lab.succeed("director", &["nft", "list", "tables"]), "");
    said
}

#[test]
fn an_interface_that_does_not_exist() {
    let lab = Lab::two_arms();
    for driver in ["af_packet", "af_xdp"] {
        let device = format!("{driver}:frnt");
        let said = refusal(&lab, &replaced(&rules("quickstart.toml"), "af_packet:front", &device));
        assert!(said.contains("frnt") && said.contains("front"), "names it and what there is: {said}");
        assert!(said.contains("doctor: interfaces: found: there is no interface frnt"), "{said}");
    }
}

/// By then DPDK has started and control is on one core: the doctor tells of the machine as it was before.
#[test]
fn a_nic_that_does_not_exist() {
    let lab = Lab::two_arms();
    let said = refusal(&lab, &replaced(&rules("quickstart.toml"), "af_packet:front", "0000:ff:1f.7"));
    let doctors: Vec<&str> = said.lines().filter(|line| line.starts_with("doctor: ")).collect();
    assert_eq!(doctors.len(), 1, "{said}");
    assert!(doctors[0].contains("NICs: found: there is no NIC 0000:ff:1f.7"), "{said}");
}

/// The shield would make its addresses deaf; they belong into the rules.
#[test]
fn an_interface_with_addresses_of_its_own() {
    let lab = Lab::two_arms();
    lab.succeed("director", &["ip", "address", "add", "192.0.2.7/24", "dev", "front"]);
    let said = refusal(&lab, &rules("quickstart.toml"));
    assert!(said.contains("192.0.2.7/24") && said.contains("addresses"), "{said}");
    assert!(said.contains("to do: ip address del 192.0.2.7/24 dev front"), "the doctor's line: {said}");
}

#[test]
fn a_missing_privilege() {
    let lab = Lab::two_arms();
    let path = lab.directory().join("rules.toml");
    std::fs::write(&path, rules("quickstart.toml")).expect("the rules");
    let (binary, path) = (binary().display().to_string(), path.display().to_string());
    let argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", &binary, "run", "-c", &path];
    let output = lab.run("director", &argv);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root") || said.contains("CAP_NET"), "says what is missing: {said}");
    assert!(said.contains("doctor: privileges: found: without cap_net_admin, cap_net_raw"), "{said}");
}

/// net_tap would join the first one's twin, and the two would share its packets.
#[test]
fn a_second_one_with_the_same_port_name_is_refused_and_the_first_lives_on() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &rules("quickstart.toml"));
    let path = lab.directory().join("second.toml");
    let socket = lab.directory().join("second.sock");
    let binary = binary().display().to_string();
    let run = [&binary, "run", "-c", &path.display().to_string(), "--duration", "1s"].map(str::to_owned);
    for port in
        ["name = \"front\"\ndevice = \"null\"\nkernel = true", "name = \"x\"\ndevice = \"tap:xd-front\""]
    {
        let text = format!(
            "[control]\nsocket = \"{}\"\n[dataplane]\nworkers = [0]\nmemory = \"plain\"\n[[port]]\n{port}\n",
            socket.display()
        );
        std::fs::write(&path, text).expect("the second's rules");
        let output = lab.run("director", &run.each_ref().map(String::as_str));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("interface xd-front exists already"), "{said}");
    }
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    director.stop();
}

/// Another one on the same host, with its own socket, changes nothing for the first.
#[test]
fn two_side_by_side() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &rules("quickstart.toml"));
    let path = lab.directory().join("second.toml");
    let socket = lab.directory().join("second.sock");
    let text = format!(
        "[control]\nsocket = \"{}\"\n[dataplane]\nworkers = [0]\nidle = \"sleep\"\n[[port]]\nname = \"front\"\ndevice = \"null\"\n",
        socket.display()
    );
    std::fs::write(&path, text).expect("the second's rules");
    let (binary, path) = (binary().display().to_string(), path.display().to_string());
    lab.succeed("client", &[&binary, "run", "-c", &path, "--duration", "1s"]);
    for _ in 0..9 {
        lab.fetch(&format!("http://{VIP}/"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    director.stop();
}

/// The interface's XDP program belongs to somebody else, and still does afterwards.
#[test]
fn an_interface_with_somebody_elses_xdp_program() {
    let lab = Lab::two_arms();
    let directory = lab.directory().display().to_string();
    let source = "__attribute__((section(\"xdp\"), used)) int foreign(void *packet) { return 2; }\n";
    std::fs::write(format!("{directory}/foreign.c"), source).expect("a program");
    let object = format!("{directory}/foreign.o");
    lab.succeed(
        "director",
        &["clang", "-O2", "-target", "bpf", "-c", &format!("{directory}/foreign.c"), "-o", &object],
    );
    lab.succeed("director", &["ip", "link", "set", "dev", "front", "xdp", "obj", &object, "sec", "xdp"]);
    let program = || lab.succeed("director", &["ip", "-details", "link", "show", "dev", "front"]);
    let id = |shown: &str| {
        shown.split("prog/xdp id ").nth(1).map(|rest| rest[..rest.find(' ').unwrap_or(0)].to_owned())
    };
    let before = id(&program());
    assert!(before.is_some(), "{}", program());
    let said = refusal(&lab, &replaced(&rules("quickstart.toml"), "af_packet:", "af_xdp:"));
    assert!(said.contains("\"foreign\"") && said.contains("xdp off"), "{said}");
    assert_eq!(id(&program()), before);
}
