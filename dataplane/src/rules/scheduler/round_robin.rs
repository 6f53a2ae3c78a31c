//! `rr`: the member after the last chosen one that has a weight above 0. LVS's `ip_vs_rr`, in file order.

use super::{Choice, Position};
use crate::rules::service::Member;

pub(super) fn choose(members: &[Member], position: Position) -> Option<Choice> {
    let count = members.len();
    (0..count).map(|step| (position.next as usize + step) % count).find_map(|member| {
        let weight = members.get(member)?.weight;
        (weight > 0).then(|| Choice { member, position: Position { next: member as u32 + 1, ..position } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::BackendIndex;

    #[test]
    fn takes_turns_and_leaves_out_who_has_no_weight() {
        let members = [1, 0, 7, 1].map(|weight| Member { backend: BackendIndex(0), weight });
        let mut position = Position::default();
        let mut chosen = Vec::new();
        for _ in 0..6 {
            let choice = choose(&members, position).unwrap();
            position = choice.position;
            chosen.push(choice.member);
        }
        assert_eq!(chosen, [0, 2, 3, 0, 2, 3]);
        assert_eq!(choose(&members[1..2], position), None);
        assert_eq!(choose(&[], position), None);
    }

    #[test]
    fn a_position_beyond_a_shortened_list_still_chooses() {
        let members = [Member { backend: BackendIndex(0), weight: 1 }; 2];
        let position = Position { next: 7, threshold: 0 };
        assert_eq!(choose(&members, position).unwrap().member, 1);
    }
}
