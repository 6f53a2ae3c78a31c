//! What the kernel has, or can load. Shown by what it does where that can be seen, for a kernel may have everything built in and
//! no modules at all. Read first: modules.dep(5), and kbuild.rst of the kernel on `modules.builtin`.

use std::collections::BTreeMap;

use crate::doctor::facts::Availability;
use crate::machine::Machine;
use crate::nic::inventory::DRIVERS_FOR_DPDK;

/// PCI drivers for DPDK.
pub(super) fn pci_drivers(machine: &Machine) -> BTreeMap<String, Availability> {
    let state = |driver: &str| {
        let is_there = machine.has(&format!("/sys/bus/pci/drivers/{driver}"));
        (driver.to_owned(), availability(machine, is_there, driver))
    };
    DRIVERS_FOR_DPDK.iter().map(|driver| state(driver)).collect()
}

/// Parts that ports on kernel interfaces need, and veth, which labs do.
pub(super) fn parts(machine: &Machine) -> BTreeMap<&'static str, Availability> {
    // A line a protocol; its name stands first.
    let protocols = machine.read("/proc/net/protocols").unwrap_or_default();
    let speaks = |name: &str| protocols.lines().any(|line| line.split_whitespace().next() == Some(name));
    let has_module = |name: &str| machine.has(&format!("/sys/module/{name}"));
    let mut parts: BTreeMap<_, _> = [
        ("tun", "tun", machine.has("/dev/net/tun")),
        ("af_packet", "af_packet", speaks("PACKET")),
        // No module: CONFIG_XDP_SOCKETS is built in or not there.
        ("af_xdp", "", speaks("XDP")),
        ("veth", "veth", has_module("veth")),
    ]
    .into_iter()
    .map(|(part, module, is_there)| (part, availability(machine, is_there, module)))
    .collect();
    // Of these four it alone leaves no trace when it is built in.
    if parts["veth"] == Availability::Absent && list_of_modules(machine, "modules.builtin").is_none() {
        parts.insert("veth", Availability::Unknown);
    }
    parts
}

fn availability(machine: &Machine, is_there: bool, module: &str) -> Availability {
    if is_there {
        return Availability::Present;
    }
    // `-` and `_` are the same to modprobe.
    let names = |line: &str| {
        let path = line.split(':').next().unwrap_or(line);
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split(".ko").next().unwrap_or(file).replace('-', "_");
        !module.is_empty() && name == module.replace('-', "_")
    };
    let holds = |file: &str| list_of_modules(machine, file).unwrap_or_default().lines().any(names);
    if holds("modules.builtin") {
        Availability::Present
    } else if holds("modules.dep") {
        Availability::Loadable
    } else {
        Availability::Absent
    }
}

/// A file of the running kernel's modules; none where it has no modules at all.
fn list_of_modules(machine: &Machine, file: &str) -> Option<String> {
    let release = machine.read("/proc/sys/kernel/osrelease")?;
    machine.read(&format!("/lib/modules/{release}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    #[test]
    fn a_part_is_there_or_can_be_loaded_or_neither() {
        let (_directory, machine) = made_up(&[
            ("/proc/sys/kernel/osrelease", "6.1.0-1\n"),
            ("/lib/modules/6.1.0-1/modules.builtin", "kernel/drivers/net/veth.ko\n"),
            (
                "/lib/modules/6.1.0-1/modules.dep",
                "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\nkernel/drivers/net/tun.ko:\n",
            ),
            ("/sys/bus/pci/drivers/uio_pci_generic/bind", ""),
            ("/proc/net/protocols", "protocol  size sockets\nPACKET 1600 0\nXDP-like 1 1\n"),
        ]);
        let drivers = pci_drivers(&machine);
        assert_eq!(drivers["vfio-pci"], Availability::Loadable);
        assert_eq!(drivers["uio_pci_generic"], Availability::Present);
        assert_eq!(drivers["igb_uio"], Availability::Absent);
        let parts = parts(&machine);
        assert_eq!(parts["tun"], Availability::Loadable);
        assert_eq!(parts["af_packet"], Availability::Present);
        assert_eq!(parts["af_xdp"], Availability::Absent);
        assert_eq!(parts["veth"], Availability::Present);
        assert_eq!(super::parts(&Machine::below("/nowhere"))["veth"], Availability::Unknown);
    }
}
