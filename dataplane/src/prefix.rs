//! Addresses that begin with the same bits: a CIDR prefix of either family (RFC 4632 section 3.1, RFC 4291 section 2.3).
//! A single address is the prefix of full length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix. Ordered by family, address and length, so that a prefix stands before what lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The bits beyond `len` are zero.
    network: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of so many leading bits of `address`; more than the address has count as all of them.
    #[inline]
    pub fn new(address: impl Into<IpAddr>, len: u8) -> Self {
        match address.into() {
            IpAddr::V4(address) => {
                let len = len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Self { network: Ipv4Addr::from_bits(address.to_bits() & mask).into(), len }
            }
            IpAddr::V6(address) => {
                let len = len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Self { network: Ipv6Addr::from_bits(address.to_bits() & mask).into(), len }
            }
        }
    }

    /// The prefix that holds `address` alone.
    pub const fn of(address: IpAddr) -> Self {
        let len = if address.is_ipv4() { 32 } else { 128 };
        Self { network: address, len }
    }

    /// Its first address.
    #[inline]
    pub const fn network(self) -> IpAddr {
        self.network
    }

    /// How many leading bits its addresses share.
    #[inline]
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    /// The bits of an address of its family.
    #[inline]
    pub const fn prefix_len_max(self) -> u8 {
        match self.network {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    /// The one address it holds, if it is no more.
    #[inline]
    pub fn address(self) -> Option<IpAddr> {
        (self.len == self.prefix_len_max()).then_some(self.network)
    }

    /// Its addresses, from the first to the last. A short prefix has more of them than anybody can walk.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let host_bits = self.prefix_len_max() - self.len;
        let last = u128::MAX.checked_shr(128 - u32::from(host_bits)).unwrap_or(0);
        (0..=last).map(move |host| match self.network {
            // The host part fits where the prefix left room for it.
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | host as u32).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | host).into(),
        })
    }

    /// Whether `address` lies in it; none of the other family does.
    #[inline]
    pub fn contains(self, address: impl Into<IpAddr>) -> bool {
        Self::new(address, self.len).network == self.network
    }

    /// Whether all of `other` lies in it.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.network)
    }
}

impl<A: Into<IpAddr>> From<A> for Prefix {
    fn from(address: A) -> Self {
        Self::of(address.into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}/{}", self.network, self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn holds_what_begins_with_its_bits() {
        for (network, len, inside, outside) in [
            ("203.0.113.0", 28, "203.0.113.15", "203.0.113.16"),
            ("203.0.113.10", 32, "203.0.113.10", "203.0.113.11"),
            ("0.0.0.0", 0, "255.255.255.255", "::"),
            ("2001:db8::", 32, "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", 128, "2001:db8::1", "2001:db8::2"),
            ("::", 0, "ffff::", "0.0.0.0"),
            // The numbers are equal, the families are not.
            ("::", 96, "::cb00:710a", "203.0.113.10"),
        ] {
            let prefix = Prefix::new(address(network), len);
            assert!(prefix.contains(address(inside)) && !prefix.contains(address(outside)), "{prefix}");
            assert_eq!(Prefix::new(address(inside), len), prefix, "{prefix}");
        }
        let [wide, narrow] = [24, 28].map(|len| Prefix::new(address("203.0.113.0"), len));
        assert!(wide.covers(narrow) && wide.covers(wide) && !narrow.covers(wide) && wide < narrow);
        let addresses = |text, len| -> Vec<_> { Prefix::new(address(text), len).addresses().collect() };
        assert_eq!(addresses("203.0.113.10", 31), [address("203.0.113.10"), address("203.0.113.11")]);
        assert_eq!(addresses("2001:db8::ff", 127), [address("2001:db8::fe"), address("2001:db8::ff")]);
        assert_eq!(addresses("2001:db8::ff", 128), [address("2001:db8::ff")]);
        assert_eq!(Prefix::new(address("::1"), 0).addresses().nth(2), Some(address("::2")));
        assert_eq!(Prefix::from(address("203.0.113.10")).to_string(), "203.0.113.10");
        assert_eq!(Prefix::new(address("2001:db8::7"), 64).to_string(), "2001:db8::/64");
        assert_eq!(Prefix::new(address("10.0.0.1"), 200).address(), Some(address("10.0.0.1")));
    }
}
