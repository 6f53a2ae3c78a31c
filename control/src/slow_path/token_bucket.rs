//! A token bucket: how many packets of a class may pass. Integers and a time that is passed in; no clock here.

use std::time::Instant;

/// Tokens are counted in billionths, so that one nanosecond at one packet per second is a whole number and nothing
/// is ever rounded.
const PARTS: u64 = 1_000_000_000;

/// The smallest burst of an open bucket: one DPDK burst. With less, even the first packets after silence, received
/// together, would be cut.
const BURST_MIN: u32 = 32;

/// Packets that may pass at once after silence at `rate` packets per second: a tenth of a second's worth, so that a
/// pause of the thread or a peer that starts up costs nothing, and a flood gets little before the rate holds.
/// A rate of 0 closes the bucket.
pub const fn burst(rate: u32) -> u32 {
    if rate == 0 {
        0
    } else if rate / 10 < BURST_MIN {
        BURST_MIN
    } else {
        rate / 10
    }
}

/// Tokens for one class: at most `rate * t + burst(rate)` packets pass in any time `t`.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// In billionths of a packet; at most `burst * PARTS`, which is below 2^59.
    parts: u64,
    refilled: Instant,
}

impl TokenBucket {
    /// A full bucket for `rate` packets per second.
    pub fn full(rate: u32, now: Instant) -> Self {
        Self { parts: u64::from(burst(rate)) * PARTS, refilled: now }
    }

    /// Adds what has accrued since the last call. The rate may differ from the last one: it holds for the whole
    /// time since, and the burst of the new one at once.
    pub fn refill(&mut self, rate: u32, now: Instant) {
        let elapsed_ns = now.saturating_duration_since(self.refilled).as_nanos();
        // What saturates is beyond any burst, and cut to it.
        let elapsed_ns = u64::try_from(elapsed_ns).unwrap_or(u64::MAX);
        let accrued = elapsed_ns.saturating_mul(u64::from(rate));
        self.parts = self.parts.saturating_add(accrued).min(u64::from(burst(rate)) * PARTS);
        self.refilled = self.refilled.max(now);
    }

    /// Takes the token of one packet; false when there is none.
    #[must_use]
    pub fn take(&mut self) -> bool {
        match self.parts.checked_sub(PARTS) {
            Some(left) => {
                self.parts = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Packets out of `asked` that pass after a refill.
    fn passed(bucket: &mut TokenBucket, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(bucket.take())).sum()
    }

    #[test]
    fn a_greedy_sender_gets_the_burst_and_then_the_rate() {
        let mut now = Instant::now();
        let mut bucket = TokenBucket::full(1_000, now);
        assert_eq!(passed(&mut bucket, 500), 100);
        let mut later = 0;
        for _ in 0..3_000 {
            now += Duration::from_micros(333);
            bucket.refill(1_000, now);
            later += passed(&mut bucket, 500);
        }
        assert_eq!(later, 999, "3,000 times 333 us, no part of a token lost");
    }

    #[test]
    fn a_slow_class_may_still_burst_and_a_rate_of_zero_is_shut() {
        let now = Instant::now();
        assert_eq!(passed(&mut TokenBucket::full(1, now), 100), BURST_MIN);
        let mut shut = TokenBucket::full(0, now);
        shut.refill(0, now + Duration::from_secs(3_600));
        assert_eq!(passed(&mut shut, 100), 0);
    }

    #[test]
    fn a_lower_rate_holds_at_once() {
        let now = Instant::now();
        let mut bucket = TokenBucket::full(u32::MAX, now);
        bucket.refill(100, now);
        assert_eq!(passed(&mut bucket, 1_000), burst(100));
    }

    #[test]
    fn time_that_stands_still_or_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut bucket = TokenBucket::full(1_000, now);
        assert_eq!(passed(&mut bucket, 1_000), 100);
        for earlier in [now, now - Duration::from_secs(5), now] {
            bucket.refill(1_000, earlier);
            assert_eq!(passed(&mut bucket, 1_000), 0);
        }
    }

    proptest! {
        /// From every moment to every later one, whatever is asked for when.
        #[test]
        fn never_more_than_rate_times_time_plus_burst(
            rate in prop_oneof![0..1_000u32, 0..10_000_000u32, Just(u32::MAX)],
            steps in proptest::collection::vec((0..2_000_000_000u64, 0..200u32), 1..40),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::full(rate, start);
            let (mut at_ns, mut history) = (0, Vec::new());
            for (pause_ns, asked) in steps {
                at_ns += pause_ns;
                bucket.refill(rate, start + Duration::from_nanos(at_ns));
                history.push((at_ns, passed(&mut bucket, asked)));
            }
            for (index, &(from_ns, _)) in history.iter().enumerate() {
                let mut sum = 0;
                for &(to_ns, passed) in &history[index..] {
                    sum += u128::from(passed);
                    let accrued = u128::from(rate) * u128::from(to_ns - from_ns) / 1_000_000_000;
                    prop_assert!(sum <= accrued + u128::from(burst(rate)));
                }
            }
        }
    }
}
