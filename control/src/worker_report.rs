//! What each worker counted, and what ports with RSS did: the part of the report that only several workers have.

use std::fmt;

use dataplane::counters::WorkerCounters;
use dataplane::index::{BackendIndex, PORTS_MAX, PortIndex};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One worker. What came in is what went out:
/// `rx_packets + steered_in + from_slow_path = tx_packets + steered + punted + dropped + waiting`, where every worker has a transmit
/// queue on every port; else the first sends, and counts, for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerReport {
    /// Packets received from ports.
    pub rx_packets: u64,
    /// Packets taken from other workers.
    pub steered_in: u64,
    /// Packets of the kernel twins taken for sending.
    pub from_slow_path: u64,
    /// Packets that ports accepted for sending.
    pub tx_packets: u64,
    /// Packets handed to other workers, which own them.
    pub steered: u64,
    /// Packets handed to the slow path.
    pub punted: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// Fragments that wait for the first of their datagram.
    #[serde(default)]
    pub waiting: u64,
    /// Connections made.
    pub opened: u64,
    /// Table entries in use.
    pub entries: u64,
}

impl WorkerReport {
    /// Of one worker, which knows so many slots of backends.
    pub fn read(counters: &WorkerCounters, backend_slots: usize) -> Self {
        let ports = || (0..PORTS_MAX).map(|port| counters.port(PortIndex(port as u16)));
        let backends = (0..backend_slots).map(|backend| counters.backend(BackendIndex(backend as u32)));
        Self {
            rx_packets: ports().map(|port| port.rx.packets.value()).sum(),
            steered_in: counters.steered_in.value(),
            from_slow_path: counters.from_slow_path.value(),
            tx_packets: ports().map(|port| port.tx.packets.value()).sum(),
            steered: counters.steered.value(),
            punted: counters.punted.value(),
            dropped: counters.dropped_total(),
            waiting: counters.fragments_waiting.value(),
            opened: backends.map(|backend| backend.opened.value()).sum(),
            entries: counters.table_used.value(),
        }
    }
}

/// A line a worker, for people.
pub fn write_workers(workers: &[WorkerReport], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "\n{:<8}{:>14}{:>14}{:>14}{:>14}{:>12}{:>12}{:>13}",
        "WORKER", "RX PACKETS", "TX PACKETS", "STEERED IN", "STEERED OUT", "PUNTED", "DROPPED", "CONNECTIONS"
    )?;
    for (index, worker) in workers.iter().enumerate() {
        let WorkerReport { rx_packets, tx_packets, steered_in, steered, punted, dropped, opened, .. } =
            worker;
        writeln!(
            f,
            "{index:<8}{rx_packets:>14}{tx_packets:>14}{steered_in:>14}{steered:>14}{punted:>12}{dropped:>12}\
             {opened:>13}"
        )?;
    }
    Ok(())
}

/// What a port with RSS did with the packets looked at: the first of each burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RssReport {
    /// Came to the worker that owns them, with the hash computed here, if they carried any.
    pub as_set: u64,
    /// Came to another worker, or with another hash.
    pub otherwise: u64,
}

impl RssReport {
    /// Of one port, summed over the workers.
    pub fn read(port: PortIndex, workers: &[&WorkerCounters]) -> Self {
        let mut report = Self::default();
        for worker in workers {
            report.as_set += worker.port(port).rss_as_set.value();
            report.otherwise += worker.port(port).rss_otherwise.value();
        }
        report
    }
}

impl fmt::Display for RssReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { as_set: 0, otherwise: 0 } => f.write_str("RSS: set up, no packet seen yet"),
            Self { as_set, otherwise: 0 } => write!(f, "RSS: verified on {as_set} packets"),
            Self { as_set, otherwise } => {
                write!(
                    f,
                    "RSS: {otherwise} of {} packets came to another worker than they were set to",
                    as_set + otherwise
                )
            }
        }
    }
}
