//! `crossdock rules`, `crossdock revisions` and `crossdock rollback`: what is in force, what was, and the way back.

use anyhow::Context;
use clap::Args;
use control::api::client::Question;
use control::api::{REVISIONS_PATH, ROLLBACK_PATH, RULES_PATH};
use control::changes::Revision;
use hyper::Method;

use super::change::Meant;
use super::target::{Target, Where};

/// Print the rules in force, as a rules file
///
/// With comments as they were typed, and every change since. What is printed can be kept: `crossdock rules > rules.toml`.
#[derive(Args, Debug)]
pub(crate) struct PrintRules {
    /// Those of this revision, as `crossdock revisions` numbers them
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    at: Where,
}

impl PrintRules {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = match self.revision {
            Some(revision) => format!("{REVISIONS_PATH}/{revision}"),
            None => RULES_PATH.to_owned(),
        };
        let body = self.at.ask(Question::new(Method::GET, path))?;
        super::print(String::from_utf8_lossy(&body))
    }
}

/// List the revisions of the rules: when, by whom, and what changed
#[derive(Args, Debug)]
pub(crate) struct Revisions {
    #[command(flatten)]
    target: Target,
}

impl Revisions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let body = self.target.ask(Question::new(Method::GET, REVISIONS_PATH))?;
        if self.target.json {
            return super::print(format_args!("{}\n", String::from_utf8_lossy(&body)));
        }
        let revisions: Vec<Revision> =
            serde_json::from_slice(&body).context("the answer is no list of revisions")?;
        super::print(revisions.iter().map(told).collect::<String>())
    }
}

fn told(revision: &Revision) -> String {
    let Revision { revision, at, by, changes } = revision;
    let when = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(*at));
    let changes: String = changes.iter().map(|line| format!("     {line}\n")).collect();
    format!("{revision:>4} {when} by {by}\n{changes}")
}

/// Go back to the rules of an earlier revision: the one before, without --to
///
/// It becomes a new revision, so a rollback can be rolled back.
#[derive(Args, Debug)]
pub(crate) struct Rollback {
    /// The revision whose rules shall be in force again
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    meant: Meant,
}

impl Rollback {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let query = self.to.map(|to| format!("?to={to}")).unwrap_or_default();
        self.meant.ask(Question::new(Method::POST, format!("{ROLLBACK_PATH}{query}")))
    }
}
