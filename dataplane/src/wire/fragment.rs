//! Fragments of IPv4 and IPv6 datagrams: where each lies, and which belong together. Read first: RFC 791 sections 2.3
//! and 3.1, RFC 8200 section 4.5.

use super::ipv4::Ipv4;
use super::ipv6::FRAGMENT_HEADER_LEN;
use super::{Addresses, PortPair};
use crate::flow::FlowKey;

/// Bytes of one unit of an offset.
const UNIT: u16 = 8;

/// Where a fragment lies in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of the datagram before it: a multiple of eight.
    pub offset: u16,
    /// Bytes of it.
    pub len: u16,
    /// Whether it is the datagram's end.
    pub is_last: bool,
}

impl Fragment {
    /// What an IPv4 header says of the `len` bytes behind it. `None` where that cannot be: no bytes, bytes behind the
    /// longest datagram's end, or part of a unit where more follows.
    pub fn of_ipv4(header: Ipv4<'_>, len: usize) -> Option<Self> {
        let word = header.fragment_word();
        Self::checked((word & 0x1fff) * UNIT, len, word & 0x2000 == 0)
    }

    /// What an IPv6 fragment header says of the `len` bytes behind it; `None` likewise.
    pub fn of_ipv6(header: &[u8; FRAGMENT_HEADER_LEN], len: usize) -> Option<Self> {
        let word = u16::from_be_bytes([header[2], header[3]]);
        Self::checked(word & 0xfff8, len, word & 1 == 0)
    }

    fn checked(offset: u16, len: usize, is_last: bool) -> Option<Self> {
        let len = u16::try_from(len).ok()?;
        let is_possible =
            len > 0 && offset.checked_add(len).is_some() && (is_last || len.is_multiple_of(UNIT));
        is_possible.then_some(Self { offset, len, is_last })
    }

    /// Whether it has the L4 header.
    pub fn is_first(self) -> bool {
        self.offset == 0
    }

    /// Begin and end in units of eight bytes.
    pub fn units(self) -> (u16, u16) {
        (self.offset / UNIT, (self.offset + self.len).div_ceil(UNIT))
    }
}

/// The identification in an IPv6 fragment header.
pub fn identification(header: &[u8; FRAGMENT_HEADER_LEN]) -> u32 {
    let [_, _, _, _, a, b, c, d] = *header;
    u32::from_be_bytes([a, b, c, d])
}

/// Which datagram a fragment belongs to: a key of its own kind, with the identification in the l4_ports' place. Of IPv6 the
/// protocol is no part (RFC 8200 section 4.5): there it is [`super::ipv6::FRAGMENT`].
pub fn datagram_key(addresses: Addresses, identification: u32, protocol: u8) -> FlowKey {
    FlowKey { addresses, ports: PortPair::from_wire(identification.to_be_bytes()), protocol }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader};

    use super::*;

    #[test]
    fn offsets_are_those_an_independent_encoder_wrote() {
        for (units, more) in [(0u16, true), (185, true), (185, false), (8_191, false)] {
            let offset = IpFragOffset::try_new(units).unwrap();
            let mut ipv4 = Ipv4Header::new(8, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            (ipv4.fragment_offset, ipv4.more_fragments, ipv4.dont_fragment) = (offset, more, true);
            ipv4.identification = 0xbeef;
            let bytes = ipv4.to_bytes();
            let header = Ipv4(bytes.first_chunk().unwrap());
            let ipv6 = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 0xdead_beef).to_bytes();
            let len = if units == 8_191 { 7 } else { 1_480 };
            let expected = Fragment { offset: units * 8, len, is_last: !more };
            assert_eq!(Fragment::of_ipv4(header, len.into()), Some(expected));
            assert_eq!(Fragment::of_ipv6(&ipv6, len.into()), Some(expected));
            assert_eq!((header.identification(), identification(&ipv6)), (0xbeef, 0xdead_beef));
            assert_eq!(expected.is_first(), units == 0);
        }
    }

    #[test]
    fn what_cannot_be_is_none() {
        let of = |word: u16, len| {
            let [a, b] = word.to_be_bytes();
            Fragment::of_ipv6(&[17, 0, a, b, 0, 0, 0, 0], len)
        };
        assert_eq!(of(1, 12), None, "more follows, and it is no multiple of eight");
        assert_eq!(of(1, 0), None, "nothing");
        assert_eq!(of(0xfff8, 8), None, "65,536 bytes");
        assert_eq!(of(8, 70_000), None);
        assert_eq!(of(8, 12).map(Fragment::units), Some((1, 3)));
    }
}
