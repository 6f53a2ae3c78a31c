//! Cores: which this process has, who else runs there, how they tell time.

use std::collections::BTreeMap;

use crate::doctor::facts::Processors;
use crate::machine::{Machine, numbers};

const CPU: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0";

pub(super) fn processors(machine: &Machine) -> Processors {
    let set = |path: &str| numbers(&machine.read(path).unwrap_or_default());
    let status = machine.read("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cpuinfo = machine.read("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let clock_sources = machine.read(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    Processors {
        allowed: allowed.map(|list| numbers(list.trim())).unwrap_or_default(),
        isolated: set(&format!("{CPU}/isolated")),
        // "(null)" where there are none, which is no number.
        tickless: set(&format!("{CPU}/nohz_full")),
        nodes: nodes(machine),
        governors: governors(machine),
        clock_source: machine.read(&format!("{CLOCK}/current_clocksource")).unwrap_or_default(),
        clock_sources: clock_sources.split_whitespace().map(str::to_owned).collect(),
        flags: flags
            .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}

fn nodes(machine: &Machine) -> BTreeMap<usize, usize> {
    let nodes = machine.list(NODES).into_iter();
    let nodes = nodes.filter_map(|name| name.strip_prefix("node")?.parse::<usize>().ok());
    let of_node = |node: usize| {
        let cores = machine.read(&format!("{NODES}/node{node}/cpulist")).unwrap_or_default();
        numbers(&cores).into_iter().map(move |core| (core, node))
    };
    nodes.flat_map(of_node).collect()
}

fn governors(machine: &Machine) -> BTreeMap<usize, String> {
    let cores = machine.list(CPU).into_iter();
    let cores = cores.filter_map(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
    let governor = |core| Some((core, machine.read(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"))?));
    cores.filter_map(governor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    #[test]
    fn cores_are_known_with_their_nodes_and_governors() {
        let (_directory, machine) = made_up(&[
            ("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2\nCapEff:\t0\n"),
            ("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc\n\nprocessor\t: 1\n"),
            ("/sys/devices/system/cpu/isolated", "2\n"),
            ("/sys/devices/system/cpu/nohz_full", "(null)\n"),
            ("/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n"),
            ("/sys/devices/system/cpu/cpuidle/x", ""),
            ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
            ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
            ("/sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet \n"),
        ]);
        let found = processors(&machine);
        assert_eq!((found.allowed, found.isolated, found.tickless), (vec![0, 1, 2], vec![2], vec![]));
        assert_eq!(found.nodes, BTreeMap::from([(0, 0), (1, 0), (2, 1), (3, 1)]));
        assert_eq!(found.governors, BTreeMap::from([(2, "powersave".to_owned())]));
        assert_eq!((found.clock_source.as_str(), found.clock_sources.len()), ("hpet", 2));
        assert!(found.flags.contains("nonstop_tsc"));
    }
}
