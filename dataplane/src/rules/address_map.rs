//! From addresses to what the line must know of them, over both families: single ones by one look, prefixes, where there
//! are any, by one look a length.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::map::Map;
use crate::prefix::Prefix;

/// An immutable map: an address has the value of the longest prefix that holds it.
#[derive(Clone, Debug)]
pub struct AddressMap<V> {
    v4: Map<u32, V>,
    v6: Map<u128, V>,
    /// Prefixes that hold more than one address, by their length, the longest first.
    v4_prefixes: Box<[(u8, Map<u32, V>)]>,
    v6_prefixes: Box<[(u8, Map<u128, V>)]>,
}

/// An immutable set.
pub type AddressSet = AddressMap<()>;

impl<V: Copy> AddressMap<V> {
    /// What is known of `address`, if it is in the map.
    #[inline]
    pub fn find(&self, address: impl Into<IpAddr>) -> Option<V> {
        match address.into() {
            IpAddr::V4(address) => self.find_v4(address),
            IpAddr::V6(address) => self.find_v6(address),
        }
    }

    #[inline]
    fn find_v4(&self, address: Ipv4Addr) -> Option<V> {
        let found = self.v4.find(address.to_bits()).copied();
        if found.is_some() || self.v4_prefixes.is_empty() {
            return found;
        }
        self.v4_prefixes.iter().find_map(|(len, networks)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*len)).unwrap_or(0);
            networks.find(address.to_bits() & mask).copied()
        })
    }

    #[inline]
    fn find_v6(&self, address: Ipv6Addr) -> Option<V> {
        let found = self.v6.find(address.to_bits()).copied();
        if found.is_some() || self.v6_prefixes.is_empty() {
            return found;
        }
        self.v6_prefixes.iter().find_map(|(len, networks)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*len)).unwrap_or(0);
            networks.find(address.to_bits() & mask).copied()
        })
    }

    /// Whether `address` is in the map.
    #[inline]
    pub fn contains(&self, address: impl Into<IpAddr>) -> bool {
        self.find(address).is_some()
    }
}

impl<V> Default for AddressMap<V> {
    fn default() -> Self {
        Self {
            v4: Map::default(),
            v6: Map::default(),
            v4_prefixes: Box::default(),
            v6_prefixes: Box::default(),
        }
    }
}

impl<A: Into<Prefix>, V: Copy> FromIterator<(A, V)> for AddressMap<V> {
    /// Of two values for one prefix the first counts.
    fn from_iter<I: IntoIterator<Item = (A, V)>>(values: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut v4_prefixes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut v6_prefixes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (prefix, value) in values {
            let prefix: Prefix = prefix.into();
            let is_single = prefix.address().is_some();
            let len = Reverse(prefix.prefix_len());
            match prefix.network() {
                IpAddr::V4(address) if is_single => v4.push((address.to_bits(), value)),
                IpAddr::V6(address) if is_single => v6.push((address.to_bits(), value)),
                IpAddr::V4(network) => v4_prefixes.entry(len).or_default().push((network.to_bits(), value)),
                IpAddr::V6(network) => v6_prefixes.entry(len).or_default().push((network.to_bits(), value)),
            }
        }
        Self {
            v4: v4.into_iter().collect(),
            v6: v6.into_iter().collect(),
            v4_prefixes: by_length(v4_prefixes),
            v6_prefixes: by_length(v6_prefixes),
        }
    }
}

fn by_length<K: super::map::Key, V>(prefixes: BTreeMap<Reverse<u8>, Vec<(K, V)>>) -> Box<[(u8, Map<K, V>)]> {
    prefixes.into_iter().map(|(Reverse(len), networks)| (len, networks.into_iter().collect())).collect()
}

impl FromIterator<IpAddr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(|address| (address, ())).collect()
    }
}

impl FromIterator<Ipv4Addr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Ipv4Addr>>(addresses: I) -> Self {
        addresses.into_iter().map(|address| (address, ())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn single_addresses_of_both_families_are_found_and_no_others() {
        assert!(!AddressSet::default().contains(address("0.0.0.0")));
        assert!(!AddressSet::default().contains(address("::")));
        let map: AddressMap<u32> =
            [(address("203.0.113.10"), 4), (address("2001:db8::10"), 6)].into_iter().collect();
        assert_eq!(map.find(address("203.0.113.10")), Some(4));
        assert_eq!(map.find(address("2001:db8::10")), Some(6));
        for other in ["203.0.113.11", "::cb00:710a", "::ffff:203.0.113.10", "2001:db8::11"] {
            assert_eq!(map.find(address(other)), None, "{other}");
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let prefixes = [
            (Prefix::new(address("0.0.0.0"), 0), 0),
            (Prefix::new(address("203.0.113.0"), 24), 24),
            (Prefix::new(address("203.0.113.0"), 28), 28),
            (Prefix::from(address("203.0.113.10")), 32),
            (Prefix::new(address("2001:db8::"), 32), 132),
            (Prefix::new(address("2001:db8::"), 64), 164),
            (Prefix::from(address("2001:db8::1")), 228),
        ];
        let map: AddressMap<u32> = prefixes.into_iter().collect();
        for (text, expected) in [
            ("203.0.113.10", Some(32)),
            ("203.0.113.11", Some(28)),
            ("203.0.113.16", Some(24)),
            ("198.51.100.1", Some(0)),
            ("2001:db8::1", Some(228)),
            ("2001:db8::2", Some(164)),
            ("2001:db8:1::2", Some(132)),
            ("2001:db9::", None),
        ] {
            assert_eq!(map.find(address(text)), expected, "{text}");
        }
    }
}
