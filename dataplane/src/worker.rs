//! The worker: a poll loop around the line. Receives, walks, sends; takes up new rules between bursts; lets
//! the hand sweep. One thread, one core, nothing shared but queues and counters it alone writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::device::Device;
use crate::flow::expiry::{Expired, Hand};
use crate::index::{PortIndex, ServiceIndex};
use crate::line::{Line, LineState, Origin};
use crate::rules::{Ruleset, ServiceState};
use crate::stage::transmit::{self, Outboxes};
use crate::time::{Clock, Millis};

/// Publications on their way at once, either way.
const PUBLICATIONS_MAX: usize = 4;
/// Turns without a packet after which a worker that may sleep does.
const IDLE_TURNS_BEFORE_SLEEP: u32 = 256;
/// How long it sleeps then, in microseconds: latency it adds to the first packet after a pause.
const SLEEP_US: u64 = 50;

/// What a worker does with a turn that found no packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the core is its own.
    #[default]
    Poll,
    /// Lets other threads of its core run.
    Yield,
    /// Sleeps for some microseconds after a pause in the traffic.
    Sleep,
}

/// A ruleset and the states of the services that are new in it, allocated by control. The worker swaps them
/// with what it has and sends all of it back, so that control frees it.
#[derive(Debug)]
pub struct Publication {
    /// The rules to follow from the next burst on.
    pub ruleset: Arc<Ruleset>,
    /// Fresh states to put in place; what was there comes back in exchange.
    pub states: Vec<(ServiceIndex, Option<Box<ServiceState>>)>,
}

/// The two ends between control and one worker: rules go there, old ones come back.
#[derive(Clone, Debug)]
pub struct RulesQueue {
    published: Arc<ArrayQueue<Publication>>,
    retired: Arc<ArrayQueue<Publication>>,
}

impl Default for RulesQueue {
    fn default() -> Self {
        // Room for every publication that can be under way, so that a worker never has to wait or free.
        let queue = |capacity| Arc::new(ArrayQueue::new(capacity));
        Self { published: queue(PUBLICATIONS_MAX), retired: queue(PUBLICATIONS_MAX + 1) }
    }
}

impl RulesQueue {
    /// Control: hands rules to the worker; gives them back when too many are under way.
    ///
    /// # Errors
    /// The publication itself, to be tried again.
    pub fn publish(&self, publication: Publication) -> Result<(), Publication> {
        while self.retired.pop().is_some() {}
        self.published.push(publication)
    }

    /// Control: frees what the worker no longer uses.
    pub fn free_retired(&self) {
        while self.retired.pop().is_some() {}
    }
}

/// A worker and everything it owns.
pub struct Worker<D: Device, C: Clock> {
    line: Line,
    device: D,
    clock: C,
    burst: Burst<D::Packet>,
    outboxes: Outboxes<D::Packet>,
    hand: Hand,
    queue: RulesQueue,
}

impl<D: Device, C: Clock> Worker<D, C> {
    /// A worker that knows no rules yet; everything it will ever need is allocated.
    pub fn new(
        device: D,
        clock: C,
        worker: crate::index::WorkerIndex,
        state: LineState,
        counters: Arc<WorkerCounters>,
        queue: RulesQueue,
    ) -> Self {
        let line = Line { rules: Arc::default(), state, counters, worker };
        let (burst, outboxes, hand) = (Burst::default(), Outboxes::default(), Hand::default());
        Self { line, device, clock, burst, outboxes, hand, queue }
    }

    /// The devices, for tests and replay.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The line, for tests.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Turns until `stop` is set.
    pub fn run(&mut self, stop: &AtomicBool, idle: Idle) {
        let mut idle_turns = 0u32;
        while !stop.load(Ordering::Relaxed) {
            if self.turn() {
                idle_turns = 0;
                continue;
            }
            idle_turns = idle_turns.saturating_add(1);
            match idle {
                Idle::Poll => std::hint::spin_loop(),
                Idle::Yield => std::thread::yield_now(),
                Idle::Sleep if idle_turns > IDLE_TURNS_BEFORE_SLEEP => {
                    std::thread::sleep(std::time::Duration::from_micros(SLEEP_US));
                }
                Idle::Sleep => std::hint::spin_loop(),
            }
        }
    }

    /// One turn: a burst of every port, a burst of the neighbours, some housekeeping. Whether there was any
    /// packet.
    pub fn turn(&mut self) -> bool {
        self.take_up_rules();
        if self.line.rules.revision == 0 {
            // Without rules every packet would be dropped: until there are some they wait in their queues.
            return false;
        }
        let now = self.clock.now();
        let mut busy = false;
        for port in (0..self.device.port_count()).map(|port| PortIndex(port as u16)) {
            busy |= self.poll_port(port, now);
            busy |= self.send_for_others(port);
        }
        if self.line.rules.worker_count > 1 {
            // A burst for each other worker: with fewer, what they steer here would pile up and be lost.
            for _ in 1..self.line.rules.worker_count {
                if !self.poll_steered(now) {
                    break;
                }
                busy = true;
            }
        }
        self.sweep(now);
        let counters = &self.line.counters;
        counters.turns.add(1);
        counters.idle_turns.add(u64::from(!busy));
        busy
    }

    fn poll_port(&mut self, port: PortIndex, now: Millis) -> bool {
        self.device.receive(port, &mut self.burst.packets);
        if self.burst.packets.is_empty() {
            return false;
        }
        let rx = &self.line.counters.port(port).rx;
        rx.packets.add(self.burst.packets.len() as u64);
        let station = self.line.rules.port(port).station;
        self.line.walk(&mut self.burst, Origin::Port(station), now);
        self.line.counters.port(port).rx.bytes.add(self.burst.bytes);
        transmit::run(&mut self.burst, &mut self.outboxes, &mut self.device, &self.line.counters);
        true
    }

    fn poll_steered(&mut self, now: Millis) -> bool {
        self.device.receive_steered(&mut self.burst.packets);
        if self.burst.packets.is_empty() {
            return false;
        }
        self.line.counters.steered_in.add(self.burst.packets.len() as u64);
        self.line.walk(&mut self.burst, Origin::Steered, now);
        transmit::run(&mut self.burst, &mut self.outboxes, &mut self.device, &self.line.counters);
        true
    }

    /// Sends what the kernel twin and workers without a queue have for `port`: the queue is this worker's.
    fn send_for_others(&mut self, port: PortIndex) -> bool {
        let Self { device, burst, line, .. } = self;
        let packets = &mut burst.packets;
        device.receive_from_twin(port, packets);
        let from_twin = packets.len();
        if from_twin > 0 {
            line.counters.from_slow_path.add(from_twin as u64);
            transmit::send(port, packets, transmit::bytes_of(packets), device, &line.counters);
        }
        device.receive_handed_over(port, packets);
        let handed_over = packets.len();
        if handed_over > 0 {
            transmit::send(port, packets, transmit::bytes_of(packets), device, &line.counters);
        }
        from_twin + handed_over > 0
    }

    fn take_up_rules(&mut self) {
        let Some(mut publication) = self.queue.published.pop() else { return };
        std::mem::swap(&mut self.line.rules, &mut publication.ruleset);
        for (index, state) in &mut publication.states {
            if let Some(place) = self.line.state.services.get_mut(index.as_usize()) {
                std::mem::swap(place, state);
            }
        }
        self.line.counters.revision.set(self.line.rules.revision);
        // There is room: control empties this queue before it publishes.
        let _ = self.queue.retired.push(publication);
    }

    fn sweep(&mut self, now: Millis) {
        let mut expired = Expired::new();
        self.hand.sweep(&mut self.line.state.table, now, &mut expired);
        for entry in &expired {
            self.line.counters.expired.add(1);
            self.line.state.settle(entry, &self.line.counters);
        }
        self.line.counters.table_used.set(u64::from(self.line.state.table.used()));
    }
}
