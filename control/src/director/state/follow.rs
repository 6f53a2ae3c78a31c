//! What the director follows: things that happen by themselves and of which workers, kernel and checks have to be told.

use std::time::{Duration, Instant};

use dataplane::index::PortIndex;
use dataplane::path::PathReport;
use tracing::{info, warn};

use super::super::shared::RunningLine;
use super::Director;
use crate::rules::Rules;
use crate::rules::build::NextHops;

/// How often workers are told of weights that rise: a slow start of a few seconds is still smooth, and rulesets cost
/// next to nothing.
const RAMP_EVERY: Duration = Duration::from_millis(500);

/// How long after a failure workers and kernel are told again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reports of one worker that are heard at one look: who floods routers' errors does not keep control from its work.
const PATH_REPORTS_AT_ONCE: usize = 256;

impl Director {
    /// Lets go of VIPs of removed services whose last connection has ended, and ends searches for connections from before
    /// a change of persistence.
    pub(in crate::director) async fn follow_lingering(&mut self) {
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
    pub(in crate::director) async fn follow_failures(&mut self) {
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
    pub(in crate::director) async fn follow_ramps(&mut self) {
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
    pub(super) fn follow_checks(&mut self, rules: &Rules) {
        let inner = self.shared.lock();
        let workers = inner.counters.as_slice().into();
        self.health.follow(rules, &RunningLine { builder: &inner.builder, rules, workers });
    }

    /// Brings the workers' backends in step with what checks say. Not at once: when hundreds fail together, workers shall not be
    /// told hundreds of times.
    pub(in crate::director) async fn follow_health(&mut self) {
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
    pub(in crate::director) async fn follow_paths(&mut self) {
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

    /// Brings the workers' next hops in step with the kernel's.
    pub(in crate::director) async fn follow_next_hops(&mut self) {
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
}
