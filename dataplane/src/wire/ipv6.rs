//! The IPv6 header and the walk over what may stand between it and TCP or UDP. Read first: RFC 8200 sections 3 and 4.

use super::AddressPair6;

/// Bytes of the header, without extensions.
pub const HEADER_LEN: usize = 40;
/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: ICMPv6 (RFC 4443).
pub const PROTOCOL_ICMPV6: u8 = 58;
/// Next header: nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Bytes of a fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// Extension headers looked at before a packet is given up. RFC 8504 section 5.3 lets a node bound them; honest packets have one or two.
pub const EXTENSIONS_MAX: usize = 8;

/// A header, to read.
#[derive(Clone, Copy)]
pub struct Ipv6<'a>(pub &'a [u8; HEADER_LEN]);

impl Ipv6<'_> {
    /// The version; 6 in an honest header.
    #[inline(always)]
    pub fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Length in bytes of what follows the header, extensions included, as it claims.
    #[inline(always)]
    pub fn payload_len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[4], self.0[5]]))
    }

    /// What follows the header: an extension or the protocol.
    #[inline(always)]
    pub fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Hops left.
    #[inline(always)]
    pub fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    #[inline(always)]
    pub fn traffic_class(self) -> u8 {
        (u16::from_be_bytes([self.0[0], self.0[1]]) >> 4) as u8
    }

    /// Source and destination.
    #[inline(always)]
    pub fn addresses(self) -> AddressPair6 {
        self.0.last_chunk().map_or(AddressPair6::default(), AddressPair6::from_wire)
    }
}

/// A header, to rewrite in place.
pub struct Ipv6Mut<'a>(pub &'a mut [u8; HEADER_LEN]);

impl Ipv6Mut<'_> {
    /// Writes source and destination.
    #[inline(always)]
    pub fn set_addresses(&mut self, addresses: AddressPair6) {
        if let Some(bytes) = self.0.last_chunk_mut() {
            *bytes = addresses.to_wire();
        }
    }

    /// Writes DSCP and ECN. No checksum covers them.
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        self.0[0] = self.0[0] & 0xf0 | traffic_class >> 4;
        self.0[1] = self.0[1] & 0x0f | traffic_class << 4;
    }

    /// Lowers the hop limit by one; it must be above 0. No checksum covers it.
    #[inline(always)]
    pub fn lower_hop_limit(&mut self) {
        debug_assert!(self.0[7] > 0);
        self.0[7] = self.0[7].wrapping_sub(1);
    }
}

/// A header as the director writes its own, in wire order: 64 hops to go, no flow label.
pub fn header(
    traffic_class: u8,
    payload_len: u16,
    next_header: u8,
    addresses: AddressPair6,
) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (fixed, pair) = header.split_at_mut(8);
    let [high, low] = payload_len.to_be_bytes();
    fixed.copy_from_slice(&[0x60 | traffic_class >> 4, traffic_class << 4, 0, 0, high, low, next_header, 64]);
    pair.copy_from_slice(&addresses.to_wire());
    header
}

/// What the walk over the extensions came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// The protocol, and where its header begins, in bytes from the end of the IPv6 header.
    Protocol {
        /// Its number.
        protocol: u8,
        /// Its offset.
        at: usize,
    },
    /// A fragment header comes first, at this offset; what follows it may be in another packet.
    Fragment {
        /// Its offset.
        at: usize,
    },
    /// The packet ends before the chain does.
    Truncated,
    /// More extensions than [`EXTENSIONS_MAX`].
    TooMany,
}

/// Walks over hop-by-hop options, routing headers and destination options, `next_header` first, in what follows the
/// IPv6 header.
pub fn walk(next_header: u8, payload: &[u8]) -> Upper {
    let (mut next, mut at) = (next_header, 0);
    for _ in 0..EXTENSIONS_MAX {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let Some([following, len]) = payload.get(at..).and_then(|rest| rest.first_chunk()) else {
                    return Upper::Truncated;
                };
                next = *following;
                at += (usize::from(*len) + 1) * 8;
            }
            FRAGMENT => return Upper::Fragment { at },
            protocol => return Upper::Protocol { protocol, at },
        }
    }
    Upper::TooMany
}

/// Whether a routing header in front of the protocol, or of a fragment header, names stations which the packet has yet to pass: segments left (RFC 8200
/// section 4.4). As [`walk`] goes.
pub fn is_source_routed(next_header: u8, payload: &[u8]) -> bool {
    let (mut next, mut at) = (next_header, 0);
    for _ in 0..EXTENSIONS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            return false;
        }
        let Some(&[following, len, _, segments_left]) = payload.get(at..).and_then(|rest| rest.first_chunk())
        else {
            return false;
        };
        if next == ROUTING && segments_left != 0 {
            return true;
        }
        next = following;
        at += (usize::from(len) + 1) * 8;
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn an_own_header_is_what_an_independent_encoder_writes() {
        let (source, destination) = (Ipv6Addr::from_bits(7), Ipv6Addr::from_bits(9 << 64));
        let bytes = header(0xb9, 21, 17, AddressPair6::new(source, destination));
        let (decoded, _) = etherparse::Ipv6Header::from_slice(&bytes).unwrap();
        let expected = etherparse::Ipv6Header {
            traffic_class: 0xb9,
            payload_length: 21,
            next_header: etherparse::IpNumber::UDP,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
            ..Default::default()
        };
        assert_eq!(decoded, expected);
        let view = Ipv6(&bytes);
        assert_eq!(
            (view.version(), view.payload_len(), view.next_header(), view.hop_limit()),
            (6, 21, 17, 64)
        );
        assert_eq!((view.traffic_class(), view.addresses().source()), (0xb9, source));
    }

    #[test]
    fn the_walk_is_bounded_and_finds_what_is_there() {
        let options = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let last = [17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let chain = [&options[..], &last].concat();
        assert_eq!(walk(17, &[]), Upper::Protocol { protocol: 17, at: 0 });
        assert_eq!(walk(HOP_BY_HOP, &chain), Upper::Protocol { protocol: 17, at: 24 });
        assert_eq!(walk(HOP_BY_HOP, &options), Upper::Truncated);
        assert_eq!(walk(FRAGMENT, &[]), Upper::Fragment { at: 0 });
        assert_eq!(walk(HOP_BY_HOP, &options.repeat(20)), Upper::TooMany);
    }
}
