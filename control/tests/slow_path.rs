//! The slow path against the kernel's own TAP: a twin in a network namespace without a name, which ends with the
//! process. Needs root and iproute2.
//!
//! Not libtest but a `main` of its own: DPDK starts once per process, and, as in service, net_tap's signal has to be
//! blocked in the first thread before there is another. libtest's first thread would take it, and hide that the
//! slow-path thread must.

#![forbid(unsafe_code)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use control::rules;
use control::slow_path::{
    ClassSnapshot, Limits, SlowPath, SlowPathCounters, TwinPort, TwinSnapshot, signals,
};
use dataplane::index::PortIndex;
use dpdk::ring::{self, Consumer, Producer};
use dpdk::{Burst, DATA_ROOM_BYTES_DEFAULT, Eal, Mbuf, Mempool, Port, PortConfig};
use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

const IFNAME: &str = "xdtwin";
const TWIN: [u8; 6] = [2, 0, 0, 0, 0, 5];
const TWIN_ADDRESS: [u8; 4] = [192, 0, 2, 5];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const PEER_ADDRESS: [u8; 4] = [192, 0, 2, 9];
const PORT: PortIndex = PortIndex(1);
const RATES: rules::SlowPath = rules::SlowPath { arp: 1_000, routing: 1_000, local: 1_000, rest: 100 };
/// What a rate of 100 passes at once: one DPDK burst.
const REST_BURST: u64 = 32;
/// `SIGIO` in [`pending_signals`].
const SIGIO: u64 = 1 << (Signal::SIGIO as u32 - 1);
/// The real-time signals there: 32 and above.
const REAL_TIME: u64 = !0 << 31;
/// A wait that ends a test which would hang; no test measures time with it.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    signals::block();
    unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root: run scripts/test");
    let prefix = format!("--file-prefix=xd-slow-path-{}", std::process::id());
    let args = ["--no-huge", "-m", "128", "--no-pci", "-l", "0", "--no-telemetry", "--no-shconf", &prefix];
    let eal = Eal::init(&args.map(String::from)).expect("EAL starts without huge pages, as root");
    let pool = Mempool::create(&eal, "packets", 4_095, 32, DATA_ROOM_BYTES_DEFAULT, None).expect("a pool");

    let tap = format!("net_tap_twin,iface={IFNAME},mac={}", TWIN.map(|byte| format!("{byte:02x}")).join(":"));
    let test = |name: &str, devargs: &str, test: fn(&mut Bench)| {
        print!("test {name} ... ");
        test(&mut Bench::new(&eal, &pool, devargs));
        assert_eq!(pool.in_use(), 0, "{name}: mbufs are missing from the pool");
        println!("ok");
    };
    // net_ring leaves its ring behind, so each test has one of its own.
    test("the_mbuf_itself_passes_untouched", "net_ring0", the_mbuf_itself_passes_untouched);
    test("a_full_ring_to_the_worker_is_counted", "net_ring1", a_full_ring_to_the_worker_is_counted);
    test("other_rates_hold_from_the_next_turn", "net_ring2", other_rates_hold_from_the_next_turn);
    test("the_kernel_answers_arp", &tap, the_kernel_answers_arp);
    test("a_flood_of_junk_costs_the_junk", &tap, a_flood_of_junk_costs_the_junk);
    test("a_refused_frame_is_dropped_alone", &tap, a_refused_frame_is_dropped_alone);
    test("a_twin_that_is_down_loses_counted_packets", &tap, a_twin_that_is_down_loses_counted_packets);
    test("a_full_signal_queue_does_not_end_the_process", &tap, a_full_signal_queue_does_not_end_the_process);
}

/// net_ring gives back what it is sent, so the mbuf that reaches the twin can be looked at.
fn the_mbuf_itself_passes_untouched(bench: &mut Bench) {
    let identity = |mbuf: &Mbuf| (mbuf.mbuf_address(), mbuf.buffer_address(), mbuf.data().to_vec());
    let mut sent = Vec::new();
    for worker in 0..2 {
        let mbuf = bench.mbuf(&arp(ArpOperation::REQUEST));
        sent.push(identity(&mbuf));
        bench.punt(worker, mbuf);
    }
    let now = Instant::now();
    assert!(bench.slow_path.turn(now), "something moved");
    let arrived: Vec<_> = bench.arrived(2).iter().map(identity).collect();
    assert_eq!(arrived, sent);
    assert!(!bench.slow_path.turn(now), "nothing is left");
    assert_eq!(bench.counts().arp, ClassSnapshot { to_kernel: 2, from_kernel: 2, ..Default::default() });
}

/// Of 128 asked 100 may pass, and 63 of them fit the ring.
fn a_full_ring_to_the_worker_is_counted(bench: &mut Bench) {
    bench.punt_all(0, 128, &arp(ArpOperation::REQUEST));
    bench.turn_until_idle(Instant::now());
    let expected =
        ClassSnapshot { to_kernel: 100, policed: 28, from_kernel: 63, worker_ring_full: 37, twin_refused: 0 };
    assert_eq!(bench.counts().arp, expected);
}

fn other_rates_hold_from_the_next_turn(bench: &mut Bench) {
    let mut now = Instant::now();
    for (rest, passed) in [(0, 0), (500, 50), (RATES.rest, REST_BURST)] {
        bench.limits.set(&rules::SlowPath { rest, ..RATES });
        // One turn takes up the rate, and a second's tokens at that rate fill the bucket.
        bench.slow_path.turn(now);
        now += Duration::from_secs(1);
        let before = bench.counts().rest;
        bench.punt_all(0, 60, &junk());
        bench.turn_until_idle(now);
        let counts = bench.counts().rest;
        assert_eq!(counts.to_kernel - before.to_kernel, passed, "at {rest} packets per second");
        assert_eq!(counts.policed - before.policed, 60 - passed);
        bench.arrived(passed as usize);
    }
}

fn the_kernel_answers_arp(bench: &mut Bench) {
    let request = bench.mbuf(&arp(ArpOperation::REQUEST));
    bench.punt(1, request);
    let answers = bench.serve(|workers| {
        let answers = workers.arrived(1);
        // The thread takes net_tap's signals: left pending they would fill the user's queue.
        until("the signal to be taken", || (pending_signals() & REAL_TIME == 0).then_some(()));
        answers
    });
    assert_eq!(answers[0].data(), arp(ArpOperation::REPLY));
    let arp = ClassSnapshot { to_kernel: 1, from_kernel: 1, ..Default::default() };
    assert_eq!(bench.counts(), TwinSnapshot { arp, ..Default::default() });
}

/// The kernel's own count of the interface says what came through.
fn a_flood_of_junk_costs_the_junk(bench: &mut Bench) {
    bench.punt_all(0, 500, &junk());
    let request = bench.mbuf(&arp(ArpOperation::REQUEST));
    bench.punt(0, request);
    bench.punt_all(0, 500, &junk());
    bench.turn_until_idle(Instant::now());

    let rest = ClassSnapshot { to_kernel: REST_BURST, policed: 1_000 - REST_BURST, ..Default::default() };
    assert_eq!((bench.counts().rest, bench.counts().arp.to_kernel), (rest, 1));
    assert_eq!(kernel_rx_packets(), REST_BURST + 1);
    let answers = bench.serve(|workers| workers.arrived(1));
    assert_eq!(answers[0].data(), arp(ArpOperation::REPLY));
}

/// net_tap stops at a frame longer than the MTU; those behind it must not share its fate.
fn a_refused_frame_is_dropped_alone(bench: &mut Bench) {
    let too_long = [&junk()[..], &[0; 1_600]].concat();
    for frame in [&too_long, &junk(), &too_long, &too_long, &arp(ArpOperation::REQUEST)] {
        let mbuf = bench.mbuf(frame);
        bench.punt(0, mbuf);
    }
    bench.turn_until_idle(Instant::now());
    let counts = bench.counts();
    assert_eq!(counts.rest, ClassSnapshot { to_kernel: 1, twin_refused: 3, ..Default::default() });
    assert_eq!((counts.arp.to_kernel, counts.arp.twin_refused), (1, 0));
    assert_eq!(kernel_rx_packets(), 2);
}

fn a_twin_that_is_down_loses_counted_packets(bench: &mut Bench) {
    ip("link set dev xdtwin down");
    bench.punt_all(0, 40, &arp(ArpOperation::REQUEST));
    bench.turn_until_idle(Instant::now());
    assert_eq!(bench.counts().arp, ClassSnapshot { twin_refused: 40, ..Default::default() });
    ip("link set dev xdtwin up");
    let request = bench.mbuf(&arp(ArpOperation::REQUEST));
    bench.punt(0, request);
    let answers = bench.serve(|workers| workers.arrived(1));
    assert_eq!(answers[0].data(), arp(ArpOperation::REPLY));
}

/// Where no real-time signal can be queued the kernel sends SIGIO, which ends a process that does not block it.
fn a_full_signal_queue_does_not_end_the_process(bench: &mut Bench) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_SIGPENDING).expect("the limit");
    setrlimit(Resource::RLIMIT_SIGPENDING, 0, hard).expect("a lower limit");
    let request = bench.mbuf(&arp(ArpOperation::REQUEST));
    bench.punt(0, request);
    bench.serve(|_| until("SIGIO", || (pending_signals() & SIGIO != 0).then_some(())));
    setrlimit(Resource::RLIMIT_SIGPENDING, soft, hard).expect("the limit there was");

    // The next packet's signal fetches both answers.
    let request = bench.mbuf(&arp(ArpOperation::REQUEST));
    bench.punt(0, request);
    let answers = bench.serve(|workers| workers.arrived(2));
    assert!(answers.iter().all(|answer| answer.data() == arp(ArpOperation::REPLY)));
}

/// A slow path with one twin, and the workers' ends of its rings.
struct Bench {
    eal: Eal,
    pool: Mempool,
    slow_path: SlowPath,
    limits: Arc<Limits>,
    counters: Arc<SlowPathCounters>,
    to_twin: [Producer; 2],
    from_twin: Consumer,
    _device: Port,
}

impl Bench {
    /// With two workers; the ring back to the worker holds 63.
    fn new(eal: &Eal, pool: &Mempool, devargs: &str) -> Self {
        let mut device = Port::attach(eal, devargs).expect("the device attaches");
        device.configure(&PortConfig::default(), pool).expect("the device configures");
        let (mut rx, mut tx) = device.start().expect("the device starts");
        if devargs.starts_with("net_tap") {
            // IPv6 is off so that the kernel sends nothing that no test asked for.
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{IFNAME}/disable_ipv6");
            if fs::exists(&ipv6).expect("/proc") {
                fs::write(&ipv6, "1").expect("the namespace's own setting");
            }
            ip("address add 192.0.2.5/24 dev xdtwin");
            ip("link set dev xdtwin up");
        }
        let ring = |name: &str, size| ring::channel(eal, name, size).expect("a ring");
        let (rings, (to_worker, from_twin)) = ([ring("punt0", 2_048), ring("punt1", 64)], ring("twin", 64));
        let [(first, first_end), (second, second_end)] = rings;
        let twin = TwinPort {
            port: PORT,
            from_workers: vec![first_end, second_end],
            to_worker,
            rx: rx.pop().expect("one queue"),
            tx: tx.pop().expect("one queue"),
        };
        let (limits, counters) = (Arc::new(Limits::new(&RATES)), Arc::new(SlowPathCounters::default()));
        Self {
            eal: eal.clone(),
            pool: pool.clone(),
            slow_path: SlowPath::new(vec![twin], Arc::clone(&limits), Arc::clone(&counters)),
            limits,
            counters,
            to_twin: [first, second],
            from_twin,
            _device: device,
        }
    }

    fn counts(&self) -> TwinSnapshot {
        self.counters.snapshot(PORT)
    }

    fn mbuf(&self, frame: &[u8]) -> Mbuf {
        let mut mbuf = self.pool.alloc().expect("the pool has mbufs");
        mbuf.append(frame.len().try_into().expect("a frame")).expect("room").copy_from_slice(frame);
        mbuf
    }

    fn punt(&mut self, worker: usize, mbuf: Mbuf) {
        let mut burst = Burst::new();
        burst.push(mbuf).expect("room for one");
        assert_eq!(self.to_twin[worker].push(&mut burst), 1, "the ring has room");
    }

    fn punt_all(&mut self, worker: usize, count: usize, frame: &[u8]) {
        for _ in 0..count {
            let mbuf = self.mbuf(frame);
            self.punt(worker, mbuf);
        }
    }

    /// Time stands still meanwhile, so no token accrues.
    fn turn_until_idle(&mut self, now: Instant) {
        while self.slow_path.turn(now) {}
    }

    /// Runs `work` while a thread of its own serves the twin.
    fn serve<T>(&mut self, work: impl FnOnce(&mut Workers<'_>) -> T) -> T {
        let stop = AtomicBool::new(false);
        let (eal, slow_path) = (&self.eal, &mut self.slow_path);
        let mut workers = Workers { from_twin: &mut self.from_twin };
        thread::scope(|scope| {
            scope.spawn(|| {
                let _registration = dpdk::thread::register(eal).expect("an lcore id");
                slow_path.run(&stop);
            });
            let _stop = StopOnDrop(&stop);
            work(&mut workers)
        })
    }

    fn arrived(&mut self, count: usize) -> Vec<Mbuf> {
        Workers { from_twin: &mut self.from_twin }.arrived(count)
    }
}

/// What stays with the test while the slow path is with its thread.
struct Workers<'a> {
    from_twin: &'a mut Consumer,
}

impl Workers<'_> {
    /// Waits for so many packets that worker 0 is to send.
    fn arrived(&mut self, count: usize) -> Vec<Mbuf> {
        let mut mbufs = Vec::new();
        until("packets from the twin", || {
            let mut burst = Burst::new();
            self.from_twin.pop(&mut burst);
            mbufs.extend(burst.drain());
            (mbufs.len() >= count).then_some(())
        });
        assert_eq!(mbufs.len(), count, "no more than that");
        mbufs
    }
}

/// A failed assertion stops the thread too, and with it the test.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A request from the peer for the twin's address, or the answer to it.
fn arp(operation: ArpOperation) -> Vec<u8> {
    let request = operation == ArpOperation::REQUEST;
    let (sender, target) = if request {
        ((PEER, PEER_ADDRESS), ([0; 6], TWIN_ADDRESS))
    } else {
        ((TWIN, TWIN_ADDRESS), (PEER, PEER_ADDRESS))
    };
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: sender.0,
        sender_ipv4: sender.1,
        target_mac: target.0,
        target_ipv4: target.1,
    };
    let destination = if request { [0xff; 6] } else { PEER };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(sender.0, destination)
        .arp(packet.to_arp_packet())
        .write(&mut frame)
        .expect("a frame");
    frame
}

/// An EtherType for local experiments (IEEE 802), which no kernel answers.
fn junk() -> Vec<u8> {
    [&TWIN[..], &PEER, &[0x88, 0xb5], &[0; 46]].concat()
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip: apt install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What the kernel counts as received by the interface.
fn kernel_rx_packets() -> u64 {
    let shown: serde_json::Value = serde_json::from_str(&ip("-s -j link show dev xdtwin")).expect("JSON");
    shown[0]["stats64"]["rx"]["packets"].as_u64().expect("a count")
}

/// The signals sent to the process that no thread has taken yet: bit 0 is signal 1.
fn pending_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let pending =
        status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("a line of pending signals");
    u64::from_str_radix(pending.trim(), 16).expect("a bit mask")
}
