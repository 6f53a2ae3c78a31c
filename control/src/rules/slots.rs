//! Slots: stable indices for services and backends.
//!
//! A flow holds indices, so an index keeps its meaning until the last flow that holds it is gone, over any number of
//! reloads. A service or backend that leaves the rules keeps its slot, retired; if it comes back meanwhile it gets
//! the same one. A slot is given to another only when no worker can know it any more ([`Census`]).

use std::collections::HashMap;
use std::hash::Hash;

/// What the workers hold, told by whoever can read their counters.
pub trait Census {
    /// The least revision that all workers have in force.
    fn revision_in_force(&self) -> u64;
    /// Connections to the backend in this slot, over all workers.
    fn open_connections(&self, backend_slot: usize) -> u64;
}

/// A census of nobody: before workers run, and in `replay`.
#[derive(Clone, Copy, Debug)]
pub struct NoWorkers;

impl Census for NoWorkers {
    fn revision_in_force(&self) -> u64 {
        0
    }

    fn open_connections(&self, _backend_slot: usize) -> u64 {
        0
    }
}

/// One slot and who has it.
#[derive(Clone, Debug)]
struct Slot<K> {
    key: K,
    /// The first revision without it; `None` while it is in the rules.
    retired_at: Option<u64>,
    /// Counts its tenants, from 0.
    generation: u32,
}

/// All slots of one kind.
#[derive(Clone, Debug)]
pub struct Slots<K> {
    slots: Vec<Slot<K>>,
    by_key: HashMap<K, usize>,
    slots_max: usize,
}

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsFull {
    /// How many there are.
    pub slots_max: usize,
}

/// A slot that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub slot: usize,
    /// Whether it is new to its tenant: whatever was kept for the one before must go.
    pub fresh: bool,
}

impl<K: Clone + Eq + Hash> Slots<K> {
    /// No slots in use, at most `slots_max`.
    pub fn new(slots_max: usize) -> Self {
        Self { slots: Vec::new(), by_key: HashMap::new(), slots_max }
    }

    /// Slots ever used; indices are below it.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot was ever used.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Who has the slot, retired or not.
    pub fn key(&self, slot: usize) -> Option<&K> {
        self.slots.get(slot).map(|slot| &slot.key)
    }

    /// The slot that `key` has, retired or not.
    pub fn find(&self, key: &K) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// How many had the slot before its tenant.
    pub fn generation(&self, slot: usize) -> Option<u32> {
        self.slots.get(slot).map(|slot| slot.generation)
    }

    /// Whether the slot's tenant is in the rules.
    pub fn is_live(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.retired_at.is_none())
    }

    /// The slot of `key`: the one it has or had, else a free one. `is_free` tells whether nobody knows a retired
    /// slot any more, given the revision it was retired at.
    ///
    /// # Errors
    /// [`SlotsFull`] when every slot is taken or still known.
    pub fn give(&mut self, key: K, is_free: impl Fn(usize, &K, u64) -> bool) -> Result<Given, SlotsFull> {
        if let Some(slot) = self.find(&key) {
            self.slots[slot].retired_at = None;
            return Ok(Given { slot, fresh: false });
        }
        let free = (0..self.slots.len()).find(|&slot| {
            self.slots[slot]
                .retired_at
                .is_some_and(|retired_at| is_free(slot, &self.slots[slot].key, retired_at))
        });
        if let Some(slot) = free {
            let generation = self.slots[slot].generation + 1;
            self.by_key.remove(&self.slots[slot].key);
            self.by_key.insert(key.clone(), slot);
            self.slots[slot] = Slot { key, retired_at: None, generation };
            return Ok(Given { slot, fresh: true });
        }
        if self.slots.len() >= self.slots_max {
            return Err(SlotsFull { slots_max: self.slots_max });
        }
        self.by_key.insert(key.clone(), self.slots.len());
        self.slots.push(Slot { key, retired_at: None, generation: 0 });
        Ok(Given { slot: self.slots.len() - 1, fresh: true })
    }

    /// Retires, as of `revision`, every tenant for whom `keep` is false.
    pub fn retire(&mut self, revision: u64, keep: impl Fn(&K) -> bool) {
        for slot in &mut self.slots {
            if slot.retired_at.is_none() && !keep(&slot.key) {
                slot.retired_at = Some(revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_only_when_nobody_knows_it_and_returns_to_who_comes_back() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.give("a", |_, _, _| true), Ok(Given { slot: 0, fresh: true }));
        assert_eq!(slots.give("b", |_, _, _| true), Ok(Given { slot: 1, fresh: true }));
        slots.retire(5, |key| *key == "b");
        assert!(!slots.is_live(0) && slots.is_live(1));
        assert_eq!(slots.give("c", |_, _, _| false), Err(SlotsFull { slots_max: 2 }));
        assert_eq!(slots.give("a", |_, _, _| false), Ok(Given { slot: 0, fresh: false }));
        slots.retire(6, |key| *key == "b");
        let freed = slots.give("c", |slot, _, retired_at| slot == 0 && retired_at == 6);
        assert_eq!(freed, Ok(Given { slot: 0, fresh: true }));
        assert_eq!((slots.key(0), slots.generation(0), slots.generation(1)), (Some(&"c"), Some(1), Some(0)));
    }
}
