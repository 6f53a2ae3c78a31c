//! The IPv4 header. Read first: RFC 791 section 3.1.

use super::{AddressPair, checksum};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header: its length has four bits.
pub const HEADER_LEN_MAX: usize = 60;
/// Of options: nothing follows.
const END_OF_OPTIONS: u8 = 0;
/// Of options: one byte of nothing.
const NO_OPERATION: u8 = 1;
/// Of options: stations to pass, others between them.
const LOOSE_SOURCE_ROUTE: u8 = 131;
/// Of options: all stations to pass.
const STRICT_SOURCE_ROUTE: u8 = 137;
/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of IPv6 in IP (RFC 4213, RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
/// IP protocol number of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;
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

    /// Whether its sender forbids routers to cut it.
    #[inline(always)]
    pub fn dont_fragment(self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// Whether this is a fragment: not the first, or more follow.
    #[inline(always)]
    pub fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    #[inline(always)]
    pub fn tos(self) -> u8 {
        self.0[1]
    }

    /// What tells the fragments of one datagram from those of another (RFC 6864).
    pub fn identification(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// The flags and the fragment offset in units of eight bytes, in one word: 0x2000 is "more fragments".
    pub fn fragment_word(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
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

/// Whether the checksum of the header that `packet` begins with is right, options included; false where not all of it is there.
pub fn adds_up(packet: &[u8]) -> bool {
    let header = packet.first().and_then(|first| packet.get(..usize::from(first & 0xf) * 4));
    header.is_some_and(|header| checksum::sum(header) == 0xffff)
}

/// Whether the options of the header that `packet` begins with name stations which the packet has yet to pass: a loose or a strict
/// source route that is not used up (RFC 791 section 3.1).
pub fn is_source_routed(packet: &[u8]) -> bool {
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let mut options = packet.get(HEADER_LEN..header_len).unwrap_or_default();
    // Each turn takes a byte at least, of at most 40.
    while let [kind, rest @ ..] = options {
        match (*kind, rest) {
            (END_OF_OPTIONS, _) => return false,
            (NO_OPERATION, _) => options = rest,
            (LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, [len, pointer, ..]) => return pointer <= len,
            (_, [len, ..]) if *len >= 2 => options = options.get(usize::from(*len)..).unwrap_or_default(),
            _ => return false,
        }
    }
    false
}

/// An IPv4 header without options, as the director writes its own, in wire order: not to be fragmented, so its
/// identification means nothing (RFC 6864 section 4.1), 64 hops to go (RFC 1700), its checksum right.
pub fn header(tos: u8, total_len: u16, protocol: u8, addresses: AddressPair) -> [u8; HEADER_LEN] {
    let ([len_high, len_low], [a, b, c, d, e, f, g, h]) = (total_len.to_be_bytes(), addresses.to_wire());
    let mut header =
        [0x45, tos, len_high, len_low, 0, 0, 0x40, 0, 64, protocol, 0, 0, a, b, c, d, e, f, g, h];
    [header[10], header[11]] = (!checksum::sum(&header)).to_ne_bytes();
    header
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

    /// Writes the TOS byte and moves the header checksum by the difference.
    pub fn set_tos(&mut self, tos: u8) {
        let delta = checksum::combine(!u16::from_ne_bytes([0, self.0[1]]), u16::from_ne_bytes([0, tos]));
        self.0[1] = tos;
        self.move_checksum(delta);
    }

    /// Writes the identification; the header checksum moves with it.
    pub fn set_identification(&mut self, identification: u16) {
        let old = u16::from_ne_bytes([self.0[4], self.0[5]]);
        let new = identification.to_be();
        [self.0[4], self.0[5]] = new.to_ne_bytes();
        self.move_checksum(checksum::combine(!old, new));
    }

    /// Moves the header checksum by `delta`.
    #[inline(always)]
    pub fn move_checksum(&mut self, delta: u16) {
        let old = u16::from_ne_bytes([self.0[10], self.0[11]]);
        [self.0[10], self.0[11]] = checksum::update(old, delta).to_ne_bytes();
    }

    /// Lowers the TTL by one and moves the header checksum by `delta`, which accounts for that and for
    /// whatever else changed (see [`checksum::TTL_LOWERED`]). The TTL must be above 0.
    #[inline(always)]
    pub fn lower_ttl(&mut self, delta: u16) {
        debug_assert!(self.0[8] > 0);
        self.0[8] = self.0[8].wrapping_sub(1);
        self.move_checksum(delta);
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
    fn an_own_header_is_what_an_independent_encoder_writes() {
        let addresses = AddressPair::new(Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(198, 51, 100, 7));
        let (decoded, _) =
            etherparse::Ipv4Header::from_slice(&header(0xc0, 56, PROTOCOL_ICMP, addresses)).unwrap();
        let (source, destination) = (addresses.source().octets(), addresses.destination().octets());
        let mut expected =
            etherparse::Ipv4Header::new(36, 64, etherparse::IpNumber::ICMP, source, destination).unwrap();
        (expected.dont_fragment, expected.dscp) = (true, 48.try_into().unwrap());
        expected.header_checksum = expected.calc_header_checksum();
        assert_eq!(decoded, expected);
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
        let delta =
            checksum::combine(checksum::TTL_LOWERED, checksum::delta_of_addresses(old.into(), new.into()));
        let mut header = Ipv4Mut(&mut bytes);
        header.set_addresses(new);
        header.lower_ttl(delta);
        let (decoded, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(decoded.header_checksum, decoded.calc_header_checksum());
        assert_eq!((decoded.time_to_live, decoded.destination), (63, [172, 16, 0, 1]));
    }
}
