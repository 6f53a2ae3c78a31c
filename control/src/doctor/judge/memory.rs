//! Huge pages, and memory for the flow tables.

use dataplane::flow::FlowTable;

use super::{pci_ports, worker_cores};
use crate::doctor::facts::{Facts, HugePages};
use crate::doctor::finding::{Check, Finding, Remedy, Verdict};
use crate::launch::huge_pages_needed;
use crate::nic::inventory::DRIVERS_FOR_DPDK;
use crate::report::Report;
use crate::rules::{Memory, Rules};

/// The size that Crossdock counts on, in KiB.
const PAGE_KIB: u64 = 2_048;
const RESERVE: &str = "/proc/sys/vm/nr_hugepages";

pub(super) fn judge(
    facts: &Facts,
    rules: Option<&Rules>,
    running: Option<&Report>,
    findings: &mut Vec<Finding>,
) {
    findings.push(match rules {
        // A director that runs has taken what it needs; what is left says nothing about it.
        Some(rules) if running.is_none() => huge_pages(facts, rules),
        _ => Finding::fine(Check::HugePages, told(facts)),
    });
    findings.extend(rules.and_then(|_| pages_on_the_node(facts, rules)));
    let mounted = if facts.huge_page_mounts.is_empty() { "none is mounted" } else { "mounted" };
    let why = "Crossdock takes huge pages without files, other DPDK programs with them";
    findings.push(Finding::fine(Check::HugePageMount, format!("{mounted} ({why})")));
    if let (Some(refusal), None) = (&facts.memory_refusal, running) {
        let to_do = "use fewer workers, a smaller max_flows, or free some memory";
        findings.push(Finding::fault(
            Check::Memory,
            refusal,
            "room for the flow tables",
            Remedy::Do(to_do.into()),
        ));
    }
}

fn of_size(facts: &Facts, kib: u64) -> impl Iterator<Item = &HugePages> {
    facts.huge_pages.iter().filter(move |pages| pages.kib == kib)
}

fn told(facts: &Facts) -> String {
    let size = |kib: u64, name: &str| {
        let (free, total) =
            of_size(facts, kib).fold((0, 0), |(f, t), pages| (f + pages.free, t + pages.total));
        let nodes: Vec<String> =
            of_size(facts, kib).map(|pages| format!("node {}: {}", pages.node, pages.free)).collect();
        let by_node =
            if nodes.len() > 1 && free > 0 { format!(" ({})", nodes.join(", ")) } else { String::new() };
        format!("{free} free of {total} of {name}{by_node}")
    };
    format!("{}, {}", size(PAGE_KIB, "2 MiB"), size(1 << 20, "1 GiB"))
}

fn huge_pages(facts: &Facts, rules: &Rules) -> Finding {
    let free: u64 = of_size(facts, PAGE_KIB).map(|pages| pages.free).sum();
    let total: u64 = of_size(facts, PAGE_KIB).map(|pages| pages.total).sum();
    let workers = worker_cores(facts, Some(rules)).len().max(1);
    let for_packets = huge_pages_needed(rules, workers);
    let table_bytes = FlowTable::bytes_for(rules.dataplane.max_flows) as u64 * workers as u64;
    let for_tables = table_bytes.div_ceil(PAGE_KIB << 10);
    let needs_them = reader_by_physical_address(facts, rules);
    let memory = rules.dataplane.memory;
    if memory == Memory::Plain && needs_them.is_none() {
        return Finding::fine(Check::HugePages, format!("{}; memory = \"plain\" asks for none", told(facts)));
    }
    if free >= for_packets + for_tables {
        let what = format!("{}; {for_packets} for packets and {for_tables} for flow tables", told(facts));
        return Finding::fine(Check::HugePages, what);
    }
    let (is_fault, why) = match (&needs_them, memory) {
        (Some(address), _) => {
            (free < for_packets, format!(", which {address} on a uio driver cannot do without"))
        }
        (None, Memory::Huge) => (true, ", as memory = \"huge\" demands".into()),
        (None, _) => (false, String::new()),
    };
    let wanted = format!("{for_packets} of 2 MiB for packets and {for_tables} for flow tables{why}");
    let remedy = Remedy::write(RESERVE, total + (for_packets + for_tables - free).next_multiple_of(16));
    let advice = Finding::advice(Check::HugePages, told(facts), wanted, remedy).safe();
    if is_fault { Finding { verdict: Verdict::Fault, ..advice } } else { advice }
}

/// A NIC on a uio driver.
fn reader_by_physical_address(facts: &Facts, rules: &Rules) -> Option<String> {
    let is_uio = |address: &str| {
        let nic = facts.nics.iter().find(|nic| nic.address == address);
        nic.and_then(|nic| nic.driver.as_deref())
            .is_some_and(|driver| driver != DRIVERS_FOR_DPDK[0] && DRIVERS_FOR_DPDK.contains(&driver))
    };
    pci_ports(Some(rules)).map(|(_, address)| address).find(|address| is_uio(address)).map(str::to_owned)
}

/// Pages somewhere are of little use to a worker elsewhere.
fn pages_on_the_node(facts: &Facts, rules: Option<&Rules>) -> Option<Finding> {
    let any_free = of_size(facts, PAGE_KIB).any(|pages| pages.free > 0);
    let mut nodes =
        worker_cores(facts, rules).into_iter().filter_map(|core| facts.processors.nodes.get(&core));
    let bare =
        nodes.find(|node| of_size(facts, PAGE_KIB).any(|pages| pages.node == **node && pages.free == 0))?;
    let file = format!("/sys/devices/system/node/node{bare}/hugepages/hugepages-2048kB/nr_hugepages");
    any_free.then(|| {
        Finding::advice(
            Check::Numa,
            format!("workers run on node {bare}, where no huge page is free; {}", told(facts)),
            "huge pages on the workers' own node",
            Remedy::write(file, 512),
        )
        .safe()
    })
}
