//! The TCP header. Read first: RFC 9293 section 3.1.

use super::{Addresses, PortPair, checksum, ipv4};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Offset of the sequence number.
pub const SEQUENCE_AT: usize = 4;
/// Offset of the acknowledgment number.
pub const ACKNOWLEDGMENT_AT: usize = 8;
/// Offset of the data offset nibble.
pub const DATA_OFFSET_AT: usize = 12;
/// Offset of the control bits.
pub const FLAGS_AT: usize = 13;
/// Offset of the window.
pub const WINDOW_AT: usize = 14;
/// Offset of the checksum.
pub const CHECKSUM_AT: usize = 16;
/// Offset of the urgent pointer.
pub const URGENT_AT: usize = 18;

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
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);

    /// How many sequence numbers the bits themselves take: one for SYN and one for FIN.
    #[inline(always)]
    pub const fn sequence_len(self) -> u32 {
        (self.0 & Self::SYN.0 != 0) as u32 + (self.0 & Self::FIN.0 != 0) as u32
    }

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

    /// Whether an honest sender sets these bits together: SYN goes with neither FIN nor RST, only RST and the first SYN go
    /// without ACK, and something must be set (RFC 9293 section 3.10.7).
    #[inline(always)]
    pub const fn are_possible(self) -> bool {
        const CONTROL: u8 = TcpFlags::SYN.0 | TcpFlags::ACK.0 | TcpFlags::RST.0 | TcpFlags::FIN.0;
        /// A bit for each combination of those four.
        const POSSIBLE: u32 = {
            let (mut mask, mut bits) = (0, 0);
            while bits <= CONTROL {
                let flags = TcpFlags(bits);
                let is_possible = match (flags.has(TcpFlags::SYN), flags.has(TcpFlags::RST)) {
                    (true, true) => false,
                    (true, false) => !flags.has(TcpFlags::FIN),
                    (false, true) => true,
                    (false, false) => flags.has(TcpFlags::ACK),
                };
                mask |= (is_possible as u32) << bits;
                bits += 1;
            }
            mask
        };
        POSSIBLE >> (self.0 & CONTROL) & 1 != 0
    }

    /// Whether SYN, FIN or RST is set: what can change a connection's state beyond an ACK.
    #[inline(always)]
    pub const fn steers_state(self) -> bool {
        self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0) != 0
    }
}

/// A TCP header without options, to read.
#[derive(Clone, Copy)]
pub struct Tcp<'a>(pub &'a [u8; HEADER_LEN]);

impl Tcp<'_> {
    /// The sequence number of the first byte, or of SYN.
    #[inline(always)]
    pub fn sequence(self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = *self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The sequence number that the sender expects next, where ACK is set.
    #[inline(always)]
    pub fn acknowledgment(self) -> u32 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// How many bytes beyond what it acknowledges the sender takes; scaled but for a SYN's (RFC 7323 section 2.2).
    pub fn window(self) -> u16 {
        u16::from_be_bytes([self.0[WINDOW_AT], self.0[WINDOW_AT + 1]])
    }

    /// Where urgent data ends, in bytes from the first, where URG is set.
    pub fn urgent(self) -> u16 {
        u16::from_be_bytes([self.0[URGENT_AT], self.0[URGENT_AT + 1]])
    }

    /// Header length in bytes, options included; below 20 in a lying header.
    #[inline(always)]
    pub fn header_len(self) -> usize {
        usize::from(self.0[DATA_OFFSET_AT] >> 4) * 4
    }

    /// How many sequence numbers a segment with so many bytes of header and data takes (RFC 9293: SEG.LEN).
    pub fn sequence_len(self, l4_len: usize) -> u32 {
        l4_len.saturating_sub(self.header_len()) as u32 + self.flags().sequence_len()
    }

    /// The control bits.
    #[inline(always)]
    pub fn flags(self) -> TcpFlags {
        TcpFlags(self.0[FLAGS_AT])
    }
}

/// A RST without data, in wire order, its checksum right. `acknowledgment` sets ACK.
pub fn reset(
    addresses: impl Into<Addresses>,
    ports: PortPair,
    sequence: u32,
    acknowledgment: Option<u32>,
) -> [u8; HEADER_LEN] {
    let flags = TcpFlags::RST.0 | if acknowledgment.is_some() { TcpFlags::ACK.0 } else { 0 };
    let ([a, b, c, d], [e, f, g, h]) = (ports.to_wire(), sequence.to_be_bytes());
    let [i, j, k, l] = acknowledgment.unwrap_or(0).to_be_bytes();
    let mut header = [a, b, c, d, e, f, g, h, i, j, k, l, 0x50, flags, 0, 0, 0, 0, 0, 0];
    let pseudo = checksum::sum_of_pseudo_header(addresses, ipv4::PROTOCOL_TCP, HEADER_LEN as u16);
    let sum = checksum::combine(pseudo, checksum::sum(&header));
    [header[CHECKSUM_AT], header[CHECKSUM_AT + 1]] = (!sum).to_ne_bytes();
    header
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::AddressPair;

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
    fn a_reset_is_what_an_independent_encoder_writes() {
        let addresses = AddressPair::new(Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(198, 51, 100, 7));
        for acknowledgment in [None, Some(0xdead_beef)] {
            let bytes = reset(addresses, PortPair::new(80, 40_000), 0x0102_0304, acknowledgment);
            let mut expected = etherparse::TcpHeader::new(80, 40_000, 0x0102_0304, 0);
            (expected.rst, expected.ack) = (true, acknowledgment.is_some());
            expected.acknowledgment_number = acknowledgment.unwrap_or(0);
            let (source, destination) = (addresses.source().octets(), addresses.destination().octets());
            expected.checksum = expected.calc_checksum_ipv4_raw(source, destination, &[]).unwrap();
            assert_eq!(bytes[..], expected.to_bytes()[..]);
            let read = Tcp(&bytes);
            assert_eq!((read.sequence(), read.acknowledgment()), (0x0102_0304, acknowledgment.unwrap_or(0)));
            assert_eq!((read.header_len(), read.flags().has(TcpFlags::RST)), (20, true));
        }
    }

    #[test]
    fn only_a_lone_syn_opens() {
        assert!(!TcpFlags(0x12).opens(), "SYN+ACK answers");
        assert!(!TcpFlags(0x03).opens(), "SYN+FIN is nonsense");
        assert!(!TcpFlags(0x06).opens(), "SYN+RST is nonsense");
        assert!(TcpFlags(0xc2).opens(), "SYN with ECN set-up (RFC 3168) opens");
        assert!(!TcpFlags(0x18).steers_state());
    }

    #[test]
    fn nonsense_is_told_from_what_honest_senders_set() {
        for flags in [0x02, 0xc2, 0x12, 0x10, 0x18, 0x11, 0x19, 0x04, 0x14, 0x15, 0x30] {
            assert!(TcpFlags(flags).are_possible(), "{flags:#x}");
        }
        // SYN+FIN, SYN+RST, none at all, PSH or URG alone, FIN alone, and the "Christmas tree" FIN+PSH+URG.
        for flags in [0x03, 0x13, 0x06, 0x16, 0x00, 0x08, 0x20, 0x01, 0x29, 0xff] {
            assert!(!TcpFlags(flags).are_possible(), "{flags:#x}");
        }
    }
}
