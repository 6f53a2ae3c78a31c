//! The Internet checksum and its incremental update. Read first: RFC 1071, RFC 1624.
//!
//! A delta is `~m + m'` of RFC 1624 equation 3, folded to 16 bits, in native byte order: ones' complement
//! sums do not depend on byte order (RFC 1071 section 2B), so nothing is swapped on the line. An update
//! moves a checksum by exactly what changed: a bad one stays bad.

use super::{Addresses, PortPair};

/// The delta of a TTL lowered by one: the first byte of its 16-bit word loses 1.
pub const TTL_LOWERED: u16 = u16::from_ne_bytes([0xfe, 0xff]);

/// Folds a sum of 16-bit words to 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// The sum of the 16-bit words of `bytes`, which an odd length ends with half a word, folded (RFC 1071). Two sums are
/// added with [`combine`]; the checksum is the complement of all of them.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks();
    let of_words: u64 = words.iter().map(|word: &[u8; 2]| u64::from(u16::from_ne_bytes(*word))).sum();
    let last = rest.first().map_or(0, |byte| u16::from_ne_bytes([*byte, 0]));
    // Packets are below 2^16 bytes, so the sum of their words is below 2^32.
    combine(fold(of_words as u32), last)
}

/// The sum of the pseudo header that TCP, UDP and ICMPv6 checksums cover: addresses, protocol and the length of the rest,
/// in bytes (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1).
pub fn sum_of_pseudo_header(addresses: impl Into<Addresses>, protocol: u8, len: u16) -> u16 {
    combine(combine(sum_of_addresses(addresses.into()), u16::from(protocol).to_be()), len.to_be())
}

/// The sum of source and destination address.
#[inline(always)]
pub const fn sum_of_addresses(addresses: Addresses) -> u16 {
    match addresses {
        Addresses::V4(pair) => fold(sum_of(pair.word())),
        Addresses::V6(pair) => {
            let [a, b, c, d] = pair.words();
            fold(sum_of(a) + sum_of(b) + sum_of(c) + sum_of(d))
        }
    }
}

/// The sum of two deltas.
#[inline(always)]
pub const fn combine(a: u16, b: u16) -> u16 {
    fold(a as u32 + b as u32)
}

/// Moves the checksum field `old` by `delta`: HC' = ~(~HC + delta).
#[inline(always)]
pub const fn update(old: u16, delta: u16) -> u16 {
    !fold(!old as u32 + delta as u32)
}

/// Moves a UDP checksum: zero means none and stays (RFC 768), a computed zero is sent as ones.
#[inline(always)]
pub const fn update_udp(old: u16, delta: u16) -> u16 {
    if old == 0 {
        return 0;
    }
    let new = update(old, delta);
    if new == 0 { 0xffff } else { new }
}

const fn sum_of(word: u64) -> u32 {
    ((word & 0xffff) + ((word >> 16) & 0xffff) + ((word >> 32) & 0xffff) + (word >> 48)) as u32
}

/// The delta of an address pair changed from `old` to `new`, which may be of another family.
pub const fn delta_of_addresses(old: Addresses, new: Addresses) -> u16 {
    combine(!sum_of_addresses(old), sum_of_addresses(new))
}

/// The delta of a port pair changed from `old` to `new`.
pub const fn delta_of_ports(old: PortPair, new: PortPair) -> u16 {
    fold(sum_of(!old.word() as u64) + sum_of(new.word() as u64))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::AddressPair;

    /// The checksum of `words`, computed in full (RFC 1071).
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285: equation 3 gives 0x0000, not 0xFFFF.
        assert_eq!(update(0xdd2f, combine(!0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn a_sum_is_that_of_the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2_u16.to_be());
        assert_eq!(sum(&[0xf2, 0x03, 0xf4]), combine(sum(&[0xf2, 0x03]), sum(&[0xf4, 0])));
    }

    #[test]
    fn a_missing_udp_checksum_stays_missing_and_a_zero_one_is_sent_as_ones() {
        assert_eq!(update_udp(0, 0x1234), 0);
        assert_eq!(update_udp(0xdd2f, combine(!0x5555, 0x3285)), 0xffff);
    }

    proptest! {
        #[test]
        fn an_update_equals_the_full_computation(
            mut words in proptest::collection::vec(any::<u16>(), 2..40), at in any::<prop::sample::Index>(), new in any::<u16>()
        ) {
            // A sum of nothing but zeros has two representations; no real header is all zeros.
            words[0] |= 1;
            let at = 1 + at.index(words.len() - 1);
            let before = full(&words);
            let delta = combine(!words[at], new);
            words[at] = new;
            prop_assert_eq!(update(before, delta), full(&words));
        }

        #[test]
        fn a_bad_checksum_stays_as_bad_as_it_was(checksum in 1u16..0xffff, error in 1u16..0xffff, delta in any::<u16>()) {
            let bad = combine(checksum, error);
            prop_assume!(bad != checksum);
            prop_assert_ne!(update(bad, delta) % 0xffff, update(checksum, delta) % 0xffff);
        }

        #[test]
        fn deltas_of_pairs_are_deltas_of_their_words(a in any::<[u8; 8]>(), b in any::<[u8; 8]>()) {
            let words = |bytes: [u8; 8]| [0, 2, 4, 6].map(|i| u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
            let sum = words(a).iter().zip(words(b)).fold(0, |delta, (old, new)| combine(delta, combine(!old, new)));
            let delta = delta_of_addresses(AddressPair::from_wire(a).into(), AddressPair::from_wire(b).into());
            prop_assert_eq!(delta % 0xffff, sum % 0xffff);
        }
    }

    #[test]
    fn going_there_and_back_is_no_change() {
        let a = AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 10));
        let b = AddressPair::new(Ipv4Addr::new(192, 0, 2, 64), Ipv4Addr::new(10, 0, 0, 11));
        assert_eq!(
            update(
                update(0x1234, delta_of_addresses(a.into(), b.into())),
                delta_of_addresses(b.into(), a.into())
            ),
            0x1234
        );
    }
}
