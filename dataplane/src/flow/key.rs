//! The key of a flow and its hash.

use crate::wire::{AddressPair, PortPair};

/// A flow: packets of one 5-tuple, one way. All parts in wire order; the protocol is never 0 in a real key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source and destination address.
    pub addresses: AddressPair,
    /// Source and destination l4_port.
    pub ports: PortPair,
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey {
    /// No flow: protocol 0 is in no real key.
    pub const NONE: Self =
        Self { addresses: AddressPair::from_wire([0; 8]), ports: PortPair::from_wire([0; 4]), protocol: 0 };

    /// The key of the packets the other way.
    pub fn reversed(self) -> Self {
        Self { addresses: self.addresses.reversed(), ports: self.ports.reversed(), protocol: self.protocol }
    }
}

/// The hash of a key under one table's secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowHash(pub u32);

/// What makes one table's hash unpredictable: without it, clients could choose keys that share a bucket.
/// CRC32C would not do here: it is linear, so keys that collide do so under every seed.
#[derive(Clone, Copy, Debug)]
pub struct HashSecret {
    addresses: u64,
    ports: u64,
}

impl HashSecret {
    /// From 16 random bytes. They must be random: small numbers hardly mix.
    pub const fn new(random: [u64; 2]) -> Self {
        Self { addresses: random[0], ports: random[1] }
    }

    /// Hashes a key: the folded 64 x 64 bit product of its two halves, each masked by the secret
    /// (the multiply-fold step of wyhash and its kin), then its halves folded again.
    #[inline(always)]
    pub fn hash(self, key: &FlowKey) -> FlowHash {
        let ports = u64::from(key.ports.word()) | u64::from(key.protocol) << 32;
        let product = u128::from(key.addresses.word() ^ self.addresses) * u128::from(ports ^ self.ports);
        let folded = product as u64 ^ (product >> 64) as u64;
        FlowHash(folded as u32 ^ (folded >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn clients_of_one_subnet_spread_evenly() {
        let secret = HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let mut counts = [0u32; 64];
        for client in 0..64u32 * 1024 {
            let source = Ipv4Addr::from(0x0a00_0000 + client / 64);
            let key = FlowKey {
                addresses: AddressPair::new(source, Ipv4Addr::new(203, 0, 113, 10)),
                ports: PortPair::new(1024 + (client % 64) as u16, 80),
                protocol: 6,
            };
            counts[(secret.hash(&key).0 >> 26) as usize] += 1;
        }
        // 1,024 expected a slot, standard deviation 32: five of them either way.
        assert!(counts.iter().all(|count| (864..1184).contains(count)), "{counts:?}");
    }
}
