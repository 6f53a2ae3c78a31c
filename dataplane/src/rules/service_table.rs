//! From a packet's destination to its service. The most specific that listens on it has it:
//!
//! 1. a service on the very VIP before one on a network of VIPs, and of those the longest prefix first;
//! 2. for one VIP or network, a service on the very l4_port, then one on a range of l4_ports (of nested ranges the
//!    narrowest), then one on all l4_ports (what LVS calls port 0).
//!
//! Looked at for the first packet of a flow only. What it costs does not grow with the services: two looks into hash maps
//! for each prefix length in use, and a search by halves where one VIP has several ranges.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::map::{Key, Map};
use crate::index::ServiceIndex;
use crate::prefix::Prefix;

/// What a packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: IpAddr,
    /// The TCP or UDP port number, host order.
    pub l4_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// The l4_ports from the first to the last, both included, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct L4Ports {
    /// The lowest.
    pub first: u16,
    /// The highest, not below `first`.
    pub last: u16,
}

impl L4Ports {
    /// Every port number, 0 included: also a packet that carries it has asked for this VIP.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// A single one.
    pub const fn one(l4_port: u16) -> Self {
        Self { first: l4_port, last: l4_port }
    }

    /// The l4_port, where it is one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether `l4_port` is one of them.
    pub const fn contains(self, l4_port: u16) -> bool {
        self.first <= l4_port && l4_port <= self.last
    }

    /// Whether all of `other` are among them.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether any is one of `other` too.
    pub const fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many more than one they are.
    const fn width(self) -> u16 {
        self.last.saturating_sub(self.first)
    }
}

/// What a service listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePattern {
    /// The VIP, or a network of them.
    pub vips: Prefix,
    /// Its TCP or UDP port numbers.
    pub l4_ports: L4Ports,
    /// IP protocol number.
    pub protocol: u8,
}

impl ServicePattern {
    /// Whether a packet that asks for `key` asks for this.
    pub fn matches(&self, key: ServiceKey) -> bool {
        self.protocol == key.protocol && self.l4_ports.contains(key.l4_port) && self.vips.contains(key.vip)
    }
}

impl From<ServiceKey> for ServicePattern {
    fn from(key: ServiceKey) -> Self {
        Self { vips: key.vip.into(), l4_ports: L4Ports::one(key.l4_port), protocol: key.protocol }
    }
}

impl Key for ServiceKey {
    #[inline(always)]
    fn hash(self) -> usize {
        let ports = u64::from(self.l4_port) << 8 | u64::from(self.protocol);
        match self.vip {
            IpAddr::V4(vip) => cpu::crc32c_u64(0, u64::from(vip.to_bits()) << 32 | ports) as usize,
            IpAddr::V6(vip) => cpu::crc32c_u64(Key::hash(vip.to_bits()) as u32, ports) as usize,
        }
    }
}

/// An immutable map from what packets ask for to [`ServiceIndex`].
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    v4: Box<[Level]>,
    v6: Box<[Level]>,
}

/// The services on prefixes of one length, the longest first: single VIPs, where there are any.
#[derive(Clone, Debug)]
struct Level {
    prefix_len: u8,
    /// Those on a single l4_port.
    single: Map<ServiceKey, ServiceIndex>,
    /// Those on several, by network and protocol (the key's l4_port is 0).
    ranges: Map<ServiceKey, Box<[Range]>>,
}

/// Of disjoint ranges in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    l4_ports: L4Ports,
    service: ServiceIndex,
}

impl ServiceTable {
    /// The most specific service that listens on `key`.
    #[inline]
    pub fn find(&self, key: ServiceKey) -> Option<ServiceIndex> {
        let levels = if key.vip.is_ipv4() { &self.v4 } else { &self.v6 };
        levels.iter().find_map(|level| level.find(key))
    }
}

impl Level {
    #[inline]
    fn find(&self, key: ServiceKey) -> Option<ServiceIndex> {
        let key = ServiceKey { vip: Prefix::new(key.vip, self.prefix_len).network(), ..key };
        self.single.find(key).copied().or_else(|| {
            let ranges = self.ranges.find(ServiceKey { l4_port: 0, ..key })?;
            // The only one that can hold it is the first that does not end below it.
            let at = ranges.partition_point(|range| range.l4_ports.last < key.l4_port);
            ranges.get(at).filter(|range| range.l4_ports.contains(key.l4_port)).map(|range| range.service)
        })
    }

    fn new(prefix_len: u8, services: &[(ServicePattern, ServiceIndex)]) -> Self {
        let key = |pattern: &ServicePattern, l4_port| ServiceKey {
            vip: pattern.vips.network(),
            l4_port,
            protocol: pattern.protocol,
        };
        let single = services.iter().filter_map(|(pattern, service)| {
            pattern.l4_ports.single().map(|l4_port| (key(pattern, l4_port), *service))
        });
        let mut ranges: BTreeMap<ServiceKey, Vec<Range>> = BTreeMap::new();
        for (pattern, service) in services.iter().filter(|(pattern, _)| pattern.l4_ports.width() > 0) {
            let range = Range { l4_ports: pattern.l4_ports, service: *service };
            ranges.entry(key(pattern, 0)).or_default().push(range);
        }
        let ranges = ranges.into_iter().map(|(key, ranges)| (key, disjoint(&ranges)));
        Self { prefix_len, single: single.collect(), ranges: ranges.collect() }
    }
}

/// The same decisions by ranges that do not overlap: where several did, the narrowest has the l4_port, of equally narrow
/// ones the first.
fn disjoint(ranges: &[Range]) -> Box<[Range]> {
    // Port numbers at which another range may begin to decide; the end lies beyond 16 bits.
    let edges = ranges
        .iter()
        .flat_map(|Range { l4_ports, .. }| [u32::from(l4_ports.first), u32::from(l4_ports.last) + 1]);
    let edges: BTreeSet<u32> = edges.collect();
    let mut by_first: Vec<(usize, &Range)> = ranges.iter().enumerate().collect();
    by_first.sort_by_key(|(_, range)| range.l4_ports.first);
    let mut waiting = by_first.into_iter().peekable();
    let mut open: BTreeSet<(u16, usize)> = BTreeSet::new();
    let mut pieces = Vec::new();
    for (edge, next_edge) in edges.iter().zip(edges.iter().skip(1)) {
        while let Some((order, range)) =
            waiting.next_if(|(_, range)| u32::from(range.l4_ports.first) <= *edge)
        {
            open.insert((range.l4_ports.width(), order));
        }
        open.retain(|(_, order)| {
            ranges.get(*order).is_some_and(|range| u32::from(range.l4_ports.last) >= *edge)
        });
        let deciding = open.first().and_then(|(_, order)| ranges.get(*order));
        // Both lie within 16 bits: the last edge of all only ends a piece.
        let l4_ports = L4Ports { first: *edge as u16, last: (*next_edge - 1) as u16 };
        pieces.extend(deciding.map(|range| Range { l4_ports, service: range.service }));
    }
    pieces.into()
}

impl<P: Into<ServicePattern>> FromIterator<(P, ServiceIndex)> for ServiceTable {
    /// Patterns must differ; of two equal ones the first is found.
    fn from_iter<I: IntoIterator<Item = (P, ServiceIndex)>>(services: I) -> Self {
        let mut v4: BTreeMap<Reverse<u8>, Vec<_>> = BTreeMap::new();
        let mut v6: BTreeMap<Reverse<u8>, Vec<_>> = BTreeMap::new();
        for (pattern, service) in services {
            let pattern: ServicePattern = pattern.into();
            let levels = if pattern.vips.network().is_ipv4() { &mut v4 } else { &mut v6 };
            levels.entry(Reverse(pattern.vips.prefix_len())).or_default().push((pattern, service));
        }
        let [v4, v6] = [v4, v6].map(|levels| {
            levels.into_iter().map(|(Reverse(len), services)| Level::new(len, &services)).collect()
        });
        Self { v4, v6 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(vips: &str, first: u16, last: u16, protocol: u8) -> ServicePattern {
        let (address, len) = vips.split_once('/').map_or((vips, 128), |(a, len)| (a, len.parse().unwrap()));
        let address: IpAddr = address.parse().unwrap();
        ServicePattern { vips: Prefix::new(address, len), l4_ports: L4Ports { first, last }, protocol }
    }

    fn key(vip: &str, l4_port: u16, protocol: u8) -> ServiceKey {
        ServiceKey { vip: vip.parse().unwrap(), l4_port, protocol }
    }

    #[test]
    fn finds_each_service_and_no_other() {
        let keys = |n: u16, protocol| {
            [format!("203.0.113.{}", n % 256), format!("2001:db8::{:x}", n % 256)]
                .map(|vip| key(&vip, 80 + n, protocol))
        };
        let table: ServiceTable =
            (0..1_000).map(|n| (keys(n / 2, 6)[usize::from(n % 2)], ServiceIndex(n))).collect();
        for n in 0..500 {
            assert_eq!(
                keys(n, 6).map(|key| table.find(key)),
                [2 * n, 2 * n + 1].map(|n| Some(ServiceIndex(n)))
            );
            assert_eq!(keys(n, 17).map(|key| table.find(key)), [None; 2]);
        }
        assert_eq!(ServiceTable::default().find(key("203.0.113.1", 80, 6)), None);
    }

    #[test]
    fn the_most_specific_one_has_the_packet() {
        let any = u16::MAX;
        let services = [
            pattern("203.0.113.10", 80, 80, 6),
            pattern("203.0.113.10", 8000, 8100, 6),
            pattern("203.0.113.10", 8050, 8060, 6),
            pattern("203.0.113.10", 0, any, 6),
            pattern("203.0.113.0/28", 80, 80, 6),
            pattern("203.0.113.0/28", 9000, 9001, 6),
            pattern("203.0.113.0/24", 0, any, 6),
            pattern("2001:db8::/64", 443, 443, 6),
            pattern("2001:db8::1", 0, any, 6),
            pattern("0.0.0.0/0", 53, 53, 17),
        ];
        let table: ServiceTable =
            (0..).map(ServiceIndex).zip(services).map(|(index, s)| (s, index)).collect();
        for (vip, l4_port, protocol, expected) in [
            ("203.0.113.10", 80, 6, Some(0)),
            ("203.0.113.10", 8000, 6, Some(1)),
            ("203.0.113.10", 8049, 6, Some(1)),
            ("203.0.113.10", 8050, 6, Some(2)),
            ("203.0.113.10", 8060, 6, Some(2)),
            ("203.0.113.10", 8061, 6, Some(1)),
            ("203.0.113.10", 8100, 6, Some(1)),
            ("203.0.113.10", 8101, 6, Some(3)),
            // The very VIP with any l4_port comes before a network with the very l4_port.
            ("203.0.113.10", 9000, 6, Some(3)),
            ("203.0.113.10", 0, 6, Some(3)),
            ("203.0.113.11", 80, 6, Some(4)),
            ("203.0.113.11", 9001, 6, Some(5)),
            ("203.0.113.11", 9002, 6, Some(6)),
            ("203.0.113.16", 80, 6, Some(6)),
            ("203.0.114.1", 80, 6, None),
            ("2001:db8::1", 443, 6, Some(8)),
            ("2001:db8::2", 443, 6, Some(7)),
            ("2001:db8::2", 444, 6, None),
            ("192.0.2.1", 53, 17, Some(9)),
            ("203.0.113.10", 53, 17, Some(9)),
            ("::", 53, 17, None),
        ] {
            let found = table.find(key(vip, l4_port, protocol));
            assert_eq!(found, expected.map(ServiceIndex), "{vip} {l4_port} {protocol}");
        }
    }

    /// A pattern among few addresses and ports, so that they overlap; or a key, which is the narrowest of them.
    fn narrow_pattern() -> impl Strategy<Value = ServicePattern> {
        (any::<bool>(), 0u8..8, 0u8..=3, 0u16..12, 0u16..12, 0u8..2).prop_map(
            |(is_v4, host, host_bits, a, b, protocol)| {
                let (address, bits): (IpAddr, u8) = if is_v4 {
                    (std::net::Ipv4Addr::from_bits(host.into()).into(), 32)
                } else {
                    (std::net::Ipv6Addr::from_bits(host.into()).into(), 128)
                };
                let l4_ports = L4Ports { first: a.min(b), last: a.max(b) };
                ServicePattern { vips: Prefix::new(address, bits - host_bits), l4_ports, protocol }
            },
        )
    }

    proptest! {
        #[test]
        fn it_finds_what_comparing_with_each_service_finds(
            services in proptest::collection::vec(narrow_pattern(), 0..12), asked in narrow_pattern(),
        ) {
            let key = ServiceKey {
                vip: asked.vips.network(), l4_port: asked.l4_ports.first, protocol: asked.protocol,
            };
            let indexed = services.iter().zip(0..).map(|(pattern, index)| (*pattern, ServiceIndex(index)));
            let expected = indexed.clone().filter(|(pattern, _)| pattern.matches(key)).min_by_key(|(pattern, _)| {
                (Reverse(pattern.vips.prefix_len()), pattern.l4_ports.width())
            });
            let table: ServiceTable = indexed.collect();
            prop_assert_eq!(table.find(key), expected.map(|(_, index)| index));
        }
    }
}
