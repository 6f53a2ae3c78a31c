//! `crossdock check -c FILE`: every error in a rules file, without a device and without privileges.

use std::path::PathBuf;

use clap::Args;
use control::rules::Rules;

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
        super::print(format_args!("{}: ok: {}\n", self.config.display(), counts.join(", ")))
    }
}

fn counted((count, noun): (usize, &str)) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
