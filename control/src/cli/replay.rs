//! `crossdock replay -c RULES IN.pcap OUT.pcap`: the line on capture files.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use control::replay::{replay, unreachable_backends};
use control::rules::Rules;

/// Run captured packets through the rules: what would leave, what would be dropped and why
///
/// The same packet line as `run`, on plain memory: neither DPDK nor root is needed, and the time is the capture's.
/// Next hops are those of `[[neighbour]]` in the rules.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The rules
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The port that the packets enter by, instead of the first
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
    /// What comes in: pcap or pcapng, Ethernet
    #[arg(value_name = "IN.pcap")]
    input: PathBuf,
    /// What leaves: pcap with nanoseconds, the time of each packet that of its arrival
    #[arg(value_name = "OUT.pcap")]
    output: PathBuf,
}

impl Replay {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let rules = Rules::load(&self.config)?;
        for backend in unreachable_backends(&rules) {
            super::complain(format_args!(
                "crossdock: {backend} has no [[neighbour]]: its packets will be dropped\n"
            ));
        }
        let report = replay(&rules, &self.input, &self.output, self.port.as_deref())?;
        if self.json {
            let json = serde_json::to_string_pretty(&report).context("the counts")?;
            return super::print(format_args!("{json}\n"));
        }
        let received: u64 = report.ports.iter().map(|port| port.rx_packets).sum();
        let sent: u64 = report.ports.iter().map(|port| port.tx_packets).sum();
        super::print(format_args!(
            "{} -> {}: {received} packets in, {sent} out, {} to the kernel, {} dropped\n\n{report}",
            self.input.display(),
            self.output.display(),
            report.packets.punted,
            report.packets.dropped
        ))
    }
}
