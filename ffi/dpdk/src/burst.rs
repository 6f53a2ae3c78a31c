//! Up to 32 mbufs, in the very array that DPDK fills and empties.

use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Mbufs handled at once: DPDK's customary burst.
pub const BURST_MAX: usize = 32;

/// Owned mbufs on their way in or out; a slice of [`Mbuf`] to look at. Dropping it frees them in bulk.
#[derive(Debug, Default)]
pub struct Burst(ArrayVec<Mbuf, BURST_MAX>);

impl Burst {
    /// An empty burst.
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Adds an mbuf at the end.
    ///
    /// # Errors
    /// Gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        self.0.try_push(mbuf).map_err(|full| full.element())
    }

    /// Takes the last mbuf.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.0.pop()
    }

    /// Takes the mbufs out, first to last; what the iterator still holds when it is dropped is freed.
    #[inline]
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Mbuf> + DoubleEndedIterator {
        self.0.drain(..)
    }

    /// Whether no further mbuf fits.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// Frees all mbufs in one call.
    #[inline]
    pub fn clear(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let count = self.0.len();
        // SAFETY: the array's first `count` mbufs are live and ours. The length is set to 0 first, so that nobody
        // owns them but the call, which frees each once, into whichever pool it came from.
        unsafe {
            self.0.set_len(0);
            sys::rte_pktmbuf_free_bulk(self.as_raw(), count as u32);
        }
    }

    /// Lets `fill` write up to `free` mbufs behind those there are, and adopts as many as it returns, which it
    /// returns in turn.
    ///
    /// # Safety
    /// `fill(array, free)` writes `n <= free` pointers to live packets that nobody else owns, and returns `n`.
    #[inline(always)]
    pub(crate) unsafe fn fill(
        &mut self,
        fill: impl FnOnce(*mut *mut sys::rte_mbuf, usize) -> usize,
    ) -> usize {
        let (len, free) = (self.0.len(), self.0.remaining_capacity());
        // SAFETY: `len` is at most the capacity, so the pointer stays within the array or one past it.
        let added = fill(unsafe { self.as_raw().add(len) }, free);
        debug_assert!(added <= free, "more mbufs than there was room for");
        // SAFETY: the caller promises that `added` more elements are there.
        unsafe { self.0.set_len(len + added) };
        added
    }

    /// Lets `take` have the mbufs from the front, forgets as many as it returns and moves the rest up.
    ///
    /// # Safety
    /// `take(array, len)` takes ownership of the first `n <= len` mbufs and returns `n`.
    #[inline(always)]
    pub(crate) unsafe fn take(
        &mut self,
        take: impl FnOnce(*mut *mut sys::rte_mbuf, usize) -> usize,
    ) -> usize {
        let len = self.0.len();
        let taken = take(self.as_raw(), len);
        debug_assert!(taken <= len, "more mbufs taken than there were");
        let start = self.as_raw();
        // SAFETY: the first `taken` elements are not ours any more; the others move to the front, and the length
        // says how many there are.
        unsafe {
            if taken < len {
                start.copy_from(start.add(taken), len - taken);
            }
            self.0.set_len(len - taken);
        }
        taken
    }

    /// The array as DPDK takes it: `Mbuf` is `repr(transparent)` over a pointer.
    #[inline(always)]
    fn as_raw(&mut self) -> *mut *mut sys::rte_mbuf {
        self.0.as_mut_ptr().cast()
    }
}

impl Deref for Burst {
    type Target = [Mbuf];

    #[inline(always)]
    fn deref(&self) -> &[Mbuf] {
        &self.0
    }
}

impl DerefMut for Burst {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        &mut self.0
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}
