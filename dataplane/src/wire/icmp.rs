//! ICMP and ICMPv6 errors, to write and to check. Read first: RFC 792, RFC 1812 section 4.3.2; RFC 4443 section 3. Not here: whatever the
//! kernel answers.

use super::ipv6::PROTOCOL_ICMPV6;
use super::{AddressPair6, Addresses, checksum};

/// Bytes of the header in front of what an error quotes.
pub const HEADER_LEN: usize = 8;
/// Destination unreachable (RFC 792).
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Of that: nobody is there.
pub const HOST_UNREACHABLE: u8 = 1;
/// Of that: nobody listens on the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Of that: it is too long for the next link and must not be cut (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Of that: it could not take the way it names itself.
pub const SOURCE_ROUTE_FAILED: u8 = 5;
/// Time exceeded (RFC 792); of that, 0 is the TTL's, 1 that of fragments which wait for the others.
pub const TIME_EXCEEDED: u8 = 11;

/// ICMPv6: destination unreachable (RFC 4443 section 3.1).
pub const DESTINATION_UNREACHABLE6: u8 = 1;
/// Of that: nobody is there.
pub const ADDRESS_UNREACHABLE6: u8 = 3;
/// Of that: nobody listens on the port.
pub const PORT_UNREACHABLE6: u8 = 4;
/// ICMPv6: time exceeded (RFC 4443 section 3.3); its codes are as of [`TIME_EXCEEDED`].
pub const TIME_EXCEEDED6: u8 = 3;

/// ICMPv6: it is too long for the next link (RFC 4443 section 3.2).
pub const PACKET_TOO_BIG6: u8 = 2;

/// Whether the checksum of a message, of ICMPv6 where `addresses` are, is right. It has to be there as a whole, from its header on.
pub fn adds_up(message: &[u8], addresses: Addresses) -> bool {
    let Ok(len) = u16::try_from(message.len()) else { return false };
    let pseudo = match addresses {
        Addresses::V4(_) => 0,
        Addresses::V6(pair) => checksum::sum_of_pseudo_header(pair, PROTOCOL_ICMPV6, len),
    };
    checksum::combine(pseudo, checksum::sum(message)) == 0xffff
}

/// The header, in wire order, of an ICMPv6 error from `addresses`' source, which quotes the packet that caused it. `mtu` is 0 but for
/// [`PACKET_TOO_BIG6`].
pub fn error6(kind: u8, code: u8, mtu: u16, addresses: AddressPair6, quoted: &[u8]) -> [u8; HEADER_LEN] {
    // What is quoted is below 2^16 bytes, as the packet that quotes it.
    let len = (HEADER_LEN + quoted.len()) as u16;
    let pseudo = checksum::sum_of_pseudo_header(addresses, PROTOCOL_ICMPV6, len);
    let [a, b] = (!checksum::combine(sum(kind, code, mtu, quoted), pseudo)).to_ne_bytes();
    let [c, d] = mtu.to_be_bytes();
    [kind, code, a, b, 0, 0, c, d]
}

/// The header, in wire order, of an error that quotes the datagram that caused it. `mtu` is 0 but for
/// [`FRAGMENTATION_NEEDED`].
pub fn error(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> [u8; HEADER_LEN] {
    let [a, b] = (!sum(kind, code, mtu, quoted)).to_ne_bytes();
    let [c, d] = mtu.to_be_bytes();
    [kind, code, a, b, 0, 0, c, d]
}

fn sum(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> u16 {
    let header = checksum::combine(u16::from_ne_bytes([kind, code]), mtu.to_be());
    checksum::combine(header, checksum::sum(quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_icmpv6_is_what_an_independent_encoder_writes() {
        let (source, destination) = ([0x20; 16], [0xfd; 16]);
        let addresses = AddressPair6::new(source.into(), destination.into());
        let code = etherparse::icmpv6::DestUnreachableCode::Port;
        let kind = etherparse::Icmpv6Type::DestinationUnreachable(code);
        for quoted in [&[0x60, 0, 0, 28, 1, 2, 3][..], &[0xff; 1232], &[]] {
            let expected = kind.to_header(source, destination, quoted).unwrap();
            let error = error6(DESTINATION_UNREACHABLE6, PORT_UNREACHABLE6, 0, addresses, quoted);
            assert_eq!(error, expected.to_bytes()[..]);
            let kind = etherparse::Icmpv6Type::PacketTooBig { mtu: 1_460 };
            let expected = kind.to_header(source, destination, quoted).unwrap();
            let error = error6(PACKET_TOO_BIG6, 0, 1_460, addresses, quoted);
            assert_eq!(error, expected.to_bytes()[..]);
        }
    }

    #[test]
    fn an_error_is_what_an_independent_encoder_writes() {
        for quoted in [&[0x45, 0, 0, 28, 1, 2, 3][..], &[0xff; 548], &[]] {
            use etherparse::icmpv4::DestUnreachableHeader::{FragmentationNeeded, Port};
            let codes = [
                (PORT_UNREACHABLE, 0, Port),
                (FRAGMENTATION_NEEDED, 1_460, FragmentationNeeded { next_hop_mtu: 1_460 }),
            ];
            for (code, mtu, expected) in codes {
                let error = error(DESTINATION_UNREACHABLE, code, mtu, quoted);
                let expected = etherparse::Icmpv4Type::DestinationUnreachable(expected);
                assert_eq!(error, etherparse::Icmpv4Header::with_checksum(expected, quoted).to_bytes()[..]);
            }
        }
    }
}
