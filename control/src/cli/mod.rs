//! The command line: what can be typed, one file a command. No command does the work itself; the library
//! does.

use clap::{Parser, Subcommand};

mod check;
mod replay;
mod run;
mod status;

/// A layer-4 load balancer on DPDK
#[derive(Debug, Parser)]
#[command(name = "crossdock", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Replay(replay::Replay),
    Run(run::Run),
    Status(status::Status),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What stopped it, outermost first. Rules with errors come as [`control::rules::Diagnostics`] somewhere
    /// in the chain, for the caller to print in full.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check(check) => check.run(),
            Command::Replay(replay) => replay.run(),
            Command::Run(run) => run.run(),
            Command::Status(status) => status.run(),
        }
    }
}
