//! `crossdock status`: what a running Crossdock has counted.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use control::api;
use control::api::client::Question;
use control::report::Report;
use hyper::Method;

use super::target::Target;

/// Show what a running Crossdock has counted
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    target: Target,
    /// Show it again every second, or as often as is said, until Ctrl-C
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s",
        value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
}

impl Status {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        super::watch(self.watch, || {
            let body = self.target.ask(Question::new(Method::GET, api::STATUS_PATH))?;
            if self.target.json {
                return Ok(format!("{}\n", String::from_utf8_lossy(&body)));
            }
            let report: Report =
                serde_json::from_slice(&body).context("the answer is not a status; is the server older?")?;
            Ok(report.to_string())
        })
    }
}
