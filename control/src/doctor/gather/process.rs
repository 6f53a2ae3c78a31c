//! What this process may do, and the programs it will need.

use std::collections::BTreeSet;

use crate::doctor::facts::Process;
use crate::machine::Machine;

/// Programs that Crossdock starts for ports on kernel interfaces.
const PROGRAMS: [&str; 3] = ["nft", "ip", "ethtool"];
/// Where they are looked for: sudo's and systemd's own PATH (systemd.exec(5)).
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

pub(super) fn process(machine: &Machine) -> Process {
    let status = machine.read("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let limits = machine.read("/proc/self/limits").unwrap_or_default();
    // "Max open files            1024                 524288               files": the first number is in force.
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Process {
        capabilities: capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0),
        open_files_max: limit("Max open files"),
        locked_bytes_max: limit("Max locked memory"),
    }
}

pub(super) fn programs(machine: &Machine) -> BTreeSet<String> {
    let is_there =
        |program: &&str| DIRECTORIES.iter().any(|directory| machine.has(&format!("{directory}/{program}")));
    PROGRAMS.into_iter().filter(is_there).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    #[test]
    fn capabilities_limits_and_programs_are_read() {
        let (_directory, machine) = made_up(&[
            ("/proc/self/status", "CapPrm:\t0\nCapEff:\t0000000000003000\n"),
            (
                "/proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max open files            1024                 524288               files\n\
                 Max locked memory         unlimited            unlimited            bytes\n",
            ),
            ("/usr/sbin/nft", ""),
        ]);
        let found = process(&machine);
        assert_eq!(found.capabilities, 0x3000);
        assert_eq!((found.open_files_max, found.locked_bytes_max), (Some(1_024), None));
        assert_eq!(programs(&machine), BTreeSet::from(["nft".to_owned()]));
    }
}
