//! SCTP between two user-space stacks (usrsctp's `tsctp`: many kernels, that of CI among them, have none), through the director.
//! Each end drops what has a wrong CRC32c.

use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{BACKENDS, CLIENT, Lab, VIP};
use testbed::process::{Process, until};

const TSCTP: &str = "/usr/lib/usrsctp/tsctp";
const MESSAGES: u64 = 300;

/// A server on every backend, at the address that `of` gives it. It tells much of what it does.
fn servers(lab: &Lab, of: impl Fn(usize) -> String, l4_port: &str) -> Vec<Process> {
    let servers = (1..=BACKENDS).map(|number| {
        let role = format!("backend{number}");
        let argv = [TSCTP, "-L", &of(number), "-p", l4_port];
        let server = lab.start(&role, &format!("tsctp{number}"), &argv);
        let bound = || server.stdout().contains("Bind called") || server.stderr().contains("Bind called");
        assert!(until(Duration::from_secs(30), bound), "{}{}", server.stdout(), server.stderr());
        server
    });
    servers.collect()
}

/// Nine clients one after the other, each with an association of 1,000-byte messages that it closes.
fn assert_associations_are_spread(lab: &Lab, director: &Director, ways: u64) {
    for _ in 0..9 {
        let count = MESSAGES.to_string();
        let argv = ["timeout", "20", TSCTP, "-L", CLIENT, "-p", "3868", "-n", &count, "-l", "1000", VIP];
        lab.succeed("client", &argv);
    }
    let status = director.status();
    let backends = status["services"][0]["backends"].as_array().expect("backends");
    let connections: Vec<_> = backends.iter().map(|backend| backend["connections"].as_u64()).collect();
    assert_eq!(connections, [Some(5), Some(3), Some(1)]);
    for backend in backends {
        let (associations, packets) = (backend["connections"].as_u64(), backend["packets_in"].as_u64());
        // One message a packet, at an MTU of 1,500 bytes.
        assert!(packets >= associations.map(|count| count * MESSAGES), "{backend}");
        assert_eq!(backend["packets_out"].as_u64() > Some(0), ways == 2, "{backend}");
    }
    let output = director.command(&["flows"], &["--protocol", "sctp"]).output().expect("crossdock flows");
    let flows = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(flows.contains("SCTP"), "{flows}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn fullnat_carries_sctp_associations_there_and_back() {
    let lab = Lab::two_arms();
    let _servers = servers(&lab, |number| format!("10.0.0.1{number}"), "5001");
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("sctp {VIP}:3868"));
    let director = Director::start(&lab, &replaced(&text, ":8080", ":5001"));
    assert_associations_are_spread(&lab, &director, 2);
    director.stop();
}

#[test]
fn dr_carries_sctp_associations_and_the_backends_answer() {
    let lab = Lab::one_arm();
    for number in 1..=BACKENDS {
        let role = format!("backend{number}");
        // usrsctp sends from no address of a loopback interface.
        lab.succeed(&role, &["ip", "address", "delete", &format!("{VIP}/32"), "dev", "lo"]);
        // A bridge without ports serves where the kernel has no dummies.
        lab.succeed(&role, &["ip", "link", "add", "vip", "type", "bridge"]);
        lab.succeed(&role, &["ip", "address", "add", &format!("{VIP}/32"), "dev", "vip"]);
        lab.succeed(&role, &["ip", "link", "set", "vip", "up"]);
    }
    let _servers = servers(&lab, |_| VIP.to_owned(), "3868");
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("sctp {VIP}:3868"));
    let director = Director::start(&lab, &text);
    assert_associations_are_spread(&lab, &director, 1);
    director.stop();
}
