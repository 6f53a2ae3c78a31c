//! `hash = "ipvs"`: `sh`, `dh` and `mh` as Linux IPVS chooses, for directors of both kinds side by side.
//!
//! Written from recorded behaviour (conformance/ipvs, README and `sched/*.json`), which
//! `tests/conformance.rs` compares with. IPVS keeps its list newest first and Crossdock that of the file: rules
//! that shall choose alike list the backends in the reverse order of `ipvsadm -a`.

use std::net::IpAddr;

use super::probe::Probing;
use super::{HashKey, Loads, SchedulerKind, SchedulerSettings, Seat, TableError};
use crate::flow::FlowKey;
use crate::rules::service::Member;

/// Slots of `sh` and `dh`.
const HASH_SLOTS: usize = 256;
/// Slots of `mh`: Debian's kernel, CONFIG_IP_VS_MH_TAB_INDEX = 12.
const MAGLEV_SLOTS: usize = 4_093;
/// Both words of the key of `mh`'s first hash, and of its second.
const MAGLEV_KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];
/// Knuth's multiplicative hash, of 32 bits: 2^32 divided by the golden ratio, negated.
const MULTIPLIER: u32 = 0x61c8_8647;
/// Turns of the heaviest member of `mh` in a round: below 2^6.
const TURN_BITS: u32 = 6;
/// Slots looked at before all members are; IPVS looks at as many as there are.
const PROBES_MAX: usize = HASH_SLOTS;
/// No member takes the slot.
const NOBODY: u16 = u16::MAX;

/// A table as IPVS has it.
#[derive(Clone, Debug)]
pub struct IpvsTable {
    slots: Box<[u16]>,
    kind: SchedulerKind,
    hash: HashKey,
    probing: Probing,
}

impl IpvsTable {
    /// The table of `sh`, `dh` or `mh` for `members` in this order.
    ///
    /// # Errors
    /// [`TableError`] when there are too many members.
    pub fn new(settings: SchedulerSettings, members: &[Member], seats: &[Seat]) -> Result<Self, TableError> {
        let SchedulerSettings { kind, hash, fallback, .. } = settings;
        let count_max = usize::from(NOBODY);
        if members.len() > count_max {
            return Err(TableError::TooManyMembers { count: members.len(), count_max });
        }
        let slots = match kind {
            SchedulerKind::Mh => maglev_slots(seats),
            SchedulerKind::Dh => slots_in_turn(members, |_| 1),
            _ => slots_in_turn(members, |member| member.weight),
        };
        Ok(Self { slots, kind, hash, probing: Probing { fallback, slots_max: PROBES_MAX } })
    }

    pub(super) fn choose(&self, members: &[Member], key: &FlowKey, loads: &impl Loads) -> Option<usize> {
        self.member(key.source(), key.ports.source(), key.destination(), members, loads)
    }

    /// The member for a client's endpoint and the address it asks for, IPv6 too.
    pub fn member(
        &self,
        source: IpAddr,
        source_port: u16,
        destination: IpAddr,
        members: &[Member],
        loads: &impl Loads,
    ) -> Option<usize> {
        let address = if self.kind == SchedulerKind::Dh { destination } else { source };
        let l4_port = if self.hash == HashKey::IpvsPort { source_port } else { 0 };
        let word = folded(address).wrapping_add(l4_port.into());
        let slots = self.slots.len();
        let home = self.slot_of(word);
        let slot = |probe: usize| {
            let slot = match probe {
                0 => home,
                // From twice the hash on: so IPVS does it, meant or not.
                _ if self.kind != SchedulerKind::Mh => (2 * home + probe - 1) % slots,
                _ => self.slot_of(word.wrapping_add(((home + probe - 1) % slots) as u32)),
            };
            self.slots.get(slot).filter(|member| **member != NOBODY).map(|member| usize::from(*member))
        };
        self.probing.find(members, loads, slot)
    }

    fn slot_of(&self, word: u32) -> usize {
        if self.kind == SchedulerKind::Mh {
            return siphash_1_3(MAGLEV_KEYS[0], word) as usize % MAGLEV_SLOTS;
        }
        (word.wrapping_mul(MULTIPLIER) >> 24) as usize
    }
}

/// An address as one word: an IPv6 one is its four words, exclusively or'ed.
fn folded(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let halves = address.to_bits() as u64 ^ (address.to_bits() >> 64) as u64;
            halves as u32 ^ (halves >> 32) as u32
        }
    }
}

/// Member after member round the table, each with as many slots in a row as its weight, one at least.
fn slots_in_turn(members: &[Member], slots_of: impl Fn(&Member) -> u32) -> Box<[u16]> {
    let row = |(index, member): (usize, &Member)| {
        let count = (slots_of(member).max(1) as usize).min(HASH_SLOTS);
        std::iter::repeat_n(index as u16, count)
    };
    let round = members.iter().enumerate().flat_map(row);
    let slots: Vec<_> = round.take(HASH_SLOTS).collect();
    slots.iter().copied().cycle().take(if slots.is_empty() { 0 } else { HASH_SLOTS }).collect()
}

/// A member's walk over the slots of `mh`.
struct Walk {
    member: u16,
    at: usize,
    skip: usize,
    /// Slots it takes when it is its turn.
    in_a_turn: u32,
}

/// `mh`'s table: as in the paper, but heavier members take several slots a turn; quiesced ones keep theirs.
fn maglev_slots(seats: &[Seat]) -> Box<[u16]> {
    let mut slots = vec![NOBODY; MAGLEV_SLOTS].into_boxed_slice();
    let mut walks = maglev_walks(seats);
    let mut left = if walks.is_empty() { 0 } else { MAGLEV_SLOTS };
    while left > 0 {
        for walk in &mut walks {
            for _ in 0..walk.in_a_turn.min(left as u32) {
                while slots[walk.at] != NOBODY {
                    walk.at = (walk.at + walk.skip) % MAGLEV_SLOTS;
                }
                slots[walk.at] = walk.member;
                left -= 1;
            }
        }
    }
    slots
}

fn maglev_walks(seats: &[Seat]) -> Vec<Walk> {
    let weights = || seats.iter().map(|seat| seat.weight_kept);
    let divisor = weights().fold(0, super::weighted_round_robin::greatest_common_divisor).max(1);
    let heaviest = weights().max().unwrap_or(0) / divisor;
    let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(TURN_BITS);
    let weighty = seats.iter().enumerate().filter(|(_, seat)| seat.weight_kept > 0);
    let walk = |(index, seat): (usize, &Seat)| {
        let word = folded(seat.address).wrapping_add(seat.l4_port.into());
        let hash = MAGLEV_KEYS.map(|key| siphash_1_3(key, word) as usize);
        Walk {
            member: index as u16,
            at: hash[0] % MAGLEV_SLOTS,
            skip: hash[1] % (MAGLEV_SLOTS - 1) + 1,
            in_a_turn: ((seat.weight_kept / divisor) >> shift).max(1),
        }
    };
    weighty.map(walk).collect()
}

/// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of four bytes, with the same word
/// twice as its key; its lower half.
fn siphash_1_3(key: u64, word: u32) -> u32 {
    let mut state = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    // The last block: the input and, in its highest byte, how many bytes that has.
    let block = 4 << 56 | u64::from(word);
    state[3] ^= block;
    sip_round(&mut state);
    state[0] ^= block;
    state[2] ^= 0xff;
    (0..3).for_each(|_| sip_round(&mut state));
    (state[0] ^ state[1] ^ state[2] ^ state[3]) as u32
}

fn sip_round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *c = c.wrapping_add(*d);
    *b = b.rotate_left(13) ^ *a;
    *d = d.rotate_left(16) ^ *c;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*b);
    *a = a.wrapping_add(*d);
    *b = b.rotate_left(17) ^ *c;
    *d = d.rotate_left(21) ^ *a;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Idle, members, seats};
    use super::*;

    fn table(kind: SchedulerKind, weights: &[u32]) -> IpvsTable {
        let settings = SchedulerSettings { hash: HashKey::Ipvs, ..kind.into() };
        IpvsTable::new(settings, &members(weights), &seats(weights)).unwrap()
    }

    #[test]
    fn weights_are_slots_in_a_row_and_who_has_none_keeps_one() {
        let slots = table(SchedulerKind::Sh, &[3, 0, 5]).slots;
        assert_eq!(slots[..12], [0, 0, 0, 1, 2, 2, 2, 2, 2, 0, 0, 0]);
        assert_eq!(table(SchedulerKind::Dh, &[3, 0, 5]).slots[..5], [0, 1, 2, 0, 1]);
        let heavy = table(SchedulerKind::Sh, &[1_000_000, 1]).slots;
        assert!(heavy.iter().all(|member| *member == 0), "IPVS leaves no slot for the second either");
    }

    #[test]
    fn every_slot_of_maglev_is_taken_unless_nobody_has_a_weight() {
        let slots = table(SchedulerKind::Mh, &[1_000_000, 1, 7]).slots;
        assert!(slots.len() == MAGLEV_SLOTS && slots.iter().all(|member| *member < 3));
        for kind in [SchedulerKind::Mh, SchedulerKind::Sh, SchedulerKind::Dh] {
            for weights in [&[][..], &[0, 0]] {
                let chosen = table(kind, weights).choose(&members(weights), &FlowKey::default(), &Idle(&[]));
                assert_eq!(chosen, None, "{kind} {weights:?}");
            }
        }
    }

    #[test]
    fn whoever_takes_a_connection_is_found() {
        let mut weights = [1_000_000; 100];
        weights[99] = 1;
        let full: Vec<usize> = (0..99).collect();
        for kind in [SchedulerKind::Mh, SchedulerKind::Sh, SchedulerKind::Dh] {
            let chosen = table(kind, &weights).choose(&members(&weights), &FlowKey::default(), &Idle(&full));
            assert_eq!(chosen, Some(99), "{kind}");
        }
    }
}
