//! `--fix`: runs the remedies that are safe, and says what it ran.

use std::process::{Command, Stdio};

use serde::Serialize;

use super::finding::{Finding, Remedy};
use crate::machine::Machine;

/// A remedy that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ran {
    /// As it is typed into a shell.
    pub command: String,
    /// Why it failed; nothing where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Runs what is safe, in the order of the findings.
pub fn fix(machine: &Machine, findings: &[Finding]) -> Vec<Ran> {
    let safe =
        findings.iter().filter(|finding| finding.is_safe).filter_map(|finding| finding.remedy.as_ref());
    safe.filter_map(|remedy| {
        Some(Ran { command: remedy.to_string(), failed: carry_out(machine, remedy)?.err() })
    })
    .collect()
}

/// Nothing for what no command does.
fn carry_out(machine: &Machine, remedy: &Remedy) -> Option<Result<(), String>> {
    match remedy {
        Remedy::Do(_) => None,
        Remedy::Write { path, value } => Some(machine.write(path, value).map_err(|error| error.to_string())),
        Remedy::Run(argv) => {
            let (program, arguments) = argv.split_first()?;
            let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
            Some(match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => {
                    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
                }
                Err(error) => Err(error.to_string()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;
    use crate::machine::tests::made_up;

    #[test]
    fn only_what_is_safe_is_run_and_a_failure_is_told() {
        let (_directory, machine) = made_up(&[("/proc/sys/vm/nr_hugepages", "0\n"), ("/sys/clock", "hpet")]);
        let write =
            |path: &str, value: &str| Finding::advice(Check::HugePages, "a", "b", Remedy::write(path, value));
        let findings = [
            write("/proc/sys/vm/nr_hugepages", "64").safe(),
            write("/sys/clock", "tsc"),
            Finding::fault(Check::Kernel, "a", "b", Remedy::run(&["false"])).safe(),
            Finding::fault(Check::Kernel, "a", "b", Remedy::Do("think".into())).safe(),
        ];
        let ran = fix(&machine, &findings);
        assert_eq!(ran.len(), 2, "{ran:?}");
        assert_eq!(ran[0], Ran { command: "echo 64 > /proc/sys/vm/nr_hugepages".into(), failed: None });
        assert!(ran[1].failed.as_ref().is_some_and(|why| why.contains("exit status: 1")), "{ran:?}");
        assert_eq!(machine.number("/proc/sys/vm/nr_hugepages"), Some(64));
        assert_eq!(machine.read("/sys/clock").as_deref(), Some("hpet"), "not safe, not run");
    }
}
