//! What an ICMP or ICMPv6 error quotes of the packet it is about: enough to find that packet's flow, and to be rewritten
//! as the packet was. Read first: RFC 792, RFC 1812 section 4.3.2, RFC 4443 sections 2.4 and 3, RFC 5508 section 4; RFC
//! 4884 for what may follow the quote, which is left as it is.

use super::ipv4::{self, Ipv4, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use super::ipv6::{self, Ipv6, Upper};
use super::{Addresses, PortPair, checksum, echo, icmp, tcp, udp};
use crate::flow::FlowKey;

/// Offset of the message's checksum.
const CHECKSUM_AT: usize = 2;
/// Offset of the checksum in an IPv4 header.
const IPV4_CHECKSUM_AT: usize = 10;
/// Offset of the addresses in an IPv4 header.
const IPV4_ADDRESSES_AT: usize = 12;
/// Offset of the addresses in an IPv6 header.
const IPV6_ADDRESSES_AT: usize = 8;
/// Bytes of L4 that every error quotes (RFC 792).
const L4_LEN_MIN: usize = 8;

/// Whether an ICMP message is an error that goes to the sender of what it quotes: destination unreachable, time
/// exceeded, parameter problem. A redirect is for hosts on the link, a source quench for nobody any more (RFC 6633).
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Whether an ICMPv6 message is such an error: destination unreachable, packet too big, time exceeded, parameter problem.
pub const fn is_error6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// What a message quotes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The flow of the packet, as it is quoted.
    pub key: FlowKey,
    /// Where its L4 header begins, in bytes from the beginning of the message.
    l4_at: usize,
}

/// Why no flow is found by a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoQuote {
    /// It ends within its headers, they cannot be, or it is a later fragment, which nobody reports on.
    Malformed,
    /// A packet that has neither l4_ports nor what stands for them.
    OtherProtocol,
}

/// Reads what an ICMPv6 message, or an ICMP one, quotes.
///
/// # Errors
/// [`NoQuote`].
pub fn read(message: &[u8], is_v6: bool) -> Result<Quote, NoQuote> {
    if is_v6 { Quote::of_icmpv6(message) } else { Quote::of_icmp(message) }
}

impl Quote {
    /// Where the quoted L4 header begins, in bytes from the beginning of the message.
    pub fn l4_at(&self) -> usize {
        self.l4_at
    }

    /// Makes `l4`, the quoted TCP or UDP header as far as it is quoted, one of the flow `new`, which may be of another
    /// family. (What a ping is in another family is [`echo::translate`]'s.) Its checksum, where it is there, moves by what changed.
    pub fn rewrite_l4(&self, l4: &mut [u8], new: &FlowKey) {
        let old = &self.key;
        let of_addresses = checksum::delta_of_addresses(old.addresses, new.addresses);
        let delta = checksum::combine(of_addresses, checksum::delta_of_ports(old.ports, new.ports));
        // What is not quoted has no checksum to move.
        let _ = if old.protocol == PROTOCOL_UDP {
            move_checksum(l4, udp::CHECKSUM_AT, |old| checksum::update_udp(old, delta))
        } else {
            move_checksum(l4, tcp::CHECKSUM_AT, |old| checksum::update(old, delta))
        };
        if let Some(ports) = l4.first_chunk_mut() {
            *ports = new.ports.to_wire();
        }
    }

    /// Reads what an ICMP message quotes.
    ///
    /// # Errors
    /// [`NoQuote`].
    pub fn of_icmp(message: &[u8]) -> Result<Self, NoQuote> {
        let quoted = message.get(icmp::HEADER_LEN..).ok_or(NoQuote::Malformed)?;
        let header = Ipv4(quoted.first_chunk().ok_or(NoQuote::Malformed)?);
        let header_len = header.header_len();
        let is_possible = header.version() == 4
            && header_len >= ipv4::HEADER_LEN
            && header.total_len() >= header_len + L4_LEN_MIN
            // Nobody reports on a later fragment (RFC 1122 section 3.2.2), and it has no l4_ports.
            && header.fragment_word() & 0x1fff == 0;
        if !is_possible {
            return Err(NoQuote::Malformed);
        }
        Self::with_l4(message, header.addresses().into(), header.protocol(), icmp::HEADER_LEN + header_len)
    }

    /// Reads what an ICMPv6 message quotes.
    ///
    /// # Errors
    /// [`NoQuote`].
    pub fn of_icmpv6(message: &[u8]) -> Result<Self, NoQuote> {
        let quoted = message.get(icmp::HEADER_LEN..).ok_or(NoQuote::Malformed)?;
        let (header, payload) = quoted.split_first_chunk().ok_or(NoQuote::Malformed)?;
        let header = Ipv6(header);
        let (protocol, at) = upper(header.next_header(), payload).ok_or(NoQuote::Malformed)?;
        if header.version() != 6 || header.payload_len() < at + L4_LEN_MIN {
            return Err(NoQuote::Malformed);
        }
        let l4_at = icmp::HEADER_LEN + ipv6::HEADER_LEN + at;
        Self::with_l4(message, header.addresses().into(), protocol, l4_at)
    }

    fn with_l4(message: &[u8], addresses: Addresses, protocol: u8, l4_at: usize) -> Result<Self, NoQuote> {
        let l4: Option<&[u8; L4_LEN_MIN]> = message.get(l4_at..).and_then(|l4| l4.first_chunk());
        let ports = match (protocol, l4) {
            (PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP, Some([a, b, c, d, ..])) => {
                PortPair::from_wire([*a, *b, *c, *d])
            }
            (PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP, None) => return Err(NoQuote::Malformed),
            (icmp, Some(header)) if is_echo(icmp, header, addresses.is_v6()) => echo::ports(header),
            _ => return Err(NoQuote::OtherProtocol),
        };
        Ok(Self { key: FlowKey { addresses, ports, protocol }, l4_at })
    }

    /// Makes what the message quotes a packet of the flow `new`, which is of the same family, and moves every checksum by
    /// what changed: those quoted, as far as they are (but SCTP's, which covers more than is quoted), and the message's own, that also by `outer_delta` (ICMPv6: of the
    /// addresses the message itself goes between). A wrong checksum stays wrong.
    ///
    /// # Errors
    /// [`NoQuote::Malformed`] where `message` is not the one that was read.
    pub fn rewrite(&self, message: &mut [u8], new: &FlowKey, outer_delta: u16) -> Result<(), NoQuote> {
        let Self { key: old, l4_at } = *self;
        let of_addresses = checksum::delta_of_addresses(old.addresses, new.addresses);
        let l4_delta = if echo::is_icmp(old.protocol) {
            echo::delta(&old, new)
        } else {
            checksum::combine(of_addresses, checksum::delta_of_ports(old.ports, new.ports))
        };
        // As far as anything changes; an even number of bytes, so that the sums agree with the message's.
        let quote_end = (l4_at + tcp::HEADER_LEN).min(message.len() & !1);
        let before = checksum::sum(message.get(icmp::HEADER_LEN..quote_end).ok_or(NoQuote::Malformed)?);
        let quoted = message.get_mut(icmp::HEADER_LEN..).ok_or(NoQuote::Malformed)?;
        match new.addresses {
            Addresses::V4(pair) => {
                put(quoted, IPV4_ADDRESSES_AT, &pair.to_wire())?;
                move_checksum(quoted, IPV4_CHECKSUM_AT, |old| checksum::update(old, of_addresses))?;
            }
            Addresses::V6(pair) => put(quoted, IPV6_ADDRESSES_AT, &pair.to_wire())?,
        }
        if echo::is_icmp(old.protocol) {
            let header = message.get_mut(l4_at..).and_then(|l4| l4.first_chunk_mut());
            echo::set_identifier(header.ok_or(NoQuote::Malformed)?, l4_delta, new.ports);
        } else {
            put(message, l4_at, &new.ports.to_wire())?;
        }
        if old.protocol == PROTOCOL_UDP {
            move_checksum(message, l4_at + udp::CHECKSUM_AT, |old| checksum::update_udp(old, l4_delta))?;
        } else if old.protocol == PROTOCOL_TCP && message.len() >= l4_at + tcp::HEADER_LEN {
            move_checksum(message, l4_at + tcp::CHECKSUM_AT, |old| checksum::update(old, l4_delta))?;
        }
        let after = checksum::sum(message.get(icmp::HEADER_LEN..quote_end).ok_or(NoQuote::Malformed)?);
        let delta = checksum::combine(checksum::combine(!before, after), outer_delta);
        move_checksum(message, CHECKSUM_AT, |old| checksum::update(old, delta))
    }
}

/// Whether a quoted header is that of a ping or its answer.
fn is_echo(protocol: u8, header: &[u8; L4_LEN_MIN], is_v6: bool) -> bool {
    protocol == echo::protocol_of(is_v6) && echo::is_echo(header[0], is_v6)
}

/// The protocol behind the extension headers of a quoted packet, and where its header begins behind the IPv6 header. A
/// fragment header is stepped over where it is the first fragment's.
fn upper(next_header: u8, payload: &[u8]) -> Option<(u8, usize)> {
    match ipv6::walk(next_header, payload) {
        Upper::Protocol { protocol, at } => Some((protocol, at)),
        Upper::Fragment { at } => {
            let rest = payload.get(at..)?;
            let (header, behind) = rest.split_first_chunk::<{ ipv6::FRAGMENT_HEADER_LEN }>()?;
            let is_first = u16::from_be_bytes([header[2], header[3]]) & 0xfff8 == 0;
            match ipv6::walk(header[0], behind) {
                Upper::Protocol { protocol, at: further } if is_first => {
                    Some((protocol, at + ipv6::FRAGMENT_HEADER_LEN + further))
                }
                _ => None,
            }
        }
        Upper::Truncated | Upper::TooMany => None,
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) -> Result<(), NoQuote> {
    bytes.get_mut(at..at + new.len()).ok_or(NoQuote::Malformed)?.copy_from_slice(new);
    Ok(())
}

fn move_checksum(bytes: &mut [u8], at: usize, update: impl Fn(u16) -> u16) -> Result<(), NoQuote> {
    let field: &mut [u8; 2] =
        bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(NoQuote::Malformed)?;
    *field = update(u16::from_ne_bytes(*field)).to_ne_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use etherparse::{
        Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, PacketBuilder,
        TransportSlice, icmpv4, icmpv6,
    };
    use proptest::prelude::*;

    use super::*;

    fn v4(n: u8) -> IpAddr {
        Ipv4Addr::new(203, 0, 113, n).into()
    }

    fn v6(n: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 7 * n).into()
    }

    /// A packet of the flow `key`, from its IP header on, with a checksum.
    fn packet(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
        let builder = match key.addresses {
            Addresses::V4(pair) => {
                PacketBuilder::ipv4(pair.source().octets(), pair.destination().octets(), 60)
            }
            Addresses::V6(pair) => {
                PacketBuilder::ipv6(pair.source().octets(), pair.destination().octets(), 60)
            }
        };
        let (source, destination) = (key.ports.source(), key.ports.destination());
        let mut bytes = Vec::new();
        if key.protocol == PROTOCOL_TCP {
            builder.tcp(source, destination, 7, 1_000).write(&mut bytes, payload).unwrap();
        } else {
            builder.udp(source, destination).write(&mut bytes, payload).unwrap();
        }
        bytes
    }

    const ROUTER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 1];

    fn octets(address: IpAddr) -> [u8; 16] {
        let IpAddr::V6(address) = address else { panic!("an IPv6 address") };
        address.octets()
    }

    /// A message about `quoted`, to its source.
    fn message(key: &FlowKey, quoted: &[u8]) -> Vec<u8> {
        let mut bytes = if key.addresses.is_v6() {
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            kind.to_header(ROUTER, octets(key.source()), quoted).unwrap().to_bytes().to_vec()
        } else {
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            etherparse::Icmpv4Header::with_checksum(kind, quoted).to_bytes().to_vec()
        };
        bytes.extend(quoted);
        bytes
    }

    fn read(key: &FlowKey, message: &[u8]) -> Result<Quote, NoQuote> {
        if key.addresses.is_v6() { Quote::of_icmpv6(message) } else { Quote::of_icmp(message) }
    }

    fn flows() -> [(FlowKey, FlowKey); 4] {
        let pair = |protocol, of: fn(u16) -> IpAddr| {
            let key = |a, b, p, q| FlowKey::new((of(a), p), (of(b), q), protocol);
            (key(1, 2, 443, 50_000), key(3, 4, 8_443, 1_025))
        };
        let v4 = |n: u16| v4(n as u8);
        [pair(6, v4), pair(17, v4), pair(6, v6), pair(17, v6)]
    }

    #[test]
    fn a_quote_is_rewritten_as_if_the_packet_had_been_another_one() {
        for (old, new) in flows() {
            for quoted_len in [28, 40, 48, 60, 61, 80] {
                let (was, becomes) =
                    (packet(&old, b"some payload, seven"), packet(&new, b"some payload, seven"));
                let quoted_len = quoted_len.min(was.len());
                let mut bytes = message(&old, &was[..quoted_len]);
                let Ok(quote) = read(&old, &bytes) else {
                    assert!(quoted_len < if old.addresses.is_v6() { 48 } else { 28 });
                    continue;
                };
                assert_eq!(quote.key, old);
                let outer_delta = if old.addresses.is_v6() {
                    checksum::combine(
                        !checksum::sum(&octets(old.source())),
                        checksum::sum(&octets(new.source())),
                    )
                } else {
                    0
                };
                quote.rewrite(&mut bytes, &new, outer_delta).unwrap();
                // The other packet has a checksum of its own computation, so the whole message agrees.
                assert_eq!(bytes[4..], message(&new, &becomes[..quoted_len])[4..], "{old:?}, {quoted_len}");
                if old.addresses.is_v6() {
                    let slice = Icmpv6Slice::from_slice(&bytes).unwrap();
                    assert!(slice.is_checksum_valid(ROUTER, octets(new.source())));
                } else {
                    let slice = Icmpv4Slice::from_slice(&bytes).unwrap();
                    let computed = slice.icmp_type().calc_checksum(slice.payload());
                    assert_eq!(slice.checksum(), computed);
                }
            }
        }
    }

    #[test]
    fn a_missing_udp_checksum_stays_missing_and_a_wrong_one_wrong() {
        let (old, new) = flows()[1];
        let mut was = packet(&old, b"x");
        was[26..28].fill(0);
        let mut bytes = message(&old, &was);
        read(&old, &bytes).unwrap().rewrite(&mut bytes, &new, 0).unwrap();
        assert_eq!(bytes[8 + 26..8 + 28], [0, 0]);
        let mut bytes = message(&old, &packet(&old, b"x"));
        bytes[2] ^= 0x55;
        read(&old, &bytes).unwrap().rewrite(&mut bytes, &new, 0).unwrap();
        let slice = Icmpv4Slice::from_slice(&bytes).unwrap();
        assert_ne!(slice.checksum(), slice.icmp_type().calc_checksum(slice.payload()));
    }

    #[test]
    fn extension_headers_are_stepped_over_and_later_fragments_are_not_taken() {
        let (key, _) = flows()[3];
        let whole = packet(&key, b"abc");
        let with_extension = |next: u8, extension: &[u8]| {
            let mut quoted = whole.clone();
            quoted[5] += extension.len() as u8;
            quoted[6] = next;
            quoted.splice(40..40, extension.iter().copied());
            read(&key, &message(&key, &quoted)).map(|quote| (quote.key, quote.l4_at))
        };
        assert_eq!(with_extension(60, &[17, 0, 1, 4, 0, 0, 0, 0]), Ok((key, 8 + 48)));
        assert_eq!(with_extension(44, &[17, 0, 0, 1, 0, 0, 0, 9]), Ok((key, 8 + 48)));
        assert_eq!(with_extension(44, &[17, 0, 0, 8, 0, 0, 0, 9]), Err(NoQuote::Malformed));
        // Of a fragment's fragment nothing is known.
        assert_eq!(
            with_extension(44, &[44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9]),
            Err(NoQuote::Malformed)
        );
        assert_eq!(with_extension(0, &[0, 0, 1, 4, 0, 0, 0, 0].repeat(12)), Err(NoQuote::Malformed));
        assert_eq!(with_extension(60, &[17, 200, 1, 4, 0, 0, 0, 0]), Err(NoQuote::Malformed));
    }

    #[test]
    fn lying_and_cut_quotes_are_refused() {
        let (key, _) = flows()[0];
        let whole = packet(&key, b"abc");
        for len in 0..28 {
            assert_eq!(read(&key, &message(&key, &whole[..len])), Err(NoQuote::Malformed));
        }
        for (at, byte) in [(0, 0x44), (0, 0x65), (0, 0x4f), (3, 20), (7, 1)] {
            let mut lying = whole.clone();
            lying[2] = 0;
            lying[at] = byte;
            assert_eq!(read(&key, &message(&key, &lying[..28])), Err(NoQuote::Malformed), "{at}: {byte}");
        }
        let mut of_icmp = whole;
        of_icmp[9] = 1;
        assert_eq!(read(&key, &message(&key, &of_icmp)), Err(NoQuote::OtherProtocol));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_rewritten_within_their_bounds(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..160), first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
            protocol in prop_oneof![Just(6u8), Just(17), Just(44), Just(0)]
        ) {
            if bytes.len() > 20 {
                bytes[8] = first;
                bytes[8 + if first >> 4 == 6 { 6 } else { 9 }] = protocol;
            }
            for (quote, (_, new)) in [(Quote::of_icmp(&bytes), flows()[0]), (Quote::of_icmpv6(&bytes), flows()[2])] {
                if let Ok(quote) = quote {
                    prop_assert_eq!(quote.rewrite(&mut bytes.clone(), &new, 0), Ok(()));
                }
            }
        }
    }

    /// The decoder of the tests above sees what a host would.
    #[test]
    fn a_rewritten_quote_names_the_flow_it_was_rewritten_to() {
        let (old, new) = flows()[1];
        let mut bytes = message(&old, &packet(&old, b"abc"));
        read(&old, &bytes).unwrap().rewrite(&mut bytes, &new, 0).unwrap();
        let quoted = LaxSlicedPacket::from_ip(&bytes[8..]).unwrap();
        let Some(LaxNetSlice::Ipv4(ip)) = &quoted.net else { panic!("{quoted:?}") };
        assert_eq!(IpAddr::from(ip.header().source_addr()), new.source());
        let Some(TransportSlice::Udp(udp)) = &quoted.transport else { panic!("{quoted:?}") };
        assert_eq!((udp.source_port(), udp.destination_port()), (8_443, 1_025));
    }
}
