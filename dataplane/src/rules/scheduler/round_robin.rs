//! `rr`: the member after the last chosen one that has a weight above 0. LVS's `ip_vs_rr`, in file order.

use super::{Choice, Loads, Position};
use crate::rules::service::Member;

pub(super) fn choose(members: &[Member], position: Position, loads: &impl Loads) -> Option<Choice> {
    let count = members.len();
    let first = (position.next as usize).checked_rem(count)?;
    (first..count).chain(0..first).find_map(|member| {
        let weight = members.get(member)?.weight;
        let position = Position { next: member as u32 + 1, ..position };
        (weight > 0 && loads.takes(member)).then(|| Choice::new(member, position))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Idle, members};
    use super::*;

    #[test]
    fn takes_turns_and_leaves_out_who_has_no_weight() {
        let members = members(&[1, 0, 7, 1]);
        let mut position = Position::default();
        let mut chosen = Vec::new();
        for _ in 0..6 {
            let choice = choose(&members, position, &Idle(&[])).unwrap();
            position = choice.position;
            chosen.push(choice.member);
        }
        assert_eq!(chosen, [0, 2, 3, 0, 2, 3]);
        assert_eq!(choose(&members[1..2], position, &Idle(&[])), None);
        assert_eq!(choose(&[], position, &Idle(&[])), None);
    }

    #[test]
    fn who_does_not_take_the_connection_is_passed_over() {
        let members = members(&[1, 1, 1]);
        let choose = |full: &[usize]| choose(&members, Position::default(), &Idle(full)).map(|c| c.member);
        assert_eq!([choose(&[]), choose(&[0]), choose(&[1, 0])], [Some(0), Some(1), Some(2)]);
        assert_eq!(choose(&[0, 1, 2]), None);
    }

    #[test]
    fn a_position_beyond_a_shortened_list_still_chooses() {
        let position = Position { next: 7, threshold: 0 };
        assert_eq!(choose(&members(&[1, 1]), position, &Idle(&[])).unwrap().member, 1);
    }
}
