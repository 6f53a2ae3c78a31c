//! What of a flow is hashed, and the hash: the same on every director, so without a secret.

use std::fmt;
use std::net::IpAddr;

use crate::flow::FlowKey;

/// Which parts of a flow's key decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// Addresses, l4_ports and protocol.
    FiveTuple,
    /// The client's address.
    Source,
    /// The client's address and l4_port.
    SourcePort,
    /// The client's address and l4_port, and the l4_port it asks for.
    SourceDestinationPort,
    /// The address it asks for.
    Destination,
    /// What IPVS hashes, by IPVS's function into IPVS's table.
    Ipvs,
    /// Likewise with the client's l4_port (`sh-port`, `mh-port`).
    IpvsPort,
}

impl HashKey {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::FiveTuple,
        Self::Source,
        Self::SourcePort,
        Self::SourceDestinationPort,
        Self::Destination,
        Self::Ipvs,
        Self::IpvsPort,
    ];

    /// The name in the rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FiveTuple => "5-tuple",
            Self::Source => "source",
            Self::SourcePort => "source-port",
            Self::SourceDestinationPort => "source-destination-port",
            Self::Destination => "destination",
            Self::Ipvs => "ipvs",
            Self::IpvsPort => "ipvs-port",
        }
    }

    /// Whether IPVS's tables are to be used.
    pub const fn is_ipvs(self) -> bool {
        matches!(self, Self::Ipvs | Self::IpvsPort)
    }

    /// The hash of what decides in `key`.
    pub(super) fn word(self, key: &FlowKey) -> u64 {
        let source = folded(key.source());
        let (source_port, destination_port) =
            (u64::from(key.ports.source()), u64::from(key.ports.destination()));
        // An IPv4 address leaves room beside it; an IPv6 one, folded, has to be mixed first.
        let is_v6 = key.addresses.is_v6();
        let join = |word: u64, bits: u32, low: u64| if is_v6 { mix(word) ^ low } else { word << bits | low };
        match self {
            Self::FiveTuple => {
                let addresses = join(source, 32, folded(key.destination()));
                let rest = u64::from(key.protocol) << 32 | source_port << 16 | destination_port;
                mix(mix(addresses) ^ rest)
            }
            Self::Source | Self::Ipvs => mix(source),
            Self::SourcePort | Self::IpvsPort => mix(join(source, 16, source_port)),
            Self::SourceDestinationPort => mix(join(source, 32, source_port << 16 | destination_port)),
            Self::Destination => mix(folded(key.destination())),
        }
    }
}

/// An address as one word: an IPv6 one with its halves mixed.
fn folded(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            mix(bits as u64) ^ (bits >> 64) as u64
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A member's hash: its address and l4_port, and which of its points is meant.
pub(super) fn identity_hash(address: IpAddr, l4_port: u16, point: u32) -> u64 {
    mix(mix(folded(address)) ^ (u64::from(l4_port) << 32 | u64::from(point)))
}

/// A number below `bound` from a hash, without a division: its upper half times the bound (Lemire, "Fast random
/// integer generation in an interval", 2019).
#[inline(always)]
pub(super) const fn scaled(hash: u64, bound: usize) -> usize {
    (((hash >> 32) * bound as u64) >> 32) as usize
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit moves every output bit.
#[inline(always)]
pub(super) const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(GOLDEN_GAMMA);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The step between two states of SplitMix64: 2^64 divided by the golden ratio, odd.
pub(super) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::{AddressPair, PortPair};

    fn key(source: u8, source_port: u16, destination: u8, destination_port: u16, protocol: u8) -> FlowKey {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        let addresses = AddressPair::new(address(source), address(destination));
        FlowKey { addresses: addresses.into(), ports: PortPair::new(source_port, destination_port), protocol }
    }

    #[test]
    fn each_key_hashes_its_parts_and_no_others() {
        let base = key(1, 1_000, 9, 80, 6);
        let source = key(2, 1_000, 9, 80, 6);
        let source_port = key(1, 1_001, 9, 80, 6);
        let destination = key(1, 1_000, 8, 80, 6);
        let destination_port = key(1, 1_000, 9, 81, 6);
        let protocol = key(1, 1_000, 9, 80, 17);
        let others = [source, source_port, destination, destination_port, protocol];
        for (hash, differs) in [
            (HashKey::FiveTuple, [true, true, true, true, true]),
            (HashKey::Source, [true, false, false, false, false]),
            (HashKey::SourcePort, [true, true, false, false, false]),
            (HashKey::SourceDestinationPort, [true, true, false, true, false]),
            (HashKey::Destination, [false, false, true, false, false]),
        ] {
            let found = others.map(|other| hash.word(&other) != hash.word(&base));
            assert_eq!(found, differs, "{hash}");
        }
    }
}
