//! Drains that end: connections of a backend that takes no new ones are reset when their time is up.
//!
//! Pure: the time is handed in. A backend is drained from the first ruleset on in which it takes no new connections,
//! whether by its weight, its state, or because it left the rules.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::rules::{Admits, Backend, Fate};

/// One backend's drain.
#[derive(Clone, Copy, Debug)]
struct Drain {
    since: Duration,
    timeout: Duration,
    /// Workers were told that it has ended.
    told: bool,
}

impl Drain {
    fn is_over_at(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= self.timeout
    }
}

/// All drains that end, by the backend's slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Drains {
    now: Duration,
    under_way: BTreeMap<usize, Drain>,
}

impl Drains {
    /// Tells the time, counted from any moment; it does not go back.
    pub(super) fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Whether a drain has ended at `now` that workers were not told of.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.under_way.values().any(|drain| !drain.told && drain.is_over_at(now))
    }

    /// The slot has another backend: the drain of the one before is not its own.
    pub(super) fn forget(&mut self, slot: usize) {
        self.under_way.remove(&slot);
    }

    /// Begins, goes on with or ends the drain of the backend in `slot`, and says in its row what that comes to.
    pub(super) fn apply(&mut self, slot: usize, row: &mut Backend, timeout: Option<Duration>) {
        let Some(timeout) = timeout.filter(|_| row.admits != Admits::New) else {
            self.under_way.remove(&slot);
            return;
        };
        let since = self.under_way.get(&slot).map_or(self.now, |drain| drain.since);
        let mut drain = Drain { since, timeout, told: false };
        if drain.is_over_at(self.now) {
            drain.told = true;
            row.admits = Admits::Nobody;
            // `on_remove` may have moved them already.
            if row.fate == Fate::Finish {
                row.fate = Fate::Reset;
            }
        }
        self.under_way.insert(slot, drain);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dataplane::index::ServiceIndex;

    use super::*;

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

    fn row(admits: Admits, fate: Fate) -> Backend {
        Backend { admits, fate, ..Backend::new(Ipv4Addr::LOCALHOST, 80, ServiceIndex(0)) }
    }

    /// What a row says at `second`.
    fn at(drains: &mut Drains, second: u64, mut row: Backend, timeout: Option<Duration>) -> (Admits, Fate) {
        drains.advance_to(Duration::from_secs(second));
        drains.apply(3, &mut row, timeout);
        (row.admits, row.fate)
    }

    #[test]
    fn a_drain_ends_when_its_time_is_up_and_not_before() {
        let mut drains = Drains::default();
        let drained = row(Admits::Returning, Fate::Finish);
        assert_eq!(at(&mut drains, 10, drained, MINUTE), (Admits::Returning, Fate::Finish));
        assert!(!drains.is_due(Duration::from_secs(69)) && drains.is_due(Duration::from_secs(70)));
        assert_eq!(at(&mut drains, 69, drained, MINUTE), (Admits::Returning, Fate::Finish));
        assert_eq!(at(&mut drains, 70, drained, MINUTE), (Admits::Nobody, Fate::Reset));
        assert!(!drains.is_due(Duration::from_secs(1_000)), "told once");
        assert_eq!(at(&mut drains, 80, drained, MINUTE), (Admits::Nobody, Fate::Reset));
    }

    #[test]
    fn a_backend_that_comes_back_begins_anew() {
        let mut drains = Drains::default();
        let gone = row(Admits::Nobody, Fate::Finish);
        at(&mut drains, 0, gone, MINUTE);
        assert_eq!(at(&mut drains, 50, row(Admits::New, Fate::Finish), MINUTE), (Admits::New, Fate::Finish));
        assert_eq!(at(&mut drains, 70, gone, MINUTE), (Admits::Nobody, Fate::Finish));
        assert_eq!(at(&mut drains, 130, gone, MINUTE), (Admits::Nobody, Fate::Reset));
    }

    #[test]
    fn another_backend_in_the_slot_begins_anew() {
        let mut drains = Drains::default();
        assert_eq!(at(&mut drains, 0, row(Admits::Nobody, Fate::Finish), MINUTE).1, Fate::Finish);
        drains.forget(3);
        let other = row(Admits::Returning, Fate::Finish);
        assert_eq!(at(&mut drains, 100, other, MINUTE), (Admits::Returning, Fate::Finish));
        assert_eq!(at(&mut drains, 160, other, MINUTE), (Admits::Nobody, Fate::Reset));
    }

    #[test]
    fn without_a_timeout_nothing_ends_and_what_was_moved_stays_so() {
        let mut drains = Drains::default();
        let drained = row(Admits::Returning, Fate::Finish);
        at(&mut drains, 0, drained, None);
        assert_eq!(at(&mut drains, 1_000_000, drained, None), (Admits::Returning, Fate::Finish));
        let moved = row(Admits::Nobody, Fate::Move);
        at(&mut drains, 1_000_000, moved, MINUTE);
        assert_eq!(at(&mut drains, 1_000_060, moved, MINUTE), (Admits::Nobody, Fate::Move));
    }
}
