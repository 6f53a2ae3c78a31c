//! Who gets a newcomer: the backend its client returns to, else whom the scheduler chooses, else the sorry server.

use super::{Admission, Part};
use crate::index::{BackendIndex, EntryIndex};
use crate::loads::{MemberLoads, Tried};
use crate::persistence::ClientKey;
use crate::rules::{Admits, Choice, Persistence};
use crate::verdict::DropReason;

impl Admission<'_> {
    /// Chooses a backend and makes the connection.
    pub(super) fn choose_and_connect(&mut self) -> Result<EntryIndex, DropReason> {
        let Some(persistence) = self.service.policy.persistence else {
            return self.schedule(Self::connect).map(|(index, _)| index);
        };
        let source = self.newcomer.key.source();
        let client = ClientKey::new(self.index, source, persistence.prefix_len_of(source));
        let returned =
            match self.backend_of(&client, persistence).map(|backend| (self.connect(backend), backend)) {
                Some((Ok(index), backend)) => Some((index, backend)),
                // One that cannot be reached now is left for another. A full table is no reason: another backend's
                // connection needs as much room, and its client would be remembered there.
                Some((Err(reason), _)) if !is_backends_own(reason) => return Err(reason),
                Some(_) | None => None,
            };
        let (index, backend) = match returned {
            Some(returned) => returned,
            None => self.schedule(Self::connect)?,
        };
        self.remember(index, &client, backend, persistence);
        Ok(index)
    }

    /// Schedules the packet by itself, unless it says where it goes: no flow is made, none was asked for.
    pub(super) fn schedule_packet(&mut self, named: Option<BackendIndex>) -> Result<EntryIndex, DropReason> {
        match self.route(named, Self::reach)? {
            Some(index) => Ok(index),
            None => self.schedule(Self::reach).map(|(index, _)| index),
        }
    }

    /// Has the scheduler choose until `take` succeeds with a member; after that the sorry server.
    fn schedule(
        &mut self,
        mut take: impl FnMut(&mut Self, BackendIndex) -> Result<EntryIndex, DropReason>,
    ) -> Result<(EntryIndex, BackendIndex), DropReason> {
        let mut refusal = DropReason::NoBackend;
        let mut tried = Tried::new();
        let (looks_at_all, members) = (self.service.scheduler.looks_at_all(), self.service.members.len());
        self.state.effort.choose(looks_at_all, members);
        while let Some(choice) = self.choose(&tried) {
            self.commit(choice);
            let Some(member) = self.service.members.get(choice.member) else { break };
            // Its last place may have gone at this moment, or the rules have lowered its threshold. From now on it is not chosen.
            if !(self.service.has_thresholds
                && self.state.peers.look(member.backend, self.rules, self.counters))
            {
                match take(self, member.backend) {
                    Ok(index) => return Ok((self.with_second_choice(index, choice.member), member.backend)),
                    Err(reason) if is_backends_own(reason) => refusal = reason,
                    Err(reason) => return Err(reason),
                }
                tried.push(choice.member);
            }
            if tried.is_full() || !self.state.effort.choose_again(looks_at_all, members) {
                break;
            }
        }
        match self.service.policy.sorry {
            Some(sorry) => take(self, sorry).map(|index| (index, sorry)),
            None if refusal == DropReason::NoBackend && self.all_are_full() => Err(DropReason::BackendFull),
            None => Err(refusal),
        }
    }

    /// A packet that goes without a flow carries the second choice with it. A later fragment does not tell its ports, and so
    /// has none.
    fn with_second_choice(&self, index: EntryIndex, chosen: usize) -> EntryIndex {
        let is_without_flow = index.backend_without_flow().is_some();
        if !is_without_flow || self.newcomer.part == Part::LaterFragment {
            return index;
        }
        let second = self.service.scheduler.second_choice(&self.newcomer.key, chosen);
        match second.and_then(|second| self.service.members.get(second)) {
            Some(second) => index.with_second_choice(second.backend),
            None => index,
        }
    }

    fn choose(&self, tried: &Tried) -> Option<Choice> {
        let Self { service, counters, newcomer, .. } = self;
        let (members, peers) = (&service.members[..], &self.state.peers);
        let full = service.has_thresholds.then_some(&*self.rules.full);
        let loads = MemberLoads { members, counters, peers, full, tried };
        // Control sends a service's state along with the first rules that have it.
        let kept = self.state.services.get(self.index.as_usize())?.as_deref()?;
        service.scheduler.choose(&service.members, kept, &newcomer.key, &loads)
    }

    /// Also when the backend cannot take the connection: else the next newcomer meets the same one.
    fn commit(&mut self, choice: Choice) {
        let Self { service, newcomer, now, .. } = self;
        if let Some(Some(kept)) = self.state.services.get_mut(self.index.as_usize()) {
            service.scheduler.commit(choice, &service.members, &newcomer.key, kept, *now);
        }
    }

    /// Whether all members that have a weight are at their thresholds.
    fn all_are_full(&self) -> bool {
        let mut with_weight = self.service.members.iter().filter(|member| member.weight > 0).peekable();
        self.service.has_thresholds
            && with_weight.peek().is_some()
            && with_weight.all(|member| self.rules.full.has(member.backend))
    }

    /// The backend that `client` returns to. As with IPVS a threshold does not keep a client that returns away.
    fn backend_of(&self, client: &ClientKey, persistence: Persistence) -> Option<BackendIndex> {
        let index = self.state.templates.as_ref()?.find(client, self.now)?;
        let backend = self.rules.backend(index)?;
        let takes = match backend.admits {
            Admits::New => true,
            Admits::Returning => !persistence.leaves_drained,
            Admits::Nobody => false,
        };
        // A slot may be another service's by now; and who was sent to the sorry server tries again.
        let is_member = backend.service == self.index && self.service.policy.sorry != Some(index);
        (takes && is_member).then_some(index)
    }

    fn remember(
        &mut self,
        index: EntryIndex,
        client: &ClientKey,
        backend: BackendIndex,
        persistence: Persistence,
    ) {
        let Some(templates) = &mut self.state.templates else { return };
        if self.service.policy.sorry == Some(backend) {
            return;
        }
        if templates.open(client, backend, persistence.timeout_ms, self.now).is_err() {
            self.counters.templates_full.add(1);
        } else if let Some(entry) = self.state.table.entry_mut(index) {
            entry.client_prefix_len = persistence.prefix_len_of(self.newcomer.key.source());
        }
    }
}

/// Whether another backend may take what this one could not.
pub(super) fn is_backends_own(reason: DropReason) -> bool {
    matches!(reason, DropReason::NextHopUnresolved | DropReason::NoLocalPort)
}
