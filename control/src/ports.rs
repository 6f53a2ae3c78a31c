//! Opens the ports of the rules: their device arguments in DPDK's words, their queues, their MACs.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use dataplane::wire::ethernet::MacAddress;
use dpdk::{Eal, Mempool, Port, PortConfig, RxQueue, TxQueue};
use nix::net::if_::if_nametoindex;

use crate::api::socket_path::{self, Occupant};
use crate::endless;
use crate::rules::build::PortFacts;
use crate::rules::{self, Device, KernelDriver};

/// Descriptors of a queue, either way: DPDK's customary number.
pub const DESCRIPTORS: u16 = 512;

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

/// Opens `port` for `worker_count` workers.
///
/// # Errors
/// What DPDK says, with what the rules asked for.
pub fn open(eal: &Eal, port: &rules::Port, worker_count: u16, pool: &Mempool) -> anyhow::Result<OpenPort> {
    let what = || format!("[[port]] {}: device \"{}\"", port.name, port.device);
    let mut device = attach(eal, port, worker_count).with_context(what)?;
    start(&mut device, port, worker_count, pool).with_context(what).map(|(rx, tx, facts, mtu)| OpenPort {
        port: device,
        rx,
        tx,
        facts,
        mtu,
    })
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
    match &port.device {
        Device::Pci { address } => Ok(Port::find(eal, address)?),
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

type Started = (Vec<RxQueue>, Vec<TxQueue>, PortFacts, u16);

fn start(
    device: &mut Port,
    port: &rules::Port,
    worker_count: u16,
    pool: &Mempool,
) -> anyhow::Result<Started> {
    let info = device.info()?;
    let config = PortConfig {
        rx_queue_count: worker_count.min(info.rx_queues_max).max(1),
        tx_queue_count: worker_count.min(info.tx_queues_max).max(1),
        rx_descriptor_count: DESCRIPTORS,
        tx_descriptor_count: DESCRIPTORS,
        mtu: None,
    };
    device.configure(&config, pool)?;
    let (rx, tx) = device.start()?;
    if let Some(mac) = port.mac
        && device.mac()? != mac.0
    {
        device.set_mac(mac.0)?;
    }
    let facts = PortFacts { mac: MacAddress(device.mac()?), is_station: is_station(&port.device) };
    Ok((rx, tx, facts, device.mtu()?))
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
        // 2,048 frames of 2,048 bytes a ring and queue, in blocks of 64 KiB: 4 MiB each way, enough for the bursts
        // of a 64 KiB TCP window from some dozens of senders.
        Device::AfPacket { interface } => format!(
            "net_af_packet_{name},iface={interface},qpairs={queues},blocksz=65536,framesz=2048,framecnt=2048"
        ),
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
    fn without_pci_ports_no_pci_device_is_touched() {
        let port = |device| rules::Port {
            name: "front".into(),
            device,
            kernel: false,
            addresses: Vec::new(),
            local_addresses: Vec::new(),
            mac: None,
        };
        assert_eq!(eal_arguments(&[port(Device::Null)]), ["--no-pci"]);
        let address = "0000:03:00.0".to_owned();
        assert_eq!(
            eal_arguments(&[port(Device::Null), port(Device::Pci { address })]),
            ["-a", "0000:03:00.0"]
        );
    }
}
