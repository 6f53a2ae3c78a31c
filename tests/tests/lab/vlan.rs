//! Ports in VLANs, with the kernel tagging and untagging at the other ends: 802.1Q towards clients, QinQ towards backends;
//! two arms and one.

use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::lab::{BACKENDS, Lab, VIP, WebServers};

use crate::http_fullnat::download_arrives_whole;

/// Room for a second tag on the director's interface and on the switch's port to it.
fn make_room_for_qinq(lab: &Lab, interface: &str) {
    lab.succeed("director", &["ip", "link", "set", interface, "mtu", "1504"]);
    lab.succeed("switch", &["ip", "link", "set", &format!("director-{interface}"), "mtu", "1504"]);
}

fn drops(director: &Director, reason: &str) -> u64 {
    director.status()["drops"][reason].as_u64().expect("a count")
}

fn between_vlans() -> (Lab, String) {
    let lab = Lab::two_arms();
    make_room_for_qinq(&lab, "back");
    lab.put_in_vlan("client", "eth0", 0, 100);
    for number in 1..=BACKENDS {
        lab.put_in_vlan(&format!("backend{number}"), "eth0", 200, 30);
    }
    let text = rules("quickstart.toml");
    let text = replaced(&text, "\"af_packet:front\"", "\"af_packet:front\"\nvlan = 100");
    let text = replaced(&text, "\"af_packet:back\"", "\"af_packet:back\"\nvlan = [200, 30]");
    (lab, text)
}

#[test]
fn fullnat_between_a_vlan_and_qinq() {
    let (lab, text) = between_vlans();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &text);
    for _ in 0..9 {
        assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    download_arrives_whole(&lab, &servers);
    // The twin is in the VLAN: its kernel answers ARP and ping there.
    lab.succeed("client", &["ping", "-c", "2", "-i", "0.2", "-W", "5", "192.0.2.5"]);
    assert_eq!(drops(&director, "other_vlan"), 0, "{}", director.status());
    // In another VLAN, in one too many and in none nobody is there.
    let is_unseen = |vids: &str| {
        let before = drops(&director, "other_vlan");
        assert!(!lab.run("client", &["ping", "-c", "1", "-W", "1", "192.0.2.5"]).status.success());
        assert!(drops(&director, "other_vlan") > before, "{vids}");
    };
    lab.put_in_vlan("client", "eth0", 0, 101);
    is_unseen("another");
    lab.put_in_vlan("client", "eth0", 200, 100);
    is_unseen("two");
    lab.put_in_no_vlan("client", "eth0");
    is_unseen("none");
    director.stop();
}

#[test]
fn two_workers_carry_tagged_connections() {
    let (lab, text) = between_vlans();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &with_two_workers(&text));
    for _ in 0..45 {
        assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"));
    }
    assert!(servers.requests().iter().all(|requests| *requests > 0));
    download_arrives_whole(&lab, &servers);
    director.stop();
}

#[test]
fn dr_on_one_arm_in_a_vlan() {
    let lab = Lab::one_arm();
    lab.put_in_vlan("client", "eth0", 0, 7);
    for number in 1..=BACKENDS {
        lab.put_in_vlan(&format!("backend{number}"), "eth0", 0, 7);
    }
    let servers = WebServers::start(&lab, 80);
    let text = replaced(&rules("dr.toml"), "\"af_packet:front\"", "\"af_packet:front\"\nvlan = 7");
    let director = Director::start(&lab, &text);
    for _ in 0..9 {
        assert!(lab.fetch(&format!("http://{VIP}/")).starts_with("backend"));
    }
    assert_eq!(servers.requests(), [5, 3, 1]);
    download_arrives_whole(&lab, &servers);
    director.stop();
}
