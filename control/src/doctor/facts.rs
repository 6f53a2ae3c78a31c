//! What there is to know of a machine before Crossdock starts: plain data, made by [`super::gather`] or by a test.

use std::collections::{BTreeMap, BTreeSet};

use crate::nic::Nic;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Huge pages by node and size.
    pub huge_pages: Vec<HugePages>,
    /// Sizes of pages in KiB of which a hugetlbfs is mounted.
    pub huge_page_mounts: BTreeSet<u64>,
    /// Why the flow tables do not fit into memory, if they do not.
    pub memory_refusal: Option<String>,
    /// The processors.
    pub processors: Processors,
    /// NICs on the PCI bus.
    pub nics: Vec<Nic>,
    /// IOMMU groups; 0 is no IOMMU, or one that is switched off.
    pub iommu_groups: usize,
    /// Drivers of the PCI bus that are there or can be loaded, and are of use to DPDK.
    pub pci_drivers: BTreeMap<String, Availability>,
    /// Other parts of the kernel: tun, af_packet, af_xdp, veth.
    pub parts: BTreeMap<&'static str, Availability>,
    /// Every interface of this network namespace.
    pub interface_names: Vec<String>,
    /// Those that ports stand on.
    pub interfaces: BTreeMap<String, Interface>,
    /// This process.
    pub process: Process,
    /// Programs that Crossdock starts and that are there.
    pub programs: BTreeSet<String>,
    /// `net.ipv4.conf.all.arp_ignore`.
    pub arp_ignore: u64,
}

/// Huge pages of one size on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The node.
    pub node: usize,
    /// Bytes of a page, in KiB.
    pub kib: u64,
    /// Pages reserved.
    pub total: u64,
    /// Of those, in nobody's use.
    pub free: u64,
}

/// Whether the kernel has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It is there.
    Present,
    /// modprobe can bring it.
    Loadable,
    /// It is not, and there is no module of that name.
    Absent,
    /// Nothing tells: it leaves no trace where it is built in, and there is no list of what is.
    Unknown,
}

/// The processors.
#[derive(Clone, Debug, Default)]
pub struct Processors {
    /// Cores this process may run on.
    pub allowed: Vec<usize>,
    /// Cores the scheduler leaves alone (`isolcpus=`).
    pub isolated: Vec<usize>,
    /// Cores without a regular tick (`nohz_full=`).
    pub tickless: Vec<usize>,
    /// The NUMA node of each core.
    pub nodes: BTreeMap<usize, usize>,
    /// The frequency governor of each core that has one.
    pub governors: BTreeMap<usize, String>,
    /// What the kernel tells time by.
    pub clock_source: String,
    /// What it could tell time by.
    pub clock_sources: Vec<String>,
    /// Flags of /proc/cpuinfo.
    pub flags: BTreeSet<String>,
}

/// An interface of the kernel's.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Largest layer-3 packet in bytes.
    pub mtu: u32,
    /// The kernel's driver; `veth` for one end of a pair. Empty where neither sysfs nor ethtool tells.
    pub driver: String,
    /// The interface at the other end of a pair, where it is in this network namespace.
    pub peer: Option<String>,
    /// The bridge or bond that it belongs to.
    pub controller: Option<String>,
    /// Offloads that are on, by ethtool's names. `None` where ethtool could not be asked.
    pub offloads: Option<BTreeSet<String>>,
    /// The same of the other end of a pair, where it can be seen.
    pub peer_offloads: Option<BTreeSet<String>>,
    /// Its addresses; the kernel's own link-local ones are left out.
    pub addresses: Vec<ipnet::IpNet>,
}

/// This process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Effective capabilities, a bit each (linux/capability.h).
    pub capabilities: u64,
    /// Files it may open; `None` is no limit.
    pub open_files_max: Option<u64>,
    /// Bytes it may lock; `None` is no limit.
    pub locked_bytes_max: Option<u64>,
}
