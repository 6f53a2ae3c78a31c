//! What a backend's checks so far make of it. Pure: outcomes and the time are handed in.

use std::time::Instant;

use super::Failure;
use crate::rules::Health;

/// What is known of one backend.
#[derive(Clone, Debug)]
pub struct Standing {
    is_up: bool,
    /// Whether a check has had a say yet.
    is_proven: bool,
    /// Outcomes in a row that speak against what it is.
    against: u32,
    since: Instant,
    /// When it was last brought back, if ever.
    came_back: Option<Instant>,
    /// How often in a row it fell again soon after it came back.
    flaps: u32,
    /// Outcomes in a row that change what it is.
    wanted: u32,
    /// The last check could not be done.
    is_unknown: bool,
    last_error: Option<String>,
    checks: u64,
    failed: u64,
    /// Of the checks that this host itself was not able to do.
    not_done: u64,
}

impl Standing {
    /// Before the first check.
    pub fn new(is_up: bool, now: Instant) -> Self {
        Self {
            is_up,
            is_proven: false,
            against: 0,
            since: now,
            came_back: None,
            flaps: 0,
            // What it is before its first check is a guess, so that one alone decides, as with HAProxy's `init-state`.
            wanted: 1,
            is_unknown: false,
            last_error: None,
            checks: 0,
            failed: 0,
            not_done: 0,
        }
    }

    /// Whether it can serve.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// When it became so.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What was wrong when a check last failed: a sentence without its full stop.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Checks done.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// Those that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Checks that were due and could not be done for want of something on this host.
    pub fn not_done(&self) -> u64 {
        self.not_done
    }

    /// Outcomes in a row that are still missing for a change.
    pub fn until_change(&self) -> u32 {
        self.wanted.saturating_sub(self.against)
    }

    /// Takes note of a check, and says what it changed. A check that could not be done says nothing about the backend.
    pub fn note(&mut self, outcome: Result<(), Failure>, health: &Health, now: Instant) -> Option<Change> {
        let passed = match outcome {
            Ok(()) => true,
            Err(Failure::OfBackend(why)) => {
                self.failed += 1;
                self.last_error = Some(why);
                false
            }
            Err(Failure::OfThisHost(why)) => {
                self.not_done += 1;
                self.last_error = Some(why);
                let is_new = !std::mem::replace(&mut self.is_unknown, true);
                return is_new.then_some(Change::Unknown);
            }
        };
        self.checks += 1;
        self.is_unknown = false;
        if self.is_proven {
            self.wanted = self.wanted(health);
        }
        self.is_proven = true;
        if passed == self.is_up {
            self.against = 0;
            self.wanted = self.wanted(health);
            return None;
        }
        self.against += 1;
        if self.against < self.wanted {
            return None;
        }
        Some(self.change(health, now))
    }

    fn change(&mut self, health: &Health, now: Instant) -> Change {
        self.is_up = !self.is_up;
        self.against = 0;
        self.since = now;
        if self.is_up {
            self.came_back = Some(now);
        } else {
            let is_soon = |back: &Instant| {
                health.damping.is_some_and(|soon| now.saturating_duration_since(*back) < soon)
            };
            self.flaps = if self.came_back.as_ref().is_some_and(is_soon) { self.flaps + 1 } else { 0 };
        }
        self.wanted = self.wanted(health);
        if self.is_up { Change::Up } else { Change::Down }
    }

    /// Outcomes in a row that change what it is: `fall`, or `rise`, twice as many with each flap, up to as many as fit in the time of
    /// damping.
    fn wanted(&self, health: &Health) -> u32 {
        if self.is_up {
            return health.fall;
        }
        let most = health.damping.map_or(0, |damping| damping.as_nanos() / health.interval.as_nanos().max(1));
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(health.rise);
        health.rise.saturating_mul(1_u32.checked_shl(self.flaps).unwrap_or(u32::MAX)).min(most)
    }
}

/// What a check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The backend can serve.
    Up,
    /// It cannot.
    Down,
    /// It stays what it was, as from now on it is not known.
    Unknown,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::tests::health;

    fn standing(is_up: bool) -> Standing {
        Standing::new(is_up, Instant::now())
    }

    /// The checks, `+` passed, `-` failed, `?` not done, and what the backend is after each, `U` or `D`.
    fn after(standing: &mut Standing, checks: &str) -> String {
        let health = health();
        let mut states = String::new();
        for check in checks.chars() {
            let outcome = match check {
                '+' => Ok(()),
                '-' => Err(Failure::OfBackend("connection refused".into())),
                _ => Err(Failure::OfThisHost("too many open files".into())),
            };
            let was_up = standing.is_up();
            let change = standing.note(outcome, &health, Instant::now());
            let changed = matches!(change, Some(Change::Up | Change::Down));
            assert_eq!(changed, was_up != standing.is_up());
            states.push(if standing.is_up() { 'U' } else { 'D' });
        }
        states
    }

    #[test]
    fn it_falls_and_rises_after_so_many_in_a_row() {
        let mut standing = standing(true);
        assert_eq!(after(&mut standing, "+--+---"), "UUUUUUD");
        assert_eq!(after(&mut standing, "-+-+-++"), "DDDDDDU");
        assert_eq!((standing.checks(), standing.failed()), (14, 8));
        assert_eq!(standing.last_error(), Some("connection refused"));
    }

    #[test]
    fn the_first_check_decides_alone() {
        assert_eq!(after(&mut standing(true), "-"), "D");
        assert_eq!(after(&mut standing(false), "+"), "U");
        assert_eq!(after(&mut standing(true), "+-"), "UU");
        assert_eq!(after(&mut standing(false), "-+"), "DD");
    }

    #[test]
    fn what_this_host_lacks_is_no_fault_of_the_backend() {
        let mut standing = standing(true);
        assert_eq!(after(&mut standing, "+--????"), "UUUUUUU");
        assert_eq!(standing.not_done(), 4);
        assert_eq!(after(&mut standing, "-"), "D", "nor does it clear him");
    }

    /// Checks every second, in the order of time; returns how many passed before it was up again.
    fn passes_until_up(standing: &mut Standing, health: &Health, now: &mut Instant) -> u32 {
        for passes in 1.. {
            *now += Duration::from_secs(1);
            if standing.note(Ok(()), health, *now) == Some(Change::Up) {
                return passes;
            }
        }
        0
    }

    fn fail(standing: &mut Standing, health: &Health, now: &mut Instant) {
        for _ in 0..health.fall {
            *now += Duration::from_secs(1);
            standing.note(Err(Failure::backend("no")), health, *now);
        }
        assert!(!standing.is_up());
    }

    #[test]
    fn who_flaps_must_pass_twice_as_many_checks_each_time_up_to_a_bound() {
        let interval = Duration::from_secs(1);
        let health = Health { interval, damping: Some(Duration::from_secs(30)), ..health() };
        let mut now = Instant::now();
        let mut standing = standing(true);
        standing.note(Ok(()), &health, now);
        for wanted in [2, 4, 8, 16, 30, 30] {
            fail(&mut standing, &health, &mut now);
            assert_eq!(standing.until_change(), wanted);
            assert_eq!(passes_until_up(&mut standing, &health, &mut now), wanted);
        }
        now += Duration::from_secs(60);
        fail(&mut standing, &health, &mut now);
        assert_eq!(passes_until_up(&mut standing, &health, &mut now), 2, "it was well for long enough");
    }
}
