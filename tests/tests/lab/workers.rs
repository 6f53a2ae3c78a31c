//! Two and four workers, each with a packet socket of its own on every port: the kernel spreads the packets over the
//! sockets (fanout by hash), and the workers carry them to whom they belong. On two cores: four workers take turns.
//!
//! Clients and servers of the tests for order stay on one core each: what a veth is given waits in a queue of the core that
//! sent it, so the kernel itself reorders a flow whose sender moves to another core. And every flow begins with one datagram
//! and its answer: what waits for a neighbour's MAC is sent by the core that heard the MAC, beside what the sender sends
//! meanwhile, so the kernel reorders that too.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules, with_workers};
use testbed::lab::{BACKENDS, Lab, VIP, WebServers};
use testbed::process::{Process, until};

/// Flows of a test, an l4_port of the client each.
const FLOWS: u64 = 64;
/// Rounds, and datagrams a flow sends in a round before it waits for their answers: so few that no socket overflows.
const ROUNDS: u64 = 40;
const DATAGRAMS: u64 = 4;
/// What a flow sends: the rounds, and before them the one that makes the neighbours known.
const DATAGRAMS_OF_A_FLOW: u64 = 1 + ROUNDS * DATAGRAMS;

/// Argument 1 is the VIP, 2 to 4 are the first three numbers above. A datagram is the number it has in its flow. Fails unless every
/// answer comes, in the order of the questions.
const CLIENT: &str = r#"
import socket, struct, sys
flows, rounds, datagrams = (int(argument) for argument in sys.argv[2:5])
sockets = []
for number in range(flows):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.bind(("", 20000 + number))
    s.connect((sys.argv[1], 5353))
    sockets.append(s)
    s.send(struct.pack("!I", 0))
    assert s.recv(100) == struct.pack("!I", 0)
for first in range(1, 1 + rounds * datagrams, datagrams):
    numbers = range(first, first + datagrams)
    for number in numbers:
        for s in sockets:
            s.send(struct.pack("!I", number))
    for s in sockets:
        got = [struct.unpack("!I", s.recv(100))[0] for _ in numbers]
        assert got == list(numbers), f"{s.getsockname()}: {got}, not {numbers}"
"#;

/// Echoes; writes a line for every datagram that does not have the number after the one before of its flow, and at the
/// first of each flow its endpoint.
const SERVER: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22) # SO_RCVBUFFORCE
s.bind((sys.argv[1], 5353))
expected = {}
while True:
    payload, peer = s.recvfrom(100)
    number = struct.unpack("!I", payload)[0]
    if peer not in expected:
        print("flow", *peer, flush=True)
    if number != expected.get(peer, 0):
        print("order", *peer, expected.get(peer, 0), number, flush=True)
    expected[peer] = number + 1
    s.sendto(payload, peer)
"#;

#[test]
fn fullnat_flows_stay_in_order_at_one_of_two_workers() {
    fullnat_flows_stay_in_order(2);
}

#[test]
fn fullnat_flows_stay_in_order_at_one_of_four_workers() {
    fullnat_flows_stay_in_order(4);
}

#[test]
fn direct_flows_stay_in_order_at_one_of_four_workers() {
    let lab = Lab::one_arm();
    let servers = sequence_servers(&lab, VIP);
    let text = replaced(&rules("dr.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &with_workers(&text, 4));
    assert_in_order(&lab, &servers);
    // Answers do not pass the director.
    let carried = FLOWS * DATAGRAMS_OF_A_FLOW;
    assert_workers_add_up(&lab, &director, &["front"], carried);
    director.stop();
}

fn fullnat_flows_stay_in_order(worker_count: usize) {
    let lab = Lab::two_arms();
    let servers = sequence_servers(&lab, "0.0.0.0");
    let text = replaced(&rules("quickstart.toml"), &format!("tcp {VIP}:80"), &format!("udp {VIP}:5353"));
    let director = Director::start(&lab, &with_workers(&replaced(&text, ":8080", ":5353"), worker_count));
    assert_in_order(&lab, &servers);
    let carried = 2 * FLOWS * DATAGRAMS_OF_A_FLOW;
    assert_workers_add_up(&lab, &director, &["front", "back"], carried);
    director.stop();
}

/// TCP connections that are kept open, so that all of them carry packets at once.
#[test]
fn four_workers_lose_no_tcp_connection() {
    let lab = Lab::two_arms();
    let servers = WebServers::start(&lab, 8080);
    let director = Director::start(&lab, &with_workers(&rules("quickstart.toml"), 4));
    let out = lab.succeed("client", &["wrk", "-t1", "-c64", "-d3s", &format!("http://{VIP}:80/")]);
    assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    let status = director.status();
    let connections: HashSet<_> = (servers.logs().iter().enumerate())
        .flat_map(|(backend, log)| {
            log.iter().map(move |line| (backend, line.split(' ').nth(1).unwrap_or("")))
        })
        .map(|(backend, client)| (backend, client.to_owned()))
        .collect();
    // wrk first opens one more and asks nothing, to see whether anybody listens; nginx logs requests.
    let opened = number(&status, "/flows/opened");
    assert_eq!(opened, connections.len() as u64 + 1, "as Crossdock and nginx count them");
    for worker in workers(&status) {
        assert!(number(worker, "/opened") > 0, "a worker without a connection: {status:#}");
    }
    director.stop();
}

/// A server on every backend. In DR it must be bound to the VIP, or the answer would come from the backend's own address.
fn sequence_servers(lab: &Lab, address: &str) -> Vec<Process> {
    let script = lab.directory().join("sequence.py");
    fs::write(&script, SERVER).expect("the servers' script");
    let script = script.display().to_string();
    let start = |backend| {
        let role = format!("backend{backend}");
        lab.start(&role, &format!("sequence{backend}"), &["taskset", "-c", "1", "python3", &script, address])
    };
    let servers: Vec<_> = (1..=BACKENDS).map(start).collect();
    for backend in 1..=BACKENDS {
        let listens = || lab.succeed(&format!("backend{backend}"), &["ss", "-lun"]).contains(":5353");
        assert!(until(Duration::from_secs(30), listens), "server: {}", servers[backend - 1].stderr());
    }
    servers
}

/// Both directions, and each flow came to the backends from one endpoint.
fn assert_in_order(lab: &Lab, servers: &[Process]) {
    let numbers = [FLOWS, ROUNDS, DATAGRAMS].map(|number| number.to_string());
    let argv =
        [&["taskset", "-c", "0", "python3", "-c", CLIENT, VIP][..], &numbers.each_ref().map(String::as_str)]
            .concat();
    let _ = lab.succeed("client", &argv);
    let said: Vec<_> = servers.iter().map(Process::stdout).collect();
    let lines = || said.iter().flat_map(|said| said.lines());
    assert_eq!(lines().find(|line| line.starts_with("order")), None, "not in order");
    assert_eq!(lines().count() as u64, FLOWS, "each flow is one flow at the backends");
}

/// What came in is what went out, at every worker and at the ports as the kernel counts them; each connection was made once.
fn assert_workers_add_up(lab: &Lab, director: &Director, ports: &[&str], carried: u64) {
    let status = director.status();
    let sum = |name: &str| workers(&status).iter().map(|worker| number(worker, name)).sum::<u64>();
    for worker in workers(&status) {
        let incoming = ["/rx_packets", "/steered_in", "/from_slow_path"].map(|name| number(worker, name));
        let outgoing = ["/tx_packets", "/steered", "/punted", "/dropped"].map(|name| number(worker, name));
        assert_eq!(incoming.iter().sum::<u64>(), outgoing.iter().sum::<u64>(), "{status:#}");
        assert!(number(worker, "/rx_packets") > 0 && number(worker, "/opened") > 0, "{status:#}");
    }
    assert_eq!(sum("/steered"), sum("/steered_in"), "{status:#}");
    assert!(sum("/steered") > 0, "fanout knows nothing of owners: {status:#}");
    assert_eq!(number(&status, "/packets/dropped"), 0, "{status:#}");
    assert_eq!(number(&status, "/packets/forwarded"), carried, "{status:#}");
    // A packet seen by another worker than its connection's would have made a second connection there.
    assert_eq!((number(&status, "/flows/opened"), sum("/opened")), (FLOWS, FLOWS), "{status:#}");
    for (index, port) in ports.iter().enumerate() {
        let of_port = |name: &str| number(&status, &format!("/ports/{index}/{name}"));
        let counted = (of_port("rx_packets"), of_port("tx_packets"));
        assert_eq!(
            counted,
            lab.interface_packets("director", port),
            "{port} as Crossdock and the kernel count"
        );
    }
    let of_ports = |name: &str| {
        (0..ports.len()).map(|index| number(&status, &format!("/ports/{index}/{name}"))).sum::<u64>()
    };
    assert_eq!((of_ports("rx_packets"), of_ports("tx_packets")), (sum("/rx_packets"), sum("/tx_packets")));
}

fn workers(status: &Value) -> &[Value] {
    status["per_worker"].as_array().expect("a row for each worker")
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}
