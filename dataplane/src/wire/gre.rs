//! The GRE header. Read first: RFC 2784; RFC 2890 for the key and the sequence number.
//!
//! Not here: the checksum, which is stepped over (what is carried has its own), the routing of RFC 1701, and version 1,
//! which is PPTP's (RFC 2637).

/// Bytes of the header without any optional field.
pub const HEADER_LEN: usize = 4;
/// Bytes of the key.
pub const KEY_LEN: usize = 4;
/// IP protocol number of GRE.
pub const PROTOCOL_GRE: u8 = 47;

/// A checksum and its reserved half word follow (RFC 2784 section 2.2).
const CHECKSUM_PRESENT: u16 = 0x8000;
/// Source routing follows (RFC 1701), which RFC 2784 section 2.3 has receivers discard.
const ROUTING_PRESENT: u16 = 0x4000;
/// A key follows.
const KEY_PRESENT: u16 = 0x2000;
/// A sequence number follows.
const SEQUENCE_PRESENT: u16 = 0x1000;
/// The other bits that must be zero or a packet is discarded: bits 4 and 5 and the version (RFC 2784 sections 2.2.1,
/// 2.3; bits 2 and 3 have become RFC 2890's).
const UNKNOWN: u16 = 0x0c07;

/// A header with the key, in wire order.
pub fn header_with_key(ethertype: u16, key: u32) -> [u8; HEADER_LEN + KEY_LEN] {
    let ([a, b], [c, d], [e, f, g, h]) =
        (KEY_PRESENT.to_be_bytes(), ethertype.to_be_bytes(), key.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A header without key, in wire order.
pub fn header(ethertype: u16) -> [u8; HEADER_LEN] {
    let [c, d] = ethertype.to_be_bytes();
    [0, 0, c, d]
}

/// What a received header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// Bytes of the header, optional fields included.
    pub header_len: usize,
    /// What is carried.
    pub ethertype: u16,
}

impl Gre {
    /// Reads the fixed part; `None` for what a receiver must discard. Optional fields may lie beyond the packet's end.
    pub fn read(fixed: [u8; HEADER_LEN]) -> Option<Self> {
        let [a, b, c, d] = fixed;
        let flags = u16::from_be_bytes([a, b]);
        if flags & (UNKNOWN | ROUTING_PRESENT) != 0 {
            return None;
        }
        let optional = [CHECKSUM_PRESENT, KEY_PRESENT, SEQUENCE_PRESENT];
        let header_len = HEADER_LEN + 4 * optional.iter().filter(|bit| flags & **bit != 0).count();
        Some(Self { header_len, ethertype: u16::from_be_bytes([c, d]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Gre::read(header(0x0800)), Some(Gre { header_len: 4, ethertype: 0x0800 }));
        let keyed = header_with_key(0x86dd, 0x0102_0304);
        assert_eq!(keyed, [0x20, 0, 0x86, 0xdd, 1, 2, 3, 4]);
        let read = Gre::read(*keyed.first_chunk().unwrap());
        assert_eq!(read, Some(Gre { header_len: keyed.len(), ethertype: 0x86dd }));
    }

    #[test]
    fn optional_fields_are_stepped_over_and_what_is_not_rfc_2784s_is_refused() {
        let len = |flags: u16| {
            let [a, b] = flags.to_be_bytes();
            Gre::read([a, b, 8, 0]).map(|gre| gre.header_len)
        };
        assert_eq!(len(0x8000), Some(8), "checksum");
        assert_eq!(len(0xb000), Some(16), "checksum, key and sequence number");
        assert_eq!(len(0x4000), None, "source routing");
        assert_eq!(len(0x0001), None, "version 1: PPTP");
        assert_eq!(len(0x0800), None, "a bit that is nobody's");
        assert_eq!(len(0x00f8), Some(4), "reserved bits 8 to 12 are ignored");
    }
}
