//! The options of a TCP header: a bounded walk over them, and the two that a director changes, the maximum segment size
//! and selective acknowledgments. Not the one that it adds: see [`super::client_option`].
//!
//! Read first: RFC 9293 sections 3.1, 3.2 and 3.7.1, RFC 2018 section 3.
//!
//! Here a header is a slice that begins with it; what its data offset claims is trusted only as far as the slice goes.
//! Checksums move by what changes (RFC 1624) and are not made good.

use super::checksum;
use super::tcp::{CHECKSUM_AT, DATA_OFFSET_AT, HEADER_LEN};

/// The longest header, options included: the data offset has four bits.
pub const HEADER_LEN_MAX: usize = 60;
/// Ends the list.
const END: u8 = 0;
/// One byte of nothing.
const NO_OPERATION: u8 = 1;
/// Maximum segment size: four bytes.
const MSS: u8 = 2;
/// Selective acknowledgment: two bytes and eight a block.
const SACK: u8 = 5;
/// Bytes of a maximum segment size option.
const MSS_LEN: u8 = 4;

/// One option of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Its kind, never those of padding.
    pub kind: u8,
    /// Where it begins, in bytes from the header's first.
    pub at: usize,
    /// Its length in bytes, kind and length included: at least 2, and within the header.
    pub len: usize,
}

/// The options of a header, in order. Ends at the end of the list and at the first option that lies about its length.
pub fn walk(header: &[u8]) -> impl Iterator<Item = Opt> {
    let header_len = header.get(DATA_OFFSET_AT).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let header = header.get(..header_len).unwrap_or_default();
    let mut at = HEADER_LEN;
    std::iter::from_fn(move || {
        // Each round goes on by a byte at least, and there are at most 40.
        while header.get(at) == Some(&NO_OPERATION) {
            at += 1;
        }
        let kind = *header.get(at).filter(|kind| **kind != END)?;
        let len = usize::from(*header.get(at + 1)?);
        if len < 2 || at + len > header.len() {
            return None;
        }
        let opt = Opt { kind, at, len };
        at += len;
        Some(opt)
    })
}

/// Puts the maximum segment size that a SYN names through `lower`. True where it is less then; what would be more stays. A
/// header without the option is left as it is: that stands for 536 bytes, or 1,220 over IPv6, which everything has room for.
pub fn lower_mss(header: &mut [u8], lower: impl Fn(u16) -> u16) -> bool {
    let Some(opt) = walk(header).find(|opt| opt.kind == MSS && opt.len == usize::from(MSS_LEN)) else {
        return false;
    };
    let at = opt.at + 2;
    let Some(mss) = read(header, at).map(u16::from_be_bytes) else { return false };
    let lowered = lower(mss);
    lowered < mss && write(header, at, lowered.to_be_bytes())
}

/// Puts the numbers of all selective acknowledgments through `shift` (RFC 2018: the edges of blocks that arrived).
pub fn shift_sacks(header: &mut [u8], shift: impl Fn(u32) -> u32) {
    let Some(opt) = walk(header).find(|opt| opt.kind == SACK) else { return };
    for at in (opt.at + 2..opt.at + opt.len).step_by(4) {
        if at + 4 <= opt.at + opt.len
            && let Some(edge) = read(header, at)
        {
            write(header, at, shift(u32::from_be_bytes(edge)).to_be_bytes());
        }
    }
}

/// The bytes at `at`.
fn read<const LEN: usize>(header: &[u8], at: usize) -> Option<[u8; LEN]> {
    header.get(at..)?.first_chunk().copied()
}

/// Writes bytes at `at`, wherever that is, and moves the checksum by what changed. False, and no change, where they do not
/// fit.
pub fn write<const LEN: usize>(header: &mut [u8], at: usize, bytes: [u8; LEN]) -> bool {
    const { assert!(LEN.is_multiple_of(2)) };
    let Some(place) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<LEN>()) else {
        return false;
    };
    let before = std::mem::replace(place, bytes);
    let delta = checksum::combine(!checksum::sum(&before), checksum::sum(&bytes));
    // What begins at an odd byte has its bytes in the other halves of the words summed (RFC 1071 section 2B).
    move_checksum(header, if at.is_multiple_of(2) { delta } else { delta.swap_bytes() })
}

/// Moves the checksum by `delta`. False where the header ends before it.
pub fn move_checksum(header: &mut [u8], delta: u16) -> bool {
    let place = header.get_mut(CHECKSUM_AT..).and_then(|rest| rest.first_chunk_mut::<2>());
    let Some(place) = place else { return false };
    *place = checksum::update(u16::from_ne_bytes(*place), delta).to_ne_bytes();
    true
}

#[cfg(test)]
mod tests {
    use etherparse::{TcpHeader, TcpOptionElement};
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: ([u8; 4], [u8; 4]) = ([203, 0, 113, 10], [198, 51, 100, 7]);

    fn with_checksum(mut header: TcpHeader) -> Vec<u8> {
        header.checksum = header.calc_checksum_ipv4_raw(ADDRESSES.0, ADDRESSES.1, &[]).unwrap();
        header.to_bytes().to_vec()
    }

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(80, 40_000, 1, 2);
        header.set_options_raw(options).unwrap();
        with_checksum(header)
    }

    /// The options an independent decoder finds, where the checksum is right.
    fn decoded(bytes: &[u8]) -> Vec<TcpOptionElement> {
        let header = TcpHeader::from_slice(bytes).unwrap().0;
        let expected = header.calc_checksum_ipv4_raw(ADDRESSES.0, ADDRESSES.1, &[]).unwrap();
        assert_eq!(header.checksum % 0xffff, expected % 0xffff);
        header.options_iterator().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_walk_steps_over_padding_and_ends_where_the_list_does() {
        let header = with_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 2, 4, 5, 0xb4, 0, 3, 3, 7]);
        let opts: Vec<_> = walk(&header).map(|opt| (opt.kind, opt.at, opt.len)).collect();
        assert_eq!(opts, [(8, 22, 10), (MSS, 32, 4)]);
    }

    #[test]
    fn an_option_that_lies_about_its_length_ends_the_walk() {
        for lie in [0, 1, 5, 255] {
            let header = with_options(&[1, 3, 3, 7, 2, lie, 5, 0xb4]);
            assert_eq!(walk(&header).count(), 1, "{lie}");
            assert!(!lower_mss(&mut header.clone(), |_| 100));
        }
        assert_eq!(walk(&[]).count(), 0);
        let mut too_long = with_options(&[2, 4, 5, 0xb4]);
        too_long[DATA_OFFSET_AT] = 0xf0;
        assert_eq!(walk(&too_long).count(), 0, "a data offset beyond the bytes there are");
        too_long[DATA_OFFSET_AT] = 0x20;
        assert_eq!(walk(&too_long).count(), 0, "a data offset within the fixed part");
    }

    #[test]
    fn a_segment_size_is_lowered_and_never_raised() {
        for padding in 0..4 {
            let mut options = vec![1; padding];
            options.extend([2, 4, 0x05, 0xb4]);
            let header = with_options(&options);
            let mut lowered = header.clone();
            assert!(lower_mss(&mut lowered, |mss| mss - 100));
            assert!(decoded(&lowered).contains(&TcpOptionElement::MaximumSegmentSize(1_360)));
            let mut same = header.clone();
            assert!(!lower_mss(&mut same, |_| 1_460) && !lower_mss(&mut same, |_| 9_000));
            assert_eq!(same, header);
        }
        let without = with_options(&[1, 3, 3, 7]);
        assert!(!lower_mss(&mut without.clone(), |_| 500));
    }

    proptest! {
        #[test]
        fn the_edges_of_every_block_are_shifted(
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 1..4), padding in 0usize..4, by in any::<u32>()
        ) {
            let mut options = vec![1; padding];
            options.extend([5, 2 + 8 * blocks.len() as u8]);
            for (left, right) in &blocks {
                options.extend([left.to_be_bytes(), right.to_be_bytes()].concat());
            }
            let mut header = with_options(&options);
            shift_sacks(&mut header, |edge| edge.wrapping_sub(by));
            let found = decoded(&header).into_iter().find_map(|element| match element {
                TcpOptionElement::SelectiveAcknowledgement(first, rest) => Some((first, rest)),
                _ => None,
            });
            let (first, rest) = found.unwrap();
            let found: Vec<_> = std::iter::once(first).chain(rest.into_iter().flatten()).collect();
            let shifted = blocks.iter().map(|(left, right)| (left.wrapping_sub(by), right.wrapping_sub(by)));
            prop_assert_eq!(found, shifted.collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_upset_a_walk(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for opt in walk(&bytes) {
                prop_assert!(opt.len >= 2 && opt.at + opt.len <= bytes.len().min(HEADER_LEN_MAX));
            }
            shift_sacks(&mut bytes.clone(), |edge| !edge);
            lower_mss(&mut bytes.clone(), |_| 0);
        }
    }
}
