//! How a connection's backend is told who the client is, where the addresses of its packets do not say so: one byte of
//! the entry of the backend's flow. Fixed when the connection is made, whatever the rules say later: the numbers of its
//! segments depend on it.

use std::net::IpAddr;

use super::key::FlowKey;
use crate::rules::ClientAddress;
use crate::wire::proxy_protocol::{self, LEN_MAX, Version};

/// How the client's address is kept, and whether the backend is known to have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept(u8);

/// What a backend is told its client by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// A header of the PROXY protocol in front of the client's first byte.
    Proxy(Version),
    /// An option of the TCP header.
    Toa,
    /// An option of the IPv4 header.
    Uoa,
}

impl Kept {
    /// Set once the backend has it.
    const DELIVERED: u8 = 1 << 7;
    const PROXY_V2_OF_IPV6: u8 = 0x7b;
    const UOA: u8 = 0x7c;
    const TOA: u8 = 0x7d;
    const PROXY_V2_OF_IPV4: u8 = 0x7e;
    // Below those: version 1 of the PROXY protocol, and the length of its line.

    /// Nothing is told.
    pub const NOTHING: Self = Self(u8::MAX);

    /// What the rules ask for, for the connection whose client's flow is `key`.
    pub fn new(wanted: ClientAddress, key: &FlowKey) -> Self {
        match wanted {
            ClientAddress::Hidden => Self::NOTHING,
            ClientAddress::Proxy(version) => {
                let header = proxy_protocol::header(version, key.source(), key.destination(), key.ports);
                match (version, key.source()) {
                    (Version::V1, _) => Self(header.len() as u8),
                    (Version::V2, IpAddr::V4(_)) => Self(Self::PROXY_V2_OF_IPV4),
                    (Version::V2, IpAddr::V6(_)) => Self(Self::PROXY_V2_OF_IPV6),
                }
            }
            ClientAddress::Toa(_) => Self(Self::TOA),
            ClientAddress::Uoa(_) => Self(Self::UOA),
        }
    }

    /// As it stands in an entry.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// For an entry.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// What the backend is told by, if it is.
    pub const fn teller(self) -> Option<Teller> {
        if self.0 == Self::NOTHING.0 {
            return None;
        }
        Some(match self.0 & !Self::DELIVERED {
            Self::PROXY_V2_OF_IPV4 | Self::PROXY_V2_OF_IPV6 => Teller::Proxy(Version::V2),
            Self::TOA => Teller::Toa,
            Self::UOA => Teller::Uoa,
            _ => Teller::Proxy(Version::V1),
        })
    }

    /// Bytes of the PROXY protocol's header: what the numbers of the client's bytes are shifted by. 0 where there is none.
    pub const fn header_len(self) -> u32 {
        if self.0 == Self::NOTHING.0 {
            return 0;
        }
        match self.0 & !Self::DELIVERED {
            Self::PROXY_V2_OF_IPV4 => 28,
            Self::PROXY_V2_OF_IPV6 => 52,
            Self::TOA | Self::UOA => 0,
            len => len as u32,
        }
    }

    /// Whether the backend is known to have it.
    pub const fn is_delivered(self) -> bool {
        self.0 & Self::DELIVERED != 0
    }

    /// Now it has.
    #[must_use]
    pub const fn delivered(self) -> Self {
        Self(self.0 | Self::DELIVERED)
    }
}

const _: () =
    assert!(LEN_MAX < Kept::PROXY_V2_OF_IPV6 as usize, "a line's length is none of the other words");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::PROTOCOL_TCP;

    #[test]
    fn a_byte_says_how_and_how_long_and_whether_it_arrived() {
        let of = |source: &str, destination: &str| {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            FlowKey::new((source, 65_535), (destination, 65_535), PROTOCOL_TCP)
        };
        let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let (ipv4, ipv6) = (of("198.51.100.7", "203.0.113.10"), of(all_ones, all_ones));
        let (v1, v2) = (Teller::Proxy(Version::V1), Teller::Proxy(Version::V2));
        let cases = [
            (ClientAddress::Proxy(Version::V1), ipv4, v1, 50),
            (ClientAddress::Proxy(Version::V1), ipv6, v1, LEN_MAX as u32),
            (ClientAddress::Proxy(Version::V2), ipv4, v2, 28),
            (ClientAddress::Proxy(Version::V2), ipv6, v2, 52),
            (ClientAddress::Toa(254), ipv4, Teller::Toa, 0),
            (ClientAddress::Uoa(31), ipv4, Teller::Uoa, 0),
        ];
        for (wanted, key, teller, len) in cases {
            let kept = Kept::from_byte(Kept::new(wanted, &key).to_byte());
            assert_eq!((kept.teller(), kept.header_len()), (Some(teller), len));
            assert!(!kept.is_delivered());
            let kept = kept.delivered();
            assert_eq!((kept.teller(), kept.header_len()), (Some(teller), len));
            assert!(kept.is_delivered());
            if let ClientAddress::Proxy(version) = wanted {
                let header = proxy_protocol::header(version, key.source(), key.destination(), key.ports);
                assert_eq!(header.len() as u32, len);
            }
        }
        assert_eq!((Kept::NOTHING.teller(), Kept::NOTHING.header_len()), (None, 0));
    }
}
