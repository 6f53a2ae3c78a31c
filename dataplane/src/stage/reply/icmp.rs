//! A datagram turned into the ICMP error about it: headers are put in front, what is quoted stays where it is. Read
//! first: RFC 792, RFC 1812 section 4.3.2, RFC 4443 section 3.1.

use super::back;
use crate::burst::Shape;
use crate::packet::PacketBuf;
use crate::verdict::DropReason;
use crate::wire::Addresses;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp::{
    self, ADDRESS_UNREACHABLE6, DESTINATION_UNREACHABLE, DESTINATION_UNREACHABLE6, FRAGMENTATION_NEEDED,
    HOST_UNREACHABLE, PACKET_TOO_BIG6, PORT_UNREACHABLE, PORT_UNREACHABLE6,
};
use crate::wire::ipv4::{self, PROTOCOL_ICMP};
use crate::wire::ipv6::{self, PROTOCOL_ICMPV6};

/// As much is quoted as makes a datagram that every host accepts (RFC 1812 section 4.3.2.3).
const IP_LEN_MAX: usize = 576;
/// As much is quoted as fits IPv6's least MTU (RFC 4443 section 3.1).
const IP6_LEN_MAX: usize = 1_280;
/// Internetwork control, the precedence of errors (RFC 1812 section 4.3.2.5; Linux too).
const TOS: u8 = 0xc0;

/// What the sender of a datagram is told.
#[derive(Clone, Copy)]
pub(in crate::stage) enum Told {
    /// Nobody listens on the port.
    PortUnreachable,
    /// Nobody is there.
    HostUnreachable,
    /// It is too long; so many bytes of IP fit.
    TooBig(u16),
}

impl Told {
    /// Type, code and MTU of the ICMP error.
    fn of_ipv4(self) -> (u8, u8, u16) {
        match self {
            Self::PortUnreachable => (DESTINATION_UNREACHABLE, PORT_UNREACHABLE, 0),
            Self::HostUnreachable => (DESTINATION_UNREACHABLE, HOST_UNREACHABLE, 0),
            Self::TooBig(mtu) => (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, mtu),
        }
    }

    /// The same of ICMPv6.
    fn of_ipv6(self) -> (u8, u8, u16) {
        match self {
            Self::PortUnreachable => (DESTINATION_UNREACHABLE6, PORT_UNREACHABLE6, 0),
            Self::HostUnreachable => (DESTINATION_UNREACHABLE6, ADDRESS_UNREACHABLE6, 0),
            Self::TooBig(mtu) => (PACKET_TOO_BIG6, 0, mtu),
        }
    }
}

/// Turns the datagram with `addresses` around, as the error from the address it was sent to.
pub(super) fn turn_around<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    addresses: Addresses,
    told: Told,
) -> Result<(), DropReason> {
    match addresses {
        Addresses::V4(pair) => {
            let quoted = quoted(packet, shape, IP_LEN_MAX - ipv4::HEADER_LEN - icmp::HEADER_LEN)?;
            let (kind, code, mtu) = told.of_ipv4();
            let error = icmp::error(kind, code, mtu, quoted);
            let ip_len = ipv4::HEADER_LEN + icmp::HEADER_LEN + quoted.len();
            let header = ipv4::header(TOS, ip_len as u16, PROTOCOL_ICMP, pair.reversed());
            put_in_front(packet, &header, error, ip_len)
        }
        Addresses::V6(pair) => {
            let quoted = quoted(packet, shape, IP6_LEN_MAX - ipv6::HEADER_LEN - icmp::HEADER_LEN)?;
            let (kind, code, mtu) = told.of_ipv6();
            let error = icmp::error6(kind, code, mtu, pair.reversed(), quoted);
            let payload_len = icmp::HEADER_LEN + quoted.len();
            let header = ipv6::header(0, payload_len as u16, PROTOCOL_ICMPV6, pair.reversed());
            put_in_front(packet, &header, error, ipv6::HEADER_LEN + payload_len)
        }
    }
}

/// The first `len_max` bytes of the datagram, or all of it. Link padding is no part of it, and what lies in further
/// segments is not quoted.
fn quoted<P: PacketBuf>(packet: &P, shape: Shape, len_max: usize) -> Result<&[u8], DropReason> {
    let datagram = packet.data().get(ethernet::HEADER_LEN..).ok_or(DropReason::Truncated)?;
    datagram.get(..usize::from(shape.ip_len).min(len_max).min(datagram.len())).ok_or(DropReason::Truncated)
}

/// Puts an IP and an ICMP header between the Ethernet header, turned around, and what is quoted; the IP packet has
/// `ip_len` bytes then.
fn put_in_front<P: PacketBuf>(
    packet: &mut P,
    header: &[u8],
    error: [u8; icmp::HEADER_LEN],
    ip_len: usize,
) -> Result<(), DropReason> {
    let link = back(Ethernet(packet.data().first_chunk().ok_or(DropReason::Truncated)?));
    let added_len = header.len() + icmp::HEADER_LEN;
    // At most 48.
    if packet.prepend(added_len as u16).is_none() {
        return Err(DropReason::NoHeadroom);
    }
    if !packet.truncate(ethernet::HEADER_LEN + ip_len) {
        return Err(DropReason::Truncated);
    }
    let headers =
        packet.data_mut().get_mut(..ethernet::HEADER_LEN + added_len).ok_or(DropReason::Truncated)?;
    let (link_part, rest) = headers.split_at_mut(ethernet::HEADER_LEN);
    let (ip_part, icmp_part) = rest.split_at_mut(header.len());
    link_part.copy_from_slice(&link);
    ip_part.copy_from_slice(header);
    icmp_part.copy_from_slice(&error);
    Ok(())
}
