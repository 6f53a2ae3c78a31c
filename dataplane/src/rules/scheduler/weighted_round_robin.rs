//! `wrr`: LVS's weighted round robin. A threshold falls from the greatest weight by the weights' greatest
//! common divisor, once a pass; a member is chosen when its weight reaches it. (LVS-HOWTO, job scheduling.)

use super::{Choice, Position};
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
        let weights = || members.iter().map(|member| u32::from(member.weight));
        let divisor = weights().fold(0, greatest_common_divisor);
        Self { weight_max: weights().max().unwrap_or(0), step: divisor.max(1) }
    }

    /// At most one pass over the members and one member more: every threshold is reached by the heaviest.
    pub(super) fn choose(&self, members: &[Member], position: Position) -> Option<Choice> {
        if self.weight_max == 0 {
            return None;
        }
        let mut threshold = position.threshold.min(self.weight_max);
        let mut next = position.next as usize;
        for _ in 0..=2 * members.len() {
            if next >= members.len() || threshold == 0 {
                next = if next >= members.len() { 0 } else { next };
                threshold = threshold.saturating_sub(self.step);
                threshold = if threshold == 0 { self.weight_max } else { threshold };
            }
            let weight = u32::from(members.get(next)?.weight);
            next += 1;
            if weight >= threshold {
                let position = Position { next: next as u32, threshold };
                return Some(Choice { member: next - 1, position });
            }
        }
        None
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::BackendIndex;

    fn sequence(weights: &[u16], count: usize) -> Vec<usize> {
        let members: Vec<_> =
            weights.iter().map(|&weight| Member { backend: BackendIndex(0), weight }).collect();
        let scheduler = WeightedRoundRobin::new(&members);
        let mut position = Position::default();
        (0..count)
            .map(|_| {
                let choice = scheduler.choose(&members, position).unwrap();
                position = choice.position;
                choice.member
            })
            .collect()
    }

    #[test]
    fn the_sequence_of_lvs() {
        // Recorded from IPVS for weights 5, 1, 3 added as servers 0, 1, 2, its list newest first: 210002020.
        // Read against the reversed list, weights 3, 1, 5 in file order.
        let file_order: Vec<_> = sequence(&[3, 1, 5], 18).into_iter().map(|member| 2 - member).collect();
        assert_eq!(file_order[..9], file_order[9..]);
        let mut counts = [0; 3];
        file_order[..9].iter().for_each(|member| counts[*member] += 1);
        assert_eq!(counts, [5, 1, 3]);
    }

    #[test]
    fn equal_weights_take_turns_and_no_weight_gets_nothing() {
        assert_eq!(sequence(&[4, 4, 4], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(sequence(&[0, 2, 0], 3), [1, 1, 1]);
        let none = [Member { backend: BackendIndex(0), weight: 0 }; 3];
        assert_eq!(WeightedRoundRobin::new(&none).choose(&none, Position::default()), None);
    }

    #[test]
    fn any_stored_position_leads_to_a_choice() {
        let members = [3, 0, 7].map(|weight| Member { backend: BackendIndex(0), weight });
        let scheduler = WeightedRoundRobin::new(&members);
        for next in 0..10 {
            for threshold in 0..20 {
                let choice = scheduler.choose(&members, Position { next, threshold }).unwrap();
                assert_ne!(choice.member, 1);
            }
        }
    }
}
