//! `crossdock check -c FILE`: every error in a rules file, without a device and without privileges.

use std::path::PathBuf;

use clap::Args;
use control::rules::{Rules, nested};

/// Pairs of services that are told of.
const NESTED_MAX: usize = 20;

/// Check a rules file: every error at once, each with its line, a caret and a way out
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The rules file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let rules = Rules::load(&self.config)?;
        let backends: usize = rules.services.iter().map(|service| service.backends.len()).sum();
        let counts = [(rules.ports.len(), "port"), (rules.services.len(), "service"), (backends, "backend")]
            .map(counted);
        let order = order(&rules);
        super::print(format_args!("{}: ok: {}\n{order}", self.config.display(), counts.join(", ")))
    }
}

/// A line for each pair of services of which one goes before the other.
fn order(rules: &Rules) -> String {
    let pairs = nested(rules);
    let mut lines: String = pairs.iter().take(NESTED_MAX).map(|pair| format!("  {pair}\n")).collect();
    if let Some(more) = pairs.len().checked_sub(NESTED_MAX).filter(|more| *more > 0) {
        lines += &format!("  and {more} more such pairs\n");
    }
    lines
}

fn counted((count, noun): (usize, &str)) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
