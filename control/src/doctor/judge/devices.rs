//! PCI ports: who has the NIC, whether an IOMMU is in between, and whether it is near its workers.

use super::{pci_ports, worker_cores};
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Check, Finding, Remedy};
use crate::machine::list_of;
use crate::nic::Nic;
use crate::nic::inventory::DRIVERS_FOR_DPDK;
use crate::rules::Rules;

pub(super) fn judge(facts: &Facts, rules: Option<&Rules>, findings: &mut Vec<Finding>) {
    let mut has_port = false;
    for (port, address) in pci_ports(rules) {
        has_port = true;
        let nic = facts.nics.iter().find(|nic| nic.address == address);
        findings.push(who_has_it(facts, &port.name, address, nic));
        findings.extend(nic.and_then(|nic| near_its_workers(facts, rules, nic)));
    }
    if !has_port {
        findings.push(Finding::fine(Check::Nic, all(&facts.nics)));
    }
    findings.push(iommu(facts, has_port));
}

fn all(nics: &[Nic]) -> String {
    if nics.is_empty() {
        return "none on the PCI bus".into();
    }
    let one = |nic: &Nic| format!("{} ({})", nic.address, nic.driver.as_deref().unwrap_or("no driver"));
    nics.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn who_has_it(facts: &Facts, port: &str, address: &str, nic: Option<&Nic>) -> Finding {
    let wanted = format!("{address} on a driver for DPDK, for port {port}");
    let Some(nic) = nic else {
        let found = format!("there is no NIC {address}; there are: {}", all(&facts.nics));
        let to_do = format!("name one of those in [[port]] {port} (crossdock nic list)");
        return Finding::fault(Check::Nic, found, wanted, Remedy::Do(to_do));
    };
    let driver = nic.driver.as_deref().unwrap_or("no driver");
    if nic.is_for_dpdk() {
        return Finding::fine(Check::Nic, format!("{address} on {driver}, for port {port}"));
    }
    let bind = Remedy::run(&["crossdock", "nic", "bind", address]);
    Finding::fault(Check::Nic, format!("{address} on {driver}"), wanted, bind)
}

fn near_its_workers(facts: &Facts, rules: Option<&Rules>, nic: &Nic) -> Option<Finding> {
    let node = nic.numa_node?;
    let node_of = |core: &usize| facts.processors.nodes.get(core);
    let far: Vec<usize> = worker_cores(facts, rules)
        .into_iter()
        .filter(|core| node_of(core).is_some_and(|of| *of != node))
        .collect();
    let near = facts.processors.allowed.iter().copied().filter(|core| node_of(core) == Some(&node));
    let near: Vec<usize> = near.collect();
    (!far.is_empty()).then(|| {
        let found = format!("{} is on node {node}, workers on {} are not", nic.address, list_of(&far));
        let to_do = format!("say workers = {near:?} in [dataplane], or some of them");
        Finding::advice(Check::Numa, found, "workers on the node of their NIC", Remedy::Do(to_do))
    })
}

fn iommu(facts: &Facts, has_port: bool) -> Finding {
    let groups = facts.iommu_groups;
    if groups > 0 {
        return Finding::fine(Check::Iommu, format!("on, {groups} groups"));
    }
    if !has_port {
        return Finding::fine(Check::Iommu, "none, or switched off; only PCI ports want one");
    }
    Finding::advice(
        Check::Iommu,
        "none, or switched off",
        format!("one: {} needs it, and without it the NIC may write anywhere", DRIVERS_FOR_DPDK[0]),
        Remedy::Do(
            "switch it on in the firmware (VT-d, AMD-Vi) and boot with intel_iommu=on iommu=pt (Intel) or iommu=pt \
             (AMD); or go on with uio_pci_generic"
                .into(),
        ),
    )
}
