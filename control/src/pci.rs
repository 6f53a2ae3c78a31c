//! What sysfs says of a PCI device: who has it, and so why DPDK cannot, or how it reads memory.
//!
//! Only for messages and for the choice of memory; DPDK opens devices itself. Read first: DPDK's Linux guide, "Linux Drivers".

use std::fs;
use std::path::Path;

/// The drivers of the kernel that hand a device's registers to a process without an IOMMU in between.
const UIO_DRIVERS: [&str; 3] = ["uio_pci_generic", "igb_uio", "uio_hv_generic"];
/// The driver that hands it over behind an IOMMU.
const VFIO_DRIVER: &str = "vfio-pci";

const DEVICES: &str = "/sys/bus/pci/devices";

/// Who has a PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is no such device.
    Missing,
    /// No driver of the kernel's.
    Nobody,
    /// `vfio-pci`: the device reads memory by the process's own addresses, through the IOMMU.
    Vfio,
    /// A uio driver, by name: the device reads memory by physical addresses.
    Uio(String),
    /// Another driver of the kernel's, by name. Nearly always the NIC's own, which keeps it from DPDK; mlx5's shares it.
    Kernel(String),
}

/// Who has the device at `address` (`0000:03:00.0`).
pub fn owner(address: &str) -> Owner {
    owner_in(Path::new(DEVICES), address)
}

fn owner_in(devices: &Path, address: &str) -> Owner {
    let device = devices.join(address);
    if !device.exists() {
        return Owner::Missing;
    }
    let driver = fs::read_link(device.join("driver")).ok();
    match driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()) {
        None => Owner::Nobody,
        Some(name) if name == VFIO_DRIVER => Owner::Vfio,
        Some(name) if UIO_DRIVERS.contains(&name.as_str()) => Owner::Uio(name),
        Some(name) => Owner::Kernel(name),
    }
}

/// Why DPDK made no port of the device, and what to do.
pub fn why_no_port(address: &str, owner: &Owner) -> String {
    let bind = format!("crossdock nic bind {address}");
    match owner {
        Owner::Missing => {
            format!("there is no PCI device {address}; `crossdock nic list` shows those there are")
        }
        Owner::Nobody => format!("no driver has {address}; give it to DPDK: {bind}"),
        Owner::Kernel(driver) => {
            format!(
                "the kernel's driver {driver} has {address}; if it is nobody's way in, give it to DPDK: {bind}"
            )
        }
        Owner::Vfio => format!(
            "vfio-pci has {address} and DPDK could not open it: see the messages above, whether another process has it, \
             and whether DPDK has a driver for it (DPDK's NIC guide)"
        ),
        Owner::Uio(driver) => format!(
            "{driver} has {address} and DPDK could not open it: see the messages above, and whether DPDK has a driver \
             for it (DPDK's NIC guide)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with one device, which has `driver`.
    fn devices(driver: Option<&str>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("0000:03:00.0");
        fs::create_dir(&device).unwrap();
        if let Some(driver) = driver {
            symlink(format!("../../../../bus/pci/drivers/{driver}"), device.join("driver")).unwrap();
        }
        directory
    }

    #[test]
    fn the_driver_of_a_device_is_who_has_it() {
        let owner = |driver| owner_in(devices(driver).path(), "0000:03:00.0");
        assert_eq!(owner(None), Owner::Nobody);
        assert_eq!(owner(Some("vfio-pci")), Owner::Vfio);
        assert_eq!(owner(Some("uio_pci_generic")), Owner::Uio("uio_pci_generic".into()));
        assert_eq!(owner(Some("e1000e")), Owner::Kernel("e1000e".into()));
        assert_eq!(owner_in(devices(None).path(), "0000:04:00.0"), Owner::Missing);
    }

    #[test]
    fn a_device_that_the_kernel_has_comes_with_the_command_that_frees_it() {
        let why = why_no_port("0000:03:00.0", &Owner::Kernel("e1000e".into()));
        assert!(
            why.contains("e1000e has 0000:03:00.0") && why.contains("crossdock nic bind 0000:03:00.0"),
            "{why}"
        );
    }
}
