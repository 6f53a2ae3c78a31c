//! Gives every port that can the same RSS key and redirection table, so that packets come to the workers that own them.
//!
//! The first port with RSS says under which key (some devices have one of their own that cannot be changed) and how many
//! buckets; ports after it are asked for the same. A port that cannot follow is served all the same: its packets cross to
//! their owners. What the devices then do is watched by the workers ([`dataplane::rules::Rss`]); decision 0006.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use dataplane::index::PortIndex;
use dataplane::rules::{BUCKETS_MAX, Rss};
use dpdk::{Port, PortInfo, RssSettings};

/// More than any device takes: each uses the beginning.
const KEY_BYTES: usize = 255;
/// Bytes of a key that IPv4 addresses and l4_ports are hashed with: those of the input, and four.
const KEY_BYTES_IPV4: usize = 16;
/// Keys tried; one of a hundred or so is poor.
const KEYS_MAX: usize = 64;

/// How a port spreads packets over the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spreading {
    /// It has one receive queue, or spreads in a way that nobody knows: packets cross to their owners.
    Unknown,
    /// By RSS, set up as the other ports and the workers have it.
    Rss,
    /// It has RSS and could not be set up so, for this reason: most packets cross to their owners.
    OtherRss(String),
}

impl fmt::Display for Spreading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("steered in software"),
            Self::Rss => f.write_str("spread by RSS"),
            Self::OtherRss(reason) => write!(f, "steered in software, because {reason}"),
        }
    }
}

/// What the ports opened so far have agreed on.
#[derive(Debug)]
pub struct Agreement {
    worker_count: u16,
    /// Asked of the first port, then the first port's.
    key: Vec<u8>,
    rss: Option<Rss>,
}

impl Agreement {
    /// With a random key: under a known one, clients could choose what meets at one worker.
    pub fn new(worker_count: u16) -> Self {
        let is_fit = |key: &Vec<u8>| Rss::new(key, BUCKETS_MAX, worker_count).is_fit_for_local_ports();
        // With a poor one FullNAT would have fewer local l4_ports, and is_fit below refuses it in its turn.
        let key = std::iter::repeat_with(random_key).take(KEYS_MAX).find(is_fit).unwrap_or_else(random_key);
        Self { worker_count, key, rss: None }
    }

    /// The key to configure a port with, where RSS is of use.
    pub fn key_for(&self, info: &PortInfo, rx_queue_count: u16) -> Option<Vec<u8>> {
        let of_use = rx_queue_count > 1 && info.rss_hash_types != 0 && info.hash_key_bytes > 0;
        of_use.then(|| self.key.iter().copied().take(info.hash_key_bytes.into()).collect())
    }

    /// Sets up a port that has started, or learns from it when it is the first.
    pub fn set_up(
        &mut self,
        index: PortIndex,
        port: &mut Port,
        info: &PortInfo,
        rx_queue_count: u16,
    ) -> Spreading {
        if rx_queue_count < 2 || info.rss_hash_types == 0 || info.reta_size == 0 {
            return Spreading::Unknown;
        }
        match self.try_set_up(port, rx_queue_count) {
            Ok(()) => {
                if let Some(rss) = &mut self.rss {
                    rss.watch(index);
                }
                Spreading::Rss
            }
            Err(reason) => Spreading::OtherRss(reason),
        }
    }

    /// What the workers and the builder of rules need; `None` where no port has RSS.
    pub fn finish(&mut self) -> Option<Arc<Rss>> {
        self.rss.take().map(Arc::new)
    }

    fn try_set_up(&mut self, port: &mut Port, rx_queue_count: u16) -> Result<(), String> {
        let settings = port.rss().map_err(|error| error.to_string())?;
        if !settings.hashes_tcp || !settings.hashes_udp {
            return Err("it does not hash the ports of TCP and of UDP over IPv4".into());
        }
        let table_len = settings.redirection_table.len();
        let agreed = match self.rss.take() {
            Some(agreed) => agreed,
            None => {
                let first = Rss::new(&settings.key, table_len, self.worker_count);
                if !first.is_fit_for_local_ports() {
                    return Err("its key would leave workers without local ports".into());
                }
                self.key.splice(..settings.key.len().min(KEY_BYTES), settings.key.iter().copied());
                first
            }
        };
        let wanted = redirection_table(&agreed, table_len, rx_queue_count);
        self.rss = Some(agreed);
        // A driver that cannot change its table may have it right all the same.
        let refusal = port.set_redirection_table(&wanted).err();
        let RssSettings { key, redirection_table, .. } = port.rss().map_err(|error| error.to_string())?;
        if !key.iter().take(KEY_BYTES_IPV4).eq(self.key.iter().take(KEY_BYTES_IPV4)) {
            return Err("it has another key than the ports before it".into());
        }
        if redirection_table != wanted {
            return Err(refusal.map_or("its redirection table is another".into(), |error| error.to_string()));
        }
        Ok(())
    }
}

/// The queue of every bucket: a worker's queue has its number. Packets of workers without a queue of their own come by any
/// and cross.
fn redirection_table(rss: &Rss, len: usize, rx_queue_count: u16) -> Vec<u16> {
    rss.owners().iter().map(|owner| owner.0 % rx_queue_count.max(1)).cycle().take(len).collect()
}

fn random_key() -> Vec<u8> {
    // The standard library seeds its hashers from the system.
    let state = RandomState::new();
    (0u64..).flat_map(|number| state.hash_one(number).to_be_bytes()).take(KEY_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_repeats_the_owners_and_names_queues_that_exist() {
        let rss = Rss::new(&[7; 40], 8, 3);
        assert_eq!(redirection_table(&rss, 16, 3), [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1]);
        assert_eq!(redirection_table(&rss, 4, 2), [0, 1, 0, 0]);
    }

    #[test]
    fn keys_are_random_and_fit() {
        let (one, other) = (Agreement::new(4), Agreement::new(4));
        assert_ne!(one.key, other.key);
        assert!(Rss::new(&one.key, BUCKETS_MAX, 4).is_fit_for_local_ports());
    }
}
