//! The rules in force and everything that follows from them; changed by one transaction at a time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use dataplane::counters::WorkerCounters;
use dataplane::index::PortIndex;
use dpdk::PortStats;
use tokio::time::sleep;
use tracing::{info, warn};

use super::SharedRules;
use super::advice::Advice;
use super::kernel_side::{KernelSide, announced_vips};
use crate::api::server::Reporter;
use crate::launch::Running;
use crate::report::{self, Accounts, DeviceLosses, Report};
use crate::rules::Rules;
use crate::rules::build::{Builder, Built, NextHops, static_next_hops};
use crate::rules::slots::Census;
use crate::slow_path::SlowPathCounters;

/// How long workers may take to take up rules. They do so between two bursts.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(10);

/// How long ARP for backends is waited for before rules are put in force without them.
const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(1);

/// What the API reads while the director works.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    started: Instant,
    rules: SharedRules,
    builder: Builder,
    accounts: Accounts,
    counters: Vec<Arc<WorkerCounters>>,
    slow_path: Arc<SlowPathCounters>,
    /// By port, as of the last look.
    lost: Vec<DeviceLosses>,
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
        let ports = inner.rules.ports.iter().enumerate().filter(|(_, port)| port.kernel);
        let twins =
            ports.map(|(index, port)| (port.name.clone(), inner.slow_path.snapshot(PortIndex(index as u16))));
        Report { slow_path: twins.collect(), ..report }
    }
}

/// A running data path and the rules it follows.
pub(super) struct Director {
    running: Running,
    shared: Shared,
    kernel: KernelSide,
    /// As sent to the workers.
    next_hops: NextHops,
    /// VIPs on the twins.
    announced: BTreeSet<Ipv4Addr>,
    /// VIPs of removed services that connections still use.
    lingering: BTreeSet<Ipv4Addr>,
    advice: Advice,
}

impl Director {
    /// Takes over a data path that knows no rules yet.
    pub(super) async fn new(running: Running, rules: Rules, kernel: KernelSide) -> anyhow::Result<Self> {
        let facts = running.ports.iter().map(|port| port.facts).collect();
        let inner = Inner {
            started: Instant::now(),
            rules: Arc::new(rules),
            builder: Builder::new(facts, running.workers.len() as u16),
            accounts: Accounts::default(),
            slow_path: Arc::clone(&running.slow_path_counters),
            lost: vec![DeviceLosses::default(); running.ports.len()],
            counters: running.workers.iter().map(|worker| Arc::clone(&worker.counters)).collect(),
        };
        let next_hops = NextHops::new();
        Ok(Self {
            running,
            shared: Shared(Arc::new(Mutex::new(inner))),
            kernel,
            next_hops,
            announced: BTreeSet::new(),
            lingering: BTreeSet::new(),
            advice: Advice::default(),
        })
    }

    /// Puts the first rules in force, then tells the network where the VIPs are.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let rules = self.rules();
        self.publish(&rules, static_next_hops(&rules)).await?;
        let targets = self.targets();
        self.kernel.start(&rules, &self.running.ports, targets.clone()).await?;
        self.announced = announced_vips(&rules);
        self.wait_for_next_hops(&rules, &targets).await;
        self.follow_next_hops().await;
        self.wait_until_in_force().await
    }

    /// Puts `rules` in force.
    pub(super) async fn apply(&mut self, rules: SharedRules) -> anyhow::Result<()> {
        // New backends' MACs are asked for first: a connection to one that is not known yet would be passed over.
        let backends = rules.services.iter().flat_map(|service| &service.backends);
        let new: BTreeSet<_> = backends.map(|backend| backend.address).collect();
        let before = self.targets();
        self.kernel.watch(&rules, &before | &new);
        self.wait_for_next_hops(&rules, &(&new - &before)).await;
        let next_hops = self.known_next_hops(&rules);
        self.publish(&rules, next_hops).await?;
        self.wait_until_in_force().await?;
        self.running.slow_path_limits.set(&rules.slow_path);
        self.settle().await
    }

    /// Brings VIPs and next hops in step with the rules and with what removed services still hold.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let rules = self.rules();
        self.lingering = self.lingering_vips();
        let announced = &announced_vips(&rules) | &(&self.announced & &self.lingering);
        self.kernel.announce(&rules, &announced).await?;
        self.announced = announced;
        self.kernel.watch(&rules, self.targets());
        Ok(())
    }

    /// Lets go of VIPs of removed services whose last connection has ended.
    pub(super) async fn follow_lingering(&mut self) {
        if self.lingering.is_empty() || self.lingering == self.lingering_vips() {
            return;
        }
        let (rules, next_hops) = (self.rules(), self.next_hops.clone());
        let settled = match self.publish(&rules, next_hops).await {
            Ok(()) => self.settle().await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = settled {
            warn!("VIPs of removed services: {reason:#}");
        }
    }

    /// VIPs that the rules no longer have and that connections still use.
    fn lingering_vips(&self) -> BTreeSet<Ipv4Addr> {
        let inner = self.shared.lock();
        let backends = inner.builder.backends();
        let open = (0..backends.len()).filter(|slot| self.running.open_connections(*slot) > 0);
        let vips: BTreeSet<_> = open.filter_map(|slot| Some(backends.key(slot)?.service.vip)).collect();
        let in_rules: BTreeSet<_> = inner.rules.services.iter().map(|service| service.vip).collect();
        &vips - &in_rules
    }

    /// Waits until the kernel knows the next hops of `targets`, for a moment at most: a server that is down has none.
    async fn wait_for_next_hops(&mut self, rules: &Rules, targets: &BTreeSet<Ipv4Addr>) {
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
            warn!("next hops: {reason:#}");
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
            let built = builder.build(rules, &next_hops, &self.running)?;
            let counters = inner.counters.clone();
            let workers: Vec<_> = counters.iter().map(AsRef::as_ref).collect();
            inner.accounts.note(&built, &builder, &workers);
            inner.builder = builder;
            inner.rules = Arc::clone(rules);
            built
        };
        self.send(&built).await?;
        self.next_hops = next_hops;
        Ok(())
    }

    async fn send(&self, built: &Built) -> anyhow::Result<()> {
        let started = Instant::now();
        for worker in &self.running.workers {
            let mut publication = built.publication();
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

    /// Addresses that packets are sent to: of all backends, those whose connections still end included.
    fn targets(&self) -> BTreeSet<Ipv4Addr> {
        let inner = self.shared.lock();
        let backends = inner.builder.last().backends.iter().enumerate();
        let wanted = backends.filter(|(slot, _)| {
            inner.builder.backends().is_live(*slot) || self.running.open_connections(*slot) > 0
        });
        wanted.map(|(_, backend)| backend.address).collect()
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> SharedRules {
        Arc::clone(&self.shared.lock().rules)
    }

    /// The revision built last.
    pub(super) fn revision(&self) -> u64 {
        self.shared.lock().builder.last().revision
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

    /// Says what an operator can mend.
    pub(super) fn advise(&mut self) {
        self.look_at_devices();
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
