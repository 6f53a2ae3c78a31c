//! The half-open connections of a table, from the oldest to the youngest: who gives way first.
//!
//! Not a list: its links would take eight bytes an entry. Four sets of indices, by age: newcomers join the youngest, and
//! who has to go is of the oldest that has any. The youngest is closed when it has a third of all and another set is empty.
//! So while a flood pushes one out for each that comes, a client has as long to open its connection as a third of all that
//! half-open connections hold takes to be replaced, at least; and whatever is done, is done in constant time.

use std::io;

use cpu::Backing;

use super::index_set::IndexSet;
use crate::index::EntryIndex;

const GENERATIONS: usize = 4;

#[derive(Debug)]
struct Generation {
    members: IndexSet,
    count: u32,
}

/// Half-open connections, by their first entries.
#[derive(Debug)]
pub(super) struct HalfOpen {
    /// In a ring: after the youngest comes the oldest.
    generations: [Generation; GENERATIONS],
    youngest: usize,
    /// Members of all generations.
    count: u32,
}

impl HalfOpen {
    /// None yet, in a table of so many entries.
    pub(super) fn new(entry_count: u32, backing: Backing) -> io::Result<Self> {
        let generation =
            || Ok::<_, io::Error>(Generation { members: IndexSet::new(entry_count, backing)?, count: 0 });
        let generations = [generation()?, generation()?, generation()?, generation()?];
        Ok(Self { generations, youngest: 0, count: 0 })
    }

    /// The memory of this for a table of so many entries, in bytes.
    pub(super) const fn bytes_for(entry_count: usize) -> usize {
        GENERATIONS * IndexSet::bytes_for(entry_count)
    }

    /// Adds the youngest.
    pub(super) fn insert(&mut self, index: EntryIndex) {
        let next = (self.youngest + 1) % GENERATIONS;
        let is_full = self.generation(self.youngest).is_some_and(|young| young.count * 3 > self.count);
        if is_full && self.generation(next).is_some_and(|oldest| oldest.count == 0) {
            self.youngest = next;
        }
        self.insert_into(self.youngest, index);
    }

    /// Takes `index` out; the generation it was in, if any.
    pub(super) fn remove(&mut self, index: EntryIndex) -> Option<usize> {
        let young = self.youngest;
        // Those that open are young.
        let order = (0..GENERATIONS).map(|age| (young + GENERATIONS - age) % GENERATIONS);
        for number in order {
            let generation = self.generations.get_mut(number)?;
            if generation.count > 0 && generation.members.remove(index) {
                generation.count -= 1;
                self.count -= 1;
                return Some(number);
            }
        }
        None
    }

    /// Follows a connection whose entry moved; it is as old as it was.
    pub(super) fn rename(&mut self, from: EntryIndex, to: EntryIndex) {
        if let Some(number) = self.remove(from) {
            self.insert_into(number, to);
        }
    }

    /// One of the oldest.
    pub(super) fn oldest(&self) -> Option<EntryIndex> {
        let order = (1..=GENERATIONS).map(|step| (self.youngest + step) % GENERATIONS);
        order
            .filter_map(|number| self.generation(number))
            .find(|generation| generation.count > 0)
            .and_then(|generation| generation.members.least())
    }

    fn generation(&self, number: usize) -> Option<&Generation> {
        self.generations.get(number)
    }

    fn insert_into(&mut self, number: usize, index: EntryIndex) {
        if let Some(generation) = self.generations.get_mut(number) {
            generation.members.insert(index);
            generation.count += 1;
            self.count += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.generations.iter().map(|generation| generation.members.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_flood_lets_each_stay_for_a_third_of_all_at_least_wherever_its_entry_lies() {
        const HELD: u32 = 900;
        let mut half_open = HalfOpen::new(1 << 16, Backing::Plain).unwrap();
        // Entries in no order: 40503 is odd, so each comes once.
        let entry_of = |number: u32| EntryIndex(number.wrapping_mul(40_503) & 0xffff);
        let mut held: VecDeque<u32> = (0..HELD).collect();
        held.iter().for_each(|number| half_open.insert(entry_of(*number)));
        for number in HELD..50_000 {
            let oldest = half_open.oldest().unwrap();
            let at = held.iter().position(|number| entry_of(*number) == oldest).unwrap();
            let age = number - held.remove(at).unwrap();
            assert!(number < 2 * HELD || age >= HELD / 3, "{number}: gone after {age}");
            assert!(half_open.remove(oldest).is_some());
            half_open.insert(entry_of(number));
            held.push_back(number);
        }
    }

    #[test]
    fn those_that_open_leave_from_whatever_generation() {
        let mut half_open = HalfOpen::new(1_000, Backing::Plain).unwrap();
        (0..100).for_each(|index| half_open.insert(EntryIndex(index)));
        half_open.rename(EntryIndex(0), EntryIndex(500));
        assert_eq!(half_open.oldest(), Some(EntryIndex(500)), "no younger than it was");
        assert_eq!(half_open.remove(EntryIndex(0)), None);
        assert!((1..100).all(|index| half_open.remove(EntryIndex(index)).is_some()));
        assert!(half_open.remove(EntryIndex(500)).is_some());
        assert_eq!((half_open.oldest(), half_open.count), (None, 0));
    }
}
