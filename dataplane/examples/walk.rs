//! Walks packets through the line on the memory twin, for counting what a packet costs: under
//! `valgrind --tool=callgrind`, or against the clock in a release build.
//!
//!     cargo run --release -p dataplane --example walk -- fullnat 64 4096 100000
//!
//! With `crc` or `rss` at the end there is a second worker that gets nothing, so every packet is steered first: by the client's
//! endpoint, or by the hash of ports with RSS.
//!
//! Each flow has one packet, which goes round: what the line sent comes in again with its headers as they
//! were. Restoring them costs the same for every size, and no payload is touched. To be rid of set-up,
//! subtract a run with fewer bursts.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::device::{BURST_MAX, Device, Packets, Transmitted};
use dataplane::flow::{FlowKey, FlowTable};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::rules::{Rss, Ruleset};
use dataplane::stage::steer;
use dataplane::time::{Clock, Millis};
use dataplane::worker::{Publication, RulesQueue, Worker};

use common::director::SECRET;
use common::frames::{ACK, SYN};
use common::rules::{BACK, FRONT, ONE_OF_EACH, PORT_MACS, VIP, states};
use common::{Frame, ruleset};

/// Ethernet, IPv4 and TCP headers without options.
const HEADERS_LEN: usize = 54;
/// Where the control bits lie in those.
const FLAGS_AT: usize = 47;

/// The headers of a packet as they come in.
type Headers = [u8; HEADERS_LEN];

/// Packets that go round between a port and the clients; `tag` is the number of the flow.
struct Carousel {
    waiting: VecDeque<MemoryPacket>,
    headers: Vec<Headers>,
}

impl Device for Carousel {
    type Packet = MemoryPacket;

    fn port_count(&self) -> usize {
        2
    }

    fn receive(&mut self, port: PortIndex, into: &mut Packets<MemoryPacket>) {
        if port != FRONT {
            return;
        }
        while !into.is_full() {
            let Some(mut packet) = self.waiting.pop_front() else { return };
            let headers = &self.headers[packet.tag as usize];
            packet.data_mut()[..HEADERS_LEN].copy_from_slice(headers);
            into.push(packet);
        }
    }

    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<MemoryPacket>) -> Transmitted {
        assert_eq!(port, BACK, "clients' packets go to backends");
        self.waiting.extend(packets.drain(..));
        Transmitted::Sent
    }

    fn receive_steered(&mut self, _into: &mut Packets<MemoryPacket>) {}

    fn steer(&mut self, _owner: WorkerIndex, _packets: &mut Packets<MemoryPacket>) {}

    fn receive_from_twin(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn receive_handed_over(&mut self, _port: PortIndex, _into: &mut Packets<MemoryPacket>) {}

    fn has_twin(&self, _port: PortIndex) -> bool {
        false
    }

    fn punt(&mut self, _port: PortIndex, _packets: &mut Packets<MemoryPacket>) {}

    fn reserve(&mut self) -> Option<MemoryPacket> {
        None
    }
}

/// A clock that stands still: no flow expires.
struct Still;

impl Clock for Still {
    fn now(&mut self) -> Millis {
        Millis(1)
    }
}

struct Arguments {
    l4_port: u16,
    frame_len: usize,
    flows: u32,
    bursts: u64,
    steering: Steering,
}

/// What decides who owns a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steering {
    Off,
    Crc,
    Rss,
}

impl Arguments {
    fn parse() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        let l4_port = match arguments.next()?.as_str() {
            "dr" => 80,
            "fullnat" => 8080,
            _ => return None,
        };
        let frame_len = arguments.next()?.parse().ok().filter(|len| (HEADERS_LEN..=1_514).contains(len))?;
        let flows = arguments.next()?.parse().ok().filter(|flows| (1..=1 << 20).contains(flows))?;
        let bursts = arguments.next()?.parse().ok()?;
        let steering = match arguments.next().as_deref() {
            None => Steering::Off,
            Some("crc") => Steering::Crc,
            Some("rss") => Steering::Rss,
            Some(_) => return None,
        };
        arguments.next().is_none().then_some(Self { l4_port, frame_len, flows, bursts, steering })
    }

    fn rules(&self) -> Ruleset {
        match self.steering {
            Steering::Off => ruleset(1, &ONE_OF_EACH),
            Steering::Crc => ruleset(2, &ONE_OF_EACH),
            Steering::Rss => {
                let rss = Rss::new(&(1..=40).collect::<Vec<u8>>(), 128, 2);
                Ruleset { rss: Some(Arc::new(rss)), ..ruleset(2, &ONE_OF_EACH) }
            }
        }
    }
}

/// The packets of the flows that the first worker owns.
fn carousel(arguments: &Arguments, rules: &Ruleset) -> Carousel {
    let mut carousel = Carousel { waiting: VecDeque::new(), headers: Vec::new() };
    let payload = vec![0xa5; arguments.frame_len - HEADERS_LEN];
    let clients = (0u32..)
        .map(|number| (Ipv4Addr::from(0xc612_0000 + (number >> 10)), 1_024 + (number & 1_023) as u16));
    let owned = clients.filter(|client| {
        let owner = steer::owner(&FlowKey::new(*client, (VIP, arguments.l4_port), 6), rules);
        rules.worker_count == 1 || owner == Some(WorkerIndex(0))
    });
    for (flow, client) in (0..arguments.flows).zip(owned) {
        let frame = Frame::tcp(client, (VIP, arguments.l4_port), SYN).with_payload(payload.clone()).bytes();
        carousel.headers.extend(frame.first_chunk::<HEADERS_LEN>());
        let mut packet = MemoryPacket::new(frame, FRONT);
        packet.tag = u64::from(flow);
        carousel.waiting.push_back(packet);
    }
    carousel
}

fn worker(carousel: Carousel, flows: u32, rules: Ruleset) -> (Worker<Carousel, Still>, Arc<WorkerCounters>) {
    let table = FlowTable::new(flows * 2, Backing::Plain, SECRET).expect("memory for the table");
    let state = LineState::new(table, WorkerIndex(0), &PORT_MACS, 0);
    let (counters, queue) = (Arc::<WorkerCounters>::default(), RulesQueue::default());
    let publication =
        Publication { ruleset: Arc::new(rules), states: states(ONE_OF_EACH.len()), templates: None };
    queue.publish(publication).expect("the queue is empty");
    (Worker::new(carousel, Still, WorkerIndex(0), state, Arc::clone(&counters), queue), counters)
}

fn main() {
    let Some(arguments) = Arguments::parse() else {
        eprintln!("usage: walk dr|fullnat FRAME_BYTES(54-1514) FLOWS BURSTS [crc|rss]");
        std::process::exit(2);
    };
    let rules = arguments.rules();
    let (mut worker, counters) = worker(carousel(&arguments, &rules), arguments.flows, rules);
    // Every flow opens with a SYN; from then on it sends data.
    for _ in 0..arguments.flows.div_ceil(BURST_MAX as u32) {
        worker.turn();
    }
    for headers in &mut worker.device_mut().headers {
        headers[FLAGS_AT] = ACK;
    }
    let before = counters.forwarded.value();
    let start = Instant::now();
    for _ in 0..arguments.bursts {
        worker.turn();
    }
    let elapsed_ns = start.elapsed().as_nanos() as u64;
    let packets = counters.forwarded.value() - before;
    let dropped = counters.dropped_total();
    println!("{packets} packets, {dropped} dropped, {} ns a packet", elapsed_ns / packets.max(1));
    assert_eq!(dropped, 0, "every flow has its connection");
}
