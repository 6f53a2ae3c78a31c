//! UDP through FullNAT and DR: a Python client with a socket a datagram, socat as the servers.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{BACKENDS, Lab, VIP};
use testbed::process::{Process, until};

/// Argument 1 is the VIP, 2 how many datagrams, 3 the payload's size, 4 the first l4_port to send from: prints the first line
/// of every answer, after it has seen that the payload came back. A socket a datagram, and no l4_port twice, so each is a
/// flow of its own.
const CLIENT: &str = r#"
import os, socket, sys
for number in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.bind(("", int(sys.argv[4]) + number))
    s.connect((sys.argv[1], 5353))
    payload = os.urandom(int(sys.argv[3]))
    s.send(payload)
    name, echo = s.recv(2000).split(b"\n", 1)
    assert echo == payload, "the payload has changed"
    print(name.decode())
"#;

#[test]
fn fullnat_spreads_datagrams_and_brings_the_answers_back() {
    let lab = Lab::two_arms();
    let _servers = echo_servers(&lab, "0.0.0.0");
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &replaced(&text, ":8080", ":5353"));
    assert_datagrams_are_spread(&lab);
    director.stop();
}

#[test]
fn dr_spreads_datagrams_and_the_backends_answer() {
    let lab = Lab::one_arm();
    let _servers = echo_servers(&lab, VIP);
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &text);
    assert_datagrams_are_spread(&lab);
    director.stop();
}

fn assert_datagrams_are_spread(lab: &Lab) {
    // One byte, an odd size, and the most that fits a frame beside the backend's name (1500 - 28 - 9).
    for (size, first_port) in [("1", "20000"), ("333", "20100"), ("1463", "20200")] {
        let out = lab.succeed("client", &["python3", "-c", CLIENT, VIP, "27", size, first_port]);
        let mut answers = BTreeMap::new();
        for name in out.lines() {
            *answers.entry(name).or_insert(0) += 1;
        }
        let wanted = BTreeMap::from([("backend1", 15), ("backend2", 9), ("backend3", 3)]);
        assert_eq!(answers, wanted, "of 27 datagrams with {size} bytes");
    }
}

/// What socat runs for a datagram: one read and one write, so that the answer is one datagram.
const ANSWER: &str = r#"sysread(STDIN, $payload, 2000); syswrite(STDOUT, "$ARGV[0]\n$payload");"#;

/// A server on every backend that answers with its name and what it got. In DR it must be bound to the VIP, or the answer
/// would come from the backend's own address.
pub(crate) fn echo_servers(lab: &Lab, address: &str) -> Vec<Process> {
    let answer = lab.directory().join("answer.pl");
    fs::write(&answer, ANSWER).expect("the servers' script");
    let servers: Vec<_> = (1..=BACKENDS)
        .map(|number| {
            let role = format!("backend{number}");
            let listen = format!("UDP4-RECVFROM:5353,bind={address},fork");
            let answer = format!("EXEC:perl {} {role}", answer.display());
            lab.start(&role, &format!("socat{number}"), &["socat", &listen, &answer])
        })
        .collect();
    for number in 1..=BACKENDS {
        let listens = || lab.succeed(&format!("backend{number}"), &["ss", "-lun"]).contains(":5353");
        assert!(until(Duration::from_secs(30), listens), "socat: {}", servers[number - 1].stderr());
    }
    servers
}
