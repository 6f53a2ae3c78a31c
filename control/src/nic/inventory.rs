//! The NICs on the PCI bus as sysfs shows them. Reads, changes nothing.

use crate::machine::Machine;

/// Where sysfs has the PCI bus's devices.
pub const DEVICES: &str = "/sys/bus/pci/devices";
/// The PCI base class of network controllers (PCI Code and ID Assignment Specification 1.11, section 1.3).
const CLASS_NETWORK: u32 = 0x02;
/// The base class of bridges, which stay with the kernel whatever their group.
const CLASS_BRIDGE: u32 = 0x06;
/// Names of vendors and devices, where the distribution has them.
const NAMES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];
/// Drivers that hand a device to a process, in the order in which they are to be preferred.
pub const DRIVERS_FOR_DPDK: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers of the kernel's that share the device with DPDK: such a NIC is not bound to anything else (DPDK's NIC guide,
/// "NVIDIA MLX5", "MLX4", "MANA": bifurcated drivers).
pub const SHARING_DRIVERS: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];

/// A NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Nic {
    /// `0000:03:00.0`.
    pub address: String,
    /// PCI vendor and device: `8086:1572`.
    pub id: String,
    /// Their names, where this machine knows them.
    pub name: Option<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The only driver that may take it, if somebody said so.
    pub driver_override: Option<String>,
    /// The node whose memory and cores it is near to; none where the machine has one node or does not say.
    pub numa_node: Option<usize>,
    /// The IOMMU group; none where there is no IOMMU.
    pub iommu_group: Option<String>,
    /// The kernel's interfaces on it.
    pub interfaces: Vec<String>,
}

impl Nic {
    /// Whether DPDK can open it as it is.
    pub fn is_for_dpdk(&self) -> bool {
        let takes = |driver: &str| DRIVERS_FOR_DPDK.contains(&driver) || SHARING_DRIVERS.contains(&driver);
        self.driver.as_deref().is_some_and(takes)
    }

    /// Whether the kernel and DPDK can both use it, so that binding it is wrong.
    pub fn is_shared(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| SHARING_DRIVERS.contains(&driver))
    }
}

/// Every network controller on the PCI bus, by address.
pub fn nics(machine: &Machine) -> Vec<Nic> {
    let addresses = machine.list(DEVICES).into_iter();
    let is_nic = |address: &String| base_class(machine, address) == Some(CLASS_NETWORK);
    let names = NAMES.iter().find_map(|path| machine.read(path));
    addresses.filter(is_nic).map(|address| nic(machine, address, names.as_deref())).collect()
}

fn nic(machine: &Machine, address: String, names: Option<&str>) -> Nic {
    let device = format!("{DEVICES}/{address}");
    let hex = |file: &str| {
        let text = machine.read(&format!("{device}/{file}")).unwrap_or_default();
        text.trim_start_matches("0x").to_owned()
    };
    let (vendor, model) = (hex("vendor"), hex("device"));
    Nic {
        id: format!("{vendor}:{model}"),
        name: names.and_then(|names| name_of(names, &vendor, &model)),
        driver: machine.link_name(&format!("{device}/driver")),
        // The kernel writes "(null)" for none.
        driver_override: machine
            .read(&format!("{device}/driver_override"))
            .filter(|name| !name.is_empty() && name != "(null)"),
        // -1 is "not known".
        numa_node: machine
            .read(&format!("{device}/numa_node"))
            .and_then(|node| node.parse::<i32>().ok())
            .and_then(|node| usize::try_from(node).ok()),
        iommu_group: machine.link_name(&format!("{device}/iommu_group")),
        interfaces: interfaces(machine, &device),
        address,
    }
}

/// A NIC's interfaces stand below the device itself; virtio's below the virtio device in between.
fn interfaces(machine: &Machine, device: &str) -> Vec<String> {
    let below = machine.list(device).into_iter().filter(|name| name.starts_with("virtio"));
    let virtio = below.flat_map(|name| machine.list(&format!("{device}/{name}/net")));
    machine.list(&format!("{device}/net")).into_iter().chain(virtio).collect()
}

fn base_class(machine: &Machine, address: &str) -> Option<u32> {
    let class = machine.read(&format!("{DEVICES}/{address}/class"))?;
    Some(u32::from_str_radix(class.trim_start_matches("0x"), 16).ok()? >> 16)
}

/// The other devices of the same IOMMU group that are no bridges, each with its driver: a group is handed out whole
/// (Documentation/driver-api/vfio.rst).
pub fn group_companions(machine: &Machine, nic: &Nic) -> Vec<(String, Option<String>)> {
    let Some(group) = &nic.iommu_group else { return Vec::new() };
    let members = machine.list(&format!("/sys/kernel/iommu_groups/{group}/devices")).into_iter();
    let others = members
        .filter(|address| *address != nic.address && base_class(machine, address) != Some(CLASS_BRIDGE));
    let with_driver = |address: String| {
        let driver = machine.link_name(&format!("{DEVICES}/{address}/driver"));
        (address, driver)
    };
    others.map(with_driver).collect()
}

/// The name of a device in a pci.ids file: vendors stand at the line's beginning, their devices behind one tab.
fn name_of(names: &str, vendor: &str, model: &str) -> Option<String> {
    let mut lines = names.lines().skip_while(|line| !starts_with_id(line, vendor));
    let vendor_name = lines.next()?.get(4..)?.trim();
    let devices = lines.take_while(|line| line.starts_with('\t') || line.starts_with('#'));
    let mut devices = devices.filter_map(|line| line.strip_prefix('\t'));
    let name = devices.find(|line| starts_with_id(line, model)).and_then(|line| line.get(4..));
    Some(name.map_or_else(|| vendor_name.to_owned(), |name| format!("{vendor_name} {}", name.trim())))
}

fn starts_with_id(line: &str, id: &str) -> bool {
    !id.is_empty() && line.strip_prefix(id).is_some_and(|rest| rest.starts_with(' '))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    /// Two ports of one card behind an IOMMU, one with each driver; a virtio NIC; and a disk, which is none.
    pub(crate) const BUS: &[(&str, &str)] = &[
        ("/sys/bus/pci/devices/0000:03:00.0/class", "0x020000\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/vendor", "0x8086\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/device", "0x1572\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/numa_node", "1\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/driver", "-> ../../../../bus/pci/drivers/i40e"),
        ("/sys/bus/pci/devices/0000:03:00.0/driver_override", "(null)\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/iommu_group", "-> ../../../kernel/iommu_groups/17"),
        ("/sys/bus/pci/devices/0000:03:00.0/net/eth1/mtu", "1500"),
        ("/sys/bus/pci/devices/0000:03:00.1/class", "0x020000\n"),
        ("/sys/bus/pci/devices/0000:03:00.1/vendor", "0x8086\n"),
        ("/sys/bus/pci/devices/0000:03:00.1/device", "0x1572\n"),
        ("/sys/bus/pci/devices/0000:03:00.1/numa_node", "1\n"),
        ("/sys/bus/pci/devices/0000:03:00.1/driver", "-> ../../../../bus/pci/drivers/vfio-pci"),
        ("/sys/bus/pci/devices/0000:03:00.1/driver_override", "vfio-pci\n"),
        ("/sys/bus/pci/devices/0000:03:00.1/iommu_group", "-> ../../../kernel/iommu_groups/18"),
        ("/sys/kernel/iommu_groups/17/devices/0000:03:00.0", ""),
        ("/sys/kernel/iommu_groups/18/devices/0000:03:00.1", ""),
        ("/sys/bus/pci/devices/0000:00:03.0/class", "0x020000\n"),
        ("/sys/bus/pci/devices/0000:00:03.0/vendor", "0x1af4\n"),
        ("/sys/bus/pci/devices/0000:00:03.0/device", "0x1041\n"),
        ("/sys/bus/pci/devices/0000:00:03.0/numa_node", "-1\n"),
        ("/sys/bus/pci/devices/0000:00:03.0/driver", "-> ../../../../bus/pci/drivers/virtio-pci"),
        ("/sys/bus/pci/devices/0000:00:03.0/virtio2/net/eth0/mtu", "1500"),
        ("/sys/bus/pci/devices/0000:00:02.0/class", "0x018000\n"),
        ("/sys/bus/pci/drivers/vfio-pci/bind", ""),
        (
            "/usr/share/misc/pci.ids",
            "# comment\n1af4  Red Hat, Inc.\n\t1041  Virtio 1.0 network device\n8086  Intel Corporation\n\
             \t1572  Ethernet Controller X710 for 10GbE SFP+\n\t\t1028 0000  Ethernet 10G\n",
        ),
    ];

    #[test]
    fn nics_are_shown_with_who_has_them_and_nothing_else_is() {
        let (_directory, machine) = made_up(BUS);
        let found = nics(&machine);
        let addresses: Vec<_> = found.iter().map(|nic| nic.address.as_str()).collect();
        assert_eq!(addresses, ["0000:00:03.0", "0000:03:00.0", "0000:03:00.1"]);
        assert_eq!(found[0].interfaces, ["eth0"]);
        assert_eq!((found[0].numa_node, found[1].numa_node), (None, Some(1)));
        assert_eq!(found[0].name.as_deref(), Some("Red Hat, Inc. Virtio 1.0 network device"));
        assert_eq!(found[1].driver_override, None);
        assert_eq!(found[1].iommu_group.as_deref(), Some("17"));
        assert!(!found[1].is_for_dpdk() && found[2].is_for_dpdk());
        assert_eq!(found[2].driver_override.as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn a_group_has_companions_but_bridges_are_none() {
        let (_directory, machine) = made_up(
            &[
                BUS,
                &[
                    ("/sys/kernel/iommu_groups/17/devices/0000:04:00.0", ""),
                    ("/sys/bus/pci/devices/0000:04:00.0/class", "0x010802"),
                    ("/sys/bus/pci/devices/0000:04:00.0/driver", "-> ../nvme"),
                    ("/sys/kernel/iommu_groups/17/devices/0000:00:01.0", ""),
                    ("/sys/bus/pci/devices/0000:00:01.0/class", "0x060400"),
                ],
            ]
            .concat(),
        );
        let nic = nics(&machine).remove(1);
        assert_eq!(group_companions(&machine, &nic), [("0000:04:00.0".to_owned(), Some("nvme".to_owned()))]);
    }
}
