//! Gives a NIC to a driver for DPDK, and back to the kernel's own.
//!
//! What is to be written is decided before anything is: the plan is made of facts alone, so tests need no device. The kernel
//! tells success or failure by who has the device in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::Command;
use std::{error::Error, fmt};

use super::inventory::{DEVICES, DRIVERS_FOR_DPDK, Nic, group_companions, nics};
use super::way_in::Use;
use crate::machine::Machine;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The driver had it already.
    Already(String),
    /// It went from one driver to another; `None` is no driver.
    Moved {
        /// Who had it.
        from: Option<String>,
        /// Who has it.
        to: Option<String>,
    },
}

/// Why not.
#[derive(Debug)]
pub enum Refusal {
    /// No NIC has this address.
    NoNic {
        /// The address, as given.
        address: String,
        /// Those there are.
        present: Vec<String>,
    },
    /// The machine would be cut off.
    WayIn {
        /// The NIC.
        address: String,
        /// The interface on it.
        interface: String,
        /// What it is needed for.
        uses: Vec<Use>,
    },
    /// The driver shares the device with DPDK.
    Shared {
        /// The NIC.
        address: String,
        /// Its driver.
        driver: String,
    },
    /// No such driver, and it could not be loaded.
    NoDriver {
        /// The driver.
        driver: String,
        /// What modprobe said.
        message: String,
    },
    /// vfio-pci without an IOMMU.
    NoIommu {
        /// The NIC.
        address: String,
    },
    /// Other devices of its IOMMU group are the kernel's.
    Group {
        /// The NIC.
        address: String,
        /// The group.
        group: String,
        /// The others, each with its driver.
        others: Vec<(String, String)>,
    },
    /// The kernel refused to be written to.
    Write {
        /// The file of sysfs.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// It was offered to the driver, which did not take it; it has gone back.
    NotTaken {
        /// The NIC.
        address: String,
        /// The driver.
        driver: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNic { address, present } if present.is_empty() => {
                write!(f, "there is no NIC {address}; this machine's PCI bus has none at all")
            }
            Self::NoNic { address, present } => {
                write!(f, "there is no NIC {address}; there are {} (crossdock nic list)", present.join(", "))
            }
            Self::WayIn { address, interface, uses } => {
                let uses: Vec<_> = uses.iter().map(Use::to_string).collect();
                write!(
                    f,
                    "{address} is {interface}, which {}: it stays with the kernel. Take another NIC, or move that \
                     elsewhere first",
                    uses.join(" and ")
                )
            }
            Self::Shared { address, driver } => write!(
                f,
                "{driver} has {address} and shares it with DPDK: it needs no binding, write its address in the rules"
            ),
            Self::NoDriver { driver, message } => {
                write!(f, "there is no driver {driver}, and modprobe could not load it: {message}")
            }
            Self::NoIommu { address } => write!(
                f,
                "vfio-pci cannot have {address}: there is no IOMMU. Switch it on in the firmware (VT-d, AMD-Vi) and \
                 boot with intel_iommu=on or amd_iommu=on, or, without its protection: --driver uio_pci_generic"
            ),
            Self::Group { address, group, others } => {
                let others: Vec<_> =
                    others.iter().map(|(address, driver)| format!("{address} ({driver})")).collect();
                write!(
                    f,
                    "{address} is in IOMMU group {group} with {}, and a group is handed out whole: give those to \
                     vfio-pci as well, or put the NIC into another slot",
                    others.join(", ")
                )
            }
            Self::Write { path, source } => {
                write!(f, "could not write to {path}: {source}")?;
                if source.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str("; this needs root")?;
                }
                Ok(())
            }
            Self::NotTaken { address, driver } => {
                write!(f, "{driver} did not take {address}, which went back to the kernel; dmesg says why")
            }
        }
    }
}

impl Error for Refusal {}

/// One file of sysfs to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    path: String,
    value: String,
}

/// Gives the NIC at `address` to `driver`, or to the best there is for it.
///
/// `force` takes it although it has addresses; never from under an SSH session or a default route.
///
/// # Errors
/// [`Refusal`]; then the NIC is where it was.
pub fn bind(
    machine: &Machine,
    address: &str,
    driver: Option<&str>,
    uses: &BTreeMap<String, BTreeSet<Use>>,
    force: bool,
) -> Result<Bound, Refusal> {
    let nic = find(machine, address)?;
    let driver =
        driver.unwrap_or(if nic.iommu_group.is_some() { DRIVERS_FOR_DPDK[0] } else { DRIVERS_FOR_DPDK[1] });
    if nic.driver.as_deref() == Some(driver) {
        return Ok(Bound::Already(driver.to_owned()));
    }
    refuse_if_needed(&nic, uses, force)?;
    let companions = group_companions(machine, &nic);
    let plan = plan_to_bind(&nic, driver, &companions)?;
    load(machine, driver)?;
    carry_out(machine, &plan)?;
    if driver_now(machine, &nic).as_deref() != Some(driver) {
        carry_out(machine, &plan_to_release(&nic, None))?;
        return Err(Refusal::NotTaken { address: nic.address, driver: driver.to_owned() });
    }
    Ok(Bound::Moved { from: nic.driver, to: Some(driver.to_owned()) })
}

/// Gives the NIC back to whichever driver of the kernel's wants it.
///
/// # Errors
/// [`Refusal::NoNic`] or [`Refusal::Write`].
pub fn release(machine: &Machine, address: &str) -> Result<Bound, Refusal> {
    let nic = find(machine, address)?;
    let has_it = nic.driver.as_deref().filter(|driver| !DRIVERS_FOR_DPDK.contains(driver));
    if let (Some(driver), None) = (has_it, &nic.driver_override) {
        return Ok(Bound::Already(driver.to_owned()));
    }
    carry_out(machine, &plan_to_release(&nic, nic.driver.as_deref()))?;
    Ok(Bound::Moved { to: driver_now(machine, &nic), from: nic.driver })
}

fn find(machine: &Machine, address: &str) -> Result<Nic, Refusal> {
    // As lspci writes it, with or without the domain.
    let short = format!("0000:{address}");
    let mut nics = nics(machine);
    let at = nics.iter().position(|nic| nic.address.eq_ignore_ascii_case(address) || nic.address == short);
    match at {
        Some(at) => Ok(nics.swap_remove(at)),
        None => {
            let present = nics.into_iter().map(|nic| nic.address).collect();
            Err(Refusal::NoNic { address: address.to_owned(), present })
        }
    }
}

fn refuse_if_needed(nic: &Nic, uses: &BTreeMap<String, BTreeSet<Use>>, force: bool) -> Result<(), Refusal> {
    for interface in &nic.interfaces {
        let of_interface = uses.get(interface).into_iter().flatten();
        let counts = |found: &&Use| !(force && matches!(found, Use::Address(_)));
        let of_interface: Vec<Use> = of_interface.filter(counts).cloned().collect();
        if !of_interface.is_empty() {
            let (address, interface) = (nic.address.clone(), interface.clone());
            return Err(Refusal::WayIn { address, interface, uses: of_interface });
        }
    }
    Ok(())
}

/// What is to be written so that `driver` gets the device: only it may, then nobody has it, then everybody is asked.
fn plan_to_bind(
    nic: &Nic,
    driver: &str,
    companions: &[(String, Option<String>)],
) -> Result<Vec<Write>, Refusal> {
    let address = nic.address.clone();
    if nic.is_shared() {
        let driver = nic.driver.clone().unwrap_or_default();
        return Err(Refusal::Shared { address, driver });
    }
    if driver == DRIVERS_FOR_DPDK[0] {
        let Some(group) = &nic.iommu_group else { return Err(Refusal::NoIommu { address }) };
        let is_kernels = |(address, other): &(String, Option<String>)| {
            let other = other.clone().filter(|other| other != driver)?;
            Some((address.clone(), other))
        };
        let others: Vec<_> = companions.iter().filter_map(is_kernels).collect();
        if !others.is_empty() {
            return Err(Refusal::Group { address, group: group.clone(), others });
        }
    }
    Ok(plan(nic, nic.driver.as_deref(), driver))
}

/// What is to be written so that the kernel's own driver gets it; `has_it` is who must let go.
fn plan_to_release(nic: &Nic, has_it: Option<&str>) -> Vec<Write> {
    // A line end is how one says "none" (sysfs-bus-pci, driver_override).
    plan(nic, has_it, "\n")
}

fn plan(nic: &Nic, has_it: Option<&str>, only: &str) -> Vec<Write> {
    let device = format!("{DEVICES}/{}", nic.address);
    let write = |path: String, value: &str| Write { path, value: value.to_owned() };
    let mut plan = vec![write(format!("{device}/driver_override"), only)];
    if has_it.is_some() {
        plan.push(write(format!("{device}/driver/unbind"), &nic.address));
    }
    plan.push(write("/sys/bus/pci/drivers_probe".into(), &nic.address));
    plan
}

fn carry_out(machine: &Machine, plan: &[Write]) -> Result<(), Refusal> {
    for Write { path, value } in plan {
        machine.write(path, value).map_err(|source| Refusal::Write { path: path.clone(), source })?;
    }
    Ok(())
}

fn driver_now(machine: &Machine, nic: &Nic) -> Option<String> {
    machine.link_name(&format!("{DEVICES}/{}/driver", nic.address))
}

/// Loads the driver if it is not there.
fn load(machine: &Machine, driver: &str) -> Result<(), Refusal> {
    if machine.has(&format!("/sys/bus/pci/drivers/{driver}")) {
        return Ok(());
    }
    let message = match Command::new("modprobe").arg(driver).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Refusal::NoDriver { driver: driver.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::inventory::tests::BUS;
    use super::*;
    use crate::machine::tests::made_up;

    fn used(interface: &str, what: Use) -> BTreeMap<String, BTreeSet<Use>> {
        BTreeMap::from([(interface.to_owned(), BTreeSet::from([what]))])
    }

    #[test]
    fn the_way_in_is_never_taken_away() {
        let (directory, machine) = made_up(BUS);
        let here = "192.0.2.5".parse().unwrap();
        for (what, force) in [(Use::Ssh(here), true), (Use::DefaultRoute, true), (Use::Address(here), false)]
        {
            let uses = used("eth1", what.clone());
            let said = bind(&machine, "0000:03:00.0", None, &uses, force).unwrap_err().to_string();
            assert!(said.contains(&what.to_string()) && said.contains("0000:03:00.0 is eth1"), "{said}");
        }
        let written = directory.path().join("sys/bus/pci/drivers_probe");
        assert!(!written.exists(), "nothing was written");
    }

    #[test]
    fn a_nic_goes_by_override_unbind_and_probe() {
        let (_directory, machine) = made_up(BUS);
        let nic = find(&machine, "03:00.0").unwrap();
        let plan = plan_to_bind(&nic, "vfio-pci", &[]).unwrap();
        let device = "/sys/bus/pci/devices/0000:03:00.0";
        let expected = [
            (format!("{device}/driver_override"), "vfio-pci"),
            (format!("{device}/driver/unbind"), "0000:03:00.0"),
            ("/sys/bus/pci/drivers_probe".to_owned(), "0000:03:00.0"),
        ];
        assert_eq!(plan, expected.map(|(path, value)| Write { path, value: value.to_owned() }));
    }

    /// In this made-up sysfs nobody takes what is offered.
    #[test]
    fn a_nic_that_no_driver_takes_goes_back() {
        let (directory, machine) = made_up(BUS);
        let driver = directory.path().join("sys/bus/pci/devices/0000:03:00.0/driver");
        fs::remove_file(&driver).unwrap();
        let error = bind(&machine, "0000:03:00.0", None, &BTreeMap::new(), false).unwrap_err();
        assert!(matches!(error, Refusal::NotTaken { .. }), "{error}");
        assert_eq!(find(&machine, "0000:03:00.0").unwrap().driver_override, None);
    }

    #[test]
    fn what_has_no_iommu_or_shares_its_group_or_its_driver_is_refused_with_a_way_out() {
        let (_directory, machine) = made_up(BUS);
        let mut nic = find(&machine, "0000:03:00.0").unwrap();
        let others = [("0000:04:00.0".to_owned(), Some("nvme".to_owned()))];
        let said = plan_to_bind(&nic, "vfio-pci", &others).unwrap_err().to_string();
        assert!(said.contains("group 17 with 0000:04:00.0 (nvme)"), "{said}");
        assert!(plan_to_bind(&nic, "vfio-pci", &[("0000:04:00.0".into(), None)]).is_ok());
        nic.iommu_group = None;
        let said = plan_to_bind(&nic, "vfio-pci", &[]).unwrap_err().to_string();
        assert!(said.contains("--driver uio_pci_generic"), "{said}");
        nic.driver = Some("mlx5_core".into());
        let said = plan_to_bind(&nic, "uio_pci_generic", &[]).unwrap_err().to_string();
        assert!(said.contains("needs no binding"), "{said}");
    }

    #[test]
    fn an_address_that_no_nic_has_is_told_with_those_there_are() {
        let (_directory, machine) = made_up(BUS);
        let said = bind(&machine, "0000:00:02.0", None, &BTreeMap::new(), false).unwrap_err().to_string();
        assert!(said.contains("there are 0000:00:03.0, 0000:03:00.0, 0000:03:00.1"), "{said}");
        let again = bind(&machine, "0000:03:00.1", None, &BTreeMap::new(), false).unwrap();
        assert_eq!(again, Bound::Already("vfio-pci".into()));
        let kernels = release(&machine, "0000:03:00.0").unwrap();
        assert_eq!(kernels, Bound::Already("i40e".into()));
    }
}
