//! Who gets a newcomer whatever the scheduler says: the backend that its packet names, else the one that its client's prefix
//! leads to ([`crate::rules::route`]).

use super::Admission;
use super::choose::is_backends_own;
use crate::index::{BackendIndex, EntryIndex};
use crate::rules::Admits;
use crate::rules::route::Named;
use crate::stage::reroute;
use crate::verdict::DropReason;

impl Admission<'_> {
    /// The backend that the packet names, if that lives. A name that leads nowhere is counted.
    pub(super) fn named(&self) -> Option<BackendIndex> {
        let newcomer = self.newcomer;
        let routes = self.service.routes.as_deref()?;
        let named = match routes.named(newcomer.key.protocol, newcomer.flags, newcomer.l4) {
            Named::Nobody => return None,
            Named::Stranger => None,
            Named::Backend(backend) => Some(backend),
        };
        let living = named.filter(|backend| reroute::keeps_connections(*backend, self.index, self.rules));
        if living.is_none() {
            self.counters.service(self.index).strangers.add(1);
        }
        living
    }

    /// Has the backend that is `named` take the packet, else the one that the client's prefix leads to. `None` where there
    /// is neither, or it cannot be reached.
    pub(super) fn route(
        &mut self,
        named: Option<BackendIndex>,
        mut take: impl FnMut(&mut Self, BackendIndex) -> Result<EntryIndex, DropReason>,
    ) -> Result<Option<EntryIndex>, DropReason> {
        let service = self.counters.service(self.index);
        if let Some(backend) = named
            && let Some(index) = unless_unreachable(take(self, backend))?
        {
            service.by_server_id.add(1);
            return Ok(Some(index));
        }
        let Some(backend) = self.by_prefix() else { return Ok(None) };
        let taken = unless_unreachable(take(self, backend))?;
        service.by_prefix.add(u64::from(taken.is_some()));
        Ok(taken)
    }

    /// The backend that the client's prefix leads to, if that takes new connections.
    fn by_prefix(&mut self) -> Option<BackendIndex> {
        let prefixes = self.service.routes.as_deref()?.prefixes.as_ref()?;
        let index = prefixes.backend(self.newcomer.key.source())?;
        let backend = self.rules.backend(index)?;
        let takes = backend.service == self.index && backend.admits == Admits::New;
        let is_full = self.service.has_thresholds && self.state.peers.look(index, self.rules, self.counters);
        (takes && !is_full).then_some(index)
    }
}

/// What came of an attempt; nothing where another backend may succeed.
fn unless_unreachable(taken: Result<EntryIndex, DropReason>) -> Result<Option<EntryIndex>, DropReason> {
    match taken {
        Ok(index) => Ok(Some(index)),
        Err(reason) if is_backends_own(reason) => Ok(None),
        Err(reason) => Err(reason),
    }
}
