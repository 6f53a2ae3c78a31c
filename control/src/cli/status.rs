//! `crossdock status`: what a running Crossdock has counted.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use control::api::{self, SOCKET_DEFAULT, client};
use control::report::Report;

/// Show what a running Crossdock has counted
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The socket of the Crossdock to ask
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    socket: PathBuf,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = runtime.block_on(client::get(&self.socket, api::STATUS_PATH))?;
        if self.json {
            return super::print(format_args!("{}\n", String::from_utf8_lossy(&body)));
        }
        let report: Report =
            serde_json::from_slice(&body).context("the answer is not a status; is the server older?")?;
        super::print(report)
    }
}
