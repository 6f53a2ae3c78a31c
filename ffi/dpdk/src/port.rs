//! Ports: network devices, real and virtual.
//!
//! What changes a port takes `&mut`: ethdev's calls for one port have no lock (Programmer's Guide, "Poll Mode Driver").
//!
//! Guide: DPDK Programmer's Guide 22.11, "Poll Mode Driver"; device arguments: "Network Interface Controller
//! Drivers" <https://doc.dpdk.org/guides-22.11/nics/>.

use std::sync::Arc;

use dpdk_sys as sys;

use crate::device::{Device, name_of_port, port_by_name, port_names};
use crate::eal::Eal;
use crate::error::{Error, Result, c_string, check};
use crate::log::explain;
use crate::mempool::Mempool;
use crate::queue::{RxQueue, TxQueue};

/// A port that this process alone uses. The port runs on while one of its queues is alive; with the last it is
/// stopped and closed.
#[derive(Debug)]
pub struct Port {
    device: Arc<Device>,
    queues: Option<Queues>,
}

/// What [`Port::configure`] is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues, at least 1. Several are fed by RSS where the device can hash.
    pub rx_queue_count: u16,
    /// Transmit queues, at least 1.
    pub tx_queue_count: u16,
    /// Descriptors of each receive queue; moved to what the device can do.
    pub rx_descriptor_count: u16,
    /// Descriptors of each transmit queue; moved to what the device can do.
    pub tx_descriptor_count: u16,
    /// Largest layer-3 packet in bytes; `None` keeps DPDK's 1,500.
    pub mtu: Option<u16>,
    /// Whether received packets may lie in several mbufs, where the device can do that ([`PortInfo::scatters`]). Most
    /// drivers have a faster way for packets of one mbuf.
    pub scatter: bool,
    /// The same for packets to be sent ([`PortInfo::sends_segments`]).
    pub sends_segments: bool,
    /// Whether the device computes the UDP checksums that packets ask it for ([`crate::Mbuf::request_udp_checksum`]), where it can
    /// ([`PortInfo::computes_udp_checksums`]). Many drivers have a faster way for ports without any offload.
    pub computes_udp_checksums: bool,
    /// Whether the device lets through only VLANs that it is told ([`Port::accept_vlan`]), where it can do that.
    pub filters_vlans: bool,
    /// The key that RSS hashes with, as long as [`PortInfo::hash_key_bytes`] says, 255 bytes at most; `None` leaves it to
    /// the driver.
    pub rss_key: Option<Vec<u8>>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queue_count: 1,
            tx_queue_count: 1,
            rx_descriptor_count: 512,
            tx_descriptor_count: 512,
            mtu: None,
            scatter: false,
            sends_segments: false,
            computes_udp_checksums: false,
            filters_vlans: false,
            rss_key: None,
        }
    }
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver's name, such as `net_af_packet`.
    pub driver: String,
    /// Receive queues at most.
    pub rx_queues_max: u16,
    /// Transmit queues at most.
    pub tx_queues_max: u16,
    /// Descriptors of a receive queue at most.
    pub rx_descriptors_max: u16,
    /// Descriptors of a transmit queue at most.
    pub tx_descriptors_max: u16,
    /// Longest frame it receives, in bytes.
    pub rx_packet_bytes_max: u32,
    /// Smallest MTU in bytes.
    pub mtu_min: u16,
    /// Largest MTU in bytes; `u16::MAX` where the driver does not say.
    pub mtu_max: u16,
    /// Bits `RTE_ETH_RX_OFFLOAD_*`.
    pub rx_offloads: u64,
    /// Bits `RTE_ETH_TX_OFFLOAD_*`.
    pub tx_offloads: u64,
    /// Bits `RTE_ETH_RSS_*`: what it can hash over; 0 where it has no RSS.
    pub rss_hash_types: u64,
    /// Entries of the RSS indirection table; 0 where it has none.
    pub reta_size: u16,
    /// Bytes of the RSS key; 0 where it has none.
    pub hash_key_bytes: u16,
    /// NUMA node; `None` where it has none.
    pub socket: Option<u16>,
}

impl PortInfo {
    /// Whether it can spread a received packet over several mbufs.
    pub fn scatters(&self) -> bool {
        self.rx_offloads & sys::XD_RX_OFFLOAD_SCATTER != 0
    }

    /// Whether it can send a packet that lies in several mbufs.
    pub fn sends_segments(&self) -> bool {
        self.tx_offloads & sys::XD_TX_OFFLOAD_MULTI_SEGS != 0
    }

    /// Whether it can compute the UDP checksum of a packet that it sends.
    pub fn computes_udp_checksums(&self) -> bool {
        self.tx_offloads & sys::XD_TX_OFFLOAD_UDP_CKSUM != 0
    }
}

/// The port's own counts since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets lost for want of descriptors.
    pub rx_missed: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets lost because the mempool was empty.
    pub rx_no_mbuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// The state of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether the link is up.
    pub up: bool,
    /// Speed in Mbit/s; `None` when unknown.
    pub speed_mbps: Option<u32>,
    /// Whether both ends can send at once.
    pub full_duplex: bool,
}

#[derive(Debug, Clone, Copy)]
struct Queues {
    rx: u16,
    tx: u16,
}

impl Port {
    /// Makes a device of DPDK device arguments (`"net_null0,size=64"`, a PCI address) and takes its first port.
    ///
    /// The device disappears again with the last of the port and its queues. Its name must be new.
    ///
    /// # Errors
    /// [`Error::Call`] with the driver's own words when it refuses the arguments; [`Error::PortTaken`] when there is
    /// such a device.
    pub fn attach(eal: &Eal, devargs: &str) -> Result<Self> {
        let c_devargs = c_string(devargs)?;
        let name = devargs.split(',').next().unwrap_or(devargs);
        if port_by_name(name)?.is_some() {
            return Err(Error::PortTaken { name: name.to_owned() });
        }
        let c_name = c_string(name)?;
        let mut id = 0;
        explain(|| {
            // SAFETY: EAL runs, as `eal` shows; the string is NUL-terminated and copied by DPDK.
            check("rte_dev_probe", devargs, unsafe { sys::rte_dev_probe(c_devargs.as_ptr()) })?;
            // SAFETY: as above; `id` is writable.
            let rc = unsafe { sys::xd_port_of_devargs(c_devargs.as_ptr(), c_name.as_ptr(), &raw mut id) };
            check("rte_eth_iterator_next", devargs, rc)
        })?;
        Self::claim(eal, id, true)
    }

    /// Takes a port that EAL made at its start (`--vdev`, `-a`), by its device name.
    ///
    /// # Errors
    /// [`Error::PortMissing`] with the ports there are; [`Error::PortTaken`].
    pub fn find(eal: &Eal, name: &str) -> Result<Self> {
        match port_by_name(name)? {
            Some(id) => Self::claim(eal, id, false),
            None => Err(Error::PortMissing { name: name.to_owned(), known: port_names() }),
        }
    }

    fn claim(eal: &Eal, id: u16, attached: bool) -> Result<Self> {
        let name = name_of_port(id)?;
        if !eal.claim_port(id) {
            return Err(Error::PortTaken { name });
        }
        Ok(Self { device: Arc::new(Device::new(id, name, attached, eal.clone())), queues: None })
    }

    /// Sets up the queues; received packets go into mbufs of `pool`. May be repeated until the port starts.
    ///
    /// # Errors
    /// [`Error::QueueCount`], [`Error::PortStarted`], or [`Error::Call`] with the driver's words.
    pub fn configure(&mut self, config: &PortConfig, pool: &Mempool) -> Result<()> {
        self.not_started()?;
        self.check_queue_counts(config)?;
        self.queues = None;
        explain(|| self.device.configure(config, pool))?;
        self.queues = Some(Queues { rx: config.rx_queue_count, tx: config.tx_queue_count });
        Ok(())
    }

    /// Starts the port and hands its queues out, in the order of their indices.
    ///
    /// # Errors
    /// [`Error::PortNotConfigured`], [`Error::PortStarted`], or [`Error::Call`] with the driver's words.
    pub fn start(&mut self) -> Result<(Vec<RxQueue>, Vec<TxQueue>)> {
        self.not_started()?;
        let Some(queues) = self.queues else {
            return Err(Error::PortNotConfigured { name: self.name().into() });
        };
        // SAFETY: the port is ours, configured with all its queues set up, and not started.
        explain(|| check("rte_eth_dev_start", self.name(), unsafe { sys::rte_eth_dev_start(self.id()) }))?;
        self.device.set_started(queues.rx);
        let rx = (0..queues.rx).map(|queue| RxQueue::new(Arc::clone(&self.device), queue)).collect();
        let tx = (0..queues.tx).map(|queue| TxQueue::new(Arc::clone(&self.device), queue)).collect();
        Ok((rx, tx))
    }

    /// DPDK's number for the port, as in [`crate::Mbuf::port`].
    pub fn id(&self) -> u16 {
        self.device.id()
    }

    /// The device's name, such as `net_null0`.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What the device can do.
    ///
    /// # Errors
    /// [`Error::Call`] when the device is gone.
    pub fn info(&self) -> Result<PortInfo> {
        self.device.info()
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// [`Error::Call`] when the device is gone.
    pub fn mac(&self) -> Result<[u8; 6]> {
        let mut mac = [0; 6];
        // SAFETY: `mac` has the six bytes the call writes.
        let rc = unsafe { sys::xd_port_mac(self.id(), mac.as_mut_ptr()) };
        check("rte_eth_macaddr_get", self.name(), rc).map(|()| mac)
    }

    /// Changes the port's MAC address.
    ///
    /// # Errors
    /// [`Error::Call`]: the driver cannot, or the address is a group or zero one.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<()> {
        // SAFETY: `mac` has the six bytes the call reads.
        let rc = unsafe { sys::xd_port_set_mac(self.id(), mac.as_ptr()) };
        explain(|| check("rte_eth_dev_default_mac_addr_set", self.name(), rc))
    }

    /// The port's own counts.
    ///
    /// # Errors
    /// [`Error::Call`] when the driver keeps none.
    pub fn stats(&self) -> Result<PortStats> {
        // SAFETY: integers, for which zero bytes are a value.
        let mut s: sys::xd_port_stats = unsafe { std::mem::zeroed() };
        // SAFETY: `s` is writable.
        check("rte_eth_stats_get", self.name(), unsafe { sys::xd_port_stats(self.id(), &raw mut s) })?;
        Ok(PortStats {
            rx_packets: s.rx_packets,
            rx_bytes: s.rx_bytes,
            rx_missed: s.rx_missed,
            rx_errors: s.rx_errors,
            rx_no_mbuf: s.rx_no_mbuf,
            tx_packets: s.tx_packets,
            tx_bytes: s.tx_bytes,
            tx_errors: s.tx_errors,
        })
    }

    /// The state of the link, without waiting for it to come up.
    ///
    /// # Errors
    /// [`Error::Call`] when the device is gone.
    pub fn link(&self) -> Result<Link> {
        let mut link = sys::xd_port_link { speed_mbps: 0, up: 0, full_duplex: 0 };
        // SAFETY: `link` is writable.
        check("rte_eth_link_get_nowait", self.name(), unsafe {
            sys::xd_port_link(self.id(), &raw mut link)
        })?;
        let speed_mbps = (link.speed_mbps != u32::MAX).then_some(link.speed_mbps);
        Ok(Link { up: link.up != 0, speed_mbps, full_duplex: link.full_duplex != 0 })
    }

    /// Whether the port takes frames addressed to others.
    ///
    /// # Errors
    /// [`Error::Call`] when the driver cannot.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        let (call, set): (_, unsafe extern "C" fn(u16) -> i32) = if on {
            ("rte_eth_promiscuous_enable", sys::rte_eth_promiscuous_enable)
        } else {
            ("rte_eth_promiscuous_disable", sys::rte_eth_promiscuous_disable)
        };
        // SAFETY: takes any port id.
        explain(|| check(call, self.name(), unsafe { set(self.id()) }))
    }

    /// Lets the port take every multicast frame, not only those of groups it was told.
    ///
    /// # Errors
    /// [`Error::Call`] when the driver cannot; errno `ENOTSUP` where it has no such function.
    pub fn accept_multicast(&mut self) -> Result<()> {
        // SAFETY: takes any port id.
        let accept = || unsafe { sys::rte_eth_allmulticast_enable(self.id()) };
        explain(|| check("rte_eth_allmulticast_enable", self.name(), accept()))
    }

    /// Lets frames of a VLAN through, on a port that was configured to filter them.
    ///
    /// # Errors
    /// [`Error::Call`]: the port does not filter, or the driver cannot.
    pub fn accept_vlan(&mut self, vid: u16) -> Result<()> {
        // SAFETY: takes any port id and any number.
        let accept = || unsafe { sys::rte_eth_dev_vlan_filter(self.id(), vid, 1) };
        explain(|| check("rte_eth_dev_vlan_filter", self.name(), accept()))
    }

    /// Largest layer-3 packet in bytes.
    ///
    /// # Errors
    /// [`Error::Call`] when the device is gone.
    pub fn mtu(&self) -> Result<u16> {
        let mut mtu = 0;
        // SAFETY: `mtu` is writable.
        let rc = unsafe { sys::rte_eth_dev_get_mtu(self.id(), &raw mut mtu) };
        check("rte_eth_dev_get_mtu", self.name(), rc).map(|()| mtu)
    }

    /// Changes the largest layer-3 packet, in bytes.
    ///
    /// # Errors
    /// [`Error::Call`]: out of the device's bounds, or the driver cannot (while the port runs).
    pub fn set_mtu(&mut self, mtu: u16) -> Result<()> {
        // SAFETY: takes any port id.
        let set = || unsafe { sys::rte_eth_dev_set_mtu(self.id(), mtu) };
        explain(|| check("rte_eth_dev_set_mtu", self.name(), set()))
    }

    fn not_started(&self) -> Result<()> {
        if self.device.is_started() {
            return Err(Error::PortStarted { name: self.name().to_owned() });
        }
        Ok(())
    }

    fn check_queue_counts(&self, config: &PortConfig) -> Result<()> {
        let info = self.info()?;
        let wishes = [
            ("receive", config.rx_queue_count, info.rx_queues_max),
            ("transmit", config.tx_queue_count, info.tx_queues_max),
        ];
        match wishes.into_iter().find(|&(_, asked, max)| asked == 0 || asked > max) {
            None => Ok(()),
            Some((direction, asked, max)) => {
                Err(Error::QueueCount { name: self.name().to_owned(), direction, asked, max })
            }
        }
    }
}
