//! What one service counted, its backends aside.

use std::fmt;

use dataplane::counters::WorkerCounters;
use dataplane::index::ServiceIndex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Newcomers whose scheduler was overruled, and packets that tried to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutedReport {
    /// Went to the backend whose server ID they carry.
    pub by_server_id: u64,
    /// Of these, those of flows that were another backend's.
    pub moved: u64,
    /// Went where their client's prefix leads.
    pub by_prefix: u64,
    /// Carry a server ID of no backend that takes them: they were scheduled.
    pub strangers: u64,
}

impl fmt::Display for RoutedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by_server_id, moved, by_prefix, strangers } = self;
        write!(
            f,
            "{by_server_id} by server ID ({moved} from another backend), {by_prefix} by prefix, {strangers} with a server ID of \
             no backend"
        )
    }
}

/// All of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceTotals {
    /// Connections refused.
    pub(crate) refused: u64,
    pub(crate) routed: RoutedReport,
}

impl ServiceTotals {
    pub(crate) fn read(workers: &[&WorkerCounters], slot: usize) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let service = worker.service(ServiceIndex(slot as u16));
            totals.refused += service.refused.value();
            totals.routed.by_server_id += service.by_server_id.value();
            totals.routed.moved += service.moved.value();
            totals.routed.by_prefix += service.by_prefix.value();
            totals.routed.strangers += service.strangers.value();
        }
        totals
    }

    /// What was counted after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let routed = RoutedReport {
            by_server_id: self.routed.by_server_id.saturating_sub(before.routed.by_server_id),
            moved: self.routed.moved.saturating_sub(before.routed.moved),
            by_prefix: self.routed.by_prefix.saturating_sub(before.routed.by_prefix),
            strangers: self.routed.strangers.saturating_sub(before.routed.strangers),
        };
        Self { refused: self.refused.saturating_sub(before.refused), routed }
    }
}
