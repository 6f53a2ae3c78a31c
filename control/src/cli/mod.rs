//! The command line: what can be typed, one file a command. No command does the work itself; the library
//! does.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use clap::{Parser, Subcommand};

mod check;
mod doctor;
mod explain;
mod flows;
mod import;
mod nic;
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
    Doctor(doctor::Doctor),
    Explain(explain::Explain),
    Flows(flows::Flows),
    Import(import::Import),
    Nic(nic::Nic),
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
            Command::Doctor(doctor) => doctor.run(),
            Command::Explain(explain) => explain.run(),
            Command::Flows(flows) => flows.run(),
            Command::Import(import) => import.run(),
            Command::Nic(nic) => nic.run(),
            Command::Replay(replay) => replay.run(),
            Command::Run(run) => run.run(),
            Command::Status(status) => status.run(),
        }
    }
}

/// Writes to stdout, without colours where it is no terminal. A reader that has had enough (`| head`) is no error.
fn print(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to stdout"),
    }
}

/// Writes to stderr as far as anybody listens; unlike `eprint!` it never panics.
pub(crate) fn complain(text: impl Display) {
    let _: io::Result<()> = write!(anstream::stderr(), "{text}");
}
