//! Packets as clients and backends know them, and as frames: written and read by etherparse, an encoder and decoder
//! that nobody here wrote.

use std::net::Ipv4Addr;

use dataplane::wire::ethernet::MacAddress;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice,
    UdpHeader,
};

/// An address and an l4_port.
pub(crate) type Endpoint = (Ipv4Addr, u16);

/// TCP control bits (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The TTL that senders start with.
pub(crate) const TTL: u8 = 64;

/// What stands between the addresses and the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    /// A TCP segment.
    Tcp { seq: u32, ack: u32, flags: u8 },
    /// A UDP datagram.
    Udp,
    /// ICMP destination unreachable, port unreachable: the payload is what it quotes, the l4_ports are 0.
    Unreachable,
}

/// A packet between two endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) ttl: u8,
    pub(crate) l4: L4,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    /// The IP protocol number.
    pub(crate) fn protocol(&self) -> u8 {
        match self.l4 {
            L4::Tcp { .. } => 6,
            L4::Udp => 17,
            L4::Unreachable => 1,
        }
    }

    /// The TCP control bits; 0 where there are none.
    pub(crate) fn flags(&self) -> u8 {
        match self.l4 {
            L4::Tcp { flags, .. } => flags,
            L4::Udp | L4::Unreachable => 0,
        }
    }

    /// Whether it asks for a connection: a SYN alone, or any datagram.
    pub(crate) fn opens(&self) -> bool {
        match self.l4 {
            L4::Tcp { flags, .. } => flags & (SYN | ACK | RST | FIN) == SYN,
            L4::Udp => true,
            L4::Unreachable => false,
        }
    }

    /// The frame, every length and checksum right.
    pub(crate) fn frame(&self, to: MacAddress, from: MacAddress) -> Vec<u8> {
        let (source, destination) = (self.source.0.octets(), self.destination.0.octets());
        let (protocol, header_len) = match self.l4 {
            L4::Tcp { .. } => (IpNumber::TCP, 20),
            L4::Udp => (IpNumber::UDP, 8),
            L4::Unreachable => panic!("nobody here sends ICMP errors"),
        };
        let l4_len = header_len + self.payload.len();
        let mut ip = Ipv4Header::new(l4_len as u16, self.ttl, protocol, source, destination).expect("short");
        ip.header_checksum = ip.calc_header_checksum();
        let link = Ethernet2Header { source: from.0, destination: to.0, ether_type: EtherType::IPV4 };
        let mut frame = Vec::with_capacity(34 + l4_len);
        frame.extend(link.to_bytes());
        frame.extend(ip.to_bytes());
        match self.l4 {
            L4::Tcp { seq, ack, flags } => frame.extend(self.tcp_header(seq, ack, flags, &ip).to_bytes()),
            L4::Udp => {
                let ports = (self.source.1, self.destination.1);
                let header = UdpHeader::with_ipv4_checksum(ports.0, ports.1, &ip, &self.payload);
                frame.extend(header.expect("short").to_bytes());
            }
            L4::Unreachable => {}
        }
        frame.extend(&self.payload);
        frame
    }

    fn tcp_header(&self, seq: u32, ack: u32, flags: u8, ip: &Ipv4Header) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.source.1, self.destination.1, seq, 8_192);
        (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
        (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
        tcp.acknowledgment_number = ack;
        tcp.checksum = tcp.calc_checksum_ipv4(ip, &self.payload).expect("short");
        tcp
    }

    /// A frame's destination MAC, source MAC and packet. Panics where a length or checksum is wrong.
    pub(crate) fn read(frame: &[u8]) -> (MacAddress, MacAddress, Self) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4: {packet:?}") };
        let ip = ip.header().to_header();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "the checksum of the IPv4 header");
        let (ports, l4, payload, checksums) = match packet.transport.as_ref().expect("TCP or UDP") {
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let full = header.calc_checksum_ipv4(&ip, tcp.payload()).expect("short");
                let ports = (header.source_port, header.destination_port);
                (ports, l4_of(&header), tcp.payload(), (header.checksum, full))
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let full = header.calc_checksum_ipv4(&ip, udp.payload()).expect("short");
                let ports = (header.source_port, header.destination_port);
                (ports, L4::Udp, udp.payload(), (header.checksum, full))
            }
            TransportSlice::Icmpv4(icmp) => {
                let (kind, code) = (icmp.type_u8(), icmp.code_u8());
                assert_eq!((kind, code), (3, 3), "an ICMP error of another kind");
                ((0, 0), L4::Unreachable, icmp.payload(), (internet_sum(icmp.slice()), u16::MAX))
            }
            other => panic!("neither TCP nor UDP nor ICMP: {other:?}"),
        };
        assert_eq!(checksums.0, checksums.1, "the checksum of TCP or UDP");
        let packet = Self {
            source: (ip.source.into(), ports.0),
            destination: (ip.destination.into(), ports.1),
            ttl: ip.time_to_live,
            l4,
            payload: payload.to_vec(),
        };
        let mac = |at: usize| MacAddress(*frame[at..].first_chunk().expect("a whole frame"));
        (mac(0), mac(6), packet)
    }
}

/// The sum over a message and its checksum, which is all ones where that is right (RFC 1071).
fn internet_sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded + (folded >> 16)) as u16
}

fn l4_of(header: &TcpHeader) -> L4 {
    let bits = [(header.fin, FIN), (header.syn, SYN), (header.rst, RST), (header.ack, ACK)];
    let flags = bits.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, bit)| flags | bit);
    L4::Tcp { seq: header.sequence_number, ack: header.acknowledgment_number, flags }
}
