//! A claimed DPDK port, shared by a [`crate::Port`] and its queues: set up, drained, closed.
//!
//! Private; read `port.rs` first. Here are the calls by port id, and the end of a port's life.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU16, Ordering};

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::error::{Result, c_string, check};
use crate::mempool::Mempool;
use crate::port::{PortConfig, PortInfo};
use crate::queue;

/// What a port and its queues share; stopped and closed with the last of them.
#[derive(Debug)]
pub(crate) struct Device {
    id: u16,
    pub(crate) name: String,
    /// Made by [`Port::attach`], so its device goes with it.
    attached: bool,
    /// 0 until the port runs.
    rx_queues_started: AtomicU16,
    eal: Eal,
}

impl Device {
    /// Of a port that the caller has claimed with [`Eal::claim_port`].
    pub(crate) fn new(id: u16, name: String, attached: bool, eal: Eal) -> Self {
        Self { id, name, attached, rx_queues_started: AtomicU16::new(0), eal }
    }

    /// Notes that the port runs, with so many receive queues, at least 1.
    pub(crate) fn set_started(&self, rx_queues: u16) {
        self.rx_queues_started.store(rx_queues, Ordering::Relaxed);
    }

    pub(crate) fn is_started(&self) -> bool {
        self.rx_queues_started.load(Ordering::Relaxed) > 0
    }

    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn info(&self) -> Result<PortInfo> {
        // SAFETY: integers and a pointer, for which zero bytes are a value.
        let mut raw: sys::xd_port_info = unsafe { std::mem::zeroed() };
        // SAFETY: `raw` is writable.
        check("rte_eth_dev_info_get", &self.name, unsafe { sys::xd_port_info(self.id, &raw mut raw) })?;
        Ok(PortInfo {
            // SAFETY: a static string of the driver's, or null.
            driver: unsafe { text(raw.driver) },
            rx_queues_max: raw.rx_queues_max,
            tx_queues_max: raw.tx_queues_max,
            rx_descriptors_max: raw.rx_descriptors_max,
            tx_descriptors_max: raw.tx_descriptors_max,
            rx_packet_bytes_max: raw.rx_packet_bytes_max,
            mtu_min: raw.mtu_min,
            mtu_max: raw.mtu_max,
            rx_offloads: raw.rx_offloads,
            tx_offloads: raw.tx_offloads,
            rss_hash_types: raw.rss_hash_types,
            reta_size: raw.reta_size,
            hash_key_bytes: raw.hash_key_bytes,
            socket: u16::try_from(raw.socket).ok(),
        })
    }

    pub(crate) fn configure(&self, config: &PortConfig, pool: &Mempool) -> Result<()> {
        let (mut rx, mut tx) = (config.rx_descriptor_count, config.tx_descriptor_count);
        // SAFETY: the port is claimed and not started. The pool lives until DPDK stops, which waits for this port.
        unsafe {
            let mtu = config.mtu.map_or(0, u32::from);
            let (rx_queues, tx_queues) = (config.rx_queue_count, config.tx_queue_count);
            // The key is copied; a length of 0 goes with a null pointer.
            let key = config.rss_key.as_deref();
            let key_bytes = key.map_or(0, |key| key.len().min(255) as u8);
            let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
            let (scatter, segments) = (config.scatter.into(), config.sends_segments.into());
            let udp_checksums = config.computes_udp_checksums.into();
            let filter_vlans = config.filters_vlans.into();
            let rc = sys::xd_port_configure(
                self.id,
                rx_queues,
                tx_queues,
                mtu,
                scatter,
                segments,
                udp_checksums,
                filter_vlans,
                key,
                key_bytes,
            );
            check("rte_eth_dev_configure", &self.name, rc)?;
            let rc = sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &raw mut rx, &raw mut tx);
            check("rte_eth_dev_adjust_nb_rx_tx_desc", &self.name, rc)?;
            for queue in 0..config.rx_queue_count {
                let rc = sys::xd_rx_queue_setup(self.id, queue, rx, pool.as_ptr());
                check("rte_eth_rx_queue_setup", &self.name, rc)?;
            }
            for queue in 0..config.tx_queue_count {
                let rc = sys::xd_tx_queue_setup(self.id, queue, tx);
                check("rte_eth_tx_queue_setup", &self.name, rc)?;
            }
        }
        Ok(())
    }

    /// Frees what has arrived and nobody fetched: net_ring keeps it in a ring that closing does not empty. Bounded,
    /// because a real port goes on receiving.
    fn drain(&self, rx_queues: u16) {
        const BURSTS_MAX: usize = 1024;
        let mut burst = Burst::new();
        for queue in 0..rx_queues {
            for _ in 0..BURSTS_MAX {
                // SAFETY: the port runs, and its queues are gone, so nobody else uses them.
                if unsafe { queue::receive(self, queue, &mut burst) } == 0 {
                    break;
                }
                burst.clear();
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let rx_queues = self.rx_queues_started.load(Ordering::Relaxed);
        if rx_queues > 0 {
            self.drain(rx_queues);
            // SAFETY: no queue is left that could be polled.
            unsafe { sys::rte_eth_dev_stop(self.id) };
        }
        // SAFETY: as above; the claim is given back after the id has lost its meaning.
        let rc = unsafe { sys::xd_port_close(self.id, self.attached.into()) };
        if let Err(error) = check("rte_eth_dev_close", &self.name, rc) {
            eprintln!("dpdk: {error}");
        }
        self.eal.release_port(self.id);
    }
}

/// The ids of the ports there are.
fn port_ids() -> impl Iterator<Item = u16> {
    // SAFETY: takes any number; only called when EAL runs.
    let next =
        |from: u16| Some(unsafe { sys::xd_port_next(from) }).filter(|&id| u32::from(id) < sys::XD_PORTS_MAX);
    std::iter::successors(next(0), move |&id| next(id + 1))
}

pub(crate) fn port_names() -> Vec<String> {
    port_ids().filter_map(|id| name_of_port(id).ok()).collect()
}

pub(crate) fn port_by_name(name: &str) -> Result<Option<u16>> {
    let c_name = c_string(name)?;
    let mut id = 0;
    // SAFETY: the name is NUL-terminated, `id` is writable.
    let rc = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut id) };
    Ok((rc == 0).then_some(id))
}

pub(crate) fn name_of_port(id: u16) -> Result<String> {
    let mut name = [0 as c_char; sys::XD_PORT_NAME_BYTES as usize];
    // SAFETY: the buffer has the size DPDK's reference asks for (RTE_ETH_NAME_MAX_LEN).
    let rc = unsafe { sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) };
    check("rte_eth_dev_get_name_by_port", &id.to_string(), rc)?;
    // SAFETY: the call left a NUL-terminated string there.
    Ok(unsafe { text(name.as_ptr()) })
}

/// # Safety
/// `string` is null or NUL-terminated.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller; copied at once.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
