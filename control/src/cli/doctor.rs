//! `crossdock doctor`: what this machine lacks, and the command that mends it.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use control::api::{self, SOCKET_DEFAULT, client};
use control::doctor::{self, Finding, Verdict};
use control::machine::Machine;
use control::report::Report;
use control::rules::Rules;
use serde::Serialize;

/// Say what this machine lacks, and the command that mends it
///
/// With rules, for those; and with what a running Crossdock has counted, if one answers. Exit code 1 when something keeps it
/// from running, or makes it lose packets.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The rules to be run
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run the commands that are safe, and say which
    #[arg(long)]
    fix: bool,
    /// The socket of the Crossdock to ask [default: that of the rules]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    /// What `--fix` ran.
    ran: &'a [doctor::fix::Ran],
    /// The worst first.
    findings: &'a [Finding],
}

impl Doctor {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let rules = self.config.as_deref().map(Rules::load).transpose()?;
        let machine = Machine::this();
        let of_rules = rules.as_ref().map_or(Path::new(SOCKET_DEFAULT), |rules| &rules.control.socket);
        let running = running(self.socket.as_deref().unwrap_or(of_rules))?;
        let examine = || doctor::examine(&machine, rules.as_ref(), running.as_ref());
        let mut findings = examine();
        let mut ran = Vec::new();
        if self.fix {
            ran = doctor::fix::fix(&machine, &findings);
            findings = examine();
        }
        if self.json {
            let answer = Answer { ran: &ran, findings: &findings };
            super::print(format_args!("{}\n", serde_json::to_string(&answer)?))?;
        } else {
            for doctor::fix::Ran { command, failed } in &ran {
                match failed {
                    None => super::print(format_args!("ran     {command}\n"))?,
                    Some(why) => super::print(format_args!("ran     {command}\n        failed: {why}\n"))?,
                }
            }
            findings.iter().try_for_each(super::print)?;
        }
        match findings.iter().filter(|finding| finding.verdict == Verdict::Fault).count() {
            0 => Ok(()),
            1 => bail!("doctor: one fault; see above what mends it"),
            count => bail!("doctor: {count} faults; see above what mends them"),
        }
    }
}

/// What a running Crossdock has counted; nothing where none answers.
fn running(socket: &Path) -> anyhow::Result<Option<Report>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Ok(body) = runtime.block_on(client::get(socket, api::STATUS_PATH)) else { return Ok(None) };
    Ok(serde_json::from_slice(&body).ok())
}
