//! The TCP header. Read first: RFC 9293 section 3.1.

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Offset of the data offset nibble.
pub const DATA_OFFSET_AT: usize = 12;
/// Offset of the control bits.
pub const FLAGS_AT: usize = 13;
/// Offset of the checksum.
pub const CHECKSUM_AT: usize = 16;

/// The control bits of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgment field is significant.
    pub const ACK: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether this segment opens a connection: SYN without ACK, RST or FIN.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }

    /// Whether SYN, FIN or RST is set: what can change a connection's state beyond an ACK.
    #[inline(always)]
    pub const fn steers_state(self) -> bool {
        self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_agree_with_an_independent_encoder() {
        let mut header = etherparse::TcpHeader::new(1000, 80, 1, 2);
        header.syn = true;
        header.checksum = 0xbeef;
        let bytes = header.to_bytes();
        assert_eq!(bytes[DATA_OFFSET_AT] >> 4, 5);
        assert!(TcpFlags(bytes[FLAGS_AT]).opens());
        assert_eq!(bytes[CHECKSUM_AT..CHECKSUM_AT + 2], [0xbe, 0xef]);
        assert_eq!(bytes.len(), HEADER_LEN);
    }

    #[test]
    fn only_a_lone_syn_opens() {
        assert!(!TcpFlags(0x12).opens(), "SYN+ACK answers");
        assert!(!TcpFlags(0x03).opens(), "SYN+FIN is nonsense");
        assert!(!TcpFlags(0x06).opens(), "SYN+RST is nonsense");
        assert!(TcpFlags(0xc2).opens(), "SYN with ECN set-up (RFC 3168) opens");
        assert!(!TcpFlags(0x18).steers_state());
    }
}
