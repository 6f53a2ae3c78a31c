//! `conhash`: a consistent-hash ring with points by weight, in the way of ketama and DPVS's `conhash`: a flow goes
//! to the member whose point comes next on the ring.
//!
//! A member that goes leaves its flows to the others and moves no others'; the price is an uneven spread: some
//! 8 % at 160 points, where a Maglev table has less than 1 %. The points are not DPVS's: which member a client
//! gets differs from DPVS.

use super::hash::{HashKey, identity_hash};
use super::probe::Probing;
use super::{Loads, Seat, TableError};
use crate::flow::FlowKey;
use crate::rules::service::Member;

/// Points of the heaviest member: ketama's and DPVS's number.
const POINTS_MAX: u32 = 160;
/// Points looked at before all members are.
const PROBES_MAX: usize = 32;

/// Points on a circle of 2^32 places, in order.
#[derive(Clone, Debug)]
pub struct Ring {
    places: Box<[u32]>,
    members: Box<[u16]>,
    hash: HashKey,
    probing: Probing,
}

impl Ring {
    /// Places the members in `seats`, by the weights kept there.
    ///
    /// # Errors
    /// [`TableError`] when there are too many members.
    pub fn new(seats: &[Seat], hash: HashKey, fallback: bool) -> Result<Self, TableError> {
        let count_max = usize::from(u16::MAX);
        if seats.len() > count_max {
            return Err(TableError::TooManyMembers { count: seats.len(), count_max });
        }
        let mut points: Vec<_> = points(seats).collect();
        // Of two points in one place the one of the lesser address counts, whatever the order of the members.
        let identity = |point: &(u32, u16)| {
            let seat = seats.get(usize::from(point.1));
            (point.0, seat.map(|seat| (seat.address, seat.l4_port)))
        };
        points.sort_unstable_by_key(identity);
        points.dedup_by_key(|point| point.0);
        let (places, members): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        let probing = Probing { fallback, slots_max: PROBES_MAX };
        Ok(Self { places: places.into(), members: members.into(), hash, probing })
    }

    pub(super) fn choose(&self, members: &[Member], key: &FlowKey, loads: &impl Loads) -> Option<usize> {
        let place = (self.hash.word(key) >> 32) as u32;
        let next = self.places.partition_point(|point| *point < place);
        let point = |probe: usize| {
            let point = (next + probe).checked_rem(self.members.len())?;
            self.members.get(point).map(|member| usize::from(*member))
        };
        self.probing.find(members, loads, point)
    }
}

/// Every member's points: as many as its weight is of the greatest, one at least.
fn points(seats: &[Seat]) -> impl Iterator<Item = (u32, u16)> {
    let heaviest = seats.iter().map(|seat| u64::from(seat.weight_kept)).max().unwrap_or(0).max(1);
    let weighty = seats.iter().enumerate().filter(|(_, seat)| seat.weight_kept > 0);
    weighty.flat_map(move |(index, seat)| {
        let count = (u64::from(POINTS_MAX) * u64::from(seat.weight_kept) / heaviest).max(1) as u32;
        let place = |point| (identity_hash(seat.address, seat.l4_port, point) >> 32) as u32;
        (0..count).map(move |point| (place(point), index as u16))
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::testing::{Idle, members, seats};
    use super::*;
    use crate::wire::{AddressPair, PortPair};

    fn chosen(weights: &[u32], count: u32) -> Vec<usize> {
        let ring = Ring::new(&seats(weights), HashKey::Source, true).unwrap();
        let client = |n| AddressPair::new(Ipv4Addr::from(0xc612_0000 + n), Ipv4Addr::new(203, 0, 113, 1));
        let key = |n| FlowKey { addresses: client(n).into(), ports: PortPair::new(5, 80), protocol: 6 };
        let members = members(weights);
        (0..count).map(|n| ring.choose(&members, &key(n), &Idle(&[])).unwrap()).collect()
    }

    #[test]
    fn clients_spread_by_weight() {
        let mut counts = [0u32; 4];
        chosen(&[4, 2, 0, 2], 40_000).into_iter().for_each(|member| counts[member] += 1);
        assert_eq!(counts[2], 0);
        assert!(counts[0].abs_diff(20_000) < 4_000 && counts[1].abs_diff(10_000) < 3_000, "{counts:?}");
    }

    #[test]
    fn a_member_that_goes_takes_no_others_clients_along() {
        let before = chosen(&[1; 20], 10_000);
        let mut weights = [1; 20];
        weights[7] = 0;
        let after = chosen(&weights, 10_000);
        let moved = |(before, after): &(&usize, &usize)| before != after;
        assert!(before.iter().zip(&after).filter(moved).all(|(before, _)| *before == 7));
        assert!(before.contains(&7) && !after.contains(&7));
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        let ring = Ring::new(&seats(&[0, 0]), HashKey::Source, true).unwrap();
        assert_eq!(ring.choose(&members(&[0, 0]), &FlowKey::default(), &Idle(&[])), None);
    }
}
