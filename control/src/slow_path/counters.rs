//! What passed each kernel twin, and what did not and why. Written by the slow-path thread alone, read by anybody.

use dataplane::counters::Counter;
use dataplane::index::{PORTS_MAX, PortIndex};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::checks::CheckCounters;
use super::classify::Class;

/// Packets of one class at one twin. Each packet that comes out of a ring or a twin is counted exactly once.
#[derive(Debug, Default)]
pub struct ClassCounters {
    /// Wire to kernel: written to the twin.
    pub to_kernel: Counter,
    /// Kernel to wire: handed to the worker that sends.
    pub from_kernel: Counter,
    /// Wire to kernel: dropped, beyond the rate of the class.
    pub policed: Counter,
    /// Wire to kernel: dropped, the twin refused it (longer than its MTU, or the interface is down).
    pub twin_refused: Counter,
    /// Kernel to wire: dropped, the ring to the worker was full.
    pub worker_ring_full: Counter,
}

/// The counters of one twin.
#[derive(Debug, Default)]
pub struct TwinCounters([ClassCounters; Class::ALL.len()]);

impl TwinCounters {
    /// The counters of a class.
    pub fn of(&self, class: Class) -> &ClassCounters {
        &self.0[class as usize]
    }
}

/// The counters of the slow path: a row for every port there can be.
#[derive(Debug, Default)]
pub struct SlowPathCounters {
    twins: [TwinCounters; PORTS_MAX],
    /// Packets of health checks.
    pub checks: CheckCounters,
}

impl SlowPathCounters {
    /// The counters of the twin of `port`; indices beyond the table share its first row, as
    /// [`dataplane::counters::WorkerCounters::port`] does.
    pub fn twin(&self, port: PortIndex) -> &TwinCounters {
        self.twins.get(port.as_usize()).unwrap_or(&self.twins[0])
    }

    /// The twin's counts of a moment ago.
    pub fn snapshot(&self, port: PortIndex) -> TwinSnapshot {
        let [arp, routing, local, rest] =
            Class::ALL.map(|class| ClassSnapshot::from(self.twin(port).of(class)));
        TwinSnapshot { arp, routing, local, rest }
    }
}

/// [`TwinCounters`] as numbers: packets since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct TwinSnapshot {
    /// ARP and neighbour discovery.
    pub arp: ClassSnapshot,
    /// BGP, OSPF, VRRP, BFD.
    pub routing: ClassSnapshot,
    /// Other unicast IP.
    pub local: ClassSnapshot,
    /// Everything else.
    pub rest: ClassSnapshot,
}

impl TwinSnapshot {
    /// All classes together.
    pub fn total(&self) -> ClassSnapshot {
        [self.arp, self.routing, self.local, self.rest].into_iter().fold(
            ClassSnapshot::default(),
            |sum, class| ClassSnapshot {
                to_kernel: sum.to_kernel + class.to_kernel,
                from_kernel: sum.from_kernel + class.from_kernel,
                policed: sum.policed + class.policed,
                twin_refused: sum.twin_refused + class.twin_refused,
                worker_ring_full: sum.worker_ring_full + class.worker_ring_full,
            },
        )
    }
}

/// [`ClassCounters`] as numbers: packets since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ClassSnapshot {
    /// See [`ClassCounters::to_kernel`].
    pub to_kernel: u64,
    /// See [`ClassCounters::from_kernel`].
    pub from_kernel: u64,
    /// See [`ClassCounters::policed`].
    pub policed: u64,
    /// See [`ClassCounters::twin_refused`].
    pub twin_refused: u64,
    /// See [`ClassCounters::worker_ring_full`].
    pub worker_ring_full: u64,
}

impl From<&ClassCounters> for ClassSnapshot {
    fn from(counters: &ClassCounters) -> Self {
        Self {
            to_kernel: counters.to_kernel.value(),
            from_kernel: counters.from_kernel.value(),
            policed: counters.policed.value(),
            twin_refused: counters.twin_refused.value(),
            worker_ring_full: counters.worker_ring_full.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_twins_classes_and_causes_apart() {
        let counters = SlowPathCounters::default();
        for (amount, class) in (1..).zip(Class::ALL) {
            counters.twin(PortIndex(3)).of(class).to_kernel.add(amount);
            counters.twin(PortIndex(3)).of(class).policed.add(10 * amount);
        }
        counters.twin(PortIndex(3)).of(Class::Rest).worker_ring_full.add(1_000);
        let snapshot = counters.snapshot(PortIndex(3));
        assert_eq!(snapshot.local, ClassSnapshot { to_kernel: 3, policed: 30, ..ClassSnapshot::default() });
        assert_eq!(snapshot.rest.worker_ring_full, 1_000);
        let total = snapshot.total();
        assert_eq!((total.to_kernel, total.policed, total.worker_ring_full), (10, 100, 1_000));
        assert_eq!(counters.snapshot(PortIndex(2)), TwinSnapshot::default());
    }
}
