//! Ethernet II frames (IEEE 802.3 clause 3). Read first: RFC 894.

use std::fmt;
use std::str::FromStr;

/// Bytes of an untagged Ethernet header.
pub const HEADER_LEN: usize = 14;

/// EtherType of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A MAC address, in wire order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether the group bit is set: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// The low 48 bits of a native word, of which a MAC is the first six bytes in memory.
const MAC_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
/// The group bit of such a word.
const GROUP_MASK: u64 = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);

impl MacAddress {
    /// The MAC in such a word as [`Ethernet::source_and_type`] gives.
    pub const fn from_word(word: u64) -> Self {
        let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
        Self([a, b, c, d, e, f])
    }

    /// The six bytes and an EtherType as one native word, as [`Ethernet::source_and_type`] reads them.
    #[inline(always)]
    pub const fn with_type(self, ethertype: u16) -> u64 {
        let ([a, b, c, d, e, f], [g, h]) = (self.0, ethertype.to_be_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Which destinations a port takes: one compare of masked words.
#[derive(Clone, Copy, Debug)]
pub struct StationFilter {
    mask: u64,
    wanted: u64,
}

impl StationFilter {
    /// Frames to `station` alone; with `None` every unicast frame.
    pub fn new(station: Option<MacAddress>) -> Self {
        match station {
            Some(station) => Self { mask: MAC_MASK, wanted: station.with_type(0) },
            None => Self { mask: GROUP_MASK, wanted: 0 },
        }
    }

    /// Whether the frame is for the port.
    #[inline(always)]
    pub fn takes(self, header: Ethernet<'_>) -> bool {
        let word = header.0.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        word & self.mask == self.wanted
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six hexadecimal octets joined by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMacAddress;

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, NotAMacAddress> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let hexadecimal = |part: &&str| {
                (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            let part = parts.next().filter(hexadecimal).ok_or(NotAMacAddress)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddress)?;
        }
        if parts.next().is_some() { Err(NotAMacAddress) } else { Ok(Self(octets)) }
    }
}

/// An Ethernet header, to read.
#[derive(Clone, Copy)]
pub struct Ethernet<'a>(pub &'a [u8; HEADER_LEN]);

impl Ethernet<'_> {
    /// The station it is for.
    #[inline(always)]
    pub fn destination(self) -> MacAddress {
        let [a, b, c, d, e, f, ..] = *self.0;
        MacAddress([a, b, c, d, e, f])
    }

    /// The station it came from.
    #[inline(always)]
    pub fn source(self) -> MacAddress {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        MacAddress([a, b, c, d, e, f])
    }

    /// The last eight bytes, source and EtherType, as one native word.
    #[inline(always)]
    pub fn source_and_type(self) -> u64 {
        self.0.last_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// The EtherType of what follows.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; HEADER_LEN] = [2, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0xab, 0xcd, 0xef, 0x08, 0x00];

    #[test]
    fn fields_are_read_from_the_wire() {
        let header = Ethernet(&FRAME);
        assert_eq!(header.destination().to_string(), "02:00:00:00:00:01");
        assert_eq!(header.source().to_string(), "52:54:00:ab:cd:ef");
        assert_eq!(header.ethertype(), ETHERTYPE_IPV4);
        assert!(!header.destination().is_group());
        assert!(MacAddress([0xff; 6]).is_group());
        assert_eq!(header.source_and_type(), header.source().with_type(ETHERTYPE_IPV4));
        assert_eq!(MacAddress::from_word(header.source_and_type()), header.source());
    }

    #[test]
    fn a_station_takes_its_own_frames_and_any_takes_all_but_group_frames() {
        let header = Ethernet(&FRAME);
        let takes = |station: Option<MacAddress>, header| StationFilter::new(station).takes(header);
        assert!(takes(Some(header.destination()), header) && takes(None, header));
        assert!(!takes(Some(MacAddress([2, 0, 0, 0, 0, 2])), header));
        let mut broadcast = FRAME;
        broadcast[..6].fill(0xff);
        assert!(!takes(None, Ethernet(&broadcast)));
        assert!(!takes(Some(MacAddress([2; 6])), Ethernet(&broadcast)));
    }

    #[test]
    fn mac_addresses_are_parsed_and_garbage_is_refused() {
        assert_eq!("02:0:00:00:00:0a".parse(), Ok(MacAddress([2, 0, 0, 0, 0, 10])));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:gg",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAMacAddress), "{text}");
        }
    }
}
