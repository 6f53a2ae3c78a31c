//! `fo` and `ovf`: the heaviest member, as long as it is there, or as long as it has room.
//!
//! Of equals the first in the rules file: everybody is to go to the same one, so no worker and no director
//! begins elsewhere.

use super::least_connection::takers;
use super::{Load, Loads};
use crate::rules::service::Member;

/// `fo`: the heaviest that takes connections.
pub(super) fn failover(members: &[Member], loads: &impl Loads) -> Option<usize> {
    heaviest(takers(members, 0, loads))
}

/// `ovf`: the heaviest with no more active connections than its weight says; none when all have more. As in
/// IPVS, a member so gets one connection more than its weight.
pub(super) fn overflow(members: &[Member], loads: &impl Loads) -> Option<usize> {
    let has_room = |(member, weight): &(usize, u32)| {
        let Load { active, .. } = loads.load(*member);
        active <= *weight
    };
    heaviest(takers(members, 0, loads).filter(has_room))
}

fn heaviest(candidates: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
    candidates.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(member, _)| member)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Busy, members};
    use super::*;

    #[test]
    fn failover_takes_the_heaviest_and_the_next_when_that_is_gone() {
        let members = members(&[1, 7, 0, 7, 3]);
        let choose = |full: &[usize]| failover(&members, &Busy { full: full.to_vec(), ..Busy::idle(5) });
        assert_eq!(choose(&[]), Some(1));
        assert_eq!([choose(&[1]), choose(&[1, 3]), choose(&[1, 3, 4])], [Some(3), Some(4), Some(0)]);
        assert_eq!(choose(&[0, 1, 3, 4]), None);
    }

    #[test]
    fn overflow_fills_one_after_the_other_and_then_refuses() {
        let members = members(&[1, 3, 0]);
        let mut busy = Busy::idle(3);
        let mut chosen = Vec::new();
        while let Some(member) = overflow(&members, &busy) {
            busy.loads[member].active += 1;
            chosen.push(member);
        }
        // Weight + 1 each, as measured on IPVS.
        assert_eq!(chosen, [1, 1, 1, 1, 0, 0]);
    }
}
