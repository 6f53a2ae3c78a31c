//! What the API, metrics and checks read while the director works: one lock, held for as long as it takes to copy.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dataplane::counters::WorkerCounters;
use dataplane::index::{BackendIndex, PortIndex};
use dataplane::wire::ethernet::MacAddress;

use super::SharedRules;
use super::port_standing::PortStanding;
use crate::api::changes::Changes;
use crate::api::explain::Explainer;
use crate::api::flows::{FlowSource, Names};
use crate::api::server::Reporter;
use crate::changes::{Changer, Revision, Revisions};
use crate::explain::World;
use crate::flows::walks::Walkers;
use crate::health::{Board, Line, Traffic};
use crate::metrics::{Reloads, Snapshot, WorkerSample};
use crate::report::{self, Accounts, DeviceLosses, NeighbourReport, Report};
use crate::rules::build::{BackendKey, Builder};
use crate::rules::{Document, Rules};
use crate::slow_path::SlowPathCounters;
use crate::worker_report::WorkerReport;

/// What the API reads while the director works.
#[derive(Clone)]
pub(super) struct Shared(pub(super) Arc<Mutex<Inner>>);

pub(super) struct Inner {
    pub(super) started: Instant,
    pub(super) rules: SharedRules,
    pub(super) builder: Builder,
    pub(super) accounts: Accounts,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    /// Of the ports.
    pub(super) macs: Vec<MacAddress>,
    pub(super) slow_path: Arc<SlowPathCounters>,
    pub(super) walkers: Walkers,
    /// What checks say.
    pub(super) board: Board,
    /// By port, as of the last look.
    pub(super) lost: Vec<DeviceLosses>,
    /// By port, as of the last look.
    pub(super) standings: Vec<PortStanding>,
    /// By worker: its core, and the entries its flow table has room for.
    pub(super) places: Vec<(usize, u32)>,
    pub(super) reloads: Reloads,
    /// The rules as typed.
    pub(super) revisions: Revisions,
    /// Where changes of them are asked for.
    pub(super) changer: Changer,
    /// How next hops stand, by what is asked for.
    pub(super) neighbours: Vec<NeighbourReport>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
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
pub(super) struct RunningLine<'a> {
    pub(super) builder: &'a Builder,
    pub(super) rules: &'a Rules,
    pub(super) workers: Arc<[Arc<WorkerCounters>]>,
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
