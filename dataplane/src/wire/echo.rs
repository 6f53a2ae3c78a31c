//! Echo requests and replies of ICMP and ICMPv6: what `ping` sends and hears, and the one kind of ICMP that has flows. Read
//! first: RFC 792 (echo), RFC 4443 section 4; RFC 5508 section 3 and RFC 6146 section 3.5.3 for what names a flow; RFC 7915
//! sections 4.2 and 5.2 for the other family. Not here: errors, which belong to the flow they quote
//! ([`crate::wire::quote`]), and everything else, which is the kernel's.
//!
//! A flow is a client, whom it pings, and the identifier. The identifier stands where the client's l4_port stands in other
//! flows, and 0 stands for the l4_port of whom it pings: a request goes from (client, identifier) to (VIP, 0), its reply
//! from (VIP, 0) to (client, identifier), so a flow's key reversed is the key of its answers. An identifier of 0 reads the
//! same both ways; both are the same two hosts', so nothing of it goes astray.

use super::checksum::{self, combine};
use super::ipv4::PROTOCOL_ICMP;
use super::ipv6::PROTOCOL_ICMPV6;
use super::{Addresses, PortPair};
use crate::flow::FlowKey;

/// Bytes of the header: type, code, checksum, identifier, sequence number.
pub const HEADER_LEN: usize = 8;

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// Whether flows of this protocol are those of echo messages.
#[inline(always)]
pub const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6)
}

/// The protocol of echo messages between addresses of a family.
pub const fn protocol_of(is_v6: bool) -> u8 {
    if is_v6 { PROTOCOL_ICMPV6 } else { PROTOCOL_ICMP }
}

/// What `protocol` is called where packets go between addresses of the family that `is_v6` says: ICMP has a name in each.
pub const fn in_family(protocol: u8, is_v6: bool) -> u8 {
    if is_icmp(protocol) { protocol_of(is_v6) } else { protocol }
}

/// Whether a message of this type asks for an answer.
pub const fn is_request(kind: u8) -> bool {
    matches!(kind, REQUEST | REQUEST6)
}

/// Whether a message of this type is an echo request or reply, of ICMPv6 or of ICMP.
pub const fn is_echo(kind: u8, is_v6: bool) -> bool {
    if is_v6 { matches!(kind, REQUEST6 | REPLY6) } else { matches!(kind, REQUEST | REPLY) }
}

/// The identifier of an echo message, where l4_ports stand in the key of its flow.
pub const fn ports(header: &[u8; HEADER_LEN]) -> PortPair {
    let [kind, _, _, _, a, b, ..] = *header;
    PortPair::from_wire(if is_request(kind) { [a, b, 0, 0] } else { [0, 0, a, b] })
}

/// The delta of the checksum of an echo message of the flow `old` that becomes one of `new`. ICMPv6 covers a pseudo header
/// (RFC 4443 section 2.3), ICMP does not; between the families [`translate`] adds what differs by message.
pub const fn delta(old: &FlowKey, new: &FlowKey) -> u16 {
    let of_pseudo = combine(!sum_of_pseudo(old.addresses), sum_of_pseudo(new.addresses));
    combine(of_pseudo, checksum::delta_of_ports(old.ports, new.ports))
}

/// Of the pseudo header what all messages of a flow have alike; the length is left out.
const fn sum_of_pseudo(addresses: Addresses) -> u16 {
    if addresses.is_v6() {
        combine(checksum::sum_of_addresses(addresses), (PROTOCOL_ICMPV6 as u16).to_be())
    } else {
        0
    }
}

/// Writes the identifier that `ports` say and moves the checksum by `delta`.
#[inline(always)]
pub const fn set_identifier(header: &mut [u8; HEADER_LEN], delta: u16, ports: PortPair) {
    // One of the two is 0.
    let [a, b, c, d] = ports.to_wire();
    (header[4], header[5]) = (a | c, b | d);
    let moved = checksum::update(u16::from_ne_bytes([header[2], header[3]]), delta);
    // Both are zero in ones' complement; of a message that is zeros throughout only the one adds up (RFC 1071).
    let moved = if moved == 0 { 0xffff } else { moved };
    [header[2], header[3]] = moved.to_ne_bytes();
}

/// Makes an echo message one of the other family, which `to_v6` says, with the identifier that `ports` say: `delta` is that
/// of its flow, `message_len` its length in bytes. False, and nothing changed, where it is none.
pub const fn translate(
    header: &mut [u8; HEADER_LEN],
    to_v6: bool,
    delta: u16,
    message_len: u16,
    ports: PortPair,
) -> bool {
    let kind = match (header[0], to_v6) {
        (REQUEST, true) => REQUEST6,
        (REPLY, true) => REPLY6,
        (REQUEST6, false) => REQUEST,
        (REPLY6, false) => REPLY,
        _ => return false,
    };
    let (old, new) = (u16::from_ne_bytes([header[0], 0]), u16::from_ne_bytes([kind, 0]));
    let len = if to_v6 { message_len.to_be() } else { !message_len.to_be() };
    header[0] = kind;
    set_identifier(header, combine(delta, combine(len, combine(!old, new))), ports);
    true
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Type};
    use proptest::prelude::*;

    use super::*;

    fn address(n: u8, is_v6: bool) -> IpAddr {
        if is_v6 {
            Ipv6Addr::new(0x2001, 0xdb8, n.into(), 0, 0, 0, 0, 7 * u16::from(n)).into()
        } else {
            Ipv4Addr::new(203, 0, 113, n).into()
        }
    }

    /// The flow of pings with an identifier.
    fn flow(n: u8, identifier: u16, is_v6: bool) -> FlowKey {
        FlowKey::new((address(n, is_v6), identifier), (address(n + 1, is_v6), 0), protocol_of(is_v6))
    }

    /// A message of a flow, by an independent encoder.
    fn message(key: &FlowKey, is_request: bool, payload: &[u8]) -> Vec<u8> {
        let id = if is_request { key.ports.source() } else { key.ports.destination() };
        let echo = IcmpEchoHeader { id, seq: 3 };
        let header = match key.addresses {
            Addresses::V4(_) => {
                let kind =
                    if is_request { Icmpv4Type::EchoRequest(echo) } else { Icmpv4Type::EchoReply(echo) };
                Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec()
            }
            Addresses::V6(pair) => {
                let kind =
                    if is_request { Icmpv6Type::EchoRequest(echo) } else { Icmpv6Type::EchoReply(echo) };
                let ends = (pair.source().octets(), pair.destination().octets());
                kind.to_header(ends.0, ends.1, payload).unwrap().to_bytes().to_vec()
            }
        };
        [&header[..], payload].concat()
    }

    /// A checksum of zero stands for ones.
    fn with_ones(mut message: Vec<u8>) -> Vec<u8> {
        if message[2..4] == [0, 0] {
            message[2..4].fill(0xff);
        }
        message
    }

    proptest! {
        #[test]
        fn a_message_becomes_what_an_independent_encoder_writes(
            families in any::<(bool, bool)>(), is_request in any::<bool>(), identifiers in any::<(u16, u16)>(),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let key = |n, identifier, is_v6| {
                let key = flow(n, identifier, is_v6);
                if is_request { key } else { key.reversed() }
            };
            let (old, new) = (key(1, identifiers.0, families.0), key(9, identifiers.1, families.1));
            let mut bytes = message(&old, is_request, &payload);
            let len = bytes.len() as u16;
            let header = bytes.first_chunk_mut().unwrap();
            prop_assert!(is_echo(header[0], families.0) && !is_echo(header[0], !families.0));
            prop_assert_eq!(super::is_request(header[0]), is_request);
            prop_assert_eq!(ports(header), old.ports);
            if families.0 == families.1 {
                set_identifier(header, delta(&old, &new), new.ports);
            } else {
                prop_assert!(translate(header, families.1, delta(&old, &new), len, new.ports));
            }
            prop_assert_eq!(with_ones(bytes), with_ones(message(&new, is_request, &payload)));
        }
    }

    #[test]
    fn a_message_of_zeros_has_a_checksum_of_ones() {
        let (old, new) = (flow(1, 5, false).reversed(), flow(9, 0, false).reversed());
        let mut bytes = [0, 0, 0, 0, 0, 5, 0, 0];
        [bytes[2], bytes[3]] = (!5u16).to_be_bytes();
        set_identifier(&mut bytes, delta(&old, &new), new.ports);
        assert_eq!(bytes, [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_echo_of_the_family_is_not_translated() {
        for kind in [3, 11, 13, 128, 129] {
            let mut header = [kind, 0, 1, 2, 3, 4, 5, 6];
            assert!(!translate(&mut header, true, 0, 8, PortPair::default()));
            assert_eq!(header, [kind, 0, 1, 2, 3, 4, 5, 6]);
        }
        assert!(!translate(&mut [8; 8], false, 0, 8, PortPair::default()));
        assert_eq!((in_family(6, true), in_family(1, true), in_family(58, false)), (6, 58, 1));
    }
}
