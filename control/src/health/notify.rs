//! Hooks: programs of the operator's that are told of changes, one after the other, so that they hear of them in the order in which they
//! happened.

use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::warn;

use super::Failure;
use super::program::{self, End};
use crate::rules::Argv;

/// Calls that may wait. Where hooks are too slow for what happens, the newest changes are not told.
const WAITING_MAX: usize = 1_024;
/// A hook's time; generous, as it may write to a ticket system.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Something that a hook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) hook: Argv,
    /// The service's name.
    pub(super) service: String,
    /// The backend, where it is about one; otherwise it is about the service.
    pub(super) backend: Option<String>,
    /// What it is now.
    pub(super) is_up: bool,
    /// Why.
    pub(super) reason: String,
}

/// Where calls are left; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Hooks(Sender<Call>);

impl Hooks {
    /// Starts what calls hooks; it ends with the last clone. Needs a runtime.
    pub(super) fn start() -> Self {
        let (calls, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(call_all(receiver));
        Self(calls)
    }

    pub(super) fn call(&self, call: Call) {
        if let Err(mpsc::error::TrySendError::Full(call)) = self.0.try_send(call) {
            warn!("notify {}: {WAITING_MAX} calls wait already; this one is left out", call.hook);
        }
    }
}

async fn call_all(mut calls: Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        let state = if call.is_up { "up" } else { "down" };
        let environment = [
            ("CROSSDOCK_EVENT", if call.backend.is_some() { "backend" } else { "service" }.to_owned()),
            ("CROSSDOCK_SERVICE", call.service),
            ("CROSSDOCK_BACKEND", call.backend.unwrap_or_default()),
            ("CROSSDOCK_STATE", state.to_owned()),
            ("CROSSDOCK_REASON", call.reason),
        ];
        match program::run(&call.hook, &environment, TIMEOUT).await {
            Ok(End::Exit(status, _)) if status.success() => {}
            Ok(End::Exit(status, told)) => warn!("notify {}: {status} {told}", call.hook),
            Ok(End::TimedOut) => warn!("notify {}: killed, as it did not end within {TIMEOUT:?}", call.hook),
            Err(Failure::OfThisHost(why) | Failure::OfBackend(why)) => warn!("notify: {why}"),
        }
    }
}
