//! Frames, written and read by etherparse.

use std::net::Ipv4Addr;

use dataplane::wire::ethernet::MacAddress;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice,
    UdpHeader,
};

use super::rules::PORT_MACS;

/// The MAC of the router that clients come by.
pub(crate) const CLIENT_MAC: MacAddress = MacAddress([2, 0, 0, 0, 9, 9]);

/// An endpoint: address and l4_port.
pub(crate) type Endpoint = (Ipv4Addr, u16);

/// TCP control bits (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The layer 4 of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    /// With these control bits.
    Tcp(u8),
    /// With a checksum, or with zero for none.
    Udp { checksum: bool },
}

/// A frame as a test describes it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) to: MacAddress,
    pub(crate) from: MacAddress,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) ttl: u8,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) l4: L4,
    /// TCP sequence and acknowledgment number.
    pub(crate) numbers: (u32, u32),
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A TCP segment to the front port, from the clients' router.
    pub(crate) fn tcp(source: Endpoint, destination: Endpoint, flags: u8) -> Self {
        let (to, from) = (PORT_MACS[0], CLIENT_MAC);
        Self {
            to,
            from,
            source,
            destination,
            ttl: 64,
            ip_options: vec![],
            l4: L4::Tcp(flags),
            numbers: (1_000, 0),
            payload: vec![],
        }
    }

    /// A UDP datagram with a checksum, likewise.
    pub(crate) fn udp(source: Endpoint, destination: Endpoint) -> Self {
        Self { l4: L4::Udp { checksum: true }, ..Self::tcp(source, destination, 0) }
    }

    pub(crate) fn with_payload(self, payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    pub(crate) fn with_numbers(self, sequence: u32, acknowledgment: u32) -> Self {
        Self { numbers: (sequence, acknowledgment), ..self }
    }

    pub(crate) fn with_ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The bytes, every length and checksum right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let l4_len = self.payload.len() + if matches!(self.l4, L4::Tcp(_)) { 20 } else { 8 };
        let protocol = if matches!(self.l4, L4::Tcp(_)) { IpNumber::TCP } else { IpNumber::UDP };
        let (source, destination) = (self.source.0.octets(), self.destination.0.octets());
        let mut ip = Ipv4Header::new(l4_len as u16, self.ttl, protocol, source, destination).unwrap();
        ip.options = self.ip_options[..].try_into().unwrap();
        ip.set_payload_len(l4_len).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let link =
            Ethernet2Header { source: self.from.0, destination: self.to.0, ether_type: EtherType::IPV4 };
        let mut frame = link.to_bytes().to_vec();
        frame.extend(ip.to_bytes());
        match self.l4 {
            L4::Tcp(flags) => frame.extend(self.tcp_header(flags, &ip).to_bytes()),
            L4::Udp { checksum } => frame.extend(self.udp_header(checksum, &ip).to_bytes()),
        }
        frame.extend(&self.payload);
        frame
    }

    fn tcp_header(&self, flags: u8, ip: &Ipv4Header) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.source.1, self.destination.1, self.numbers.0, 1_024);
        tcp.acknowledgment_number = self.numbers.1;
        (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
        (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
        tcp.checksum = tcp.calc_checksum_ipv4(ip, &self.payload).unwrap();
        tcp
    }

    fn udp_header(&self, checksum: bool, ip: &Ipv4Header) -> UdpHeader {
        let (source, destination) = (self.source.1, self.destination.1);
        let payload = &self.payload;
        if checksum {
            UdpHeader::with_ipv4_checksum(source, destination, ip, payload).unwrap()
        } else {
            UdpHeader::without_ipv4_checksum(source, destination, payload.len()).unwrap()
        }
    }
}

/// A frame as an independent decoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) to: MacAddress,
    pub(crate) from: MacAddress,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) ttl: u8,
    /// TCP control bits (FIN, SYN, RST and ACK), sequence and acknowledgment number; all 0 for UDP.
    pub(crate) tcp: (u8, u32, u32),
    pub(crate) payload: Vec<u8>,
    /// The IPv4 header checksum as it stands and as a full computation has it.
    pub(crate) ip_checksum: (u16, u16),
    /// The TCP or UDP checksum as it stands and as a full computation has it.
    pub(crate) l4_checksum: (u16, u16),
}

impl Decoded {
    /// Reads a whole, honest TCP or UDP frame.
    pub(crate) fn from(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4: {packet:?}") };
        let ip = ip.header().to_header();
        let mut numbers = (0, 0, 0);
        let (ports, payload, l4_checksum) = match packet.transport.as_ref().unwrap() {
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                numbers = (tcp.slice()[13] & 0x17, header.sequence_number, header.acknowledgment_number);
                let full = header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap();
                ((header.source_port, header.destination_port), tcp.payload(), (header.checksum, full))
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let full = header.calc_checksum_ipv4(&ip, udp.payload()).unwrap();
                ((header.source_port, header.destination_port), udp.payload(), (header.checksum, full))
            }
            other => panic!("neither TCP nor UDP: {other:?}"),
        };
        Self {
            to: MacAddress(*frame.first_chunk().unwrap()),
            from: MacAddress(*frame[6..].first_chunk().unwrap()),
            source: (ip.source.into(), ports.0),
            destination: (ip.destination.into(), ports.1),
            ttl: ip.time_to_live,
            tcp: numbers,
            payload: payload.to_vec(),
            ip_checksum: (ip.header_checksum, ip.calc_header_checksum()),
            l4_checksum,
        }
    }
}
