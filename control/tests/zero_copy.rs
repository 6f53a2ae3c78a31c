//! Proof: what leaves is what came. The mbuf and its buffer that a port sends are those another port received, for DR
//! and for FullNAT both ways; only headers differ.
//!
//! Real mbufs, real `net_ring` ports, a worker as `crossdock run` makes it; the test holds the far ends of the rings.

use std::sync::Arc;

use control::clock::TimestampClock;
use control::device::{PortShare, Transmit, WorkerDevice};
use control::rules::Rules;
use control::rules::build::{Builder, PortFacts, static_next_hops};
use control::rules::slots::NoWorkers;
use cpu::Backing;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::index::WorkerIndex;
use dataplane::line::LineState;
use dataplane::stage::framing::Framing;
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{RulesQueue, Worker};
use dpdk::ring::{self, Consumer};
use dpdk::{Burst, DATA_ROOM_BYTES_DEFAULT, Eal, Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

const FRONT: [u8; 6] = [2, 0, 0, 0, 1, 1];
const BACK: [u8; 6] = [2, 0, 0, 0, 1, 2];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const BACKEND: [u8; 6] = [2, 0, 0, 0, 0, 11];
const PAYLOAD: [u8; 1_200] = [0x5a; 1_200];

const RULES: &str = r#"
    [[port]]
    name = "front"
    device = "ring"
    [[port]]
    name = "back"
    device = "ring"
    local_addresses = ["10.0.0.64/28"]
    [[neighbour]]
    address = "10.0.0.11"
    mac = "02:00:00:00:00:0b"
    port = "back"
    [[service]]
    name = "direct"
    listen = "udp 203.0.113.10:53"
    mode = "dr"
    [[service.backend]]
    address = "10.0.0.11"
    [[service]]
    name = "full"
    listen = "udp 203.0.113.10:5000"
    mode = "fullnat"
    [[service.backend]]
    address = "10.0.0.11:6000"
"#;

/// A `net_ring` port: what its transmit queue takes, its receive queue gives.
fn ring_port(eal: &Eal, pool: &Mempool, name: &str) -> (TxQueue, RxQueue) {
    let mut port = Port::attach(eal, &format!("net_ring_{name}")).expect("net_ring");
    port.configure(&PortConfig::default(), pool).expect("configure");
    let (mut rx, mut tx) = port.start().expect("start");
    (tx.pop().expect("a queue"), rx.pop().expect("a queue"))
}

struct Bench {
    pool: Mempool,
    worker: Worker<WorkerDevice, TimestampClock>,
    to_front: TxQueue,
    to_back: TxQueue,
    from_front: Consumer,
    from_back: RxQueue,
}

impl Bench {
    fn new(eal: &Eal) -> Self {
        let pool = Mempool::create(eal, "packets", 1_023, 0, DATA_ROOM_BYTES_DEFAULT, None).expect("a pool");
        let (to_front, front_rx) = ring_port(eal, &pool, "front");
        let (to_back, back_rx) = ring_port(eal, &pool, "in");
        let (back_tx, from_back) = ring_port(eal, &pool, "out");
        let (front_tx, from_front) = ring::channel(eal, "front", 64).expect("a ring");
        let share = |rx, tx| PortShare {
            framing: Framing::PLAIN,
            computes_checksums: false,
            rx: Some(rx),
            tx,
            from_twin: None,
            handed_over: Vec::new(),
            to_twin: None,
        };
        let ports = vec![share(front_rx, Transmit::Ring(front_tx)), share(back_rx, Transmit::Queue(back_tx))];
        let device = WorkerDevice::new(ports, vec![None], Vec::new(), pool.clone());
        let table = FlowTable::new(
            1_024,
            Backing::Plain,
            HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]),
        );
        let state = LineState::new(
            table.expect("a table"),
            WorkerIndex(0),
            &[MacAddress(FRONT), MacAddress(BACK)],
            1,
        );
        let queue = RulesQueue::default();
        queue.publish(rules().publication(|| 0)).expect("an empty queue");
        let worker =
            Worker::new(device, TimestampClock::start(), WorkerIndex(0), state, Arc::default(), queue);
        Self { pool, worker, to_front, to_back, from_front, from_back }
    }

    fn mbuf(&self, frame: &[u8]) -> Mbuf {
        let mut mbuf = self.pool.alloc().expect("an mbuf");
        mbuf.append(frame.len() as u16).expect("room").copy_from_slice(frame);
        mbuf
    }
}

fn rules() -> control::rules::build::Built {
    let rules = Rules::parse("rules", RULES).unwrap_or_else(|errors| panic!("{}", errors.plain()));
    let facts = [FRONT, BACK].map(|mac| PortFacts {
        mac: MacAddress(mac),
        is_station: true,
        mtu: 0,
        udp_offload: None,
    });
    Builder::new(facts.to_vec(), 1).build(&rules, &static_next_hops(&rules), &NoWorkers).expect("rules")
}

fn frame(macs: ([u8; 6], [u8; 6]), addresses: ([u8; 4], [u8; 4]), l4_ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(addresses.0, addresses.1, 64);
    builder.udp(l4_ports.0, l4_ports.1).write(&mut frame, &PAYLOAD).expect("a frame");
    frame
}

fn addresses_of(mbuf: &Mbuf) -> (usize, usize, usize) {
    (mbuf.mbuf_address(), mbuf.buffer_address(), mbuf.data().as_ptr() as usize)
}

/// Sends the frame in and returns the mbuf that came out, having checked that it is the same.
fn through(
    bench: &mut Bench,
    frame: &[u8],
    send: impl FnOnce(&mut Bench, &mut Burst),
    receive: impl FnOnce(&mut Bench, &mut Burst),
) -> Mbuf {
    let mut burst = Burst::new();
    let mbuf = bench.mbuf(frame);
    let before = addresses_of(&mbuf);
    burst.push(mbuf).expect("room");
    send(bench, &mut burst);
    assert!(burst.is_empty(), "the ring took it");
    assert!(bench.worker.turn());
    receive(bench, &mut burst);
    let mbuf = burst.pop().unwrap_or_else(|| panic!("nothing left: {:?}", bench.worker.line().counters));
    assert!(burst.is_empty());
    assert_eq!(addresses_of(&mbuf), before, "mbuf, buffer and first byte of the frame");
    assert_eq!(mbuf.data()[frame.len() - PAYLOAD.len()..], PAYLOAD);
    mbuf
}

fn endpoints(mbuf: &Mbuf) -> ([u8; 4], u16, [u8; 4], u16) {
    let packet = SlicedPacket::from_ethernet(mbuf.data()).expect("a packet");
    let net = packet.net.expect("IPv4");
    let ipv4 = net.ipv4_ref().expect("IPv4").header();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("UDP") };
    (ipv4.source(), udp.source_port(), ipv4.destination(), udp.destination_port())
}

#[test]
fn the_mbuf_that_leaves_is_the_mbuf_that_came() {
    let prefix = format!("--file-prefix=zero-copy-{}", std::process::id());
    let options = ["--no-huge", "--no-shconf", "--no-telemetry", "-m", "64", "--no-pci", &prefix];
    let eal = Eal::init(&options.map(str::to_owned)).expect("EAL");
    let mut bench = Bench::new(&eal);
    let vip = [203, 0, 113, 10];
    let client = [198, 51, 100, 7];

    let direct = frame((CLIENT, FRONT), (client, vip), (4_000, 53));
    let left = through(
        &mut bench,
        &direct,
        |bench, burst| _ = bench.to_front.transmit(burst),
        |bench, burst| _ = bench.from_back.receive(burst),
    );
    assert_eq!(left.data()[..12], [BACKEND, BACK].concat());
    assert_eq!(endpoints(&left), (client, 4_000, vip, 53));
    drop(left);

    let request = frame((CLIENT, FRONT), (client, vip), (4_000, 5_000));
    let left = through(
        &mut bench,
        &request,
        |bench, burst| _ = bench.to_front.transmit(burst),
        |bench, burst| _ = bench.from_back.receive(burst),
    );
    let (local, local_port, backend, backend_port) = endpoints(&left);
    assert_eq!((backend, backend_port), ([10, 0, 0, 11], 6_000));
    assert_eq!(local[..3], [10, 0, 0]);
    drop(left);

    let answer = frame((BACKEND, BACK), (backend, local), (backend_port, local_port));
    let left = through(
        &mut bench,
        &answer,
        |bench, burst| _ = bench.to_back.transmit(burst),
        |bench, burst| _ = bench.from_front.pop(burst),
    );
    assert_eq!(left.data()[..12], [CLIENT, FRONT].concat());
    assert_eq!(endpoints(&left), (vip, 5_000, client, 4_000));
    drop(left);
    assert_eq!(bench.pool.in_use(), 0, "every mbuf is back");
}
