//! NAT64 and NAT46.

use testbed::director::rules;
use testbed::lab::Family;

use super::{Answers, Client, Network};

#[test]
fn both_translations_carry_everything() {
    let network = Network::start(Answers::OwnAddress);
    network.carries_everything(&rules("nat64.toml"), &Family::BOTH, Client::Hidden);
}
