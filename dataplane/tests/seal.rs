//! No allocation after start: a worker that meets hits, misses, evictions, expiry, drops, punts, steering, walks and
//! new rules neither takes a block from the heap nor gives one back.

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use cpu::Backing;
use crossbeam::queue::ArrayQueue;
use dataplane::counters::WorkerCounters;
use dataplane::device::{Device, Packets, Transmitted};
use dataplane::flow::FlowTable;
use dataplane::flow::filter::Filter;
use dataplane::flow::walk::{Order, Task, WalkQueue};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::packet::{PacketBuf, UdpChecksum};
use dataplane::rules::{Backend, Fate, Mode, NoFlow, Policy, Ruleset};
use dataplane::time::{Clock, Millis};
use dataplane::verdict::DropReason;
use dataplane::worker::{Publication, RulesQueue, Worker};
use seal::{CountingAllocator, HeapCalls, heap_calls};

use common::director::SECRET;
use common::frames::{ACK, SYN};
use common::rules::{BACK, FRONT, ONE_OF_EACH, PORT_MACS, ServiceSpec, TCP, UDP, VIP, states, with_policy};
use common::{Frame, ruleset};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Frames stand in the packet itself: the memory twin's stand on the heap, as mbufs do not.
const FRAME_MAX: usize = 96;
/// Room in front of them, for an ICMP error.
const HEADROOM: usize = 32;
/// A service whose backend takes no connections.
const REFUSING: ServiceSpec =
    ServiceSpec { protocol: UDP, l4_port: 5454, mode: Mode::Dr, scheduler: "rr", weights: &[0] };
/// Answers on their way back to the director.
const ANSWERS_MAX: usize = 64;

#[derive(Clone)]
struct InlinePacket {
    buffer: [u8; HEADROOM + FRAME_MAX],
    start: usize,
    end: usize,
    port: PortIndex,
}

impl InlinePacket {
    fn new(bytes: &[u8], port: PortIndex) -> Self {
        let mut packet =
            Self { buffer: [0; HEADROOM + FRAME_MAX], start: HEADROOM, end: HEADROOM + bytes.len(), port };
        packet.data_mut().copy_from_slice(bytes);
        packet
    }

    /// What a backend answers: both MACs, addresses and l4_ports exchanged.
    fn answered(mut self) -> Self {
        let (mac, address, l4_port) = (0..6, 26..30, 34..36);
        for (range, width) in [(mac, 6), (address, 4), (l4_port, 2)] {
            let (first, second) = self.data_mut().split_at_mut(range.end);
            first[range].swap_with_slice(&mut second[..width]);
        }
        self.port = BACK;
        self
    }
}

impl PacketBuf for InlinePacket {
    fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    fn packet_len(&self) -> usize {
        self.end - self.start
    }

    fn port(&self) -> PortIndex {
        self.port
    }

    fn set_port(&mut self, port: PortIndex) {
        self.port = port;
    }

    fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        let before = self.start;
        self.start = before.checked_sub(n.into())?;
        self.buffer.get_mut(self.start..before)
    }

    fn trim_front(&mut self, n: u16) -> bool {
        let fits = usize::from(n) <= self.packet_len();
        self.start += if fits { n.into() } else { 0 };
        fits
    }

    fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        let (before, end) = (self.end, self.end + usize::from(n));
        let added = self.buffer.get_mut(before..end)?;
        self.end = end;
        Some(added)
    }

    fn gather(&mut self, _n: usize) -> bool {
        true
    }

    fn request_udp_checksum(&mut self, _wanted: UdpChecksum) {
        unreachable!("no port of these rules offers it");
    }

    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.packet_len();
        self.end = if fits { self.start + len } else { self.end };
        fits
    }
}

/// Clients that send the same frames over and over, backends that answer, another worker that takes
/// whatever it is given.
struct World {
    quiet: Rc<Cell<bool>>,
    frames: Vec<InlinePacket>,
    next: usize,
    answers: VecDeque<InlinePacket>,
}

impl Device for World {
    type Packet = InlinePacket;

    fn port_count(&self) -> usize {
        2
    }

    fn receive(&mut self, port: PortIndex, into: &mut Packets<InlinePacket>) {
        if port == BACK {
            let room = into.remaining_capacity().min(self.answers.len());
            return into.extend(self.answers.drain(..room));
        }
        while !into.is_full() && !self.quiet.get() {
            into.push(self.frames[self.next % self.frames.len()].clone());
            self.next += 1;
        }
    }

    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<InlinePacket>) -> Transmitted {
        // Now and then the port refuses half of them.
        let accepted = if self.next.is_multiple_of(5) { packets.len() / 2 } else { packets.len() };
        for packet in packets.drain(..accepted) {
            if port == BACK && self.answers.len() < ANSWERS_MAX {
                self.answers.push_back(packet.answered());
            }
        }
        Transmitted::Sent
    }

    fn receive_steered(&mut self, into: &mut Packets<InlinePacket>) {
        if !self.quiet.get() {
            into.push(self.frames[self.next % self.frames.len()].clone());
        }
    }

    fn steer(&mut self, _owner: WorkerIndex, packets: &mut Packets<InlinePacket>) {
        packets.pop();
    }

    fn receive_from_twin(&mut self, _port: PortIndex, into: &mut Packets<InlinePacket>) {
        into.push(self.frames[0].clone());
    }

    fn receive_handed_over(&mut self, _port: PortIndex, into: &mut Packets<InlinePacket>) {
        into.push(self.frames[0].clone());
    }

    fn has_twin(&self, port: PortIndex) -> bool {
        port == FRONT
    }

    fn punt(&mut self, _port: PortIndex, packets: &mut Packets<InlinePacket>) {
        packets.truncate(1);
    }

    fn reserve(&mut self) -> Option<InlinePacket> {
        Some(InlinePacket::new(&[], FRONT))
    }
}

/// Every turn is a while later than the one before, and a long while when nobody sends.
struct FastClock {
    quiet: Rc<Cell<bool>>,
    now_ms: u32,
}

impl Clock for FastClock {
    fn now(&mut self) -> Millis {
        self.now_ms += if self.quiet.get() { 20_000 } else { 100 };
        Millis(self.now_ms)
    }
}

/// More flows than the table holds, SYNs and later segments, and what is dropped or punted.
fn frames() -> Vec<InlinePacket> {
    let mut frames = Vec::new();
    for number in 0..3_000u16 {
        let client = (Ipv4Addr::new(198, 51, (number >> 8) as u8, number as u8), 4_000 + number);
        let frame = match number % 8 {
            0 => Frame::tcp(client, (VIP, 80), SYN),
            1 | 2 => Frame::tcp(client, (VIP, 8080), SYN),
            3 => Frame::udp(client, (VIP, 53)),
            4 => Frame::udp(client, (VIP, 5353)),
            5 => Frame::tcp((client.0, 4_000 + number % 400), (VIP, 8080), ACK),
            6 if number % 16 == 6 => Frame::tcp(client, (VIP, 81), SYN),
            6 => Frame::udp(client, (VIP, 5454)),
            _ => Frame::udp((client.0, 5), (VIP, 53)).with_ttl(1),
        };
        let bytes = frame.with_payload([1; 9]).bytes();
        let len = if number % 50 == 7 { bytes.len() / 2 } else { bytes.len() };
        frames.push(InlinePacket::new(&bytes[..len], FRONT));
        if number % 4 == 0 {
            // Sent again at once: a hit.
            frames.push(InlinePacket::new(&bytes, FRONT));
        }
    }
    frames
}

#[test]
fn an_allocation_would_be_noticed() {
    assert_eq!(
        heap_calls(|| drop(std::hint::black_box(Box::new(1u64)))).1,
        HeapCalls { allocations: 1, frees: 1 }
    );
}

#[test]
fn a_worker_leaves_the_heap_alone_whatever_comes() {
    let table = FlowTable::new(256, Backing::Plain, SECRET).unwrap();
    let state = LineState::new(table, WorkerIndex(0), &PORT_MACS, 0);
    let (counters, queue) = (Arc::<WorkerCounters>::default(), RulesQueue::default());
    let quiet = Rc::new(Cell::new(false));
    let answers = VecDeque::with_capacity(ANSWERS_MAX);
    let world = World { quiet: Rc::clone(&quiet), frames: frames(), next: 0, answers };
    let clock = FastClock { quiet: Rc::clone(&quiet), now_ms: 0 };
    let mut worker = Worker::new(world, clock, WorkerIndex(0), state, Arc::clone(&counters), queue.clone());
    let walks = worker.walk_queue();
    let mut calls = HeapCalls::default();
    for revision in 1..=200 {
        // Control allocates and frees; the worker swaps.
        let rules = leaving(revision);
        let publication =
            Publication { ruleset: Arc::new(rules), states: states(ONE_OF_EACH.len() + 1), templates: None };
        queue.publish(publication).expect("taken up within 50 turns");
        ask_for_walks(&walks, revision);
        quiet.set(revision % 5 == 0);
        let ((), during) = heap_calls(|| {
            for _ in 0..50 {
                worker.turn();
            }
        });
        calls.allocations += during.allocations;
        calls.frees += during.frees;
    }
    assert_eq!(calls, HeapCalls::default());
    assert_everything_happened(&counters);
}

/// The rules of this revision: every third gives some backends a fate.
fn leaving(revision: u64) -> Ruleset {
    let policy = Policy { no_flow: NoFlow::Reset, ..Policy::default() };
    let rules = with_policy(ruleset(2, &[&ONE_OF_EACH[..], &[REFUSING]].concat()), &policy);
    let with_fate = |(slot, backend): (usize, &Backend)| match (slot as u64 + revision) % 3 {
        0 => Backend { fate: Fate::Reset, ..*backend },
        _ => *backend,
    };
    let backends = rules.backends.iter().enumerate().map(with_fate).collect();
    Ruleset { revision, fates_set_at: revision / 3, backends, ..rules }
}

/// Orders that nobody holds on to: the worker alone must not free what they bring.
fn ask_for_walks(walks: &WalkQueue, revision: u64) {
    let filter =
        Filter { protocol: Some(if revision.is_multiple_of(7) { TCP } else { UDP }), ..Filter::default() };
    let list = Task::List(Arc::new(ArrayQueue::new(revision as usize * 2)));
    let task = if revision.is_multiple_of(2) { list } else { Task::Delete };
    let order = Order { task, filter, progress: Arc::default() };
    if revision.is_multiple_of(10) {
        order.progress.cancel();
    }
    // Refused where too many wait for a reader.
    drop(walks.start(order));
}

/// A seal that nothing pressed against proves nothing.
fn assert_everything_happened(counters: &WorkerCounters) {
    assert_eq!(counters.revision.value(), 200);
    let many = [
        ("forwarded", &counters.forwarded),
        ("to clients", &counters.port(FRONT).tx.packets),
        ("steered", &counters.steered),
        ("steered in", &counters.steered_in),
        ("punted", &counters.punted),
        ("RSTs", &counters.resets),
        ("ICMP errors", &counters.unreachables),
        ("evicted", &counters.evicted),
        ("expired", &counters.expired),
        ("deleted", &counters.deleted),
        ("purged", &counters.purged),
        ("truncated", counters.dropped(DropReason::Truncated)),
        ("TTL", counters.dropped(DropReason::TtlExpired)),
        ("refused by the slow path", counters.dropped(DropReason::SlowPathFull)),
        ("refused by the port", counters.dropped(DropReason::TxRefused)),
        ("refused by the ring", counters.dropped(DropReason::SteerFull)),
    ];
    for (what, counter) in many {
        assert!(counter.value() > 50, "{what}: {}", counter.value());
    }
}
