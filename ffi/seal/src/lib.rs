//! An allocator that counts what each thread asks of the heap, for tests that prove "no allocation after
//! start". Not part of the product: only test binaries depend on it.
//!
//! A crate of its own, since a global allocator needs `unsafe impl` and `unsafe` lives in `ffi/`; and not a
//! feature of `cpu`, since features unify: a workspace build would put the allocator into what is shipped.
//!
//! Use: `#[global_allocator] static ALLOCATOR: seal::CountingAllocator = seal::CountingAllocator;` in the test
//! binary, then [`heap_calls`] around the work.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // `const` and without a destructor: reading it neither allocates nor registers anything.
    static CALLS: Cell<HeapCalls> = const { Cell::new(HeapCalls { allocations: 0, frees: 0 }) };
}

/// Calls of one thread to the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapCalls {
    /// Blocks asked for; one that is made larger or smaller counts here and under `frees`.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
}

/// The system's allocator, counted.
#[derive(Debug)]
pub struct CountingAllocator;

fn count(allocations: u64, frees: u64) {
    CALLS.with(|calls| {
        let so_far = calls.get();
        calls.set(HeapCalls { allocations: so_far.allocations + allocations, frees: so_far.frees + frees });
    });
}

// SAFETY: every call is passed on unchanged to `System`, which keeps the contract of `GlobalAlloc`; counting
// touches a thread-local number, does not allocate and does not unwind.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: the caller keeps the contract of `alloc`, which is `System`'s own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is `System`'s own.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, 1);
        // SAFETY: the block came from `System` through this allocator; the rest is the caller's contract.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, 1);
        // SAFETY: the block came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Does `work` and tells what its thread asked of the heap meanwhile. Without [`CountingAllocator`] as the
/// global allocator that is always nothing, so a test shows first that an allocation is counted.
pub fn heap_calls<T>(work: impl FnOnce() -> T) -> (T, HeapCalls) {
    let before = CALLS.get();
    let result = work();
    let after = CALLS.get();
    let calls =
        HeapCalls { allocations: after.allocations - before.allocations, frees: after.frees - before.frees };
    (result, calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    #[test]
    fn every_kind_of_call_is_counted() {
        let (vector, calls) = heap_calls(|| Vec::<u8>::with_capacity(10));
        assert_eq!(calls, HeapCalls { allocations: 1, frees: 0 });
        let (vector, calls) = heap_calls(|| {
            let mut vector = vector;
            vector.reserve_exact(1_000);
            vector
        });
        assert_eq!(calls, HeapCalls { allocations: 1, frees: 1 });
        assert_eq!(heap_calls(|| drop(vector)).1, HeapCalls { allocations: 0, frees: 1 });
        assert_eq!(heap_calls(|| vec![0u8; 10]).1.allocations, 1);
        assert_eq!(heap_calls(|| [0u8; 10]).1, HeapCalls::default());
    }

    #[test]
    fn other_threads_are_not_counted() {
        let thread = std::thread::spawn(|| {
            std::thread::park();
            vec![0u8; 10]
        });
        let ((), calls) = heap_calls(|| thread.thread().unpark());
        assert_eq!(calls, HeapCalls::default());
        assert_eq!(thread.join().expect("it only allocates").len(), 10);
    }
}
