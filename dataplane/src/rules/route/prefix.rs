//! Which prefix of a client's address matches longest, of a million and more, IPv4 and IPv6.
//!
//! Nested prefixes are cut into ranges that do not overlap, sorted by where they begin: the longest match of an address is
//! the last range that begins at or before it. Two binary searches: in every 64th beginning, which stay in the cache, then in
//! the 64 from there. A lookup is done once a connection, so this was taken for its size (6 bytes a range for IPv4, 18 for
//! IPv6, and at most two ranges a prefix) and for being simple, and not a trie, which takes fewer loads.

use std::net::IpAddr;

use crate::prefix::Prefix;

/// What a prefix leads to: a number of whoever made the table.
pub type Target = u16;

/// No prefix matches.
const NOTHING: Target = Target::MAX;
/// Targets are below this.
pub const TARGETS_MAX: usize = NOTHING as usize;
/// Ranges between two that are sampled.
const STRIDE: usize = 64;

/// From addresses to targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixTable {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

impl PrefixTable {
    /// The table of `prefixes`, targets below [`TARGETS_MAX`]; of two prefixes that are the same the first counts.
    pub fn new(prefixes: impl IntoIterator<Item = (Prefix, Target)>) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (prefix, target) in prefixes {
            let len = prefix.prefix_len();
            match prefix.network() {
                IpAddr::V4(address) => ipv4.push(Span::new(address.to_bits(), len, target)),
                IpAddr::V6(address) => ipv6.push(Span::new(address.to_bits(), len, target)),
            }
        }
        Self { ipv4: Ranges::new(ipv4), ipv6: Ranges::new(ipv6) }
    }

    /// The target of the longest prefix that `address` has.
    pub fn find(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(address) => self.ipv4.find(address.to_bits()),
            IpAddr::V6(address) => self.ipv6.find(address.to_bits()),
        }
    }

    /// Bytes that the table takes.
    pub fn size(&self) -> usize {
        self.ipv4.size() + self.ipv6.size()
    }
}

/// An address as a number.
trait Bits: Copy + Default + Ord {
    /// The first and the last address with the first `len` bits of `self`.
    fn span(self, len: u8) -> (Self, Self);
    /// The address after `self`, unless that is the last.
    fn next(self) -> Option<Self>;
}

macro_rules! bits {
    ($($integer:ty),+) => {$(
        impl Bits for $integer {
            fn span(self, len: u8) -> (Self, Self) {
                let host = <$integer>::MAX.checked_shr(len.into()).unwrap_or(0);
                (self & !host, self | host)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )+};
}

bits!(u32, u128);

/// The addresses of a prefix, the last one included.
#[derive(Clone, Copy)]
struct Span<K> {
    first: K,
    last: K,
    target: Target,
}

impl<K: Bits> Span<K> {
    fn new(address: K, len: u8, target: Target) -> Self {
        let (first, last) = address.span(len);
        Self { first, last, target }
    }
}

/// Ranges in order: each goes up to the next one's beginning, the last to the end of all addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<K> {
    /// Where each begins.
    firsts: Box<[K]>,
    /// Where it leads; [`NOTHING`] between prefixes.
    targets: Box<[Target]>,
    /// Every [`STRIDE`]th of `firsts`.
    samples: Box<[K]>,
}

impl<K: Bits> Ranges<K> {
    fn new(mut spans: Vec<Span<K>>) -> Self {
        // What contains another one comes before it; equal ones stay in their order, and all but the first go.
        spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        spans.dedup_by(|a, b| a.first == b.first && a.last == b.last);
        let mut ranges = Vec::with_capacity(spans.len() + spans.len() / 2);
        // Those that contain where we are, the longest prefix last: at most one of each length.
        let mut open: Vec<Span<K>> = Vec::new();
        for span in spans {
            close_before(Some(span.first), &mut open, &mut ranges);
            begin(span.first, span.target, &mut ranges);
            open.push(span);
        }
        close_before(None, &mut open, &mut ranges);
        let (firsts, targets): (Vec<K>, Vec<Target>) = ranges.into_iter().unzip();
        let samples = firsts.iter().step_by(STRIDE).copied().collect();
        Self { firsts: firsts.into(), targets: targets.into(), samples }
    }

    fn find(&self, address: K) -> Option<Target> {
        let stride = self.samples.partition_point(|first| *first <= address).checked_sub(1)? * STRIDE;
        let end = (stride + STRIDE).min(self.firsts.len());
        let within = self.firsts.get(stride..end)?.partition_point(|first| *first <= address);
        let target = *self.targets.get(stride + within.checked_sub(1)?)?;
        (target != NOTHING).then_some(target)
    }

    fn size(&self) -> usize {
        size_of_val(&*self.firsts) + size_of_val(&*self.targets) + size_of_val(&*self.samples)
    }
}

/// Takes from `open` what ends before `address`, all of it where there is none; behind each that goes on which contains it.
fn close_before<K: Bits>(address: Option<K>, open: &mut Vec<Span<K>>, ranges: &mut Vec<(K, Target)>) {
    while let Some(span) = open.pop_if(|span| address.is_none_or(|address| span.last < address)) {
        if let Some(after) = span.last.next() {
            begin(after, open.last().map_or(NOTHING, |outer| outer.target), ranges);
        }
    }
}

/// A range from `first` on, in the place of one that would be empty, and of none where the one before leads there too.
fn begin<K: Bits>(first: K, target: Target, ranges: &mut Vec<(K, Target)>) {
    ranges.pop_if(|(last, _)| *last == first);
    if ranges.last().map_or(NOTHING, |(_, target)| *target) != target {
        ranges.push((first, target));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn table(prefixes: &[(&str, u8, Target)]) -> PrefixTable {
        let prefix = |&(address, len, target): &(&str, u8, Target)| {
            (Prefix::new(address.parse::<IpAddr>().unwrap(), len), target)
        };
        PrefixTable::new(prefixes.iter().map(prefix))
    }

    fn find(table: &PrefixTable, address: &str) -> Option<Target> {
        table.find(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_decides() {
        let table = table(&[
            ("192.168.0.0", 17, 1),
            ("192.168.100.0", 24, 2),
            ("192.168.100.128", 32, 3),
            ("fc00::", 32, 4),
            ("fc00::", 64, 5),
        ]);
        assert_eq!(find(&table, "192.168.1.2"), Some(1));
        assert_eq!(find(&table, "192.168.100.1"), Some(2));
        assert_eq!(find(&table, "192.168.100.128"), Some(3));
        assert_eq!(find(&table, "192.168.100.129"), Some(2));
        assert_eq!(find(&table, "192.168.101.0"), Some(1));
        assert_eq!(find(&table, "192.168.200.1"), None);
        assert_eq!(find(&table, "192.167.255.255"), None);
        assert_eq!(find(&table, "fc00::2"), Some(5));
        assert_eq!(find(&table, "fc00:0:1::2"), Some(4));
        assert_eq!(find(&table, "fc00:1::2"), None);
    }

    #[test]
    fn the_ends_of_the_address_space_are_in_it() {
        let everything = table(&[("0.0.0.0", 0, 7), ("255.255.255.255", 32, 8), ("::", 0, 9)]);
        for (address, target) in
            [("0.0.0.0", 7), ("255.255.255.254", 7), ("255.255.255.255", 8), ("::", 9), ("ff::ff", 9)]
        {
            assert_eq!(find(&everything, address), Some(target), "{address}");
        }
        assert_eq!(find(&PrefixTable::default(), "0.0.0.0"), None);
        let twice = table(&[("10.0.0.1", 8, 1), ("10.9.9.9", 8, 2)]);
        assert_eq!(find(&twice, "10.5.5.5"), Some(1), "the first counts");
    }

    fn longest<const BITS: usize>(prefixes: &[(u128, u8, Target)], address: u128) -> Option<Target> {
        let has =
            |(prefix, len): (u128, u8)| len == 0 || (prefix ^ address) >> (BITS - usize::from(len)) == 0;
        let matching = prefixes.iter().filter(|(prefix, len, _)| has((*prefix, *len)));
        // Of equals `max_by_key` takes the last.
        matching.rev().max_by_key(|(_, len, _)| *len).map(|(_, _, target)| *target)
    }

    proptest! {
        #[test]
        fn ipv4_is_as_if_every_prefix_were_looked_at(
            prefixes in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u8..=32, 0u16..9), 0..200),
            addresses in proptest::collection::vec(any::<(u8, u8)>(), 50),
        ) {
            // Two bytes vary, so that prefixes meet.
            let address = |(a, b): (u8, u8)| u32::from_be_bytes([a & 3, 0, b, a]);
            let prefixes: Vec<_> =
                prefixes.iter().map(|&(a, b, len, target)| (address((a, b)).into(), len, target)).collect();
            let table = PrefixTable::new(prefixes.iter().map(|&(bits, len, target)| {
                (Prefix::new(Ipv4Addr::from_bits(bits as u32), len), target)
            }));
            for bits in addresses.into_iter().map(address) {
                let found = table.find(Ipv4Addr::from_bits(bits).into());
                prop_assert_eq!(found, longest::<32>(&prefixes, bits.into()));
            }
        }

        #[test]
        fn ipv6_is_as_if_every_prefix_were_looked_at(
            prefixes in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u8..=128, 0u16..9), 0..200),
            addresses in proptest::collection::vec(any::<(u8, u8)>(), 50),
        ) {
            let address = |(a, b): (u8, u8)| u128::from(a & 7) << 100 | u128::from(b) << 60 | u128::from(a);
            let prefixes: Vec<_> =
                prefixes.iter().map(|&(a, b, len, target)| (address((a, b)), len, target)).collect();
            let table = PrefixTable::new(prefixes.iter().map(|&(bits, len, target)| {
                (Prefix::new(Ipv6Addr::from_bits(bits), len), target)
            }));
            for bits in addresses.into_iter().map(address) {
                prop_assert_eq!(table.find(Ipv6Addr::from_bits(bits).into()), longest::<128>(&prefixes, bits));
            }
        }
    }
}
