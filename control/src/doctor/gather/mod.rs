//! Reads the facts, a file a subject: below the root of a [`Machine`], so that tests can make one up. Not there are what ethtool
//! and getifaddrs(3) tell, and how much memory is left: those are this machine's.

mod interfaces;
mod kernel;
mod memory;
mod process;
mod processors;

use super::facts::Facts;
use crate::machine::Machine;
use crate::nic::nics;
use crate::rules::Rules;

/// Everything there is to know, interfaces of the rules included.
pub fn gather(machine: &Machine, rules: Option<&Rules>) -> Facts {
    Facts {
        huge_pages: memory::huge_pages(machine),
        huge_page_mounts: memory::mounts(machine),
        memory_refusal: memory::refusal(rules),
        processors: processors::processors(machine),
        nics: nics(machine),
        iommu_groups: machine.list("/sys/kernel/iommu_groups").len(),
        pci_drivers: kernel::pci_drivers(machine),
        parts: kernel::parts(machine),
        interface_names: machine.list("/sys/class/net"),
        interfaces: interfaces::interfaces(machine, rules),
        process: process::process(machine),
        programs: process::programs(machine),
        arp_ignore: machine.number("/proc/sys/net/ipv4/conf/all/arp_ignore").unwrap_or(0),
    }
}
