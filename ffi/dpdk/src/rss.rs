//! Receive-side scaling of a port: the key it hashes with, and its redirection table from buckets to queues.
//!
//! What a driver says here is what it was told. What the device does shows only in the packets: the queue they come by and
//! the hash they carry ([`crate::Mbuf::rss_hash`]).
//!
//! Guide: DPDK API reference 22.11, `rte_eth_dev_rss_hash_conf_get`, `rte_eth_dev_rss_reta_update`.

use dpdk_sys as sys;

use crate::error::{Error, Result, check};
use crate::log::explain;
use crate::port::Port;

/// The key's length where a driver does not say it: what DPDK's drivers took before they did.
const KEY_BYTES_DEFAULT: u16 = 40;

/// How a port spreads packets over its receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssSettings {
    /// The key.
    pub key: Vec<u8>,
    /// By bucket, the low bits of the hash: the receive queue.
    pub redirection_table: Vec<u16>,
    /// Whether TCP over IPv4 is hashed with its l4 ports.
    pub hashes_tcp: bool,
    /// Whether UDP over IPv4 is hashed with its l4 ports.
    pub hashes_udp: bool,
}

impl Port {
    /// How it spreads packets now.
    ///
    /// # Errors
    /// [`Error::Call`] where the driver has no RSS or does not tell.
    pub fn rss(&self) -> Result<RssSettings> {
        let info = self.info()?;
        let key_bytes = if info.hash_key_bytes > 0 { info.hash_key_bytes } else { KEY_BYTES_DEFAULT };
        let (mut key, mut types) = (vec![0; 255], 0);
        // SAFETY: the key has the 255 bytes that the call may write at most; `types` is writable.
        let rc = unsafe {
            let key_bytes = key_bytes.min(255) as u8;
            sys::xd_port_rss_hash(self.id(), key.as_mut_ptr(), key_bytes, &raw mut types)
        };
        check("rte_eth_dev_rss_hash_conf_get", self.name(), rc)?;
        key.truncate(key_bytes.into());
        let mut redirection_table = vec![0; info.reta_size.into()];
        // SAFETY: the table has the `reta_size` entries the call writes.
        let rc = unsafe { sys::xd_port_reta(self.id(), redirection_table.as_mut_ptr(), info.reta_size, 0) };
        check("rte_eth_dev_rss_reta_query", self.name(), rc)?;
        let (hashes_tcp, hashes_udp) = (types & sys::XD_RSS_IPV4_TCP != 0, types & sys::XD_RSS_IPV4_UDP != 0);
        Ok(RssSettings { key, redirection_table, hashes_tcp, hashes_udp })
    }

    /// Sets the receive queue of every bucket; as many as [`crate::PortInfo::reta_size`] says.
    ///
    /// # Errors
    /// [`Error::Call`]: another number of buckets, a queue that does not exist, or the driver cannot.
    pub fn set_redirection_table(&mut self, queues: &[u16]) -> Result<()> {
        const CALL: &str = "rte_eth_dev_rss_reta_update";
        const EINVAL: i32 = 22;
        let size = u16::try_from(queues.len()).map_err(|_| Error::call(CALL, self.name(), EINVAL))?;
        // SAFETY: with `set` the call only reads the `size` entries.
        let set = || unsafe { sys::xd_port_reta(self.id(), queues.as_ptr().cast_mut(), size, 1) };
        explain(|| check(CALL, self.name(), set()))
    }
}
