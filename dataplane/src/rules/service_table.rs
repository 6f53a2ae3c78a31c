//! From a packet's destination to its service: open addressing over exact VIP, l4_port and protocol.

use std::net::Ipv4Addr;

use crate::index::ServiceIndex;

/// What a service listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Ipv4Addr,
    /// The TCP or UDP port number, host order.
    pub l4_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl ServiceKey {
    #[inline(always)]
    fn hash(self) -> usize {
        let rest = u64::from(self.l4_port) << 8 | u64::from(self.protocol);
        cpu::crc32c_u64(0, u64::from(self.vip.to_bits()) << 32 | rest) as usize
    }
}

/// An immutable map from [`ServiceKey`] to [`ServiceIndex`], at most half full.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    /// A power of two of places.
    places: Box<[Option<(ServiceKey, ServiceIndex)>]>,
}

impl ServiceTable {
    /// The service that listens on `key`.
    #[inline]
    pub fn find(&self, key: ServiceKey) -> Option<ServiceIndex> {
        let mut at = key.hash();
        for _ in 0..self.places.len() {
            match self.places.get(at & (self.places.len() - 1)) {
                Some(Some((there, index))) if *there == key => return Some(*index),
                Some(Some(_)) => at += 1,
                _ => return None,
            }
        }
        None
    }
}

impl FromIterator<(ServiceKey, ServiceIndex)> for ServiceTable {
    /// Keys must differ; of two equal ones the first is found.
    fn from_iter<I: IntoIterator<Item = (ServiceKey, ServiceIndex)>>(services: I) -> Self {
        let services: Vec<_> = services.into_iter().collect();
        let mut places = vec![None; (services.len() * 2).next_power_of_two()];
        let mask = places.len() - 1;
        for service in services {
            let mut at = service.0.hash() & mask;
            while places[at].is_some() {
                at = (at + 1) & mask;
            }
            places[at] = Some(service);
        }
        Self { places: places.into_boxed_slice() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_service_and_no_other() {
        let key = |n: u16, protocol| ServiceKey {
            vip: Ipv4Addr::new(203, 0, 113, n as u8),
            l4_port: 80 + n,
            protocol,
        };
        let table: ServiceTable = (0..500).map(|n| (key(n, 6), ServiceIndex(n))).collect();
        for n in 0..500 {
            assert_eq!(table.find(key(n, 6)), Some(ServiceIndex(n)));
            assert_eq!(table.find(key(n, 17)), None);
        }
        assert_eq!(ServiceTable::default().find(key(0, 6)), None);
    }
}
