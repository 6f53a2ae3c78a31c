//! `crossdock apply FILE`: puts a rules file in force in a running Crossdock, all of it or nothing.

use std::path::PathBuf;

use clap::Args;
use control::api::RULES_PATH;
use control::api::changes::TOML;
use control::api::client::Question;
use control::rules::Rules;
use hyper::Method;

use super::change::Meant;

/// Put a rules file in force in a running Crossdock, all or nothing
///
/// Services that are the same keep their connections, counters and health. Files that the rules name are looked for beside the
/// file that Crossdock was started with.
#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// The rules file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    meant: Meant,
}

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Errors are shown with the places in the file that the user has.
        let (_, text) = Rules::read(&self.file)?;
        let body = Some((TOML, text.into()));
        self.meant.ask(Question { body, ..Question::new(Method::PUT, RULES_PATH) })
    }
}
