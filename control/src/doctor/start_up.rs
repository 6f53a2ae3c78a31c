//! What the doctor says when a start has failed.

use std::fmt;

use super::facts::Facts;
use super::finding::{Finding, Verdict};
use super::judge::judge;
use crate::rules::Rules;

/// A start that failed, with what stands in its way on this machine.
#[derive(Debug)]
struct NotStarted {
    reason: anyhow::Error,
    faults: Vec<Finding>,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.reason)?;
        for Finding { check, found, wanted, remedy, .. } in &self.faults {
            write!(f, "\ndoctor: {check}: found: {found}; wanted: {wanted}")?;
            if let Some(remedy) = remedy {
                write!(f, "; to do: {remedy}")?;
            }
        }
        if self.faults.is_empty() {
            f.write_str(
                "\ndoctor: nothing else on this machine stands in the way; crossdock doctor -c FILE shows what was looked at",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for NotStarted {}

/// The error with the doctor's lines after it. `facts` are of before the start, which has since pinned this thread to one core
/// and may hold huge pages.
pub fn not_started(reason: anyhow::Error, facts: &Facts, rules: &Rules) -> anyhow::Error {
    let mut faults = judge(facts, Some(rules), None);
    faults.retain(|finding| finding.verdict == Verdict::Fault);
    NotStarted { reason, faults }.into()
}
