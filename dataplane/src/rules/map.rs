//! An immutable hash map that one look nearly always answers: open addressing, linear probing, at most half full.
//!
//! Not a `HashMap`: its keys are the rules' and not a client's, so that the hash need not be secret, and is one instruction.

/// What can be looked up.
pub(super) trait Key: Copy + Eq {
    /// Spreads the keys over the places.
    fn hash(self) -> usize;
}

impl Key for u32 {
    #[inline(always)]
    fn hash(self) -> usize {
        cpu::crc32c_u64(0, u64::from(self)) as usize
    }
}

impl Key for u128 {
    #[inline(always)]
    fn hash(self) -> usize {
        cpu::crc32c_u64(cpu::crc32c_u64(0, (self >> 64) as u64), self as u64) as usize
    }
}

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Map<K, V> {
    /// A power of two of places.
    places: Box<[Option<(K, V)>]>,
}

impl<K: Key, V> Map<K, V> {
    /// The value of `key`.
    #[inline]
    pub(super) fn find(&self, key: K) -> Option<&V> {
        let mut at = key.hash();
        for _ in 0..self.places.len() {
            match self.places.get(at & (self.places.len() - 1)) {
                Some(Some((there, value))) if *there == key => return Some(value),
                Some(Some(_)) => at += 1,
                _ => return None,
            }
        }
        None
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { places: Box::default() }
    }
}

impl<K: Key, V> FromIterator<(K, V)> for Map<K, V> {
    /// Of two values for one key the first counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(values: I) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        let mut places: Vec<Option<(K, V)>> = Vec::new();
        places.resize_with((values.len() * 2).next_power_of_two(), || None);
        let mask = places.len() - 1;
        for (key, value) in values {
            let mut at = key.hash() & mask;
            while places[at].as_ref().is_some_and(|(there, _)| *there != key) {
                at = (at + 1) & mask;
            }
            places[at].get_or_insert((key, value));
        }
        Self { places: places.into_boxed_slice() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        assert_eq!(Map::<u32, ()>::default().find(0), None);
        for count in [0u32, 1, 2, 3, 1_000] {
            let narrow: Map<u32, u32> = (0..count).chain(0..count).map(|n| (n << 3, n * 3)).collect();
            let wide: Map<u128, u32> = (0..count).map(|n| (u128::from(n) << 64, n * 3)).collect();
            for number in 0..count * 2 + 10 {
                let expected = (number < count).then_some(number * 3);
                assert_eq!(narrow.find(number << 3).copied(), expected);
                assert_eq!(wide.find(u128::from(number) << 64).copied(), expected);
            }
        }
        let first_counts: Map<u32, u32> = [(7, 1), (7, 2)].into_iter().collect();
        assert_eq!(first_counts.find(7), Some(&1));
    }
}
