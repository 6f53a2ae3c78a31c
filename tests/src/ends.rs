//! What runs on the backends of a lab beside nginx: servers for datagrams, and the ends of tunnels.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{BACKENDS, Family, Lab};
use crate::process::{Process, until};

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The l4_port of the echo servers.
pub const ECHO_PORT: u16 = 5353;
/// The l4_port of servers whose clients are gone when the answer comes.
pub const LATE_PORT: u16 = 5354;
/// An l4_port where no backend listens.
pub const CLOSED_PORT: u16 = 5355;

/// Echoes datagrams to every address among its arguments; an answer is the backend's name, a line feed, and the question.
/// Says `ready` first. On the second l4_port the answer comes when the client says nothing more, by a socket that is connected to it: so
/// the kernel tells what ICMP says, which is written as a line `refused CLIENT`.
const ECHO: &str = r#"
import select, socket, sys, threading, time
name, port, late_port, addresses = sys.argv[1].encode(), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
def bound(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22) # SO_RCVBUFFORCE
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if s.family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    return s
def answer_late(s, peer):
    own = bound(s.getsockname()[0], late_port)
    own.connect(peer)
    own.settimeout(20)
    time.sleep(0.2)
    own.send(b"late")
    try:
        own.recv(100)
    except ConnectionRefusedError:
        print("refused", peer[0], flush=True)
sockets = [bound(address, port) for address in addresses]
late = [bound(address, late_port) for address in addresses]
print("ready", flush=True)
while True:
    for s in select.select(sockets + late, [], [])[0]:
        payload, peer = s.recvfrom(65535)
        if s in sockets:
            s.sendto(name + b"\n" + payload, peer)
        else:
            threading.Thread(target=answer_late, args=(s, peer)).start()
"#;

/// Argument 1 is where to, 2 the l4_port, 3 how many datagrams, 4 the payload's size, 5 the first l4_port to send from, 6 `bare` where
/// datagrams go without a checksum: prints the first line of every answer, after it has seen that the payload came back. A socket a datagram, and no l4_port
/// twice, so each is a flow of its own.
const ASK: &str = r#"
import os, socket, sys
address, port, count, size, first = sys.argv[1], *(int(argument) for argument in sys.argv[2:6])
for number in range(count):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    if "bare" in sys.argv:
        s.setsockopt(socket.SOL_SOCKET, 11, 1) # SO_NO_CHECK
    s.bind(("", first + number))
    s.connect((address, port))
    payload = os.urandom(size)
    s.send(payload)
    name, echo = s.recv(65535).split(b"\n", 1)
    assert echo == payload, "the payload has changed"
    print(name.decode())
"#;

/// A server for datagrams on every backend.
#[derive(Debug)]
pub struct EchoServers {
    processes: Vec<Process>,
}

impl EchoServers {
    /// Starts them; they listen on `addresses` of each backend. One that answers for a VIP must listen on that VIP, or its
    /// answers come from the backend's own address.
    #[must_use]
    pub fn start(lab: &Lab, addresses: &[&str]) -> Self {
        let [port, late_port] = [ECHO_PORT, LATE_PORT].map(|port| port.to_string());
        let argv = |role: &str| {
            [&["python3", "-c", ECHO, role, &port, &late_port][..], addresses]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect()
        };
        Self { processes: on_every_backend(lab, "echo", argv) }
    }

    /// One at the client, for both families.
    #[must_use]
    pub fn at_client(lab: &Lab) -> Self {
        let [port, late_port] = [ECHO_PORT, LATE_PORT].map(|port| port.to_string());
        let argv = ["python3", "-c", ECHO, "client", &port, &late_port, "0.0.0.0", "::"];
        let process = lab.start("client", "echo", &argv);
        assert!(until(PATIENCE, || process.stdout().starts_with("ready")), "{}", process.stderr());
        Self { processes: vec![process] }
    }

    /// How many late answers were refused so far, as the backends' kernels have heard.
    #[must_use]
    pub fn refused(&self) -> usize {
        let refused =
            |process: &Process| process.stdout().lines().filter(|line| line.starts_with("refused")).count();
        self.processes.iter().map(refused).sum()
    }
}

/// Sends `count` datagrams of `size` bytes from the client to the VIP, each from an l4_port of its own, which begin with
/// `first_port`. Returns who answered.
///
/// # Panics
///
/// When an answer is missing or not what was asked.
#[must_use]
pub fn ask(lab: &Lab, family: Family, count: usize, size: usize, first_port: u16) -> Vec<String> {
    ask_from(lab, "client", family.vip(), count, size, first_port)
}

/// The same over IPv4, by datagrams without a checksum.
#[must_use]
pub fn ask_without_checksums(lab: &Lab, count: usize, size: usize, first_port: u16) -> Vec<String> {
    ask_with(lab, "client", Family::Ipv4.vip(), [count, size, usize::from(first_port)], &["bare"])
}

/// The same from anybody to an address that echoes.
#[must_use]
pub fn ask_from(
    lab: &Lab,
    role: &str,
    address: &str,
    count: usize,
    size: usize,
    first_port: u16,
) -> Vec<String> {
    ask_with(lab, role, address, [count, size, usize::from(first_port)], &[])
}

fn ask_with(lab: &Lab, role: &str, address: &str, numbers: [usize; 3], words: &[&str]) -> Vec<String> {
    let [count, size, first_port] = numbers;
    let numbers = [usize::from(ECHO_PORT), count, size, first_port].map(|number| number.to_string());
    let numbers = numbers.each_ref().map(String::as_str);
    let argv = [&["python3", "-c", ASK, address][..], &numbers, words].concat();
    lab.succeed(role, &argv).lines().map(str::to_owned).collect()
}

/// Sends a datagram to the VIP. Says `refused` when ICMP answers it, what came when a server does, and nothing when the socket
/// is closed at once.
const KNOCK: &str = r#"
import socket, sys
address, port, waits = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "wait"
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((address, port))
s.send(b"knock")
if waits:
    try:
        print(s.recv(100))
    except ConnectionRefusedError:
        print("refused")
"#;

/// Whether the client hears that nobody listens at the VIP's `CLOSED_PORT`.
#[must_use]
pub fn hears_refusal(lab: &Lab, family: Family) -> bool {
    let port = CLOSED_PORT.to_string();
    lab.succeed("client", &["python3", "-c", KNOCK, family.vip(), &port, "wait"]) == "refused\n"
}

/// Asks at the VIP's `LATE_PORT` and closes the socket.
pub fn knock_and_leave(lab: &Lab, family: Family) {
    let port = LATE_PORT.to_string();
    lab.succeed("client", &["python3", "-c", KNOCK, family.vip(), &port, "leave"]);
}

/// The ends of the tunnels: each backend unwraps what it gets and judges every header (`tunnel_end.py`).
#[derive(Debug)]
pub struct TunnelEnds {
    processes: Vec<Process>,
}

impl TunnelEnds {
    /// Starts them for one kind of tunnel: `ipip`, `gre`, `gre:KEY`, `gue0:PORT`, `gue1:PORT` or
    /// `glb:PORT`.
    #[must_use]
    pub fn start(lab: &Lab, kind: &str) -> Self {
        let program = lab.directory().join("tunnel_end.py").display().to_string();
        fs::write(PathBuf::from(&program), include_str!("tunnel_end.py")).expect("the program");
        let vips = Family::BOTH.map(Family::vip);
        let argv = |_: &str| {
            [&["python3", &program, "eth0", kind][..], &vips]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect()
        };
        Self { processes: on_every_backend(lab, "tunnel", argv) }
    }

    /// Ends them. What each saw: `packets` by kind (`4in6`), `passed_on`, `sources`, `source_ports`, `ttls`, `dscps`, `inner_ttls`.
    ///
    /// # Panics
    ///
    /// When a header was at fault.
    #[must_use]
    pub fn stop(self) -> Vec<Value> {
        let judged = |mut end: Process| {
            assert!(end.stop().success(), "{}", end.stderr());
            let said = end.stdout();
            let last = said.lines().last().unwrap_or_default();
            let judged: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {said}"));
            assert_eq!(judged["faults"], serde_json::json!({}), "headers at fault");
            judged
        };
        self.processes.into_iter().map(judged).collect()
    }
}

/// Starts what `argv` says for each role, and waits until all have said `ready`.
fn on_every_backend(lab: &Lab, name: &str, argv: impl Fn(&str) -> Vec<String>) -> Vec<Process> {
    let start = |number| {
        let role = format!("backend{number}");
        let argv = argv(&role);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        lab.start(&role, &format!("{name}{number}"), &argv)
    };
    let processes: Vec<_> = (1..=BACKENDS).map(start).collect();
    for process in &processes {
        let ready = || process.stdout().starts_with("ready");
        assert!(until(PATIENCE, ready), "{name}: {}", process.stderr());
    }
    processes
}
