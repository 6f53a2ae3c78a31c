//! The workers' cores: theirs alone, at full speed, and with a clock that can be trusted.

use super::worker_cores;
use crate::doctor::facts::{Facts, Processors};
use crate::doctor::finding::{Check, Finding, Remedy};
use crate::launch::share_cores;
use crate::machine::list_of;
use crate::rules::{Rules, Workers};

pub(super) fn judge(facts: &Facts, rules: Option<&Rules>, findings: &mut Vec<Finding>) {
    let processors = &facts.processors;
    match rules {
        Some(rules) => findings.push(cores(processors, rules)),
        None => {
            let isolated = match processors.isolated.as_slice() {
                [] => "none is isolated".to_owned(),
                some => format!("isolated: {}", list_of(some)),
            };
            findings
                .push(Finding::fine(Check::Cores, format!("{}; {isolated}", list_of(&processors.allowed))));
        }
    }
    findings.push(governor(processors, &worker_cores(facts, rules), rules.is_some()));
    findings.push(clock(processors));
}

fn cores(processors: &Processors, rules: &Rules) -> Finding {
    let allowed = list_of(&processors.allowed);
    let cores = match share_cores(&rules.dataplane.workers, &processors.allowed) {
        Ok(cores) => cores,
        Err(reason) => {
            let to_do =
                format!("name cores among {allowed}, or let the process run on more (taskset, AllowedCPUs=)");
            return Finding::fault(
                Check::Cores,
                reason.to_string(),
                "cores this process may use",
                Remedy::Do(to_do),
            );
        }
    };
    let workers = list_of(&cores.workers);
    let shares = cores.workers.contains(&cores.control);
    let others: Vec<usize> =
        cores.workers.iter().copied().filter(|core| !processors.isolated.contains(core)).collect();
    if shares {
        let found = format!("workers on {workers}, control and the slow path on {}", cores.control);
        let to_do = match &rules.dataplane.workers {
            Workers::Auto => "give the process more than one core".to_owned(),
            Workers::Cores(_) => format!("leave one of {allowed} out of [dataplane] workers"),
        };
        return Finding::advice(
            Check::Cores,
            found,
            "a core for control that no worker has",
            Remedy::Do(to_do),
        );
    }
    if others.is_empty() {
        return Finding::fine(
            Check::Cores,
            format!("workers on {workers}, isolated; control on {}", cores.control),
        );
    }
    let found = format!("workers on {workers}; {} not isolated: anybody may run there", list_of(&others));
    let to_do = format!(
        "boot with isolcpus=domain,managed_irq,{workers} nohz_full={workers} rcu_nocbs={workers} and name them in \
         [dataplane] workers"
    );
    Finding::advice(Check::Cores, found, "cores that are the workers' alone", Remedy::Do(to_do))
}

/// `is_safe`: of the rules' own cores. Where there are no rules nobody said whose cores are to run hot.
fn governor(processors: &Processors, workers: &[usize], is_safe: bool) -> Finding {
    let wanted = |core: &usize| workers.is_empty() || workers.contains(core);
    let slow = |governor: &str| governor != "performance";
    let slow: Vec<_> =
        processors.governors.iter().filter(|(core, name)| wanted(core) && slow(name)).collect();
    let Some((_, name)) = slow.first() else {
        let none = if processors.governors.is_empty() {
            "none: the frequency is not the kernel's to choose"
        } else {
            "performance"
        };
        return Finding::fine(Check::Governor, none);
    };
    let cores: Vec<usize> = slow.iter().map(|(core, _)| **core).collect();
    let numbers: Vec<String> = cores.iter().map(usize::to_string).collect();
    let script = format!(
        "for core in {}; do echo performance > /sys/devices/system/cpu/cpu$core/cpufreq/scaling_governor; done",
        numbers.join(" ")
    );
    let found = format!("{name} on {}", list_of(&cores));
    let finding = Finding::advice(
        Check::Governor,
        found,
        "performance: a worker never looks idle for long",
        Remedy::run(&["sh", "-c", &script]),
    );
    if is_safe { finding.safe() } else { finding }
}

/// Workers read the timestamp counter, so it must run at one speed, whatever the core does.
fn clock(processors: &Processors) -> Finding {
    let Processors { clock_source, clock_sources, flags, .. } = processors;
    let is_steady = flags.contains("constant_tsc") && flags.contains("nonstop_tsc");
    // Other architectures have counters that are steady by definition, and none of these flags.
    if flags.contains("tsc") && !is_steady {
        return Finding::advice(
            Check::Clock,
            "the timestamp counter does not run at one speed (no constant_tsc, nonstop_tsc)",
            "a steady one: workers tell time by it",
            Remedy::Do(
                "choose a kind of (virtual) machine with an invariant TSC; timeouts are wrong else".into(),
            ),
        );
    }
    let is_virtual = flags.contains("hypervisor");
    if !flags.contains("tsc") || clock_source == "tsc" || is_virtual {
        return Finding::fine(Check::Clock, format!("{clock_source}; the timestamp counter is steady"));
    }
    let found = format!("the kernel tells time by {clock_source}");
    if clock_sources.iter().any(|source| source == "tsc") {
        let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        return Finding::advice(Check::Clock, found, "tsc, as workers do", Remedy::write(file, "tsc"));
    }
    Finding::advice(
        Check::Clock,
        format!("{found} and has given the timestamp counter up as unsteady"),
        "a steady one: workers tell time by it",
        Remedy::Do(
            "see dmesg for why (\"Marking clocksource tsc unstable\"), and the firmware's version".into(),
        ),
    )
}
