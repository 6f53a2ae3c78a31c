//! Checksum offload: which ports compute the UDP checksums of packets that leave by them, and whether the rules make any
//! packets that need it.
//!
//! Most checksums move by what changed, whatever the port can do (RFC 1624), and so a bad one stays bad. What is left is a sum
//! over the datagram, where there was no checksum to move: see [`dataplane::rules::PortRules::udp_offload`] and decision 0009.
//! Read first: DPDK NIC guide 22.11, "Features Overview", "L4 checksum offload".

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::wire::ethernet;
use dpdk::PortInfo;

use crate::rules::{self, Carrier, Mode, Protocol, Service};

/// Whether packets of these services may need such a checksum. Ports are set up once, so what a later change of the rules needs
/// is summed up in software.
pub fn sums_datagrams(services: &[Arc<Service>]) -> bool {
    services.iter().any(|service| match service.mode {
        // IPv4's datagrams without a checksum, to IPv6 backends (RFC 7915 section 4.5).
        Mode::Fullnat => {
            let has_ipv4 =
                |listen: &rules::Listen| listen.protocol == Protocol::Udp && listen.vips.network().is_ipv4();
            service.listens.iter().any(has_ipv4) && service.addresses().any(|address| address.is_ipv6())
        }
        // Packets that say nothing about their own sum.
        Mode::Tunnel => service.tunnel.is_some_and(|tunnel| {
            let is_gue = matches!(tunnel.carrier, Carrier::Gue { .. });
            is_gue && (tunnel.udp_checksum || service.addresses().any(|address: IpAddr| address.is_ipv6()))
        }),
        Mode::Dr | Mode::Nat | Mode::Snat => false,
    })
}

/// Where the IP header begins in frames of `port`, which turned out to be `info`, if it computes UDP checksums and the rules
/// let it.
pub fn udp_checksum(port: &rules::Port, info: &PortInfo) -> Option<u8> {
    // At most 14 and two tags of four bytes.
    let l2_len = ethernet::HEADER_LEN as u16 + port.vlan.map_or(0, |tags| tags.len());
    (port.checksum_offload && info.computes_udp_checksums()).then_some(l2_len as u8)
}

#[cfg(test)]
mod tests {
    use dpdk::PortInfo;

    use super::*;
    use crate::rules::Rules;

    fn rules(rest: &str) -> Rules {
        let port = "[[port]]\nname = \"p\"\ndevice = \"tap:xd0\"\nkernel = true\naddresses = [\"192.0.2.5/24\", \"2001:db8::5/64\"]\n\
                    local_addresses = [\"10.0.0.64/28\", \"2001:db8::40/124\"]\n";
        Rules::parse("test", &format!("{port}{rest}")).unwrap_or_else(|errors| panic!("{}", errors.plain()))
    }

    fn service(listen: &str, mode: &str, backend: &str) -> bool {
        let text = format!(
            "[[service]]\nname = \"s\"\nlisten = \"{listen}\"\nmode = {mode}\nbackend = [{{ address = \"{backend}\" }}]\n"
        );
        sums_datagrams(&rules(&text).services)
    }

    #[test]
    fn only_nat46_of_datagrams_and_gue_with_checksums_sum_datagrams() {
        let fullnat = |listen, backend| service(listen, "\"fullnat\"", backend);
        assert!(fullnat("udp 192.0.2.100:53", "[2001:db8::11]"));
        assert!(!fullnat("tcp 192.0.2.100:53", "[2001:db8::11]"));
        assert!(!fullnat("udp 192.0.2.100:53", "10.0.0.11"));
        assert!(!fullnat("udp [2001:db8::100]:53", "10.0.0.11"));
        let tunnel = |tunnel: &str, backend| {
            service("tcp 192.0.2.100:80", &format!("\"tunnel\"\ntunnel = {{ {tunnel} }}"), backend)
        };
        assert!(tunnel("encapsulation = \"gue\"", "[2001:db8::11]"));
        assert!(!tunnel("encapsulation = \"gue\"", "10.0.0.11"));
        assert!(tunnel("encapsulation = \"gue\", udp_checksum = true", "10.0.0.11"));
        assert!(!tunnel("encapsulation = \"ipip\"", "[2001:db8::11]"));
        assert!(!service("udp 192.0.2.100:53", "\"dr\"", "192.0.2.11"));
    }

    #[test]
    fn a_port_is_asked_where_it_can_and_may_and_its_tags_count() {
        let info = |tx_offloads| PortInfo {
            driver: "net_virtio".into(),
            rx_queues_max: 1,
            tx_queues_max: 1,
            rx_descriptors_max: 512,
            tx_descriptors_max: 512,
            rx_packet_bytes_max: 1_518,
            mtu_min: 68,
            mtu_max: 1_500,
            rx_offloads: 0,
            tx_offloads,
            rss_hash_types: 0,
            reta_size: 0,
            hash_key_bytes: 0,
            socket: None,
        };
        // RTE_ETH_TX_OFFLOAD_UDP_CKSUM (rte_ethdev.h).
        let (can, cannot) = (info(1 << 2), info(0));
        let port = |more: &str| {
            let text = format!("[[port]]\nname = \"p\"\ndevice = \"0000:03:00.0\"\n{more}");
            Rules::parse("test", &text).unwrap().ports.remove(0)
        };
        assert_eq!(udp_checksum(&port(""), &can), Some(14));
        assert_eq!(udp_checksum(&port("vlan = 100"), &can), Some(18));
        assert_eq!(udp_checksum(&port("vlan = [200, 100]"), &can), Some(22));
        assert_eq!(udp_checksum(&port(""), &cannot), None);
        assert_eq!(udp_checksum(&port("checksum_offload = false"), &can), None);
    }
}
