//! The slow path: one thread that carries packets between the workers and the kernel twins of all ports.
//!
//! Wire to kernel: a worker punts an mbuf into its ring for the port; this thread classifies the frame, polices its
//! class with a token bucket, and writes the same mbuf, untouched, to the twin's TAP. Kernel to wire: what the twin's
//! kernel sends goes into a ring that worker 0 empties into the real port. Whatever is lost is counted by class and cause.
//!
//! Not here: making the TAP (launch), its addresses (`kernel::twin`), deciding what is punted (`dataplane::stage`).
//! Read first: docs/decisions/0005-slow-path.md; DPDK NIC guide, "Tun|Tap Poll Mode Driver".

pub mod checks;
pub mod classify;
pub mod counters;
mod limits;
pub mod signals;
pub mod token_bucket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dataplane::index::PortIndex;
use dpdk::{BURST_MAX, Burst, RxQueue, TxQueue, ring};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use checks::{Carrier, CheckCounters, CheckQueue, ToBackends};
use classify::{Class, classify};
use counters::TwinCounters;
pub use counters::{ClassSnapshot, SlowPathCounters, TwinSnapshot};
pub use limits::Limits;
use token_bucket::TokenBucket;

/// Turns without a packet after which the thread sleeps: some microseconds, so that the answer to what was just handed
/// over is not waited for in bed.
const IDLE_TURNS_BEFORE_SLEEP: u32 = 64;

/// How long it sleeps then: the latency a first packet from the wire may meet. A packet from the kernel wakes it.
/// A ring that workers fill with 10 Mpps meanwhile holds 1,000 packets more.
const SLEEP: Duration = Duration::from_micros(100);

/// A port's kernel twin, and the rings between it and the workers.
#[derive(Debug)]
pub struct TwinPort {
    /// The real port whose twin this is.
    pub port: PortIndex,
    /// One ring from each worker, with the packets it punts.
    pub from_workers: Vec<ring::Consumer>,
    /// The ring to the worker that sends by `port`.
    pub to_worker: ring::Producer,
    /// From the twin's TAP port.
    pub rx: RxQueue,
    /// To the twin's TAP port.
    pub tx: TxQueue,
}

/// All twins and what polices them; moved into the one thread that serves them.
///
/// Dropping it frees the packets on their way. Queues and rings end with their other holders.
#[derive(Debug)]
pub struct SlowPath {
    twins: Vec<Twin>,
    limits: Arc<Limits>,
    counters: Arc<SlowPathCounters>,
    checks: Carrier,
}

impl SlowPath {
    /// Serves `twins`, each class at most at the rate of `limits`.
    pub fn new(twins: Vec<TwinPort>, limits: Arc<Limits>, counters: Arc<SlowPathCounters>) -> Self {
        let now = Instant::now();
        let twins = twins.into_iter().map(|port| Twin::new(port, &limits, now)).collect();
        Self { twins, limits, counters, checks: Carrier::new(CheckQueue::default(), now) }
    }

    /// The same, where health checks to check addresses come out of `queue`.
    #[must_use]
    pub fn with_checks(self, queue: CheckQueue) -> Self {
        Self { checks: Carrier::new(queue, Instant::now()), ..self }
    }

    /// Makes the calling thread the slow-path thread until `stop` is set: opens it to net_tap's signal (see [`signals`])
    /// and serves the twins. Sleeps while nothing moves. The thread should be [registered](dpdk::thread::register).
    pub fn run(&mut self, stop: &AtomicBool) {
        signals::open();
        let mut idle_turns = 0u32;
        while !stop.load(Ordering::Relaxed) {
            if self.turn(Instant::now()) {
                idle_turns = 0;
            } else if idle_turns < IDLE_TURNS_BEFORE_SLEEP {
                idle_turns += 1;
            } else {
                nap();
            }
        }
    }

    /// One round: at most one burst from each ring and from each twin. Whether a packet moved.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.checks.take_up();
        let mut moved = 0;
        let of_checks = &self.counters.checks;
        for at in 0..self.twins.len() {
            let Some(twin) = self.twins.get_mut(at) else { break };
            let counters = self.counters.twin(twin.port.port);
            moved += twin.carry_to_kernel(&self.limits, counters, &mut self.checks, of_checks, now);
            let (received, to_backends) = twin.carry_from_kernel(counters, &mut self.checks, of_checks, now);
            moved += received;
            hand_over(to_backends, &mut self.twins, of_checks);
        }
        moved > 0
    }
}

/// Hands packets of checks to the workers that send by their ports. A port without a twin has no ring for that.
fn hand_over(mut packets: ToBackends, twins: &mut [Twin], counters: &CheckCounters) {
    while let Some(&(port, _)) = packets.first() {
        let mut burst = Burst::new();
        let mut others = ToBackends::new();
        for (other, mbuf) in packets.drain(..) {
            // As many as came fit either.
            if other == port { drop(burst.push(mbuf)) } else { drop(others.try_push((other, mbuf))) }
        }
        let count = burst.len();
        let ring = twins.iter_mut().find(|twin| twin.port.port == port).map(|twin| &mut twin.port.to_worker);
        let sent = ring.map_or(0, |ring| ring.push(&mut burst));
        counters.to_backends.add(sent as u64);
        counters.refused.add((count - sent) as u64);
        packets = others;
    }
}

/// Unlike `thread::sleep` it ends early when net_tap's signal says that the kernel has sent something.
fn nap() {
    // Ends by time or by a signal: both mean another turn.
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &SLEEP.into());
}

#[derive(Debug)]
struct Twin {
    port: TwinPort,
    buckets: [TokenBucket; Class::ALL.len()],
}

impl Twin {
    fn new(port: TwinPort, limits: &Limits, now: Instant) -> Self {
        Self { port, buckets: Class::ALL.map(|class| TokenBucket::full(limits.of(class), now)) }
    }

    /// A burst of every ring goes to the twin, as far as its classes may pass. Returns the packets taken from rings.
    fn carry_to_kernel(
        &mut self,
        limits: &Limits,
        counters: &TwinCounters,
        checks: &mut Carrier,
        of_checks: &CheckCounters,
        now: Instant,
    ) -> usize {
        for class in Class::ALL {
            self.buckets[class as usize].refill(limits.of(class), now);
        }
        let mut taken = 0;
        for ring in &mut self.port.from_workers {
            let mut burst = Burst::new();
            taken += ring.pop(&mut burst);
            let answers = checks.take_from_backends(&mut burst, of_checks, now);
            if !answers.is_empty() {
                let classes = classes_of(&answers);
                write(&mut self.port.tx, Classified { burst: answers, classes }, counters);
            }
            if !burst.is_empty() {
                let admitted = police(&mut burst, &mut self.buckets, counters);
                write(&mut self.port.tx, admitted, counters);
            }
        }
        taken
    }

    /// A burst of what the twin's kernel has sent goes to the worker. Returns the packets received, and of those the ones that are
    /// to backends that are checked.
    fn carry_from_kernel(
        &mut self,
        counters: &TwinCounters,
        checks: &mut Carrier,
        of_checks: &CheckCounters,
        now: Instant,
    ) -> (usize, ToBackends) {
        let mut burst = Burst::new();
        let received = self.port.rx.receive(&mut burst);
        if received == 0 {
            return (0, ToBackends::new());
        }
        let to_backends = checks.take_to_backends(&mut burst, of_checks, now);
        let classes = classes_of(&burst);
        let sent = self.port.to_worker.push(&mut burst);
        for (index, class) in classes.into_iter().enumerate() {
            let counters = counters.of(class);
            let counter = if index < sent { &counters.from_kernel } else { &counters.worker_ring_full };
            counter.add(1);
        }
        (received, to_backends)
    }
}

/// The class of each packet of a burst.
type Classes = ArrayVec<Class, BURST_MAX>;

/// Packets, and the class of each.
#[derive(Default)]
struct Classified {
    burst: Burst,
    classes: Classes,
}

fn classes_of(burst: &Burst) -> Classes {
    burst.iter().map(|mbuf| classify(mbuf.data())).collect()
}

/// Those of a burst whose class has a token left; the others are freed.
fn police(burst: &mut Burst, buckets: &mut [TokenBucket; 4], counters: &TwinCounters) -> Classified {
    let mut admitted = Classified::default();
    let classes = classes_of(burst);
    for (mbuf, class) in burst.drain().zip(classes) {
        if !buckets[class as usize].take() {
            counters.of(class).policed.add(1);
        } else if admitted.burst.push(mbuf).is_ok() {
            admitted.classes.push(class);
        }
    }
    admitted
}

/// Writes packets to the twin. net_tap stops at the first it cannot write: a frame longer than the twin's MTU, or any
/// while the interface is down. Only that one is dropped; those behind it get their own try.
fn write(tx: &mut TxQueue, packets: Classified, counters: &TwinCounters) {
    let Classified { mut burst, classes } = packets;
    let mut classes = classes.into_iter();
    while !burst.is_empty() {
        let sent = tx.transmit(&mut burst);
        classes.by_ref().take(sent).for_each(|class| counters.of(class).to_kernel.add(1));
        if burst.is_empty() {
            break;
        }
        burst = without_first(&mut burst);
        if let Some(class) = classes.next() {
            counters.of(class).twin_refused.add(1);
        }
    }
}

/// The burst, its first packet freed.
fn without_first(burst: &mut Burst) -> Burst {
    let mut rest = Burst::new();
    // One fewer than a burst holds, so all of them fit.
    burst.drain().skip(1).for_each(|mbuf| drop(rest.push(mbuf)));
    rest
}
