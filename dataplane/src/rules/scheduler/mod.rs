//! Schedulers: who gets the next connection. One file a kind.
//!
//! A scheduler sees the members with their weights, its own [`Position`] and the flow's key, nothing else.
//! `choose` is pure; the caller keeps `Choice::position` when the connection really comes to be.

mod maglev;
mod round_robin;
mod weighted_round_robin;

pub use maglev::{MaglevError, MaglevTable};
pub use weighted_round_robin::WeightedRoundRobin;

use super::service::Member;
use crate::flow::FlowKey;

/// Where a scheduler stands: kept by each worker over reloads, meaningful to its own kind only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// One more than the member chosen last; 0 before the first.
    pub next: u32,
    /// The weight a member must have in this pass (weighted round robin).
    pub threshold: u32,
}

/// A choice and where it leaves the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which of the members.
    pub member: usize,
    /// The position to keep.
    pub position: Position,
}

/// One scheduler with what it prepared from the members.
#[derive(Clone, Debug)]
pub enum Scheduler {
    /// `rr`: one after the other; of the weights only 0 counts.
    RoundRobin,
    /// `wrr`: as LVS does it.
    WeightedRoundRobin(WeightedRoundRobin),
    /// `mh`: Maglev hashing.
    Maglev(MaglevTable),
}

impl Scheduler {
    /// The member for a new connection with `key`; `None` when no member has a weight above 0. `attempt` counts the
    /// members chosen before for the same connection that could not take it; those that hash choose another by it.
    pub fn choose(
        &self,
        members: &[Member],
        position: Position,
        key: &FlowKey,
        attempt: u32,
    ) -> Option<Choice> {
        match self {
            Self::RoundRobin => round_robin::choose(members, position),
            Self::WeightedRoundRobin(scheduler) => scheduler.choose(members, position),
            Self::Maglev(table) => table.choose(members, position, key, attempt),
        }
    }
}
