//! One backend's checks, one after the other.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::board::Board;
use super::{Job, Traffic, probe};
use crate::random;
use crate::rules::PassiveCheck;

/// Checks for ever, the first time after `first_check`.
///
/// Intervals are counted from the beginning of a check to that of the next and only ever cut short: so a backend that fails is
/// found out within `fall` intervals and a timeout, whatever the jitter.
pub(super) async fn watch(job: Job, board: Board, first_check: Duration) {
    sleep(first_check).await;
    loop {
        let began = Instant::now();
        let outcome = probe::probe(&job).await;
        board.note(&job, outcome, Instant::now().into_std());
        sleep_until(began + shortened(job.health.interval, job.health.jitter_percent, random::word())).await;
    }
}

/// Judges its traffic for ever, once an interval; the intervals are whole, so that they hold as many connections.
pub(super) async fn observe(job: Job, board: Board, traffic: Option<Traffic>, check: PassiveCheck) {
    let Some(mut traffic) = traffic else { return };
    let mut ticks = interval(job.health.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let is_up = board.is_up(&job.key).unwrap_or(true);
        if let Some(outcome) = traffic.judge(check.attempts, is_up) {
            board.note(&job, outcome, Instant::now().into_std());
        }
    }
}

/// An interval cut short by up to `percent`, as `random` says.
fn shortened(interval: Duration, percent: u8, random: u64) -> Duration {
    // The upper half of a product is a fair number below its other factor.
    let share = (u128::from(random) * u128::from(percent) * interval.as_nanos() / 100) >> 64;
    interval.saturating_sub(Duration::from_nanos(share as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn intervals_are_cut_short_and_never_made_longer() {
        assert_eq!(shortened(SECOND, 0, u64::MAX), SECOND);
        assert_eq!(shortened(SECOND, 10, 0), SECOND);
        assert_eq!(shortened(SECOND, 10, u64::MAX / 2).as_millis(), 950);
        assert_eq!(shortened(SECOND, 50, u64::MAX).as_millis(), 500);
        assert!(shortened(Duration::from_secs(3_600), 50, u64::MAX) >= Duration::from_secs(1_800));
    }
}
