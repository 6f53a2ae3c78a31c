//! Whether a backend answers its clients: by what the line counts, without a packet of control's own.
//!
//! An interval in which too few connections were made says nothing. One in which they were fails when the backend sent no packet at all
//! ("SYNs without answer"), or refused half of them and more. So clients that never complete a handshake (a SYN flood) do not bring a
//! backend down that answers them. The line sees answers in the modes `nat`, `fullnat` and `snat` only.

use std::sync::Arc;

use dataplane::counters::WorkerCounters;
use dataplane::index::BackendIndex;

use super::Failure;

/// What the line counts, and where it counts one backend.
#[derive(Clone, Debug)]
pub struct Traffic {
    workers: Arc<[Arc<WorkerCounters>]>,
    backend: BackendIndex,
    before: Totals,
}

/// Over all workers, from any beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    opened: u64,
    refused: u64,
    answers: u64,
}

impl Totals {
    fn since(self, before: Self) -> Self {
        Self {
            opened: self.opened.saturating_sub(before.opened),
            refused: self.refused.saturating_sub(before.refused),
            answers: self.answers.saturating_sub(before.answers),
        }
    }

    /// What it comes to where `attempts` connections are enough to tell.
    fn judge(self, attempts: u32) -> Option<Result<(), Failure>> {
        let Self { opened, refused, answers } = self;
        if opened < u64::from(attempts) {
            return None;
        }
        Some(if answers == 0 {
            Err(Failure::backend(format!("no answer to {opened} connections")))
        } else if refused.saturating_mul(2) >= opened {
            // Some may have been opened in the interval before.
            Err(Failure::backend(format!("{} of {opened} connections refused", refused.min(opened))))
        } else {
            Ok(())
        })
    }
}

impl Traffic {
    /// The traffic of `backend` from now on.
    pub fn new(workers: Arc<[Arc<WorkerCounters>]>, backend: BackendIndex) -> Self {
        let mut traffic = Self { workers, backend, before: Totals::default() };
        traffic.before = traffic.totals();
        traffic
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.workers.iter() {
            let backend = worker.backend(self.backend);
            // Connections are read last: an answer counted in between is one too many, never one too few.
            totals.answers += backend.outbound.packets.value();
            totals.refused += backend.refused.value();
            totals.opened += backend.opened.value();
        }
        totals
    }

    /// What has happened since this was last asked; nothing where that tells nothing. A backend that is down gets no connections, so
    /// there every interval passes: after `rise` of them it is tried again.
    pub(super) fn judge(&mut self, attempts: u32, is_up: bool) -> Option<Result<(), Failure>> {
        let now = self.totals();
        let news = now.since(std::mem::replace(&mut self.before, now));
        if is_up { news.judge(attempts) } else { Some(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(opened: u64, refused: u64, answers: u64) -> Option<Result<(), Failure>> {
        Totals { opened, refused, answers }.judge(4)
    }

    #[test]
    fn silence_and_refusals_fail_and_too_little_tells_nothing() {
        assert_eq!(judged(3, 3, 3), None);
        assert_eq!(judged(4, 0, 1), Some(Ok(())), "who answers one SYN of a flood is alive");
        assert_eq!(judged(4, 1, 4), Some(Ok(())));
        assert_eq!(judged(4, 0, 0), Some(Err(Failure::backend("no answer to 4 connections"))));
        assert_eq!(judged(4, 2, 4), Some(Err(Failure::backend("2 of 4 connections refused"))));
    }

    #[test]
    fn what_was_counted_before_does_not_count_and_who_is_down_is_tried_again() {
        let worker = Arc::new(WorkerCounters::default());
        let backend = worker.backend(BackendIndex(3));
        backend.opened.add(100);
        let mut traffic = Traffic::new(Arc::new([Arc::clone(&worker)]), BackendIndex(3));
        assert_eq!(traffic.judge(4, true), None);
        backend.opened.add(5);
        assert!(matches!(traffic.judge(4, true), Some(Err(_))));
        assert_eq!(traffic.judge(4, true), None, "each interval by itself");
        assert_eq!(traffic.judge(4, false), Some(Ok(())));
    }
}
