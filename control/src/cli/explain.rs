//! `crossdock explain tcp SRC:PORT DST:PORT`: what would happen to a packet, step by step, and why.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use control::api::EXPLAIN_PATH;
use control::api::client::Question as Asked;
use control::capture::CaptureReader;
use control::explain::{Explanation, Question, World, digits_of, explain, flow_of_frame};
use control::rules::Rules;
use hyper::Method;

use super::target::Where;

/// Explain what would happen to a packet: each step of its way, and why
///
/// The packet walks the line of the running Crossdock as a new connection would, or with -c that of a rules file; nothing is
/// sent and nothing is counted. With -c neither root nor a device is needed.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// tcp, udp, sctp, or icmp for a ping, whose identifier is the port of SRC
    #[arg(value_name = "PROTOCOL", required_unless_present = "from_pcap", requires = "to")]
    protocol: Option<String>,
    /// Where the packet comes from: 198.51.100.7:40000, `[2001:db8::7]:40000`
    #[arg(value_name = "SRC:PORT")]
    from: Option<SocketAddr>,
    /// Where it goes
    #[arg(value_name = "DST:PORT")]
    to: Option<SocketAddr>,
    /// TCP: the flags that are set
    #[arg(long, value_name = "FLAG,...", value_delimiter = ',', conflicts_with = "from_pcap")]
    flags: Vec<String>,
    /// Take the packet from a capture (pcap or pcapng, Ethernet): the first of the flow, or of all
    #[arg(long, value_name = "FILE")]
    from_pcap: Option<PathBuf>,
    /// The port that it comes in by, instead of the first
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Rules to explain instead of those of a running Crossdock
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["socket", "url"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    at: Where,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let question = self.question()?;
        let explanation = match &self.config {
            Some(rules) => explain(&World::offline(Rules::load(rules)?)?, &question)?,
            None => ask(&self.at, &question)?,
        };
        if self.json {
            let json = serde_json::to_string_pretty(&explanation).context("the explanation")?;
            return super::print(format_args!("{json}\n"));
        }
        super::print(explanation)
    }

    fn question(&self) -> anyhow::Result<Question> {
        let port = self.port.clone();
        match &self.from_pcap {
            Some(capture) => {
                let frame = self.frame_of(capture)?;
                Ok(Question { frame: Some(digits_of(&frame)), port, ..Question::default() })
            }
            None => Ok(Question {
                protocol: self.protocol.clone(),
                from: self.from,
                to: self.to,
                flags: self.flags.clone(),
                frame: None,
                port,
            }),
        }
    }

    /// The first frame of the flow that was named, or of all.
    fn frame_of(&self, capture: &Path) -> anyhow::Result<Vec<u8>> {
        let name = capture.display();
        let mut reader = CaptureReader::open(capture).with_context(|| name.to_string())?;
        while let Some(packet) = reader.next_packet().with_context(|| name.to_string())? {
            let is_wanted = |(protocol, from, to): (&str, SocketAddr, SocketAddr)| {
                self.protocol.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(protocol))
                    && self.from.is_none_or(|wanted| wanted == from)
                    && self.to.is_none_or(|wanted| wanted == to)
            };
            if self.protocol.is_none() || flow_of_frame(&packet.frame).is_some_and(is_wanted) {
                return Ok(packet.frame.to_vec());
            }
        }
        match &self.protocol {
            Some(_) => bail!("{name}: no packet of that flow; left out, SRC and DST are the first packet's"),
            None => bail!("{name}: no packet"),
        }
    }
}

fn ask(at: &Where, question: &Question) -> anyhow::Result<Explanation> {
    let body = serde_json::to_vec(question).context("the question")?;
    let asked =
        Asked { body: Some(("application/json", body.into())), ..Asked::new(Method::POST, EXPLAIN_PATH) };
    let answer = at.ask(asked)?;
    serde_json::from_slice(&answer).context("the answer is not an explanation")
}
