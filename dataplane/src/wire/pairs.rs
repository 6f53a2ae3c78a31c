//! Source and destination together, as they lie side by side on the wire: one load, one compare, one store.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 source and destination address, in wire order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AddressPair(u64);

impl AddressPair {
    /// From two addresses.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (source.octets(), destination.octets());
        Self::from_wire([a, b, c, d, e, f, g, h])
    }

    /// From bytes 12 to 19 of an IPv4 header.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 8]) -> Self {
        Self(u64::from_ne_bytes(bytes))
    }

    /// As bytes 12 to 19 of an IPv4 header.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }

    /// The eight bytes as one native word, for hashing and sums.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The source address.
    #[inline(always)]
    pub const fn source(self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.to_wire();
        Ipv4Addr::new(a, b, c, d)
    }

    /// The destination address.
    #[inline(always)]
    pub const fn destination(self) -> Ipv4Addr {
        let [.., a, b, c, d] = self.to_wire();
        Ipv4Addr::new(a, b, c, d)
    }

    /// Source and destination exchanged: the other direction.
    pub fn reversed(self) -> Self {
        Self::new(self.destination(), self.source())
    }
}

impl fmt::Debug for AddressPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source(), self.destination())
    }
}

/// IPv6 source and destination address, in wire order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AddressPair6([u64; 4]);

impl AddressPair6 {
    /// From two addresses.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut bytes = [0; 32];
        let (first, second) = bytes.split_at_mut(16);
        first.copy_from_slice(&source.octets());
        second.copy_from_slice(&destination.octets());
        Self::from_wire(&bytes)
    }

    /// From bytes 8 to 39 of an IPv6 header.
    #[inline(always)]
    pub fn from_wire(bytes: &[u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks();
        let word = |at: usize| words.get(at).map_or(0, |word: &[u8; 8]| u64::from_ne_bytes(*word));
        Self([word(0), word(1), word(2), word(3)])
    }

    /// As bytes 8 to 39 of an IPv6 header.
    #[inline(always)]
    pub fn to_wire(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let (chunks, _) = bytes.as_chunks_mut();
        for (chunk, word) in chunks.iter_mut().zip(self.0) {
            *chunk = word.to_ne_bytes();
        }
        bytes
    }

    /// From the four native words that [`Self::words`] gave.
    #[inline(always)]
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// The 32 bytes as native words, for hashing, sums and compares: two are the source, two the destination.
    #[inline(always)]
    pub const fn words(self) -> [u64; 4] {
        self.0
    }

    /// The source address.
    pub fn source(self) -> Ipv6Addr {
        let [a, b, _, _] = self.0;
        address_of(a, b)
    }

    /// The destination address.
    pub fn destination(self) -> Ipv6Addr {
        let [_, _, c, d] = self.0;
        address_of(c, d)
    }

    /// Source and destination exchanged: the other direction.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([c, d, a, b])
    }
}

impl fmt::Debug for AddressPair6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source(), self.destination())
    }
}

/// The address that lies in memory as two native words.
fn address_of(first: u64, second: u64) -> Ipv6Addr {
    let bits = u128::from(u64::from_be(first)) << 64 | u128::from(u64::from_be(second));
    Ipv6Addr::from_bits(bits)
}

/// Source and destination address of either family.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4(AddressPair),
    /// IPv6.
    V6(AddressPair6),
}

impl Addresses {
    /// From two addresses of one family. Of two families the IPv4 one is taken as mapped (RFC 4291 section 2.5.5.2), which
    /// no packet has.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        let mapped = |address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4(AddressPair::new(source, destination)),
            (source, destination) => Self::V6(AddressPair6::new(mapped(source), mapped(destination))),
        }
    }

    /// The source address.
    #[inline]
    pub fn source(self) -> IpAddr {
        match self {
            Self::V4(pair) => pair.source().into(),
            Self::V6(pair) => pair.source().into(),
        }
    }

    /// The destination address.
    #[inline]
    pub fn destination(self) -> IpAddr {
        match self {
            Self::V4(pair) => pair.destination().into(),
            Self::V6(pair) => pair.destination().into(),
        }
    }

    /// Source and destination exchanged: the other direction.
    pub fn reversed(self) -> Self {
        match self {
            Self::V4(pair) => Self::V4(pair.reversed()),
            Self::V6(pair) => Self::V6(pair.reversed()),
        }
    }

    /// Whether they are IPv6 addresses.
    #[inline(always)]
    pub const fn is_v6(self) -> bool {
        matches!(self, Self::V6(_))
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::V4(AddressPair::default())
    }
}

impl From<AddressPair> for Addresses {
    fn from(pair: AddressPair) -> Self {
        Self::V4(pair)
    }
}

impl From<AddressPair6> for Addresses {
    fn from(pair: AddressPair6) -> Self {
        Self::V6(pair)
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(pair) => pair.fmt(f),
            Self::V6(pair) => pair.fmt(f),
        }
    }
}

/// TCP or UDP source and destination port, in wire order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PortPair(u32);

impl PortPair {
    /// From two port numbers, host order.
    pub const fn new(source: u16, destination: u16) -> Self {
        let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
        Self::from_wire([a, b, c, d])
    }

    /// From the first four bytes of a TCP or UDP header.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// As the first four bytes of a TCP or UDP header.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The four bytes as one native word, for hashing and sums.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The source port, host order.
    #[inline(always)]
    pub const fn source(self) -> u16 {
        let [a, b, ..] = self.to_wire();
        u16::from_be_bytes([a, b])
    }

    /// The destination port, host order.
    #[inline(always)]
    pub const fn destination(self) -> u16 {
        let [.., a, b] = self.to_wire();
        u16::from_be_bytes([a, b])
    }

    /// Source and destination exchanged: the other direction.
    pub const fn reversed(self) -> Self {
        Self::new(self.destination(), self.source())
    }
}

impl fmt::Debug for PortPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source(), self.destination())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_to_the_wire_and_back() {
        let addresses = AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(addresses.to_wire(), [10, 0, 0, 1, 192, 0, 2, 7]);
        assert_eq!(addresses.reversed().reversed(), addresses);
        assert_eq!(format!("{:?}", addresses.reversed()), "192.0.2.7 > 10.0.0.1");
        let (a, b): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "fd00:1:2:3:4:5:6:7".parse().unwrap());
        let addresses = AddressPair6::new(a, b);
        assert_eq!(addresses.to_wire()[..16], a.octets());
        assert_eq!(AddressPair6::from_wire(&addresses.to_wire()), addresses);
        assert_eq!((addresses.source(), addresses.reversed().source()), (a, b));
        assert_eq!(Addresses::new(a.into(), b.into()).destination(), b);
        let ports = PortPair::new(0x1234, 80);
        assert_eq!(ports.to_wire(), [0x12, 0x34, 0, 80]);
        assert_eq!((ports.reversed().source(), ports.reversed().destination()), (80, 0x1234));
    }
}
