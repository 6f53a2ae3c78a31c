//! Tells the network that an address has come here: gratuitous ARP (RFC 5227 section 3) and unsolicited neighbour advertisements
//! (RFC 4861 section 7.2.6). The kernel does neither for an address that it is given.
//!
//! Sent by the twin, so it leaves by the port as whatever else the kernel sends. Three times, as any one may be lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{ArpEthIpv4Packet, ArpOperation, Icmpv6Type, PacketBuilder};
use packet_socket::PacketSocket;
use tokio::time::sleep;
use tracing::warn;

/// When, after the address has come, and after the time before.
const AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1_500)];

/// Addresses between two pauses: a network of VIPs is no flood.
const AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);

const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes (RFC 4291 section 2.7.1), and their MAC (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// What a receiver believes came from a host of the link (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;
/// An option of eight bytes: the target's MAC (RFC 4861 section 4.6.1).
const TARGET_MAC_OPTION: [u8; 2] = [2, 1];

/// An interface that addresses have come to.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    pub(super) ifname: String,
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
}

impl Announcer {
    /// Tells of `addresses`, three times, while whoever asks goes on.
    pub(super) fn announce(self, addresses: Vec<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        tokio::spawn(async move {
            for pause in AFTER {
                sleep(pause).await;
                if let Err(reason) = self.announce_once(&addresses).await {
                    // The interface may be gone by now: Crossdock is ending.
                    warn!("{}: VIPs are not announced: {reason}", self.ifname);
                    return;
                }
            }
        });
    }

    async fn announce_once(&self, addresses: &[IpAddr]) -> std::io::Result<()> {
        let socket = PacketSocket::open(self.ifindex)?;
        for some in addresses.chunks(AT_ONCE) {
            for address in some {
                socket.send(&frame(self.mac, *address)?)?;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// The frame that says so.
fn frame(mac: [u8; 6], address: IpAddr) -> std::io::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(86);
    let written = match address {
        IpAddr::V4(address) => {
            PacketBuilder::ethernet2(mac, BROADCAST).arp(arp(mac, address).into()).write(&mut frame)
        }
        IpAddr::V6(address) => {
            let header = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
            let mut payload = address.octets().to_vec();
            payload.extend(TARGET_MAC_OPTION);
            payload.extend(mac);
            PacketBuilder::ethernet2(mac, ALL_NODES_MAC)
                .ipv6(address.octets(), ALL_NODES.octets(), HOP_LIMIT)
                .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
                .write(&mut frame, &payload)
        }
    };
    written.map_err(std::io::Error::other)?;
    Ok(frame)
}

/// A request, which all receivers take: some take replies they did not ask for as attacks.
fn arp(mac: [u8; 6], address: Ipv4Addr) -> ArpEthIpv4Packet {
    ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac,
        sender_ipv4: address.octets(),
        target_mac: [0; 6],
        target_ipv4: address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// What tshark makes of a frame.
    fn told(address: &str, fields: &[&str]) -> String {
        let frame = frame(MAC, address.parse().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("frame.pcap");
        // Of pcap's file header: Ethernet, 65,535 bytes at most (libpcap's pcap-savefile(5)).
        let mut capture =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        let len = (frame.len() as u32).to_le_bytes();
        capture.extend([0; 8]);
        capture.extend(len);
        capture.extend(len);
        capture.extend(frame);
        std::fs::write(&path, capture).unwrap();
        let mut tshark = Command::new("tshark");
        tshark
            .arg("-r")
            .arg(&path)
            .args(["-T", "fields"])
            .args(fields.iter().flat_map(|field| ["-e", field]));
        let output = tshark.output().expect("tshark runs (scripts/test installs it)");
        // Wireshark 4.2 writes True where 4.0 wrote 1.
        String::from_utf8(output.stdout).unwrap().trim().replace("True", "1")
    }

    #[test]
    fn an_independent_decoder_reads_gratuitous_arp_and_an_unsolicited_advertisement() {
        let arp =
            told("192.0.2.100", &["eth.dst", "arp.isgratuitous", "arp.src.hw_mac", "arp.src.proto_ipv4"]);
        assert_eq!(arp, "ff:ff:ff:ff:ff:ff\t1\t02:00:00:00:00:01\t192.0.2.100");
        let fields = [
            "ipv6.dst",
            "ipv6.hlim",
            "icmpv6.type",
            "icmpv6.nd.na.flag.o",
            "icmpv6.nd.na.target_address",
            "icmpv6.opt.linkaddr",
            "icmpv6.checksum.status",
        ];
        let na = told("2001:db8::100", &fields);
        assert_eq!(na, "ff02::1\t255\t136\t1\t2001:db8::100\t02:00:00:00:00:01\t1");
    }
}
