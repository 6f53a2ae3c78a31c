//! Whose server ID it is: the numbers by which packets name the backends of a service.

use crate::index::BackendIndex;
use crate::rules::map::Map;

/// From server IDs to backends.
#[derive(Clone, Debug, Default)]
pub struct ServerIds(Map<u128, BackendIndex>);

impl ServerIds {
    /// The backend that `id` names.
    pub fn backend(&self, id: u128) -> Option<BackendIndex> {
        self.0.find(id).copied()
    }
}

impl FromIterator<(u128, BackendIndex)> for ServerIds {
    /// Of two backends for one ID the first counts; rules do not allow it.
    fn from_iter<I: IntoIterator<Item = (u128, BackendIndex)>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}
