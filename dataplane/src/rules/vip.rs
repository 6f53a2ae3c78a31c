//! What the line knows of a VIP before it knows the service: which part of a client decides who owns its connections.
//!
//! Persistence asks that all connections of one client, or of one client network, meet at one worker: there lies the
//! template that tells their backend. Elsewhere the client's whole endpoint decides, which spreads better.

use crate::flow::FlowKey;
use crate::index::WorkerIndex;
use crate::wire::Addresses;

/// The part of a client's endpoint that decides which worker owns its connections. Ordered from the finest to the
/// coarsest: what meets at one worker by a finer part meets there by a coarser one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientPart {
    /// Address and l4_port; where there are ports with RSS, their hash, of the VIP's endpoint too, stands in for it.
    Endpoint,
    /// Address and l4_port, and no hash of a port: answers of NAT name the client and its backend, and not the VIP.
    EndpointAlone,
    /// This many low bits of the address are left out, 0 to 32, of an IPv6 address 0 to 128.
    Network {
        /// Host bits.
        host_bits: u8,
    },
}

impl ClientPart {
    /// The owner, of `worker_count` workers, of a packet from a client. For [`crate::rules::Ruleset::owner_by`] alone, which
    /// knows of ports with RSS.
    #[inline(always)]
    pub(super) fn owner(self, key: &FlowKey, worker_count: u16) -> WorkerIndex {
        let hash = match key.addresses {
            Addresses::V4(pair) => {
                let address = u64::from(pair.source().to_bits());
                let client = match self {
                    Self::Endpoint | Self::EndpointAlone => address << 16 | u64::from(key.ports.source()),
                    Self::Network { host_bits } => address >> host_bits.min(32) << 16,
                };
                cpu::crc32c_u64(0, client)
            }
            Addresses::V6(pair) => {
                let address = pair.source().to_bits();
                let (network, l4_port) = match self {
                    Self::Endpoint | Self::EndpointAlone => (address, u64::from(key.ports.source())),
                    Self::Network { host_bits } => (address.checked_shr(host_bits.into()).unwrap_or(0), 0),
                };
                let first = cpu::crc32c_u64(l4_port as u32, (network >> 64) as u64);
                cpu::crc32c_u64(first, network as u64)
            }
        };
        let hash = u64::from(hash);
        WorkerIndex(((hash * u64::from(worker_count.max(1))) >> 32) as u16)
    }
}

/// A VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// What decides who owns new connections.
    pub part: ClientPart,
    /// What decided for connections that are still open: their packets are looked for at that owner first, and go
    /// on to the owner by `part` when it does not know them.
    pub part_before: Option<ClientPart>,
}

impl Vip {
    /// A VIP whose connections spread by endpoint.
    pub const PLAIN: Self = Self { part: ClientPart::Endpoint, part_before: None };

    /// What decides which worker is asked first.
    #[inline(always)]
    pub fn first_part(self) -> ClientPart {
        self.part_before.unwrap_or(self.part)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn key(client: u32, l4_port: u16) -> FlowKey {
        let vip = Ipv4Addr::new(203, 0, 113, 10);
        FlowKey::new((Ipv4Addr::from(client), l4_port), (vip, 80), 6)
    }

    #[test]
    fn a_network_meets_at_one_worker_and_networks_spread() {
        for (host_bits, clients) in [(0u8, 1u32), (8, 256), (32, 1 << 16)] {
            let part = ClientPart::Network { host_bits };
            let owners: HashSet<_> =
                (0..clients).map(|n| part.owner(&key(0x0a01_0000 + n, n as u16), 8)).collect();
            assert_eq!(owners.len(), 1, "{host_bits} host bits");
        }
        let part = ClientPart::Network { host_bits: 8 };
        let mut counts = [0u32; 4];
        (0..40_000).for_each(|n| counts[part.owner(&key(n << 8, 7), 4).as_usize()] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn coarser_parts_are_greater() {
        let network = |host_bits| ClientPart::Network { host_bits };
        assert!(ClientPart::Endpoint < ClientPart::EndpointAlone && ClientPart::EndpointAlone < network(0));
        assert!(network(0) < network(8) && network(8) < network(32));
    }
}
