//! Connections that no director remembers live on when backends come and are drained: the first backend of a packet passes on
//! what it does not know to the second, which the director names. The backends' kernels say what they know.

use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::ends::TunnelEnds;
use testbed::lab::{Lab, VIP, WebServers};
use testbed::process::{Process, until};

/// Keeps connections to the VIP open, from l4_ports that the hash is known for: they are the same in each run. Prints a line a
/// round: who answered on each of them.
const KEEP: &str = r#"
import socket, sys
def connected(port):
    s = socket.socket()
    s.settimeout(20)
    s.bind(("", port))
    s.connect((sys.argv[1], 80))
    return s
def ask(s):
    s.send(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\n") or b"backend" not in answer:
        part = s.recv(4096)
        assert part, "the connection has ended"
        answer += part
    return answer.split()[-1].decode()
sockets = [connected(41_000 + number) for number in range(16)]
while True:
    print(" ".join(ask(s) for s in sockets), flush=True)
"#;

/// Waits for five rounds more, and returns the last.
fn five_rounds(client: &Process) -> Vec<String> {
    let rounds = || client.stdout().lines().count();
    let goal = rounds() + 5;
    assert!(until(Duration::from_secs(30), || rounds() >= goal), "{}", client.stderr());
    let said = client.stdout();
    let line = said.lines().nth(goal - 1).unwrap_or_default();
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn connections_nobody_remembers_stay_where_they_are() {
    let lab = Lab::routed();
    lab.own_vips();
    let _servers = WebServers::start(&lab, 80);
    let ends = TunnelEnds::start(&lab, "glb:6080");
    let tunnel = "encapsulation = \"gue\"\n  variant = 0\n  second_chance = true";
    let all = replaced(&rules("tunnel.toml"), "encapsulation = \"ipip\"", tunnel);
    let ipv4 = all.split("[[service]]").take(2).collect::<Vec<_>>().join("[[service]]");
    let all = replaced(&ipv4, "mode      =", "scheduler = \"mh\"\nflows     = \"none\"\nmode      =");
    let third = "  [[service.backend]]\n  address = \"10.0.0.13\"\n  weight  = 1\n";
    let all = replaced(&replaced(&all, "weight  = 5", "weight  = 1"), "weight  = 3", "weight  = 1");
    let director = Director::start(&lab, &replaced(&all, third, ""));
    let mut client = lab.start("client", "keep", &["python3", "-c", KEEP, VIP]);
    let before = five_rounds(&client);
    assert!(before.contains(&"backend1".to_owned()) && before.contains(&"backend2".to_owned()), "{before:?}");
    let newcomers = || (0..30).map(|_| lab.fetch(&format!("http://{VIP}/"))).collect::<Vec<_>>();
    // The third comes, and takes a third of the slots.
    director.reload(&all);
    assert_eq!(five_rounds(&client), before);
    assert!(newcomers().contains(&"backend3\n".to_owned()), "the third serves");
    // The first is drained, and takes no newcomer.
    director.reload(&all.replacen("weight  = 1", "weight  = 0", 1));
    assert_eq!(five_rounds(&client), before);
    assert!(!newcomers().contains(&"backend1\n".to_owned()), "the first is drained");
    assert_eq!(director.status()["flows"]["opened"].as_u64(), Some(0));
    client.stop();
    director.stop();
    let passed_on: Vec<_> = ends.stop().iter().map(|end| end["passed_on"].as_u64()).collect();
    assert!(passed_on[2] > Some(0), "the third was asked for connections of the others: {passed_on:?}");
}
