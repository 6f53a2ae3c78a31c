//! The IPv4 header. Read first: RFC 791 section 3.1.

use super::{AddressPair, checksum};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of OSPF.
pub const PROTOCOL_OSPF: u8 = 89;
/// Protocol number of VRRP.
pub const PROTOCOL_VRRP: u8 = 112;

/// The fixed part of an IPv4 header, to read.
#[derive(Clone, Copy)]
pub struct Ipv4<'a>(pub &'a [u8; HEADER_LEN]);

impl Ipv4<'_> {
    /// The version; 4 in an honest header.
    #[inline(always)]
    pub fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Header length in bytes, options included; below 20 in a lying header, at most 60.
    #[inline(always)]
    pub fn header_len(self) -> usize {
        usize::from(self.0[0] & 0xf) * 4
    }

    /// Whether the first byte is the one nearly all packets have: version 4, no options.
    #[inline(always)]
    pub fn is_version_4_without_options(self) -> bool {
        self.0[0] == 0x45
    }

    /// Length in bytes of header and payload, as the header claims.
    #[inline(always)]
    pub fn total_len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// Whether this is a fragment: not the first, or more follow.
    #[inline(always)]
    pub fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// Hops left.
    #[inline(always)]
    pub fn ttl(self) -> u8 {
        self.0[8]
    }

    /// The protocol of the payload.
    #[inline(always)]
    pub fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Source and destination.
    #[inline(always)]
    pub fn addresses(self) -> AddressPair {
        self.0.last_chunk().map_or(AddressPair::default(), |bytes| AddressPair::from_wire(*bytes))
    }
}

/// The fixed part of an IPv4 header, to rewrite in place.
pub struct Ipv4Mut<'a>(pub &'a mut [u8; HEADER_LEN]);

impl Ipv4Mut<'_> {
    /// Writes source and destination; the checksum is the caller's.
    #[inline(always)]
    pub fn set_addresses(&mut self, addresses: AddressPair) {
        if let Some(bytes) = self.0.last_chunk_mut() {
            *bytes = addresses.to_wire();
        }
    }

    /// Lowers the TTL by one and moves the header checksum by `delta`, which accounts for that and for
    /// whatever else changed (see [`checksum::TTL_LOWERED`]). The TTL must be above 0.
    #[inline(always)]
    pub fn lower_ttl(&mut self, delta: u16) {
        debug_assert!(self.0[8] > 0);
        self.0[8] = self.0[8].wrapping_sub(1);
        let old = u16::from_ne_bytes([self.0[10], self.0[11]]);
        [self.0[10], self.0[11]] = checksum::update(old, delta).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn fields_are_read_from_the_bytes_an_independent_encoder_wrote() {
        let mut encoded =
            etherparse::Ipv4Header::new(8, 61, etherparse::IpNumber::UDP, [10, 1, 2, 3], [192, 0, 2, 9])
                .unwrap();
        encoded.more_fragments = true;
        let bytes = encoded.to_bytes();
        let header = Ipv4(bytes.first_chunk().unwrap());
        assert_eq!((header.version(), header.header_len(), header.total_len()), (4, 20, 28));
        assert_eq!((header.ttl(), header.protocol()), (61, PROTOCOL_UDP));
        assert!(header.is_fragment());
        assert_eq!(header.addresses().source(), Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(header.addresses().destination(), Ipv4Addr::new(192, 0, 2, 9));
    }

    #[test]
    fn do_not_fragment_alone_is_no_fragment_and_a_late_offset_is() {
        let mut bytes = [0u8; HEADER_LEN];
        bytes[6] = 0x40;
        assert!(!Ipv4(&bytes).is_fragment());
        bytes[7] = 1;
        assert!(Ipv4(&bytes).is_fragment());
    }

    #[test]
    fn a_rewritten_header_carries_the_checksum_of_a_full_computation() {
        let mut source =
            etherparse::Ipv4Header::new(8, 64, etherparse::IpNumber::UDP, [10, 1, 2, 3], [192, 0, 2, 9])
                .unwrap();
        source.header_checksum = source.calc_header_checksum();
        let mut bytes: [u8; HEADER_LEN] = source.to_bytes()[..].try_into().unwrap();
        let old = Ipv4(&bytes).addresses();
        let new = AddressPair::new(Ipv4Addr::new(10, 9, 9, 9), Ipv4Addr::new(172, 16, 0, 1));
        let delta = checksum::combine(checksum::TTL_LOWERED, checksum::delta_of_addresses(old, new));
        let mut header = Ipv4Mut(&mut bytes);
        header.set_addresses(new);
        header.lower_ttl(delta);
        let (decoded, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(decoded.header_checksum, decoded.calc_header_checksum());
        assert_eq!((decoded.time_to_live, decoded.destination), (63, [172, 16, 0, 1]));
    }
}
