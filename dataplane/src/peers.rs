//! What the other workers hold, for decisions that count all of them: least connections, thresholds, limits.
//!
//! Loads are read from the others' counters by a hand, [`LOADS_PER_MILLISECOND`] backends each millisecond, so what a
//! scheduler sees of them is at most `count / LOADS_PER_MILLISECOND` milliseconds and one turn old, `count` being the
//! backends of services that read loads; the worker's own are as of now. What must hold exactly is summed anew.

use std::sync::Arc;

use crate::counters::{BackendCounters, ServiceCounters, WorkerCounters};
use crate::index::{BACKENDS_MAX, BackendIndex, ServiceIndex};
use crate::rules::{Backend, Load, Ruleset};
use crate::time::Millis;

/// Backends whose load is read in one millisecond: a cache line each and worker.
pub const LOADS_PER_MILLISECOND: usize = 64;

/// The other workers as one worker sees them.
#[derive(Debug)]
pub struct Peers {
    counters: Box<[Arc<WorkerCounters>]>,
    /// Sums over the others, by backend.
    loads: Box<[Load]>,
    /// Whether the backend was at its upper threshold and has not fallen below the lower since, by backend.
    full: Box<[bool]>,
    hand: usize,
    read: Millis,
}

impl Peers {
    /// Sees the workers with these counters, its own not among them.
    pub fn new(counters: Box<[Arc<WorkerCounters>]>) -> Self {
        let loads = if counters.is_empty() { 0 } else { BACKENDS_MAX };
        Self {
            counters,
            loads: vec![Load::default(); loads].into_boxed_slice(),
            full: vec![false; BACKENDS_MAX].into_boxed_slice(),
            hand: 0,
            read: Millis(0),
        }
    }

    /// The load of a backend over all workers: `own` as of now, the others' as of a moment ago.
    #[inline]
    pub fn load(&self, backend: BackendIndex, own: &WorkerCounters) -> Load {
        let others = self.loads.get(backend.as_usize()).copied().unwrap_or_default();
        let own = own.backend(backend).load();
        Load {
            active: own.active.saturating_add(others.active),
            inactive: own.inactive.saturating_add(others.inactive),
        }
    }

    /// Connections of a backend over all workers, as of now.
    pub fn backend_connections(&self, backend: BackendIndex, own: &WorkerCounters) -> u64 {
        self.sum(own, |counters| counters.backend(backend).held())
    }

    /// Connections of a service over all workers, as of now.
    pub fn service_connections(&self, service: ServiceIndex, own: &WorkerCounters) -> u64 {
        self.sum(own, |counters| counters.service(service).held())
    }

    /// Half-open connections of a service over all workers, as of now.
    pub fn service_half_open(&self, service: ServiceIndex, own: &WorkerCounters) -> u64 {
        self.sum(own, |counters| counters.service(service).half_open.value())
    }

    /// A gauge that one worker writes while another reads the two counters it is made of may be off by what passed
    /// between; never below 0 for long, so a difference that wrapped counts as none.
    fn sum(&self, own: &WorkerCounters, gauge: impl Fn(&WorkerCounters) -> u64) -> u64 {
        let others: u64 = self.counters.iter().map(|counters| gauge(counters)).sum();
        others + gauge(own)
    }

    /// Whether a backend is at its threshold, as of now: full from the upper on, until below the lower again.
    pub fn is_full(&mut self, index: BackendIndex, backend: &Backend, own: &WorkerCounters) -> bool {
        let connections = self.backend_connections(index, own);
        let Some(full) = self.full.get_mut(index.as_usize()) else { return false };
        if backend.connections_upper == 0 {
            // It may have had a threshold, and been at it.
            *full = false;
            return false;
        }
        let bound = if *full { backend.connections_lower } else { backend.connections_upper };
        *full = connections >= u64::from(bound);
        *full
    }

    /// Whether a backend was at its threshold when [`Self::is_full`] was asked last.
    #[inline]
    pub fn was_full(&self, backend: BackendIndex) -> bool {
        self.full.get(backend.as_usize()).is_some_and(|full| *full)
    }

    /// Moves the hand, once a millisecond at most.
    pub fn refresh(&mut self, rules: &Ruleset, now: Millis) {
        if self.counters.is_empty() || rules.load_readers.is_empty() || now == self.read {
            return;
        }
        let elapsed = now.since(self.read).max(1) as usize;
        self.read = now;
        let count = rules.load_readers.len();
        // After a pause once round is all there is to do, in one turn's bound.
        for _ in 0..(elapsed.min(2) * LOADS_PER_MILLISECOND).min(count) {
            self.hand = if self.hand + 1 >= count { 0 } else { self.hand + 1 };
            let Some(&backend) = rules.load_readers.get(self.hand) else { return };
            let mut sum = Load::default();
            for load in self.counters.iter().map(|counters| counters.backend(backend).load()) {
                sum.active = sum.active.saturating_add(load.active);
                sum.inactive = sum.inactive.saturating_add(load.inactive);
            }
            if let Some(place) = self.loads.get_mut(backend.as_usize()) {
                *place = sum;
            }
        }
    }
}

impl BackendCounters {
    /// Connections held.
    pub fn held(&self) -> u64 {
        difference(self.opened.value(), self.closed.value())
    }

    /// The load of one worker.
    #[inline]
    pub fn load(&self) -> Load {
        let active = u32::try_from(self.active.value()).unwrap_or(0);
        Load { active, inactive: (self.held() as u32).saturating_sub(active) }
    }
}

impl ServiceCounters {
    /// Connections held.
    pub fn held(&self) -> u64 {
        difference(self.opened.value(), self.closed.value())
    }
}

/// What was opened and not closed. Who reads another worker's counters may see a close before its open.
fn difference(opened: u64, closed: u64) -> u64 {
    let held = opened.wrapping_sub(closed);
    if held > u64::MAX / 2 { 0 } else { held }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ONE: BackendIndex = BackendIndex(1);

    fn worker(opened: u64, closed: u64, active: u64) -> Arc<WorkerCounters> {
        let counters = WorkerCounters::default();
        let backend = counters.backend(ONE);
        backend.opened.set(opened);
        backend.closed.set(closed);
        backend.active.set(active);
        Arc::new(counters)
    }

    #[test]
    fn others_are_seen_after_the_hand_has_passed_and_ones_own_at_once() {
        let (own, other) = (worker(5, 1, 3), worker(10, 2, 1));
        let mut peers = Peers::new(Box::new([Arc::clone(&other)]));
        let rules = Ruleset { load_readers: Arc::new([BackendIndex(0), ONE]), ..Ruleset::default() };
        assert_eq!(peers.load(ONE, &own), Load { active: 3, inactive: 1 });
        peers.refresh(&rules, Millis(1));
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 8 });
        other.backend(ONE).opened.set(11);
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 8 }, "not yet");
        assert_eq!(peers.backend_connections(ONE, &own), 13, "summed anew");
        peers.refresh(&rules, Millis(2));
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 9 });
    }

    #[test]
    fn a_full_backend_is_full_until_it_falls_below_the_lower_threshold() {
        let (own, other) = (worker(2, 0, 0), worker(2, 0, 0));
        let mut peers = Peers::new(Box::new([Arc::clone(&other)]));
        let backend = Backend {
            connections_upper: 4,
            connections_lower: 3,
            ..Backend::new(Ipv4Addr::LOCALHOST, 80, ServiceIndex(0))
        };
        assert!(peers.is_full(ONE, &backend, &own));
        own.backend(ONE).closed.set(1);
        assert!(peers.is_full(ONE, &backend, &own) && peers.was_full(ONE), "3 is not below 3");
        other.backend(ONE).closed.set(1);
        assert!(!peers.is_full(ONE, &backend, &own));
        own.backend(ONE).opened.set(3);
        assert!(!peers.is_full(ONE, &backend, &own) && !peers.was_full(ONE), "3 is below 4");
        own.backend(ONE).opened.set(9);
        assert!(peers.is_full(ONE, &backend, &own));
        let lifted = Backend { connections_upper: 0, ..backend };
        assert!(!peers.is_full(ONE, &lifted, &own) && !peers.was_full(ONE), "no threshold, never full");
    }

    #[test]
    fn many_backends_take_several_milliseconds() {
        let other = worker(0, 0, 0);
        let mut peers = Peers::new(Box::new([Arc::clone(&other)]));
        let load_readers = (0..200).map(BackendIndex).collect();
        let rules = Ruleset { load_readers, ..Ruleset::default() };
        (0..200).for_each(|n| other.backend(BackendIndex(n)).opened.set(1));
        let own = worker(0, 0, 0);
        let seen =
            |peers: &Peers| (0..200).filter(|n| peers.load(BackendIndex(*n), &own).inactive == 1).count();
        for now in 1..=4 {
            peers.refresh(&rules, Millis(now));
            peers.refresh(&rules, Millis(now));
            assert_eq!(seen(&peers), (now as usize * LOADS_PER_MILLISECOND).min(200));
        }
    }
}
