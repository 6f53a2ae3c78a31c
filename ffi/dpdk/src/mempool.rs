//! Mempools: fixed sets of mbufs, made once.
//!
//! Guide: DPDK Programmer's Guide 22.11, "Mempool Library" and "Mbuf Library".

use std::ffi::c_int;
use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{Error, Result, c_string};
use crate::log;
use crate::mbuf::Mbuf;

/// Bytes kept free in front of a received packet, for headers to be put there ([`Mbuf::prepend`]).
pub const HEADROOM_BYTES: u16 = sys::XD_HEADROOM_BYTES as u16;

/// A buffer that holds a frame of 2,048 bytes behind the headroom.
pub const DATA_ROOM_BYTES_DEFAULT: u16 = sys::XD_DATA_ROOM_BYTES_DEFAULT as u16;

/// A pool of mbufs of one size. Clones are handles to the same pool.
///
/// The pool lives until DPDK stops, so that an [`Mbuf`] can be one bare pointer: see [`Eal`].
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    eal: Eal,
}

// SAFETY: mempools are made for use from many threads at once: a thread with an lcore id has its own cache in the
// pool, one without goes to the common ring with multi-producer, multi-consumer operations.
unsafe impl Send for Mempool {}
// SAFETY: as above; `&Mempool` offers nothing more than the handle itself does.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `mbuf_count` mbufs (best one less than a power of two), each with `data_room_bytes` of buffer
    /// including [`HEADROOM_BYTES`], on NUMA node `socket` (`None`: any).
    ///
    /// A thread with an lcore id keeps up to 1.5 times `cache_size` mbufs (at most 512 and `mbuf_count / 1.5`) to
    /// itself: count them in.
    ///
    /// # Errors
    /// [`Error::Call`]: out of memory, the name is taken or longer than 25 bytes, the cache is too large.
    pub fn create(
        eal: &Eal,
        name: &str,
        mbuf_count: u32,
        cache_size: u32,
        data_room_bytes: u16,
        socket: Option<u16>,
    ) -> Result<Self> {
        let c_name = c_string(name)?;
        let socket = socket.map_or(sys::XD_ANY_SOCKET, c_int::from);
        let pool = log::explain(|| {
            // SAFETY: EAL runs, as `eal` shows; the name is NUL-terminated and copied by DPDK; no private area.
            let pool = unsafe {
                sys::rte_pktmbuf_pool_create(
                    c_name.as_ptr(),
                    mbuf_count,
                    cache_size,
                    0,
                    data_room_bytes,
                    socket,
                )
            };
            NonNull::new(pool).ok_or_else(|| Error::last("rte_pktmbuf_pool_create", name))
        })?;
        eal.keep_pool(pool);
        Ok(Self { pool, eal: eal.clone() })
    }

    /// Takes an empty mbuf; `None` when the pool is exhausted.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `self.eal`. What it returns is a fresh mbuf that nobody else owns.
        NonNull::new(unsafe { sys::rte_pktmbuf_alloc(self.pool.as_ptr()) })
            .map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Mbufs in the pool and its caches. Walks all caches; not for the packet line.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self.eal`.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// Mbufs that are out. Walks all caches; not for the packet line.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self.eal`.
        unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    /// The DPDK this pool belongs to.
    pub fn eal(&self) -> &Eal {
        &self.eal
    }

    /// For the driver that fills receive queues from this pool.
    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}
