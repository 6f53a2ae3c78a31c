//! CRC32C (Castagnoli polynomial, RFC 3385 section 4, iSCSI and SCTP's checksum), here as a hash: SSE4.2 does
//! eight bytes in three cycles.
//!
//! Both functions are the bare register step of the CRC32 instruction: the seed is the register before, the
//! result the register after, nothing is inverted. The checksum of the standards is `!crc32c(!0, bytes)`.

/// The CRC register after `bytes`, starting from `seed`. Steps chain: `crc32c(crc32c(s, a), b)` is the register
/// after `a` and then `b`.
#[inline]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(seed, |crc, word| crc32c_u64(crc, u64::from_le_bytes(*word)));
    tail.iter().fold(crc, |crc, &byte| crc32c_u8(crc, byte))
}

/// The CRC register after the eight bytes `value.to_le_bytes()`, starting from `seed`.
#[inline(always)]
pub fn crc32c_u64(seed: u32, value: u64) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
    {
        // SAFETY: needs SSE4.2, which the cfg above guarantees; it computes on registers only.
        unsafe { std::arch::x86_64::_mm_crc32_u64(u64::from(seed), value) as u32 }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri))))]
    portable::crc32c(seed, &value.to_le_bytes())
}

#[inline(always)]
fn crc32c_u8(seed: u32, value: u8) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
    {
        // SAFETY: needs SSE4.2, which the cfg above guarantees; it computes on registers only.
        unsafe { std::arch::x86_64::_mm_crc32_u8(seed, value) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri))))]
    portable::crc32c(seed, &[value])
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))))]
mod portable {
    /// 0x1EDC6F41 with its bits reversed, because the register shifts to the right.
    const POLYNOMIAL: u32 = 0x82f6_3b78;

    /// What eight shifts do to each low byte.
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };

    pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 3720 appendix B.4, and the catalogue's check value for "123456789".
    #[test]
    fn standard_vectors() {
        let checksum = |bytes: &[u8]| !crc32c(!0, bytes);
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(checksum(&ascending), 0x46dd_794e);
        assert_eq!(checksum(&descending), 0x113f_db5c);
        assert_eq!(checksum(&[]), 0);
    }

    proptest! {
        #[test]
        fn both_versions_agree(seed: u32, bytes: Vec<u8>) {
            prop_assert_eq!(crc32c(seed, &bytes), portable::crc32c(seed, &bytes));
        }

        #[test]
        fn a_word_is_its_eight_bytes(seed: u32, value: u64) {
            prop_assert_eq!(crc32c_u64(seed, value), portable::crc32c(seed, &value.to_le_bytes()));
        }

        #[test]
        fn steps_chain(seed: u32, first: Vec<u8>, second: Vec<u8>) {
            let joined = [first.as_slice(), second.as_slice()].concat();
            prop_assert_eq!(crc32c(crc32c(seed, &first), &second), crc32c(seed, &joined));
        }
    }
}
