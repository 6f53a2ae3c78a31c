//! What the director looks at for whoever asks: devices, links, neighbours, how much has moved.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dataplane::counters::WorkerCounters;
use dataplane::index::PortIndex;
use dpdk::PortStats;
use tracing::warn;

use super::Director;
use crate::report::{DeviceLosses, NeighbourReport};

/// How often links and neighbours are looked at, for whoever asks how they stand.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Director {
    /// Asks the devices what they lost; a device that does not answer keeps what it said before.
    pub(super) fn look_at_devices(&self) {
        let mut inner = self.shared.lock();
        for (lost, port) in inner.lost.iter_mut().zip(&self.running.ports) {
            if let Ok(stats) = port.device.stats() {
                let PortStats { rx_missed, rx_errors, rx_no_mbuf, tx_errors, .. } = stats;
                *lost = DeviceLosses { rx_missed, rx_errors, rx_no_mbuf, tx_errors };
            }
        }
    }

    /// Notes how next hops stand.
    fn look_at_neighbours(&mut self) {
        let (rules, unresolved) = (self.rules(), self.kernel.unresolved());
        let ports = &self.running.ports;
        let by_hand: BTreeSet<_> = rules.neighbours.iter().map(|neighbour| neighbour.address).collect();
        let known = self.next_hops.iter().map(|(address, hop)| NeighbourReport {
            address: *address,
            port: ports.get(hop.port.as_usize()).map(|port| port.name.clone()),
            mac: Some(hop.mac.to_string()),
            is_on_link: hop.is_on_link,
            source: if by_hand.contains(address) { "rules" } else { "kernel" }.to_owned(),
            problem: None,
        });
        let missing = unresolved.into_iter().filter(|(address, _)| !self.next_hops.contains_key(address));
        let missing = missing.map(|(address, problem)| NeighbourReport {
            address,
            port: None,
            mac: None,
            is_on_link: false,
            source: "kernel".to_owned(),
            problem: Some(problem),
        });
        let mut all: Vec<_> = known.chain(missing).collect();
        all.sort_by_key(|neighbour| neighbour.address);
        self.shared.lock().neighbours = all;
    }

    /// Asks for the ports' links, and tells of those that went up or down.
    fn look_at_links(&self) {
        let mut inner = self.shared.lock();
        for (standing, port) in inner.standings.iter_mut().zip(&self.running.ports) {
            standing.look(port);
        }
    }

    /// Says what an operator can mend.
    pub(in crate::director) fn advise(&mut self) {
        self.look_at_devices();
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.looked_at = Instant::now();
            self.look_at_neighbours();
            self.look_at_links();
        }
        let workers: Vec<_> = self.running.workers.iter().map(|worker| worker.counters.as_ref()).collect();
        self.advice.look(&workers, Instant::now()).iter().for_each(|advice| warn!("{advice}"));
    }

    /// Packets received and sent by all ports.
    pub(in crate::director) fn packets_moved(&self) -> u64 {
        let of_port = |counters: &WorkerCounters, port: usize| {
            let port = counters.port(PortIndex(port as u16));
            port.rx.packets.value() + port.tx.packets.value()
        };
        let ports = 0..self.running.ports.len();
        let of_worker =
            |counters: &WorkerCounters| ports.clone().map(|port| of_port(counters, port)).sum::<u64>();
        self.running.workers.iter().map(|worker| of_worker(&worker.counters)).sum()
    }

    /// How often each worker's loop has turned.
    pub(in crate::director) fn turns(&self) -> Vec<u64> {
        self.running.workers.iter().map(|worker| worker.counters.turns.value()).collect()
    }

    /// One line about the rules.
    pub(in crate::director) fn describe(&self) -> String {
        let rules = self.rules();
        let backends: usize = rules.services.iter().map(|service| service.backends.len()).sum();
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}, {}, {}; status: crossdock status --socket {}",
            count(rules.services.len(), "service"),
            count(backends, "backend"),
            count(self.running.workers.len(), "worker"),
            rules.control.socket.display()
        )
    }
}
