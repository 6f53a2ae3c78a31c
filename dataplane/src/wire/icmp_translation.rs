//! What an ICMP error is called in the other family. Read first: RFC 7915 sections 4.2 and 5.2. Not here: what it quotes.

/// The eight bytes of an ICMP or ICMPv6 header, in wire order; its checksum is left zero.
pub type Header = [u8; 8];

/// Bytes by which an IPv6 header is longer than an IPv4 one.
const DIFFERENCE: u32 = 20;
/// The least MTU of an IPv6 link (RFC 8200 section 5).
const MTU6_MIN: u32 = 1_280;
/// What a router that names no MTU may have meant, by the length of what it could not send (RFC 1191 section 7.1).
const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];
/// Where the fields of an IPv4 header went in an IPv6 one, by offset; 255 is nowhere (RFC 7915 figure 3).
const POINTERS_TO_6: [u8; 20] = [0, 1, 4, 4, 255, 255, 255, 255, 7, 6, 255, 255, 8, 8, 8, 8, 24, 24, 24, 24];
const NOWHERE: u8 = 255;

/// The ICMPv6 header of an ICMP error that quotes a packet of `quoted_len` bytes; `None` where there is none.
pub fn to_icmpv6(header: Header, quoted_len: u16) -> Option<Header> {
    let [kind, code, _, _, pointer, _, mtu_high, mtu_low] = header;
    match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => Some(plain(1, 0)),
        // The protocol's place is the next header's.
        (3, 2) => Some(pointing(4, 1, 6)),
        (3, 3) => Some(plain(1, 4)),
        (3, 4) => {
            let told = u16::from_be_bytes([mtu_high, mtu_low]);
            let meant = || PLATEAUS.into_iter().find(|mtu| *mtu < quoted_len).unwrap_or(68);
            let mtu = u32::from(if told == 0 { meant() } else { told }) + DIFFERENCE;
            Some(pointing(2, 0, mtu.max(MTU6_MIN)))
        }
        (3, 9 | 10 | 13 | 15) => Some(plain(1, 1)),
        (11, 0 | 1) => Some(plain(3, code)),
        (12, 0 | 2) => {
            let there = POINTERS_TO_6.get(usize::from(pointer)).copied().filter(|place| *place != NOWHERE)?;
            Some(pointing(4, 0, there.into()))
        }
        _ => None,
    }
}

/// The ICMP header of an ICMPv6 error; `None` where there is none.
pub fn to_icmp(header: Header) -> Option<Header> {
    let [kind, code, _, _, a, b, c, d] = header;
    let value = u32::from_be_bytes([a, b, c, d]);
    match (kind, code) {
        (1, 0 | 2 | 3) => Some(plain(3, 1)),
        (1, 1) => Some(plain(3, 10)),
        (1, 4) => Some(plain(3, 3)),
        (2, _) => {
            let mtu = value.saturating_sub(DIFFERENCE).min(u16::MAX.into());
            Some(pointing(3, 4, mtu))
        }
        (3, 0 | 1) => Some(plain(11, code)),
        (4, 0) => pointer_to_4(value).map(|there| [12, 0, 0, 0, there, 0, 0, 0]),
        (4, 1) => Some(plain(3, 2)),
        _ => None,
    }
}

/// Where the field at `offset` of an IPv6 header went in an IPv4 one (RFC 7915 figure 6).
const fn pointer_to_4(offset: u32) -> Option<u8> {
    match offset {
        0 => Some(0),
        1 => Some(1),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

const fn plain(kind: u8, code: u8) -> Header {
    pointing(kind, code, 0)
}

const fn pointing(kind: u8, code: u8, value: u32) -> Header {
    let [a, b, c, d] = value.to_be_bytes();
    [kind, code, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_names_of_rfc_7915() {
        for (from, to) in [
            ([3, 0], Some([1, 0])),
            ([3, 1], Some([1, 0])),
            ([3, 2], Some([4, 1])),
            ([3, 3], Some([1, 4])),
            ([3, 4], Some([2, 0])),
            ([3, 10], Some([1, 1])),
            ([3, 13], Some([1, 1])),
            ([3, 14], None),
            ([11, 0], Some([3, 0])),
            ([11, 1], Some([3, 1])),
            ([4, 0], None),
            ([5, 1], None),
            ([8, 0], None),
        ] {
            let header = [from[0], from[1], 0, 0, 0, 0, 5, 0xdc];
            assert_eq!(to_icmpv6(header, 1_500).map(|header| [header[0], header[1]]), to, "{from:?}");
        }
        for (from, to) in [
            ([1, 0], Some([3, 1])),
            ([1, 1], Some([3, 10])),
            ([1, 4], Some([3, 3])),
            ([1, 5], None),
            ([2, 0], Some([3, 4])),
            ([3, 0], Some([11, 0])),
            ([4, 1], Some([3, 2])),
            ([4, 2], None),
            ([128, 0], None),
        ] {
            let header = [from[0], from[1], 0, 0, 0, 0, 5, 0xdc];
            assert_eq!(to_icmp(header).map(|header| [header[0], header[1]]), to, "{from:?}");
        }
    }

    #[test]
    fn an_mtu_is_that_of_the_other_header() {
        let mtu = |header: Option<Header>| {
            let [_, _, _, _, a, b, c, d] = header.unwrap();
            u32::from_be_bytes([a, b, c, d])
        };
        assert_eq!(mtu(to_icmpv6([3, 4, 0, 0, 0, 0, 5, 0x78], 1_500)), 1_420);
        assert_eq!(mtu(to_icmpv6([3, 4, 0, 0, 0, 0, 2, 0x40], 1_500)), 1_280, "no IPv6 host sends less");
        assert_eq!(mtu(to_icmpv6([3, 4, 0, 0, 0, 0, 0, 0], 1_500)), 1_512, "the next plateau: 1,492");
        assert_eq!(mtu(to_icmp([2, 0, 0, 0, 0, 0, 5, 0x78])), 1_380);
    }

    #[test]
    fn a_pointer_points_at_the_same_field() {
        assert_eq!(to_icmpv6([12, 0, 0, 0, 8, 0, 0, 0], 100), Some([4, 0, 0, 0, 0, 0, 0, 7]));
        assert_eq!(to_icmpv6([12, 0, 0, 0, 10, 0, 0, 0], 100), None, "IPv6 has no header checksum");
        assert_eq!(to_icmp([4, 0, 0, 0, 0, 0, 0, 7]), Some([12, 0, 0, 0, 8, 0, 0, 0]));
        assert_eq!(to_icmp([4, 0, 0, 0, 0, 0, 0, 40]), None);
    }
}
