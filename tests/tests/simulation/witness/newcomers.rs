//! New connections: who may have them, by the rules, the limits and what is remembered of the client.

use super::*;

impl Witness {
    /// A packet of no known connection was forwarded: it made one, unless its service keeps none.
    #[expect(clippy::too_many_arguments, reason = "what a packet is judged by")]
    pub(super) fn begin(
        &mut self,
        turn: &Turn,
        config: &Config,
        arrived: &Arrived,
        key: Key,
        place: Place,
        now: u64,
        events: &mut Events,
    ) {
        let service = config.service(key.1, key.2).expect("no service listens there");
        if service.flows() != Flows::Kept {
            assert_eq!(place.local, None, "without flows the VIP stays");
            self.check_choice(config, service, &key, place, now);
            return self.same_hash_same_backend(turn, service, config, key, place);
        }
        events.opened += 1;
        self.check_limits(turn, service, &key, place, now);
        self.note_new(turn, config, arrived, key, place, now);
        if !arrived.packet.opens() {
            self.mark_uncertain(turn.worker, &key);
        }
    }

    /// Without flows, packets of one flow go to one backend while nothing of the service changes.
    pub(super) fn same_hash_same_backend(
        &mut self,
        turn: &Turn,
        service: &Service,
        config: &Config,
        key: Key,
        place: Place,
    ) {
        if service.flows() == Flows::None {
            let now = (turn.after.revision, place.backend);
            let before = self.by_hash.insert(key, now);
            if let Some((revision, backend)) = before {
                let same = revision == turn.after.revision
                    || self.history.get(&revision).is_some_and(|then| {
                        then.service(key.1, key.2) == Some(service) && then.ways == config.ways
                    });
                assert!(
                    !same || backend == place.backend,
                    "{key:?} hashed to {place:?}, before to {backend}"
                );
            }
        }
    }

    /// No service and no backend has more connections than its rules allow, when a new one is made.
    pub(super) fn check_limits(&mut self, turn: &Turn, service: &Service, key: &Key, place: Place, now: u64) {
        let Tally { evicted, purged, .. } = &turn.before;
        // What went in this turn is still on our account.
        let gone = turn.after.evicted - evicted + turn.after.purged - purged;
        let all =
            || self.connections.iter().flatten().filter(|(other, _)| (other.1, other.2) == (key.1, key.2));
        let policy = &service.policy;
        let below = |count: usize, most: Option<u64>, what: &str| {
            assert!(most.is_none_or(|most| (count as u64) < most + gone), "{key:?}: {count} {what} before");
        };
        below(all().count(), policy.max_connections, "connections");
        let half_open = all().filter(|(_, c)| c.state.is_half_open() && !c.is_uncertain).count();
        below(half_open, policy.max_half_open.filter(|_| service.tcp), "half-open connections");
        if service.persistence().is_none() && !(policy.has_sorry && place.backend == SORRY) {
            let count = all().filter(|(_, other)| other.place.seat() == place.seat()).count();
            below(count, policy.threshold, "connections of the backend");
            self.check_resumption(turn, service, key, place, (count as u64, gone));
        }
        let admitted = self.admitted.entry((key.1, key.2)).or_default();
        // With another rate, or when it was away, a service begins anew.
        let revision = turn.after.revision;
        let is_same = |revision: u64| {
            let then = self.history.get(&revision).and_then(|then| then.service(key.1, key.2));
            then.is_some_and(|then| then.policy.max_rate == policy.max_rate)
        };
        if !(admitted.0..=revision).all(is_same) {
            admitted.1.clear();
        }
        admitted.0 = revision;
        let Some(rate) = policy.max_rate else { return };
        admitted.1.push_back(now);
        while admitted.1.front().is_some_and(|at| at + 1_000 < now) {
            admitted.1.pop_front();
        }
        let most = rate + (rate / 10).max(1) + 1;
        assert!(admitted.1.len() as u64 <= most, "{} connections in a second at {rate}", admitted.1.len());
    }

    /// A backend that reached its upper threshold takes no connection until it has fallen below the lower, whichever worker
    /// is asked. Of `count` connections before this one, `gone` may have gone in this turn.
    fn check_resumption(
        &mut self,
        turn: &Turn,
        service: &Service,
        key: &Key,
        place: Place,
        (count, gone): (u64, u64),
    ) {
        let seat = (key.1, key.2, place.seat());
        let Some((upper, lower)) = service.policy.thresholds() else {
            self.resting.remove(&seat);
            return;
        };
        if let Some(since) = self.resting.get(&seat) {
            // As long as no worker has gone by other rules of it.
            let in_force = self.in_force.iter().map(|(revision, _)| *revision);
            let revisions = in_force.chain([*since]);
            let (first, last) = (revisions.clone().min(), revisions.max());
            let is_same = |revision: u64| {
                let then = self.history.get(&revision).and_then(|then| then.service(key.1, key.2));
                then.is_some_and(|then| then.policy.thresholds() == Some((upper, lower)))
            };
            let is_unchanged = (first.unwrap_or(0)..=last.unwrap_or(0)).all(is_same);
            assert!(
                !is_unchanged || count < lower + gone,
                "{key:?}: a backend that was full takes one more at {count}, which is not below {lower}"
            );
        }
        if count + 1 >= upper {
            self.resting.insert(seat, turn.after.revision);
        } else if count < lower {
            self.resting.remove(&seat);
        }
    }

    /// The backend is one the rules allow for a newcomer.
    pub(super) fn check_choice(
        &self,
        config: &Config,
        service: &Service,
        key: &Key,
        place: Place,
        _now: u64,
    ) {
        let Place { backend, .. } = place;
        let weight = service.weight_of(backend);
        let keeps_drained = service.persistence().is_some_and(|(_, _, leaves)| !leaves);
        let is_sorry = service.policy.has_sorry && backend == SORRY && service.flows() == Flows::Kept;
        let is_allowed = match weight {
            Some(0) => keeps_drained,
            Some(_) => true,
            None => {
                is_sorry
                    && (service.is_choosy() || lacks_backend(service, config) || any_lost(service, config))
            }
        };
        assert!(is_allowed, "{key:?} to {place:?} against the rules");
        assert!(!config.ways[backend].is_lost, "{key:?} to a backend that cannot be reached");
    }

    pub(super) fn note_new(
        &mut self,
        turn: &Turn,
        config: &Config,
        arrived: &Arrived,
        key: Key,
        place: Place,
        now: u64,
    ) {
        for (worker, connections) in self.connections.iter().enumerate() {
            assert!(
                worker == turn.worker || !connections.contains_key(&key),
                "{key:?} is at worker {worker} and at {} too",
                turn.worker
            );
        }
        let service = config.service(key.1, key.2).expect("no service listens there");
        self.check_choice(config, service, &key, place, now);
        self.check_return(turn.worker, service, config, &key, place, now);
        assert_eq!(place.local.is_some(), service.fullnat, "the mode");
        if service.fullnat {
            assert_eq!(place.own.1, service.backend_port());
        }
        let is_tcp = key.2 == 6;
        self.forget(turn.worker, &key);
        if let Some(local) = place.local {
            let taken = self.answers.insert((place.own, local, key.2), (turn.worker, key));
            if let Some((worker, holder)) = taken {
                // Only a half-open connection may lose its local port to another.
                let state = self.connections[worker].get(&holder).map(|connection| connection.state);
                assert!(
                    worker == turn.worker && state.is_none_or(TcpState::is_half_open),
                    "{holder:?} lost its port"
                );
            }
        }
        let state = if is_tcp { TcpState::SynRecv } else { TcpState::Udp };
        let connection = Connection {
            place,
            state,
            timeout_ms: service.timeout_ms(state),
            notes_numbers: service.notes_numbers(),
            checks_rst: service.tcp && service.policy.check_rst,
            seen: now,
            router: arrived.from,
            passed: [arrived.number, 0],
            is_uncertain: false,
            over_in: 0,
        };
        self.connections[turn.worker].insert(key, connection);
    }

    /// A persistent client returns to its backend while it is remembered.
    pub(super) fn check_return(
        &mut self,
        worker: usize,
        service: &Service,
        config: &Config,
        key: &Key,
        place: Place,
        now: u64,
    ) {
        let Some(persistence @ (timeout_s, _, leaves)) = service.persistence() else { return };
        let revision = self.in_force[worker].0;
        let at = remembered_as(worker, service, key);
        if let Some(before) = self.remembered.get(&at) {
            let takes = service.weight_of(before.place.backend).is_some_and(|weight| weight > 0 || !leaves);
            // Whatever happened to the service in between may have cost the memory of its clients.
            let is_unchanged = (before.revision..=revision).all(|revision| {
                self.history.get(&revision).is_some_and(|then| {
                    let then = then.service(key.1, key.2);
                    then.is_some_and(|then| then.persistence() == Some(persistence))
                        && then.is_some_and(|then| then.weight_of(before.place.backend).is_some())
                        && then.is_some_and(|then| then.fullnat == service.fullnat)
                })
            });
            let is_remembered = now < before.at + timeout_s * 1_000;
            let can_return = takes && is_unchanged && !config.ways[before.place.backend].is_lost;
            let is_same = before.persistence == persistence;
            if is_same && is_remembered && can_return && before.place.backend != SORRY {
                assert_eq!(place.backend, before.place.backend, "{key:?} did not return: {before:?}");
                self.returned += 1;
            }
        }
        if place.backend != SORRY {
            self.remembered.insert(at, Remembered { place, at: now, persistence, revision });
        } else {
            self.remembered.remove(&at);
        }
    }
}
