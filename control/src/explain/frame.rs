//! Frames: the one that a question stands for, and what a frame is in words. Read and written by etherparse, which knows
//! nothing of the line.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use dataplane::wire::ethernet::MacAddress;
use dataplane::wire::tcp::TcpFlags;
use etherparse::{
    EtherType, IpHeaders, IpNumber, LaxIpPayloadSlice, NetSlice, PacketBuilder, SingleVlanHeader, TcpHeader,
    UdpHeader,
};

use crate::rules::Protocol;

/// Headers in headers are followed so deep: a tunnel in a tunnel, and an ICMP error about it.
const DEPTH_MAX: usize = 4;
/// The TTL of a made-up packet: Linux's, one router away.
const TTL: u8 = 63;
/// The client's station in a made-up frame; locally administered (RFC 9542 section 2.1).
const CLIENT_STATION: [u8; 6] = [2, 0, 0, 0, 0xc1, 1];

/// The frame of a packet without payload; `flags` are TCP's. Of a ping the client's l4_port is the identifier.
pub(super) fn made_up(
    protocol: Protocol,
    (from, to): (SocketAddr, SocketAddr),
    flags: TcpFlags,
    station: MacAddress,
) -> anyhow::Result<Vec<u8>> {
    let link = PacketBuilder::ethernet2(CLIENT_STATION, station.0);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), TTL),
        _ => bail!("{} and {} are of two families: a packet is of one", from.ip(), to.ip()),
    };
    let (source, destination) = (from.port(), to.port());
    let mut frame = Vec::new();
    match protocol {
        Protocol::Tcp => {
            let mut tcp = TcpHeader::new(source, destination, 1, 65_535);
            (tcp.syn, tcp.ack) = (flags.has(TcpFlags::SYN), flags.has(TcpFlags::ACK));
            (tcp.fin, tcp.rst) = (flags.has(TcpFlags::FIN), flags.has(TcpFlags::RST));
            ip.tcp_header(tcp).write(&mut frame, &[])
        }
        Protocol::Icmp if to.is_ipv4() => ip.icmpv4_echo_request(source, 1).write(&mut frame, &[]),
        Protocol::Icmp => ip.icmpv6_echo_request(source, 1).write(&mut frame, &[]),
        Protocol::Udp => ip.udp(source, destination).write(&mut frame, &[]),
        Protocol::Sctp => ip.write(&mut frame, IpNumber::SCTP, &association(source, destination)),
    }
    .context("the packet")?;
    Ok(frame)
}

/// An SCTP packet with an INIT chunk (RFC 9260 sections 3.1 and 3.3.2).
fn association(source: u16, destination: u16) -> Vec<u8> {
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = dataplane::wire::sctp::checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// The flow that a frame is a packet of: `tcp`, `udp` or `sctp`, from where and to where.
pub fn flow_of_frame(frame: &[u8]) -> Option<(&'static str, SocketAddr, SocketAddr)> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let net = sliced.net?;
    let (from, to): (IpAddr, IpAddr) = match &net {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let payload = net.ip_payload_ref()?;
    let protocol = match payload.ip_number {
        IpNumber::TCP => "tcp",
        IpNumber::UDP => "udp",
        IpNumber::SCTP => "sctp",
        _ => return None,
    };
    let [a, b, c, d, ..] = *payload.payload else { return None };
    let [source, destination] = [[a, b], [c, d]].map(u16::from_be_bytes);
    Some((protocol, SocketAddr::new(from, source), SocketAddr::new(to, destination)))
}

/// What a frame is: its headers from the outermost on.
pub(super) fn described(frame: &[u8]) -> Vec<String> {
    let Ok((ethernet, mut rest)) = etherparse::Ethernet2Header::from_slice(frame) else {
        return vec![format!("{} bytes, less than an Ethernet header", frame.len())];
    };
    let mac = |octets| MacAddress(octets).to_string();
    let mut layers = vec![format!("Ethernet {} -> {}", mac(ethernet.source), mac(ethernet.destination))];
    let mut ether_type = ethernet.ether_type;
    while matches!(ether_type, EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING)
        && let Ok((tag, behind)) = SingleVlanHeader::from_slice(rest)
    {
        layers.push(format!("VLAN {}", tag.vlan_id.value()));
        (ether_type, rest) = (tag.ether_type, behind);
    }
    match ether_type {
        EtherType::IPV4 | EtherType::IPV6 => packet(rest, 0, &mut layers),
        other => layers.push(format!("{other:?}")),
    }
    layers
}

/// The headers of an IP packet.
fn packet(bytes: &[u8], depth: usize, layers: &mut Vec<String>) {
    let Ok((ip, payload, _)) = IpHeaders::from_slice_lax(bytes) else {
        layers.push("no IP header that can be read".to_owned());
        return;
    };
    layers.push(ip_text(&ip, &payload));
    if !payload.fragmented && depth < DEPTH_MAX {
        carried(&payload, depth, layers);
    }
}

fn ip_text(ip: &IpHeaders, payload: &LaxIpPayloadSlice<'_>) -> String {
    let fragment = if payload.fragmented { ", a fragment" } else { "" };
    match ip {
        IpHeaders::Ipv4(ip, _) => {
            let (from, to) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            let options = if ip.options.is_empty() { "" } else { ", options" };
            format!("IPv4 {from} -> {to}, TTL {}, {} bytes{options}{fragment}", ip.time_to_live, ip.total_len)
        }
        IpHeaders::Ipv6(ip, _) => {
            let (from, to) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            let len = u32::from(ip.payload_length) + 40;
            format!("IPv6 {from} -> {to}, hop limit {}, {len} bytes{fragment}", ip.hop_limit)
        }
    }
}

/// What an IP header carries.
fn carried(payload: &LaxIpPayloadSlice<'_>, depth: usize, layers: &mut Vec<String>) {
    let bytes = payload.payload;
    match payload.ip_number {
        IpNumber::TCP => layers.push(match TcpHeader::from_slice(bytes) {
            Ok((tcp, data)) => tcp_text(&tcp, data.len()),
            Err(_) => "TCP, cut".to_owned(),
        }),
        IpNumber::UDP => match UdpHeader::from_slice(bytes) {
            Ok((udp, data)) => {
                let (from, to) = (udp.source_port, udp.destination_port);
                layers.push(format!("UDP :{from} -> :{to}, {} bytes of data", data.len()));
                if let Some((header, inner)) = gue(data) {
                    layers.push(header);
                    packet(inner, depth + 1, layers);
                }
            }
            Err(_) => layers.push("UDP, cut".to_owned()),
        },
        IpNumber::IPV4 | IpNumber::IPV6 => packet(bytes, depth + 1, layers),
        IpNumber::GRE => match bytes {
            [0x20, 0, _, _, a, b, c, d, inner @ ..] => {
                layers.push(format!("GRE, key {}", u32::from_be_bytes([*a, *b, *c, *d])));
                packet(inner, depth + 1, layers);
            }
            [0, 0, _, _, inner @ ..] => {
                layers.push("GRE".to_owned());
                packet(inner, depth + 1, layers);
            }
            _ => layers.push("GRE that cannot be read".to_owned()),
        },
        IpNumber::ICMP | IpNumber::IPV6_ICMP => {
            let name = if payload.ip_number == IpNumber::ICMP { "ICMP" } else { "ICMPv6" };
            let words = bytes.get(..2).map(|head| format!(" type {} code {}", head[0], head[1]));
            layers.push(format!("{name}{}", words.unwrap_or_default()));
        }
        IpNumber::SCTP => layers.push(match bytes {
            [a, b, c, d, ..] => {
                format!("SCTP :{} -> :{}", u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            _ => "SCTP, cut".to_owned(),
        }),
        other => layers.push(format!("{other:?}")),
    }
}

fn tcp_text(tcp: &TcpHeader, data: usize) -> String {
    let flags = [("SYN", tcp.syn), ("FIN", tcp.fin), ("RST", tcp.rst), ("PSH", tcp.psh), ("ACK", tcp.ack)];
    let flags: Vec<_> = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect();
    let options = if tcp.options.is_empty() {
        String::new()
    } else {
        format!(", {} bytes of options", tcp.options.len())
    };
    let (from, to, flags) = (tcp.source_port, tcp.destination_port, flags.join("+"));
    format!("TCP :{from} -> :{to} {flags}{options}, {data} bytes of data")
}

/// Generic UDP encapsulation, where a datagram looks like it: an IP packet follows, of the whole length that is left.
fn gue(data: &[u8]) -> Option<(String, &[u8])> {
    let gue = dataplane::wire::gue::Gue::read(*data.first_chunk()?)?;
    let inner = data.get(gue.header_len..)?;
    let claimed = match inner.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*inner.get(2)?, *inner.get(3)?])),
        6 => usize::from(u16::from_be_bytes([*inner.get(4)?, *inner.get(5)?])) + 40,
        _ => return None,
    };
    let variant = u8::from(gue.header_len == 0);
    (claimed == inner.len()).then(|| (format!("GUE variant {variant}"), inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_packet_is_what_was_asked_for() {
        let ends = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        let text = |protocol, ends, flags| {
            described(&made_up(protocol, ends, flags, MacAddress([2, 0, 0, 0, 0, 1])).unwrap())
        };
        let v4 = ends("198.51.100.7:40000", "203.0.113.10:80");
        let tcp = text(Protocol::Tcp, v4, TcpFlags::SYN);
        assert_eq!(tcp[0], "Ethernet 02:00:00:00:c1:01 -> 02:00:00:00:00:01");
        assert_eq!(tcp[1], "IPv4 198.51.100.7 -> 203.0.113.10, TTL 63, 40 bytes");
        assert_eq!(tcp[2], "TCP :40000 -> :80 SYN, 0 bytes of data");
        let v6 = ends("[2001:db8::7]:40000", "[2001:db8:1::10]:53");
        assert_eq!(text(Protocol::Udp, v6, TcpFlags(0))[2], "UDP :40000 -> :53, 0 bytes of data");
        assert_eq!(text(Protocol::Icmp, v4, TcpFlags(0))[2], "ICMP type 8 code 0");
        assert_eq!(text(Protocol::Icmp, v6, TcpFlags(0))[2], "ICMPv6 type 128 code 0");
        assert_eq!(text(Protocol::Sctp, v4, TcpFlags(0))[2], "SCTP :40000 -> :80");
        let mixed = ends("198.51.100.7:40000", "[2001:db8:1::10]:53");
        assert!(made_up(Protocol::Tcp, mixed, TcpFlags::SYN, MacAddress([2; 6])).is_err());
    }

    #[test]
    fn whatever_comes_is_described_without_a_panic() {
        let v4 = ("198.51.100.7:40000".parse().unwrap(), "203.0.113.10:80".parse().unwrap());
        let frame = made_up(Protocol::Udp, v4, TcpFlags(0), MacAddress([2; 6])).unwrap();
        for len in 0..frame.len() {
            assert!(!described(&frame[..len]).is_empty());
        }
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0xff;
            assert!(!described(&changed).is_empty());
        }
    }
}
