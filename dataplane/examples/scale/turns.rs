//! The longest turn of the worker's loop at its worst moments, by the thread's own processor time.
//!
//! Every run does the same turns with the same packets. Of each turn the least time over the runs counts: what an interrupt
//! or a neighbour on the machine added hardly hits the same turn in every run, and what the turn's work costs does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use cpu::Backing;
use dataplane::adjacency::Adjacency;
use dataplane::counters::WorkerCounters;
use dataplane::device::{BURST_MAX, Device, Packets, Transmitted};
use dataplane::flow::expiry::SWEEP_PERIOD_MS;
use dataplane::flow::{FlowKey, FlowTable};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::local_port::LocalPool;
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::rules::{ClientPart, Mode, Ruleset};
use dataplane::wire::{AddressPair, PortPair};
use dataplane::worker::{Publication, RulesQueue, Worker};

use crate::common::director::{SECRET, TestClock};
use crate::common::frames::{ACK, Frame, SYN};
use crate::common::rules::{BACK, FRONT, PORT_MACS, ServiceSpec, TCP, UDP, VIP, states, with_service};
use crate::common::ruleset;
use crate::{Mix, cpu_ns, resident_bytes};

/// Bytes of the frames: Ethernet, IPv4 and TCP headers.
const FRAME_LEN: usize = 54;
const SOURCE_AT: usize = 26;
const L4_PORT_AT: usize = 34;
const FLAGS_AT: usize = 47;
/// Turns in a millisecond of the test's clock: a busy worker's, about.
const TURNS_PER_MS: u32 = 16;

const SERVICES: [ServiceSpec; 2] = [
    ServiceSpec { protocol: TCP, l4_port: 8080, mode: Mode::Fullnat, scheduler: "rr", weights: &[1; 16] },
    ServiceSpec { protocol: UDP, l4_port: 5353, mode: Mode::Fullnat, scheduler: "rr", weights: &[1; 16] },
];
const FOUR_BACKENDS: [ServiceSpec; 1] =
    [ServiceSpec { protocol: TCP, l4_port: 8080, mode: Mode::Fullnat, scheduler: "rr", weights: &[1; 4] }];

const THOUSAND_BACKENDS: [ServiceSpec; 1] = [ServiceSpec {
    protocol: TCP,
    l4_port: 8080,
    mode: Mode::Fullnat,
    scheduler: "wlc",
    weights: &[1; 1_000],
}];
/// Workers where several share the traffic.
const WORKERS: u16 = 4;

/// Two ports of plain memory: what is to be received is laid out before the turn, what was sent is taken after it.
#[derive(Default)]
struct Ports {
    waiting: [Vec<MemoryPacket>; 2],
    /// By the other workers.
    steered: Vec<MemoryPacket>,
    to_backends: Vec<MemoryPacket>,
    spare: Vec<MemoryPacket>,
}

impl Device for Ports {
    type Packet = MemoryPacket;

    fn port_count(&self) -> usize {
        2
    }

    fn receive(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        into.extend(self.waiting[port.as_usize()].drain(..));
    }

    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) -> Transmitted {
        if port == BACK { &mut self.to_backends } else { &mut self.spare }.extend(packets.drain(..));
        Transmitted::Sent
    }

    fn reserve(&mut self) -> Option<MemoryPacket> {
        None
    }

    fn receive_steered(&mut self, into: &mut Packets<MemoryPacket>) {
        let count = self.steered.len().min(BURST_MAX);
        into.extend(self.steered.drain(..count));
    }

    fn steer(&mut self, _owner: WorkerIndex, _packets: &mut Packets<MemoryPacket>) {}

    fn receive_from_twin(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn receive_handed_over(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn has_twin(&self, _port: PortIndex) -> bool {
        false
    }

    fn punt(&mut self, _port: PortIndex, _packets: &mut Packets<MemoryPacket>) {}
}

/// A worker, its clients and its backends.
struct Bench {
    worker: Worker<Ports, TestClock>,
    clock: TestClock,
    counters: Arc<WorkerCounters>,
    queue: RulesQueue,
    segment: Vec<u8>,
    datagram: Vec<u8>,
    turns: u32,
}

impl Bench {
    fn new(capacity: u32, services: &[ServiceSpec], local_addresses: u8) -> Self {
        Self::with(capacity, ruleset(1, services), local_addresses)
    }

    /// As many workers as the rules say, of which the first is looked at.
    fn with(capacity: u32, rules: Ruleset, local_addresses: u8) -> Self {
        let table = FlowTable::new(capacity, Backing::Auto, SECRET).expect("memory for the table");
        let others = (1..rules.worker_count).map(|_| Arc::default()).collect();
        let state = LineState::new(table, WorkerIndex(0), &PORT_MACS, 0).with_peers(others);
        let (clock, counters, queue) = (TestClock::default(), Arc::default(), RulesQueue::default());
        let ports = Ports::default();
        let worker =
            Worker::new(ports, clock.clone(), WorkerIndex(0), state, Arc::clone(&counters), queue.clone());
        let addresses = (0..local_addresses).map(|number| IpAddr::from([10, 0, 7, number])).collect();
        let pool = LocalPool { addresses };
        let rules = Ruleset { local_pools: Arc::new([pool]), ..rules };
        let publication =
            Publication { states: states(rules.services.len()), ruleset: Arc::new(rules), templates: None };
        queue.publish(publication).expect("the queue is empty");
        let client = (Ipv4Addr::UNSPECIFIED, 0);
        let segment = Frame::tcp(client, (VIP, 8080), SYN).bytes();
        let datagram = Frame::udp(client, (VIP, 5353)).with_payload(vec![0; 12]).bytes();
        assert!(segment.len() == FRAME_LEN && datagram.len() == FRAME_LEN);
        let mut bench = Self { worker, clock, counters, queue, segment, datagram, turns: 0 };
        bench.turn();
        bench
    }

    /// One turn; its processor time in nanoseconds.
    fn turn(&mut self) -> u32 {
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS_PER_MS) {
            self.clock.advance(1);
        }
        let start = cpu_ns();
        self.worker.turn();
        (cpu_ns() - start) as u32
    }

    /// Lays out frames like `like` of so many clients, with these TCP flags.
    fn arrive(&mut self, like: Like, clients: impl Iterator<Item = u64>, flags: u8) {
        let frame = if like == Like::Segment { &self.segment } else { &self.datagram };
        let ports = self.worker.device_mut();
        for client in clients {
            let mut packet = ports
                .spare
                .pop()
                .filter(|packet| packet.port() == FRONT)
                .unwrap_or_else(|| MemoryPacket::new(frame.clone(), FRONT));
            let data = packet.data_mut();
            data.copy_from_slice(frame);
            let client = Mix(client).next().to_be_bytes();
            data[SOURCE_AT..SOURCE_AT + 4].copy_from_slice(&client[..4]);
            data[L4_PORT_AT..L4_PORT_AT + 2].copy_from_slice(&client[4..6]);
            if like == Like::Segment {
                data[FLAGS_AT] = flags;
            }
            ports.waiting[FRONT.as_usize()].push(packet);
        }
    }

    /// Whether the first of several workers owns the client of this number, as [`Bench::arrive`] makes it.
    fn is_own(&self, client: u64) -> bool {
        let [a, b, c, d, e, f, ..] = Mix(client).next().to_be_bytes();
        let key = FlowKey {
            addresses: AddressPair::new(Ipv4Addr::new(a, b, c, d), VIP).into(),
            ports: PortPair::new(u16::from_be_bytes([e, f]), 8080),
            protocol: TCP,
        };
        self.worker.line().rules.owner_by(ClientPart::Endpoint, &key) == WorkerIndex(0)
    }

    /// Fills the front port's burst with SYNs of clients from number `next` on that this worker owns, and the ring from
    /// three others with SYNs of whomever; the number after the last.
    fn arrive_from_all(&mut self, mut next: u64) -> u64 {
        while self.worker.device_mut().waiting[FRONT.as_usize()].len() < BURST_MAX {
            if self.is_own(next) {
                self.arrive(Like::Segment, std::iter::once(next), SYN);
            }
            next += 1;
        }
        let at_port = std::mem::take(&mut self.worker.device_mut().waiting[FRONT.as_usize()]);
        let missing = (usize::from(WORKERS) - 1) * BURST_MAX - self.worker.device_mut().steered.len();
        self.arrive(Like::Segment, next..next + missing as u64, SYN);
        let ports = self.worker.device_mut();
        let steered = std::mem::replace(&mut ports.waiting[FRONT.as_usize()], at_port);
        ports.steered.extend(steered);
        next + missing as u64
    }

    /// Lays out the backends' answers to what the last turn sent them; or what was sent is forgotten.
    fn answer(&mut self, answers: bool) {
        let ports = self.worker.device_mut();
        let sent = std::mem::take(&mut ports.to_backends);
        if !answers {
            ports.spare.extend(sent);
            return;
        }
        for mut packet in sent {
            let data = packet.data_mut();
            for (at, width) in [(0, 6), (SOURCE_AT, 4), (L4_PORT_AT, 2)] {
                let (first, second) = data[at..at + 2 * width].split_at_mut(width);
                first.swap_with_slice(second);
            }
            data[FLAGS_AT] = ACK;
            packet.set_port(BACK);
            ports.waiting[BACK.as_usize()].push(packet);
        }
    }

    fn used(&self) -> u32 {
        self.worker.line().state.table.used()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Like {
    Segment,
    Datagram,
}

const BURST: u64 = BURST_MAX as u64;

/// What one kind of moment cost: nanoseconds of each of its turns.
type Phase = (&'static str, Vec<u32>);

/// Turns in which so many clients a burst open connections from number `first` on.
fn opening(bench: &mut Bench, first: u64, turns: u32, answers: bool) -> Vec<u32> {
    let mut times = Vec::with_capacity(turns as usize);
    for turn in 0..u64::from(turns) {
        bench.answer(answers);
        let first = first + turn * BURST;
        bench.arrive(Like::Segment, first..first + BURST, SYN);
        times.push(bench.turn());
    }
    bench.answer(answers);
    bench.turn();
    times
}

/// A worker of four, of which each gets more newcomers than it can take: by its port and from the other three.
fn several_workers(services: &[ServiceSpec], capacity: u32, turns: u32, is_hard: bool) -> Vec<u32> {
    let mut rules = ruleset(WORKERS, services);
    if is_hard {
        rules = hard(rules);
    }
    let mut bench = Bench::with(capacity, rules, 16);
    let mut next = 0;
    let mut times = Vec::with_capacity(turns as usize);
    for _ in 0..turns {
        bench.answer(false);
        next = bench.arrive_from_all(next);
        times.push(bench.turn());
    }
    times
}

/// One worker and its hardest newcomers: a thousand backends that have thresholds, of which the scheduler looks at all, and
/// half cannot be reached. With several workers three more bursts of them wait in the rings.
pub(crate) struct Newcomers {
    bench: Bench,
    next: u64,
}

impl Newcomers {
    pub(crate) fn new(workers: u16) -> Self {
        assert!(workers == 1 || workers == WORKERS);
        Self { bench: Bench::with(1 << 14, hard(ruleset(workers, &THOUSAND_BACKENDS)), 16), next: 0 }
    }

    /// Lays out what waits for the next turn.
    pub(crate) fn lay_out(&mut self) {
        self.bench.answer(false);
        if self.bench.worker.line().rules.worker_count > 1 {
            self.next = self.bench.arrive_from_all(self.next);
        } else {
            self.bench.arrive(Like::Segment, self.next..self.next + BURST, SYN);
            self.next += BURST;
        }
    }

    pub(crate) fn turn(&mut self) {
        self.bench.turn();
    }

    pub(crate) fn connections(&self) -> u32 {
        self.bench.used() / 2
    }
}

/// Every backend has a threshold, and half of them cannot be reached: those that a scheduler which reads loads prefers, as
/// they never get a connection.
fn hard(mut rules: Ruleset) -> Ruleset {
    let mut backends = rules.backends.to_vec();
    for backend in &mut backends {
        (backend.connections_upper, backend.connections_lower) = (1_000_000, 750_000);
    }
    rules.backends = backends.into();
    let mut adjacencies = rules.adjacencies.to_vec();
    adjacencies.iter_mut().step_by(2).for_each(|way| *way = Adjacency::UNRESOLVED);
    rules.adjacencies = adjacencies.into();
    for index in 0..rules.services.len() {
        rules = with_service(rules, index, |service| service.has_thresholds = true);
    }
    rules
}

/// A thousand backends, of which the scheduler looks at each for each newcomer.
fn thousand_backends() -> Vec<Phase> {
    let (capacity, turns) = (1 << 19, 4_000);
    let mut bench = Bench::new(capacity, &THOUSAND_BACKENDS, 16);
    let alone = opening(&mut bench, 0, turns, true);
    let mut bench = Bench::with(capacity, hard(ruleset(1, &THOUSAND_BACKENDS)), 16);
    let hard_alone = opening(&mut bench, 0, turns, true);
    vec![
        ("wlc of 1,000: 32 new, 32 first answers", alone),
        ("the same, thresholds, half out of reach", hard_alone),
        ("of 4 workers, 32 new and 96 steered", several_workers(&SERVICES[..1], 1 << 21, 40_000, false)),
        ("the same, wlc of 1,000", several_workers(&THOUSAND_BACKENDS, capacity, turns, false)),
        (
            "the same, thresholds, half out of reach",
            several_workers(&THOUSAND_BACKENDS, capacity, turns, true),
        ),
    ]
}

fn at_scale(capacity: u32) -> Vec<Phase> {
    let before = resident_bytes();
    let mut bench = Bench::new(capacity, &SERVICES, 16);
    let connections = capacity / 2;
    let filling = opening(&mut bench, 0, connections / BURST_MAX as u32, true);
    let held = bench.used() / 2;
    println!(
        "{held} connections both ways; {} MB resident, {} evicted, {} dropped",
        (resident_bytes() - before) / 1_000_000,
        bench.counters.evicted.value(),
        bench.counters.dropped_total(),
    );
    let data = (0..20_000u64).map(|turn| {
        bench.answer(false);
        let mut mix = Mix(turn);
        bench.arrive(Like::Segment, (0..BURST).map(|_| mix.next() % u64::from(connections)), ACK);
        bench.turn()
    });
    let data = data.collect();
    let flood = opening(&mut bench, 1 << 40, capacity / 64 / 4, false);
    bench.clock.advance(5_000);
    let making_room = opening(&mut bench, 1 << 41, 20_000.min(connections / 128), true);
    println!(
        "{} evicted, {} dropped: half-open ones, and idle ones for those that open",
        bench.counters.evicted.value(),
        bench.counters.dropped_total()
    );
    bench.clock.advance(2_000);
    let datagrams = (0..20_000u64).map(|turn| {
        bench.answer(false);
        bench.arrive(Like::Datagram, turn * BURST..(turn + 1) * BURST, 0);
        bench.turn()
    });
    let datagrams = datagrams.collect();
    bench.clock.advance(900_001);
    let mut ending = Vec::new();
    while bench.used() > 0 {
        // So slow a loop that the hand always has as much to do as it may.
        bench.clock.advance(SWEEP_PERIOD_MS / 500);
        ending.push(bench.turn());
    }
    vec![
        ("32 new connections and 32 first answers", filling),
        ("32 data packets, table full", data),
        ("32 SYNs of a flood, table full", flood),
        ("32 that open, idle ones evicted", making_room),
        ("32 new datagrams, table full", datagrams),
        ("all time out together", ending),
    ]
}

/// Connections to backends whose local ports are all but gone.
fn without_local_ports() -> Vec<Phase> {
    let mut bench = Bench::new(1 << 20, &FOUR_BACKENDS, 1);
    opening(&mut bench, 0, 4 * 64_512 / BURST_MAX as u32, true);
    let exhausted = opening(&mut bench, 1 << 40, 2_000, true);
    vec![("32 new connections, no local port free", exhausted)]
}

fn rules_taken_up() -> Vec<Phase> {
    let mut bench = Bench::new(1 << 12, &SERVICES, 1);
    let spec = |number: u16| ServiceSpec { l4_port: number, weights: &[1, 1], ..SERVICES[0] };
    let services: Vec<_> = (1..=10_000).map(spec).collect();
    let rules = ruleset(1, &services);
    let taken_up = (2..22).map(|revision| {
        let rules = Ruleset { revision, ..rules.clone() };
        let publication =
            Publication { states: states(services.len()), ruleset: Arc::new(rules), templates: None };
        bench.queue.publish(publication).expect("the queue is empty");
        bench.turn()
    });
    vec![("rules with 10,000 new services", taken_up.collect())]
}

pub(crate) fn run(capacity: u32, runs: u32) {
    let mut least: Vec<Phase> = Vec::new();
    for run in 0..runs.max(1) {
        let mut phases = at_scale(capacity);
        phases.extend(without_local_ports());
        phases.extend(rules_taken_up());
        phases.extend(thousand_backends());
        if run == 0 {
            least = phases;
            continue;
        }
        for ((_, least), (_, times)) in least.iter_mut().zip(phases) {
            least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
        }
    }
    println!("{:>40} {:>8} {:>9} {:>9} {:>9}", "microseconds a turn", "turns", "median", "99.9 %", "longest");
    for (name, mut times) in least {
        times.sort_unstable();
        let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1_000.0;
        println!("{name:>40} {:>8} {:>9.1} {:>9.1} {:>9.1}", times.len(), at(0.5), at(0.999), at(1.0));
    }
}
