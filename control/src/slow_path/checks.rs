//! Packets of health checks on their way over the slow path: what the kernel sends to check addresses leaves for the
//! backends, what backends answer goes to the kernel, past the policing of strangers' packets.
//!
//! How a packet is rewritten is `dataplane::checks`. Here is who calls it, and what is counted.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use dataplane::checks::Checks;
use dataplane::checks::carry::{CheckCarrier, ToBackend};
use dataplane::counters::Counter;
use dataplane::flow::HashSecret;
use dataplane::index::PortIndex;
use dataplane::time::Millis;
use dpdk::{BURST_MAX, Burst, Mbuf};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::device::Packet;
use crate::random;

/// Where control puts the checks, and the slow path takes them from: always the latest.
#[derive(Clone, Debug)]
pub struct CheckQueue(Arc<ArrayQueue<Arc<Checks>>>);

impl Default for CheckQueue {
    fn default() -> Self {
        Self(Arc::new(ArrayQueue::new(1)))
    }
}

impl CheckQueue {
    /// Control: puts them in force. Does not wait for it.
    pub fn publish(&self, checks: Arc<Checks>) {
        self.0.force_push(checks);
    }
}

/// Packets of checks.
#[derive(Debug, Default)]
pub struct CheckCounters {
    /// Kernel to backends: handed to the worker that sends.
    pub to_backends: Counter,
    /// Backends to kernel.
    pub from_backends: Counter,
    /// Kernel to backends: dropped. The check address is nobody's, the way to the backend is not known or too narrow, or
    /// the ring to the worker was full.
    pub refused: Counter,
}

/// [`CheckCounters`] as numbers: packets since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CheckSnapshot {
    /// See [`CheckCounters::to_backends`].
    pub to_backends: u64,
    /// See [`CheckCounters::from_backends`].
    pub from_backends: u64,
    /// See [`CheckCounters::refused`].
    pub refused: u64,
}

impl CheckCounters {
    /// The counts of a moment ago; `None` while there were none.
    pub fn snapshot(&self) -> Option<CheckSnapshot> {
        let snapshot = CheckSnapshot {
            to_backends: self.to_backends.value(),
            from_backends: self.from_backends.value(),
            refused: self.refused.value(),
        };
        (snapshot != CheckSnapshot::default()).then_some(snapshot)
    }
}

/// Packets to backends, and the ports they leave by.
pub(super) type ToBackends = ArrayVec<(PortIndex, Mbuf), BURST_MAX>;

/// What the slow path knows of checks.
#[derive(Debug)]
pub(super) struct Carrier {
    queue: CheckQueue,
    checks: Arc<Checks>,
    /// From the first checks on.
    carrier: Option<CheckCarrier>,
    started: Instant,
}

impl Carrier {
    /// One that knows nobody to be checked yet.
    pub(super) fn new(queue: CheckQueue, now: Instant) -> Self {
        Self { queue, checks: Arc::default(), carrier: None, started: now }
    }

    /// Takes up what control has published.
    pub(super) fn take_up(&mut self) {
        let Some(checks) = self.queue.0.pop() else { return };
        if self.carrier.is_none() && !checks.is_empty() {
            self.carrier = Some(CheckCarrier::new(HashSecret::new([random::word(), random::word()])));
        }
        self.checks = checks;
    }

    /// Takes those packets out of a burst of the kernel's that are to check addresses.
    pub(super) fn take_to_backends(
        &mut self,
        burst: &mut Burst,
        counters: &CheckCounters,
        now: Instant,
    ) -> ToBackends {
        let mut taken = ToBackends::new();
        let now = self.millis(now);
        let Some(carrier) = &mut self.carrier else { return taken };
        let mut others = Burst::new();
        for mbuf in burst.drain() {
            let mut packet = Packet(mbuf);
            match carrier.to_backend(&mut packet, &self.checks, now) {
                // As many as came fit either.
                ToBackend::Other => drop(others.push(packet.0)),
                ToBackend::By(port) => drop(taken.try_push((port, packet.0))),
                ToBackend::Refused => counters.refused.add(1),
            }
        }
        *burst = others;
        taken
    }

    /// Takes those packets out of a burst from the wire that are answers to checks, ready for the kernel.
    pub(super) fn take_from_backends(
        &mut self,
        burst: &mut Burst,
        counters: &CheckCounters,
        now: Instant,
    ) -> Burst {
        let mut answers = Burst::new();
        let now = self.millis(now);
        let Some(carrier) = &mut self.carrier else { return answers };
        let mut others = Burst::new();
        for mbuf in burst.drain() {
            let mut packet = Packet(mbuf);
            if carrier.from_backend(&mut packet, &self.checks, now) {
                counters.from_backends.add(1);
                drop(answers.push(packet.0));
            } else {
                drop(others.push(packet.0));
            }
        }
        *burst = others;
        answers
    }

    fn millis(&self, now: Instant) -> Millis {
        // 32 bits of milliseconds wrap by design; see `Millis`.
        Millis(now.duration_since(self.started).as_millis() as u32)
    }
}
