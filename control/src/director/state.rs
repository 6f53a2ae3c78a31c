//! The rules in force and everything that follows from them; changed by one transaction at a time.

mod follow;
mod looks;

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use dataplane::prefix::Prefix;
use tokio::time::sleep;

use super::SharedRules;
use super::advice::Advice;
use super::kernel_side::{KernelSide, announced_vips};
use super::port_standing::PortStanding;
use super::shared::{Inner, Shared};
use crate::api::server::Reporter;
use crate::changes::{Changer, Revisions};
use crate::flows::walks::Walkers;
use crate::health::Health;
use crate::launch::Running;
use crate::metrics::Reloads;
use crate::random;
use crate::report::{Accounts, DeviceLosses, Report};
use crate::rules::build::{Builder, Built, NextHops, static_next_hops};
use crate::rules::slots::Census;
use crate::rules::{Document, Rules};

/// How long workers may take to take up rules. They do so between two bursts.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(10);

/// How long ARP for backends is waited for before rules are put in force without them.
const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(1);

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

    fn known_next_hops(&mut self, rules: &Rules) -> NextHops {
        let mut known = self.kernel.next_hops();
        // What the rules say by hand goes before what the kernel says.
        known.extend(static_next_hops(rules));
        known
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

    /// Whether a thread of the data path has ended.
    pub(super) fn has_lost_a_thread(&self) -> bool {
        self.running.has_lost_a_thread()
    }

    /// Counts a reload.
    pub(super) fn note_reload(&self, is_applied: bool) {
        let reloads = &mut self.shared.lock().reloads;
        *(if is_applied { &mut reloads.applied } else { &mut reloads.refused }) += 1;
    }

    /// Stops everything; returns what was counted.
    pub(super) async fn stop(mut self) -> anyhow::Result<Report> {
        self.kernel.stop().await;
        self.running.stop()?;
        self.look_at_devices();
        Ok(self.shared.report())
    }
}
