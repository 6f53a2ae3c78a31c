//! Receive and transmit queues: the packet line's ends.
//!
//! Guide: DPDK Programmer's Guide 22.11, "Poll Mode Driver". A queue may be used by one thread at a time and has no
//! lock, hence `&mut self`; different queues of a port may be used at the same time.

use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::device::Device;

/// A receive queue. [`crate::Port::start`] hands each out once.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Device>,
    queue: u16,
}

/// A transmit queue. [`crate::Port::start`] hands each out once.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Device>,
    queue: u16,
}

impl RxQueue {
    /// For queue `queue` of a started port, once each.
    pub(crate) fn new(port: Arc<Device>, queue: u16) -> Self {
        Self { port, queue }
    }

    /// Adds what has arrived, as far as there is room, and returns how many. Does not wait.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the queue exists and its port runs as long as `self.port`; `&mut self` keeps other threads out.
        unsafe { receive(&self.port, self.queue, burst) }
    }

    /// The port's id, as in [`crate::Mbuf::port`].
    pub fn port_id(&self) -> u16 {
        self.port.id()
    }

    /// The queue's index on its port.
    pub fn index(&self) -> u16 {
        self.queue
    }
}

impl TxQueue {
    /// For queue `queue` of a started port, once each.
    pub(crate) fn new(port: Arc<Device>, queue: u16) -> Self {
        Self { port, queue }
    }

    /// Sends from the front of the burst and returns how many the port took; the rest stays in the burst.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the queue exists and its port runs as long as `self.port`; `&mut self` keeps other threads out.
        // The driver owns the mbufs it took, and says how many. A burst's length fits u16.
        unsafe {
            burst.take(|array, len| {
                usize::from(sys::rte_eth_tx_burst(self.port.id(), self.queue, array, len as u16))
            })
        }
    }

    /// The same for a burst with packets that ask the port for something ([`crate::Mbuf::request_udp_checksum`]): the driver is
    /// asked first to write what its hardware wants to find in them, and a packet that it cannot send so, and what
    /// follows it, stays in the burst.
    pub fn transmit_prepared(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: as in `transmit`. The first call changes headers of the packets, which we own, and takes none; it says how
        // many the second may be given.
        unsafe {
            burst.take(|array, len| {
                let ready = sys::rte_eth_tx_prepare(self.port.id(), self.queue, array, len as u16);
                usize::from(sys::rte_eth_tx_burst(self.port.id(), self.queue, array, ready))
            })
        }
    }

    /// The port's id.
    pub fn port_id(&self) -> u16 {
        self.port.id()
    }

    /// The queue's index on its port.
    pub fn index(&self) -> u16 {
        self.queue
    }
}

/// Adds what has arrived in a queue to `burst`.
///
/// # Safety
/// The port runs, has the queue, and no other thread uses it.
#[inline(always)]
pub(crate) unsafe fn receive(port: &Device, queue: u16, burst: &mut Burst) -> usize {
    // SAFETY: as the caller promises. The driver writes at most `free` mbufs, ours alone, and says how many; a
    // burst's room fits u16.
    unsafe {
        burst.fill(|array, free| usize::from(sys::rte_eth_rx_burst(port.id(), queue, array, free as u16)))
    }
}
