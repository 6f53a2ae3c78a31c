//! `crossdock doctor`: what this machine lacks for Crossdock, and the command that mends it.
//!
//! Three parts that know little of each other. [`gather`] reads facts, from a root that tests make up. [`judge`] makes findings of
//! facts, and of the rules where there are any: pure functions, one file a subject. [`fix`] runs what is safe. A start that
//! failed ends with what the doctor found in its way ([`not_started`]). Read first: DPDK's Linux guide, "System Requirements".

pub mod facts;
pub mod finding;
pub mod fix;
pub mod gather;
pub mod judge;
mod start_up;
mod text;

pub use facts::Facts;
pub use finding::{Check, Finding, Remedy, Verdict};
pub use start_up::not_started;

use crate::machine::Machine;
use crate::report::Report;
use crate::rules::Rules;

/// Looks at everything: for `rules` where there are some, and with what a running director has counted where one answers.
pub fn examine(machine: &Machine, rules: Option<&Rules>, running: Option<&Report>) -> Vec<Finding> {
    judge::judge(&gather::gather(machine, rules), rules, running)
}
