//! The worker: a poll loop around the line. Receives, walks, sends; takes up new rules between bursts; lets
//! the hand sweep. One thread, one core, nothing shared but queues and counters it alone writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::device::Device;
use crate::flow::Entry;
use crate::flow::expiry::{Hand, Swept};
use crate::flow::walk::{Cause, Removal, Removals, WalkQueue, Walks};
use crate::index::{PortIndex, ServiceIndex};
use crate::line::{Line, LineState, Origin};
use crate::path::PathReports;
use crate::persistence::Templates;
use crate::rules::{Fate, Ruleset, ServiceState};
use crate::stage::framing;
use crate::stage::reply::ends::Teller;
use crate::stage::transmit::{self, Outboxes};
use crate::time::{Clock, Millis};
use crate::verdict::DropReason;

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
    /// Room for the clients of persistent services, with the first rules that have any.
    pub templates: Option<Templates>,
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
    walks: Walks,
    queue: RulesQueue,
    /// Where the next turn begins to poll: a port, or behind the last one the other workers.
    next_source: usize,
    /// When the turn before began, in the clock's ticks, and whether it found something to do.
    turn_before: (u64, bool),
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
        let outboxes = Outboxes::new(state.fragments.place_count());
        let line = Line { rules: Arc::default(), state, counters, worker };
        let (burst, hand) = (Burst::default(), Hand::default());
        let (walks, turn_before) = (Walks::default(), (0, false));
        let next_source = 0;
        Self { line, device, clock, burst, outboxes, hand, walks, queue, next_source, turn_before }
    }

    /// Where control asks for walks over the flow table.
    pub fn walk_queue(&self) -> WalkQueue {
        self.walks.queue().clone()
    }

    /// Where control hears of ways that have become narrow.
    pub fn path_reports(&self) -> PathReports {
        self.line.state.path_reports.clone()
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

    /// Which port the next turn polls first, for tests; as many as there are ports stands for the other workers.
    pub fn next_source(&self) -> usize {
        self.next_source
    }

    /// One turn: a burst of every port, a burst of the neighbours, some housekeeping. Whether there was any
    /// packet, or a walk went on. When newcomers have cost enough the rest of the bursts is the next turn's, which begins
    /// with them.
    pub fn turn(&mut self) -> bool {
        self.take_up_rules();
        if self.line.rules.revision == 0 {
            // Without rules every packet would be dropped: until there are some they wait in their queues.
            return false;
        }
        let now = self.clock.now();
        self.count_turn_before();
        self.line.state.peers.refresh(&self.line.rules, &self.line.counters, now);
        self.line.state.begin_turn();
        let busy = self.poll(now);
        let walked = self.walk(now);
        self.sweep(now);
        let counters = &self.line.counters;
        counters.turns.add(1);
        counters.idle_turns.add(u64::from(!busy));
        self.turn_before.1 = busy || walked;
        self.turn_before.1
    }

    /// Takes a burst of each source, the one after which the turn before had enough first; whether there was any packet.
    fn poll(&mut self, now: Millis) -> bool {
        let ports = self.device.port_count();
        let first = std::mem::take(&mut self.next_source);
        let mut busy = false;
        for source in (first..=ports).chain(0..first) {
            if source < ports {
                let port = PortIndex(source as u16);
                busy |= self.poll_port(port, now);
                busy |= self.send_for_others(port);
            } else {
                busy |= self.poll_others(now);
            }
            if self.line.state.effort.is_enough() {
                self.next_source = (source + 1) % (ports + 1);
                break;
            }
        }
        busy
    }

    /// A burst for each other worker: with fewer, what they steer here would pile up and be lost.
    fn poll_others(&mut self, now: Millis) -> bool {
        let mut busy = false;
        for _ in 1..self.line.rules.worker_count {
            if !self.poll_steered(now) {
                break;
            }
            busy = true;
            if self.line.state.effort.is_enough() {
                break;
            }
        }
        busy
    }

    /// A turn ends where the next one begins: so the clock is read once a turn.
    #[inline(always)]
    fn count_turn_before(&mut self) {
        let ticks = self.clock.ticks();
        let (began, found_something) = std::mem::replace(&mut self.turn_before, (ticks, false));
        if found_something {
            let took = ticks.wrapping_sub(began);
            let counters = &self.line.counters;
            counters.busy_ticks.add(took);
            if took > counters.longest_turn_ticks.value() {
                counters.longest_turn_ticks.set(took);
            }
        }
    }

    fn poll_port(&mut self, port: PortIndex, now: Millis) -> bool {
        self.device.receive(port, &mut self.burst.packets);
        if self.burst.packets.is_empty() {
            return false;
        }
        let rx = &self.line.counters.port(port).rx;
        rx.packets.add(self.burst.packets.len() as u64);
        let framing = self.device.framing(port);
        let bytes_lost = framing::unwrap_all(framing, &mut self.burst.packets, &self.line.counters);
        let station = self.line.rules.port(port).station;
        self.line.walk(&mut self.burst, Origin::Port(station), now);
        self.line.counters.port(port).rx.bytes.add(self.burst.bytes + bytes_lost);
        self.transmit(now);
        true
    }

    fn poll_steered(&mut self, now: Millis) -> bool {
        self.device.receive_steered(&mut self.burst.packets);
        if self.burst.packets.is_empty() {
            return false;
        }
        self.line.counters.steered_in.add(self.burst.packets.len() as u64);
        self.line.walk(&mut self.burst, Origin::Steered, now);
        self.transmit(now);
        true
    }

    /// Hands the burst on, and after it the fragments that waited for one of it.
    fn transmit(&mut self, now: Millis) {
        self.transmit_burst();
        while self.line.state.fragments.has_released() {
            let (fragments, waiting) = (&mut self.line.state.fragments, &mut self.outboxes.waiting);
            while !self.burst.packets.is_full()
                && let Some(place) = fragments.next_released()
            {
                self.burst.packets.extend(waiting.take(place));
            }
            self.line.walk(&mut self.burst, Origin::Steered, now);
            self.transmit_burst();
        }
    }

    /// Hands the burst's packets to where their verdicts say.
    fn transmit_burst(&mut self) {
        let Line { state, counters, .. } = &mut self.line;
        let identifications = &mut state.identifications;
        let Self { burst, outboxes, device, .. } = self;
        transmit::run(burst, outboxes, device, identifications, counters);
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
            // Who handed them over has wrapped them.
            transmit::send_wrapped(port, packets, transmit::bytes_of(packets), device, &line.counters);
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
        if publication.templates.is_some() {
            std::mem::swap(&mut self.line.state.templates, &mut publication.templates);
        }
        self.line.state.stations.set_mtus(&self.line.rules.ports);
        self.line.state.identifications.share_among(self.line.rules.worker_count);
        self.line.counters.revision.set(self.line.rules.revision);
        if self.line.rules.fates_set_at != publication.ruleset.fates_set_at {
            self.walks.start_purge();
        }
        // There is room: control empties this queue before it publishes.
        let _ = self.queue.retired.push(publication);
    }

    /// Goes on with the walks over the table; whether one moved.
    fn walk(&mut self, now: Millis) -> bool {
        if self.walks.is_idle() {
            return false;
        }
        let mut removals = Removals::new();
        let Line { rules, state, counters, .. } = &mut self.line;
        let moved = self.walks.turn(&mut state.table, rules, now, &mut removals);
        for removal in &removals {
            match removal.cause {
                Cause::Deleted => counters.deleted.add(1),
                Cause::Fate(_) => counters.purged.add(1),
            }
            state.settle(&removal.entry, counters);
        }
        if removals.is_empty() {
            return moved;
        }
        let is_reset = |removal: &&Removal| removal.cause == Cause::Fate(Fate::Reset);
        self.tell(
            removals.iter().filter(is_reset).map(|removal| (&removal.entry, removal.back.as_ref())),
            now,
        );
        moved
    }

    /// Tells both ends of each connection that it is forgotten.
    fn tell<'e>(&mut self, forgotten: impl Iterator<Item = (&'e Entry, Option<&'e Entry>)>, now: Millis) {
        let Line { rules, state: LineState { stations, reply_limits: limits, .. }, counters, .. } =
            &mut self.line;
        let (outboxes, device) = (&mut self.outboxes, &mut self.device);
        let mut teller = Teller { rules, stations, limits, counters, outboxes, device, now };
        for (entry, back) in forgotten {
            teller.tell(entry, back);
        }
        teller.finish();
    }

    fn sweep(&mut self, now: Millis) {
        let mut swept = Swept::default();
        self.hand.sweep(&mut self.line.state.table, now, &mut swept);
        self.line.counters.expired.add(swept.expired.len() as u64);
        self.line.counters.evicted.add(swept.evicted.len() as u64);
        for entry in swept.expired.iter().chain(&swept.evicted) {
            self.line.state.settle(entry, &self.line.counters);
        }
        if !swept.to_tell.is_empty() {
            self.tell(swept.to_tell.iter().map(|(entry, back)| (entry, back.as_ref())), now);
        }
        if let Some(templates) = &mut self.line.state.templates {
            templates.sweep(now);
            self.line.counters.templates_used.set(u64::from(templates.used()));
        }
        self.line.counters.table_used.set(u64::from(self.line.state.table.used()));
        self.forget_fragments(now);
    }

    /// Drops the fragments that waited in vain.
    fn forget_fragments(&mut self, now: Millis) {
        let Line { state: LineState { fragments, .. }, counters, .. } = &mut self.line;
        fragments.sweep(now);
        while let Some(place) = fragments.next_refused() {
            drop(self.outboxes.waiting.take(place));
            counters.dropped(DropReason::FragmentTimeout).add(1);
        }
        counters.fragments_waiting.set(fragments.waiting().into());
    }
}
