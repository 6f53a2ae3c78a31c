//! Checks of backends that own the VIP go to the VIP: a server that runs and has lost its VIP is found out.

use std::time::Duration;

use serde_json::Value;
use testbed::director::Director;
use testbed::ends::TunnelEnds;
use testbed::lab::{Family, VIP};
use testbed::process::until;

use super::tunnels::{KINDS, rules_of};
use super::{Answers, Network, direct};

/// What becomes of a backend is seen within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

fn checked(rules: &str) -> String {
    let health = "[service.health]\ncheck = \"http\"\ninterval = \"500ms\"\nfall = 2\nport = 80\n\n  [[service.backend]]";
    let services: Vec<_> =
        rules
            .split("[[service]]")
            .enumerate()
            .map(|(number, part)| {
                if number == 0 { part.to_owned() } else { replaced_once(part, "[[service.backend]]", health) }
            })
            .collect();
    services.join("[[service]]")
}

fn replaced_once(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the rules do not say: {from}");
    text.replacen(from, to, 1)
}

/// By service, what checks say of the backend with this number, from 1.
fn of_backend(director: &Director, number: usize) -> Vec<Value> {
    let status = director.status();
    let services = status["services"].as_array().expect("services");
    services.iter().map(|service| service["backends"][number - 1]["health"].clone()).collect()
}

fn states(director: &Director, number: usize) -> Vec<String> {
    of_backend(director, number)
        .iter()
        .map(|health| health["state"].as_str().unwrap_or("?").to_owned())
        .collect()
}

impl Network {
    /// Every backend passes; the second loses the IPv4 VIP and fails in that service alone, and comes back with it.
    fn finds_who_lost_the_vip(&self, director: &Director) {
        let all_pass = || {
            (1..=3).flat_map(|number| of_backend(director, number)).all(|health| {
                health["state"] == "up"
                    && health["checks"].as_u64() > Some(0)
                    && health["failed"].as_u64() == Some(0)
            })
        };
        assert!(until(PATIENCE, all_pass), "{}", director.status()["services"]);
        let vip = format!("{VIP}/32");
        self.lab.succeed("backend2", &["ip", "address", "delete", &vip, "dev", "lo"]);
        assert!(until(PATIENCE, || states(director, 2) == ["down", "up"]), "{:?}", of_backend(director, 2));
        assert_eq!(
            (states(director, 1), states(director, 3)),
            (vec!["up".to_owned(); 2], vec!["up".to_owned(); 2])
        );
        self.lab.succeed("backend2", &["ip", "address", "add", &vip, "dev", "lo"]);
        assert!(until(PATIENCE, || states(director, 2) == ["up", "up"]), "{:?}", of_backend(director, 2));
        assert!(self.lab.fetch(&Family::Ipv4.url("/")).starts_with("backend"));
    }
}

#[test]
fn a_backend_of_dr_that_lost_its_vip_is_down() {
    let network = Network::start(Answers::Vip);
    let director = network.director(&checked(&direct::dual_stack()), &Family::BOTH);
    network.finds_who_lost_the_vip(&director);
    director.stop();
}

#[test]
fn a_backend_of_a_tunnel_that_lost_its_vip_is_down() {
    let network = Network::start(Answers::Vip);
    let kind = &KINDS[0];
    let ends = TunnelEnds::start(&network.lab, kind.end);
    let director = network.director(&checked(&rules_of(kind, Family::Ipv6)), &Family::BOTH);
    network.finds_who_lost_the_vip(&director);
    director.stop();
    drop(ends);
}
