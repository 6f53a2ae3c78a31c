//! Opens the ports of the rules: their device arguments in DPDK's words, their queues, their MACs.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use dataplane::index::PortIndex;
use dataplane::stage::framing::Framing;
use dataplane::wire::ethernet::MacAddress;
use dpdk::{Burst, Eal, Mempool, Port, PortConfig, PortInfo, RxQueue, TxQueue};
use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use crate::api::socket_path::{self, Occupant};
use crate::endless;
use crate::framing;
use crate::memory::PhysicalReader;
use crate::offload;
use crate::pci::{self, Owner};
use crate::rss::{Agreement, Spreading};
use crate::rules::build::PortFacts;
use crate::rules::{self, Device, KernelDriver, MTU_MIN_IPV6};

/// Descriptors of a queue, either way: DPDK's customary number.
pub const DESCRIPTORS: u16 = 512;
/// Bytes of an af_packet ring, of each queue each way: enough for the bursts of a 64 KiB TCP window from some dozens of
/// senders, 2,048 frames of the usual size.
const RING_BYTES: u32 = 4 << 20;
/// The errno of a driver that lacks a function (rte_ethdev.h).
const ENOTSUP: i32 = 95;

/// A port that is open and receives.
#[derive(Debug)]
pub struct OpenPort {
    /// The device itself.
    pub port: Port,
    /// Receive queues, one a worker as far as the device has them.
    pub rx: Vec<RxQueue>,
    /// Transmit queues, likewise.
    pub tx: Vec<TxQueue>,
    /// What the line needs to know.
    pub facts: PortFacts,
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// How it spreads packets over the workers.
    pub spreading: Spreading,
    /// How frames look on its wire.
    pub framing: Framing,
}

/// Mbufs a port may hold beyond its descriptors: af_xdp's driver keeps 2,048 in each queue's fill ring
/// (`ETH_AF_XDP_DFLT_NUM_DESCS`), and net_pcap with `infinite_rx=1` every packet of its files (PCAP PMD guide).
pub fn held_mbufs(port: &rules::Port, worker_count: u32) -> u32 {
    match &port.device {
        device if matches!(device.kernel_interface(), Some((KernelDriver::AfXdp, _))) => 2_048 * worker_count,
        Device::Devargs(text) => endless::packets_held(text),
        _ => 0,
    }
}

/// The EAL options that ports need before they can be opened: PCI devices are named, all others left alone.
pub fn eal_arguments(ports: &[rules::Port]) -> Vec<String> {
    let pci: Vec<_> = ports
        .iter()
        .filter_map(|port| match &port.device {
            Device::Pci { address } => Some(["-a".to_owned(), address.clone()]),
            _ => None,
        })
        .collect();
    if pci.is_empty() { vec!["--no-pci".into()] } else { pci.into_iter().flatten().collect() }
}

/// The first port whose device reads memory by physical addresses.
pub fn physical_reader(ports: &[rules::Port]) -> Option<PhysicalReader> {
    ports.iter().find_map(|port| match &port.device {
        Device::Pci { address } => match pci::owner(address) {
            Owner::Uio(driver) => Some(PhysicalReader { address: address.clone(), driver }),
            _ => None,
        },
        _ => None,
    })
}

/// What a port is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The DPDK it belongs to.
    pub eal: &'a Eal,
    /// Workers that share it.
    pub worker_count: u16,
    /// What received packets go into.
    pub pool: &'a Mempool,
    /// Whether packets to be sent may lie in several buffers.
    pub sends_segments: bool,
    /// Whether they may need a UDP checksum over all of the datagram.
    pub sums_datagrams: bool,
}

/// Opens `port`, in agreement with the ports before it.
///
/// # Errors
/// What DPDK says, with what the rules asked for.
pub fn open(
    opening: Opening<'_>,
    (index, port): (PortIndex, &rules::Port),
    agreement: &mut Agreement,
) -> anyhow::Result<OpenPort> {
    let what = || format!("[[port]] {}: device \"{}\"", port.name, port.device);
    let device = attach(opening.eal, port, opening.worker_count).with_context(what)?;
    start(device, (index, port), opening, agreement).with_context(what)
}

/// Refuses a name that an interface has: net_tap would join that one as a second queue, if it is a TAP of another
/// process, and the two would share its packets. (Between this look and the TAP's making somebody may still come first.)
///
/// # Errors
/// When there is such an interface.
pub fn refuse_existing_interface(ifname: &str, way_out: &str) -> anyhow::Result<()> {
    match if_nametoindex(ifname) {
        Ok(_) => bail!("interface {ifname} exists already; {way_out}"),
        Err(_) => Ok(()),
    }
}

/// The kernel cuts or refuses what is longer than its interface's MTU, and DPDK's drivers say nothing.
fn refuse_smaller_interface(port: &rules::Port) -> anyhow::Result<()> {
    let Some((mtu, (driver, interface))) = port.mtu.zip(port.device.kernel_interface()) else {
        return Ok(());
    };
    if driver == KernelDriver::Tap {
        // It is not there yet.
        return Ok(());
    }
    let wanted = mtu.saturating_add(framing::second_tag_len(port));
    match framing::interface_mtu(interface) {
        Some(has) if has < wanted => bail!(
            "`mtu = {mtu}` and the MTU of interface {interface} is {has}: ip link set dev {interface} mtu {wanted}"
        ),
        _ => Ok(()),
    }
}

fn attach(eal: &Eal, port: &rules::Port, worker_count: u16) -> anyhow::Result<Port> {
    let arguments = |queues| device_arguments(port, queues);
    if let Some((KernelDriver::Tap, interface)) = port.device.kernel_interface()
        && !interface.is_empty()
    {
        refuse_existing_interface(
            interface,
            "another Crossdock's? a TAP port makes its own: choose another name",
        )?;
    }
    refuse_smaller_interface(port)?;
    match &port.device {
        Device::Pci { address } => {
            Port::find(eal, address).with_context(|| pci::why_no_port(address, &pci::owner(address)))
        }
        Device::AfXdp { interface } => {
            let queues = worker_count.min(kernel_rx_queues(interface));
            // A driver may offer fewer combined queues than it has receive queues (veth offers one).
            match Port::attach(eal, &arguments(queues)) {
                Err(_) if queues > 1 => Ok(Port::attach(eal, &arguments(1))?),
                attached => Ok(attached?),
            }
        }
        Device::Memif { socket } => {
            // A memif server that was killed leaves its socket, and nobody can listen there again before it is removed.
            if let Occupant::NoSocket(_) = socket_path::remove_dead(socket)? {
                bail!("a file that is no socket is there; remove it, or name another path");
            }
            Ok(Port::attach(eal, &arguments(worker_count))?)
        }
        _ => Ok(Port::attach(eal, &arguments(worker_count))?),
    }
}

fn start(
    mut device: Port,
    (index, port): (PortIndex, &rules::Port),
    opening: Opening<'_>,
    agreement: &mut Agreement,
) -> anyhow::Result<OpenPort> {
    let Opening { worker_count, pool, sends_segments, sums_datagrams, .. } = opening;
    let info = device.info()?;
    let udp_offload = if sums_datagrams { offload::udp_checksum(port, &info) } else { None };
    let (rx_queues_max, tx_queues_max) = queues_max(&info);
    let rx_queue_count = worker_count.min(rx_queues_max).max(1);
    let vlan_to_accept = framing::vlan_to_accept(port, &info);
    let config = PortConfig {
        rx_queue_count,
        tx_queue_count: worker_count.min(tx_queues_max).max(1),
        rx_descriptor_count: DESCRIPTORS,
        tx_descriptor_count: DESCRIPTORS,
        scatter: framing::is_jumbo(port),
        sends_segments,
        computes_udp_checksums: udp_offload.is_some(),
        filters_vlans: vlan_to_accept.is_some(),
        mtu: port.mtu.filter(|_| matches!(port.device, Device::Pci { .. })),
        rss_key: agreement.key_for(&info, rx_queue_count),
    };
    if let Err(error) = device.configure(&config, pool) {
        // Perhaps it has a key of its own.
        let without_key = PortConfig { rss_key: None, ..config };
        device.configure(&without_key, pool).map_err(|_| error)?;
    }
    let (mut rx, tx) = device.start()?;
    let spreading = agreement.set_up(index, &mut device, &info, rx_queue_count);
    if spreading == Spreading::Rss {
        // What came before the table was set came to anybody.
        rx.iter_mut().for_each(forget_received);
    }
    if let Some(vid) = vlan_to_accept {
        device.accept_vlan(vid)?;
    }
    if port.kernel {
        accept_multicast(&mut device, &port.name);
    }
    if port.promiscuous {
        device.set_promiscuous(true)?;
    }
    if let Some(mac) = port.mac
        && device.mac()? != mac.0
    {
        device.set_mac(mac.0)?;
    }
    let mtu = settle_mtu(&mut device, port)?;
    if mtu < MTU_MIN_IPV6 && port.addresses.iter().any(|net| net.addr().is_ipv6()) {
        bail!(
            "its MTU is {mtu}, and IPv6, of which it has addresses, needs {MTU_MIN_IPV6} (RFC 8200 section 5)"
        );
    }
    let (mac, is_station) = (MacAddress(device.mac()?), is_station(&port.device));
    let facts = PortFacts { mac, is_station, mtu, udp_offload };
    let framing = framing::of(port, &info);
    Ok(OpenPort { port: device, rx, tx, facts, mtu, spreading, framing })
}

/// How long packets may be: as the rules say, which the device is told where it can be; else as its interface or the device
/// itself has it. Drivers of kernel interfaces say 1,500 whatever the interface has.
fn settle_mtu(device: &mut Port, port: &rules::Port) -> anyhow::Result<u16> {
    let of_device = device.mtu()?;
    let Some(mtu) = port.mtu else {
        return Ok(framing::mtu_of(port).unwrap_or(of_device));
    };
    if mtu != of_device
        && let Err(error) = device.set_mtu(mtu)
    {
        info!("port {}: the device keeps its MTU of {of_device}: {error}", port.name);
    }
    Ok(mtu)
}

/// Receive and transmit queues that a device can use. DPDK's em driver offers two of each for every device it knows, and the
/// older ones (82540, 82545) have one: what is put into their second transmit queue never leaves. A second receive queue
/// would stay empty anyway, for the driver sets up no RSS.
fn queues_max(info: &PortInfo) -> (u16, u16) {
    match info.driver.as_str() {
        "net_e1000_em" => (1, 1),
        _ => (info.rx_queues_max, info.tx_queues_max),
    }
}

/// Frees what a queue holds, at most as many packets as it has descriptors.
fn forget_received(queue: &mut RxQueue) {
    let mut burst = Burst::new();
    for _ in 0..usize::from(DESCRIPTORS) / dpdk::BURST_MAX {
        if queue.receive(&mut burst) == 0 {
            return;
        }
        burst.clear();
    }
}

/// The kernel behind a twin speaks OSPF, VRRP and neighbour discovery, which are multicast; a NIC drops what nobody asked
/// for. Drivers that cannot be asked stand on something else that filters, or does not (af_packet, af_xdp, memif, pcap).
fn accept_multicast(device: &mut Port, name: &str) {
    match device.accept_multicast() {
        Ok(()) | Err(dpdk::Error::Call { errno: ENOTSUP, .. }) => {}
        Err(reason) => warn!("[[port]] {name}: multicast may not reach its kernel twin: {reason}"),
    }
}

/// Whether the device is on a network where frames for other stations may pass by. Captures, rings and the null device
/// are not: whatever they deliver is for the director.
fn is_station(device: &Device) -> bool {
    match device {
        Device::Pcap { .. } | Device::Ring | Device::Null => false,
        Device::Devargs(text) => {
            let reads_files = text.starts_with("net_pcap") && !text.contains("iface=");
            !reads_files && !text.starts_with("net_ring") && !text.starts_with("net_null")
        }
        _ => true,
    }
}

/// `device` with `queues` queues in DPDK's words (Network Interface Controller Drivers guide, 22.11), named after the
/// port so that ports of one kind differ.
fn device_arguments(port: &rules::Port, queues: u16) -> String {
    let name = &port.name;
    // Drivers that take their MAC here and cannot change it later.
    let mac = port.mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
    match &port.device {
        Device::Pcap { input, output } => {
            let output =
                output.as_ref().map(|path| format!(",tx_pcap={}", path.display())).unwrap_or_default();
            format!("net_pcap_{name},rx_pcap={}{output}", input.display())
        }
        // In blocks of 64 KiB.
        Device::AfPacket { interface } => {
            let frame_bytes = framing::ring_frame_bytes(framing::mtu_of(port));
            let count = RING_BYTES / u32::from(frame_bytes);
            format!(
                "net_af_packet_{name},iface={interface},qpairs={queues},blocksz=65536,framesz={frame_bytes},framecnt={count}"
            )
        }
        Device::AfXdp { interface } => {
            format!("net_af_xdp_{name},iface={interface},start_queue=0,queue_count={queues}")
        }
        Device::Tap { interface } => format!("net_tap_{name},iface={interface}{mac}"),
        // Who comes first makes the socket; the other connects to it.
        Device::Memif { socket } => format!(
            "net_memif_{name},role={},socket={},socket-abstract=no{mac}",
            if socket.exists() { "client" } else { "server" },
            socket.display()
        ),
        Device::Ring => format!("net_ring_{name}"),
        Device::Null => format!("net_null_{name}"),
        Device::Pci { address } => address.clone(),
        Device::Devargs(text) => text.clone(),
    }
}

/// Receive queues the kernel's driver of `interface` has; 1 when it does not say.
fn kernel_rx_queues(interface: &str) -> u16 {
    let queues = fs::read_dir(Path::new("/sys/class/net").join(interface).join("queues"));
    let count = queues.map_or(1, |queues| {
        queues.flatten().filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).count()
    });
    count.clamp(1, usize::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_and_rings_take_every_frame_and_networks_their_own() {
        let devargs = |text: &str| Device::Devargs(text.to_owned());
        assert!(is_station(&devargs("net_pcap0,iface=eth1")));
        assert!(is_station(&Device::AfXdp { interface: "eth1".into() }));
        assert!(!is_station(&devargs("net_pcap0,rx_pcap=in.pcap,infinite_rx=1")));
        assert!(!is_station(&Device::Ring));
    }

    #[test]
    fn of_a_driver_that_offers_too_many_queues_one_is_used() {
        let info = |driver: &str| PortInfo {
            driver: driver.into(),
            rx_queues_max: 4,
            tx_queues_max: 2,
            rx_descriptors_max: 512,
            tx_descriptors_max: 512,
            rx_packet_bytes_max: 1_518,
            mtu_min: 68,
            mtu_max: 1_500,
            rx_offloads: 0,
            tx_offloads: 0,
            rss_hash_types: 0,
            reta_size: 0,
            hash_key_bytes: 0,
            socket: None,
        };
        assert_eq!(queues_max(&info("net_e1000_em")), (1, 1));
        assert_eq!(queues_max(&info("net_virtio")), (4, 2));
    }

    #[test]
    fn without_pci_ports_no_pci_device_is_touched() {
        let port = |device| rules::Port {
            name: "front".into(),
            device,
            kernel: false,
            addresses: Vec::new(),
            local_addresses: Vec::new(),
            mac: None,
            vlan: None,
            mtu: None,
            checksum_offload: true,
            promiscuous: false,
        };
        assert_eq!(eal_arguments(&[port(Device::Null)]), ["--no-pci"]);
        let address = "0000:03:00.0".to_owned();
        assert_eq!(
            eal_arguments(&[port(Device::Null), port(Device::Pci { address })]),
            ["-a", "0000:03:00.0"]
        );
    }
}
