//! Parts of the kernel that ports need, and programs.

use super::{any_port_on, pci_ports, ports};
use crate::doctor::facts::{Availability, Facts};
use crate::doctor::finding::{Check, Finding, Remedy};
use crate::nic::inventory::DRIVERS_FOR_DPDK;
use crate::rules::{KernelDriver, Rules};

/// A part, whether the rules need it, what for, and its option of the kernel's configuration.
struct Part {
    name: &'static str,
    is_needed: bool,
    purpose: &'static str,
    option: &'static str,
}

pub(super) fn judge(facts: &Facts, rules: Option<&Rules>, findings: &mut Vec<Finding>) {
    let on = |drivers: &[KernelDriver]| any_port_on(rules, drivers);
    let has_twin = ports(rules).iter().any(|port| port.kernel);
    let parts = [
        Part {
            name: "tun",
            is_needed: has_twin || on(&[KernelDriver::Tap]),
            purpose: "kernel twins and TAP ports",
            option: "CONFIG_TUN",
        },
        Part {
            name: "af_packet",
            is_needed: on(&[KernelDriver::AfPacket, KernelDriver::Pcap]),
            purpose: "af_packet ports",
            option: "CONFIG_PACKET",
        },
        Part {
            name: "af_xdp",
            is_needed: on(&[KernelDriver::AfXdp]),
            purpose: "af_xdp ports",
            option: "CONFIG_XDP_SOCKETS",
        },
    ];
    findings.extend(parts.iter().filter_map(|part| missing(facts, part)));
    findings.extend(pci_driver(facts, rules));
    findings.push(Finding::fine(Check::Kernel, told(facts)));
    findings.extend(programs(facts, rules));
}

fn state(facts: &Facts, part: &str) -> Availability {
    facts.parts.get(part).copied().unwrap_or(Availability::Absent)
}

fn missing(facts: &Facts, part: &Part) -> Option<Finding> {
    let Part { name, is_needed, purpose, option } = part;
    let wanted = format!("it, for {purpose}");
    match state(facts, name) {
        _ if !is_needed => None,
        Availability::Present | Availability::Unknown => None,
        Availability::Loadable => {
            let remedy = Remedy::run(&["modprobe", name]);
            Some(Finding::fault(Check::Kernel, format!("{name} is not loaded"), wanted, remedy).safe())
        }
        Availability::Absent => {
            let to_do = format!("run a kernel with {option}; in a container also /dev/net/tun of the host");
            Some(Finding::fault(Check::Kernel, format!("{name} is missing"), wanted, Remedy::Do(to_do)))
        }
    }
}

/// A PCI port whose NIC the kernel still has wants a driver to go to.
fn pci_driver(facts: &Facts, rules: Option<&Rules>) -> Option<Finding> {
    let of = |address: &str| facts.nics.iter().find(|nic| nic.address == address);
    let nic = pci_ports(rules).filter_map(|(_, address)| of(address)).find(|nic| !nic.is_for_dpdk())?;
    let driver = DRIVERS_FOR_DPDK[usize::from(nic.iommu_group.is_none())];
    let wanted = format!("{driver}, for {}", nic.address);
    match facts.pci_drivers.get(driver) {
        Some(Availability::Present) => None,
        Some(Availability::Loadable) => {
            let remedy = Remedy::run(&["modprobe", driver]);
            Some(Finding::fault(Check::Kernel, format!("{driver} is not loaded"), wanted, remedy).safe())
        }
        _ => {
            let to_do = format!("run a kernel with {driver} (the distribution's own has it), or use af_xdp");
            Some(Finding::fault(Check::Kernel, format!("{driver} is missing"), wanted, Remedy::Do(to_do)))
        }
    }
}

fn told(facts: &Facts) -> String {
    let parts = facts.parts.iter().map(|(name, state)| (*name, state));
    let drivers = facts.pci_drivers.iter().map(|(name, state)| (name.as_str(), state));
    let all: Vec<_> = parts.chain(drivers).collect();
    let in_state = |wanted: Availability| {
        let names: Vec<_> =
            all.iter().filter(|(_, state)| **state == wanted).map(|(name, _)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!(
        "there: {}; can be loaded: {}; missing: {}; cannot be told: {}",
        in_state(Availability::Present),
        in_state(Availability::Loadable),
        in_state(Availability::Absent),
        in_state(Availability::Unknown)
    )
}

fn programs(facts: &Facts, rules: Option<&Rules>) -> Vec<Finding> {
    let on = |drivers: &[KernelDriver]| any_port_on(rules, drivers);
    let needs = [
        (
            "nft",
            "nftables",
            on(&[KernelDriver::AfPacket, KernelDriver::Pcap]),
            "hides interfaces from the kernel",
        ),
        ("ip", "iproute2", on(&[KernelDriver::AfXdp]), "watches over XDP programs"),
    ];
    let missing =
        needs.into_iter().filter(|(program, .., needed, _)| *needed && !facts.programs.contains(*program));
    let mut findings: Vec<Finding> = missing
        .map(|(program, package, _, purpose)| {
            let remedy = Remedy::run(&["apt-get", "install", package]);
            Finding::fault(
                Check::Programs,
                format!("{program} is missing"),
                format!("it: {program} {purpose}"),
                remedy,
            )
        })
        .collect();
    let there: Vec<&str> = facts.programs.iter().map(String::as_str).collect();
    if findings.is_empty() {
        findings.push(Finding::fine(
            Check::Programs,
            if there.is_empty() { "none".into() } else { there.join(", ") },
        ));
    }
    findings
}
