//! The header of HAProxy's PROXY protocol, to write: who the client of a connection is and which address it asked for.
//! Not here: where it goes in a connection, how the numbers of its segments move for it, and reading one.
//!
//! Read first: the specification, <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, sections 2.1 (text)
//! and 2.2 (binary), and RFC 5952 for how an IPv6 address is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::PortPair;

/// The longest header in bytes: the text with two IPv6 addresses that leave nothing out.
pub const LEN_MAX: usize = "PROXY TCP6 ".len() + 2 * (ADDRESS_TEXT_MAX + 1) + 2 * 5 + " \r\n".len();
/// The longest text of an address.
const ADDRESS_TEXT_MAX: usize = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len();

const _: () = assert!(LEN_MAX == 104);

/// What opens every header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY: the connection is somebody else's.
const VERSION_AND_COMMAND: u8 = 0x21;
/// TCP over IPv4.
const STREAM_OVER_IPV4: u8 = 0x11;
/// TCP over IPv6.
const STREAM_OVER_IPV6: u8 = 0x21;

/// How the header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A whole header.
pub type Header = ArrayVec<u8, LEN_MAX>;

/// The header of a TCP connection from `source` to `destination`, which are of one family; where they are not, both are
/// written as IPv6.
pub fn header(version: Version, source: IpAddr, destination: IpAddr, ports: PortPair) -> Header {
    let (source, destination) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            return over_ipv4(version, source, destination, ports);
        }
        (source, destination) => (as_ipv6(source), as_ipv6(destination)),
    };
    let mut header = Header::new();
    match version {
        Version::V1 => {
            put(&mut header, b"PROXY TCP6 ");
            put_ipv6(&mut header, source);
            put(&mut header, b" ");
            put_ipv6(&mut header, destination);
            put_ports(&mut header, ports);
        }
        Version::V2 => {
            put_binary(&mut header, STREAM_OVER_IPV6, 36);
            put(&mut header, &source.octets());
            put(&mut header, &destination.octets());
            put(&mut header, &ports.to_wire());
        }
    }
    header
}

fn over_ipv4(version: Version, source: Ipv4Addr, destination: Ipv4Addr, ports: PortPair) -> Header {
    let mut header = Header::new();
    match version {
        Version::V1 => {
            put(&mut header, b"PROXY TCP4 ");
            put_ipv4(&mut header, source);
            put(&mut header, b" ");
            put_ipv4(&mut header, destination);
            put_ports(&mut header, ports);
        }
        Version::V2 => {
            put_binary(&mut header, STREAM_OVER_IPV4, 12);
            put(&mut header, &source.octets());
            put(&mut header, &destination.octets());
            put(&mut header, &ports.to_wire());
        }
    }
    header
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// What a header of version 2 begins with; `len` bytes of addresses and ports follow.
fn put_binary(header: &mut Header, family: u8, len: u16) {
    put(header, &SIGNATURE);
    put(header, &[VERSION_AND_COMMAND, family]);
    put(header, &len.to_be_bytes());
}

/// What a header of version 1 ends with.
fn put_ports(header: &mut Header, ports: PortPair) {
    put(header, b" ");
    put_decimal(header, ports.source());
    put(header, b" ");
    put_decimal(header, ports.destination());
    put(header, b"\r\n");
}

fn put_ipv4(header: &mut Header, address: Ipv4Addr) {
    let [a, b, c, d] = address.octets();
    put_decimal(header, a.into());
    for octet in [b, c, d] {
        put(header, b".");
        put_decimal(header, octet.into());
    }
}

/// The text that RFC 5952 recommends, but for mapped IPv4 addresses, which are written like the others: receivers that
/// log the text as it stands then log what everybody else writes.
fn put_ipv6(header: &mut Header, address: Ipv6Addr) {
    let groups = address.segments();
    let left_out = longest_zeros(groups);
    for (at, group) in groups.into_iter().enumerate() {
        if left_out.contains(&at) {
            if at == left_out.start {
                put(header, b"::");
            }
            continue;
        }
        if at > 0 && at != left_out.end {
            put(header, b":");
        }
        put_hexadecimal(header, group);
    }
}

/// The first of the longest runs of at least two groups that are 0.
fn longest_zeros(groups: [u16; 8]) -> std::ops::Range<usize> {
    let (mut longest, mut start) = (0..0, 0);
    for (at, group) in groups.into_iter().enumerate() {
        if group != 0 {
            start = at + 1;
        } else if at + 1 - start > longest.len().max(1) {
            longest = start..at + 1;
        }
    }
    // An empty run must not end where a group begins.
    if longest.is_empty() { usize::MAX..usize::MAX } else { longest }
}

fn put_hexadecimal(header: &mut Header, group: u16) {
    let digits = [group >> 12, group >> 8 & 0xf, group >> 4 & 0xf, group & 0xf];
    let is_leading = |at: usize| at < 3 && group >> (12 - 4 * at) == 0;
    for (_, digit) in digits.into_iter().enumerate().filter(|(at, _)| !is_leading(*at)) {
        // A digit is below 16.
        put(header, &[if digit < 10 { b'0' + digit as u8 } else { b'a' + digit as u8 - 10 }]);
    }
}

fn put_decimal(header: &mut Header, number: u16) {
    for unit in [10_000, 1_000, 100, 10, 1] {
        if number >= unit || unit == 1 {
            put(header, &[b'0' + (number / unit % 10) as u8]);
        }
    }
}

/// There is always room: [`LEN_MAX`] is the longest of all headers.
fn put(header: &mut Header, bytes: &[u8]) {
    let written = header.try_extend_from_slice(bytes);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(version: Version, source: &str, destination: &str, ports: (u16, u16)) -> Header {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        header(version, source, destination, PortPair::new(ports.0, ports.1))
    }

    fn text(source: &str, destination: &str, ports: (u16, u16)) -> String {
        String::from_utf8(of(Version::V1, source, destination, ports).to_vec()).unwrap()
    }

    #[test]
    fn the_text_is_that_of_the_specification_s_section_2_1() {
        let line = text("192.168.0.1", "192.168.0.11", (56_324, 443));
        assert_eq!(line, "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        // The longest lines it gives, with ports of five digits.
        let longest = text("255.255.255.255", "255.255.255.255", (65_535, 65_535));
        assert_eq!(longest, "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n");
        let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = text(all_ones, all_ones, (65_535, 65_535));
        assert_eq!(longest, format!("PROXY TCP6 {all_ones} {all_ones} 65535 65535\r\n"));
        assert_eq!(longest.len(), LEN_MAX);
    }

    #[test]
    fn the_binary_header_is_that_of_the_specification_s_section_2_2() {
        let header = of(Version::V2, "198.51.100.7", "203.0.113.10", (40_000, 80));
        let expected = [
            &b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A"[..],
            &[0x21, 0x11, 0, 12, 198, 51, 100, 7, 203, 0, 113, 10, 0x9c, 0x40, 0, 80],
        ];
        assert_eq!(header[..], expected.concat());
        let header = of(Version::V2, "2001:db8::1", "2001:db8::2", (1, 2));
        assert_eq!((header.len(), &header[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(header[16..18], [0x20, 0x01]);
        assert_eq!(header[31], 1);
        assert_eq!(header[47..], [2, 0, 1, 0, 2]);
    }

    #[test]
    fn addresses_of_two_families_are_written_as_ipv6() {
        let line = text("198.51.100.7", "2001:db8::2", (1, 2));
        assert_eq!(line, "PROXY TCP6 ::ffff:c633:6407 2001:db8::2 1 2\r\n");
    }

    proptest! {
        #[test]
        fn an_ipv6_address_is_written_as_everybody_else_writes_it(
            groups in any::<[u16; 8]>(), kept in any::<u8>(), short in any::<u8>()
        ) {
            let mut groups = groups;
            for (at, group) in groups.iter_mut().enumerate() {
                *group *= u16::from(kept >> at & 1);
                *group >>= u16::from(short >> at & 1) * 9;
            }
            let address = Ipv6Addr::from(groups);
            // The library writes IPv4 addresses within IPv6 ones in their own way.
            prop_assume!(address.to_ipv4_mapped().is_none());
            let line = text(&address.to_string(), "::1", (groups[0], groups[1]));
            prop_assert_eq!(line, format!("PROXY TCP6 {address} ::1 {} {}\r\n", groups[0], groups[1]));
        }

        #[test]
        fn an_ipv4_address_is_written_as_everybody_else_writes_it(address in any::<Ipv4Addr>(), ports in any::<(u16, u16)>()) {
            let line = text(&address.to_string(), "203.0.113.10", ports);
            prop_assert_eq!(line, format!("PROXY TCP4 {address} 203.0.113.10 {} {}\r\n", ports.0, ports.1));
        }
    }
}
