//! Frames longer than 1,500 bytes: through ports whose MTU says so, in one buffer and in several; and cut by af_packet's
//! driver where it does not.

use std::fs;
use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{BACKENDS, Lab, VIP, WebServers};
use testbed::process::{Process, until};

use crate::http_fullnat::download_arrives_whole;

/// Argument 1 is the VIP, 2 the payload's size: sends 9 datagrams, a socket each, and prints the name in each answer.
const CLIENT: &str = r#"
import os, socket, sys
for number in range(9):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((sys.argv[1], 5353))
    payload = os.urandom(int(sys.argv[2]))
    s.send(payload)
    name, echo = s.recv(65536).split(b"\n", 1)
    assert echo == payload, "the payload has changed"
    print(name.decode())
"#;

/// Answers each datagram with a name, argument 1, and what it got.
const SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5353))
while True:
    payload, client = s.recvfrom(65536)
    s.sendto(sys.argv[1].encode() + b"\n" + payload, client)
"#;

fn echo_servers(lab: &Lab) -> Vec<Process> {
    let script = lab.directory().join("echo.py").display().to_string();
    fs::write(&script, SERVER).expect("the servers' script");
    let start = |number: usize| {
        let role = format!("backend{number}");
        let server = lab.start(&role, &format!("echo{number}"), &["python3", &script, &role]);
        let listens = || lab.succeed(&role, &["ss", "-lun"]).contains(":5353");
        assert!(until(Duration::from_secs(30), listens), "echo: {}", server.stderr());
        server
    };
    (1..=BACKENDS).map(start).collect()
}

/// All interfaces on the way carry IP packets of 9,000 bytes.
fn raise_mtus(lab: &Lab) {
    let raise = |role: &str, interface: &str| {
        lab.succeed(role, &["ip", "link", "set", interface, "mtu", "9000"]);
    };
    raise("client", "eth0");
    raise("director", "front");
    raise("director", "back");
    raise("switch", "director-back");
    for number in 1..=BACKENDS {
        raise(&format!("backend{number}"), "eth0");
        raise("switch", &format!("backend{number}-eth0"));
    }
}

fn udp_rules() -> String {
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    replaced(&text, ":8080", ":5353")
}

fn with_mtu(text: &str, mtu: u16) -> String {
    let text = replaced(text, "\"af_packet:front\"", &format!("\"af_packet:front\"\nmtu = {mtu}"));
    replaced(&text, "\"af_packet:back\"", &format!("\"af_packet:back\"\nmtu = {mtu}"))
}

fn datagrams_come_back(lab: &Lab, size: &str) {
    let out = lab.succeed("client", &["python3", "-c", CLIENT, VIP, size]);
    for (name, count) in [("backend1", 5), ("backend2", 3), ("backend3", 1)] {
        assert_eq!(out.lines().filter(|line| *line == name).count(), count, "{size} bytes: {out}");
    }
}

#[test]
fn jumbo_frames_pass_af_packet_ports_with_an_mtu() {
    let lab = Lab::two_arms();
    raise_mtus(&lab);
    let _servers = echo_servers(&lab);
    let director = Director::start(&lab, &with_mtu(&udp_rules(), 9_000));
    // The longest datagram that comes back with a name of eight bytes and a line's end.
    for size in ["1", "1463", "5000", "8963"] {
        datagrams_come_back(&lab, size);
    }
    // The twin is as it was: DPDK's TAP driver takes no more.
    lab.succeed("client", &["ping", "-c", "1", "-s", "1472", "-M", "do", "-W", "5", "192.0.2.5"]);
    assert_eq!(director.status()["packets"]["dropped"], 0, "{}", director.status());
    director.stop();
}

#[test]
fn tcp_segments_of_9_000_bytes_arrive_whole() {
    let lab = Lab::two_arms();
    raise_mtus(&lab);
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &with_mtu(&rules("quickstart.toml"), 9_000));
    download_arrives_whole(&lab, &servers);
    let status = director.status();
    let mean = |way: &str| {
        let count = |what: &str| status["ports"][0][format!("{way}_{what}")].as_u64().expect("a count");
        count("bytes") / count("packets")
    };
    assert!(mean("tx") > 3_000, "the client gets jumbo frames: {status}");
    director.stop();
}

/// net_pcap delivers what is longer than an mbuf in several.
#[test]
fn jumbo_frames_in_several_buffers_pass() {
    let lab = Lab::two_arms();
    raise_mtus(&lab);
    let _servers = echo_servers(&lab);
    let text =
        replaced(&udp_rules(), "\"af_packet:front\"", "\"net_pcap_front,iface=front,phy_mac=1\"\nmtu = 9000");
    let text = replaced(&text, "\"af_packet:back\"", "\"net_pcap_back,iface=back,phy_mac=1\"\nmtu = 9000");
    let director = Director::start(&lab, &text);
    for size in ["1463", "5000", "8963"] {
        datagrams_come_back(&lab, size);
    }
    director.stop();
}

/// af_packet's driver asks the kernel to put fragments together and then takes the first 1,982 bytes.
#[test]
fn what_af_packet_cuts_is_counted_and_the_remedy_named() {
    let lab = Lab::two_arms();
    let _servers = echo_servers(&lab);
    let director = Director::start(&lab, &udp_rules());
    datagrams_come_back(&lab, "1463");
    assert!(!lab.run("client", &["python3", "-c", CLIENT, VIP, "5000"]).status.success());
    let drops = director.status()["drops"].clone();
    assert!(drops["cut_by_driver"].as_u64() > Some(0) && drops["ipv4_length"] == 0, "{drops}");
    let told = || director.stderr().contains("dropped as cut_by_driver");
    assert!(until(Duration::from_secs(30), told), "the log says so: {}", director.stderr());
    let status = director.command(&["status"], &[]).output().expect("crossdock status");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("gro off gso off tso off") && status.contains("af_xdp"), "{status}");
    director.stop();
}

#[test]
fn an_interface_with_a_smaller_mtu_is_refused_with_the_command_that_mends_it() {
    let lab = Lab::two_arms();
    let mut director = Director::spawn(&lab, &with_mtu(&udp_rules(), 9_000));
    assert!(until(Duration::from_secs(30), || director.process().ended().is_some()), "it ends");
    let said = director.stderr();
    assert!(said.contains("ip link set dev front mtu 9000"), "{said}");
}
