//! Masquerading: the backends' gateway is the director.

use serde_json::Value;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::ends::ask;
use testbed::lab::{Family, Lab, WebServers};

use super::{Answers, Client, Network};

#[test]
fn nat_carries_everything() {
    let network = Network::start(Answers::ThroughDirector);
    network.carries_everything(&rules("nat.toml"), &Family::BOTH, Client::Seen);
}

/// Answers are addressed to the client, and to nobody's local address: they find their worker by that.
#[test]
fn two_workers_carry_both_directions() {
    let network = Network::start(Answers::ThroughDirector);
    let director = network.director(&with_two_workers(&rules("nat.toml")), &Family::BOTH);
    for family in Family::BOTH {
        for _ in 0..18 {
            assert!(network.lab.fetch(&family.url("/")).starts_with("backend"), "{family:?}");
        }
        for (size, first_port) in [(1, 20_000), (1_300, 20_100)] {
            assert_eq!(ask(&network.lab, family, 18, size, first_port).len(), 18, "{family:?}");
        }
        network.carries_both_ways(family);
    }
    network.carries_errors(&Family::BOTH);
    let summary = director.stop();
    let workers = summary["per_worker"].as_array().expect("two workers");
    let received = |worker: &Value| worker["rx_packets"].as_u64().unwrap_or_default();
    assert!(workers.len() == 2 && workers.iter().all(|worker| received(worker) > 0), "{summary}");
    assert_ne!(summary["packets"]["steered"].as_u64(), Some(0), "every packet came to its owner: {summary}");
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
}

#[test]
fn nat_maps_the_l4_port() {
    let lab = Lab::routed();
    lab.answer_through_director();
    let servers = WebServers::start(&lab, 8080);
    let mut text = rules("nat.toml");
    for number in 1..=3 {
        text = replaced(&text, &format!("\"10.0.0.1{number}\""), &format!("\"10.0.0.1{number}:8080\""));
        text = replaced(&text, &format!("::1{number}]\""), &format!("::1{number}]:8080\""));
    }
    let director = Director::start(&lab, &text);
    for family in Family::BOTH {
        for _ in 0..9 {
            lab.fetch(&family.url("/"));
        }
    }
    assert_eq!(servers.requests(), [10, 6, 2]);
    director.stop();
}
