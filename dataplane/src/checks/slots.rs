//! The l4_ports by which checks leave, one a connection: they tell which backend an answer is from, as all of them answer from one
//! VIP to one address.
//!
//! A table of [`COUNT`] slots of one connection each, the l4_port being the slot's place. A connection is looked for in [`PROBES`]
//! places from its hash on; a new one takes the one of them that has been silent for longest. So nothing is ever swept, and the
//! oldest give way where there are too many at once.

use crate::flow::{FlowKey, HashSecret};
use crate::index::BackendIndex;
use crate::time::Millis;

/// The first l4_port: those below are other services' own (RFC 6335 section 6).
const FIRST: u16 = 1_024;
/// Slots: the l4_ports from there on, 56 bytes each.
const COUNT: usize = (u16::MAX - FIRST) as usize + 1;
/// Places that a connection may have.
const PROBES: usize = 16;

/// A connection of a check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// As the kernel has it: from any address and l4_port of its own to the check address.
    pub(super) key: FlowKey,
    /// Who is checked.
    pub(super) backend: BackendIndex,
    /// When the last packet passed.
    last_seen: Millis,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Option<Slot>]>,
    secret: HashSecret,
}

impl Slots {
    /// No connection yet. `secret` is random: who can guess l4_ports could answer in a backend's place.
    pub(super) fn new(secret: HashSecret) -> Self {
        Self { slots: vec![None; COUNT].into_boxed_slice(), secret }
    }

    /// The l4_port of the connection with `key`, which checks `backend`: its own, or another one that it gets now.
    pub(super) fn l4_port(&mut self, key: FlowKey, backend: BackendIndex, now: Millis) -> u16 {
        let start = self.secret.hash(&key).0 as usize;
        let places = (0..PROBES).map(|step| (start + step) % COUNT);
        let silent_for = |place: usize| match self.slots.get(place) {
            Some(Some(slot)) if slot.key == key => Silence::Known,
            Some(Some(slot)) => Silence::For(now.since(slot.last_seen)),
            _ => Silence::Free,
        };
        let place = places.max_by_key(|place| silent_for(*place)).unwrap_or(0);
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = Some(Slot { key, backend, last_seen: now });
        }
        // Below 2^16: see COUNT.
        FIRST + place as u16
    }

    /// The connection that answers to `l4_port` belong to.
    pub(super) fn of_l4_port(&mut self, l4_port: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(l4_port.checked_sub(FIRST)?))?.as_mut()
    }
}

impl Slot {
    /// A packet has passed.
    pub(super) fn touch(&mut self, now: Millis) {
        self.last_seen = now;
    }
}

/// What speaks for a place, from the least on.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Silence {
    /// It is another connection's, silent for so many milliseconds.
    For(u32),
    /// It is nobody's.
    Free,
    /// It is the connection's own.
    Known,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn key(number: u32) -> FlowKey {
        let check_address = Ipv4Addr::from(0xc612_0000 + number % 1_000);
        FlowKey::new((Ipv4Addr::new(192, 0, 2, 5), 32_768 + (number / 1_000) as u16), (check_address, 80), 6)
    }

    fn slots() -> Slots {
        Slots::new(HashSecret::new([7, 11]))
    }

    #[test]
    fn connections_have_l4_ports_of_their_own_and_keep_them() {
        let mut slots = slots();
        let count = 20_000;
        let of = |slots: &mut Slots| -> Vec<u16> {
            (0..count).map(|number| slots.l4_port(key(number), BackendIndex(number), Millis(5))).collect()
        };
        let ports = of(&mut slots);
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), count as usize);
        assert!(ports.iter().all(|port| *port >= FIRST));
        assert_eq!(of(&mut slots), ports);
        for (number, port) in (0..).zip(ports) {
            let slot = slots.of_l4_port(port).unwrap();
            assert_eq!((slot.key, slot.backend), (key(number), BackendIndex(number)));
        }
        assert!(slots.of_l4_port(FIRST - 1).is_none());
    }

    #[test]
    fn with_too_many_the_oldest_give_way() {
        let mut slots = slots();
        for number in 0..100_000u32 {
            slots.l4_port(key(number), BackendIndex(0), Millis(number));
        }
        // Of the last few nearly all are there, though more have come than there is room for.
        let recent = (90_000..100_000u32)
            .filter(|number| slots.slots.iter().flatten().any(|slot| slot.key == key(*number)));
        assert!(recent.count() > 9_990);
    }
}
