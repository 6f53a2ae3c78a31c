//! The rules in force and everything that follows from them; changed by one transaction at a time.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use dataplane::counters::WorkerCounters;
use dataplane::index::{BackendIndex, PortIndex};
use dataplane::path::PathReport;
use dataplane::prefix::Prefix;
use dataplane::wire::ethernet::MacAddress;
use dpdk::PortStats;
use tokio::time::sleep;
use tracing::{info, warn};

use super::SharedRules;
use super::advice::Advice;
use super::kernel_side::{KernelSide, announced_vips};
use super::port_standing::PortStanding;
use crate::api::changes::Changes;
use crate::api::explain::Explainer;
use crate::api::flows::{FlowSource, Names};
use crate::api::server::Reporter;
use crate::changes::{Changer, Revision, Revisions};
use crate::explain::World;
use crate::flows::walks::Walkers;
use crate::health::{Board, Health, Line, Traffic};
use crate::launch::Running;
use crate::metrics::{Reloads, Snapshot, WorkerSample};
use crate::random;
use crate::report::{self, Accounts, DeviceLosses, NeighbourReport, Report};
use crate::rules::build::{BackendKey, Builder, Built, NextHops, static_next_hops};
use crate::rules::slots::Census;
use crate::rules::{Document, Rules};
use crate::slow_path::SlowPathCounters;
use crate::worker_report::WorkerReport;

/// How long workers may take to take up rules. They do so between two bursts.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(10);

/// How long ARP for backends is waited for before rules are put in force without them.
const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(1);

/// How often workers are told of weights that rise: a slow start of a few seconds is still smooth, and rulesets cost
/// next to nothing.
const RAMP_EVERY: Duration = Duration::from_millis(500);

/// How often links and neighbours are looked at, for whoever asks how they stand.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long after a failure workers and kernel are told again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reports of one worker that are heard at one look: who floods routers' errors does not keep control from its work.
const PATH_REPORTS_AT_ONCE: usize = 256;

/// What the API reads while the director works.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    started: Instant,
    rules: SharedRules,
    builder: Builder,
    accounts: Accounts,
    counters: Vec<Arc<WorkerCounters>>,
    /// Of the ports.
    macs: Vec<MacAddress>,
    slow_path: Arc<SlowPathCounters>,
    walkers: Walkers,
    /// What checks say.
    board: Board,
    /// By port, as of the last look.
    lost: Vec<DeviceLosses>,
    /// By port, as of the last look.
    standings: Vec<PortStanding>,
    /// By worker: its core, and the entries its flow table has room for.
    places: Vec<(usize, u32)>,
    reloads: Reloads,
    /// The rules as typed.
    revisions: Revisions,
    /// Where changes of them are asked for.
    changer: Changer,
    /// How next hops stand, by what is asked for.
    neighbours: Vec<NeighbourReport>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Shared {
    fn report(&self) -> Report {
        let inner = self.lock();
        let workers: Vec<_> = inner.counters.iter().map(AsRef::as_ref).collect();
        let seconds = inner.started.elapsed().as_secs_f64();
        let mut report = report::report(seconds, &inner.rules, &inner.builder, &inner.accounts, &workers);
        for (port, lost) in report.ports.iter_mut().zip(&inner.lost) {
            port.lost = *lost;
        }
        for (port, standing) in report.ports.iter_mut().zip(&inner.standings) {
            standing.tell(port);
        }
        report.rules_revision = inner.revisions.current();
        report.neighbours.clone_from(&inner.neighbours);
        add_health(&mut report, &inner.rules, &inner.board);
        let ports = inner.rules.ports.iter().enumerate().filter(|(_, port)| port.kernel);
        let twins =
            ports.map(|(index, port)| (port.name.clone(), inner.slow_path.snapshot(PortIndex(index as u16))));
        let checks = inner.slow_path.checks.snapshot();
        Report { slow_path: twins.collect(), checks, ..report }
    }

    fn metrics(&self) -> Snapshot {
        let report = self.report();
        let inner = self.lock();
        let workers = (0..inner.counters.len()).map(|worker| inner.sample(worker)).collect();
        Snapshot { report, workers, reloads: inner.reloads }
    }
}

impl Changes for Shared {
    fn changer(&self) -> Changer {
        self.lock().changer.clone()
    }

    fn document(&self, revision: Option<u64>) -> Option<(u64, Document)> {
        let inner = self.lock();
        let revision = revision.unwrap_or(inner.revisions.current());
        Some((revision, inner.revisions.find(revision)?.clone()))
    }

    fn revisions(&self) -> Vec<Revision> {
        self.lock().revisions.list()
    }
}

impl Inner {
    fn sample(&self, worker: usize) -> WorkerSample {
        let counters = &self.counters[worker];
        let (core, table_capacity) = self.places[worker];
        let seconds = |ticks: u64| ticks as f64 / cpu::timestamp_hz() as f64;
        WorkerSample {
            core,
            report: WorkerReport::read(counters, self.builder.backends().len()),
            turns: counters.turns.value(),
            busy_seconds: seconds(counters.busy_ticks.value()),
            longest_turn_seconds: seconds(counters.longest_turn_ticks.value()),
            table_capacity,
        }
    }
}

/// What checks say of each backend; services and backends stand in the report as in the rules.
fn add_health(report: &mut Report, rules: &Rules, board: &Board) {
    let now = Instant::now();
    for (report, service) in report.services.iter_mut().zip(&rules.services) {
        let Some(key) = service.key().filter(|_| service.health.is_some()) else { continue };
        for (report, backend) in report.backends.iter_mut().zip(&service.backends) {
            report.health = board.report(&BackendKey::new(key, backend.endpoint), now);
        }
    }
}

impl Explainer for Shared {
    fn world(&self) -> World {
        let inner = self.lock();
        World::new(Arc::clone(&inner.rules), &inner.builder, inner.counters.clone(), inner.macs.clone())
    }
}

impl FlowSource for Shared {
    fn walkers(&self) -> Walkers {
        self.lock().walkers.clone()
    }

    fn names(&self, before: &Arc<Names>) -> Arc<Names> {
        let inner = self.lock();
        let revision = inner.builder.last().revision;
        if revision == before.revision {
            return Arc::clone(before);
        }
        let slots = inner.builder.services();
        let mut services = vec![None; slots.len()];
        for service in &inner.rules.services {
            if let Some(slot) = service.key().and_then(|key| slots.find(&key)) {
                services[slot] = Some(service.name.clone());
            }
        }
        Arc::new(Names { revision, services })
    }
}

/// What checks need to know of the workers and of the rules they have.
struct RunningLine<'a> {
    builder: &'a Builder,
    rules: &'a Rules,
    workers: Arc<[Arc<WorkerCounters>]>,
}

impl Line for RunningLine<'_> {
    fn traffic(&self, key: &BackendKey) -> Option<Traffic> {
        let slot = self.builder.backends().find(key)?;
        Some(Traffic::new(Arc::clone(&self.workers), BackendIndex(slot as u32)))
    }

    fn check_address(&self, key: &BackendKey) -> Result<IpAddr, String> {
        self.builder.check_address(self.rules, key).map_err(|why| why.to_string())
    }
}

/// A running data path and the rules it follows.
pub(super) struct Director {
    running: Running,
    shared: Shared,
    kernel: KernelSide,
    health: Health,
    /// As sent to the workers.
    next_hops: NextHops,
    /// VIPs on the twins.
    announced: BTreeSet<Prefix>,
    /// VIPs of removed services that connections still use.
    lingering: BTreeSet<Prefix>,
    /// When workers were last told of weights that rise.
    ramps_told: Instant,
    /// When rules and VIPs are told again, because workers or the kernel refused them.
    retry_at: Option<Instant>,
    /// When links and neighbours were looked at last.
    looked_at: Instant,
    advice: Advice,
}

impl Director {
    /// Takes over a data path that knows no rules yet.
    pub(super) async fn new(
        running: Running,
        (rules, revisions): (Rules, Revisions),
        kernel: KernelSide,
        changer: Changer,
    ) -> anyhow::Result<Self> {
        let health = Health::default();
        let facts: Vec<_> = running.ports.iter().map(|port| port.facts).collect();
        let standings = running.ports.iter().zip(&rules.ports).map(PortStanding::new).collect();
        let inner = Inner {
            started: Instant::now(),
            macs: facts.iter().map(|facts| facts.mac).collect(),
            rules: Arc::new(rules),
            builder: Builder::new(facts, running.workers.len() as u16).with_rss(running.rss.clone()),
            accounts: Accounts::default(),
            slow_path: Arc::clone(&running.slow_path_counters),
            walkers: Walkers::new(running.workers.iter().map(|worker| worker.walks.clone())),
            board: health.board().clone(),
            lost: vec![DeviceLosses::default(); running.ports.len()],
            standings,
            places: running.workers.iter().map(|worker| (worker.core, worker.table_capacity)).collect(),
            reloads: Reloads::default(),
            revisions,
            changer,
            neighbours: Vec::new(),
            counters: running.workers.iter().map(|worker| Arc::clone(&worker.counters)).collect(),
        };
        let next_hops = NextHops::new();
        Ok(Self {
            running,
            shared: Shared(Arc::new(Mutex::new(inner))),
            kernel,
            health,
            next_hops,
            announced: BTreeSet::new(),
            lingering: BTreeSet::new(),
            ramps_told: Instant::now(),
            retry_at: None,
            looked_at: Instant::now(),
            advice: Advice::default(),
        })
    }

    /// Puts the first rules in force, then tells the network where the VIPs are.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let rules = self.rules();
        self.publish(&rules, static_next_hops(&rules)).await?;
        let targets = self.targets();
        self.announced = self.announced_by(&rules);
        self.kernel.start(&rules, &self.running.ports, (targets.clone(), &self.announced)).await?;
        self.kernel.route_checks(&rules).await?;
        self.wait_for_next_hops(&rules, &targets).await;
        self.follow_next_hops().await;
        self.wait_until_in_force().await?;
        self.follow_checks(&rules);
        Ok(())
    }

    /// Puts `rules` in force.
    pub(super) async fn apply(&mut self, rules: SharedRules) -> anyhow::Result<()> {
        // New backends' MACs are asked for first: a connection to one that is not known yet would be passed over.
        let own = rules.own_addresses();
        let wanted = rules.services.iter().flat_map(|service| service.addresses());
        let new: BTreeSet<_> = wanted.filter(|address| !own.contains(address)).collect();
        let before = self.targets();
        self.kernel.watch(&rules, &before | &new);
        self.wait_for_next_hops(&rules, &(&new - &before)).await;
        let next_hops = self.known_next_hops(&rules);
        self.publish(&rules, next_hops).await?;
        self.wait_until_in_force().await?;
        self.running.slow_path_limits.set(&rules.slow_path);
        self.kernel.route_checks(&rules).await?;
        self.follow_checks(&rules);
        self.settle().await
    }

    /// Brings VIPs and next hops in step with the rules and with what removed services still hold.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let rules = self.rules();
        self.lingering = self.lingering_vips();
        let announced = self.announced_by(&rules);
        self.kernel.announce(&rules, &announced).await?;
        self.announced = announced;
        self.kernel.watch(&rules, self.targets());
        Ok(())
    }

    /// The VIPs that belong on the twins: those of the rules that no check has withdrawn, and those that connections still use.
    fn announced_by(&self, rules: &Rules) -> BTreeSet<Prefix> {
        let of_rules = &announced_vips(rules) - &self.health.withdrawn(rules);
        &of_rules | &(&self.announced & &self.lingering)
    }

    /// Lets go of VIPs of removed services whose last connection has ended, and ends searches for connections from before
    /// a change of persistence.
    pub(super) async fn follow_lingering(&mut self) {
        if self.retry_at.is_some() {
            return;
        }
        let gone = !self.lingering.is_empty() && self.lingering != self.lingering_vips();
        if !gone && !self.shared.lock().builder.can_settle_vips(&self.running) {
            return;
        }
        let (rules, next_hops) = (self.rules(), self.next_hops.clone());
        let settled = match self.publish(&rules, next_hops).await {
            Ok(()) => self.settle().await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = settled {
            self.try_again("VIPs of removed services", &reason);
        }
    }

    /// What could not be told now is told a second later, and so on until it can: nobody else would.
    fn try_again(&mut self, what: &str, reason: &anyhow::Error) {
        warn!("{what}: {reason:#}; trying again in {RETRY_AFTER:?}");
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
    }

    /// Tells again what could not be told.
    pub(super) async fn follow_failures(&mut self) {
        if self.retry_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.retry_at = None;
        let rules = self.rules();
        let next_hops = self.known_next_hops(&rules);
        let mut told = self.publish(&rules, next_hops).await;
        if told.is_ok() {
            told = self.settle().await;
        }
        match told {
            Ok(()) => info!("rules, next hops and VIPs are told"),
            Err(reason) => self.try_again("rules, next hops and VIPs", &reason),
        }
    }

    /// Tells workers the weights of slow starters that have risen, twice a second at most.
    pub(super) async fn follow_ramps(&mut self) {
        let is_due = {
            let inner = self.shared.lock();
            inner.builder.is_due(inner.started.elapsed())
        };
        if !is_due || self.ramps_told.elapsed() < RAMP_EVERY {
            return;
        }
        self.ramps_told = Instant::now();
        let (rules, next_hops) = (self.rules(), self.next_hops.clone());
        if let Err(reason) = self.publish(&rules, next_hops).await {
            self.try_again("slow start", &reason);
        }
    }

    /// Checks the backends of `rules`, which are in force.
    fn follow_checks(&mut self, rules: &Rules) {
        let inner = self.shared.lock();
        let workers = inner.counters.as_slice().into();
        self.health.follow(rules, &RunningLine { builder: &inner.builder, rules, workers });
    }

    /// Brings the workers' backends in step with what checks say. Not at once: when hundreds fail together, workers shall not be
    /// told hundreds of times.
    pub(super) async fn follow_health(&mut self) {
        if !self.health.has_changed() {
            return;
        }
        let (rules, next_hops) = (self.rules(), self.next_hops.clone());
        let mut told = self.publish(&rules, next_hops).await;
        self.health.follow_services(&rules);
        if told.is_ok() && self.announced_by(&rules) != self.announced {
            told = self.settle().await;
        }
        if let Err(reason) = told {
            self.try_again("health", &reason);
        }
    }

    /// Tells workers of ways through tunnels that have become narrow, as some of them have heard.
    pub(super) async fn follow_paths(&mut self) {
        let mut is_news = false;
        {
            let mut inner = self.shared.lock();
            let now = inner.started.elapsed();
            for reports in self.running.workers.iter().map(|worker| &worker.path_reports) {
                for _ in 0..PATH_REPORTS_AT_ONCE {
                    let Some(report) = reports.hear() else { break };
                    if inner.builder.hear(report, now) {
                        let PathReport { destination, mtu } = report;
                        info!("tunnels to {destination}: a router on the way takes {mtu} bytes and no more");
                        is_news = true;
                    }
                }
            }
        }
        if !is_news {
            return;
        }
        let (rules, next_hops) = (self.rules(), self.next_hops.clone());
        if let Err(reason) = self.publish(&rules, next_hops).await {
            self.try_again("narrow ways", &reason);
        }
    }

    /// VIPs that the rules no longer have and that connections still use.
    fn lingering_vips(&self) -> BTreeSet<Prefix> {
        let inner = self.shared.lock();
        let backends = inner.builder.backends();
        let open = (0..backends.len()).filter(|slot| self.running.open_connections(*slot) > 0);
        let services: HashSet<_> = open.filter_map(|slot| Some(backends.key(slot)?.service)).collect();
        let vips: BTreeSet<_> = services.iter().flat_map(|service| inner.builder.vips(service)).collect();
        let in_rules: BTreeSet<_> = inner.rules.services.iter().flat_map(|service| service.vips()).collect();
        &vips - &in_rules
    }

    /// Waits until the kernel knows the next hops of `targets`, for a moment at most: a server that is down has none.
    async fn wait_for_next_hops(&mut self, rules: &Rules, targets: &BTreeSet<IpAddr>) {
        let started = Instant::now();
        // A target that was not looked at yet has no row at all: only a next hop ends the wait for it.
        while self.kernel.is_watching() && started.elapsed() < NEXT_HOP_PATIENCE {
            let known = self.known_next_hops(rules);
            if targets.iter().all(|target| known.contains_key(target)) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for news of the next hops.
    pub(super) async fn next_hops_changed(&mut self) {
        self.kernel.changed().await;
    }

    /// Brings the workers' next hops in step with the kernel's.
    pub(super) async fn follow_next_hops(&mut self) {
        let rules = self.rules();
        let known = self.known_next_hops(&rules);
        if known == self.next_hops {
            return;
        }
        self.tell_changes(&known);
        if let Err(reason) = self.publish(&rules, known).await {
            self.try_again("next hops", &reason);
        }
    }

    fn known_next_hops(&mut self, rules: &Rules) -> NextHops {
        let mut known = self.kernel.next_hops();
        // What the rules say by hand goes before what the kernel says.
        known.extend(static_next_hops(rules));
        known
    }

    fn tell_changes(&self, known: &NextHops) {
        let ports = &self.running.ports;
        let name = |port: &PortIndex| ports.get(port.as_usize()).map_or("?", |port| port.name.as_str());
        for (target, hop) in known {
            if self.next_hops.get(target) != Some(hop) {
                let via =
                    if hop.is_on_link { "" } else { ", a router: backends of mode dr must be on the link" };
                info!("next hop of {target}: {} by port {}{via}", hop.mac, name(&hop.port));
            }
        }
        let unresolved = self.kernel.unresolved();
        for target in self.next_hops.keys().filter(|target| !known.contains_key(target)) {
            let why = unresolved.get(target).map_or("no longer asked for", String::as_str);
            warn!("next hop of {target} is lost: {why}");
        }
    }

    /// Builds the next ruleset and sends it to every worker.
    async fn publish(&mut self, rules: &SharedRules, next_hops: NextHops) -> anyhow::Result<()> {
        let built = {
            let mut inner = self.shared.lock();
            let mut builder = inner.builder.clone();
            builder.advance_to(inner.started.elapsed());
            builder.set_verdicts(self.health.verdicts(rules));
            let built = builder.build(rules, &next_hops, &self.running)?;
            let counters = inner.counters.clone();
            let workers: Vec<_> = counters.iter().map(AsRef::as_ref).collect();
            inner.accounts.note(&built, &builder, &workers);
            inner.builder = builder;
            inner.rules = Arc::clone(rules);
            built
        };
        self.running.checks.publish(Arc::clone(&built.checks));
        self.send(&built).await?;
        self.next_hops = next_hops;
        Ok(())
    }

    async fn send(&self, built: &Built) -> anyhow::Result<()> {
        let started = Instant::now();
        for worker in &self.running.workers {
            let mut publication = built.publication(random::word);
            while let Err(refused) = worker.rules.publish(publication) {
                if started.elapsed() > TAKE_UP_PATIENCE {
                    bail!(
                        "the worker on core {} has not taken up rules for {TAKE_UP_PATIENCE:?}",
                        worker.core
                    );
                }
                publication = refused;
                sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    async fn wait_until_in_force(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let wanted = self.shared.lock().builder.last().revision;
        while self.running.revision_in_force() < wanted {
            if started.elapsed() > TAKE_UP_PATIENCE || self.has_lost_a_thread() {
                bail!("not every worker has taken up revision {wanted} of the rules");
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.running.workers.iter().for_each(|worker| worker.rules.free_retired());
        Ok(())
    }

    /// Other hosts' addresses that packets are sent to: of all backends, those whose connections still end included.
    fn targets(&self) -> BTreeSet<IpAddr> {
        let inner = self.shared.lock();
        let backends = inner.builder.last().backends.iter().enumerate();
        let wanted = backends.filter(|(slot, backend)| {
            let is_used = inner.builder.backends().is_live(*slot) || self.running.open_connections(*slot) > 0;
            is_used && !backend.is_local
        });
        wanted.map(|(_, backend)| backend.address).collect()
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> SharedRules {
        Arc::clone(&self.shared.lock().rules)
    }

    /// The revision in force, and its rules as typed.
    pub(super) fn document(&self) -> (u64, Document) {
        let inner = self.shared.lock();
        (inner.revisions.current(), inner.revisions.document().clone())
    }

    /// The revision in force, and the oldest that one can go back to.
    pub(super) fn known_revisions(&self) -> (u64, u64) {
        let inner = self.shared.lock();
        (inner.revisions.current(), inner.revisions.oldest())
    }

    /// The rules as they were typed then.
    pub(super) fn revision_document(&self, revision: u64) -> Option<Document> {
        self.shared.lock().revisions.find(revision).cloned()
    }

    /// Remembers rules that are in force; returns their number.
    pub(super) fn note_revision(&self, document: Document, by: String, changes: Vec<String>) -> u64 {
        self.shared.lock().revisions.push(document, by, changes)
    }

    /// What the API may read.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// One line about the rules.
    pub(super) fn describe(&self) -> String {
        let rules = self.rules();
        let backends: usize = rules.services.iter().map(|service| service.backends.len()).sum();
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}, {}, {}; status: crossdock status --socket {}",
            count(rules.services.len(), "service"),
            count(backends, "backend"),
            count(self.running.workers.len(), "worker"),
            rules.control.socket.display()
        )
    }

    /// Whether a thread of the data path has ended.
    pub(super) fn has_lost_a_thread(&self) -> bool {
        self.running.has_lost_a_thread()
    }

    /// Counts a reload.
    pub(super) fn note_reload(&self, is_applied: bool) {
        let reloads = &mut self.shared.lock().reloads;
        *(if is_applied { &mut reloads.applied } else { &mut reloads.refused }) += 1;
    }

    /// How often each worker's loop has turned.
    pub(super) fn turns(&self) -> Vec<u64> {
        self.running.workers.iter().map(|worker| worker.counters.turns.value()).collect()
    }

    /// Asks the devices what they lost; a device that does not answer keeps what it said before.
    fn look_at_devices(&self) {
        let mut inner = self.shared.lock();
        for (lost, port) in inner.lost.iter_mut().zip(&self.running.ports) {
            if let Ok(stats) = port.device.stats() {
                let PortStats { rx_missed, rx_errors, rx_no_mbuf, tx_errors, .. } = stats;
                *lost = DeviceLosses { rx_missed, rx_errors, rx_no_mbuf, tx_errors };
            }
        }
    }

    /// Notes how next hops stand.
    fn look_at_neighbours(&mut self) {
        let (rules, unresolved) = (self.rules(), self.kernel.unresolved());
        let ports = &self.running.ports;
        let by_hand: BTreeSet<_> = rules.neighbours.iter().map(|neighbour| neighbour.address).collect();
        let known = self.next_hops.iter().map(|(address, hop)| NeighbourReport {
            address: *address,
            port: ports.get(hop.port.as_usize()).map(|port| port.name.clone()),
            mac: Some(hop.mac.to_string()),
            is_on_link: hop.is_on_link,
            source: if by_hand.contains(address) { "rules" } else { "kernel" }.to_owned(),
            problem: None,
        });
        let missing = unresolved.into_iter().filter(|(address, _)| !self.next_hops.contains_key(address));
        let missing = missing.map(|(address, problem)| NeighbourReport {
            address,
            port: None,
            mac: None,
            is_on_link: false,
            source: "kernel".to_owned(),
            problem: Some(problem),
        });
        let mut all: Vec<_> = known.chain(missing).collect();
        all.sort_by_key(|neighbour| neighbour.address);
        self.shared.lock().neighbours = all;
    }

    /// Asks for the ports' links, and tells of those that went up or down.
    fn look_at_links(&self) {
        let mut inner = self.shared.lock();
        for (standing, port) in inner.standings.iter_mut().zip(&self.running.ports) {
            standing.look(port);
        }
    }

    /// Says what an operator can mend.
    pub(super) fn advise(&mut self) {
        self.look_at_devices();
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.looked_at = Instant::now();
            self.look_at_neighbours();
            self.look_at_links();
        }
        let workers: Vec<_> = self.running.workers.iter().map(|worker| worker.counters.as_ref()).collect();
        self.advice.look(&workers, Instant::now()).iter().for_each(|advice| warn!("{advice}"));
    }

    /// Packets received and sent by all ports.
    pub(super) fn packets_moved(&self) -> u64 {
        let of_port = |counters: &WorkerCounters, port: usize| {
            let port = counters.port(PortIndex(port as u16));
            port.rx.packets.value() + port.tx.packets.value()
        };
        let ports = 0..self.running.ports.len();
        let of_worker =
            |counters: &WorkerCounters| ports.clone().map(|port| of_port(counters, port)).sum::<u64>();
        self.running.workers.iter().map(|worker| of_worker(&worker.counters)).sum()
    }

    /// Stops everything; returns what was counted.
    pub(super) async fn stop(mut self) -> anyhow::Result<Report> {
        self.kernel.stop().await;
        self.running.stop()?;
        self.look_at_devices();
        Ok(self.shared.report())
    }
}
