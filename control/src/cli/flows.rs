//! `crossdock flows [FILTER]` and `crossdock flows delete FILTER`: the connections of a running Crossdock.

use std::io::{self, BufWriter, ErrorKind, Write};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use control::api::client::{self, Answer, Question};
use control::api::flows::{Counted, Deleted};
use control::api::{FLOWS_COUNT_PATH, FLOWS_PATH};
use control::flows::{Connection, HEADING, Query};
use hyper::Method;

use super::target::Where;

/// List the connections of a running Crossdock, as they are found, while traffic goes on
///
/// A connection that lives while the list is made is in it, once; twice if it was moved in the table meanwhile. The list is not
/// sorted. One that is made or ends meanwhile may be in it or not.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Flows {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    query: Query,
    #[command(flatten)]
    at: Where,
    /// Print the API's JSON, a line for each connection
    #[arg(long)]
    json: bool,
    /// Print only how many there are
    #[arg(long)]
    count: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Delete(Delete),
}

/// Forget connections: the next packet of each is that of an unknown one, so a SYN is scheduled anew
///
/// Nobody is told: the ends find out with their next packet, as the service's `no_flow` says.
#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    query: Query,
    /// Every connection there is; else say which
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    at: Where,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Flows {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match &self.command {
            Some(Command::Delete(delete)) => runtime.block_on(delete.run()),
            None if self.count => runtime.block_on(self.print_count()),
            None => runtime.block_on(self.print_list()),
        }
    }

    async fn print_count(&self) -> anyhow::Result<()> {
        let path = path(FLOWS_COUNT_PATH, &self.query);
        let body = client::ask(self.at.place()?, Question::new(Method::GET, path)).await?;
        if self.json {
            return super::print(format_args!("{}\n", String::from_utf8_lossy(&body)));
        }
        let Counted { count } = serde_json::from_slice(&body).context("the answer is not a count")?;
        super::print(format_args!("{count}\n"))
    }

    async fn print_list(&self) -> anyhow::Result<()> {
        let mut answer =
            Answer::begin(self.at.place()?, Question::new(Method::GET, path(FLOWS_PATH, &self.query)))
                .await?;
        let mut table = Table { json: self.json, rest: Vec::new(), out: BufWriter::new(io::stdout().lock()) };
        if !written(table.begin())? {
            return Ok(());
        }
        while let Some(piece) = answer.next_piece().await? {
            if !written(table.add(&piece))? {
                return Ok(());
            }
        }
        if !table.rest.is_empty() {
            bail!("the answer ends in the middle of a line");
        }
        Ok(())
    }
}

impl Delete {
    async fn run(&self) -> anyhow::Result<()> {
        let mut query = self.query.clone();
        match (query.is_empty(), self.all) {
            (true, false) => bail!("say which connections to delete (see --help), or --all"),
            (false, true) => bail!("--all means every connection; leave it out, or the other conditions"),
            // What every connection is.
            (true, true) => query.idle = Some("0s".parse().map_err(anyhow::Error::msg)?),
            (false, false) => {}
        }
        let body =
            client::ask(self.at.place()?, Question::new(Method::DELETE, path(FLOWS_PATH, &query))).await?;
        if self.json {
            return super::print(format_args!("{}\n", String::from_utf8_lossy(&body)));
        }
        let Deleted { deleted } = serde_json::from_slice(&body).context("the answer is not a count")?;
        super::print(format_args!("{deleted} connection{} deleted\n", if deleted == 1 { "" } else { "s" }))
    }
}

fn path(path: &str, query: &Query) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.to_query_string()) }
}

/// Whether somebody reads on; a reader that has had enough (`| head`) is no error.
fn written(result: io::Result<()>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("the list"),
    }
}

/// Lines of JSON in, rows of a table out, or the lines themselves.
struct Table<W: Write> {
    json: bool,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    out: W,
}

impl<W: Write> Table<W> {
    fn begin(&mut self) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.out.write_all(HEADING.as_bytes())?;
        self.out.flush()
    }

    /// Writes what is whole of `piece` and what was left of the one before.
    fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if self.json {
            self.out.write_all(&self.rest[..whole])?;
        } else {
            for line in self.rest[..whole].split_inclusive(|byte| *byte == b'\n') {
                let connection: Connection<'_> = serde_json::from_slice(line)?;
                writeln!(self.out, "{connection}")?;
            }
        }
        self.rest.drain(..whole);
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut() {
        let line = "{\"worker\":1,\"protocol\":\"udp\",\"state\":\"udp\",\"client\":\"198.51.100.7:40000\",\
                    \"vip\":\"192.0.2.100:53\",\"local\":null,\"backend\":null,\"service\":null,\
                    \"mode\":\"dr\",\"idle_ms\":0,\"expires_ms\":61000}\n";
        let text = line.repeat(3);
        for json in [true, false] {
            for cut in [1, 7, line.len(), line.len() + 1, text.len()] {
                let mut table = Table { json, rest: Vec::new(), out: Vec::new() };
                table.begin().unwrap();
                text.as_bytes().chunks(cut).for_each(|piece| table.add(piece).unwrap());
                let out = String::from_utf8(table.out).unwrap();
                let row = "UDP 01:01  UDP         198.51.100.7:40000    192.0.2.100:53        -                          1 -\n";
                assert_eq!(out, if json { text.clone() } else { format!("{HEADING}{}", row.repeat(3)) });
            }
        }
    }
}
