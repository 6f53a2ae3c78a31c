//! A set of IPv4 addresses: open addressing, linear probing, at most half full.

use std::net::Ipv4Addr;

/// An immutable set.
#[derive(Clone, Debug, Default)]
pub struct AddressSet {
    /// A power of two of places.
    places: Box<[Option<Ipv4Addr>]>,
}

impl AddressSet {
    /// Whether `address` is in the set.
    #[inline]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mut at = place_of(address);
        for _ in 0..self.places.len() {
            match self.places.get(at & (self.places.len() - 1)) {
                Some(Some(there)) if *there == address => return true,
                Some(Some(_)) => at += 1,
                _ => return false,
            }
        }
        false
    }
}

impl FromIterator<Ipv4Addr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Ipv4Addr>>(addresses: I) -> Self {
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut places = vec![None; (addresses.len() * 2).next_power_of_two()];
        let mask = places.len() - 1;
        for address in addresses {
            let mut at = place_of(address) & mask;
            while places[at].is_some() {
                at = (at + 1) & mask;
            }
            places[at] = Some(address);
        }
        Self { places: places.into_boxed_slice() }
    }
}

fn place_of(address: Ipv4Addr) -> usize {
    cpu::crc32c_u64(0, u64::from(address.to_bits())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_was_put_in_and_nothing_else() {
        assert!(!AddressSet::default().contains(Ipv4Addr::UNSPECIFIED));
        for count in [0u32, 1, 2, 3, 1_000] {
            let set: AddressSet =
                (0..count).chain(0..count).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
            for number in 0..count * 2 + 10 {
                assert_eq!(set.contains(Ipv4Addr::from(0x0a00_0000 + number)), number < count);
            }
        }
    }
}
