//! The kernel twin answers ARP and ping for the VIP and the port's addresses, once each: the interface's own kernel is silent.

use testbed::director::{Director, rules};
use testbed::lab::{Lab, VIP};

const DIRECTOR: &str = "192.0.2.5";

#[test]
fn ping_is_answered_exactly_once() {
    let lab = Lab::two_arms();
    let director = Director::start(&lab, &rules("quickstart.toml"));
    for address in [VIP, DIRECTOR] {
        // Five in four seconds; for the last `ping` waits to their end, not twice as long as the others took.
        let out = lab.succeed("client", &["ping", "-i", "0.9", "-w", "4", address]);
        // A second answer to one request makes ping say "+1 duplicates" between the two numbers.
        assert!(out.contains("5 packets transmitted, 5 received, 0% packet loss"), "{address}: {out}");
    }
    director.stop();
}

/// The FullNAT local addresses must be answered for too, or backends could not send to them.
#[test]
fn arp_is_answered_exactly_once() {
    let lab = Lab::two_arms();
    let director = Director::start(&lab, &rules("quickstart.toml"));
    let cases = [("client", "eth0", VIP), ("client", "eth0", DIRECTOR), ("backend1", "eth0", "10.0.0.65")];
    for (role, interface, address) in cases {
        // Broadcasts only (-b): a unicast question could not be answered by a second station.
        let out = lab.succeed(role, &["arping", "-b", "-c", "3", "-I", interface, address]);
        assert!(out.contains("Sent 3 probes") && out.contains("Received 3 response"), "{address}: {out}");
    }
    director.stop();
}

/// Nobody answers for an address that is in no rule.
#[test]
fn an_address_of_nobody_is_not_answered() {
    let lab = Lab::two_arms();
    let director = Director::start(&lab, &rules("quickstart.toml"));
    let output = lab.run("client", &["arping", "-b", "-c", "2", "-w", "2", "-I", "eth0", "192.0.2.77"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("Received 0 response"), "{output:?}");
    director.stop();
}

/// A SYN to a closed l4_port of the VIP goes to the kernel, which refuses it; the client need not wait.
#[test]
fn a_port_without_a_service_is_refused_by_the_kernel() {
    let lab = Lab::two_arms();
    let director = Director::start(&lab, &rules("quickstart.toml"));
    let output = lab.run("client", &["curl", "-sS", "-m", "5", &format!("http://{VIP}:8443/")]);
    // 7: "Failed to connect to host"; 28 would be the timeout.
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    director.stop();
}
