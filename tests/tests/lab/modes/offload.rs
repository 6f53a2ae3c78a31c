//! Checksums that a port computes: on DPDK's TAP driver, which does what hardware does. The kernels of the backends judge: IPv6
//! takes no datagram whose checksum is missing or wrong.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::director::{Director, replaced, rules};
use testbed::ends::{TunnelEnds, ask_without_checksums};
use testbed::lab::{Family, Lab};
use testbed::process::until;

use super::tunnels::{KINDS, rules_of};
use super::{Answers, Network, with_datagrams};

/// The rules with the port `back` on a TAP, whose driver computes checksums. Its MAC is the same after a restart, as a NIC's is.
fn on_a_tap(rules: &str, more: &str) -> String {
    replaced(rules, "\"af_packet:back\"", &format!("\"tap:xdtap\"\nmac = \"02:00:00:00:00:66\"\n{more}"))
}

/// A director with these rules, whose TAP is wired to the backends.
fn director(network: &Network, rules: &str) -> Director {
    let lab = &network.lab;
    let director = Director::spawn(lab, &with_datagrams(rules, &Family::BOTH));
    let is_there = || lab.run("director", &["ip", "link", "show", "xdtap"]).status.success();
    assert!(until(Duration::from_secs(20), is_there), "{}", director.stderr());
    // By its own MAC, which is the port's, a bridge would take the port's frames for its own.
    let commands = "ip link set xdtap address 02:00:00:00:00:77; \
                    ip link show wire >/dev/null 2>&1 || ip link add wire type bridge stp_state 0 mcast_snooping 0; \
                    for end in xdtap back; do ip link set $end master wire up; done; ip link set wire up";
    lab.succeed("director", &["bash", "-ec", commands]);
    let director = director.ready();
    lab.route_director();
    director
}

/// Datagrams of one byte, an odd size, and what just fits; each of a flow of its own.
fn ask_bare(lab: &Lab, longest: usize) {
    for (size, first_port) in [(1, 20_000), (333, 20_100), (longest, 20_200)] {
        let answers = ask_without_checksums(lab, 9, size, first_port);
        let of = |backend: &str| answers.iter().filter(|answer| *answer == backend).count();
        assert_eq!(["backend1", "backend2", "backend3"].map(of), [5, 3, 1], "{size} bytes");
    }
}

/// What computed how many checksums of 27 datagrams.
fn assert_computed(summary: &Value, by_port: bool) {
    let (port, software) = if by_port { (27, 0) } else { (0, 27) };
    assert_eq!(summary["packets"]["checksums_offloaded"], json!(port), "{summary}");
    assert_eq!(summary["packets"]["checksums_summed"], json!(software), "{summary}");
}

#[test]
fn a_port_computes_what_ipv6_backends_ask_for() {
    let network = Network::start(Answers::OwnAddress);
    for (more, by_port) in [("", true), ("checksum_offload = false", false)] {
        let director = director(&network, &on_a_tap(&rules("nat64.toml"), more));
        // 20 bytes more of header, and nine more in the answer, which IPv6 would fragment.
        ask_bare(&network.lab, 1_500 - 20 - 28 - 9);
        let status = director.status();
        let expected = if by_port { json!(["udp_checksum"]) } else { Value::Null };
        assert_eq!(status["ports"][1]["offloads"], expected, "{status}");
        assert_eq!(status["ports"][0]["offloads"], Value::Null, "af_packet computes nothing");
        assert_computed(&director.stop(), by_port);
    }
}

#[test]
fn a_port_computes_the_outer_checksums_of_gue() {
    for kind in KINDS.iter().filter(|kind| kind.end.starts_with("gue")) {
        let network = Network::start(Answers::Vip);
        let ends = TunnelEnds::start(&network.lab, kind.end);
        let director = director(&network, &on_a_tap(&rules_of(kind, Family::Ipv6), ""));
        ask_bare(&network.lab, usize::from(kind.mtu(Family::Ipv6)) - 28);
        assert_computed(&director.stop(), true);
        // They have found no header at fault, outer UDP checksums included.
        let judged = ends.stop();
        let carried: u64 = judged.iter().filter_map(|end| end["packets"]["4in6"].as_u64()).sum();
        assert_eq!(carried, 27, "{judged:?}");
    }
}
