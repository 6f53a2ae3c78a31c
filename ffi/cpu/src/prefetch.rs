//! Prefetch: asks for a cache line before it is needed. Never changes a result; where the processor has no
//! such instruction (or under Miri) it does nothing.

/// Asks for the cache line that holds the first byte of `target`, to be read soon (PREFETCHT0).
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(target: &T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: needs SSE, which the cfg above says every processor this build runs on has; a prefetch
        // reads and writes nothing and does not fault on any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast()) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri))))]
    let _ = target;
}

/// Asks for the cache line that holds the first byte of `target`, to be written soon.
///
/// PREFETCHW where the processor has it: the instruction is not part of x86-64-v2, but it is a no-operation,
/// not a fault, on 64-bit processors without it, and the compiler emits PREFETCHT0 when the target does not
/// list it.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(target: &T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: as in `prefetch_read`: SSE is there, and a prefetch touches no memory and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(target).cast()) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2", not(miri))))]
    let _ = target;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefetch_changes_nothing_and_takes_any_reference() {
        let bytes = [7_u8; 256];
        prefetch_read(&bytes);
        prefetch_read(&bytes[255]);
        prefetch_write(&bytes[..0]);
        prefetch_write("text");
        assert_eq!(bytes, [7; 256]);
    }
}
