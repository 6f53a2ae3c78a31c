//! What systemd is told of a unit with `Type=notify`: ready, reloading, stopping, and that all is well. Nothing where nobody
//! listens (`NOTIFY_SOCKET` is not set), as in a terminal.
//!
//! All is well when control's loop turns and every worker's does: a worker that hangs keeps the process from pinging, and
//! systemd starts it anew. Read first: sd_notify(3), sd_watchdog_enabled(3).

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    /// How often it wants a sign of life; half of what it waits for, as sd_watchdog_enabled(3) recommends.
    ping_every: Option<Duration>,
    pinged: Instant,
    /// Turns of each worker's loop at the last ping.
    turns: Vec<u64>,
    /// A stuck worker is told once.
    has_complained: bool,
    was_told_ready: bool,
}

impl ServiceManager {
    /// As the environment says.
    pub(super) fn of_environment() -> Self {
        Self::waiting_for(sd_notify::watchdog_enabled())
    }

    fn waiting_for(patience: Option<Duration>) -> Self {
        Self {
            ping_every: patience.map(|patience| patience / 2),
            pinged: Instant::now(),
            turns: Vec::new(),
            has_complained: false,
            was_told_ready: false,
        }
    }

    /// The rules are in force; `status` is one line.
    pub(super) fn ready(&mut self, status: &str) {
        self.was_told_ready = true;
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Whether the start came to its end.
    pub(super) fn was_told_ready(&self) -> bool {
        self.was_told_ready
    }

    /// A reload has begun; [`ServiceManager::ready`] ends it, refused or not.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Sends a sign of life when one is due and every worker's loop has turned since the last.
    pub(super) fn keep_alive(&mut self, turns: impl FnOnce() -> Vec<u64>, now: Instant) {
        if self.is_due(now) && self.all_turn(turns()) {
            tell(&[NotifyState::Watchdog]);
            self.pinged = now;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.ping_every.is_some_and(|every| now.duration_since(self.pinged) >= every)
    }

    fn all_turn(&mut self, turns: Vec<u64>) -> bool {
        let stuck = turns.iter().zip(&self.turns).position(|(now, before)| now == before);
        if let Some(worker) = stuck {
            if !self.has_complained {
                warn!("worker {worker} has not turned since the last sign of life: no further one is sent");
            }
            self.has_complained = true;
            return false;
        }
        (self.turns, self.has_complained) = (turns, false);
        true
    }
}

/// What cannot be told is lost: the service manager has gone, or there is none.
fn tell(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_stop_with_any_worker_and_come_again_with_it() {
        let mut manager = ServiceManager::waiting_for(Some(Duration::from_secs(10)));
        let start = manager.pinged;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!manager.is_due(at(4)) && manager.is_due(at(5)));
        manager.keep_alive(|| vec![7, 7], at(5));
        assert_eq!(manager.pinged, at(5), "nothing is known of before");
        manager.keep_alive(|| vec![8, 7], at(11));
        assert_eq!(manager.pinged, at(5), "the second is stuck");
        manager.keep_alive(|| vec![9, 8], at(12));
        assert_eq!(manager.pinged, at(12));
    }

    #[test]
    fn without_a_watchdog_nothing_is_ever_due() {
        let manager = ServiceManager::waiting_for(None);
        assert!(!manager.is_due(manager.pinged + Duration::from_secs(100_000)));
    }
}
