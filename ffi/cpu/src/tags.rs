//! Eight 16-bit tags compared at once: one bucket of the flow table in four instructions.

/// Bit `i` of the result is set when `tags[i] == tag`.
#[inline(always)]
pub fn match_tags(tags: &[u16; 8], tag: u16) -> u8 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
    {
        sse2(tags, tag)
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri))))]
    portable(tags, tag)
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
#[inline(always)]
fn sse2(tags: &[u16; 8], tag: u16) -> u8 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    // SAFETY: needs SSE2, which the cfg above guarantees. The only memory read is the 16 bytes of `tags`,
    // borrowed for the call; the load has no alignment condition.
    unsafe {
        let bucket = _mm_loadu_si128(tags.as_ptr().cast());
        let equal = _mm_cmpeq_epi16(bucket, _mm_set1_epi16(tag.cast_signed()));
        // Each lane is 0 or -1; packing with saturation keeps that in one byte a lane, the upper eight zero.
        let bytes = _mm_packs_epi16(equal, _mm_setzero_si128());
        _mm_movemask_epi8(bytes) as u8
    }
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))))]
fn portable(tags: &[u16; 8], tag: u16) -> u8 {
    tags.iter().enumerate().fold(0, |mask, (index, &each)| mask | (u8::from(each == tag) << index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bit_i_stands_for_tag_i() {
        let tags = [0, 1, 0x8000, 0xffff, 1, 0x7fff, 0x00ff, 0xff00];
        assert_eq!(match_tags(&tags, 0), 0b0000_0001);
        assert_eq!(match_tags(&tags, 1), 0b0001_0010);
        assert_eq!(match_tags(&tags, 0x8000), 0b0000_0100);
        assert_eq!(match_tags(&tags, 0xffff), 0b0000_1000);
        assert_eq!(match_tags(&tags, 0xff00), 0b1000_0000);
        assert_eq!(match_tags(&tags, 2), 0);
    }

    proptest! {
        // Random tags hardly ever match: `picks` says which slots get the tag.
        #[test]
        fn both_versions_agree(tags: [u16; 8], tag: u16, picks: [bool; 8]) {
            let mut bucket = tags;
            for (slot, pick) in bucket.iter_mut().zip(picks) {
                if pick { *slot = tag; }
            }
            prop_assert_eq!(match_tags(&bucket, tag), portable(&bucket, tag));
        }
    }
}
