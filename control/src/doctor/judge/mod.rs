//! Makes findings of facts. Pure: whatever is not in the arguments does not count.

mod cores;
mod devices;
mod interfaces;
mod kernel;
mod memory;
mod privileges;

use super::facts::Facts;
use super::finding::Finding;
use crate::launch::share_cores;
use crate::report::Report;
use crate::rules::{Device, KernelDriver, Port, Rules};

/// Everything there is to say, the worst first. Without rules only what holds for any.
pub fn judge(facts: &Facts, rules: Option<&Rules>, running: Option<&Report>) -> Vec<Finding> {
    let mut findings = Vec::new();
    memory::judge(facts, rules, running, &mut findings);
    cores::judge(facts, rules, &mut findings);
    devices::judge(facts, rules, &mut findings);
    kernel::judge(facts, rules, &mut findings);
    interfaces::judge(facts, rules, running, &mut findings);
    privileges::judge(facts, rules, &mut findings);
    // A stable sort: within a verdict they stay in the order above.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    findings
}

/// The ports of the rules; none without rules.
fn ports(rules: Option<&Rules>) -> &[Port] {
    rules.map(|rules| rules.ports.as_slice()).unwrap_or_default()
}

/// The cores the workers would have; none without rules, or where the rules ask for cores that are not there.
fn worker_cores(facts: &Facts, rules: Option<&Rules>) -> Vec<usize> {
    let shared = rules.map(|rules| share_cores(&rules.dataplane.workers, &facts.processors.allowed));
    shared.and_then(Result::ok).map(|cores| cores.workers).unwrap_or_default()
}

/// The PCI addresses of ports, each with its port.
fn pci_ports(rules: Option<&Rules>) -> impl Iterator<Item = (&Port, &str)> {
    ports(rules).iter().filter_map(|port| match &port.device {
        Device::Pci { address } => Some((port, address.as_str())),
        _ => None,
    })
}

/// Whether a port stands on such a driver.
fn any_port_on(rules: Option<&Rules>, drivers: &[KernelDriver]) -> bool {
    let on =
        |port: &Port| port.device.kernel_interface().is_some_and(|(driver, _)| drivers.contains(&driver));
    ports(rules).iter().any(on)
}

#[cfg(test)]
mod tests;
