//! parse: where the headers lie and which flow it is, or a verdict. Reads packet bytes, trusts none of them.
//!
//! Lengths: RFC 791 section 3.1, RFC 9293 section 3.1, RFC 768. Not here: checksums. They are moved by what
//! changes and never made good, so a packet that came in bad goes out bad and its receiver judges it.

use std::net::IpAddr;

use crate::burst::{Burst, Finding, Shape};
use crate::flow::{FlowKey, FlowTable};
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::stage::fragments::is_balanced;
use crate::stage::{icmp, tunnel_error};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddress, StationFilter};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{
    self, DESTINATION_OPTIONS, HOP_BY_HOP, Ipv6, NO_NEXT_HEADER, PROTOCOL_ICMPV6, ROUTING, Upper,
};
use crate::wire::sctp::{self, Sctp};
use crate::wire::tcp::{self, TcpFlags};
use crate::wire::{Addresses, PortPair, echo, udp};

/// Where the IP header begins.
const L3_AT: usize = ethernet::HEADER_LEN;

/// Parses the burst; hashes each flow and prefetches its bucket. `station` is the MAC of the port it came
/// in by; `None` takes every unicast frame.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    station: Option<MacAddress>,
    rules: &Ruleset,
    table: &FlowTable,
) {
    let mut bytes = 0;
    let (mut has_fragments, mut has_errors, mut has_tunnel_errors) = (false, false, false);
    let filter = StationFilter::new(station);
    for (packet, finding) in burst.packets.iter().zip(&mut burst.findings) {
        let (data, packet_len) = (packet.data(), packet.packet_len());
        bytes += packet_len as u64;
        // Each way writes its finding by itself: to join them first would send it through memory in other sizes than
        // it is read back in, which stalls the processor (store forwarding) for longer than all of parse takes.
        if let Some((key, shape)) = parse_common(data, packet_len, filter) {
            note(finding, key, shape, table);
            continue;
        }
        match parse(data, packet_len, filter, rules) {
            Ok((key, shape)) => {
                has_errors |= !shape.has_l4();
                note(finding, key, shape, table);
            }
            Err(verdict) => {
                has_fragments |= verdict == Verdict::Hold;
                has_tunnel_errors |= verdict == Verdict::Relay;
                finding.verdict = verdict;
            }
        }
    }
    burst.bytes = bytes;
    (burst.has_fragments, burst.has_errors) = (has_fragments, has_errors);
    burst.has_tunnel_errors = has_tunnel_errors;
}

/// The flow of a whole packet of one, whatever its rules and whoever it is to; `None` of anything else.
#[cold]
pub(crate) fn packet(data: &[u8], packet_len: usize, nothing: &Ruleset) -> Option<(FlowKey, Shape)> {
    parse(data, packet_len, StationFilter::new(None), nothing).ok()
}

#[inline(always)]
fn note(finding: &mut Finding, key: FlowKey, shape: Shape, table: &FlowTable) {
    let hash = table.hash(&key);
    table.prefetch(hash);
    finding.verdict = Verdict::Forward;
    finding.key = key;
    finding.shape = shape;
    finding.hash = hash;
}

/// [`parse`] for the shape that nearly all packets have: untagged, IPv4 without options, not a fragment, all of a TCP
/// header's length there (a UDP packet with 12 bytes of payload is as long). `None` where anything else is the case.
#[inline(always)]
fn parse_common(data: &[u8], packet_len: usize, filter: StationFilter) -> Option<(FlowKey, Shape)> {
    const L4_AT: usize = L3_AT + ipv4::HEADER_LEN;
    // One length check; the rest is offsets into an array.
    let headers: &[u8; L4_AT + tcp::HEADER_LEN] = data.first_chunk()?;
    let (link, rest) = headers.split_first_chunk()?;
    let (header, l4) = rest.split_first_chunk()?;
    let l4: &[u8; tcp::HEADER_LEN] = l4.first_chunk()?;
    let (link, header) = (Ethernet(link), Ipv4(header));
    let total_len = header.total_len();
    let is_usual = filter.takes(link)
        & (link.ethertype() == ETHERTYPE_IPV4)
        & header.is_version_4_without_options()
        & !header.is_fragment()
        & (total_len >= ipv4::HEADER_LEN)
        & (total_len + L3_AT <= packet_len);
    if !is_usual {
        return None;
    }
    let l4_len = total_len - ipv4::HEADER_LEN;
    let protocol = header.protocol();
    let ports = l4.first_chunk().map_or(PortPair::default(), |bytes| PortPair::from_wire(*bytes));
    let tcp_flags = if protocol == PROTOCOL_TCP {
        let header_len = usize::from(l4[tcp::DATA_OFFSET_AT] >> 4) * 4;
        if (header_len < tcp::HEADER_LEN) | (header_len > l4_len) {
            return None;
        }
        TcpFlags(l4[tcp::FLAGS_AT])
    } else {
        let len = usize::from(u16::from_be_bytes([l4[udp::LENGTH_AT], l4[udp::LENGTH_AT + 1]]));
        if (protocol != PROTOCOL_UDP) | (len < udp::HEADER_LEN) | (len > l4_len) {
            return None;
        }
        TcpFlags(0)
    };
    let key = FlowKey { addresses: header.addresses().into(), ports, protocol };
    let (l3_at, l4_at, ip_len) = (L3_AT as u16, L4_AT as u16, total_len as u16);
    Some((key, Shape { l3_at, l4_at, ip_len, tcp_flags, is_v6: false }))
}

/// The flow of a frame and where its headers lie; else the verdict on it. `data` is its first segment,
/// `packet_len` its length over all of them.
#[inline(never)]
fn parse(
    data: &[u8],
    packet_len: usize,
    filter: StationFilter,
    rules: &Ruleset,
) -> Result<(FlowKey, Shape), Verdict> {
    let Some((link, rest)) = data.split_first_chunk::<L3_AT>() else {
        return drop_for(DropReason::Truncated);
    };
    let link = Ethernet(link);
    if !filter.takes(link) {
        return Err(not_to_us(link.destination()));
    }
    match link.ethertype() {
        ETHERTYPE_IPV4 => parse_ipv4(rest, packet_len.saturating_sub(L3_AT), rules),
        ETHERTYPE_IPV6 => parse_ipv6(rest, packet_len.saturating_sub(L3_AT), rules),
        _ => Err(Verdict::Punt),
    }
}

/// [`parse`] for an IPv4 packet; `packet_len` is what the frame has for it.
fn parse_ipv4(rest: &[u8], packet_len: usize, rules: &Ruleset) -> Result<(FlowKey, Shape), Verdict> {
    let Some(header) = rest.first_chunk() else { return drop_for(DropReason::Truncated) };
    let header = Ipv4(header);
    let (header_len, total_len) = (header.header_len(), header.total_len());
    if header.version() != 4 || header_len < ipv4::HEADER_LEN {
        return drop_for(DropReason::Ipv4Header);
    }
    if total_len < header_len || total_len > packet_len {
        return drop_for(DropReason::Ipv4Length);
    }
    let protocol = header.protocol();
    let l4 = rest.get(header_len..).unwrap_or_default();
    if header.is_fragment() || !is_balanced(protocol) {
        let addresses = Addresses::V4(header.addresses());
        if header.is_fragment() {
            let may_be_balanced = is_balanced(protocol) || (rules.takes_echo && protocol == PROTOCOL_ICMP);
            return Err(fragment(addresses, may_be_balanced, rules));
        }
        let message = l4.get(..total_len - header_len).unwrap_or(l4);
        if let Some(ports) = echo_ports(message, protocol, false, rules)? {
            let key = FlowKey { addresses, ports, protocol };
            let l4_at = (L3_AT + header_len) as u16;
            return Ok((key, Shape { l4_at, ..without_l4(total_len as u16, false) }));
        }
        let key = without_flow(message, addresses, protocol == PROTOCOL_ICMP, rules)?;
        return Ok((key, without_l4(total_len as u16, false)));
    }
    let (ports, tcp_flags) = parse_l4(l4, total_len - header_len, protocol)?;
    let key = FlowKey { addresses: header.addresses().into(), ports, protocol };
    // Offset and length are below 2^16: a header is at most 60 bytes, the total length 16 bits.
    let l4_at = (L3_AT + header_len) as u16;
    Ok((key, Shape { l3_at: L3_AT as u16, l4_at, ip_len: total_len as u16, tcp_flags, is_v6: false }))
}

/// [`parse`] for an IPv6 packet; `packet_len` is what the frame has for it. Read first: RFC 8200 sections 3 and 4.
fn parse_ipv6(rest: &[u8], packet_len: usize, rules: &Ruleset) -> Result<(FlowKey, Shape), Verdict> {
    let Some((header, payload)) = rest.split_first_chunk() else {
        return drop_for(DropReason::Truncated);
    };
    let header = Ipv6(header);
    if header.version() != 6 {
        return drop_for(DropReason::Ipv6Header);
    }
    let ip_len = ipv6::HEADER_LEN + header.payload_len();
    // A length of 0 with hop-by-hop options is a jumbogram (RFC 2675): longer than any frame.
    let Ok(ip_len_u16) = u16::try_from(ip_len) else { return drop_for(DropReason::Ipv6Length) };
    if ip_len > packet_len {
        return drop_for(DropReason::Ipv6Length);
    }
    let addresses = Addresses::V6(header.addresses());
    let claimed = payload.get(..header.payload_len()).unwrap_or(payload);
    let (protocol, at) = match ipv6::walk(header.next_header(), claimed) {
        Upper::Protocol { protocol, at } => (protocol, at),
        Upper::Fragment { at } => {
            let next_header = claimed.get(at).copied().unwrap_or(NO_NEXT_HEADER);
            let is_icmp = rules.takes_echo && next_header == PROTOCOL_ICMPV6;
            return Err(fragment(addresses, may_be_balanced(next_header) || is_icmp, rules));
        }
        Upper::Truncated => return drop_for(DropReason::Truncated),
        Upper::TooMany => return drop_for(DropReason::Ipv6Extensions),
    };
    if !is_balanced(protocol) {
        let message = claimed.get(at..).unwrap_or_default();
        if let Some(ports) = echo_ports(message, protocol, true, rules)? {
            let key = FlowKey { addresses, ports, protocol };
            let l4_at = (L3_AT + ipv6::HEADER_LEN + at) as u16;
            return Ok((key, Shape { l4_at, ..without_l4(ip_len_u16, true) }));
        }
        let key = without_flow(message, addresses, protocol == PROTOCOL_ICMPV6, rules)?;
        return Ok((key, without_l4(ip_len_u16, true)));
    }
    let l4_len = header.payload_len().saturating_sub(at);
    let (ports, tcp_flags) = parse_l4(payload.get(at..).unwrap_or_default(), l4_len, protocol)?;
    let key = FlowKey { addresses: header.addresses().into(), ports, protocol };
    // Within the first segment, which is below 2^16 bytes.
    let l4_at = (L3_AT + ipv6::HEADER_LEN + at) as u16;
    Ok((key, Shape { l3_at: L3_AT as u16, l4_at, ip_len: ip_len_u16, tcp_flags, is_v6: true }))
}

/// The l4_ports and control bits of a TCP, UDP or SCTP header, `l4_len` bytes of which the IPv4 header claims.
fn parse_l4(l4: &[u8], l4_len: usize, protocol: u8) -> Result<(PortPair, TcpFlags), Verdict> {
    if protocol == PROTOCOL_TCP {
        let Some(header) = l4.first_chunk::<{ tcp::HEADER_LEN }>() else {
            return drop_for(DropReason::Truncated);
        };
        let header_len = usize::from(header[tcp::DATA_OFFSET_AT] >> 4) * 4;
        if header_len < tcp::HEADER_LEN || header_len > l4_len {
            return drop_for(DropReason::TcpHeader);
        }
        let [a, b, c, d, ..] = *header;
        return Ok((PortPair::from_wire([a, b, c, d]), TcpFlags(header[tcp::FLAGS_AT])));
    }
    if protocol == PROTOCOL_SCTP {
        return parse_sctp(l4, l4_len);
    }
    let Some(header) = l4.first_chunk::<{ udp::HEADER_LEN }>() else {
        return drop_for(DropReason::Truncated);
    };
    let len = usize::from(u16::from_be_bytes([header[udp::LENGTH_AT], header[udp::LENGTH_AT + 1]]));
    if len < udp::HEADER_LEN || len > l4_len {
        return drop_for(DropReason::UdpLength);
    }
    let [a, b, c, d, ..] = *header;
    Ok((PortPair::from_wire([a, b, c, d]), TcpFlags(0)))
}

/// As [`parse_l4`], of an SCTP packet: its first chunk stands in for control bits.
fn parse_sctp(l4: &[u8], l4_len: usize) -> Result<(PortPair, TcpFlags), Verdict> {
    if l4_len < sctp::HEADER_AND_CHUNK_LEN {
        return drop_for(DropReason::SctpHeader);
    }
    let Some(header) = l4.first_chunk() else { return drop_for(DropReason::Truncated) };
    let header = Sctp(header);
    let chunk_len = header.chunk_len();
    if chunk_len < sctp::CHUNK_HEADER_LEN || chunk_len > l4_len - sctp::HEADER_LEN {
        return drop_for(DropReason::SctpHeader);
    }
    Ok((header.ports(), header.chunk().as_tcp_flags()))
}

#[cold]
fn drop_for<T>(reason: DropReason) -> Result<T, Verdict> {
    Err(Verdict::Drop(reason))
}

/// Group frames (ARP requests, routing protocols) are the kernel's; frames to another station are nobody's.
#[cold]
fn not_to_us(destination: MacAddress) -> Verdict {
    if destination.is_group() { Verdict::Punt } else { Verdict::Drop(DropReason::OtherStation) }
}

/// A fragment to a VIP or a local address, or from a host behind NAT, has a flow, to be found out; any other is the
/// kernel's, and so are those of protocols that services do not take.
#[cold]
fn fragment(addresses: Addresses, may_be_balanced: bool, rules: &Ruleset) -> Verdict {
    let is_ours = is_ours(addresses.destination(), rules) || is_inside(addresses.source(), rules);
    if may_be_balanced && is_ours { Verdict::Hold } else { Verdict::Punt }
}

/// Whether what begins with `next_header` may be what services take: that may follow other extension headers.
const fn may_be_balanced(next_header: u8) -> bool {
    is_balanced(next_header) || matches!(next_header, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS)
}

/// The identifier of a ping or its answer, where l4_ports stand; `None` where it is neither, or no service takes pings.
#[cold]
fn echo_ports(
    message: &[u8],
    protocol: u8,
    is_v6: bool,
    rules: &Ruleset,
) -> Result<Option<PortPair>, Verdict> {
    let kind = message.first().filter(|_| rules.takes_echo && protocol == echo::protocol_of(is_v6));
    if !kind.is_some_and(|kind| echo::is_echo(*kind, is_v6)) {
        return Ok(None);
    }
    match message.first_chunk() {
        Some(header) => Ok(Some(echo::ports(header))),
        None => drop_for(DropReason::Truncated),
    }
}

/// The flow that an ICMP error is about. Anything else without a flow of ours is the kernel's.
#[cold]
fn without_flow(
    message: &[u8],
    addresses: Addresses,
    is_icmp: bool,
    rules: &Ruleset,
) -> Result<FlowKey, Verdict> {
    if !is_icmp {
        return Err(Verdict::Punt);
    }
    if tunnel_error::read(message, addresses, rules).is_some() {
        return Err(Verdict::Relay);
    }
    let is_taken = |flow: &FlowKey| rules.takes_echo || !echo::is_icmp(flow.protocol);
    if is_ours(addresses.destination(), rules) {
        return icmp::flow_of(message, addresses)?.filter(is_taken).ok_or(Verdict::Punt);
    }
    // To a client, about what it sent to a host behind NAT: from that one or from any router before it. Whatever else
    // passes by is not ours to judge.
    let flow = icmp::flow_of(message, addresses).ok().flatten().filter(is_taken);
    flow.filter(|flow| is_inside(flow.source(), rules)).ok_or(Verdict::Punt)
}

/// Whether the address is that of a host behind NAT or SNAT.
fn is_inside(source: IpAddr, rules: &Ruleset) -> bool {
    rules.inside.find(source).is_some()
}

/// Whether services or their connections have the address.
fn is_ours(destination: IpAddr, rules: &Ruleset) -> bool {
    rules.vips.contains(destination) || rules.local_addresses.contains(destination)
}

/// The shape of an ICMP error about a flow.
fn without_l4(ip_len: u16, is_v6: bool) -> Shape {
    Shape { l3_at: L3_AT as u16, l4_at: 0, ip_len, tcp_flags: TcpFlags(0), is_v6 }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::rules::Vip;

    const STATION: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn udp_frame() -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(CLIENT, STATION.0)
            .ipv4([10, 0, 0, 1], [203, 0, 113, 10], 64)
            .udp(5_000, 53);
        builder.write(&mut frame, &[0xaa; 30]).unwrap();
        frame
    }

    fn tcp_frame() -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(CLIENT, STATION.0).ipv4([10, 0, 0, 1], [203, 0, 113, 10], 64);
        builder.tcp(5_000, 80, 1, 1_000).syn().write(&mut frame, &[]).unwrap();
        frame
    }

    fn verdict(frame: &[u8]) -> Result<(FlowKey, Shape), Verdict> {
        let vips = Arc::new([(Ipv4Addr::new(203, 0, 113, 10), Vip::PLAIN)].into_iter().collect());
        let filter = StationFilter::new(Some(STATION));
        let parsed = parse(frame, frame.len(), filter, &Ruleset { vips, ..Ruleset::default() });
        if let Some(common) = parse_common(frame, frame.len(), filter) {
            assert_eq!(Ok(common), parsed, "the short way and the long way agree");
        }
        parsed
    }

    fn changed(mut frame: Vec<u8>, at: usize, byte: u8) -> Result<(FlowKey, Shape), Verdict> {
        frame[at] = byte;
        verdict(&frame)
    }

    #[test]
    fn the_flow_and_the_offsets_are_those_an_independent_encoder_wrote() {
        let (key, shape) = verdict(&tcp_frame()).unwrap();
        let (client, vip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 10));
        assert_eq!(key, FlowKey::new((client, 5_000), (vip, 80), PROTOCOL_TCP));
        assert_eq!((shape.l4_at, shape.ip_len), (34, 40));
        assert!(shape.tcp_flags.opens());
        let (key, shape) = verdict(&udp_frame()).unwrap();
        assert_eq!((key.protocol, shape.ip_len, shape.tcp_flags), (PROTOCOL_UDP, 58, TcpFlags(0)));
    }

    #[test]
    fn a_frame_cut_anywhere_is_dropped_and_one_with_padding_is_not() {
        for frame in [tcp_frame(), udp_frame()] {
            for len in 0..frame.len() {
                assert!(matches!(verdict(&frame[..len]), Err(Verdict::Drop(_))), "{len}");
            }
            let mut padded = frame.clone();
            padded.extend([0; 20]);
            assert_eq!(verdict(&padded).unwrap().0, verdict(&frame).unwrap().0);
        }
    }

    #[test]
    fn lying_headers_have_a_reason_each() {
        let reason = |reason| Err::<FlowKey, _>(Verdict::Drop(reason));
        let of = |result: Result<(FlowKey, Shape), Verdict>| result.map(|(key, _)| key);
        assert_eq!(of(changed(tcp_frame(), 14, 0x44)), reason(DropReason::Ipv4Header));
        assert_eq!(of(changed(tcp_frame(), 14, 0x65)), reason(DropReason::Ipv4Header));
        assert_eq!(of(changed(tcp_frame(), 17, 19)), reason(DropReason::Ipv4Length));
        assert_eq!(of(changed(tcp_frame(), 16, 0xff)), reason(DropReason::Ipv4Length));
        assert_eq!(of(changed(tcp_frame(), 46, 0x40)), reason(DropReason::TcpHeader));
        assert_eq!(of(changed(tcp_frame(), 46, 0x60)), reason(DropReason::TcpHeader));
        assert_eq!(of(changed(udp_frame(), 39, 7)), reason(DropReason::UdpLength));
        assert_eq!(of(changed(udp_frame(), 38, 1)), reason(DropReason::UdpLength));
        assert_eq!(of(changed(udp_frame(), 20, 0x20)), Err(Verdict::Hold));
        assert_eq!(of(changed(udp_frame(), 0, 4)), reason(DropReason::OtherStation));
    }

    #[test]
    fn what_is_not_ours_to_balance_is_the_kernels() {
        assert_eq!(changed(udp_frame(), 12, 0x86).err(), Some(Verdict::Punt), "another EtherType");
        assert_eq!(changed(udp_frame(), 23, 1).err(), Some(Verdict::Punt), "ICMP");
        let mut broadcast = udp_frame();
        broadcast[..6].fill(0xff);
        assert_eq!(verdict(&broadcast).err(), Some(Verdict::Punt));
        let mut fragment_to_another = udp_frame();
        (fragment_to_another[20], fragment_to_another[33]) = (0x20, 99);
        assert_eq!(verdict(&fragment_to_another).err(), Some(Verdict::Punt));
    }

    proptest! {
        #[test]
        fn the_short_way_and_the_long_way_agree(
            tcp in any::<bool>(), changes in proptest::collection::vec((0usize..90, any::<u8>()), 0..4), len in 0usize..90
        ) {
            let mut frame = if tcp { tcp_frame() } else { udp_frame() };
            frame.resize(frame.len().max(len), 0);
            for (at, byte) in changes {
                let at = at % frame.len();
                frame[at] = byte;
            }
            // What differs is asserted within.
            let _ = verdict(&frame[..len.max(1).min(frame.len())]);
            let _ = verdict(&frame);
        }
    }

    #[test]
    fn the_usual_packets_go_the_short_way() {
        let filter = StationFilter::new(Some(STATION));
        for frame in [tcp_frame(), udp_frame()] {
            assert!(parse_common(&frame, frame.len(), filter).is_some());
        }
    }

    #[test]
    fn ip_options_are_stepped_over() {
        let mut frame = udp_frame();
        frame.splice(34..34, [1, 1, 1, 1]);
        (frame[14], frame[17]) = (0x46, 62);
        let (key, shape) = verdict(&frame).unwrap();
        assert_eq!((key.ports, shape.l4_at), (PortPair::new(5_000, 53), 38));
    }
}
