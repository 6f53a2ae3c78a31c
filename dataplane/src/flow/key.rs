//! The key of a flow and its hash.

use std::net::IpAddr;

use crate::wire::{AddressPair, Addresses, PortPair};

/// A flow: packets of one 5-tuple, one way. All parts in wire order; the protocol is never 0 in a real key. What stands for
/// the l4_ports of a ping is told in [`crate::wire::echo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source and destination address.
    pub addresses: Addresses,
    /// Source and destination l4_port.
    pub ports: PortPair,
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey {
    /// No flow: protocol 0 is in no real key.
    pub const NONE: Self = Self {
        addresses: Addresses::V4(AddressPair::from_wire([0; 8])),
        ports: PortPair::from_wire([0; 4]),
        protocol: 0,
    };

    /// The key of packets from one endpoint, an address and an l4_port, to another of the same family.
    #[inline(always)]
    pub fn new(
        source: (impl Into<IpAddr>, u16),
        destination: (impl Into<IpAddr>, u16),
        protocol: u8,
    ) -> Self {
        let addresses = Addresses::new(source.0.into(), destination.0.into());
        Self { addresses, ports: PortPair::new(source.1, destination.1), protocol }
    }

    /// The key of the packets the other way.
    pub fn reversed(self) -> Self {
        Self { addresses: self.addresses.reversed(), ports: self.ports.reversed(), protocol: self.protocol }
    }

    /// The source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.addresses.source()
    }

    /// The destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.addresses.destination()
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
    /// (the multiply-fold step of wyhash and its kin), then its halves folded again. IPv6 addresses are folded to one
    /// such half first.
    #[inline(always)]
    pub fn hash(self, key: &FlowKey) -> FlowHash {
        let ports = u64::from(key.ports.word()) | u64::from(key.protocol) << 32;
        let addresses = match key.addresses {
            Addresses::V4(pair) => pair.word(),
            Addresses::V6(pair) => {
                let [a, b, c, d] = pair.words();
                // The secret is turned differently, so that source and destination cannot cancel each other.
                let destination =
                    multiply_fold(c ^ self.addresses.rotate_left(32), d ^ self.ports.rotate_left(32));
                multiply_fold(a ^ self.addresses, b ^ self.ports) ^ destination.rotate_left(17)
            }
        };
        let folded = multiply_fold(addresses ^ self.addresses, ports ^ self.ports);
        FlowHash(folded as u32 ^ (folded >> 32) as u32)
    }
}

/// The halves of a product, folded.
#[inline(always)]
const fn multiply_fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn clients_of_one_subnet_spread_evenly() {
        let secret = HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let v4 = |n: u32| {
            FlowKey::new((Ipv4Addr::from(0x0a00_0000 + n), 0), (Ipv4Addr::new(203, 0, 113, 10), 0), 6)
        };
        let v6 = |n: u32| {
            let client = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n));
            FlowKey::new((client, 0), (Ipv6Addr::from_bits(0x2001_0db8 << 96), 0), 6)
        };
        for of_client in [v4 as fn(u32) -> FlowKey, v6] {
            let mut counts = [0u32; 64];
            for client in 0..64u32 * 1024 {
                let ports = PortPair::new(1024 + (client % 64) as u16, 80);
                let key = FlowKey { ports, ..of_client(client / 64) };
                counts[(secret.hash(&key).0 >> 26) as usize] += 1;
            }
            // 1,024 expected a slot, standard deviation 32: five of them either way.
            assert!(counts.iter().all(|count| (864..1184).contains(count)), "{counts:?}");
        }
    }
}
