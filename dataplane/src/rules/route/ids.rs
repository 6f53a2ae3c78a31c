//! Server IDs in the clear, as Katran reads them: in mvfst's QUIC connection IDs, in an option of TCP segments, and in
//! datagrams at a fixed place. Layouts are taken from recorded packets (`katran-fixtures.json`) and mvfst's documentation.
//!
//! In all of them the number 0 names nobody.

use crate::wire::tcp_options;

/// Bytes of the option with a server ID: kind, length, and the ID.
const OPTION_LEN: usize = 6;

/// The server ID in a connection ID of mvfst. Its first two bits are a version: in 1 the 16 bits behind them are the ID, in
/// 2 the 24 bits behind the first byte. Others have none that Katran knows.
pub(super) fn of_mvfst(id: &[u8]) -> Option<u128> {
    let [a, b, c, d] = id.first_chunk()?.map(u32::from);
    let number = match a >> 6 {
        1 => (a & 0x3f) << 10 | b << 2 | c >> 6,
        2 => b << 16 | c << 8 | d,
        _ => return None,
    };
    named(number.into())
}

/// The server ID in the option `kind` of the TCP header that `l4` begins with: four bytes, the lowest first.
pub(super) fn of_tcp_option(l4: &[u8], kind: u8) -> Option<u128> {
    let option = tcp_options::walk(l4).find(|option| option.kind == kind && option.len == OPTION_LEN)?;
    let octets = l4.get(option.at + 2..)?.first_chunk()?;
    named(u32::from_le_bytes(*octets).into())
}

/// The server ID that lies `offset` bytes into a datagram's payload: `len` bytes, the highest first.
pub(super) fn of_datagram(payload: &[u8], offset: usize, len: usize) -> Option<u128> {
    let octets = payload.get(offset..)?.get(..len)?;
    named(octets.iter().fold(0, |number, octet| number << 8 | u128::from(*octet)))
}

fn named(number: u128) -> Option<u128> {
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp;

    #[test]
    fn mvfsts_ids_are_read_by_version() {
        let id = |first| [first, 0, 0x83, 4, 5, 6, 7, 0];
        assert_eq!(of_mvfst(&id(0x41)), Some(1026), "version 1");
        assert_eq!(of_mvfst(&[0x80, 3, 4, 2, 5, 6, 7, 0]), Some(197_634), "version 2");
        assert_eq!(of_mvfst(&id(0x01)), None, "version 0");
        assert_eq!(of_mvfst(&id(0xc1)), None, "version 3");
        assert_eq!(of_mvfst(&[0x40, 0, 3, 4, 5, 6, 7, 0]), None, "nobody");
        assert_eq!(of_mvfst(&[0x80, 3, 4, 2]), Some(197_634), "just long enough");
        for len in 0..4 {
            assert_eq!(of_mvfst(&id(0x41)[..len]), None, "{len}");
        }
    }

    #[test]
    fn the_tcp_option_is_found_among_others() {
        let header = |options: &[u8]| {
            let mut header = etherparse::TcpHeader::new(1, 2, 3, 4).to_bytes().to_vec();
            header[tcp::DATA_OFFSET_AT] = (((20 + options.len()) / 4) << 4) as u8;
            [&header[..], options, b"data"].concat()
        };
        let id = |options: &[u8]| of_tcp_option(&header(options), 0xb7);
        assert_eq!(id(&[0xb7, 6, 1, 4, 0, 0, 1, 1]), Some(1025));
        assert_eq!(id(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0xb7, 6, 0, 4, 0, 0, 1, 1]), Some(1024));
        assert_eq!(id(&[0xb7, 6, 0, 0, 0, 0, 1, 1]), None, "nobody");
        assert_eq!(id(&[0, 0, 0xb7, 6, 0, 4, 0, 0]), None, "behind the end");
        assert_eq!(id(&[0xb7, 4, 4, 0]), None, "too short");
        assert_eq!(id(&[2, 0, 0xb7, 6, 1, 4, 0, 0]), None, "an option of no length");
        assert_eq!(id(&[2, 44, 1, 1]), None, "an option beyond the header");
        assert_eq!(id(&[1, 1, 0xb7, 6]), None, "cut by the header's end");
        assert_eq!(id(&[]), None);
        assert_eq!(of_tcp_option(&header(&[0xb7, 6, 1, 4, 0, 0, 1, 1])[..25], 0xb7), None, "cut");
    }

    #[test]
    fn a_datagrams_id_lies_where_rules_say() {
        let payload = [0x52, 3, 4, 3, 0, 0, 0, 0];
        assert_eq!(of_datagram(&payload, 1, 3), Some(197_635));
        assert_eq!(of_datagram(&payload, 4, 4), None, "nobody");
        assert_eq!(of_datagram(&payload, 6, 3), None, "beyond the end");
        assert_eq!(of_datagram(&payload, usize::MAX, 3), None);
    }
}
