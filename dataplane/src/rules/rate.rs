//! The rate of new connections of one service, over all workers: a token bucket that they share.
//!
//! The one thing workers write together, and only for newcomers of services that have a limit: a limit split among
//! workers would be wrong for every client population that does not split evenly.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Millis;

/// Tokens are counted in thousandths, so that one millisecond at one connection per second is a whole number.
const PARTS: u32 = 1_000;
/// How far one worker's clock may be behind another's, in milliseconds: longer than any turn.
const BEHIND_MAX_MS: u32 = 60_000;
/// Times a worker tries when another one changes the bucket under its hands; then it takes it for empty.
const TRIES_MAX: u32 = 16;

/// A token bucket in one word: when it was filled last, and its thousandths of tokens then.
#[derive(Debug, Default)]
pub struct RateBucket(AtomicU64);

impl RateBucket {
    /// Takes the token of one new connection at `rate` a second, at most 10,000,000; false when there is none. After
    /// silence a tenth of a second's worth passes at once, at least one.
    pub fn take(&self, rate: u32, now: Millis) -> bool {
        let full = (rate / 10).max(1).saturating_mul(PARTS);
        let mut word = self.0.load(Ordering::Relaxed);
        for _ in 0..TRIES_MAX {
            let (filled, parts) = (Millis((word >> 32) as u32), word as u32);
            // Workers' clocks may be a turn apart: who is behind must not set the bucket back. What lies further ahead
            // is long ago: differences hold up to 24 days.
            let is_old = word == 0 || filled.since(now) > BEHIND_MAX_MS;
            let at = if is_old { now } else { filled.later(now) };
            let gained = at.since(filled).saturating_mul(rate);
            let parts = if is_old { full } else { parts.saturating_add(gained).min(full) };
            let Some(left) = parts.checked_sub(PARTS) else { return false };
            let next = u64::from(at.0) << 32 | u64::from(left);
            match self.0.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => word = changed,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_whatever_the_clock_shows_and_after_any_silence() {
        for start in [u32::MAX - 500, u32::MAX / 2 + 7, 3_000_000_000] {
            let bucket = RateBucket::default();
            let taken =
                |from: u32| (0..2_000).filter(|ms| bucket.take(5, Millis(from.wrapping_add(*ms)))).count();
            assert!((10..=11).contains(&taken(start)), "the first two seconds at {start}");
            let month_later = start.wrapping_add(30 * 24 * 3_600 * 1_000);
            assert!((10..=11).contains(&taken(month_later)), "two seconds a month after {start}");
        }
    }

    #[test]
    fn the_rate_holds_over_time_and_a_burst_is_a_tenth_of_a_second() {
        for (rate, burst) in [(1u32, 1u32), (10, 1), (1_000, 100), (10_000_000, 1_000_000)] {
            let bucket = RateBucket::default();
            let taken =
                |now: u32, asked: u32| (0..asked).filter(|_| bucket.take(rate, Millis(now))).count() as u32;
            assert_eq!(taken(5, burst + 1), burst, "at once, {rate} a second");
            let asked = rate.div_ceil(1_000) + 1;
            let later: u32 = (6..10_006).map(|now| taken(now, asked)).sum();
            assert!(
                later.abs_diff(rate * 10) <= 1 + rate / 1_000,
                "{later} in ten seconds at {rate} a second"
            );
        }
    }

    #[test]
    fn a_clock_that_is_behind_does_not_refill() {
        let bucket = RateBucket::default();
        assert!((0..100).all(|_| bucket.take(1_000, Millis(50))));
        assert!(!bucket.take(1_000, Millis(49)));
        assert!(bucket.take(1_000, Millis(51)));
        assert!(!bucket.take(1_000, Millis(51)));
    }
}
