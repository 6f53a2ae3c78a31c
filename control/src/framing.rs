//! How frames look on a port's wire, from its rules and its driver: what the line's step of the same name
//! ([`dataplane::stage::framing`]) is told when the port is opened.
//!
//! Read first: DPDK NIC guide 22.11, "AF_PACKET Poll Mode Driver" and "Mbuf Library"; packet_mmap.rst of the kernel.

use std::fs;

use dataplane::stage::framing::Framing;
use dataplane::wire::vlan::TAG_LEN;
use dpdk::{DATA_ROOM_BYTES_DEFAULT, HEADROOM_BYTES, PortInfo};

use crate::rules::{self, Device, KernelDriver};

/// The usual frame of af_packet's rings, with its header, in bytes: two a page.
const RING_FRAME_BYTES: u16 = 2_048;
/// The largest: an mbuf's length has 16 bits.
const RING_FRAME_BYTES_MAX: u16 = 1 << 15;
/// Bytes around an IP packet in a frame: Ethernet and two tags.
const LINK_BYTES: u16 = 14 + 8;
/// The MTU of Ethernet, and DPDK's.
const MTU_DEFAULT: u16 = 1_500;
/// Mbufs for ports whose driver delivers jumbo frames in one buffer. When none is left the kernel keeps what comes.
const JUMBO_MBUFS: u32 = 4_095;
/// What the kernel puts in front of a frame in the ring: the header and address of TPACKET_V2 (52 bytes), and padding so
/// that the layer-3 header is aligned to 16 (packet_mmap.rst, "tp_mac").
const RING_HEADER_BYTES: u16 = 66;
/// Drivers that never deliver a packet in several buffers.
const ONE_BUFFER_DRIVERS: [&str; 3] = ["net_af_packet", "net_af_xdp", "net_null"];
/// Drivers that send such packets without saying so (rte_eth_pcap.c, rte_eth_ring.c).
const SEGMENT_DRIVERS: [&str; 2] = ["net_pcap", "net_ring"];

/// How frames look on the wire of `port`, which turned out to be `info`.
pub fn of(port: &rules::Port, info: &PortInfo) -> Framing {
    let driver = info.driver.as_str();
    Framing {
        tags: port.vlan,
        cut_from: cut_from(port).unwrap_or(0),
        is_scattered: may_scatter(port, driver),
        takes_one_buffer: !info.sends_segments() && !SEGMENT_DRIVERS.contains(&driver),
    }
}

/// Bytes from which on frames are cut by the port's driver; `None` where none is.
pub fn cut_from(port: &rules::Port) -> Option<u16> {
    frame_bytes_of(port).map(|bytes| bytes.saturating_sub(RING_HEADER_BYTES))
}

/// The longest IP packet that a port carries, in bytes: what the rules say; else what its interface has, if it stands on one
/// of the kernel's. `None` is the device's own.
pub fn mtu_of(port: &rules::Port) -> Option<u16> {
    let of_interface = || {
        let (_, interface) = port.device.kernel_interface()?;
        Some(interface_mtu(interface)?.saturating_sub(second_tag_len(port)))
    };
    port.mtu.or_else(of_interface)
}

/// The MTU of an interface of this network namespace.
pub fn interface_mtu(interface: &str) -> Option<u16> {
    fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
}

/// Bytes of a second tag, which the kernel takes for payload: only for one it makes room by itself.
pub fn second_tag_len(port: &rules::Port) -> u16 {
    port.vlan.map_or(0, |tags| tags.len().saturating_sub(TAG_LEN as u16))
}

/// Whether its frames can be longer than an mbuf of the usual size.
pub fn is_jumbo(port: &rules::Port) -> bool {
    mtu_of(port).is_some_and(|mtu| mtu > DATA_ROOM_BYTES_DEFAULT - HEADROOM_BYTES - LINK_BYTES)
}

/// Whether any of `ports` may deliver packets in several buffers, which the others may have to send then.
pub fn has_segments(ports: &[rules::Port]) -> bool {
    let in_one = |port: &rules::Port| match port.device.kernel_interface() {
        Some((KernelDriver::AfPacket | KernelDriver::AfXdp, _)) => true,
        _ => matches!(port.device, Device::Null | Device::Pci { .. }) && !is_jumbo(port),
    };
    !ports.iter().all(in_one)
}

/// Bytes of a frame in the rings of an af_packet port with this MTU: a power of two, as rings want it. The driver itself
/// looks at no MTU.
pub fn ring_frame_bytes(mtu: Option<u16>) -> u16 {
    let needed = mtu.unwrap_or(MTU_DEFAULT).saturating_add(LINK_BYTES + RING_HEADER_BYTES);
    needed.checked_next_power_of_two().unwrap_or(RING_FRAME_BYTES_MAX).max(RING_FRAME_BYTES)
}

/// Mbufs and their data room for a port that cannot use those of the usual size: af_packet fills one mbuf a frame, and
/// refuses any that is smaller than a ring's frame.
pub fn pool_of_its_own(port: &rules::Port) -> Option<(u32, u16)> {
    let frame_bytes = frame_bytes_of(port).filter(|bytes| *bytes > RING_FRAME_BYTES)?;
    Some((JUMBO_MBUFS, frame_bytes.saturating_add(HEADROOM_BYTES)))
}

/// As many mbufs of the usual size as have the memory of such pools.
pub fn mbufs_worth_of_pools(ports: &[rules::Port]) -> u32 {
    let worth = |(count, room): (u32, u16)| count * u32::from(room.div_ceil(DATA_ROOM_BYTES_DEFAULT) + 1);
    ports.iter().filter_map(pool_of_its_own).map(worth).sum()
}

/// The VLAN that a port's device must be told to let through. DPDK's virtio driver always negotiates the filter
/// (`VIRTIO_NET_F_CTRL_VLAN`), and the device then drops every VLAN that it was not told (virtio 1.1, 5.1.6.5.3); other
/// drivers filter only when they are asked.
pub fn vlan_to_accept(port: &rules::Port, info: &PortInfo) -> Option<u16> {
    port.vlan.filter(|_| info.driver == "net_virtio").and_then(|tags| tags.vids().next())
}

/// Whether a port may deliver packets in several buffers. NICs do only when they are told to; virtual devices as they like.
fn may_scatter(port: &rules::Port, driver: &str) -> bool {
    let is_told = !matches!(port.device, Device::Pci { .. }) || is_jumbo(port);
    is_told && !ONE_BUFFER_DRIVERS.contains(&driver)
}

fn is_af_packet(device: &Device) -> bool {
    matches!(device.kernel_interface(), Some((KernelDriver::AfPacket, _)))
}

/// Bytes of a frame in the rings of an af_packet port; what is longer the kernel cuts. `None` for other drivers.
fn frame_bytes_of(port: &rules::Port) -> Option<u16> {
    if !is_af_packet(&port.device) {
        return None;
    }
    let Device::Devargs(text) = &port.device else { return Some(ring_frame_bytes(mtu_of(port))) };
    let given = text.split(',').find_map(|argument| argument.strip_prefix("framesz="));
    // The driver's default is the same.
    Some(given.and_then(|bytes| bytes.parse().ok()).unwrap_or(RING_FRAME_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: Device, mtu: Option<u16>) -> rules::Port {
        rules::Port {
            name: "front".into(),
            device,
            kernel: false,
            addresses: Vec::new(),
            local_addresses: Vec::new(),
            mac: None,
            vlan: None,
            mtu,
            checksum_offload: true,
            promiscuous: false,
        }
    }

    fn af_packet(mtu: Option<u16>) -> rules::Port {
        port(Device::AfPacket { interface: "not-there".into() }, mtu)
    }

    #[test]
    fn af_packet_cuts_at_its_ring_frames_and_nobody_else_does() {
        let bytes = |text: &str| frame_bytes_of(&port(Device::Devargs(text.into()), None));
        assert_eq!(bytes("net_af_packet0,iface=not-there,framesz=4096"), Some(4_096));
        assert_eq!(bytes("net_af_packet0,iface=not-there"), Some(2_048));
        assert_eq!(bytes("net_af_xdp0,iface=not-there"), None);
        assert_eq!(frame_bytes_of(&af_packet(None)), Some(2_048));
        assert_eq!(frame_bytes_of(&port(Device::Ring, None)), None);
    }

    #[test]
    fn ring_frames_and_mbufs_of_af_packet_grow_with_the_mtu() {
        let of = |mtu| (frame_bytes_of(&af_packet(mtu)), pool_of_its_own(&af_packet(mtu)));
        assert_eq!(of(None), (Some(2_048), None));
        assert_eq!(of(Some(1_960)), (Some(2_048), None));
        assert_eq!(of(Some(1_961)), (Some(4_096), Some((4_095, 4_096 + 128))));
        assert_eq!(of(Some(9_600)), (Some(16_384), Some((4_095, 16_384 + 128))));
        assert_eq!(of(Some(u16::MAX)), (Some(32_768), Some((4_095, 32_768 + 128))));
    }

    #[test]
    fn packets_in_several_buffers_come_from_jumbo_nics_and_from_virtual_devices() {
        let nic = |mtu| port(Device::Pci { address: "0000:03:00.0".into() }, mtu);
        assert!(!has_segments(&[nic(None), nic(Some(1_600)), af_packet(Some(9_000))]));
        assert!(has_segments(&[nic(None), nic(Some(9_000))]));
        assert!(has_segments(&[nic(None), port(Device::Ring, None)]));
        assert!(!may_scatter(&nic(None), "net_ixgbe") && may_scatter(&nic(Some(9_000)), "net_ixgbe"));
    }
}
