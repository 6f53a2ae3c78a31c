//! Backends that own the VIP are checked at addresses that stand for them: what the director's kernel sends there reaches that
//! backend, and no other, as the service's packets do.

use std::net::IpAddr;

use serde_json::Value;
use testbed::director::{Director, replaced, with_two_workers};
use testbed::ends::{CLOSED_PORT, TunnelEnds, ask_from};
use testbed::lab::{BACKENDS, Family};

use super::tunnels::{KINDS, Kind, rules_of};
use super::{Answers, Network, direct};

/// A datagram to where nobody listens: prints what the kernel says of it.
const REFUSED: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"anybody")
try:
    print(s.recv(100))
except ConnectionRefusedError:
    print("refused")
"#;

fn with_checks(rules: &str) -> String {
    format!("[checks]\naddresses = [\"198.18.0.0/16\", \"2001:2::/112\"]\n\n{rules}")
}

/// The check addresses of each service's backends, in the order of the rules.
fn check_addresses(director: &Director) -> Vec<Vec<IpAddr>> {
    let address =
        |backend: &Value| backend["check_address"].as_str().expect("a check address").parse().expect("one");
    let of_service =
        |service: &Value| service["backends"].as_array().expect("backends").iter().map(address).collect();
    director.status()["services"].as_array().expect("services").iter().map(of_service).collect()
}

impl Network {
    fn curl_from_director(&self, address: IpAddr) -> String {
        let url =
            if address.is_ipv6() { format!("http://[{address}]/") } else { format!("http://{address}/") };
        self.lab.succeed("director", &["curl", "-sS", "--fail", "-m", "20", &url])
    }

    /// Every backend is reached by the address that stands for it, and the services' counters know nothing of it.
    fn checks_each(&self, director: &Director) {
        let of_services = check_addresses(director);
        assert_eq!(of_services.iter().map(Vec::len).collect::<Vec<_>>(), [BACKENDS; 2]);
        for (number, address) in of_services.iter().flat_map(|addresses| addresses.iter().enumerate()) {
            let (name, text) = (format!("backend{}", number + 1), address.to_string());
            for _ in 0..3 {
                assert_eq!(self.curl_from_director(*address), format!("{name}\n"), "{address}");
            }
            let echoed = ask_from(&self.lab, "director", &text, 3, 800, 21_000 + 10 * number as u16);
            assert_eq!(echoed, [&*name; 3], "{address}");
            let closed = CLOSED_PORT.to_string();
            let said = self.lab.succeed("director", &["python3", "-c", REFUSED, &text, &closed]);
            assert_eq!(said, "refused\n", "{address}");
        }
        let status = director.status();
        for service in status["services"].as_array().expect("services") {
            assert_eq!((service["connections"].as_u64(), service["packets"].as_u64()), (Some(0), Some(0)));
        }
        assert_eq!(status["flows"]["entries"].as_u64(), Some(0));
        assert_eq!(status["checks"]["refused"].as_u64(), Some(0), "{}", status["checks"]);
    }
}

#[test]
fn backends_of_dr_are_checked_each_by_its_own_address() {
    let network = Network::start(Answers::Vip);
    let text = with_checks(&direct::dual_stack());
    let director = network.director(&text, &Family::BOTH);
    network.checks_each(&director);
    // Clients are served meanwhile as ever.
    network.carries_small(Family::Ipv4, super::Client::Seen);
}

fn are_checked_in(kinds: &[Kind]) {
    for kind in kinds {
        for outer in Family::BOTH {
            let network = Network::start(Answers::Vip);
            let ends = TunnelEnds::start(&network.lab, kind.end);
            let director = network.director(&with_checks(&rules_of(kind, outer)), &Family::BOTH);
            network.checks_each(&director);
            assert_eq!(ends.stop().len(), BACKENDS);
        }
    }
}

#[test]
fn backends_of_ipip_and_gre_are_checked_in_their_tunnels() {
    are_checked_in(&KINDS[..3]);
}

#[test]
fn backends_of_gue_are_checked_in_their_tunnels() {
    are_checked_in(&KINDS[3..]);
}

/// An answer comes to any worker; a backend that takes no connections is checked all the same, at the address it had; and
/// without `[checks]` there is no such address and no route to one.
#[test]
fn checks_reach_drained_backends_and_outlive_reloads_and_end_with_their_rules() {
    let network = Network::start(Answers::Vip);
    let text = with_two_workers(&direct::dual_stack());
    let director = network.director(&text, &Family::BOTH);
    let routes = || network.lab.succeed("director", &["ip", "route"]);
    assert!(!routes().contains("198.18.0.0/16"));
    assert!(director.status()["services"][0]["backends"][0]["check_address"].is_null());
    let listens = |text: &str| super::with_datagrams(text, &Family::BOTH);
    director.reload(&listens(&with_checks(&text)));
    let before = check_addresses(&director);
    let drained = replaced(&text, "weight  = 5", "weight  = 0");
    director.reload(&listens(&with_checks(&drained)));
    assert_eq!(check_addresses(&director), before);
    assert!(routes().contains("198.18.0.0/16"));
    network.checks_each(&director);
    director.reload(&listens(&text));
    assert!(!routes().contains("198.18.0.0/16"));
}
