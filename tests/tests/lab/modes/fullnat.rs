//! FullNAT.

use testbed::director::rules;
use testbed::lab::Family;

use super::{Answers, Client, Network};

#[test]
fn fullnat_carries_everything() {
    let network = Network::start(Answers::OwnAddress);
    network.carries_everything(&rules("dual-stack.toml"), &Family::BOTH, Client::Hidden);
}
