//! Hosts behind the director reach a server outside: here it is the lab's client that serves, and the backends are the hosts.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, rules, with_two_workers};
use testbed::ends::{EchoServers, ask_from};
use testbed::lab::{BACKENDS, Family, Lab};
use testbed::process::{Process, until};

use super::random_bytes;

/// Serves files of its directory in both families, takes what is PUT, and says from whom.
const SERVER: &str = r#"
import http.server, os, socket, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_PUT(self):
        with open(os.path.basename(self.path), "wb") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(201)
        self.end_headers()
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
os.chdir(sys.argv[1])
server = Server(("::", 80), Handler)
print("ready", flush=True)
server.serve_forever()
"#;

#[test]
fn snat_carries_hosts_out() {
    carries_hosts_out(&rules("snat.toml"));
}

/// What hosts send and what answers them come in by different ports, and each to any worker: the two sides have to agree on the owner.
#[test]
fn two_workers_carry_hosts_out() {
    let summary = carries_hosts_out(&with_two_workers(&rules("snat.toml")));
    assert_ne!(summary["packets"]["steered"].as_u64(), Some(0), "every packet came to its owner: {summary}");
}

/// Returns what the director counted.
fn carries_hosts_out(rules: &str) -> Value {
    let lab = Lab::routed();
    lab.answer_through_director();
    let server = server(&lab);
    let _echo = EchoServers::at_client(&lab);
    let director = Director::start(&lab, rules);
    for family in Family::BOTH {
        for (number, first_port) in (1..=BACKENDS).zip([30_000, 30_000, 31_000]) {
            // Two hosts with the same l4_ports: the public endpoints differ all the same.
            let answers = ask_from(&lab, &format!("backend{number}"), family.client(), 9, 1_300, first_port);
            assert_eq!(answers, ["client"; 9], "{family:?}");
        }
        carries_both_ways(&lab, family);
    }
    lab.narrow(1400);
    for family in Family::BOTH {
        carries_both_ways(&lab, family);
    }
    for line in server.stderr().lines() {
        let known = ["::ffff:192.0.2.64 ", "::ffff:192.0.2.65 ", "2001:db8:1::40 ", "2001:db8:1::41 "];
        assert!(known.iter().any(|public| line.starts_with(public)), "not from a public address: {line}");
    }
    let summary = director.stop();
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
    summary
}

fn server(lab: &Lab) -> Process {
    let directory = lab.directory().join("served");
    fs::create_dir(&directory).expect("a directory");
    let directory = directory.display().to_string();
    let server = lab.start("client", "server", &["python3", "-c", SERVER, &directory]);
    assert!(until(Duration::from_secs(30), || server.stdout() == "ready\n"), "{}", server.stderr());
    server
}

/// Every host takes 10 MB and gives them back.
fn carries_both_ways(lab: &Lab, family: Family) {
    let served = lab.directory().join("served");
    let content = random_bytes();
    fs::write(served.join("big"), &content).expect("the file to serve");
    let host =
        if family == Family::Ipv6 { format!("[{}]", family.client()) } else { family.client().to_owned() };
    for number in 1..=BACKENDS {
        let (role, name) = (format!("backend{number}"), format!("of-backend{number}"));
        let file = lab.directory().join(&name).display().to_string();
        let curl = |option: &str, path: &str| {
            let url = format!("http://{host}/{path}");
            lab.succeed(&role, &["curl", "-sS", "--fail", "-m", "20", option, &file, &url]);
        };
        curl("-o", "big");
        curl("-T", &name);
        assert!(fs::read(served.join(&name)).expect("the upload") == content, "{family:?}, {role}");
    }
}
