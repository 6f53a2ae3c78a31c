//! Where standings are kept: written by the tasks that check, read by the director and the API.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::ToSchema;

use super::notify::{Call, Hooks};
use super::standing::Change;
use super::{Failure, Job, Standing};
use crate::rules::build::BackendKey;

/// All standings; clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: Mutex<HashMap<BackendKey, Standing>>,
    /// A standing is another one than when somebody last asked.
    has_changed: AtomicBool,
    hooks: OnceLock<Hooks>,
}

/// What checks say of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// `up` or `down`.
    pub state: String,
    /// For how many seconds.
    pub seconds: f64,
    /// Why the last check failed that did; also of one that is up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Checks done.
    pub checks: u64,
    /// Those that failed.
    pub failed: u64,
    /// Checks that this host was not able to do.
    #[serde(default)]
    pub not_done: u64,
    /// Checks in a row that must still pass, or fail, for it to change: more than `rise` says of one that flaps.
    #[serde(default)]
    pub until_change: u32,
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, seconds, last_error, until_change, .. } = self;
        write!(f, "{state} for {seconds:.0} s, {until_change} checks from a change")?;
        last_error.iter().try_for_each(|error| write!(f, ": {error}"))
    }
}

impl Board {
    fn rows(&self) -> MutexGuard<'_, HashMap<BackendKey, Standing>> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a backend, unless it has one.
    pub(super) fn enter(&self, key: BackendKey, is_up: bool, now: Instant) {
        self.rows().entry(key).or_insert_with(|| Standing::new(is_up, now));
    }

    /// Forgets the others.
    pub(super) fn retain(&self, is_checked: impl Fn(&BackendKey) -> bool) {
        self.rows().retain(|key, _| is_checked(key));
    }

    /// Whether a backend is up; nothing of one that is not on the board.
    pub(super) fn is_up(&self, key: &BackendKey) -> Option<bool> {
        self.rows().get(key).map(Standing::is_up)
    }

    /// Tells changes from now on.
    pub(super) fn set_hooks(&self, hooks: Hooks) {
        // They are set once, by the only one who has them.
        let _ = self.0.hooks.set(hooks);
    }

    /// Notes a check. Changes are told, and only they.
    pub(super) fn note(&self, job: &Job, outcome: Result<(), Failure>, now: Instant) {
        let (change, reason) = {
            let mut rows = self.rows();
            let Some(standing) = rows.get_mut(&job.key) else { return };
            let Some(change) = standing.note(outcome, &job.health, now) else { return };
            (change, standing.last_error().unwrap_or_default().to_owned())
        };
        let Job { service, backend, .. } = job;
        match change {
            Change::Up => info!("service {service}: backend {backend} is up"),
            Change::Down => warn!("service {service}: backend {backend} is down: {reason}"),
            Change::Unknown => {
                warn!("service {service}: backend {backend} stays what it was: {reason}");
                return;
            }
        }
        self.0.has_changed.store(true, Ordering::Release);
        if let (Some(hooks), Some(hook)) = (self.0.hooks.get(), &job.health.notify) {
            let is_up = change == Change::Up;
            let reason = if is_up { String::new() } else { reason };
            let (hook, service) = (hook.clone(), service.clone());
            hooks.call(Call { hook, service, backend: Some(backend.clone()), is_up, reason });
        }
    }

    /// Whether something has changed since this was last asked.
    pub(super) fn take_changed(&self) -> bool {
        self.0.has_changed.swap(false, Ordering::Acquire)
    }

    /// What checks say of a backend, where it is checked.
    pub fn report(&self, key: &BackendKey, now: Instant) -> Option<HealthReport> {
        let rows = self.rows();
        let standing = rows.get(key)?;
        Some(HealthReport {
            state: if standing.is_up() { "up" } else { "down" }.to_owned(),
            seconds: now.saturating_duration_since(standing.since()).as_secs_f64(),
            last_error: standing.last_error().map(str::to_owned),
            checks: standing.checks(),
            failed: standing.failed(),
            not_done: standing.not_done(),
            until_change: standing.until_change(),
        })
    }
}
