//! Tunnels of every kind, with outer headers of both families around packets of both. The ends judge the headers.

use serde_json::{Value, json};
use testbed::director::{replaced, rules};
use testbed::ends::TunnelEnds;
use testbed::lab::Family;

use super::{Answers, Client, Network};

/// An encapsulation: its keys in the rules, what the end of it is called, and the bytes it takes beside the outer IP header.
pub(super) struct Kind {
    keys: &'static str,
    pub(super) end: &'static str,
    added: u16,
}

impl Kind {
    /// How much of 1,500 bytes is left for a packet.
    pub(super) fn mtu(&self, outer: Family) -> u16 {
        let header = if outer == Family::Ipv4 { 20 } else { 40 };
        1_500 - header - self.added
    }
}

const IPIP: Kind = Kind { keys: "encapsulation = \"ipip\"", end: "ipip", added: 0 };
const GRE: Kind = Kind { keys: "encapsulation = \"gre\"", end: "gre", added: 4 };
const GRE_WITH_KEY: Kind =
    Kind { keys: "encapsulation = \"gre\"\nkey = 4_000_000_007", end: "gre:4000000007", added: 8 };
const GUE_0: Kind =
    Kind { keys: "encapsulation = \"gue\"\nvariant = 0\nport = 6080", end: "gue0:6080", added: 12 };
const GUE_1: Kind =
    Kind { keys: "encapsulation = \"gue\"\nvariant = 1\nport = 9886", end: "gue1:9886", added: 8 };

/// All of them, from the least that they add.
pub(super) const KINDS: [Kind; 5] = [IPIP, GRE, GRE_WITH_KEY, GUE_1, GUE_0];

/// The showcase with another encapsulation, and all its backends reached by `outer`.
pub(super) fn rules_of(kind: &Kind, outer: Family) -> String {
    let mut text = replaced(&rules("tunnel.toml"), "encapsulation = \"ipip\"", kind.keys);
    for number in 1..=3 {
        let (ipv4, ipv6) = (format!("\"10.0.0.1{number}\""), format!("\"[2001:db8:2::1{number}]\""));
        text = match outer {
            Family::Ipv4 => replaced(&text, &ipv6, &ipv4),
            Family::Ipv6 => replaced(&text, &ipv4, &ipv6),
        };
    }
    text
}

#[test]
fn ipip_carries_everything() {
    carries_everything(&IPIP);
}

#[test]
fn gre_carries_everything() {
    carries_everything(&GRE);
}

#[test]
fn gre_with_a_key_carries_everything() {
    carries_everything(&GRE_WITH_KEY);
}

#[test]
fn gue_variant_0_carries_everything() {
    carries_everything(&GUE_0);
}

#[test]
fn gue_variant_1_carries_everything() {
    carries_everything(&GUE_1);
}

fn carries_everything(kind: &Kind) {
    for outer in Family::BOTH {
        let network = Network::start(Answers::Vip);
        let ends = TunnelEnds::start(&network.lab, kind.end);
        network.carries_everything(&rules_of(kind, outer), &Family::BOTH, Client::Seen);
        for judged in ends.stop() {
            assert_all_of_both_families(&judged, outer);
            assert_eq!(judged["sources"], json!([own_address(outer)]), "{}", kind.end);
        }
    }
}

/// Packets of both families came in outer headers of one.
fn assert_all_of_both_families(judged: &Value, outer: Family) {
    let version = if outer == Family::Ipv4 { 4 } else { 6 };
    let packets = judged["packets"].as_object().expect("counts");
    let kinds: Vec<&String> = packets.keys().collect();
    assert_eq!(kinds, [&format!("4in{version}"), &format!("6in{version}")], "{judged}");
}

fn own_address(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "10.0.0.5",
        Family::Ipv6 => "2001:db8:2::5",
    }
}
