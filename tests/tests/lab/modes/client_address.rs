//! FullNAT with backends that are told who their client is: nginx reads the PROXY protocol, tshark the TOA option, and a
//! kernel hands the UOA option to whoever asks for it.

use std::time::Duration;

use testbed::director::{Director, replaced, rules};
use testbed::lab::{BACKENDS, Family, Lab, VIP, WebServers};
use testbed::process::until;

use super::Network;
use testbed::ends::EchoServers;

const PATIENCE: Duration = Duration::from_secs(30);

/// Both services tell their backends so.
fn telling(how: &str) -> String {
    let mode = "mode      = \"fullnat\"";
    replaced(&rules("dual-stack.toml"), mode, &format!("{mode}\nclient_address = \"{how}\""))
}

/// The switch loses one segment in `one_in`, either way between the director and each backend. (A hook of the sender's own
/// would tell its TCP of the loss, which then gives up a handshake.)
fn lossy_switch(lab: &Lab, one_in: u32) {
    let devices =
        (1..=BACKENDS).map(|number| format!("backend{number}-eth0")).chain(["director-back".to_owned()]);
    for (number, device) in devices.enumerate() {
        let text = format!(
            "add table netdev lossy{number}\n\
             add chain netdev lossy{number} in {{ type filter hook ingress device {device} priority 0; }}\n\
             add rule netdev lossy{number} in meta l4proto tcp numgen inc mod {one_in} 0 drop"
        );
        lab.succeed("switch", &["nft", &text]);
    }
}

/// What nginx was told of the last request that any backend got.
fn last_told(servers: &WebServers) -> Vec<String> {
    let last = |log: &Vec<String>| log.last().and_then(|line| line.rsplit(' ').next()).map(str::to_owned);
    servers.logs().iter().filter_map(last).collect()
}

fn nginx_is_told(how: &str) {
    let lab = Lab::routed();
    let servers = WebServers::start_with(&lab, 80, "proxy_protocol");
    let echo = EchoServers::start(&lab, &["0.0.0.0", "::"]);
    let network = Network { lab, servers, echo };
    let director = Director::start(&network.lab, &telling(how));
    network.lab.route_director();
    for family in Family::BOTH {
        for _ in 0..9 {
            assert!(network.lab.fetch(&family.url("/")).starts_with("backend"), "{family:?}");
        }
        let told = last_told(&network.servers);
        assert_eq!(told.len(), BACKENDS);
        for told in told {
            assert_eq!(
                told.rsplit_once(':').map(|(address, _)| address),
                Some(family.client()),
                "{family:?}"
            );
        }
        network.carries_both_ways(family);
        network.carries_a_burst(family);
    }
    // Where packets are lost on both sides of the director, as well.
    lossy_switch(&network.lab, 40);
    network.lab.lossy(50);
    for family in Family::BOTH {
        for _ in 0..20 {
            assert!(network.lab.fetch(&family.url("/")).starts_with("backend"), "{family:?}");
        }
        network.carries_both_ways(family);
        for told in last_told(&network.servers) {
            assert_eq!(
                told.rsplit_once(':').map(|(address, _)| address),
                Some(family.client()),
                "{family:?}"
            );
        }
    }
    let summary = director.stop();
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
}

#[test]
fn nginx_is_told_by_the_proxy_protocol_v1() {
    nginx_is_told("proxy-v1");
}

#[test]
fn nginx_is_told_by_the_proxy_protocol_v2() {
    nginx_is_told("proxy-v2");
}

/// Greets whoever connects with what it was told, as an SMTP server speaks first.
const GREETER: &str = r#"
import socket
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("::", 80))
listener.listen(64)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.settimeout(30)
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(1)
    connection.sendall(b"220 " + line)
    assert connection.recv(100) == b"QUIT\r\n"
    connection.close()
"#;

/// Connects, says nothing before it was greeted, and prints the greeting and its own l4_port.
const GREETED: &str = r#"
import socket, sys
for _ in range(30):
    s = socket.create_connection((sys.argv[1], 80), timeout=30)
    greeting = b""
    while not greeting.endswith(b"\n"):
        greeting += s.recv(100)
    assert greeting.split()[-2] == str(s.getsockname()[1]).encode(), greeting
    s.sendall(b"QUIT\r\n")
    assert s.recv(1) == b""
    print(greeting.split()[3].decode())
"#;

#[test]
fn a_backend_that_speaks_first_is_told_before() {
    let lab = Lab::routed();
    let start = |number| {
        lab.start(&format!("backend{number}"), &format!("greeter{number}"), &["python3", "-c", GREETER])
    };
    let greeters: Vec<_> = (1..=BACKENDS).map(start).collect();
    for greeter in &greeters {
        assert!(until(PATIENCE, || greeter.stdout().starts_with("ready")), "{}", greeter.stderr());
    }
    let _director = Director::start(&lab, &telling("proxy-v1"));
    lab.route_director();
    lossy_switch(&lab, 11);
    for family in Family::BOTH {
        let greeted = lab.succeed("client", &["python3", "-c", GREETED, family.vip()]);
        assert_eq!(greeted.lines().count(), 30);
        assert!(greeted.lines().all(|line| line == family.client()), "{greeted}");
    }
}

#[test]
fn an_option_of_tcp_tells_the_client_as_an_independent_decoder_reads_it() {
    let lab = Lab::routed();
    let _servers = WebServers::start(&lab, 80);
    let director = Director::start(&lab, &telling("toa"));
    lab.route_director();
    let fields =
        "-e tcp.srcport -e tcp.flags.syn -e tcp.checksum.status -e ip.checksum.status -e tcp.options";
    let tshark = "tshark -l -n -i eth0 -f tcp.dst.port==80 -o tcp.check_checksum:TRUE -o ip.check_checksum:TRUE -T fields";
    let words: Vec<&str> = tshark.split(' ').chain(fields.split(' ')).collect();
    let words: Vec<&str> = words
        .into_iter()
        .map(|word| if word == "tcp.dst.port==80" { "tcp dst port 80" } else { word })
        .collect();
    let mut decoders: Vec<_> = (1..=BACKENDS)
        .map(|number| lab.start(&format!("backend{number}"), &format!("tshark{number}"), &words))
        .collect();
    for decoder in &decoders {
        assert!(until(PATIENCE, || decoder.stderr().contains("Capturing on")), "{}", decoder.stderr());
    }
    std::thread::sleep(Duration::from_secs(1));
    for family in Family::BOTH {
        for _ in 0..3 {
            assert!(lab.fetch(&family.url("/")).starts_with("backend"), "{family:?}");
        }
    }
    let told = |decoders: &[testbed::process::Process]| -> Vec<String> {
        decoders
            .iter()
            .flat_map(|decoder| decoder.stdout().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let v4 = "c633640a";
    let v6 = "20010db8000c00000000000000000010";
    let with = |lines: &[String], address: &str, head: &str| {
        let is_one = |line: &&String| {
            line.rsplit('\t')
                .next()
                .is_some_and(|options| options.starts_with(head) && options[8..].starts_with(address))
        };
        lines.iter().filter(is_one).count()
    };
    // Of each connection the ACK that completes the handshake and the request.
    assert!(
        until(PATIENCE, || {
            let lines = told(&decoders);
            with(&lines, v4, "fe08") >= 6 && with(&lines, v6, "fe14") >= 6
        }),
        "{:#?}",
        told(&decoders)
    );
    for line in told(&decoders) {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields[2], "1", "TCP checksum: {line}");
        assert!(fields[3] == "1" || fields[3].is_empty(), "IPv4 checksum: {line}");
        assert!(fields[1] != "1" || !fields[4].starts_with("fe"), "a SYN has none: {line}");
    }
    for decoder in &mut decoders {
        let _ = decoder.stop();
    }
    let summary = director.stop();
    assert_eq!(summary["packets"]["client_address_withheld"].as_u64(), Some(0));
}

/// Answers each datagram with the IPv4 options it came with.
const OPTIONS_READER: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVOPTS, 1)
s.bind(("0.0.0.0", 5454))
print("ready", flush=True)
while True:
    _, ancillary, _, peer = s.recvmsg(100, 200)
    options = [data for level, kind, data in ancillary if kind == socket.IP_RECVOPTS]
    s.sendto(options[0].hex().encode() if options else b"none", peer)
"#;

const OPTIONS_ASKER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind(("", 20000))
s.connect((sys.argv[1], 5454))
for _ in range(2):
    s.send(b"?")
    print(s.recv(100).decode())
"#;

#[test]
fn an_option_of_ipv4_tells_the_client_to_whoever_asks_the_kernel_for_it() {
    let lab = Lab::routed();
    let start = |number| {
        lab.start(&format!("backend{number}"), &format!("reader{number}"), &["python3", "-c", OPTIONS_READER])
    };
    let readers: Vec<_> = (1..=BACKENDS).map(start).collect();
    for reader in &readers {
        assert!(until(PATIENCE, || reader.stdout().starts_with("ready")), "{}", reader.stderr());
    }
    let text = format!(
        "{}\n[[service]]\nname = \"options\"\nlisten = \"udp {VIP}:5454\"\nmode = \"fullnat\"\nclient_address = \"uoa\"\n\
         backend = [{{ address = \"10.0.0.11\" }}, {{ address = \"10.0.0.12\" }}]\n",
        rules("dual-stack.toml")
    );
    let _director = Director::start(&lab, &text);
    lab.route_director();
    let told = lab.succeed("client", &["python3", "-c", OPTIONS_ASKER, VIP]);
    assert_eq!(told.lines().collect::<Vec<_>>(), ["1f084e20c633640a", "none"], "20,000 is 0x4e20");
}
