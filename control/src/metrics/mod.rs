//! What is counted, for Prometheus: `/metrics`, in OpenMetrics 1.0 or, for whoever does not ask for that, in Prometheus's older text.
//!
//! A scrape takes a [`Snapshot`] and writes it; between scrapes nothing is kept. Labels are names from the rules (services, backends,
//! ports) and words of ours (reasons, classes), never a client's address, and of backends only so many ([`BACKENDS_TOLD_MAX`])
//! have series of their own. docs/metrics.md lists every name; a test holds it to the code. Read first: the OpenMetrics
//! specification, and Prometheus's "Metric and label naming".

mod collector;
mod server;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::report::Report;
use crate::worker_report::WorkerReport;

pub use collector::BACKENDS_TOLD_MAX;
pub use server::{Endpoint, METRICS_PATH, metrics};

/// The content type of OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// That of Prometheus's older text.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How things stand at a scrape.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What `crossdock status` shows.
    pub report: Report,
    /// By worker.
    pub workers: Vec<WorkerSample>,
    /// What became of reloads.
    pub reloads: Reloads,
}

/// One worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerSample {
    /// Its core.
    pub core: usize,
    /// What it counted.
    pub report: WorkerReport,
    /// Turns of its loop.
    pub turns: u64,
    /// Seconds in turns that found something to do.
    pub busy_seconds: f64,
    /// The longest of those.
    pub longest_turn_seconds: f64,
    /// Entries its flow table has room for.
    pub table_capacity: u32,
}

/// Reloads since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// In force, or the same as before.
    pub applied: u64,
    /// Refused; the rules before stayed.
    pub refused: u64,
}

/// The snapshot in OpenMetrics.
pub fn openmetrics(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("crossdock");
    registry.register_collector(Box::new(collector::Told(snapshot)));
    let mut text = String::new();
    // Writing to a String does not fail, and the collector does not either.
    let _ = encode(&mut text, &registry);
    text
}

/// OpenMetrics in Prometheus's older text: there a counter's `_total` belongs to its name, and units and the end have no lines.
pub fn text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        let rest = match line.strip_prefix("# ") {
            None => {
                text += line;
                text.push('\n');
                continue;
            }
            Some(rest) => rest,
        };
        let Some(("HELP", help)) = rest.split_once(' ') else { continue };
        let (name, help) = help.split_once(' ').unwrap_or((help, ""));
        let kind = lines.peek().and_then(|line| line.rsplit(' ').next()).unwrap_or("untyped");
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            other => ("", other),
        };
        text += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
    }
    text
}

#[cfg(test)]
mod tests;
