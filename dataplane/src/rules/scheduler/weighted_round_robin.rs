//! `wrr`: LVS's weighted round robin. A threshold falls from the greatest weight by the weights' greatest
//! common divisor, once a pass; a member is chosen when its weight reaches it. (LVS-HOWTO, job scheduling.)
//!
//! As IPVS does, a new service begins with the last pass of a cycle, in which everybody has a turn.

use super::{Choice, Loads, Position};
use crate::rules::service::Member;

/// What the weights come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedRoundRobin {
    weight_max: u32,
    step: u32,
}

impl WeightedRoundRobin {
    /// Prepares for `members`.
    pub fn new(members: &[Member]) -> Self {
        let weights = || members.iter().map(|member| member.weight);
        let divisor = weights().fold(0, greatest_common_divisor);
        Self { weight_max: weights().max().unwrap_or(0), step: divisor.max(1) }
    }

    /// Looks at each member twice at most: passes that nobody reaches are left out.
    pub(super) fn choose(
        &self,
        members: &[Member],
        position: Position,
        loads: &impl Loads,
    ) -> Option<Choice> {
        let next = (position.next as usize).checked_rem(members.len())?;
        let threshold = self.normalised(position.threshold)?;
        let taking = |(member, of): &(usize, &Member)| of.weight > 0 && loads.takes(*member);
        let rest = members.iter().enumerate().skip(next);
        if let Some((member, _)) = rest.filter(taking).find(|(_, of)| of.weight >= threshold) {
            return Some(self.choice(member, threshold, members.len()));
        }
        let heaviest = members.iter().enumerate().filter(taking).map(|(_, of)| of.weight).max()?;
        let threshold = self.below(threshold).min(heaviest);
        let mut all = members.iter().enumerate().filter(taking);
        let (member, _) = all.find(|(_, of)| of.weight >= threshold)?;
        Some(self.choice(member, threshold, members.len()))
    }

    /// The threshold of this pass, whatever the position holds: a multiple of the step up to the greatest weight.
    fn normalised(&self, threshold: u32) -> Option<u32> {
        let passes = self.weight_max / self.step;
        let pass = (threshold / self.step).max(1) - 1;
        Some((pass.checked_rem(passes)? + 1) * self.step)
    }

    /// The threshold of the pass after.
    fn below(&self, threshold: u32) -> u32 {
        if threshold > self.step { threshold - self.step } else { self.weight_max }
    }

    /// A pass ends with the last member.
    fn choice(&self, member: usize, threshold: u32, count: usize) -> Choice {
        let is_last = member + 1 == count;
        let position = if is_last {
            Position { next: 0, threshold: self.below(threshold) }
        } else {
            Position { next: member as u32 + 1, threshold }
        };
        Choice::new(member, position)
    }
}

pub(super) fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Idle, members};
    use super::*;

    fn sequence(weights: &[u32], start: Position, count: usize) -> Vec<usize> {
        let members = members(weights);
        let scheduler = WeightedRoundRobin::new(&members);
        let mut position = start;
        (0..count)
            .map(|_| {
                let choice = scheduler.choose(&members, position, &Idle(&[])).unwrap();
                position = choice.position;
                choice.member
            })
            .collect()
    }

    #[test]
    fn the_sequence_of_lvs() {
        // Recorded from IPVS for weights 5, 1, 3 added as servers 0, 1, 2, its list newest first.
        let file_order = sequence(&[3, 1, 5], Position::default(), 18);
        let as_added: Vec<_> = file_order.into_iter().map(|member| 2 - member).collect();
        assert_eq!(as_added, [2, 1, 0, 0, 0, 2, 0, 2, 0, 2, 1, 0, 0, 0, 2, 0, 2, 0]);
    }

    #[test]
    fn equal_weights_take_turns_and_no_weight_gets_nothing() {
        assert_eq!(sequence(&[4, 4, 4], Position::default(), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(sequence(&[0, 2, 0], Position::default(), 3), [1, 1, 1]);
        let none = members(&[0, 0, 0]);
        let scheduler = WeightedRoundRobin::new(&none);
        assert_eq!(scheduler.choose(&none, Position::default(), &Idle(&[])), None);
    }

    #[test]
    fn any_stored_position_starts_a_cycle_that_keeps_to_the_weights() {
        for next in 0..10 {
            for threshold in 0..20 {
                let mut counts = [0; 3];
                for member in sequence(&[3, 0, 7], Position { next, threshold }, 100) {
                    counts[member] += 1;
                }
                assert_eq!(counts, [30, 0, 70], "{next} {threshold}");
            }
        }
    }

    #[test]
    fn who_does_not_take_the_connection_is_passed_over_at_once() {
        let members = members(&[1_000_000, 1, 3]);
        let scheduler = WeightedRoundRobin::new(&members);
        let start = Position { next: 0, threshold: 1_000_000 };
        let choice = scheduler.choose(&members, start, &Idle(&[0])).unwrap();
        assert_eq!((choice.member, choice.position.threshold), (2, 2), "its pass is the one at 3");
        assert_eq!(scheduler.choose(&members, start, &Idle(&[0, 1, 2])), None);
    }
}
