//! `twos`: two members by chance, and the one of them with less to do (Mitzenmacher, "The power of two choices
//! in randomized load balancing", 2001). It looks at two members whatever their number, and workers that know each
//! other's load a moment late do not all run to the same member.

use super::hash::{GOLDEN_GAMMA, mix};
use super::least_connection::{Cost, Least, overhead};
use super::{Choice, Loads, Position};
use crate::rules::service::Member;

/// Draws for each of the two before the rest is looked at one by one.
const DRAWS_MAX: usize = 8;

/// What the weights come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoChoices {
    /// By member: its weight and those of all before it. A draw below the last one falls on a member in
    /// proportion to its weight.
    sums: Box<[u64]>,
}

impl TwoChoices {
    /// Prepares for `members`.
    pub fn new(members: &[Member]) -> Self {
        let mut sum = 0;
        let sums = members.iter().map(|member| {
            sum += u64::from(member.weight);
            sum
        });
        Self { sums: sums.collect() }
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        position: Position,
        loads: &impl Loads,
    ) -> Option<Choice> {
        let mut dice = Dice(u64::from(position.threshold) << 32 | u64::from(position.next));
        let mut draw = |other: Option<usize>| {
            (0..DRAWS_MAX)
                .filter_map(|_| self.member(dice.roll()))
                .find(|member| Some(*member) != other && *member < members.len() && loads.takes(*member))
        };
        let first = draw(None);
        let second = first.and_then(|first| draw(Some(first)));
        let cost = |member: usize| {
            let weight = members.get(member).map_or(0, |member| member.weight);
            Cost { work: overhead(loads.load(member)), weight }
        };
        let member = match (first, second) {
            (Some(first), Some(second)) if cost(second).is_below(cost(first)) => second,
            (Some(first), _) => first,
            // Hardly anybody takes it: whoever of them has the least to do.
            (None, _) => Least::WeightedConnection.choose(members, 0, loads)?,
        };
        Some(Choice::new(member, Position::from_seed(dice.0)))
    }

    /// The member a number falls on; none when all weights are 0. One of weight 0 has no part of the range.
    fn member(&self, random: u64) -> Option<usize> {
        let total = *self.sums.last()?;
        let drawn = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        (total > 0).then(|| self.sums.partition_point(|sum| *sum <= drawn))
    }
}

/// SplitMix64: its whole state is a counter, which is kept as the position.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        let random = mix(self.0);
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        random
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Busy, members};
    use super::*;

    #[test]
    fn connections_that_stay_come_to_lie_by_weight() {
        let members = members(&[5, 0, 3, 1]);
        let scheduler = TwoChoices::new(&members);
        let mut busy = Busy::idle(4);
        let mut position = Position::default();
        for _ in 0..9_000 {
            let choice = scheduler.choose(&members, position, &busy).unwrap();
            position = choice.position;
            busy.loads[choice.member].active += 1;
        }
        let counts: Vec<_> = busy.loads.iter().map(|load| load.active).collect();
        for (count, expected) in counts.iter().zip([5_000u32, 0, 3_000, 1_000]) {
            assert!(count.abs_diff(expected) <= 90, "{counts:?}");
        }
    }

    #[test]
    fn whoever_takes_a_connection_is_found() {
        let members = members(&[1_000_000, 1, 1_000_000]);
        let scheduler = TwoChoices::new(&members);
        let choose = |full: &[usize]| {
            let busy = Busy { full: full.to_vec(), ..Busy::idle(3) };
            scheduler.choose(&members, Position::default(), &busy).map(|choice| choice.member)
        };
        assert_eq!((choose(&[0, 2]), choose(&[0, 1, 2])), (Some(1), None));
        assert_eq!(TwoChoices::new(&[]).choose(&[], Position::default(), &Busy::idle(0)), None);
    }
}
