//! What overrules a service's scheduler, as checked: where packets have server IDs, whose these are, and where clients go by
//! their addresses.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use dataplane::prefix::Prefix;
use dataplane::rules::route::{PrefixTable, Target};

use super::checked::Endpoint;

/// What overrules a service's scheduler; by default nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Where datagrams have a server ID.
    pub datagrams: Option<DatagramIds>,
    /// The kind of the TCP option with a server ID.
    pub tcp_option: Option<u8>,
    /// The backends' server IDs: a backend may have several, a server ID has one backend.
    pub server_ids: Vec<(u128, Endpoint)>,
    /// Where clients go by their addresses. Shared: there may be a million.
    pub prefixes: Option<Arc<Prefixes>>,
}

/// Where datagrams have a server ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatagramIds {
    /// In QUIC connection IDs, after draft-ietf-quic-load-balancers; code points differ.
    QuicLb(Vec<QuicLbConfiguration>),
    /// In QUIC connection IDs of mvfst.
    Mvfst,
    /// At a fixed place.
    At {
        /// Bytes of payload before it.
        offset: u16,
        /// Its bytes, 1 to 8.
        len: u8,
    },
}

/// How servers make connection IDs of one code point. Lengths are in bytes, and allowed together.
#[derive(Clone, PartialEq, Eq)]
pub struct QuicLbConfiguration {
    /// The first three bits, 0 to 6.
    pub code_point: u8,
    /// Of the server ID.
    pub server_id_len: usize,
    /// Of the nonce.
    pub nonce_len: usize,
    /// The key of AES-128; none where server IDs are in the clear.
    pub key: Option<[u8; 16]>,
    /// Servers write an ID's length into its first byte.
    pub encodes_length: bool,
}

/// Clients' prefixes and their backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// From addresses to targets.
    pub table: Arc<PrefixTable>,
    /// The backend of each target.
    pub targets: Vec<Endpoint>,
    /// How many prefixes there are.
    pub count: usize,
    /// Tells two lists apart in what is said about a change.
    fingerprint: u32,
}

impl Prefixes {
    /// The table of a list whose prefixes differ, with targets that are indices into `targets`.
    pub fn new(list: &[(Prefix, Target)], targets: Vec<Endpoint>) -> Self {
        let table = Arc::new(PrefixTable::new(list.iter().copied()));
        Self { table, count: list.len(), fingerprint: fingerprint(&(list, &targets)), targets }
    }
}

impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (#{:08x})", self.count, self.fingerprint)
    }
}

/// Without the key.
impl fmt::Display for QuicLbConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code_point, server_id_len, nonce_len, key, encodes_length } = self;
        write!(f, "{code_point}: {server_id_len}+{nonce_len} bytes")?;
        if let Some(key) = key {
            write!(f, ", key #{:08x}", fingerprint(key))?;
        }
        f.write_str(if *encodes_length { ", length encoded" } else { "" })
    }
}

/// Without the key: what is printed ends up in logs.
impl fmt::Debug for QuicLbConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DatagramIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mvfst => f.write_str("mvfst"),
            Self::At { offset, len } => write!(f, "{len} bytes at {offset}"),
            Self::QuicLb(configurations) => {
                let texts: Vec<_> = configurations.iter().map(ToString::to_string).collect();
                write!(f, "quic-lb ({})", texts.join("; "))
            }
        }
    }
}

/// Of a value, the same within a process. Of 32 bits nobody gets a key back.
fn fingerprint(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}
