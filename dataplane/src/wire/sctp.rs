//! The SCTP common header, the kind of its first chunk, and its checksum. Read first: RFC 9260 sections 3 and 6.8, and
//! appendix A for CRC32c; for moving a CRC by what changed, RFC 3385 section 4 and the fact that a CRC is linear.
//!
//! Not here: chunks behind the first, addresses within chunks (associations with several addresses an end).

use super::PortPair;
use super::tcp::TcpFlags;

/// Bytes of the common header.
pub const HEADER_LEN: usize = 12;
/// Bytes that every chunk begins with: type, flags and length.
pub const CHUNK_HEADER_LEN: usize = 4;
/// Bytes of the header and of what every chunk begins with.
pub const HEADER_AND_CHUNK_LEN: usize = HEADER_LEN + CHUNK_HEADER_LEN;
/// Offset of the checksum: 4 bytes, the lowest first, as nothing else in the header is.
pub const CHECKSUM_AT: usize = 8;

/// What the first chunk of a packet says about its association; bundled ones that follow do not open or end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Opens an association; alone in its packet (RFC 9260 section 3.3.2).
    Init,
    /// Answers that with a cookie; alone in its packet.
    InitAck,
    /// Gives the cookie back.
    CookieEcho,
    /// Says that it was right.
    CookieAck,
    /// No more data from its sender.
    Shutdown,
    /// Nor from the other end.
    ShutdownAck,
    /// The association is over.
    ShutdownComplete,
    /// The association is over at once.
    Abort,
    /// DATA, SACK, HEARTBEAT and all others: the association goes on as it is.
    Other,
}

impl Chunk {
    /// The kind of the chunk type `number` (RFC 9260 section 3.2).
    pub const fn of(number: u8) -> Self {
        match number {
            1 => Self::Init,
            2 => Self::InitAck,
            6 => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => Self::Other,
        }
    }

    /// Control bits by which the line treats the packet as it does a TCP segment with them: INIT opens as SYN does, what
    /// changes an association's state is looked at as SYN with ACK is, the rest passes as ACK does.
    pub const fn as_tcp_flags(self) -> TcpFlags {
        match self {
            Self::Init => TcpFlags::SYN,
            Self::Other => TcpFlags::ACK,
            _ => TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0),
        }
    }
}

/// An SCTP header with the beginning of the first chunk, to read.
#[derive(Clone, Copy)]
pub struct Sctp<'a>(pub &'a [u8; HEADER_AND_CHUNK_LEN]);

impl Sctp<'_> {
    /// Both l4_ports.
    #[inline]
    pub fn ports(self) -> PortPair {
        let [a, b, c, d, ..] = *self.0;
        PortPair::from_wire([a, b, c, d])
    }

    /// The kind of the first chunk.
    #[inline]
    pub fn chunk(self) -> Chunk {
        Chunk::of(self.0[HEADER_LEN])
    }

    /// The length of the first chunk, its own four bytes included and the filling behind it not.
    #[inline]
    pub fn chunk_len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[HEADER_LEN + 2], self.0[HEADER_LEN + 3]]))
    }
}

/// The kind of the first chunk of a packet that parse has seen.
pub fn first_chunk(packet: &[u8]) -> Chunk {
    packet.first_chunk().map_or(Chunk::Other, |header| Sctp(header).chunk())
}

/// The checksum of a packet, in the order of the wire. Its own place counts as zero.
pub fn checksum(packet: &[u8]) -> [u8; 4] {
    let (before, rest) = packet.split_at(packet.len().min(CHECKSUM_AT));
    let behind = rest.get(4..).unwrap_or_default();
    let register = cpu::crc32c(cpu::crc32c(cpu::crc32c(!0, before), &[0; 4]), behind);
    (!register).to_le_bytes()
}

/// Writes other l4_ports into a packet of `len` bytes that begins with `header`, and moves the checksum by what changed. One
/// that was wrong stays wrong by as much: nothing behind the header is read.
pub fn set_ports(header: &mut [u8; HEADER_LEN], ports: PortPair, len: usize) {
    let [a, b, c, d, tag @ .., e, f, g, h] = *header;
    let before = u32::from_le_bytes([a, b, c, d]);
    let [i, j, k, l] = ports.to_wire();
    let changed = before ^ u32::from_le_bytes([i, j, k, l]);
    let moved = u32::from_le_bytes([e, f, g, h]) ^ crc_of_change(changed, len.saturating_sub(4));
    let [e, f, g, h] = moved.to_le_bytes();
    let [m, n, o, p] = tag;
    *header = [i, j, k, l, m, n, o, p, e, f, g, h];
}

/// The polynomial of CRC32c, bits reversed as the register has them.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Zero bytes that one factor of [`FACTORS`] steps over.
const STEP: usize = 64;
/// For `n` the factor that moves a register over `n * STEP` zero bytes: x to the power of `8 * n * STEP`.
const FACTORS: [u32; (1 << 16) / STEP] = {
    // The polynomial 1 has the highest bit.
    let mut factors = [1 << 31; (1 << 16) / STEP];
    let (mut step, mut byte) = (1u32 << 31, 0);
    while byte < STEP * 8 {
        step = times_x(step);
        byte += 1;
    }
    let mut index = 1;
    while index < factors.len() {
        factors[index] = product(factors[index - 1], step);
        index += 1;
    }
    factors
};

/// What a change of four bytes changes in the CRC of a packet that has `behind` bytes after them.
fn crc_of_change(changed: u32, behind: usize) -> u32 {
    let (steps, rest) = (behind / STEP, behind % STEP);
    let register = cpu::crc32c(cpu::crc32c(0, &changed.to_le_bytes()), zeros(rest));
    // An IP packet has less than 2^16 bytes; a longer one does not exist.
    let factor = FACTORS.get(steps).copied().unwrap_or(1 << 31);
    if steps == 0 { register } else { product(register, factor) }
}

fn zeros(len: usize) -> &'static [u8] {
    const ZEROS: [u8; STEP] = [0; STEP];
    ZEROS.get(..len).unwrap_or(&ZEROS)
}

/// A polynomial times x, modulo the CRC's.
const fn times_x(polynomial: u32) -> u32 {
    polynomial >> 1 ^ (POLYNOMIAL & (polynomial & 1).wrapping_neg())
}

/// The product of two polynomials, modulo the CRC's.
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 32);
    while bit > 0 {
        bit -= 1;
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = times_x(b);
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of any bytes, its checksum right.
    fn packet(ports: PortPair, len: usize) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|at| (at * 7 + at / 13) as u8).collect();
        packet[..4].copy_from_slice(&ports.to_wire());
        let sum = checksum(&packet);
        packet[CHECKSUM_AT..HEADER_LEN].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn crc32c_is_that_of_the_rfc() {
        // RFC 3720 appendix B.4: 32 bytes of zeros; the field's own place is zero too.
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aau32.to_le_bytes());
    }

    #[test]
    fn chunks_are_told_apart() {
        let numbers = [1, 2, 6, 7, 8, 10, 11, 14].map(Chunk::of);
        assert!(numbers.iter().all(|chunk| *chunk != Chunk::Other));
        for number in [0, 3, 4, 5, 9, 12, 13, 15, 0x80, 0xc0, 0xc1] {
            assert_eq!(Chunk::of(number), Chunk::Other, "{number}");
        }
        assert!(Chunk::Init.as_tcp_flags().opens());
        for chunk in numbers.into_iter().skip(1) {
            let flags = chunk.as_tcp_flags();
            assert!(!flags.opens() && flags.steers_state() && flags.are_possible(), "{chunk:?}");
        }
        assert!(!Chunk::Other.as_tcp_flags().steers_state());
    }

    #[test]
    fn a_header_is_read() {
        let mut bytes = [0; HEADER_AND_CHUNK_LEN];
        bytes[..4].copy_from_slice(&[0x9c, 0x40, 0x0f, 0x1c]);
        bytes[HEADER_LEN..].copy_from_slice(&[10, 0, 1, 4]);
        let header = Sctp(&bytes);
        assert_eq!(header.ports(), PortPair::new(40_000, 3_868));
        assert_eq!((header.chunk(), header.chunk_len()), (Chunk::CookieEcho, 260));
    }

    proptest! {
        #[test]
        fn a_moved_checksum_is_the_one_computed_anew(
            old in any::<(u16, u16)>(), new in any::<(u16, u16)>(), len in 16usize..9_100,
        ) {
            let (old, new) = (PortPair::new(old.0, old.1), PortPair::new(new.0, new.1));
            let mut moved = packet(old, len);
            set_ports(moved.first_chunk_mut().unwrap(), new, len);
            prop_assert_eq!(moved, packet(new, len));
        }

        #[test]
        fn a_wrong_checksum_stays_as_wrong(new in any::<(u16, u16)>(), len in 16usize..2_000, wrong in 1..u32::MAX) {
            let (old, new) = (PortPair::new(1, 2), PortPair::new(new.0, new.1));
            let spoil = |mut packet: Vec<u8>| {
                packet[CHECKSUM_AT..HEADER_LEN].iter_mut().zip(wrong.to_le_bytes()).for_each(|(to, by)| *to ^= by);
                packet
            };
            let mut moved = spoil(packet(old, len));
            set_ports(moved.first_chunk_mut().unwrap(), new, len);
            prop_assert_eq!(moved, spoil(packet(new, len)));
        }
    }

    #[test]
    fn the_longest_packet_is_moved_too() {
        let (old, new) = (PortPair::new(1, 2), PortPair::new(3, 4));
        let mut moved = packet(old, 65_515);
        set_ports(moved.first_chunk_mut().unwrap(), new, 65_515);
        assert_eq!(moved, packet(new, 65_515));
    }
}
