//! `lc`, `wlc`, `sed`, `nq`: the member with the least to do, by what IPVS takes for that (LVS-HOWTO, job
//! scheduling; recorded sequences in conformance/ipvs). Each looks at every member.

use std::iter;

use super::{Load, Loads};
use crate::rules::service::Member;

/// What "least" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// `lc`: the least connections, whatever the weight.
    Connection,
    /// `wlc`: the least connections for its weight.
    WeightedConnection,
    /// `sed`: the least active connections for its weight once it has this one too.
    ExpectedDelay,
    /// `nq`: the first with no active connection, else as `sed`.
    NeverQueue,
}

impl Least {
    /// The member, the first of equals beginning with `first`.
    pub(super) fn choose(self, members: &[Member], first: usize, loads: &impl Loads) -> Option<usize> {
        if self == Self::NeverQueue {
            let idle = |member: &usize| loads.load(*member).active == 0;
            if let Some(member) = takers(members, first, loads).map(|(member, _)| member).find(idle) {
                return Some(member);
            }
        }
        let costs = takers(members, first, loads).map(|(member, weight)| {
            let load = loads.load(member);
            let cost = match self {
                Self::Connection => Cost { work: overhead(load), weight: 1 },
                Self::WeightedConnection => Cost { work: overhead(load), weight },
                Self::ExpectedDelay | Self::NeverQueue => Cost { work: u64::from(load.active) + 1, weight },
            };
            (member, cost)
        });
        costs.reduce(|least, other| if other.1.is_below(least.1) { other } else { least }).map(|(m, _)| m)
    }
}

/// Work for a weight: a fraction that is compared without a division.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) work: u64,
    pub(super) weight: u32,
}

impl Cost {
    /// Weights are below 2^26 (the greatest is 1,000,000, times 64 while it rises slowly), so a member must have a
    /// billion active connections before this is no longer exact.
    pub(super) fn is_below(self, other: Self) -> bool {
        self.work.saturating_mul(other.weight.into()) < other.work.saturating_mul(self.weight.into())
    }
}

/// What connections cost a member: IPVS holds an active one for as much work as 256 that are closing.
pub(super) fn overhead(load: Load) -> u64 {
    (u64::from(load.active) << 8) + u64::from(load.inactive)
}

/// Members with a weight that take the connection, with their weights, round from `first`.
pub(super) fn takers(
    members: &[Member],
    first: usize,
    loads: &impl Loads,
) -> impl Iterator<Item = (usize, u32)> {
    rotated(members, first).filter(|(member, weight)| *weight > 0 && loads.takes(*member))
}

/// All members with their weights, round from `first`.
fn rotated(members: &[Member], first: usize) -> impl Iterator<Item = (usize, u32)> {
    let (before, after) = members.split_at_checked(first).unwrap_or((members, &[]));
    let numbered = |from: usize, part| iter::zip(from.., part).map(|(n, m): (usize, &Member)| (n, m.weight));
    numbered(first, after).chain(numbered(0, before))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Busy, members};
    use super::*;

    /// The members chosen for connections that all stay, by their number of active connections.
    fn fill(least: Least, weights: &[u32], count: usize) -> Vec<usize> {
        let members = members(weights);
        let mut busy = Busy::idle(weights.len());
        (0..count)
            .map(|_| {
                let member = least.choose(&members, 0, &busy).unwrap();
                busy.loads[member].active += 1;
                member
            })
            .collect()
    }

    #[test]
    fn each_by_its_own_measure() {
        // wlc and lc as recorded from IPVS for weights 5, 1, 3 in a list that is newest first.
        assert_eq!(fill(Least::WeightedConnection, &[3, 1, 5], 9), [0, 1, 2, 2, 0, 2, 2, 0, 2]);
        assert_eq!(fill(Least::Connection, &[3, 1, 5], 6), [0, 1, 2, 0, 1, 2]);
        // (active + 1) / weight: 1/3 1/1 1/5, then 2/5 against 1/3, and so on.
        assert_eq!(fill(Least::ExpectedDelay, &[3, 1, 5], 6), [2, 0, 2, 2, 0, 2]);
        assert_eq!(fill(Least::NeverQueue, &[3, 1, 5], 6), [0, 1, 2, 2, 2, 0]);
    }

    #[test]
    fn a_closing_connection_weighs_a_256th_of_an_active_one() {
        let members = members(&[1, 1]);
        let mut busy = Busy::idle(2);
        busy.loads[0].inactive = 255;
        busy.loads[1].active = 1;
        assert_eq!(Least::Connection.choose(&members, 0, &busy), Some(0));
        busy.loads[0].inactive = 257;
        assert_eq!(Least::Connection.choose(&members, 0, &busy), Some(1));
    }

    #[test]
    fn of_equals_the_first_from_the_start_wins_and_who_takes_nothing_never_does() {
        let members = members(&[1, 0, 1, 1]);
        for least in [Least::Connection, Least::WeightedConnection, Least::ExpectedDelay, Least::NeverQueue] {
            let choose = |first, full: &[usize]| {
                least.choose(&members, first, &Busy { full: full.to_vec(), ..Busy::idle(4) })
            };
            assert_eq!([0, 1, 2, 3].map(|first| choose(first, &[])), [0, 2, 2, 3].map(Some));
            assert_eq!((choose(0, &[0]), choose(0, &[0, 2, 3])), (Some(2), None));
        }
    }

    #[test]
    fn the_greatest_loads_and_weights_are_compared_right() {
        let most = Load { active: u32::MAX, inactive: u32::MAX };
        let cost = |weight| Cost { work: overhead(most), weight };
        assert!(cost(1_000_000).is_below(cost(999_999)) && !cost(999_999).is_below(cost(1_000_000)));
    }
}
