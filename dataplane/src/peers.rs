//! What the other workers hold, for decisions that count all of them: least connections, thresholds, limits.
//!
//! Loads are read from the others' counters by a hand, [`LOADS_PER_MILLISECOND`] backends each millisecond, so what a
//! scheduler sees of them is at most `count / LOADS_PER_MILLISECOND` milliseconds and one turn old (where turns are more than two
//! milliseconds apart, `count / LOADS_PER_MILLISECOND / 2` turns), `count` being the
//! backends of services that read loads; the worker's own are as of now. What must hold exactly is summed anew: a limit when
//! a connection asks, a threshold of the backend that was chosen, and of the one that got a connection. That a backend fell
//! below its lower threshold a second hand finds out, as fast as the first.

use std::sync::Arc;

use crate::counters::{BackendCounters, ServiceCounters, WorkerCounters};
use crate::index::{BACKENDS_MAX, BackendIndex, ServiceIndex};
use crate::rules::{Load, Ruleset};
use crate::time::Millis;

/// Backends whose load is read in one millisecond: a cache line each and worker.
pub const LOADS_PER_MILLISECOND: usize = 64;

/// The other workers as one worker sees them.
#[derive(Debug)]
pub struct Peers {
    counters: Box<[Arc<WorkerCounters>]>,
    /// Sums over the others, by backend.
    loads: Box<[Load]>,
    /// Where the hand over the loads is, and the one over the thresholds.
    hand: usize,
    bounds_hand: usize,
    read: Millis,
}

impl Peers {
    /// Sees the workers with these counters, its own not among them.
    pub fn new(counters: Box<[Arc<WorkerCounters>]>) -> Self {
        let loads = if counters.is_empty() { 0 } else { BACKENDS_MAX };
        Self {
            counters,
            loads: vec![Load::default(); loads].into_boxed_slice(),
            hand: 0,
            bounds_hand: 0,
            read: Millis(0),
        }
    }

    /// The load of a backend over all workers: `own` as of now, the others' as of a moment ago.
    #[inline]
    pub fn load(&self, backend: BackendIndex, own: &WorkerCounters) -> Load {
        let others = self.loads.get(backend.as_usize()).copied().unwrap_or_default();
        let own = own.load(backend);
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

    /// Whether a backend is at its threshold, as of now: full from the upper on, until below the lower again. Says so to
    /// the other workers where it has changed.
    pub fn look(&self, index: BackendIndex, rules: &Ruleset, own: &WorkerCounters) -> bool {
        let Some(backend) = rules.backend(index) else { return false };
        let was_full = rules.full.has(index);
        let bound = if was_full { backend.connections_lower } else { backend.connections_upper };
        // One without a threshold may have had one, and been at it.
        let is_full =
            backend.connections_upper != 0 && self.backend_connections(index, own) >= u64::from(bound);
        if is_full != was_full {
            rules.full.set(index, is_full);
        }
        is_full
    }

    /// Moves the hands, once a millisecond at most: the one over the loads of the others, and the one over the backends
    /// with thresholds, which clears those that fell below the lower one and those that new rules say something else of.
    pub fn refresh(&mut self, rules: &Ruleset, own: &WorkerCounters, now: Millis) {
        if now == self.read || (rules.load_readers.is_empty() && rules.bounded.is_empty()) {
            return;
        }
        let elapsed = now.since(self.read).max(1) as usize;
        self.read = now;
        // After a pause once round is all there is to do, in one turn's bound.
        let visits_max = elapsed.min(2) * LOADS_PER_MILLISECOND;
        if !self.counters.is_empty() {
            self.read_loads(&rules.load_readers, visits_max);
        }
        for _ in 0..visits_max.min(rules.bounded.len()) {
            self.bounds_hand = next(self.bounds_hand, rules.bounded.len());
            let Some(&backend) = rules.bounded.get(self.bounds_hand) else { return };
            self.look(backend, rules, own);
        }
    }

    fn read_loads(&mut self, readers: &[BackendIndex], visits_max: usize) {
        for _ in 0..visits_max.min(readers.len()) {
            self.hand = next(self.hand, readers.len());
            let Some(&backend) = readers.get(self.hand) else { return };
            let mut sum = Load::default();
            for load in self.counters.iter().map(|counters| counters.load(backend)) {
                sum.active = sum.active.saturating_add(load.active);
                sum.inactive = sum.inactive.saturating_add(load.inactive);
            }
            if let Some(place) = self.loads.get_mut(backend.as_usize()) {
                *place = sum;
            }
        }
    }
}

/// Where a hand goes that went over `count` places; their number may have changed.
fn next(hand: usize, count: usize) -> usize {
    if hand + 1 >= count { 0 } else { hand + 1 }
}

impl BackendCounters {
    /// Connections held.
    pub fn held(&self) -> u64 {
        difference(self.opened.value(), self.closed.value())
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
    use crate::rules::{Backend, FullBackends};

    const ONE: BackendIndex = BackendIndex(1);

    fn worker(opened: u64, closed: u64, active: u64) -> Arc<WorkerCounters> {
        let counters = WorkerCounters::default();
        (0..opened).for_each(|_| counters.count_opened(ONE, false));
        (0..closed).for_each(|_| counters.count_closed(ONE, false));
        (0..active).for_each(|_| counters.count_active(ONE, true));
        Arc::new(counters)
    }

    #[test]
    fn others_are_seen_after_the_hand_has_passed_and_ones_own_at_once() {
        let (own, other) = (worker(5, 1, 3), worker(10, 2, 1));
        let mut peers = Peers::new(Box::new([Arc::clone(&other)]));
        let rules = Ruleset { load_readers: Arc::new([BackendIndex(0), ONE]), ..Ruleset::default() };
        assert_eq!(peers.load(ONE, &own), Load { active: 3, inactive: 1 });
        peers.refresh(&rules, &own, Millis(1));
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 8 });
        other.count_opened(ONE, false);
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 8 }, "not yet");
        assert_eq!(peers.backend_connections(ONE, &own), 13, "summed anew");
        peers.refresh(&rules, &own, Millis(2));
        assert_eq!(peers.load(ONE, &own), Load { active: 4, inactive: 9 });
    }

    #[test]
    fn a_full_backend_is_full_for_all_workers_until_it_falls_below_the_lower_threshold() {
        let (own, other) = (worker(2, 0, 0), worker(2, 0, 0));
        let peers = Peers::new(Box::new([Arc::clone(&other)]));
        let others_peers = Peers::new(Box::new([Arc::clone(&own)]));
        let rules = |upper, full: &Arc<FullBackends>| {
            let backend = Backend::new(Ipv4Addr::LOCALHOST, 80, ServiceIndex(0));
            let bounded = Backend { connections_upper: upper, connections_lower: 3, ..backend };
            let backends = Arc::new([backend, bounded]);
            Ruleset { backends, bounded: Arc::new([ONE]), full: Arc::clone(full), ..Ruleset::default() }
        };
        let full = Arc::default();
        let four = rules(4, &full);
        assert!(peers.look(ONE, &four, &own) && full.has(ONE));
        own.backend(ONE).closed.set(1);
        assert!(others_peers.look(ONE, &four, &other), "3 is not below 3, whoever looks");
        other.backend(ONE).closed.set(1);
        assert!(!peers.look(ONE, &four, &own));
        own.backend(ONE).opened.set(3);
        assert!(!others_peers.look(ONE, &four, &other) && !full.has(ONE), "3 is below 4");
        own.backend(ONE).opened.set(9);
        assert!(peers.look(ONE, &four, &own));
        let mut hand = Peers::new(Box::default());
        hand.refresh(&rules(0, &full), &own, Millis(1));
        assert!(!full.has(ONE), "no threshold, never full");
    }

    #[test]
    fn many_backends_take_several_milliseconds() {
        let other = worker(0, 0, 0);
        let mut peers = Peers::new(Box::new([Arc::clone(&other)]));
        let load_readers = (0..200).map(BackendIndex).collect();
        let rules = Ruleset { load_readers, ..Ruleset::default() };
        (0..200).for_each(|n| other.count_opened(BackendIndex(n), false));
        let own = worker(0, 0, 0);
        let seen =
            |peers: &Peers| (0..200).filter(|n| peers.load(BackendIndex(*n), &own).inactive == 1).count();
        for now in 1..=4 {
            peers.refresh(&rules, &own, Millis(now));
            peers.refresh(&rules, &own, Millis(now));
            assert_eq!(seen(&peers), (now as usize * LOADS_PER_MILLISECOND).min(200));
        }
    }
}
