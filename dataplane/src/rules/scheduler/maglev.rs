//! `mh`: Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4), with weights. `sh` and `dh` use the same table with other keys.
//!
//! The table follows from the members' addresses and weights alone, whatever their order, so every director
//! with the same rules sends a flow to the same backend.
//!
//! With second choices each slot also names who would have it without its first member: who had the slot before that
//! member came, and who will have it when that member is gone. This is what GLB's rows of two are for (glb-director,
//! docs/development/glb-hashing.md), got from Maglev's table.

use super::hash::{HashKey, identity_hash, mix, scaled};
use super::probe::Probing;
use super::{Loads, Seat, TableError};
use crate::flow::FlowKey;
use crate::rules::service::Member;

/// Slots a member at least: an uneven spread of about 1 % (section 5.3 of the paper).
const SLOTS_PER_MEMBER_MIN: usize = 100;
/// The paper's size, for all services but the largest: 128 KiB. In a table of another size nearly every flow has
/// another slot, so the size must not follow each member that comes or goes. And the more slots a member has, the
/// fewer of the others' move when one goes: with one of 100 gone 1.9 % at most in 10,007 slots, 0.7 % in these.
const SLOTS_MIN: usize = 65_537;
/// No member takes the slot: all weights are 0.
const NOBODY: u16 = u16::MAX;
/// Slots looked at before all members are.
const PROBES_MAX: usize = 16;
/// Members of a table with second choices, which is populated once more for each of them: 0.3 s at this number.
pub const SECOND_CHANCE_MEMBERS_MAX: usize = 256;

/// A lookup table: a prime number of slots, each naming a member.
#[derive(Clone, Debug)]
pub struct MaglevTable {
    slots: Box<[u16]>,
    /// Who would have each slot without its member; empty where nobody asks.
    seconds: Box<[u16]>,
    hash: HashKey,
    probing: Probing,
}

/// A member's walk over the slots: all of them, each once, since their number is prime.
struct Walk {
    member: u16,
    at: u32,
    skip: u32,
    weight: u32,
}

impl MaglevTable {
    /// Builds the table for the members in `seats`, by the weights kept there; `slots` is a prime, or `None` for a
    /// size by the number of members.
    ///
    /// # Errors
    /// [`TableError`] when there are more members than slots can name, or than there are slots.
    pub fn new(
        seats: &[Seat],
        slots: Option<usize>,
        hash: HashKey,
        fallback: bool,
    ) -> Result<Self, TableError> {
        let count_max = usize::from(NOBODY);
        if seats.len() > count_max {
            return Err(TableError::TooManyMembers { count: seats.len(), count_max });
        }
        let count = seats.iter().filter(|seat| seat.weight_kept > 0).count();
        let slots = slots.unwrap_or_else(|| default_slots(seats.len()));
        if slots < count {
            return Err(TableError::TooFewSlots { slots, count });
        }
        let mut table = vec![NOBODY; slots].into_boxed_slice();
        populate(&mut table, &mut walks(seats, slots, None));
        let probing = Probing { fallback, slots_max: PROBES_MAX };
        Ok(Self { slots: table, seconds: Box::default(), hash, probing })
    }

    /// The same with second choices: the table for these `seats` must have been built from them.
    ///
    /// # Errors
    /// [`TableError`] with more than [`SECOND_CHANCE_MEMBERS_MAX`] members.
    pub fn with_second_choices(mut self, seats: &[Seat]) -> Result<Self, TableError> {
        let (count, count_max) = (seats.len(), SECOND_CHANCE_MEMBERS_MAX);
        if count > count_max {
            return Err(TableError::TooManyMembers { count, count_max });
        }
        let mut without = vec![NOBODY; self.slots.len()];
        let mut seconds = without.clone();
        for member in (0..count as u16).filter(|member| seats[usize::from(*member)].weight_kept > 0) {
            without.fill(NOBODY);
            populate(&mut without, &mut walks(seats, self.slots.len(), Some(member)));
            for ((second, first), next) in seconds.iter_mut().zip(&self.slots).zip(&without) {
                if *first == member {
                    *second = *next;
                }
            }
        }
        self.seconds = seconds.into_boxed_slice();
        Ok(self)
    }

    /// The member in each slot; `u16::MAX` is none.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }

    pub(super) fn choose(&self, members: &[Member], key: &FlowKey, loads: &impl Loads) -> Option<usize> {
        let word = self.hash.word(key);
        let slot = |probe: usize| {
            let (table, hash) = match probe {
                0 => (&self.slots, word),
                1 if !self.seconds.is_empty() => (&self.seconds, word),
                _ => (&self.slots, mix(word.wrapping_add(probe as u64))),
            };
            table.get(scaled(hash, table.len())).map(|member| usize::from(*member))
        };
        self.probing.find(members, loads, slot)
    }

    /// Who else may know a flow that goes to `chosen`: its slot's second member, or its first where that was passed over.
    pub(super) fn second_choice(&self, key: &FlowKey, chosen: usize) -> Option<usize> {
        let at = scaled(self.hash.word(key), self.seconds.len());
        let (first, second) = (*self.slots.get(at)?, *self.seconds.get(at)?);
        let other = if usize::from(first) == chosen { second } else { first };
        (other != NOBODY).then_some(other.into())
    }
}

/// A prime, in steps: at 656 members, at 1,025, and at every doubling after.
fn default_slots(count: usize) -> usize {
    if count * SLOTS_PER_MEMBER_MIN <= SLOTS_MIN {
        return SLOTS_MIN;
    }
    prime_from(count.next_power_of_two() * SLOTS_PER_MEMBER_MIN)
}

/// The walks of all members with a weight, but not of the one `without`, in the order of their identities.
fn walks(seats: &[Seat], slots: usize, without: Option<u16>) -> Vec<Walk> {
    let has_walk = |&(index, seat): &(usize, &Seat)| seat.weight_kept > 0 && Some(index as u16) != without;
    let mut order: Vec<_> = seats.iter().enumerate().filter(has_walk).collect();
    order.sort_unstable_by_key(|(_, seat)| (seat.address, seat.l4_port));
    let walk = |(index, seat): (usize, &Seat)| {
        let hash = identity_hash(seat.address, seat.l4_port, 0);
        Walk {
            member: index as u16,
            at: scaled(hash, slots) as u32,
            skip: scaled(hash << 32, slots.saturating_sub(1)) as u32 + 1,
            weight: seat.weight_kept,
        }
    };
    order.into_iter().map(walk).collect()
}

/// The paper's populate loop: everybody takes the next free slot of its walk, turn by turn, until none is free.
fn populate(slots: &mut [u16], walks: &mut [Walk]) {
    let mut left = slots.len();
    for turn in turns(walks, slots.len()) {
        let Some(walk) = walks.get_mut(usize::from(turn)) else { continue };
        if left == 0 {
            return;
        }
        left -= 1;
        while slots[walk.at as usize] != NOBODY {
            walk.at += walk.skip;
            if walk.at as usize >= slots.len() {
                walk.at -= slots.len() as u32;
            }
        }
        slots[walk.at as usize] = walk.member;
    }
}

/// Who has which turn: in each round the heaviest one, and a member of weight `w` in every `heaviest / w`-th round,
/// from the first on; so whoever has a weight has a slot. At least as many as `slots`.
///
/// Sorted by counting: its cost follows the number of slots, however uneven the weights.
fn turns(walks: &[Walk], slots: usize) -> Vec<u16> {
    let heaviest = walks.iter().map(|walk| u64::from(walk.weight)).max().unwrap_or(0);
    let total: u64 = walks.iter().map(|walk| u64::from(walk.weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let rounds = (slots as u64 * heaviest).div_ceil(total);
    let round_of = |walk: &Walk, turn: u64| (turn * heaviest / u64::from(walk.weight)) as usize;
    let turns_of = |walk: &Walk| (rounds * u64::from(walk.weight)).div_ceil(heaviest);
    let mut places = vec![0u32; rounds as usize + 1];
    for walk in walks {
        (0..turns_of(walk)).for_each(|turn| places[round_of(walk, turn) + 1] += 1);
    }
    for round in 0..rounds as usize {
        places[round + 1] += places[round];
    }
    let mut order = vec![0; places[rounds as usize] as usize];
    for (index, walk) in walks.iter().enumerate() {
        for turn in 0..turns_of(walk) {
            let place = &mut places[round_of(walk, turn)];
            order[*place as usize] = index as u16;
            *place += 1;
        }
    }
    order
}

/// The least prime that is not below `from`.
fn prime_from(from: usize) -> usize {
    (from.max(2)..).find(|n| is_prime(*n)).unwrap_or(from)
}

/// Whether a number has no divisor but one and itself.
pub fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::testing::{Idle, members, seats};
    use super::*;
    use crate::wire::{AddressPair, PortPair};

    fn table(weights: &[u32]) -> MaglevTable {
        MaglevTable::new(&seats(weights), None, HashKey::FiveTuple, true).unwrap()
    }

    fn shares(table: &MaglevTable, count: usize) -> Vec<usize> {
        (0..count).map(|m| table.slots.iter().filter(|slot| usize::from(**slot) == m).count()).collect()
    }

    #[test]
    fn slots_follow_the_weights_and_the_lightest_has_one() {
        let weights = [1, 2, 0, 5];
        let shares_of_few = shares(&table(&weights), 4);
        let slots: usize = shares_of_few.iter().sum();
        for (share, weight) in shares_of_few.iter().zip(weights) {
            assert!(share.abs_diff(slots * weight as usize / 8) <= 2, "{shares_of_few:?} of {slots}");
        }
        assert_eq!(shares(&table(&[1, 1_000_000]), 2)[0], 1);
        let thousand: Vec<u32> = (0..1_000).map(|n| if n == 500 { 1_000_000 } else { 1 }).collect();
        let shares_of_thousand = shares(&table(&thousand), 1_000);
        assert!(shares_of_thousand.iter().all(|share| *share >= 1));
        assert_eq!(shares_of_thousand.iter().filter(|share| **share == 1).count(), 999);
    }

    #[test]
    fn a_table_is_sized_by_its_members_to_a_prime() {
        let sizes = [0, 100, 655, 656, 1_000, 1_024, 1_025].map(default_slots);
        assert_eq!(sizes, [65_537, 65_537, 65_537, 102_407, 102_407, 102_407, 204_803]);
        assert!(sizes.into_iter().all(is_prime));
        assert!(![0, 1, 4, 9, 65_535, 100_001].into_iter().any(is_prime));
    }

    #[test]
    fn too_many_members_and_too_few_slots_are_errors() {
        let new =
            |count, slots| MaglevTable::new(&seats(&vec![1; count]), slots, HashKey::Source, true).err();
        assert_eq!(new(65_536, None), Some(TableError::TooManyMembers { count: 65_536, count_max: 65_535 }));
        assert_eq!(new(252, Some(251)), Some(TableError::TooFewSlots { slots: 251, count: 252 }));
        assert_eq!(new(251, Some(251)), None);
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let mut seats = seats(&[1, 2, 3, 4, 5]);
        let new = |seats: &[Seat]| MaglevTable::new(seats, None, HashKey::FiveTuple, true).unwrap();
        let forward = new(&seats);
        seats.reverse();
        let backward = new(&seats);
        assert!(forward.slots.iter().zip(&backward.slots).all(|(a, b)| *a == 4 - *b));
    }

    /// Of the slots of the others, how many change hands when this one goes; in thousandths.
    fn moved_per_mille(before: &MaglevTable, weights: &[u32], gone: usize) -> usize {
        let mut without = weights.to_vec();
        without[gone] = 0;
        let after = table(&without);
        let others = before.slots.iter().zip(&after.slots).filter(|(a, _)| usize::from(**a) != gone);
        let moved = others.clone().filter(|(a, b)| a != b).count();
        moved * 1_000 / others.count()
    }

    #[test]
    fn any_one_of_a_hundred_gone_moves_less_than_one_percent_of_the_others() {
        let weights = [1; 100];
        let before = table(&weights);
        let worst = (0..100).map(|gone| moved_per_mille(&before, &weights, gone)).max();
        assert!(worst < Some(10), "{worst:?} per mille");
    }

    #[test]
    fn a_flow_keeps_its_member_and_flows_spread() {
        let table = table(&[1, 1]);
        let choose = |l4_port| {
            let addresses = AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 1));
            let key = FlowKey { addresses: addresses.into(), ports: PortPair::new(l4_port, 80), protocol: 6 };
            table.choose(&members(&[1, 1]), &key, &Idle(&[])).unwrap()
        };
        assert_eq!(choose(5_000), choose(5_000));
        let second = (0..10_000).filter(|l4_port| choose(*l4_port) == 1).count();
        assert!((4_700..5_300).contains(&second), "{second} of 10000");
    }

    fn with_seconds(seats: &[Seat]) -> MaglevTable {
        let table = MaglevTable::new(seats, Some(10_007), HashKey::Source, true).unwrap();
        table.with_second_choices(seats).unwrap()
    }

    fn key(client: u32) -> FlowKey {
        let addresses = AddressPair::new(client.into(), Ipv4Addr::new(203, 0, 113, 1));
        FlowKey { addresses: addresses.into(), ports: PortPair::new(5_000, 80), protocol: 6 }
    }

    #[test]
    fn the_second_choice_is_who_had_the_slot_before_the_first_came_and_gets_it_when_the_first_goes() {
        let before = with_seconds(&seats(&[2, 1, 3, 0]));
        let after = with_seconds(&seats(&[2, 1, 3, 2]));
        let mut taken = 0;
        for (slot, first) in after.slots.iter().enumerate() {
            assert_ne!(*first, after.seconds[slot]);
            if *first == 3 {
                assert_eq!(after.seconds[slot], before.slots[slot]);
                taken += 1;
            }
        }
        assert!((2_400..2_600).contains(&taken), "{taken} of 10,007: a quarter");
    }

    #[test]
    fn first_and_second_change_places_while_the_first_takes_nothing() {
        let seats = seats(&[1, 1, 1]);
        let table = with_seconds(&seats);
        for client in 0..1_000 {
            let choose = |weights: &[u32]| table.choose(&members(weights), &key(client), &Idle(&[])).unwrap();
            let first = choose(&[1, 1, 1]);
            let second = table.second_choice(&key(client), first).unwrap();
            let mut drained = [1, 1, 1];
            drained[first] = 0;
            assert_eq!(choose(&drained), second);
            assert_eq!(table.second_choice(&key(client), second), Some(first));
        }
    }

    #[test]
    fn the_only_member_has_no_second_and_a_table_without_second_choices_knows_none() {
        let seats = seats(&[1]);
        assert_eq!(with_seconds(&seats).second_choice(&key(1), 0), None);
        assert_eq!(table(&[1, 1]).second_choice(&key(1), 0), None);
        let many = super::super::testing::seats(&[1; SECOND_CHANCE_MEMBERS_MAX + 1]);
        let table = MaglevTable::new(&many, None, HashKey::Source, true).unwrap();
        assert!(table.with_second_choices(&many).is_err());
    }

    #[test]
    fn without_any_weight_nobody_is_chosen() {
        for weights in [&[][..], &[0, 0]] {
            let chosen = table(weights).choose(&members(weights), &FlowKey::default(), &Idle(&[]));
            assert_eq!(chosen, None);
        }
    }
}
