//! The first QUIC packet of a datagram, as far as every version has it alike. Read first: RFC 8999 (invariants); for the
//! packet types RFC 9000 section 17.2 (version 1) and RFC 9369 section 3.2 (version 2).
//!
//! Not here: packet numbers, tokens, frames, the packets coalesced behind the first. Nothing is decrypted.

/// QUIC version 1 (RFC 9000).
pub const VERSION_1: u32 = 1;
/// QUIC version 2 (RFC 9369).
pub const VERSION_2: u32 = 0x6b33_43cf;
/// Set in the first byte of a long header.
const LONG_HEADER: u8 = 0x80;

/// A QUIC header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quic<'a> {
    /// A long header: it says how long the connection ID is.
    Long {
        /// The first byte: its packet type means something only together with the version.
        first: u8,
        /// The version; 0 is version negotiation, which no client sends.
        version: u32,
        /// The destination connection ID, 0 to 255 bytes.
        destination: &'a [u8],
    },
    /// A short header: only who gave the connection ID knows how long it is.
    Short {
        /// The destination connection ID, and everything behind it.
        destination_and_rest: &'a [u8],
    },
}

impl<'a> Quic<'a> {
    /// The header of the first packet in the payload of a UDP datagram; `None` where it is cut or empty.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (&first, rest) = payload.split_first()?;
        if first & LONG_HEADER == 0 {
            return Some(Self::Short { destination_and_rest: rest });
        }
        let (version, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first()?;
        let destination = rest.get(..len.into())?;
        Some(Self::Long { first, version: u32::from_be_bytes(*version), destination })
    }

    /// The bytes that begin with the destination connection ID; behind a short header's more follows.
    #[inline]
    pub fn destination(self) -> &'a [u8] {
        match self {
            Self::Long { destination, .. } => destination,
            Self::Short { destination_and_rest } => destination_and_rest,
        }
    }

    /// Whether the client may have made up the connection ID: in Initial and 0-RTT packets, of versions whose packet
    /// types are known. Not said of others.
    pub fn may_be_of_clients_making(self) -> bool {
        let Self::Long { first, version, .. } = self else { return false };
        let packet_type = first >> 4 & 0b11;
        match version {
            VERSION_2 => matches!(packet_type, 0b01 | 0b10),
            version if has_types_of_version_1(version) => matches!(packet_type, 0b00 | 0b01),
            _ => false,
        }
    }
}

/// Version 1, the drafts before it (0xff0000NN, RFC 9000 section 15), and mvfst's own (0xfaceb0NN), which Katran's users have.
const fn has_types_of_version_1(version: u32) -> bool {
    version == VERSION_1 || version >> 8 == 0x00ff_0000 || version >> 8 == 0x00fa_ceb0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's Initial of RFC 9001, appendix A.2, and the server's of A.3, as far as the connection IDs go.
    const INITIAL: [u8; 15] = [0xc3, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0];
    const FROM_SERVER: [u8; 15] = [0xc1, 0, 0, 0, 1, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5];

    #[test]
    fn headers_are_those_of_the_rfcs_examples() {
        let header = Quic::parse(&INITIAL).unwrap();
        assert_eq!(
            header,
            Quic::Long { first: 0xc3, version: VERSION_1, destination: &INITIAL[6..14] },
            "RFC 9001 A.2"
        );
        assert!(header.may_be_of_clients_making());
        assert_eq!(Quic::parse(&FROM_SERVER).unwrap().destination(), &[] as &[u8], "RFC 9001 A.3");
        let short = Quic::parse(&[0x4c, 0xfe, 0x41]).unwrap();
        assert_eq!((short.destination(), short.may_be_of_clients_making()), (&[0xfe, 0x41][..], false));
    }

    #[test]
    fn what_a_client_may_have_made_up_is_told_by_version_and_type() {
        let header = |first: u8, version: u32| Quic::Long { first, version, destination: &[] };
        let made_up = |version: u32| {
            [0xc0, 0xd0, 0xe0, 0xf0].map(|first| header(first, version).may_be_of_clients_making())
        };
        assert_eq!(made_up(VERSION_1), [true, true, false, false]);
        assert_eq!(made_up(VERSION_2), [false, true, true, false], "RFC 9369 3.2: 0-RTT is 2, Initial 1");
        assert_eq!(made_up(0xff00_001d), [true, true, false, false], "draft 29");
        assert_eq!(made_up(0xface_b001), [true, true, false, false], "mvfst");
        assert_eq!(made_up(0x0a0a_0a0a), [false; 4], "nobody knows");
    }

    #[test]
    fn cut_and_lying_headers_are_none() {
        for len in 0..14 {
            assert_eq!(Quic::parse(&INITIAL[..len]), None, "{len}");
        }
        let mut lying = INITIAL;
        lying[5] = 10;
        assert_eq!(Quic::parse(&lying), None);
    }
}
