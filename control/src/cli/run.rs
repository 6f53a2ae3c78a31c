//! `crossdock run`: the load balancer, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use control::director::{self, Options};
use control::log;

/// Run the load balancer in the foreground
///
/// SIGHUP reads the rules again, all or nothing; SIGTERM and SIGINT stop it with a summary.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The rules
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Stop after this time (5s, 2m)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Stop when no packet has moved for this long (500ms): for captures, which end
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    until_idle: Option<Duration>,
    /// Put the rules file in force whenever it changes, not only at SIGHUP
    #[arg(long)]
    watch: bool,
    /// How the summary at the end is printed; json is one line, the last of stdout
    #[arg(long, value_enum, default_value_t = Summary::Text)]
    summary: Summary,
    /// How the log on stderr is written; json is an object a line
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Summary {
    Text,
    Json,
}

impl Run {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self { config, duration, until_idle, watch, summary, log_format } = self;
        log::start(match log_format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        });
        let report = director::run(&Options { rules: config, duration, until_idle, watch })?;
        match summary {
            Summary::Text => super::print(report),
            Summary::Json => {
                super::print(format_args!("{}\n", serde_json::to_string(&report).context("the summary")?))
            }
        }
    }
}
