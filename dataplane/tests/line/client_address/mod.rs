//! The client's address, kept in band: the backend reads it, in front of everything the client sent or from an option, and
//! both ends have the connection that they would have without a director. Here is the connection; the tests stand in a file
//! for each way to keep the address, and for what may happen to it.

mod errors;
mod loss;
mod options;
mod proxy;
mod segment_size;

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

use dataplane::index::ServiceIndex;
use dataplane::rules::{ClientAddress, Mss, Policy, Ruleset, ServiceKey, Vip};
use dataplane::wire::PortPair;
use dataplane::wire::proxy_protocol::{self, Version};

use crate::common::frames::{ACK, CLIENT_MAC, FIN, RST, SYN};
use crate::common::rules::{
    BACK, FRONT, LOCAL_ADDRESSES, PORT_MACS, ServiceSpec, TCP, UDP, VIP, backend_address, backend_mac,
    with_policy,
};
use crate::common::{Director, ruleset};

const PSH: u8 = 0x08;
const URG: u8 = 0x20;
/// What the ends start counting from.
const CLIENT_ISN: u32 = u32::MAX - 20;
const SERVER_ISN: u32 = 70_000;

/// One FullNAT service, TCP and UDP, over both families.
fn director(policy: &Policy) -> Director {
    let spec = |protocol| ServiceSpec {
        protocol,
        l4_port: 80,
        mode: dataplane::rules::Mode::Fullnat,
        scheduler: "rr",
        weights: &[1],
    };
    let rules = with_policy(ruleset(1, &[spec(TCP), spec(UDP), spec(TCP)]), policy);
    Director::new(over_both_families(rules))
}

/// The third service is that of the IPv6 VIP.
fn over_both_families(rules: Ruleset) -> Ruleset {
    let mut backends = rules.backends.to_vec();
    backends[2].address = "2001:db8:1::11".parse().unwrap();
    let mut ports = rules.ports.to_vec();
    ports[1].local_pool6 = Some(1);
    let mut pools = rules.local_pools.to_vec();
    pools.push(dataplane::local_port::LocalPool { addresses: [local6()].into() });
    let key = |vip: IpAddr, protocol| ServiceKey { vip, l4_port: 80, protocol };
    let keys = [
        (key(VIP.into(), TCP), ServiceIndex(0)),
        (key(VIP.into(), UDP), ServiceIndex(1)),
        (key(vip6(), TCP), ServiceIndex(2)),
    ];
    let locals = LOCAL_ADDRESSES.map(IpAddr::V4).into_iter().chain([local6()]);
    Ruleset {
        backends: backends.into(),
        ports: ports.into(),
        local_pools: pools.into(),
        matcher: std::sync::Arc::new(keys.into_iter().collect()),
        vips: std::sync::Arc::new(
            [(IpAddr::V4(VIP), Vip::PLAIN), (vip6(), Vip::PLAIN)].into_iter().collect(),
        ),
        local_addresses: std::sync::Arc::new(locals.collect()),
        ..rules
    }
}

fn vip6() -> IpAddr {
    "2001:db8::10".parse().unwrap()
}

fn local6() -> IpAddr {
    "2001:db8:1::64".parse().unwrap()
}

fn client(is_v6: bool) -> SocketAddr {
    let address = if is_v6 { "2001:db8:7::7" } else { "198.51.100.7" };
    SocketAddr::new(address.parse().unwrap(), 40_000)
}

fn vip(is_v6: bool) -> SocketAddr {
    SocketAddr::new(if is_v6 { vip6() } else { VIP.into() }, 80)
}

/// A TCP segment, as one end sends it and as an independent decoder reads it.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    data: Vec<u8>,
}

impl Segment {
    fn new(source: SocketAddr, destination: SocketAddr, flags: u8, numbers: (u32, u32)) -> Self {
        Self {
            source,
            destination,
            flags,
            sequence: numbers.0,
            acknowledgment: numbers.1,
            window: 30_000,
            urgent: 0,
            options: vec![],
            data: vec![],
        }
    }

    fn with_data(self, data: impl Into<Vec<u8>>) -> Self {
        Self { data: data.into(), ..self }
    }

    fn with_options(self, options: impl Into<Vec<u8>>) -> Self {
        Self { options: options.into(), ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let builder = if self.source.port() == 9_000 {
            PacketBuilder::ethernet2(backend_mac(0).0, PORT_MACS[1].0)
        } else {
            PacketBuilder::ethernet2(CLIENT_MAC.0, PORT_MACS[0].0)
        };
        let builder = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                builder.ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                builder.ipv6(source.octets(), destination.octets(), 64)
            }
            _ => panic!("of two families"),
        };
        let mut header =
            TcpHeader::new(self.source.port(), self.destination.port(), self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgment;
        (header.fin, header.syn) = (self.flags & FIN != 0, self.flags & SYN != 0);
        (header.rst, header.ack) = (self.flags & RST != 0, self.flags & ACK != 0);
        (header.psh, header.urg) = (self.flags & PSH != 0, self.flags & URG != 0);
        header.urgent_pointer = self.urgent;
        header.set_options_raw(&self.options).unwrap();
        let mut frame = Vec::new();
        builder.tcp_header(header).write(&mut frame, &self.data).unwrap();
        frame
    }

    /// Reads a frame whose every length and checksum is right.
    fn from(frame: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
        let header = tcp.to_header();
        let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                assert_eq!(usize::from(ip.total_len) + 14, frame.len());
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!(header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap(), header.checksum);
                (ip.source.into(), ip.destination.into())
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                assert_eq!(usize::from(ip.payload_length) + 54, frame.len());
                assert_eq!(header.calc_checksum_ipv6(&ip, tcp.payload()).unwrap(), header.checksum);
                (ip.source.into(), ip.destination.into())
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        Self {
            source: SocketAddr::new(source, header.source_port),
            destination: SocketAddr::new(destination, header.destination_port),
            flags: tcp.slice()[13],
            sequence: header.sequence_number,
            acknowledgment: header.acknowledgment_number,
            window: header.window_size,
            urgent: header.urgent_pointer,
            options: header.options.as_slice().to_vec(),
            data: tcp.payload().to_vec(),
        }
    }

    fn options(&self) -> Vec<TcpOptionElement> {
        let header = TcpHeader { options: self.options[..].try_into().unwrap(), ..TcpHeader::default() };
        header.options_iterator().map_while(Result::ok).collect()
    }
}

/// A director and the two ends of one connection through it.
struct Connection {
    director: Director,
    client: SocketAddr,
    vip: SocketAddr,
    /// The backend's endpoint and the local one, as of the SYN.
    ends: Option<(SocketAddr, SocketAddr)>,
}

impl Connection {
    fn new(policy: &Policy, is_v6: bool) -> Self {
        Self { director: director(policy), client: client(is_v6), vip: vip(is_v6), ends: None }
    }

    fn header(&self, version: Version) -> Vec<u8> {
        let ports = PortPair::new(self.client.port(), self.vip.port());
        proxy_protocol::header(version, self.client.ip(), self.vip.ip(), ports).to_vec()
    }

    fn of_client(&self, flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
        Segment::new(self.client, self.vip, flags, (sequence, acknowledgment))
    }

    fn of_server(&self, flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
        let (backend, local) = self.ends.unwrap();
        Segment::new(backend, local, flags, (sequence, acknowledgment))
    }

    /// What the backend gets.
    fn there(&mut self, segment: &Segment) -> Segment {
        let (port, frame) = self.director.pass(FRONT, segment.bytes()).unwrap();
        assert_eq!(port, BACK);
        let got = Segment::from(&frame);
        self.ends = Some((got.destination, got.source));
        got
    }

    /// What the client gets.
    fn back(&mut self, segment: &Segment) -> Segment {
        let (port, frame) = self.director.pass(BACK, segment.bytes()).unwrap();
        assert_eq!(port, FRONT);
        let got = Segment::from(&frame);
        assert_eq!((got.source, got.destination), (self.vip, self.client));
        got
    }

    /// SYN and SYN-ACK.
    fn open(&mut self) {
        let syn = self.there(&self.of_client(SYN, CLIENT_ISN, 0));
        assert_eq!((syn.sequence, syn.data.len()), (CLIENT_ISN, 0));
        let syn_ack = self.back(&self.of_server(SYN | ACK, SERVER_ISN, first()));
        assert_eq!((syn_ack.sequence, syn_ack.acknowledgment), (SERVER_ISN, first()));
    }
}

/// The number of the client's first byte.
fn first() -> u32 {
    CLIENT_ISN.wrapping_add(1)
}

fn after(count: usize) -> u32 {
    first().wrapping_add(count as u32)
}

fn proxy(version: Version) -> Policy {
    Policy { client_address: ClientAddress::Proxy(version), ..Policy::default() }
}

const VARIANTS: [(Version, bool); 4] =
    [(Version::V1, false), (Version::V2, false), (Version::V1, true), (Version::V2, true)];
