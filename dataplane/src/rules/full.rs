//! Which backends rest: they reached their upper threshold of connections and have not fallen below the lower since.
//!
//! Of all workers, since the connection that fills a backend may be any worker's, and a newcomer at every other one has to
//! know. Written when that changes, read for each newcomer of a service that has thresholds.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::index::{BACKENDS_MAX, BackendIndex};

/// A flag for each backend; the same over all rulesets.
#[derive(Debug)]
pub struct FullBackends(Box<[AtomicBool]>);

impl FullBackends {
    /// Whether the backend rests.
    #[inline]
    pub fn has(&self, backend: BackendIndex) -> bool {
        self.0.get(backend.as_usize()).is_some_and(|full| full.load(Ordering::Relaxed))
    }

    /// Says whether it does; does not touch what other workers read when that is known.
    pub fn set(&self, backend: BackendIndex, is_full: bool) {
        if let Some(full) = self.0.get(backend.as_usize())
            && full.load(Ordering::Relaxed) != is_full
        {
            full.store(is_full, Ordering::Relaxed);
        }
    }
}

impl Default for FullBackends {
    fn default() -> Self {
        Self((0..BACKENDS_MAX).map(|_| AtomicBool::new(false)).collect())
    }
}

/// A copy that the workers do not share.
impl Clone for FullBackends {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|full| AtomicBool::new(full.load(Ordering::Relaxed))).collect())
    }
}
