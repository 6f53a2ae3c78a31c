//! A queue of mbufs from one thread to another: an `rte_ring` with a single producer and a single consumer.
//!
//! Guide: DPDK Programmer's Guide 22.11, "Ring Library". No lock, no system call; what crosses is the pointer.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::error::{Error, Result, c_string};
use crate::log;

/// The sending end.
#[derive(Debug)]
pub struct Producer(Arc<Ring>);

/// The receiving end.
#[derive(Debug)]
pub struct Consumer(Arc<Ring>);

/// Freed with the mbufs in it when both ends are gone.
#[derive(Debug)]
struct Ring {
    ring: NonNull<sys::rte_ring>,
    /// The ring stands in DPDK's memory.
    _eal: Eal,
}

// SAFETY: one thread may enqueue while another dequeues (RING_F_SP_ENQ, RING_F_SC_DEQ); `Producer` and `Consumer`
// exist once each and work through `&mut self`. Counting is allowed to anybody.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Makes a ring for `size - 1` mbufs; `size` is a power of two, `name` unique in the process and at most 29 bytes.
///
/// # Errors
/// [`Error::RingSize`]; [`Error::Call`]: the name is taken or too long, out of memory.
pub fn channel(eal: &Eal, name: &str, size: u32) -> Result<(Producer, Consumer)> {
    if size < 2 || !size.is_power_of_two() {
        return Err(Error::RingSize { asked: size });
    }
    let c_name = c_string(name)?;
    let ring = log::explain(|| {
        // SAFETY: EAL runs, as `eal` shows; the name is NUL-terminated and copied by DPDK.
        let ring =
            unsafe { sys::rte_ring_create(c_name.as_ptr(), size, sys::XD_ANY_SOCKET, sys::XD_RING_SP_SC) };
        NonNull::new(ring).ok_or_else(|| Error::last("rte_ring_create", name))
    })?;
    let ring = Arc::new(Ring { ring, _eal: eal.clone() });
    Ok((Producer(Arc::clone(&ring)), Consumer(ring)))
}

impl Producer {
    /// Sends from the front of the burst and returns how many fitted; the rest stays in the burst.
    #[inline]
    pub fn push(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the ring lives as long as `self.0`, and `&mut self` makes this its only producer. The ring owns
        // the mbufs it took.
        unsafe {
            burst.take(|array, len| {
                let (array, none) = (array.cast::<*mut c_void>().cast_const(), std::ptr::null_mut());
                sys::rte_ring_sp_enqueue_burst(self.0.ring.as_ptr(), array, len as u32, none) as usize
            })
        }
    }

    /// Mbufs in the ring at this moment.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the ring is empty at this moment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Consumer {
    /// Adds what is in the ring to the burst, as far as there is room, and returns how many.
    #[inline]
    pub fn pop(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: `&mut self` makes this the ring's only consumer.
        unsafe { self.0.pop(burst) }
    }

    /// Mbufs in the ring at this moment.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the ring is empty at this moment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Ring {
    fn len(&self) -> usize {
        // SAFETY: the ring lives as long as `self`; the count reads two integers that any thread may read.
        unsafe { sys::rte_ring_count(self.ring.as_ptr()) as usize }
    }

    /// # Safety
    /// Nobody else takes from this ring meanwhile.
    #[inline(always)]
    unsafe fn pop(&self, burst: &mut Burst) -> usize {
        // SAFETY: the only consumer, as the caller promises. What comes out was put in by `push`, which gave up
        // its ownership.
        unsafe {
            burst.fill(|array, free| {
                let (array, none) = (array.cast::<*mut c_void>(), std::ptr::null_mut());
                sys::rte_ring_sc_dequeue_burst(self.ring.as_ptr(), array, free as u32, none) as usize
            })
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        // SAFETY: both ends are gone, so nobody else uses the ring; it is freed once, empty.
        unsafe {
            while self.pop(&mut burst) > 0 {
                burst.clear();
            }
            sys::rte_ring_free(self.ring.as_ptr());
        }
    }
}
