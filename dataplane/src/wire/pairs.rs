//! Source and destination together, as they lie side by side on the wire: one load, one compare, one store.

use std::fmt;
use std::net::Ipv4Addr;

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
        let ports = PortPair::new(0x1234, 80);
        assert_eq!(ports.to_wire(), [0x12, 0x34, 0, 80]);
        assert_eq!((ports.reversed().source(), ports.reversed().destination()), (80, 0x1234));
    }
}
