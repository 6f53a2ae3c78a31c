//! Capabilities and limits: what the rules need, not whether somebody is root. Read first: capabilities(7), getrlimit(2).

use super::{any_port_on, pci_ports, ports};
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Check, Finding, Remedy};
use crate::rules::{KernelDriver, Rules};

/// linux/capability.h.
const NET_ADMIN: (u64, &str) = (12, "cap_net_admin");
const NET_RAW: (u64, &str) = (13, "cap_net_raw");
const IPC_LOCK: (u64, &str) = (14, "cap_ipc_lock");
const SYS_ADMIN: (u64, &str) = (21, "cap_sys_admin");
const BPF: (u64, &str) = (39, "cap_bpf");

/// Sockets of the API's clients and of health checks, besides some dozens of DPDK's own.
const OPEN_FILES_WANTED: u64 = 16_384;
/// What an af_xdp port or a NIC behind vfio pins: the mempool, a few hundred MiB.
const LOCKED_BYTES_WANTED: u64 = 1 << 30;

pub(super) fn judge(facts: &Facts, rules: Option<&Rules>, findings: &mut Vec<Finding>) {
    findings.push(privileges(facts, rules));
    findings.push(open_files(facts));
    findings.push(locked_memory(facts, rules));
}

fn has(facts: &Facts, (bit, _): (u64, &str)) -> bool {
    facts.process.capabilities >> bit & 1 == 1
}

fn privileges(facts: &Facts, rules: Option<&Rules>) -> Finding {
    let on = |drivers: &[KernelDriver]| any_port_on(rules, drivers);
    let all = [KernelDriver::AfPacket, KernelDriver::AfXdp, KernelDriver::Pcap, KernelDriver::Tap];
    let has_kernel_side = rules.is_none() || on(&all) || ports(rules).iter().any(|port| port.kernel);
    let opens_sockets =
        rules.is_none() || on(&[KernelDriver::AfPacket, KernelDriver::AfXdp, KernelDriver::Pcap]);
    let reads_physical = pci_ports(rules).any(|(_, address)| {
        let nic = facts.nics.iter().find(|nic| nic.address == address);
        nic.is_some_and(|nic| nic.driver.as_deref().is_some_and(|driver| driver.contains("uio")))
    });
    // CAP_SYS_ADMIN has what CAP_BPF has, as kernels before 5.8 did.
    let needs_bpf = on(&[KernelDriver::AfXdp]) && !has(facts, SYS_ADMIN);
    let needs = [
        (NET_ADMIN, has_kernel_side),
        (NET_RAW, opens_sockets),
        (SYS_ADMIN, reads_physical),
        (BPF, needs_bpf),
    ];
    let needed = || needs.iter().filter(|(_, is_needed)| *is_needed).map(|(capability, _)| *capability);
    let missing: Vec<&str> = needed().filter(|need| !has(facts, *need)).map(|(_, name)| name).collect();
    if missing.is_empty() {
        let names: Vec<&str> = needed().map(|(_, name)| name).collect();
        let names = if names.is_empty() { "none needed".into() } else { names.join(", ") };
        return Finding::fine(Check::Privileges, names);
    }
    let list = missing.join(",");
    let finding = Finding::fault(
        Check::Privileges,
        format!("without {}", missing.join(", ")),
        if rules.is_some() {
            "those, for the ports of the rules"
        } else {
            "those, for ports on kernel interfaces"
        },
        Remedy::Do(format!("run as root (sudo), or: setcap {list}+ep \"$(command -v crossdock)\"")),
    );
    match rules {
        Some(_) => finding,
        None => Finding { verdict: crate::doctor::Verdict::Advice, ..finding },
    }
}

fn open_files(facts: &Facts) -> Finding {
    match facts.process.open_files_max {
        Some(max) if max < OPEN_FILES_WANTED => Finding::advice(
            Check::Limits,
            format!("{max} open files"),
            format!("{OPEN_FILES_WANTED}: every client of the API and every health check is one"),
            Remedy::Do(format!("ulimit -n {OPEN_FILES_WANTED} before the start (the systemd unit sets it)")),
        ),
        max => {
            let max = max.map_or_else(|| "any number of".into(), |max| max.to_string());
            Finding::fine(Check::Limits, format!("{max} open files"))
        }
    }
}

fn locked_memory(facts: &Facts, rules: Option<&Rules>) -> Finding {
    let pins = any_port_on(rules, &[KernelDriver::AfXdp]) || pci_ports(rules).next().is_some();
    match facts.process.locked_bytes_max {
        _ if has(facts, IPC_LOCK) => Finding::fine(Check::Limits, "locked memory: no limit (cap_ipc_lock)"),
        Some(max) if max < LOCKED_BYTES_WANTED && pins => Finding::fault(
            Check::Limits,
            format!("{} KiB of locked memory", max >> 10),
            "1 GiB or no limit: af_xdp ports and NICs behind vfio-pci pin their packets' memory",
            Remedy::Do("ulimit -l unlimited before the start (the systemd unit sets it)".into()),
        ),
        max => {
            let max = max.map_or_else(|| "no limit".into(), |max| format!("{} KiB", max >> 10));
            Finding::fine(Check::Limits, format!("locked memory: {max}"))
        }
    }
}
