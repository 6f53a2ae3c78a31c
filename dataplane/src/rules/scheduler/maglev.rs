//! `mh`: Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4), with weights.
//!
//! The table follows from the members' addresses and weights alone, whatever their order, so every director
//! with the same rules sends a flow to the same backend. The lookup key is the 5-tuple, as in the paper.

use std::net::Ipv4Addr;

use super::{Choice, Position};
use crate::flow::FlowKey;
use crate::rules::service::Member;

/// Slots a member at least: an uneven spread of about 1 % (section 5.3 of the paper).
const SLOTS_PER_MEMBER: usize = 100;
/// The least size of a table.
const SLOTS_MIN: usize = 251;
/// No member takes the slot: all weights are 0.
const NOBODY: u16 = u16::MAX;

/// Why a table cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaglevError {
    /// More members than a slot can name.
    TooManyMembers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
}

/// A lookup table: a prime number of slots, each naming a member.
#[derive(Clone, Debug)]
pub struct MaglevTable {
    slots: Box<[u16]>,
}

/// A member's walk over the slots: all of them, each once, since their number is prime.
struct Walk {
    member: u16,
    at: usize,
    skip: usize,
    /// Slots it may take in a round of the heaviest member's one, times the heaviest weight.
    weight: u32,
    credit: u32,
}

impl MaglevTable {
    /// Builds the table for `members`, of which `identities` tells address and l4_port, in the same order.
    ///
    /// # Errors
    /// [`MaglevError`] when there are too many members.
    pub fn new(members: &[Member], identities: &[(Ipv4Addr, u16)]) -> Result<Self, MaglevError> {
        let count_max = usize::from(NOBODY);
        if members.len() > count_max {
            return Err(MaglevError::TooManyMembers { count: members.len(), count_max });
        }
        let size = prime_from((members.len() * SLOTS_PER_MEMBER).max(SLOTS_MIN));
        let mut walks = walks(members, identities, size);
        let mut slots = vec![NOBODY; size].into_boxed_slice();
        let weight_max = walks.iter().map(|walk| walk.weight).max().unwrap_or(0);
        if weight_max > 0 {
            populate(&mut slots, &mut walks, weight_max);
        }
        Ok(Self { slots })
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        position: Position,
        key: &FlowKey,
        attempt: u32,
    ) -> Option<Choice> {
        let hash = mix(u64::from(attempt) << 32
            | u64::from(cpu::crc32c_u64(
                cpu::crc32c_u64(0, u64::from_ne_bytes(key.addresses.to_wire())),
                u64::from(key.ports.word()) | u64::from(key.protocol) << 32,
            )));
        let slot = ((hash >> 32) * self.slots.len() as u64) >> 32;
        let member = usize::from(*self.slots.get(slot as usize)?);
        (member < members.len()).then_some(Choice { member, position })
    }
}

/// The walks of all members with a weight, in the order of their identities.
fn walks(members: &[Member], identities: &[(Ipv4Addr, u16)], size: usize) -> Vec<Walk> {
    let mut order: Vec<_> =
        members.iter().zip(identities).enumerate().filter(|(_, (member, _))| member.weight > 0).collect();
    order.sort_unstable_by_key(|(_, (_, identity))| **identity);
    order
        .into_iter()
        .map(|(index, (member, (address, l4_port)))| {
            let hash = mix(u64::from(address.to_bits()) << 16 | u64::from(*l4_port));
            let (offset, skip) = ((hash >> 32) as usize % size, (hash as u32) as usize % (size - 1) + 1);
            Walk { member: index as u16, at: offset, skip, weight: u32::from(member.weight), credit: 0 }
        })
        .collect()
}

/// The paper's populate loop; a member takes its turn whenever its weights have added up to the greatest.
fn populate(slots: &mut [u16], walks: &mut [Walk], weight_max: u32) {
    let mut left = slots.len();
    loop {
        for walk in walks.iter_mut() {
            walk.credit += walk.weight;
            if walk.credit < weight_max {
                continue;
            }
            walk.credit -= weight_max;
            while slots[walk.at] != NOBODY {
                walk.at = (walk.at + walk.skip) % slots.len();
            }
            slots[walk.at] = walk.member;
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit moves every output bit.
#[inline(always)]
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The least prime that is not below `from`.
fn prime_from(from: usize) -> usize {
    let is_prime = |n: usize| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    (from.max(2)..).find(|n| is_prime(*n)).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::BackendIndex;
    use crate::wire::{AddressPair, PortPair};

    fn members(weights: &[u16]) -> (Vec<Member>, Vec<(Ipv4Addr, u16)>) {
        let member = |(n, &weight): (usize, &u16)| Member { backend: BackendIndex(n as u32), weight };
        let identity = |n| (Ipv4Addr::from(0x0a00_0000 + n as u32), 8080);
        (weights.iter().enumerate().map(member).collect(), (0..weights.len()).map(identity).collect())
    }

    fn shares(table: &MaglevTable, count: usize) -> Vec<usize> {
        (0..count).map(|m| table.slots.iter().filter(|slot| usize::from(**slot) == m).count()).collect()
    }

    #[test]
    fn slots_follow_the_weights() {
        let (list, identities) = members(&[1, 2, 0, 5]);
        let table = MaglevTable::new(&list, &identities).unwrap();
        let shares = shares(&table, 4);
        let slots = table.slots.len();
        assert_eq!(shares[2], 0);
        for (share, weight) in shares.iter().zip([1, 2, 0, 5]) {
            assert!(share.abs_diff(slots * weight / 8) <= slots / 100, "{shares:?} of {slots}");
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let (mut list, mut identities) = members(&[1, 2, 3, 4, 5]);
        let forward = MaglevTable::new(&list, &identities).unwrap();
        list.reverse();
        identities.reverse();
        let backward = MaglevTable::new(&list, &identities).unwrap();
        assert!(forward.slots.iter().zip(&backward.slots).all(|(a, b)| *a == 4 - *b));
    }

    #[test]
    fn one_of_a_hundred_gone_moves_few_of_the_others() {
        let (list, identities) = members(&[1; 100]);
        let before = MaglevTable::new(&list, &identities).unwrap();
        let mut without = list.clone();
        without[42].weight = 0;
        let after = MaglevTable::new(&without, &identities).unwrap();
        let moved = before.slots.iter().zip(&after.slots).filter(|(a, b)| **a != 42 && a != b).count();
        assert!(moved * 50 < before.slots.len(), "{moved} of {}", before.slots.len());
    }

    #[test]
    fn a_flow_keeps_its_member_and_flows_spread() {
        let (list, identities) = members(&[1, 1]);
        let table = MaglevTable::new(&list, &identities).unwrap();
        let choose = |l4_port| {
            let addresses = AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 1));
            let key = FlowKey { addresses, ports: PortPair::new(l4_port, 80), protocol: 6 };
            table.choose(&list, Position::default(), &key, 0).unwrap().member
        };
        assert_eq!(choose(5_000), choose(5_000));
        let second = (0..10_000).filter(|l4_port| choose(*l4_port) == 1).count();
        assert!((4_700..5_300).contains(&second), "{second} of 10000");
    }

    #[test]
    fn without_any_weight_nobody_is_chosen() {
        for weights in [&[][..], &[0, 0]] {
            let (list, identities) = members(weights);
            let table = MaglevTable::new(&list, &identities).unwrap();
            assert_eq!(table.choose(&list, Position::default(), &FlowKey::default(), 0), None);
        }
    }
}
