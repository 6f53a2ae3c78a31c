//! Schedulers: who gets the next connection. One file a kind.
//!
//! A scheduler sees the members with their weights, what [`Loads`] tells of them, its own [`ServiceState`] and
//! the flow's key, nothing else. `choose` is pure: `explain` and `replay` call it too. `commit` records what
//! came of it.

mod failover;
mod hash;
mod ipvs;
mod least_connection;
mod locality;
mod maglev;
mod probe;
mod ring;
mod round_robin;
mod settings;
mod two_choices;
mod weighted_round_robin;

pub use hash::HashKey;
pub use ipvs::IpvsTable;
pub use least_connection::Least;
pub use locality::{Locality, LocalityCache};
pub use maglev::{MaglevTable, SECOND_CHANCE_MEMBERS_MAX, is_prime};
pub use ring::Ring;
pub use settings::{SchedulerKind, SchedulerSettings, Seat, TableError};
pub use two_choices::TwoChoices;
pub use weighted_round_robin::WeightedRoundRobin;

use super::service::{Member, ServiceState};
use crate::flow::FlowKey;
use crate::index::BackendIndex;
use crate::time::Millis;

/// Where a scheduler stands: kept by each worker over reloads, meaningful to its own kind only. Any value leads
/// to a choice: the one before may have been another kind's, or stem from other members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The member to look at next, modulo their number.
    pub next: u32,
    /// The weight a member must have in this pass (weighted round robin).
    pub threshold: u32,
}

impl Position {
    /// Where to start: anywhere, by a random `seed`; 0 starts with the first member.
    pub const fn from_seed(seed: u64) -> Self {
        Self { next: seed as u32, threshold: (seed >> 32) as u32 }
    }
}

/// What a member has to do: its connections over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Those that [`crate::flow::tcp_state::TcpState::is_active`].
    pub active: u32,
    /// The others that are held: closing, or closed.
    pub inactive: u32,
}

/// What a scheduler may know of the members besides their weights.
pub trait Loads {
    /// The load of a member over all workers, as of a moment ago.
    fn load(&self, member: usize) -> Load;
    /// Whether the member takes this connection: it is not full, and was not tried for it before.
    fn takes(&self, member: usize) -> bool;
}

/// A choice and where it leaves the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which of the members.
    pub member: usize,
    /// The position to keep.
    pub position: Position,
    /// `lblcr`: the busiest of those that have the key, to leave them when its time has come.
    busiest: Option<BackendIndex>,
}

impl Choice {
    const fn new(member: usize, position: Position) -> Self {
        Self { member, position, busiest: None }
    }
}

/// One scheduler with what it prepared from the members.
#[derive(Clone, Debug)]
pub enum Scheduler {
    /// `rr`: one after the other; of the weights only 0 counts.
    RoundRobin,
    /// `wrr`: as LVS does it.
    WeightedRoundRobin(WeightedRoundRobin),
    /// `lc`, `wlc`, `sed`, `nq`: who has the least to do.
    Least(Least),
    /// `lblc`, `lblcr`: who had the key before, else who has the least to do.
    Locality(Locality),
    /// `fo`: the heaviest.
    Failover,
    /// `ovf`: the heaviest that has room.
    Overflow,
    /// `twos`: the better of two.
    TwoChoices(TwoChoices),
    /// `mh`, `sh`, `dh`: who has the flow's slot.
    Maglev(MaglevTable),
    /// `conhash`: who is next on the ring.
    Ring(Ring),
    /// `mh`, `sh`, `dh` as IPVS chooses.
    Ipvs(IpvsTable),
}

impl Scheduler {
    /// Whether a choice looks at every member, or at a few, however many there are.
    pub const fn looks_at_all(&self) -> bool {
        matches!(self, Self::Least(_) | Self::Locality(_) | Self::Failover | Self::Overflow)
    }

    /// The member for a new connection with `key`; `None` when none that has a weight above 0 takes it.
    pub fn choose(
        &self,
        members: &[Member],
        state: &ServiceState,
        key: &FlowKey,
        loads: &impl Loads,
    ) -> Option<Choice> {
        let position = state.position;
        // Equals are looked at from another member on by each worker and director.
        let first = || (state.seed % members.len().max(1) as u64) as usize;
        let member = match self {
            Self::RoundRobin => return round_robin::choose(members, position, loads),
            Self::WeightedRoundRobin(scheduler) => return scheduler.choose(members, position, loads),
            Self::TwoChoices(scheduler) => return scheduler.choose(members, position, loads),
            Self::Locality(scheduler) => {
                let word = scheduler.word(key);
                let cache = state.locality.as_deref();
                return scheduler.choose(members, first(), word, cache, position, loads);
            }
            Self::Least(least) => least.choose(members, first(), loads),
            Self::Failover => failover::failover(members, loads),
            Self::Overflow => failover::overflow(members, loads),
            Self::Maglev(table) => table.choose(members, key, loads),
            Self::Ring(ring) => ring.choose(members, key, loads),
            Self::Ipvs(table) => table.choose(members, key, loads),
        };
        member.map(|member| Choice::new(member, position))
    }

    /// Who else may know the flow with `key`, which the member `chosen` gets: for `second_chance`.
    pub fn second_choice(&self, key: &FlowKey, chosen: usize) -> Option<usize> {
        match self {
            Self::Maglev(table) => table.second_choice(key, chosen),
            _ => None,
        }
    }

    /// Records a choice made for `key`.
    pub fn commit(
        &self,
        choice: Choice,
        members: &[Member],
        key: &FlowKey,
        state: &mut ServiceState,
        now: Millis,
    ) {
        state.position = choice.position;
        if let Self::Locality(scheduler) = self
            && let (Some(member), Some(cache)) = (members.get(choice.member), &mut state.locality)
        {
            scheduler.commit(cache, scheduler.word(key), member.backend, choice.busiest, now);
        }
    }
}

/// Loads for the unit tests of the schedulers.
#[cfg(test)]
pub(super) mod testing {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::index::BackendIndex;

    /// Nobody has anything to do; those in the list do not take the connection.
    pub(super) struct Idle<'a>(pub(super) &'a [usize]);

    impl Loads for Idle<'_> {
        fn load(&self, _member: usize) -> Load {
            Load::default()
        }

        fn takes(&self, member: usize) -> bool {
            !self.0.contains(&member)
        }
    }

    /// Members that have something to do; those in `full` take no connection.
    pub(super) struct Busy {
        pub(super) loads: Vec<Load>,
        pub(super) full: Vec<usize>,
    }

    impl Busy {
        pub(super) fn idle(count: usize) -> Self {
            Self { loads: vec![Load::default(); count], full: Vec::new() }
        }
    }

    impl Loads for Busy {
        fn load(&self, member: usize) -> Load {
            self.loads[member]
        }

        fn takes(&self, member: usize) -> bool {
            !self.full.contains(&member)
        }
    }

    /// The seats of members with these weights.
    pub(super) fn seats(weights: &[u32]) -> Vec<Seat> {
        let seat = |(n, &weight_kept): (usize, &u32)| {
            let address = Ipv4Addr::from(0x0a00_0000 + n as u32).into();
            Seat { address, l4_port: 8080, weight_kept }
        };
        weights.iter().enumerate().map(seat).collect()
    }

    /// Members with these weights.
    pub(super) fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(index, &weight)| Member { backend: BackendIndex(index as u32), weight };
        weights.iter().enumerate().map(member).collect()
    }
}
