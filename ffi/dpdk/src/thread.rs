//! Threads that DPDK knows: each has an lcore id, and with it a cache of its own in every mempool.
//!
//! A thread without one works too, but every alloc and free goes to the pool's common ring.
//! Guide: DPDK Programmer's Guide 22.11, "Known Issues" (non-EAL threads) and `rte_thread_register`.

use std::marker::PhantomData;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{Error, Result};
use crate::log;

/// Keeps the calling thread registered; dropped, it gives the lcore id back. Stays on its thread.
#[derive(Debug)]
pub struct Registration {
    /// DPDK must run when the thread is unregistered.
    _eal: Eal,
    /// Not Send: the id belongs to the thread.
    _this_thread: PhantomData<*mut ()>,
}

/// Gives the calling thread an lcore id. Call it after pinning the thread: DPDK notes the cores it may run on.
///
/// # Errors
/// [`Error::ThreadRegistered`]; [`Error::Call`] when there is no id left (DPDK has 128) or a secondary process is
/// attached.
pub fn register(eal: &Eal) -> Result<Registration> {
    // SAFETY: reads a thread-local integer of librte_eal.
    if unsafe { sys::xd_thread_has_lcore() } != 0 {
        return Err(Error::ThreadRegistered);
    }
    log::explain(|| {
        // SAFETY: EAL runs, as `eal` shows, and this thread has no lcore id yet.
        match unsafe { sys::rte_thread_register() } {
            0 => Ok(Registration { _eal: eal.clone(), _this_thread: PhantomData }),
            _ => Err(Error::last("rte_thread_register", "this thread")),
        }
    })
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by `register` on this thread, EAL still runs, and this happens once.
        unsafe { sys::rte_thread_unregister() }
    }
}
