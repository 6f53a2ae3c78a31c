//! Who counted what: a slot may be used again, and its counters go on.

use std::collections::BTreeMap;

use dataplane::counters::WorkerCounters;
use dataplane::index::BackendIndex;
use dataplane::rules::ServicePattern;

use crate::rules::build::{BackendKey, Builder, Built};
use crate::service_totals::ServiceTotals;

/// What one backend counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BackendTotals {
    pub(super) packets_in: u64,
    pub(super) bytes_in: u64,
    pub(super) packets_out: u64,
    pub(super) bytes_out: u64,
    pub(super) opened: u64,
    pub(super) closed: u64,
}

impl BackendTotals {
    pub(super) fn read(workers: &[&WorkerCounters], slot: usize) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let backend = worker.backend(BackendIndex(slot as u32));
            totals.closed += backend.closed.value();
            totals.opened += backend.opened.value();
            totals.packets_in += backend.inbound.packets.value();
            totals.bytes_in += backend.inbound.bytes.value();
            totals.packets_out += backend.outbound.packets.value();
            totals.bytes_out += backend.outbound.bytes.value();
        }
        totals
    }

    pub(super) fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            packets_in: with(self.packets_in, other.packets_in),
            bytes_in: with(self.bytes_in, other.bytes_in),
            packets_out: with(self.packets_out, other.packets_out),
            bytes_out: with(self.bytes_out, other.bytes_out),
            opened: with(self.opened, other.opened),
            closed: with(self.closed, other.closed),
        }
    }
}

/// Keeps tenants of a reused slot apart: a worker's counters never go back, so what the tenants before counted is
/// noted when the slot changes hands.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// By backend slot: who has it, and what stood there before.
    backends: BTreeMap<usize, (BackendKey, BackendTotals)>,
    /// By service slot: what was counted before its tenant came.
    services: BTreeMap<usize, ServiceTotals>,
    /// What backends counted that lost their slot while their service lived on, by service.
    pub(super) former: BTreeMap<ServicePattern, BackendTotals>,
}

impl Accounts {
    /// Notes the new tenants of `built`; call it before the workers get the rules.
    pub fn note(&mut self, built: &Built, builder: &Builder, workers: &[&WorkerCounters]) {
        for index in &built.fresh_backends {
            let slot = index.as_usize();
            let totals = BackendTotals::read(workers, slot);
            let Some(key) = builder.backends().key(slot).copied() else { continue };
            if let Some((old, before)) = self.backends.insert(slot, (key, totals)) {
                let former = self.former.entry(old.service).or_default();
                *former = former.zip(totals.zip(before, u64::wrapping_sub), u64::wrapping_add);
            }
        }
        for index in &built.fresh_services {
            let slot = index.as_usize();
            self.services.insert(slot, ServiceTotals::read(workers, slot));
        }
        self.former.retain(|service, _| builder.services().find(service).is_some());
    }

    pub(super) fn backend(&self, slot: usize, workers: &[&WorkerCounters]) -> BackendTotals {
        let before = self.backends.get(&slot).map(|(_, totals)| *totals).unwrap_or_default();
        BackendTotals::read(workers, slot).zip(before, u64::saturating_sub)
    }

    pub(super) fn service(&self, slot: usize, workers: &[&WorkerCounters]) -> ServiceTotals {
        let before = self.services.get(&slot).copied().unwrap_or_default();
        ServiceTotals::read(workers, slot).since(before)
    }
}
