//! A set of entry indices that finds its least member in constant time, however few there are.
//!
//! A bitmap of one bit an entry, and over it coarser ones: bit `n` of a level says whether word `n` of the level below
//! has any bit set (a tree of fan-out 64, as in van Emde Boas's priority queue of 1977 with a word for a node). Six levels
//! hold 32-bit indices, so no operation touches more than six words. It is not a list: it knows no order but that of
//! the indices.
//!
//! Shape: one bit an entry and a 63rd more, in one piece.

use std::io;

use cpu::{Backing, HugeSlice};

use crate::index::EntryIndex;

/// Levels: 64^6 is more than 32 bits can count.
const LEVELS: usize = 6;
const WORD_BITS: u32 = u64::BITS;

/// Entry indices below a bound.
#[derive(Debug)]
pub(super) struct IndexSet {
    words: HugeSlice<u64>,
    /// Where each level begins in `words`; level 0 has a bit for each index.
    starts: [usize; LEVELS],
}

impl IndexSet {
    /// An empty set for indices below `bound`.
    pub(super) fn new(bound: u32, backing: Backing) -> io::Result<Self> {
        let mut starts = [0; LEVELS];
        let mut bits = bound as usize;
        for level in 1..LEVELS {
            bits = words_for(bits);
            starts[level] = starts[level - 1] + bits;
        }
        let len = Self::bytes_for(bound as usize) / size_of::<u64>();
        Ok(Self { words: HugeSlice::filled(len, 0, backing)?, starts })
    }

    /// The memory of a set for indices below `bound`, in bytes.
    pub(super) const fn bytes_for(bound: usize) -> usize {
        let (mut bits, mut words, mut level) = (bound, 0, 0);
        while level < LEVELS {
            bits = words_for(bits);
            words += bits;
            level += 1;
        }
        words * size_of::<u64>()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Adds `index`.
    pub(super) fn insert(&mut self, index: EntryIndex) {
        let mut bit = index.0;
        for level in 0..LEVELS {
            let Some(word) = self.word_mut(level, bit) else { return };
            let was_empty = *word == 0;
            *word |= 1 << (bit % WORD_BITS);
            if !was_empty {
                return;
            }
            bit /= WORD_BITS;
        }
    }

    /// Takes `index` out; whether it was in.
    pub(super) fn remove(&mut self, index: EntryIndex) -> bool {
        let mut bit = index.0;
        let mut was_member = false;
        for level in 0..LEVELS {
            let Some(word) = self.word_mut(level, bit) else { return was_member };
            let mask = 1 << (bit % WORD_BITS);
            was_member |= level == 0 && *word & mask != 0;
            *word &= !mask;
            if *word != 0 {
                return was_member;
            }
            bit /= WORD_BITS;
        }
        was_member
    }

    /// The least member.
    pub(super) fn least(&self) -> Option<EntryIndex> {
        let top = self.word(LEVELS - 1, 0);
        if top == 0 {
            return None;
        }
        let bit = (0..LEVELS - 1).rev().fold(top.trailing_zeros(), |bit, level| {
            let first = bit * WORD_BITS;
            first + self.word(level, first).trailing_zeros()
        });
        Some(EntryIndex(bit))
    }

    /// The word of `level` that has `bit`; empty beyond the end.
    fn word(&self, level: usize, bit: u32) -> u64 {
        self.place(level, bit).and_then(|place| self.words.get(place)).copied().unwrap_or(0)
    }

    fn word_mut(&mut self, level: usize, bit: u32) -> Option<&mut u64> {
        let place = self.place(level, bit)?;
        self.words.get_mut(place)
    }

    fn place(&self, level: usize, bit: u32) -> Option<usize> {
        let place = self.starts.get(level)? + (bit / WORD_BITS) as usize;
        let end = self.starts.get(level + 1).copied().unwrap_or(self.words.len());
        (place < end).then_some(place)
    }
}

/// Words for so many bits; one at least.
const fn words_for(bits: usize) -> usize {
    let words = bits.div_ceil(u64::BITS as usize);
    if words == 0 { 1 } else { words }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(bound in 1u32..300_000, steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..3), 1..200)) {
            let mut set = IndexSet::new(bound, Backing::Plain).unwrap();
            let mut model = BTreeSet::new();
            for (index, step) in steps {
                let index = index.index(bound as usize) as u32;
                if step == 0 {
                    prop_assert_eq!(set.remove(EntryIndex(index)), model.remove(&index));
                } else {
                    set.insert(EntryIndex(index));
                    model.insert(index);
                }
                prop_assert_eq!(set.least(), model.first().copied().map(EntryIndex));
            }
        }
    }

    #[test]
    fn the_last_index_of_the_largest_table_fits() {
        let last = EntryIndex((1 << 28) - 1);
        let mut set = IndexSet::new(1 << 28, Backing::Plain).unwrap();
        set.insert(last);
        assert_eq!(set.least(), Some(last));
        assert!(set.remove(last));
        assert_eq!(set.least(), None);
        // Beyond its bound it has no place to write to, and does not.
        set.insert(EntryIndex(1 << 28));
        assert_eq!(set.least(), None);
    }
}
