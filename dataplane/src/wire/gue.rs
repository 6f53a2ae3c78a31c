//! Generic UDP encapsulation. Read first: draft-ietf-intarea-gue-09 sections 3 and 4.
//!
//! Variant 0 has a header of four bytes and what its sender adds to that; variant 1 has none: an IP header follows the UDP
//! header, and its version tells that from variant 0. Private data of variant 0 can name a second choice, as GLB's does
//! (glb-director, docs/development/gue-header.md): who shall get the packet if its receiver does not know the connection.
//! Not here: control messages, which carry nobody's packets, and the meaning of optional fields, which are stepped over.

use std::net::Ipv4Addr;

use super::ipv4::{PROTOCOL_IPV4, PROTOCOL_IPV6};

/// The UDP port that IANA has assigned.
pub const L4_PORT: u16 = 6_080;
/// Bytes of variant 0's header without optional fields.
pub const HEADER_LEN: usize = 4;

/// Words of four bytes that a second choice takes behind the header: one of type and counts, and one hop.
pub const SECOND_CHANCE_WORDS: u8 = 2;
/// The same in bytes.
pub const SECOND_CHANCE_LEN: usize = 4 * SECOND_CHANCE_WORDS as usize;

/// The bit that makes a message of variant 0 a control message.
const CONTROL: u8 = 0x20;
/// The low five bits: optional fields, in words of four bytes.
const WORDS: u8 = 0x1f;

/// A header of variant 0 without optional fields, in wire order: data of `protocol`.
pub fn header(protocol: u8) -> [u8; HEADER_LEN] {
    [0, protocol, 0, 0]
}

/// GLB's private data, in wire order: type 0, the first hop is next, how many hops, and the one hop. Without a second
/// choice there are none, and its place stays zero: the header has the same length in any case.
pub fn second_chance(hop: Option<Ipv4Addr>) -> [u8; SECOND_CHANCE_LEN] {
    let [a, b, c, d] = hop.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    [0, 0, 0, u8::from(hop.is_some()), a, b, c, d]
}

/// What follows the UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gue {
    /// Bytes of the GUE header; 0 in variant 1.
    pub header_len: usize,
    /// The IP protocol number of what is carried.
    pub protocol: u8,
}

impl Gue {
    /// Reads the first four bytes after the UDP header; `None` for control messages and variants that are not defined.
    /// Optional fields may lie beyond the packet's end.
    pub fn read(first: [u8; HEADER_LEN]) -> Option<Self> {
        let [lead, protocol, ..] = first;
        // The variant is the two bits in front; variant 1 (0b01) begins as IPv4 (0100) or IPv6 (0110) does.
        match lead >> 4 {
            4 => Some(Self { header_len: 0, protocol: PROTOCOL_IPV4 }),
            6 => Some(Self { header_len: 0, protocol: PROTOCOL_IPV6 }),
            0..=3 if lead & CONTROL == 0 => {
                Some(Self { header_len: HEADER_LEN + 4 * usize::from(lead & WORDS), protocol })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_variants_are_told_apart_by_their_first_bits() {
        let read = |lead| Gue::read([lead, 41, 0, 0]);
        assert_eq!(Gue::read(header(PROTOCOL_IPV4)), Some(Gue { header_len: 4, protocol: 4 }));
        assert_eq!(read(0x1f), Some(Gue { header_len: 4 + 31 * 4, protocol: 41 }));
        assert_eq!(read(0x45), Some(Gue { header_len: 0, protocol: PROTOCOL_IPV4 }));
        assert_eq!(read(0x60), Some(Gue { header_len: 0, protocol: PROTOCOL_IPV6 }));
        assert_eq!(read(0x20), None, "a control message");
        for undefined in [0x50, 0x70, 0x80, 0xff] {
            assert_eq!(read(undefined), None, "{undefined:#x}");
        }
    }
}
