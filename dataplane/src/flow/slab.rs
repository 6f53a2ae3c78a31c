//! Hands out entries: single ones, and pairs at an even index and the odd one after it.
//!
//! Free entries are chained through fields that only used entries need, so the slab costs no memory. Two
//! free singles side by side become a pair again at once: a table that served DR for a day can serve
//! FullNAT. Fresh entries are taken from the end, so the hand that sweeps stops at [`Slab::used_end`].

use super::entry::Entry;
use crate::index::EntryIndex;

/// End of a chain.
const NIL: u32 = u32::MAX;
/// A free entry says which chain it is in.
const IN_SINGLES: u32 = 1;
const IN_PAIRS: u32 = 2;

/// The free entries of one table.
#[derive(Debug)]
pub(super) struct Slab {
    capacity: u32,
    fresh: u32,
    singles: u32,
    pairs: u32,
    used: u32,
}

impl Slab {
    /// All of `capacity` entries free; `capacity` is even.
    pub(super) fn new(capacity: u32) -> Self {
        debug_assert!(capacity.is_multiple_of(2));
        Self { capacity, fresh: 0, singles: NIL, pairs: NIL, used: 0 }
    }

    /// Entries in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// No entry at or after this index has ever been used.
    pub(super) fn used_end(&self) -> u32 {
        self.fresh
    }

    /// Takes an even entry and the odd one after it.
    pub(super) fn take_pair(&mut self, entries: &mut [Entry]) -> Option<EntryIndex> {
        let index = match self.pairs {
            NIL if self.fresh < self.capacity => {
                self.fresh += 2;
                self.fresh - 2
            }
            NIL => return None,
            head => {
                unchain(entries, &mut self.pairs, head);
                head
            }
        };
        self.used += 2;
        Some(EntryIndex(index))
    }

    /// Takes one entry; breaks a pair when no single is free.
    pub(super) fn take_single(&mut self, entries: &mut [Entry]) -> Option<EntryIndex> {
        if self.singles == NIL {
            let EntryIndex(index) = self.take_pair(entries)?;
            self.used -= 1;
            chain(entries, &mut self.singles, index + 1, IN_SINGLES);
            return Some(EntryIndex(index));
        }
        let index = self.singles;
        unchain(entries, &mut self.singles, index);
        self.used += 1;
        Some(EntryIndex(index))
    }

    /// Gives back a pair by its even index.
    pub(super) fn give_pair(&mut self, entries: &mut [Entry], index: EntryIndex) {
        self.used -= 2;
        clear(entries, index);
        clear(entries, index.peer());
        chain(entries, &mut self.pairs, index.0, IN_PAIRS);
    }

    /// Gives back a single entry.
    pub(super) fn give_single(&mut self, entries: &mut [Entry], index: EntryIndex) {
        self.used -= 1;
        clear(entries, index);
        let peer = index.peer().0;
        let peer_is_free =
            entries.get(peer as usize).is_some_and(|peer| !peer.is_used() && peer.chain().2 == IN_SINGLES);
        if peer_is_free {
            unchain(entries, &mut self.singles, peer);
            chain(entries, &mut self.pairs, index.0 & !1, IN_PAIRS);
        } else {
            chain(entries, &mut self.singles, index.0, IN_SINGLES);
        }
    }
}

fn clear(entries: &mut [Entry], index: EntryIndex) {
    if let Some(entry) = entries.get_mut(index.as_usize()) {
        *entry = Entry::default();
    }
}

/// Puts `index` at the head of a chain.
fn chain(entries: &mut [Entry], head: &mut u32, index: u32, which: u32) {
    if let Some(old) = entries.get_mut(*head as usize) {
        let (next, _, which) = old.chain();
        *old = Entry::chained(next, index, which);
    }
    if let Some(entry) = entries.get_mut(index as usize) {
        *entry = Entry::chained(*head, NIL, which);
    }
    *head = index;
}

fn unchain(entries: &mut [Entry], head: &mut u32, index: u32) {
    let Some(entry) = entries.get_mut(index as usize) else { return };
    let (next, before, _) = entry.chain();
    *entry = Entry::default();
    if let Some(after) = entries.get_mut(next as usize) {
        let (next, _, which) = after.chain();
        *after = Entry::chained(next, before, which);
    }
    match entries.get_mut(before as usize) {
        Some(before) => {
            let (_, first, which) = before.chain();
            *before = Entry::chained(next, first, which);
        }
        None => *head = next,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Rewrite;

    fn take(slab: &mut Slab, entries: &mut [Entry], pair: bool) -> Option<EntryIndex> {
        let index = if pair { slab.take_pair(entries) } else { slab.take_single(entries) }?;
        for taken in [Some(index), pair.then(|| index.peer())].into_iter().flatten() {
            let entry = &mut entries[taken.as_usize()];
            assert!(!entry.is_used(), "handed out twice");
            entry.rewrite = if pair { Rewrite::FullnatToBackend } else { Rewrite::Dr };
        }
        Some(index)
    }

    proptest! {
        #[test]
        fn nothing_is_handed_out_twice_and_nothing_is_lost(steps in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<prop::sample::Index>()), 0..400)) {
            let mut entries = vec![Entry::default(); 16];
            let mut slab = Slab::new(16);
            let mut held: Vec<(EntryIndex, bool)> = Vec::new();
            for (takes, pair, which) in steps {
                if takes {
                    if let Some(index) = take(&mut slab, &mut entries, pair) {
                        prop_assert!(!pair || index.0 % 2 == 0);
                        held.push((index, pair));
                    } else if !pair {
                        prop_assert_eq!(slab.used(), 16, "a single is refused only when every entry is in use");
                    }
                } else if !held.is_empty() {
                    let (index, pair) = held.swap_remove(which.index(held.len()));
                    if pair { slab.give_pair(&mut entries, index) } else { slab.give_single(&mut entries, index) }
                }
                let used: u32 = held.iter().map(|(_, pair)| if *pair { 2 } else { 1 }).sum();
                prop_assert_eq!(slab.used(), used);
            }
            for (index, pair) in held.drain(..) {
                if pair { slab.give_pair(&mut entries, index) } else { slab.give_single(&mut entries, index) }
            }
            for _ in 0..8 {
                prop_assert!(take(&mut slab, &mut entries, true).is_some(), "all entries can be pairs again");
            }
        }
    }
}
