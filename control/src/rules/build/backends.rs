//! The ruleset's rows of backends: which slot each has, what it takes, what becomes of its connections, and the way to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::rules::{Admits, Backend, Fate, Member, ServicePattern};

use super::{BuildError, Builder, NextHop, NextHops};
use crate::rules::checked::{self, BackendState, Endpoint, Mode, Rules, Thresholds};
use crate::rules::slots::Census;

/// What makes a backend this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    /// Its service.
    pub service: ServicePattern,
    /// Its address.
    pub address: IpAddr,
    /// Its l4_port; 0 is the one the packet came to.
    pub l4_port: u16,
}

impl BackendKey {
    /// The backend of `service` at `endpoint`.
    pub fn new(service: ServicePattern, endpoint: Endpoint) -> Self {
        Self { service, address: endpoint.address, l4_port: endpoint.l4_port }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address, l4_port: self.l4_port }
    }

    fn row(&self) -> Backend {
        Backend::new(self.address, self.l4_port, ServiceIndex::NONE)
    }
}

/// What checks say of backends: those of which they say another state than their rules do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(HashMap<BackendKey, BackendState>);

impl Verdicts {
    /// Says the state of one.
    pub fn set(&mut self, key: BackendKey, state: BackendState) {
        self.0.insert(key, state);
    }

    /// The state of a backend of which the rules say `state`: whatever keeps more away from it.
    fn state(&self, key: &BackendKey, state: BackendState) -> BackendState {
        self.0.get(key).map_or(state, |verdict| state.max(*verdict))
    }
}

impl Builder {
    /// What checks say from the next ruleset on.
    pub fn set_verdicts(&mut self, verdicts: Verdicts) {
        self.verdicts = Arc::new(verdicts);
    }

    /// The state that workers have of the backend, its checks included.
    pub fn state_in_force(&self, key: &BackendKey, backend: &checked::Backend) -> BackendState {
        self.verdicts.state(key, backend.state)
    }

    /// The service's members, with their rows.
    pub(super) fn members(
        &mut self,
        service: &checked::Service,
        key: ServicePattern,
        in_force: u64,
        census: &impl Census,
        fresh: &mut Vec<BackendIndex>,
    ) -> Result<Vec<Member>, BuildError> {
        let mut members = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let key = BackendKey::new(key, backend.endpoint);
            let index = self.slot_of(key, in_force, census, fresh)?;
            let state = self.state_in_force(&key, backend);
            let row = &mut self.rows[index.as_usize()];
            if let Some(Thresholds { upper, lower }) = backend.thresholds {
                (row.connections_upper, row.connections_lower) = (upper, lower);
            }
            let weight = if state == BackendState::Up { backend.weight } else { 0 };
            (row.admits, row.fate) = match state {
                BackendState::Down => (Admits::Nobody, service.policy.on_remove),
                _ if weight == 0 => (Admits::Returning, Fate::Finish),
                _ => (Admits::New, Fate::Finish),
            };
            members.push(Member { backend: index, weight });
        }
        Ok(members)
    }

    /// The service's sorry server, where it has one.
    pub(super) fn sorry(
        &mut self,
        service: &checked::Service,
        key: ServicePattern,
        in_force: u64,
        census: &impl Census,
        fresh: &mut Vec<BackendIndex>,
    ) -> Result<Option<BackendIndex>, BuildError> {
        let endpoint = service.sorry.map(|endpoint| BackendKey::new(key, endpoint));
        endpoint.map(|key| self.slot_of(key, in_force, census, fresh)).transpose()
    }

    /// The slot of the backend, its row as of one that nothing is said about.
    fn slot_of(
        &mut self,
        key: BackendKey,
        in_force: u64,
        census: &impl Census,
        fresh: &mut Vec<BackendIndex>,
    ) -> Result<BackendIndex, BuildError> {
        let given = self
            .backends
            .give(key, |slot, _, retired_at| retired_at <= in_force && census.open_connections(slot) == 0)
            .map_err(BuildError::Backends)?;
        let (index, row) = (BackendIndex(given.slot as u32), key.row());
        if given.fresh {
            fresh.push(index);
            self.forget_encapsulation(index);
            self.schedulers.forget(index);
            self.drains.forget(given.slot);
            self.last.full.set(index, false);
        }
        match self.rows.get_mut(given.slot) {
            Some(place) => *place = row,
            // Slots are given out one after the other.
            None => self.rows.push(row),
        }
        Ok(index)
    }

    /// What rows say that follows from the rules as a whole.
    pub(super) fn complete_rows(&mut self, rules: &Rules) {
        let own = rules.own_addresses();
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(key) = self.backends.key(slot) else { continue };
            let service = self.services.find(&key.service);
            // A service whose slot is another's by now is retired: its connections go on by the default policy.
            row.service = service.map_or(ServiceIndex::NONE, |slot| ServiceIndex(slot as u16));
            row.is_local = own.contains(&key.address);
            let source = service.and_then(|slot| self.sources.get(&slot));
            if !self.backends.is_live(slot) {
                row.admits = Admits::Nobody;
                row.fate = source.map_or(Fate::Finish, |source| source.policy.on_remove);
            }
            self.drains.apply(slot, row, source.and_then(|source| source.drain_timeout));
        }
    }

    /// When a backend was last given a fate that workers must act upon: `revision`, if one in `backends` has it anew.
    pub(super) fn fates_set_at(&self, revision: u64, backends: &[Backend]) -> u64 {
        let before = |slot: usize| self.last.backends.get(slot).map_or(Fate::Finish, |backend| backend.fate);
        let mut fates = backends.iter().map(|backend| backend.fate).enumerate();
        let is_set = fates.any(|(slot, fate)| fate != Fate::Finish && fate != before(slot));
        if is_set { revision } else { self.last.fates_set_at }
    }

    /// The row towards the backend in `slot`. A DR frame that went to a router would come back: it is still for the
    /// VIP. So without a way on the link there is none.
    pub(super) fn adjacency(&self, slot: usize, next_hops: &NextHops) -> Adjacency {
        let row = self.backends.key(slot).and_then(|key| {
            let NextHop { port, mac, is_on_link } = *next_hops.get(&key.address)?;
            let facts = self.ports.get(port.as_usize())?;
            let mtu = match self.encapsulations.get(slot).and_then(Option::as_ref) {
                None => facts.mtu_or_any(),
                // What is put in front the packet must leave room for, on the link and on the way behind it.
                Some(tunnel) => {
                    let way = facts.mtu_or_any().min(self.path_mtu(&key.address).unwrap_or(u16::MAX));
                    way.saturating_sub(tunnel.added_len()).max(1)
                }
            };
            let row = Adjacency::resolved(mac, facts.mac, port).with_mtu(mtu);
            (is_on_link || !self.is_dr(&key.service)).then_some(row)
        });
        row.unwrap_or(Adjacency::UNRESOLVED)
    }

    pub(super) fn is_dr(&self, service: &ServicePattern) -> bool {
        let source = self.services.find(service).and_then(|slot| self.sources.get(&slot));
        source.is_some_and(|source| source.mode == Mode::Dr)
    }
}

/// Gives those that cannot be reached no weight, where the scheduler goes by loads: they have none, so they would be chosen before all
/// others, and a newcomer is tried at four backends. As long as nobody can be reached all keep theirs: that is no refusal by the
/// service, and may be over in a moment.
pub(super) fn set_aside(
    members: &mut [Member],
    service: &checked::Service,
    is_reached: impl Fn(&IpAddr) -> bool,
) {
    if !service.scheduler.kind.reads_loads() {
        return;
    }
    let reached: Vec<bool> =
        service.backends.iter().map(|backend| is_reached(&backend.endpoint.address)).collect();
    let takes = |(member, reached): (&Member, &bool)| *reached && member.weight > 0;
    if members.iter().zip(&reached).any(takes) {
        let lost = members.iter_mut().zip(&reached).filter(|(_, reached)| !**reached);
        lost.for_each(|(member, _)| member.weight = 0);
    }
}
