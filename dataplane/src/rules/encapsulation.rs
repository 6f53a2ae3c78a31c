//! Tunnels: what the rules say about a service's, and the outer header of each backend, ready but for what differs from
//! packet to packet.
//!
//! Read first: RFC 2003 (IPv4 in IPv4), RFC 2473 (in IPv6), RFC 4213 (IPv6 in IPv4), RFC 6040 (ECN of the outer
//! header), RFC 6935 and 6936 (UDP checksums of tunnels), and [`crate::wire::gre`] and [`crate::wire::gue`]. Not here: where
//! the header goes in the packet, which is `stage::rewrite::tunnel`.

mod ends;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use ends::{QuotedTunnel, TunnelEnds};

use crate::wire::checksum::{self, combine};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ipv4::{self, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP};
use crate::wire::{AddressPair, gre, gue, ipv6, udp};

/// What the rules say about a service's tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What stands between the outer IP header and the packet.
    pub carrier: Carrier,
    /// The source of the outer header.
    pub source: Source,
    /// The DSCP of the outer header, 0 to 63; `None` is the packet's own.
    pub dscp: Option<u8>,
    /// The TTL or hop limit of the outer header; `None` is the packet's own.
    pub ttl: Option<u8>,
    /// Whether the packet's own TTL or hop limit is lowered by one, as a router does.
    pub lowers_ttl: bool,
    /// Whether routers may not fragment an outer IPv4 packet. Its identification is 0 in any case, which RFC 6864 allows
    /// for these alone: fragments of others can be put together wrongly.
    pub dont_fragment: bool,
    /// Whether UDP over IPv4 has a checksum; over IPv6 it always has.
    pub udp_checksum: bool,
    /// Whether GUE's header of variant 0 names a second choice ([`gue::second_chance`]).
    pub second_chance: bool,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            carrier: Carrier::Ipip,
            source: Source::default(),
            dscp: None,
            ttl: Some(64),
            lowers_ttl: true,
            dont_fragment: true,
            udp_checksum: false,
            second_chance: false,
        }
    }
}

impl Tunnel {
    /// Only GUE's header of variant 0 has room for one.
    fn has_second_choice(&self) -> bool {
        self.second_chance && matches!(self.carrier, Carrier::Gue { has_header: true, .. })
    }
}

/// What stands between the outer IP header and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Nothing.
    Ipip,
    /// A GRE header.
    Gre {
        /// Its key (RFC 2890).
        key: Option<u32>,
    },
    /// A UDP and a GUE header.
    Gue {
        /// Variant 0 with four bytes, or variant 1 without a header of its own.
        has_header: bool,
        /// The UDP destination port, host order.
        l4_port: u16,
    },
}

/// The source of outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address of each family; where one is missing, that of the port the packet leaves by.
    Fixed {
        /// In outer IPv4 headers.
        v4: Option<Ipv4Addr>,
        /// In outer IPv6 headers.
        v6: Option<Ipv6Addr>,
    },
    /// Another one for each flow, in [`PER_FLOW_V4`] and [`PER_FLOW_V6`]: so that a backend whose NIC hashes outer addresses
    /// spreads flows over its queues.
    PerFlow,
}

impl Default for Source {
    fn default() -> Self {
        Self::Fixed { v4: None, v6: None }
    }
}

/// The network of sources per flow, a /16 (Katran's).
pub const PER_FLOW_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// The network of sources per flow, a /96 in the discard-only prefix (RFC 6666; Katran's).
pub const PER_FLOW_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// Bytes of the longest of what stands between the outer IP header and the packet: UDP, GUE and its second choice.
const CARRIED_LEN_MAX: usize = udp::HEADER_LEN + gue::HEADER_LEN + gue::SECOND_CHANCE_LEN;
/// Bytes of the longest header.
pub const LEN_MAX: usize = ipv6::HEADER_LEN + CARRIED_LEN_MAX;

/// What of a packet and its flow goes into the header in front of it.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// It is IPv6.
    pub is_v6: bool,
    /// Its TOS byte or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Its TTL or hop limit, as it goes into the tunnel.
    pub ttl: u8,
    /// Its length in bytes, from its IP header on.
    pub len: u16,
    /// The last four bytes of its client's address, in wire order.
    pub client_tail: [u8; 4],
    /// Its client's l4_port, host order.
    pub client_port: u16,
    /// Who gets it if the tunnel's end does not know its connection; only for a tunnel with `second_chance`.
    pub second_choice: Option<Ipv4Addr>,
    /// The sum of its words (see [`checksum::sum`]), where [`Encapsulation::wants_sum`]; `None` where it is not known.
    pub sum: Option<u16>,
}

/// The outer header towards one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// In wire order; what differs from packet to packet is zero.
    header: [u8; LEN_MAX],
    len: u8,
    is_v6: bool,
    carrier: Carrier,
    is_source_per_flow: bool,
    /// DSCP in its place, ECN zero.
    traffic_class: Option<u8>,
    ttl: Option<u8>,
    lowers_ttl: bool,
    has_udp_checksum: bool,
    has_second_choice: bool,
    /// Sum of the outer IPv4 header's words as they stand in `header`.
    ip_sum: u16,
    /// Sum of what the outer UDP checksum covers, as it stands in `header`: pseudo header, UDP and GUE header.
    udp_sum: u16,
}

impl Encapsulation {
    /// The header from `source` to `destination`; `source` counts where the tunnel names none. `None` where no source of
    /// the destination's family is known.
    pub fn new(tunnel: &Tunnel, source: Option<IpAddr>, destination: IpAddr) -> Option<Self> {
        let (bytes, carried_len) = carried(tunnel);
        let protocol = match tunnel.carrier {
            Carrier::Ipip => 0,
            Carrier::Gre { .. } => gre::PROTOCOL_GRE,
            Carrier::Gue { .. } => PROTOCOL_UDP,
        };
        let mut header = [0; LEN_MAX];
        let (ip_len, pseudo) = match destination {
            IpAddr::V4(destination) => {
                let addresses = AddressPair::new(source_v4(tunnel.source, source)?, destination);
                let mut ip = ipv4::header(0, 0, protocol, addresses);
                // Hops and checksum are each packet's.
                (ip[6], ip[8], ip[10], ip[11]) = (u8::from(tunnel.dont_fragment) << 6, 0, 0, 0);
                header[..ipv4::HEADER_LEN].copy_from_slice(&ip);
                (ipv4::HEADER_LEN, checksum::sum(&addresses.to_wire()))
            }
            IpAddr::V6(destination) => {
                let source = source_v6(tunnel.source, source)?;
                (header[0], header[6]) = (0x60, protocol);
                header[8..24].copy_from_slice(&source.octets());
                header[24..ipv6::HEADER_LEN].copy_from_slice(&destination.octets());
                (ipv6::HEADER_LEN, checksum::sum(&header[8..ipv6::HEADER_LEN]))
            }
        };
        header[ip_len..ip_len + carried_len].copy_from_slice(&bytes[..carried_len]);
        let ip_sum = checksum::sum(&header[..ip_len]);
        let udp_sum =
            combine(combine(pseudo, u16::from(PROTOCOL_UDP).to_be()), checksum::sum(&bytes[..carried_len]));
        Some(Self {
            header,
            len: (ip_len + carried_len) as u8,
            is_v6: destination.is_ipv6(),
            carrier: tunnel.carrier,
            is_source_per_flow: tunnel.source == Source::PerFlow,
            traffic_class: tunnel.dscp.map(|dscp| dscp << 2),
            ttl: tunnel.ttl,
            lowers_ttl: tunnel.lowers_ttl,
            has_udp_checksum: destination.is_ipv6() || tunnel.udp_checksum,
            has_second_choice: tunnel.has_second_choice(),
            ip_sum,
            udp_sum,
        })
    }

    /// Bytes that it adds to a packet.
    #[inline(always)]
    pub fn added_len(&self) -> u16 {
        self.len.into()
    }

    /// What stands between the outer IP header and the packet.
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// Whether the outer header is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// The EtherType of a frame with it.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        if self.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
    }

    /// Whether the packet's own TTL or hop limit is lowered on the way in.
    #[inline(always)]
    pub fn lowers_ttl(&self) -> bool {
        self.lowers_ttl
    }

    /// Whether it needs [`Inner::sum`]: for a UDP checksum.
    #[inline(always)]
    pub fn wants_sum(&self) -> bool {
        self.has_udp_checksum && matches!(self.carrier, Carrier::Gue { .. })
    }

    /// The header for one packet: as many of these bytes as [`Encapsulation::added_len`] says. The lengths that it writes are
    /// right where those of packet and header together are below 2^16.
    #[inline]
    pub fn header(&self, inner: &Inner) -> [u8; LEN_MAX] {
        let mut header = self.header;
        let traffic_class = match self.traffic_class {
            Some(dscp) => dscp | inner.traffic_class & 3,
            None => inner.traffic_class,
        };
        let ttl = self.ttl.unwrap_or(inner.ttl);
        if self.is_v6 {
            let source = self.complete_v6(&mut header, inner, traffic_class, ttl);
            if let Some((_, carried)) = header.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>() {
                self.complete_carried(carried, ipv6::HEADER_LEN, inner, source);
            }
        } else {
            let source = self.complete_v4(&mut header, inner, traffic_class, ttl);
            if let Some((_, carried)) = header.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>() {
                self.complete_carried(carried, ipv4::HEADER_LEN, inner, source);
            }
        }
        header
    }

    /// Completes an outer IPv4 header; the sum of what it wrote into the addresses.
    #[inline(always)]
    fn complete_v4(&self, header: &mut [u8; LEN_MAX], inner: &Inner, traffic_class: u8, ttl: u8) -> u16 {
        let len = inner.len.wrapping_add(self.added_len()).to_be_bytes();
        (header[1], header[2], header[3], header[8]) = (traffic_class, len[0], len[1], ttl);
        let mut protocol = 0;
        if self.carrier == Carrier::Ipip {
            protocol = inner.protocol();
            header[9] = protocol;
        }
        let source = if self.is_source_per_flow { inner.spread_v4() } else { [0; 2] };
        header[14] |= source[0];
        header[15] |= source[1];
        let source = u16::from_ne_bytes(source);
        let words = [
            u16::from_ne_bytes([0, traffic_class]),
            u16::from_ne_bytes(len),
            u16::from_ne_bytes([ttl, protocol]),
            source,
        ];
        let sum = words.into_iter().fold(self.ip_sum, combine);
        [header[10], header[11]] = (!sum).to_ne_bytes();
        source
    }

    /// The same for IPv6.
    #[inline(always)]
    fn complete_v6(&self, header: &mut [u8; LEN_MAX], inner: &Inner, traffic_class: u8, ttl: u8) -> u16 {
        let len =
            inner.len.wrapping_add(self.added_len()).wrapping_sub(ipv6::HEADER_LEN as u16).to_be_bytes();
        (header[0], header[1]) = (0x60 | traffic_class >> 4, traffic_class << 4);
        (header[4], header[5], header[7]) = (len[0], len[1], ttl);
        if self.carrier == Carrier::Ipip {
            header[6] = inner.protocol();
        }
        if !self.is_source_per_flow {
            return 0;
        }
        let [a, b] = inner.spread_v6();
        let [_, _, c, d] = inner.client_tail;
        (header[20], header[21], header[22], header[23]) = (a, b, c, d);
        combine(u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
    }

    /// Completes what stands behind the outer IP header of `ip_len` bytes, the sum of whose changed addresses is `source`.
    #[inline(always)]
    fn complete_carried(&self, carried: &mut [u8], ip_len: usize, inner: &Inner, source: u16) {
        match (self.carrier, carried.first_chunk_mut::<CARRIED_LEN_MAX>()) {
            (Carrier::Gre { .. }, Some(carried)) => {
                let ethertype = if inner.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
                [carried[2], carried[3]] = ethertype.to_be_bytes();
            }
            (Carrier::Gue { has_header, .. }, Some(carried)) => {
                let len = inner.len.wrapping_add(self.added_len()).wrapping_sub(ip_len as u16).to_be_bytes();
                let l4_port = if !self.is_v6 {
                    inner.spread_v4()
                } else if inner.is_v6 {
                    inner.spread_v6()
                } else {
                    let ([high, low], [_, _, c, d]) = (inner.client_port.to_be_bytes(), inner.client_tail);
                    [c ^ high, d ^ low]
                };
                (carried[0], carried[1]) = (l4_port[0], l4_port[1]);
                (carried[4], carried[5]) = (len[0], len[1]);
                let protocol = if has_header { inner.protocol() } else { 0 };
                carried[9] |= protocol;
                let second = self.complete_second_choice(carried, inner);
                let Some(sum) = inner.sum.filter(|_| self.has_udp_checksum) else { return };
                let len = u16::from_ne_bytes(len);
                // The length counts twice: in the pseudo header too.
                let protocol = u16::from_ne_bytes([0, protocol]);
                let words = [u16::from_ne_bytes(l4_port), len, len, protocol, source, second, sum];
                let sum = words.into_iter().fold(self.udp_sum, combine);
                // A computed zero is sent as ones: zero is none (RFC 768).
                let checksum = if sum == 0xffff { sum } else { !sum };
                [carried[6], carried[7]] = checksum.to_ne_bytes();
            }
            _ => {}
        }
    }

    /// Names the second choice, where the header has room for one; the sum of what it wrote.
    #[inline(always)]
    fn complete_second_choice(&self, carried: &mut [u8; CARRIED_LEN_MAX], inner: &Inner) -> u16 {
        if !self.has_second_choice {
            return 0;
        }
        let words = gue::second_chance(inner.second_choice);
        let (_, at) = carried.split_at_mut(udp::HEADER_LEN + gue::HEADER_LEN);
        at.copy_from_slice(&words);
        checksum::sum(&words)
    }
}

/// Katran's formulas, so that directors of both kinds can stand side by side.
impl Inner {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        if self.is_v6 { PROTOCOL_IPV6 } else { PROTOCOL_IPV4 }
    }

    /// Two bytes that differ from flow to flow, for outer IPv4 headers and what they carry.
    #[inline(always)]
    fn spread_v4(&self) -> [u8; 2] {
        let ([high, low], [_, _, c, d]) = (self.client_port.to_be_bytes(), self.client_tail);
        [c ^ low, d ^ high]
    }

    /// The same for outer IPv6 headers, and IPv6 packets in them.
    #[inline(always)]
    fn spread_v6(&self) -> [u8; 2] {
        let ([high, low], [a, b, ..]) = (self.client_port.to_be_bytes(), self.client_tail);
        [a ^ high, b ^ low]
    }
}

/// What stands behind the outer IP header, and how many bytes of it.
fn carried(tunnel: &Tunnel) -> ([u8; CARRIED_LEN_MAX], usize) {
    let mut bytes = [0; CARRIED_LEN_MAX];
    let len = match tunnel.carrier {
        Carrier::Ipip => 0,
        Carrier::Gre { key: None } => gre::HEADER_LEN,
        Carrier::Gre { key: Some(key) } => {
            bytes[..8].copy_from_slice(&gre::header_with_key(0, key));
            gre::HEADER_LEN + gre::KEY_LEN
        }
        Carrier::Gue { has_header, l4_port } => {
            [bytes[2], bytes[3]] = l4_port.to_be_bytes();
            if tunnel.has_second_choice() {
                bytes[udp::HEADER_LEN] = gue::SECOND_CHANCE_WORDS;
                CARRIED_LEN_MAX
            } else {
                udp::HEADER_LEN + if has_header { gue::HEADER_LEN } else { 0 }
            }
        }
    };
    (bytes, len)
}

fn source_v4(source: Source, of_port: Option<IpAddr>) -> Option<Ipv4Addr> {
    match (source, of_port) {
        (Source::PerFlow, _) => Some(PER_FLOW_V4),
        (Source::Fixed { v4: Some(v4), .. }, _) | (_, Some(IpAddr::V4(v4))) => Some(v4),
        _ => None,
    }
}

fn source_v6(source: Source, of_port: Option<IpAddr>) -> Option<Ipv6Addr> {
    match (source, of_port) {
        (Source::PerFlow, _) => Some(PER_FLOW_V6),
        (Source::Fixed { v6: Some(v6), .. }, _) | (_, Some(IpAddr::V6(v6))) => Some(v6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const CLIENT_PORT: u16 = 31_337;
    const BACKENDS: [&str; 2] = ["10.0.0.3", "fc00::1"];
    const CARRIERS: [Carrier; 5] = [
        Carrier::Ipip,
        Carrier::Gre { key: None },
        Carrier::Gre { key: Some(0xdead_beef) },
        Carrier::Gue { has_header: true, l4_port: 6_080 },
        Carrier::Gue { has_header: false, l4_port: 9_886 },
    ];

    fn fixed() -> Source {
        Source::Fixed { v4: Some(Ipv4Addr::new(10, 0, 13, 37)), v6: Some("fc00:2307::1337".parse().unwrap()) }
    }

    fn inner(is_v6: bool) -> Inner {
        Inner {
            is_v6,
            traffic_class: 0x8d,
            ttl: 63,
            len: 1_400,
            client_tail: CLIENT.octets(),
            client_port: CLIENT_PORT,
            second_choice: None,
            sum: None,
        }
    }

    /// The header towards a backend, and the outer IP header's protocol, TTL, TOS byte and addresses as etherparse reads them.
    fn encoded(tunnel: &Tunnel, backend: &str, inner: &Inner) -> (Vec<u8>, (u8, u8, u8, IpAddr, IpAddr)) {
        let encapsulation = Encapsulation::new(tunnel, None, backend.parse().unwrap()).unwrap();
        let header = encapsulation.header(inner)[..encapsulation.added_len().into()].to_vec();
        let total = usize::from(inner.len) + header.len();
        let read = if encapsulation.is_v6() {
            let (ip, _) = Ipv6Header::from_slice(&header).unwrap();
            assert_eq!(usize::from(ip.payload_length), total - 40);
            let (source, destination) = (ip.source.into(), ip.destination.into());
            (ip.next_header.0, ip.hop_limit, ip.traffic_class, source, destination)
        } else {
            let (ip, _) = Ipv4Header::from_slice(&header).unwrap();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), total);
            assert_eq!((ip.identification, ip.dont_fragment), (0, tunnel.dont_fragment));
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (ip.protocol.0, ip.time_to_live, ip.dscp.value() << 2 | ip.ecn.value(), source, destination)
        };
        (header, read)
    }

    #[test]
    fn every_carrier_in_either_family_is_what_an_independent_decoder_expects() {
        for (carrier, backend, is_v6) in
            CARRIERS.iter().flat_map(|c| BACKENDS.iter().flat_map(move |b| [(c, b, false), (c, b, true)]))
        {
            let tunnel = Tunnel { carrier: *carrier, source: fixed(), ..Tunnel::default() };
            let (header, (protocol, ttl, tos, source, destination)) =
                encoded(&tunnel, backend, &inner(is_v6));
            assert_eq!((ttl, tos, destination), (64, 0x8d, backend.parse().unwrap()));
            let is_outer_v6 = destination.is_ipv6();
            let expected = if is_outer_v6 { "fc00:2307::1337" } else { "10.0.13.37" };
            assert_eq!(source, expected.parse::<IpAddr>().unwrap());
            let carried = &header[if is_outer_v6 { 40 } else { 20 }..];
            let (number, ethertype) = if is_v6 { (41, [0x86, 0xdd]) } else { (4, [8, 0]) };
            match carrier {
                Carrier::Ipip => assert_eq!((protocol, carried), (number, &[][..])),
                Carrier::Gre { key: None } => {
                    assert_eq!((protocol, carried), (47, &[0, 0, ethertype[0], ethertype[1]][..]));
                }
                Carrier::Gre { key: Some(_) } => {
                    let keyed = [0x20, 0, ethertype[0], ethertype[1], 0xde, 0xad, 0xbe, 0xef];
                    assert_eq!((protocol, carried), (47, &keyed[..]));
                }
                Carrier::Gue { has_header, l4_port } => {
                    let (udp, rest) = UdpHeader::from_slice(carried).unwrap();
                    assert_eq!((protocol, udp.destination_port), (17, *l4_port));
                    assert_eq!(usize::from(udp.length), 1_400 + carried.len());
                    let gue = [0, number, 0, 0];
                    assert_eq!((udp.checksum, rest), (0, &gue[..if *has_header { 4 } else { 0 }]));
                }
            }
        }
    }

    #[test]
    fn a_second_choice_stands_behind_the_gue_header_as_glb_has_it() {
        for (second_choice, hops) in
            [(Some(Ipv4Addr::new(10, 0, 0, 4)), [0, 0, 0, 1, 10, 0, 0, 4]), (None, [0; 8])]
        {
            for (carrier, words) in CARRIERS.map(|carrier| (carrier, u8::from(carrier == CARRIERS[3]) * 2)) {
                let tunnel = Tunnel { carrier, source: fixed(), second_chance: true, ..Tunnel::default() };
                let without = Tunnel { second_chance: false, ..tunnel };
                let inner = Inner { second_choice, ..inner(false) };
                let (header, _) = encoded(&tunnel, BACKENDS[0], &inner);
                if words == 0 {
                    assert_eq!(header, encoded(&without, BACKENDS[0], &inner).0, "{carrier:?} has no room");
                } else {
                    assert_eq!(header[28..32], [words, 4, 0, 0]);
                    assert_eq!(header[32..], hops);
                }
            }
        }
    }

    #[test]
    fn sources_per_flow_are_katrans() {
        let tunnel = Tunnel { source: Source::PerFlow, ..Tunnel::default() };
        let (_, (.., source, _)) = encoded(&tunnel, BACKENDS[0], &inner(false));
        assert_eq!(source.to_string(), "172.16.104.123");
        let (_, (.., source, _)) = encoded(&tunnel, BACKENDS[1], &inner(false));
        assert_eq!(source.to_string(), "100::bac1:101");
        let of_v6 = Inner { client_tail: [0, 0, 0, 1], ..inner(true) };
        let (_, (.., source, _)) = encoded(&tunnel, BACKENDS[1], &of_v6);
        assert_eq!(source.to_string(), "100::7a69:1");
    }

    #[test]
    fn udp_source_ports_are_katrans() {
        let tunnel = Tunnel { carrier: CARRIERS[4], source: fixed(), ..Tunnel::default() };
        let port = |backend: &str, inner: &Inner| {
            let (header, (.., destination)) = encoded(&tunnel, backend, inner);
            let at = if destination.is_ipv6() { 40 } else { 20 };
            u16::from_be_bytes([header[at], header[at + 1]])
        };
        assert_eq!(port(BACKENDS[0], &inner(false)), 26_747);
        assert_eq!(port(BACKENDS[1], &inner(false)), 31_592);
        assert_eq!(port(BACKENDS[1], &Inner { client_tail: [0, 0, 0, 1], ..inner(true) }), 31_337);
    }

    #[test]
    fn what_the_rules_fix_is_not_copied_but_ecn_always_is() {
        let tunnel = Tunnel { dscp: Some(46), ttl: None, source: fixed(), ..Tunnel::default() };
        for backend in BACKENDS {
            let (_, (_, ttl, tos, ..)) = encoded(&tunnel, backend, &inner(false));
            assert_eq!((ttl, tos), (63, 46 << 2 | 1));
        }
    }

    #[test]
    fn without_a_source_of_the_backends_family_there_is_no_header() {
        let of_port = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let new = |backend: &str| Encapsulation::new(&Tunnel::default(), of_port, backend.parse().unwrap());
        assert!(new(BACKENDS[0]).is_some() && new(BACKENDS[1]).is_none());
    }

    proptest! {
        #[test]
        fn udp_checksums_are_those_of_a_full_computation(
            to_v6 in any::<bool>(), is_v6 in any::<bool>(), has_header in any::<bool>(), per_flow in any::<bool>(),
            second_chance in any::<bool>(), hop in proptest::option::of(any::<u32>()),
            client_tail in any::<[u8; 4]>(), client_port in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 20..99)
        ) {
            let carrier = Carrier::Gue { has_header, l4_port: 6_080 };
            let source = if per_flow { Source::PerFlow } else { fixed() };
            let tunnel = Tunnel { carrier, source, udp_checksum: true, second_chance, ..Tunnel::default() };
            let sum = Some(checksum::sum(&payload));
            let second_choice = hop.map(Ipv4Addr::from);
            let len = payload.len() as u16;
            let inner = Inner { client_tail, client_port, second_choice, sum, len, ..inner(is_v6) };
            let (header, _) = encoded(&tunnel, BACKENDS[usize::from(to_v6)], &inner);
            let (ip, carried) = header.split_at(if to_v6 { 40 } else { 20 });
            let udp = UdpHeader::from_slice(carried).unwrap().0;
            let covered = [&carried[8..], &payload].concat();
            let full = if to_v6 {
                udp.calc_checksum_ipv6(&Ipv6Header::from_slice(ip).unwrap().0, &covered).unwrap()
            } else {
                udp.calc_checksum_ipv4(&Ipv4Header::from_slice(ip).unwrap().0, &covered).unwrap()
            };
            prop_assert_eq!(udp.checksum, full);
        }

        #[test]
        fn any_tunnel_has_a_right_header(
            carrier in 0usize..5, backend in 0usize..2, is_v6 in any::<bool>(), dont_fragment in any::<bool>(),
            dscp in proptest::option::of(0u8..64), ttl in proptest::option::of(1u8..), traffic_class in any::<u8>(),
            client_tail in any::<[u8; 4]>(), client_port in any::<u16>(), len in 20u16..60_000
        ) {
            let source = Source::PerFlow;
            let tunnel = Tunnel { carrier: CARRIERS[carrier], source, dscp, ttl, dont_fragment, ..Tunnel::default() };
            let inner = Inner { traffic_class, client_tail, client_port, len, ..inner(is_v6) };
            // Lengths and the checksum are asserted within.
            let (_, (protocol, ..)) = encoded(&tunnel, BACKENDS[backend], &inner);
            let ipip = if is_v6 { IpNumber::IPV6.0 } else { IpNumber::IPV4.0 };
            prop_assert_eq!(protocol, [ipip, 47, 47, 17, 17][carrier]);
        }
    }
}
