//! The ends of all tunnels, to tell whether an ICMP error is about a packet that this director has sent in one of them, and
//! where in what it quotes the packet within begins.
//!
//! Read first: RFC 2003 section 4, RFC 2473 section 8. Nobody else can be taken for a reporter than who knows what the outer header
//! looks like: both addresses, the protocol, the key of GRE, the port of GUE. Not here: what the error says.

use std::net::IpAddr;

use super::{Carrier, Encapsulation, gre, gue, ipv4, ipv6, udp};
use crate::rules::AddressMap;
use crate::wire::ipv4::{Ipv4, PROTOCOL_IPV4, PROTOCOL_IPV6};
use crate::wire::ipv6::{FRAGMENT, Ipv6};

/// Bytes behind the outer IP header that are asked for: as many as every error quotes (RFC 792).
const CARRIED_LEN_MIN: usize = 8;

/// The distinct outer headers of all tunnels, by where they lead.
#[derive(Clone, Debug, Default)]
pub struct TunnelEnds {
    /// Where in `headers` those to an address begin, and how many there are.
    places: AddressMap<(u32, u32)>,
    /// Sorted by destination. Tunnels of many services to one backend are one here where they look the same; how many
    /// do not is up to the rules, and each of them is compared.
    headers: Box<[Encapsulation]>,
}

/// What an ICMP error quotes of a tunnel's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedTunnel {
    /// The outer header, as the rules have it.
    pub encapsulation: Encapsulation,
    /// Bytes of the whole outer packet, as it claims.
    pub len: usize,
    /// No router may cut the outer packet.
    pub dont_fragment: bool,
    /// The outer packet is one of several that the director had to make of it, so its rest is not a packet.
    pub is_part: bool,
}

impl FromIterator<Encapsulation> for TunnelEnds {
    fn from_iter<I: IntoIterator<Item = Encapsulation>>(encapsulations: I) -> Self {
        let mut headers: Vec<_> = encapsulations.into_iter().map(|one| (one.destination(), one)).collect();
        headers.sort_by_key(|(destination, one)| (*destination, one.header, one.len));
        headers.dedup();
        let mut places: Vec<(IpAddr, (u32, u32))> = Vec::new();
        for (at, (destination, _)) in headers.iter().enumerate() {
            match places.last_mut() {
                Some((last, (_, count))) if last == destination => *count += 1,
                _ => places.push((*destination, (at as u32, 1))),
            }
        }
        let headers = headers.into_iter().map(|(_, one)| one).collect();
        Self { places: places.into_iter().collect(), headers }
    }
}

impl TunnelEnds {
    /// Whether there is no tunnel at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// What `quoted`, the beginning of a packet to the end of what is quoted, is of a tunnel's packet.
    pub fn find(&self, quoted: &[u8], is_v6: bool) -> Option<QuotedTunnel> {
        let outer = if is_v6 { Outer::read_v6(quoted) } else { Outer::read_v4(quoted) }?;
        let (at, count) = self.places.find(outer.destination)?;
        let headers = self.headers.get(at as usize..(at + count) as usize)?;
        let encapsulation = *headers.iter().find(|header| header.begins(&outer))?;
        let Outer { len, dont_fragment, is_part, .. } = outer;
        Some(QuotedTunnel { encapsulation, len, dont_fragment, is_part })
    }
}

/// An outer packet as it is quoted.
struct Outer<'a> {
    destination: IpAddr,
    /// Its IP header without options or extensions.
    header: &'a [u8],
    protocol: u8,
    /// What follows; at least [`CARRIED_LEN_MIN`] bytes but of a later part.
    carried: &'a [u8],
    len: usize,
    dont_fragment: bool,
    is_part: bool,
    is_later_part: bool,
}

impl<'a> Outer<'a> {
    fn read_v4(quoted: &'a [u8]) -> Option<Self> {
        let (fixed, carried) = quoted.split_first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let header = Ipv4(fixed);
        // Nobody reports on a later fragment (RFC 1122 section 3.2.2).
        let is_possible = header.is_version_4_without_options() && header.fragment_word() & 0x1fff == 0;
        is_possible.then(|| Self {
            destination: header.addresses().destination().into(),
            header: fixed,
            protocol: header.protocol(),
            carried,
            len: header.total_len(),
            dont_fragment: header.dont_fragment(),
            is_part: header.is_fragment(),
            is_later_part: false,
        })
    }

    /// Of IPv6 any fragment is reported on (RFC 4443 section 2.4).
    fn read_v6(quoted: &'a [u8]) -> Option<Self> {
        let (fixed, behind) = quoted.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let header = Ipv6(fixed);
        let is_part = header.next_header() == FRAGMENT;
        let (protocol, is_later_part, carried) = if is_part {
            let (fragment, carried) = behind.split_first_chunk::<{ ipv6::FRAGMENT_HEADER_LEN }>()?;
            let offset = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8;
            (fragment[0], offset != 0, carried)
        } else {
            (header.next_header(), false, behind)
        };
        (header.version() == 6).then(|| Self {
            destination: header.addresses().destination().into(),
            header: fixed,
            protocol,
            carried,
            len: ipv6::HEADER_LEN + header.payload_len(),
            dont_fragment: true,
            is_part,
            is_later_part,
        })
    }
}

impl Encapsulation {
    /// Where the tunnel leads.
    pub fn destination(&self) -> IpAddr {
        if self.is_v6 {
            Ipv6(self.header.first_chunk().unwrap_or(&[0; ipv6::HEADER_LEN])).addresses().destination().into()
        } else {
            Ipv4(self.header.first_chunk().unwrap_or(&[0; ipv4::HEADER_LEN])).addresses().destination().into()
        }
    }

    /// Whether this header begins the packet, as far as it is the same for all packets of the tunnel.
    fn begins(&self, outer: &Outer<'_>) -> bool {
        let (addresses_at, varied, ip_len) =
            if self.is_v6 { (8, 20..24, ipv6::HEADER_LEN) } else { (12, 14..16, ipv4::HEADER_LEN) };
        let is_same = |at: usize| {
            self.is_source_per_flow && varied.contains(&at) || self.header.get(at) == outer.header.get(at)
        };
        if outer.header.len() != ip_len || !(addresses_at..ip_len).all(is_same) {
            return false;
        }
        let is_ip = matches!(outer.protocol, PROTOCOL_IPV4 | PROTOCOL_IPV6);
        let protocol_at = if self.is_v6 { 6 } else { 9 };
        let is_protocol = match self.carrier {
            Carrier::Ipip => is_ip,
            Carrier::Gre { .. } | Carrier::Gue { .. } => {
                self.header.get(protocol_at) == Some(&outer.protocol)
            }
        };
        is_protocol && (outer.is_later_part || self.carries(ip_len, outer.carried))
    }

    /// Whether what follows the outer IP header is this tunnel's.
    fn carries(&self, ip_len: usize, carried: &[u8]) -> bool {
        let Some(first) = carried.first_chunk::<CARRIED_LEN_MIN>() else { return false };
        let own = |at: usize| self.header.get(ip_len + at);
        match self.carrier {
            Carrier::Ipip => true,
            Carrier::Gre { key } => {
                let len = gre::HEADER_LEN + if key.is_some() { gre::KEY_LEN } else { 0 };
                // The EtherType is the packet's.
                [0, 1, 4, 5, 6, 7].into_iter().filter(|at| *at < len).all(|at| own(at) == first.get(at))
            }
            Carrier::Gue { has_header, .. } => {
                let lead = carried.get(udp::HEADER_LEN);
                let is_variant = if has_header {
                    lead.is_none_or(|lead| own(udp::HEADER_LEN) == Some(lead))
                } else {
                    lead.is_none_or(|lead| matches!(lead >> 4, 4 | 6))
                };
                // Behind the source port, which is the flow's, the destination port.
                [2, 3].into_iter().all(|at| own(at) == first.get(at)) && is_variant
            }
        }
    }
}

const _: () = assert!(gue::HEADER_LEN == 4 && gre::HEADER_LEN + gre::KEY_LEN <= CARRIED_LEN_MIN);
