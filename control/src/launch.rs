//! Brings the data path up: DPDK, memory, ports, rings, one pinned thread a worker, one for the slow path.
//!
//! Nothing here decides where a packet goes; when it is done the workers poll, without rules yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow, bail};
use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::walk::WalkQueue;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::fragments::FragmentLimits;
use dataplane::index::{PORTS_MAX, PortIndex, WORKERS_MAX, WorkerIndex};
use dataplane::line::LineState;
use dataplane::path::PathReports;
use dataplane::rules::Rss;
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{Idle, RulesQueue, Worker};
use dpdk::ring::{self, Consumer, Producer};
use dpdk::{DATA_ROOM_BYTES_DEFAULT, Eal, Mempool, Port, PortConfig};
use nix::sys::signal::SigSet;
use tracing::warn;

use crate::clock::TimestampClock;
use crate::device::{PortShare, Transmit, WorkerDevice};
use crate::framing;
use crate::memory::{self, Chosen};
use crate::offload;
use crate::ports::{self, DESCRIPTORS, OpenPort, Opening};
use crate::random;
use crate::rss::{Agreement, Spreading};
use crate::rules::build::PortFacts;
use crate::rules::slots::Census;
use crate::rules::{self, KernelDriver, Rules, Workers};
use crate::slow_path::checks::CheckQueue;
use crate::slow_path::{Limits, SlowPath, SlowPathCounters, TwinPort, signals};
use crate::table_memory;

/// Mbufs in a ring between two threads: some bursts of each of their sources.
const RING_SIZE: u32 = 1_024;
/// Mbufs a thread keeps in its own mempool cache.
const CACHE_SIZE: u32 = 256;
/// The same of mbufs for jumbo frames, of which there are few: 64 threads' caches are not all of them.
const JUMBO_CACHE_SIZE: u32 = 32;

/// A running worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// The core it is pinned to.
    pub core: usize,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// Where it takes its rules from.
    pub rules: RulesQueue,
    /// Where it takes orders to walk over its connections from.
    pub walks: WalkQueue,
    /// Where it tells of narrow ways.
    pub path_reports: PathReports,
    /// What its flow table stands on.
    pub table_backing: Backing,
    /// Entries of its flow table.
    pub table_capacity: u32,
    /// `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

/// A port in service.
#[derive(Debug)]
pub struct PortHandle {
    /// Its name in the rules.
    pub name: String,
    /// What the line knows of it.
    pub facts: PortFacts,
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// How it spreads packets over the workers.
    pub spreading: Spreading,
    /// The interface of its kernel twin.
    pub twin_ifname: Option<String>,
    /// DPDK's view of it.
    pub device: Port,
}

/// A data path in service.
#[derive(Debug)]
pub struct Running {
    /// In the order of the rules.
    pub ports: Vec<PortHandle>,
    /// By [`WorkerIndex`].
    pub workers: Vec<WorkerHandle>,
    /// The owners of flows by the hash of ports with RSS, where there are any.
    pub rss: Option<Arc<Rss>>,
    /// Rates of the slow path's classes.
    pub slow_path_limits: Arc<Limits>,
    /// What the slow path counts.
    pub slow_path_counters: Arc<SlowPathCounters>,
    /// Where the slow path hears whom to check, and how.
    pub checks: CheckQueue,
    /// What DPDK's memory stands on.
    pub memory: Chosen,
    slow_path: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Stops and joins every thread; the ports close when this is dropped. What was counted stays readable.
    ///
    /// # Errors
    /// When a thread panicked; the others have ended all the same.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut result = Ok(());
        let mut join = |thread: Option<JoinHandle<()>>, what: &str| {
            if thread.is_some_and(|thread| thread.join().is_err()) && result.is_ok() {
                result = Err(anyhow!("{what} panicked"));
            }
        };
        for worker in &mut self.workers {
            join(worker.thread.take(), &format!("the worker on core {}", worker.core));
        }
        join(self.slow_path.take(), "the slow path");
        result
    }

    /// Whether a thread has ended that should not have.
    pub fn has_lost_a_thread(&self) -> bool {
        self.workers.iter().filter_map(|worker| worker.thread.as_ref()).any(JoinHandle::is_finished)
            || self.slow_path.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

/// However a start or a run ends: a port closes only when no thread has a queue of it any more, and what it took from the
/// machine (sockets, XDP programs, TAPs) goes with it.
impl Drop for Running {
    fn drop(&mut self) {
        if let Err(reason) = self.stop() {
            warn!("{reason}");
        }
    }
}

impl Census for Running {
    fn revision_in_force(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters.revision.value()).min().unwrap_or(0)
    }

    fn open_connections(&self, backend_slot: usize) -> u64 {
        let index = dataplane::index::BackendIndex(backend_slot as u32);
        let of_worker = |worker: &WorkerHandle| {
            let backend = worker.counters.backend(index);
            // Closed is read first: a connection counted in between shows as open, never the other way.
            let closed = backend.closed.value();
            backend.opened.value().saturating_sub(closed)
        };
        self.workers.iter().map(of_worker).sum()
    }
}

/// The cores of the workers, and the one that control keeps if there is one left for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// One a worker.
    pub workers: Vec<usize>,
    /// For control and the slow path.
    pub control: usize,
}

/// Shares the cores this process may use.
///
/// # Errors
/// When the rules name a core that is not among them, or more workers than there can be.
pub fn share_cores(wanted: &Workers, allowed: &[usize]) -> anyhow::Result<Cores> {
    let first = *allowed.first().context("this process may run on no core at all")?;
    let workers = match wanted {
        Workers::Auto if allowed.len() == 1 => vec![first],
        Workers::Auto => allowed[1..].iter().copied().take(WORKERS_MAX).collect(),
        Workers::Cores(cores) => cores.clone(),
    };
    if let Some(core) = workers.iter().find(|core| !allowed.contains(core)) {
        bail!("[dataplane] workers: core {core} is not among the cores this process may use, {allowed:?}");
    }
    if workers.len() > WORKERS_MAX {
        bail!("[dataplane] workers: {} workers; at most {WORKERS_MAX} are possible", workers.len());
    }
    let control = allowed.iter().copied().find(|core| !workers.contains(core)).unwrap_or(first);
    Ok(Cores { workers, control })
}

/// Starts everything for `rules`. The calling thread, control's, stays on its core from now on, unless a worker has that
/// core too.
///
/// # Errors
/// Whatever could not be had, with the rule that asked for it.
pub fn launch(rules: &Rules) -> anyhow::Result<Running> {
    if rules.ports.len() > PORTS_MAX {
        bail!("{} ports; at most {PORTS_MAX} are possible", rules.ports.len());
    }
    let allowed =
        affinity::get_thread_affinity().map_err(|error| anyhow!("which cores may be used: {error}"))?;
    let cores = share_cores(&rules.dataplane.workers, &allowed)?;
    let worker_count = cores.workers.len() as u16;
    let mbuf_count = mbuf_count(rules, u32::from(worker_count));
    let mbufs_worth = mbuf_count + framing::mbufs_worth_of_pools(&rules.ports);
    let memory = memory::choose(rules.dataplane.memory, mbufs_worth, ports::physical_reader(&rules.ports))?;
    table_memory::check(rules.dataplane.memory, rules.dataplane.max_flows, worker_count)?;
    // Before EAL starts threads of its own: they inherit what is blocked here,
    signals::block();
    // and go where this thread may, its lcore excepted if there is more (Programmer's Guide, "Control Thread API").
    if !cores.workers.contains(&cores.control) {
        affinity::set_thread_affinity([cores.control])
            .map_err(|error| anyhow!("control on core {}: {error}", cores.control))?;
    }
    let eal = Eal::init(&eal_arguments(rules, &cores, memory, mbufs_worth)).context("DPDK does not start")?;
    let pool = Mempool::create(&eal, "packets", mbuf_count, CACHE_SIZE, DATA_ROOM_BYTES_DEFAULT, None)?;
    let agreement = Agreement::new(worker_count);
    let sends_segments = framing::has_segments(&rules.ports);
    let sums_datagrams = offload::sums_datagrams(&rules.services);
    let (twins, shares) = (Vec::new(), Vec::new());
    let mut launch =
        Launch { eal, pool, worker_count, sends_segments, sums_datagrams, agreement, twins, shares };
    launch.shares.resize_with(usize::from(worker_count), Vec::new);
    let mut ports = Vec::new();
    for (index, port) in rules.ports.iter().enumerate() {
        ports.push(launch.open(PortIndex(index as u16), port)?);
    }
    // From here on threads run: what fails below drops this, which stops those that do.
    let mut running = Running {
        ports,
        workers: Vec::new(),
        rss: launch.agreement.finish(),
        slow_path_limits: Arc::new(Limits::new(&rules.slow_path)),
        slow_path_counters: Arc::default(),
        checks: CheckQueue::default(),
        memory,
        slow_path: None,
        stop: Arc::default(),
    };
    launch.start_workers(rules, &cores.workers, &mut running)?;
    let has_tap = |port: &rules::Port| matches!(port.device.kernel_interface(), Some((KernelDriver::Tap, _)));
    if !launch.twins.is_empty() || rules.ports.iter().any(has_tap) {
        launch.start_slow_path(&cores, &mut running)?;
    }
    Ok(running)
}

fn eal_arguments(rules: &Rules, cores: &Cores, memory: Chosen, mbuf_count: u32) -> Vec<String> {
    let mut arguments = vec!["-l".into(), cores.control.to_string(), "--no-telemetry".into()];
    // A prefix of its own, so that several run side by side.
    arguments.push(format!("--file-prefix=crossdock-{}", std::process::id()));
    arguments.extend(memory::eal_arguments(memory, mbuf_count));
    arguments.extend(ports::eal_arguments(&rules.ports));
    arguments
}

/// Huge pages of 2 MiB that DPDK's memory takes for these rules, with workers on so many cores.
pub fn huge_pages_needed(rules: &Rules, worker_count: usize) -> u64 {
    memory::huge_pages(mbuf_count(rules, worker_count as u32) + framing::mbufs_worth_of_pools(&rules.ports))
}

/// Mbufs that can be out at once: every place that can hold one, added up, and a quarter to spare.
fn mbuf_count(rules: &Rules, workers: u32) -> u32 {
    let ports = rules.ports.len() as u32;
    let twins = rules.ports.iter().filter(|port| port.kernel).count() as u32;
    let descriptors = 2 * u32::from(DESCRIPTORS);
    let in_queues = descriptors * (ports * workers + twins);
    let in_rings =
        RING_SIZE * (workers * workers.saturating_sub(1) + (workers + 1) * twins + workers * ports);
    // A cache holds half as much again before it gives back (Mempool Library, "Local Cache").
    let in_caches = (workers + 2) * CACHE_SIZE * 3 / 2;
    // Of these a worker's last one is its reserve's: what it takes there it sends burst by burst.
    let in_bursts = (workers + 1) * 32 * (2 * ports + workers + 3);
    let in_drivers: u32 = rules.ports.iter().map(|port| ports::held_mbufs(port, workers)).sum();
    // Fragments that wait for the first of their datagram.
    let waiting = workers * u32::from(rules.dataplane.fragments.waiting);
    let sum = in_queues + in_drivers + in_rings + in_caches + in_bursts + waiting;
    // Best one less than a power of two (rte_mempool_create).
    (sum + sum / 4).next_power_of_two() - 1
}

/// Parts on their way to their threads.
struct Launch {
    eal: Eal,
    pool: Mempool,
    worker_count: u16,
    /// Whether packets may lie in several buffers when they are sent.
    sends_segments: bool,
    /// Whether they may need a UDP checksum over all of the datagram.
    sums_datagrams: bool,
    agreement: Agreement,
    twins: Vec<TwinPort>,
    /// By worker, then by port.
    shares: Vec<Vec<PortShare>>,
}

impl Launch {
    fn channel(&self, name: &str) -> anyhow::Result<(Producer, Consumer)> {
        Ok(ring::channel(&self.eal, name, RING_SIZE)?)
    }

    /// Opens a port, shares its queues out, and gives it its twin.
    fn open(&mut self, index: PortIndex, port: &rules::Port) -> anyhow::Result<PortHandle> {
        let OpenPort { port: device, rx, tx, facts, mtu, spreading, framing } =
            self.open_device(index, port)?;
        let mut handed_over = Vec::new();
        let (mut rx, mut tx) = (rx.into_iter(), tx.into_iter());
        for worker in 0..usize::from(self.worker_count) {
            let tx = match tx.next() {
                Some(queue) => Transmit::Queue(queue),
                None => {
                    let (producer, consumer) = self.channel(&format!("tx.{}.{worker}", index.0))?;
                    handed_over.push(consumer);
                    Transmit::Ring(producer)
                }
            };
            self.shares[worker].push(PortShare {
                framing,
                computes_checksums: facts.udp_offload.is_some(),
                rx: rx.next(),
                tx,
                from_twin: None,
                handed_over: Vec::new(),
                to_twin: None,
            });
        }
        let twin_ifname = if port.kernel { Some(self.open_twin(index, port, facts.mac)?) } else { None };
        if let Some(share) = self.shares[0].last_mut() {
            share.handed_over = handed_over;
        }
        Ok(PortHandle { name: port.name.clone(), facts, mtu, spreading, twin_ifname, device })
    }

    fn open_device(&mut self, index: PortIndex, port: &rules::Port) -> anyhow::Result<OpenPort> {
        let own = framing::pool_of_its_own(port).map(|(count, room)| {
            Mempool::create(&self.eal, &format!("jumbo.{}", index.0), count, JUMBO_CACHE_SIZE, room, None)
        });
        let pool = own.transpose()?;
        let opening = Opening {
            eal: &self.eal,
            worker_count: self.worker_count,
            pool: pool.as_ref().unwrap_or(&self.pool),
            sends_segments: self.sends_segments,
            sums_datagrams: self.sums_datagrams,
        };
        ports::open(opening, (index, port), &mut self.agreement)
    }

    /// Makes the TAP that carries the port's MAC, and the rings between the workers and it.
    fn open_twin(&mut self, index: PortIndex, port: &rules::Port, mac: MacAddress) -> anyhow::Result<String> {
        let ifname = rules::twin_ifname(&port.name);
        let what = || format!("[[port]] {}: kernel = true: the TAP {ifname}", port.name);
        ports::refuse_existing_interface(&ifname, "another Crossdock's? give this [[port]] another name")
            .with_context(what)?;
        // No port's own device is called this: theirs have an underscore before the name.
        let devargs = format!("net_taptwin_{},iface={ifname},mac={mac}", port.name);
        let mut device = Port::attach(&self.eal, &devargs).with_context(what)?;
        device.configure(&PortConfig::default(), &self.pool).with_context(what)?;
        let (mut rx, mut tx) = device.start().with_context(what)?;
        let (rx, tx) = rx.pop().zip(tx.pop()).with_context(what)?;
        let mut from_workers = Vec::new();
        for worker in 0..usize::from(self.worker_count) {
            let (producer, consumer) = self.channel(&format!("punt.{}.{worker}", index.0))?;
            from_workers.push(consumer);
            if let Some(share) = self.shares[worker].last_mut() {
                share.to_twin = Some(producer);
            }
        }
        let (to_worker, consumer) = self.channel(&format!("twin.{}", index.0))?;
        if let Some(share) = self.shares[0].last_mut() {
            share.from_twin = Some(consumer);
        }
        self.twins.push(TwinPort { port: index, from_workers, to_worker, rx, tx });
        Ok(ifname)
    }

    fn start_workers(&mut self, rules: &Rules, cores: &[usize], running: &mut Running) -> anyhow::Result<()> {
        let macs: Vec<_> = running.ports.iter().map(|port| port.facts.mac).collect();
        let ends = self.steering_rings()?;
        let shares = std::mem::take(&mut self.shares);
        // One origin for all: what workers share, they must read at the same time.
        let clock = TimestampClock::start();
        let counters: Vec<Arc<WorkerCounters>> = cores.iter().map(|_| Arc::default()).collect();
        for (worker, ((core, ends), ports)) in cores.iter().zip(ends).zip(shares).enumerate() {
            let start = WorkerStart {
                device: WorkerDevice::new(ports, ends.to, ends.from, self.pool.clone()),
                worker: WorkerIndex(worker as u16),
                core: *core,
                eal: self.eal.clone(),
                macs: macs.clone(),
                max_flows: rules.dataplane.max_flows,
                fragments: rules.dataplane.fragments,
                idle: idle(rules.dataplane.idle),
                clock,
                counters: Arc::clone(&counters[worker]),
                peers: all_but(&counters, worker),
                rules: RulesQueue::default(),
                stop: Arc::clone(&running.stop),
            };
            running.workers.push(start_worker(start, memory_backing(rules))?);
        }
        Ok(())
    }

    /// The thread that serves the twins, and that takes the signals of every TAP, so also of ports that are one.
    fn start_slow_path(&mut self, cores: &Cores, running: &mut Running) -> anyhow::Result<()> {
        let twins = std::mem::take(&mut self.twins);
        let (limits, counters) = (&running.slow_path_limits, &running.slow_path_counters);
        let mut slow_path = SlowPath::new(twins, Arc::clone(limits), Arc::clone(counters))
            .with_checks(running.checks.clone());
        let (eal, stop, core) = (self.eal.clone(), Arc::clone(&running.stop), cores.control);
        let run = move || {
            // Beside control, not on a worker's core. Where it may not be pinned it runs all the same.
            let _ = affinity::set_thread_affinity([core]);
            // Unregistered it works too, with every mbuf from the pool's common ring.
            let _registration =
                dpdk::thread::register(&eal).map_err(|reason| warn!("the slow path: {reason}"));
            slow_path.run(&stop);
        };
        running.slow_path = Some(thread::Builder::new().name("slow-path".into()).spawn(run)?);
        Ok(())
    }

    /// A ring from every worker to every other.
    fn steering_rings(&self) -> anyhow::Result<Vec<SteeringEnds>> {
        let mut ends: Vec<SteeringEnds> = Vec::new();
        ends.resize_with(usize::from(self.worker_count), SteeringEnds::default);
        for sender in 0..ends.len() {
            for receiver in 0..ends.len() {
                if sender == receiver {
                    ends[sender].to.push(None);
                    continue;
                }
                let (producer, consumer) = self.channel(&format!("steer.{sender}.{receiver}"))?;
                ends[sender].to.push(Some(producer));
                ends[receiver].from.push(consumer);
            }
        }
        Ok(ends)
    }
}

/// One worker's ends of the rings between workers.
#[derive(Default)]
struct SteeringEnds {
    /// By receiver; none to itself.
    to: Vec<Option<Producer>>,
    from: Vec<Consumer>,
}

/// What a worker's thread starts with.
struct WorkerStart {
    device: WorkerDevice,
    worker: WorkerIndex,
    core: usize,
    eal: Eal,
    macs: Vec<MacAddress>,
    max_flows: u32,
    fragments: FragmentLimits,
    idle: Idle,
    clock: TimestampClock,
    counters: Arc<WorkerCounters>,
    /// The counters of the other workers.
    peers: Box<[Arc<WorkerCounters>]>,
    rules: RulesQueue,
    stop: Arc<AtomicBool>,
}

/// What a worker's thread says of itself before it polls.
struct Started {
    table_backing: Backing,
    table_capacity: u32,
    walks: WalkQueue,
    path_reports: PathReports,
}

/// Starts the thread and waits until it polls.
fn start_worker(start: WorkerStart, backing: Backing) -> anyhow::Result<WorkerHandle> {
    let (core, counters, rules) = (start.core, Arc::clone(&start.counters), start.rules.clone());
    let (ready, is_ready) = mpsc::sync_channel(1);
    let name = format!("worker-{}", start.worker.0);
    let thread = thread::Builder::new().name(name).spawn(move || run_worker(start, backing, &ready))?;
    match is_ready.recv().unwrap_or_else(|_| Err(anyhow!("its thread ended"))) {
        Ok(Started { table_backing, table_capacity, walks, path_reports }) => {
            let thread = Some(thread);
            Ok(WorkerHandle {
                core,
                counters,
                rules,
                walks,
                path_reports,
                table_backing,
                table_capacity,
                thread,
            })
        }
        Err(reason) => {
            // It gives its queues back as it ends, and they must be back before the ports close.
            let _ = thread.join();
            Err(reason).with_context(|| format!("the worker on core {core} does not start"))
        }
    }
}

/// The worker's thread. Everything it will ever need is allocated on its own core before it says it is ready.
fn run_worker(start: WorkerStart, backing: Backing, ready: &mpsc::SyncSender<anyhow::Result<Started>>) {
    let WorkerStart {
        device,
        worker,
        core,
        eal,
        macs,
        max_flows,
        fragments,
        idle,
        clock,
        counters,
        peers,
        rules,
        stop,
    } = start;
    let prepare = || {
        affinity::set_thread_affinity([core]).map_err(|error| anyhow!("core {core}: {error}"))?;
        // net_tap's driver is woken by a real-time signal: its handler must not run on a worker.
        SigSet::all().thread_block()?;
        let registration = dpdk::thread::register(&eal)?;
        let table = FlowTable::new(max_flows, backing, HashSecret::new([random::word(), random::word()]))
            .with_context(|| format!("no memory for a flow table of [dataplane] max_flows = {max_flows}"))?;
        Ok((registration, table))
    };
    let (_registration, table) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let (table_backing, table_capacity) = (table.backing(), table.capacity());
    let state =
        LineState::new(table, worker, &macs, random::word()).with_peers(peers).with_fragments(fragments);
    let mut worker = Worker::new(device, clock, worker, state, counters, rules);
    let (walks, path_reports) = (worker.walk_queue(), worker.path_reports());
    let started = Started { table_backing, table_capacity, walks, path_reports };
    if ready.send(Ok(started)).is_ok() {
        worker.run(&stop, idle);
    }
}

fn all_but(counters: &[Arc<WorkerCounters>], worker: usize) -> Box<[Arc<WorkerCounters>]> {
    let others = counters.iter().enumerate().filter(|(other, _)| *other != worker);
    others.map(|(_, counters)| Arc::clone(counters)).collect()
}

fn idle(idle: rules::Idle) -> Idle {
    match idle {
        rules::Idle::Poll => Idle::Poll,
        rules::Idle::Yield => Idle::Yield,
        rules::Idle::Sleep => Idle::Sleep,
    }
}

fn memory_backing(rules: &Rules) -> Backing {
    match rules.dataplane.memory {
        rules::Memory::Auto => Backing::Auto,
        rules::Memory::Huge => Backing::Huge,
        rules::Memory::Plain => Backing::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_leaves_the_first_core_to_control_unless_it_is_the_only_one() {
        let cores = |wanted: &Workers, allowed: &[usize]| share_cores(wanted, allowed).unwrap();
        assert_eq!(cores(&Workers::Auto, &[0, 1, 2]), Cores { workers: vec![1, 2], control: 0 });
        assert_eq!(cores(&Workers::Auto, &[4]), Cores { workers: vec![4], control: 4 });
        assert_eq!(cores(&Workers::Cores(vec![0]), &[0, 1]), Cores { workers: vec![0], control: 1 });
        let error = share_cores(&Workers::Cores(vec![7]), &[0, 1]).unwrap_err();
        assert!(
            error.to_string().contains("core 7 is not among the cores this process may use, [0, 1]"),
            "{error}"
        );
    }
}
