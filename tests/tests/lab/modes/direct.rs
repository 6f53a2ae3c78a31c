//! Direct return.

use testbed::director::{replaced, rules};
use testbed::lab::Family;

use super::{Answers, Client, Network};

/// The rules of FullNAT, in this mode.
pub(super) fn dual_stack() -> String {
    replaced(&rules("dual-stack.toml"), "mode      = \"fullnat\"", "mode      = \"dr\"")
}

#[test]
fn dr_carries_everything() {
    Network::start(Answers::Vip).carries_everything(&dual_stack(), &Family::BOTH, Client::Seen);
}
