//! The command line: what can be typed, one file a command. No command does the work itself; the library
//! does.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

mod apply;
mod backend;
mod change;
mod check;
mod doctor;
mod explain;
mod flows;
mod generate;
mod import;
mod list;
mod nic;
mod replay;
mod rules;
mod run;
mod service;
mod status;
mod target;

/// A layer-4 load balancer on DPDK
#[derive(Debug, Parser)]
#[command(name = "crossdock", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Command {
    Apply(apply::Apply),
    Backend(backend::Backend),
    Backends(list::Backends),
    Check(check::Check),
    Completions(generate::Completions),
    Doctor(doctor::Doctor),
    Explain(explain::Explain),
    Flows(flows::Flows),
    Import(import::Import),
    Man(generate::Man),
    Neighbours(list::Neighbours),
    Nic(nic::Nic),
    Ports(list::Ports),
    Replay(replay::Replay),
    Revisions(rules::Revisions),
    Rollback(rules::Rollback),
    Rules(rules::PrintRules),
    Run(run::Run),
    Service(service::Service),
    Services(list::Services),
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
            Command::Apply(command) => command.run(),
            Command::Backend(command) => command.run(),
            Command::Backends(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Flows(command) => command.run(),
            Command::Import(command) => command.run(),
            Command::Man(command) => command.run(),
            Command::Neighbours(command) => command.run(),
            Command::Nic(command) => command.run(),
            Command::Ports(command) => command.run(),
            Command::Replay(command) => command.run(),
            Command::Revisions(command) => command.run(),
            Command::Rollback(command) => command.run(),
            Command::Rules(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Service(command) => command.run(),
            Command::Services(command) => command.run(),
            Command::Status(command) => command.run(),
        }
    }
}

/// Shows a text once, or again and again.
fn watch(every: Option<Duration>, text: impl Fn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let Some(every) = every else { return print(text()?) };
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    loop {
        print(format_args!("{clear}{}", text()?))?;
        sleep(every);
    }
}

/// A part of a path, with whatever could be taken for something else written as %XX (RFC 3986 section 2.1).
fn encoded(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    part.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
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
