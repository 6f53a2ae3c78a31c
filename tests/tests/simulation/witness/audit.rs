//! The account held against the table and the counters.

use dataplane::flow::Entry;

use super::*;

impl Witness {
    /// Holds the account against the table and the counters.
    pub(super) fn audit(&mut self, turn: &Turn, director: &Director, now: u64, events: &Events) {
        let worker = turn.worker;
        let held: BTreeMap<Key, _> =
            director.connections(worker).map(|entry| (key_of(entry), *entry)).collect();
        let mut gone: Vec<(Key, Connection)> = self.connections[worker]
            .iter()
            .filter(|(key, _)| !held.contains_key(key))
            .map(|(key, connection)| (*key, *connection))
            .collect();
        // Where several causes are possible, those that cannot have been evicted take the other ones first.
        let may_be_evicted = |connection: &Connection| {
            connection.state.is_half_open() || connection.is_uncertain || now - connection.seen >= 1_000
        };
        gone.sort_by_key(|(_, connection)| may_be_evicted(connection));
        let (mut expired, mut evicted, mut purged) = (0, events.evicted, events.purged);
        let purged_counted = turn.after.purged - turn.before.purged;
        let config = director.config_of(worker).expect("rules in force");
        let expired_counted = turn.after.expired - turn.before.expired;
        let mut to_tell = 0;
        for (key, connection) in gone {
            let can_tell = connection.notes_numbers
                && connection.state == TcpState::Established
                && !connection.is_uncertain
                && !config.ways[connection.place.backend].is_lost;
            let idle_ms = now - connection.seen;
            if idle_ms > connection.timeout_ms && expired < expired_counted {
                expired += 1;
            } else if purged < purged_counted && fate_of(&config, &key, &connection) != "finish" {
                purged += 1;
                to_tell += u64::from(can_tell && fate_of(&config, &key, &connection) == "reset");
            } else {
                assert!(may_be_evicted(&connection), "{key:?} is gone after {idle_ms} ms: {connection:?}");
                evicted += 1;
            }
            self.forget(worker, &key);
        }
        assert_eq!(purged_counted, purged, "purged: counted, seen");
        let told = turn.after.own_resets - turn.before.own_resets;
        let withheld = turn.after.withheld - turn.before.withheld;
        assert!(told + withheld >= to_tell, "{to_tell} connections were reset, and {told} ends told");
        self.told += told;
        self.purged += purged;
        self.check_changes(turn, events, expired, evicted + purged, director);
        let (mut of_backend, mut of_service) = (BTreeMap::new(), BTreeMap::new());
        for (key, entry) in &held {
            let count = |sums: &mut BTreeMap<usize, (u64, u64)>, index, is_special: bool| {
                let (all, special) = sums.entry(index).or_default();
                (*all, *special) = (*all + 1, *special + u64::from(is_special));
            };
            count(&mut of_backend, entry.backend().as_usize(), entry.state.is_active());
            count(&mut of_service, entry.service.as_usize(), entry.state.is_half_open());
            let place = director.backend_at(worker, entry.backend().as_usize());
            let known = self.connections[worker].get(key);
            if known.is_some_and(|c| c.is_uncertain && c.place != held_place(director, worker, key, entry)) {
                // It gave way to another one of its own, whose first packet the port refused.
                self.forget(worker, key);
                self.note_held(director, worker, *key, entry, now);
            }
            self.check_entry(worker, key, entry, place, &config, now);
        }
        for slot in 0..director.backend_slots() {
            let seen = of_backend.get(&slot).copied().unwrap_or_default();
            assert_eq!(
                director.held(worker, slot),
                seen,
                "connections, and active ones, of backend slot {slot}"
            );
        }
        for slot in 0..director.service_slots() {
            let seen = of_service.get(&slot).copied().unwrap_or_default();
            let counted = director.held_by_service(worker, slot);
            assert_eq!(counted, seen, "connections, and half-open ones, of service slot {slot}");
        }
        assert_eq!(self.connections[worker].len(), held.len());
        self.evicted += evicted;
        self.answered += events.answered;
        self.expired += expired;
        self.opened += events.opened;
        self.reopened += events.reopened;
    }

    pub(super) fn check_changes(
        &self,
        turn: &Turn,
        events: &Events,
        expired: u64,
        evicted: u64,
        director: &Director,
    ) {
        let opened = turn.after.opened - turn.before.opened;
        let closed = turn.after.closed - turn.before.closed;
        let evicted_counted = turn.after.evicted - turn.before.evicted;
        assert_eq!(turn.after.expired - turn.before.expired, expired, "expired: counted, seen");
        let purged_counted = turn.after.purged - turn.before.purged;
        let hidden = (evicted_counted + purged_counted)
            .checked_sub(evicted)
            .expect("fewer gone by count than by sight");
        assert!(
            (events.opened..=events.opened + hidden + events.hidden_at_most).contains(&opened),
            "{opened} opened, {} seen: {events:?}",
            events.opened
        );
        let closed_seen = expired + evicted + events.reopened;
        assert!(
            (closed_seen..=closed_seen + hidden + events.hidden_at_most).contains(&closed),
            "{closed} closed, {closed_seen} seen: {events:?}"
        );
        if evicted_counted > 0 {
            let (used, capacity) = director.table_fill(turn.worker);
            // As of the end of the turn: what expired or was purged in it made room too late.
            let used = used + 2 * (expired + evicted) as u32;
            assert!(used * 10 >= capacity * 6, "evicted with {used} of {capacity} entries in use");
        }
    }

    pub(super) fn check_entry(
        &mut self,
        worker: usize,
        key: &Key,
        entry: &Entry,
        backend: Option<Endpoint>,
        config: &Config,
        now: u64,
    ) {
        let backend = backend.expect("the backend of an entry is in the rules");
        let Some(connection) = self.connections[worker].get_mut(key) else {
            panic!("{key:?} is in the table, and no packet of it was seen: {entry:?}");
        };
        assert_eq!(backend.0, backend_address(connection.place.backend), "the backend of {key:?}");
        if connection.is_uncertain {
            connection.is_uncertain = false;
            connection.state = entry.state;
            connection.timeout_ms = u64::from(entry.timeout_ms());
            connection.seen = now - u64::from(dataplane::time::Millis(now as u32).since(entry.last_seen));
        }
        assert_eq!(entry.state, connection.state, "the state of {key:?}");
        assert_eq!(u64::from(entry.timeout_ms()), connection.timeout_ms, "the timeout of {key:?}");
        let (_, since) = self.in_force[worker];
        let is_late = now > since + PURGE_MS && fate_of(config, key, connection) != "finish";
        assert!(!is_late, "{key:?} should have gone with its backend: {connection:?}");
        let idle_ms = now - connection.seen;
        let bound_ms = connection.timeout_ms + u64::from(SWEEP_PERIOD_MS) + 2 * self.step_ms;
        assert!(idle_ms <= bound_ms, "{key:?} is held after {idle_ms} ms: {connection:?}");
    }

    /// Takes a connection on account whose first packet a port refused, if the table has it.
    pub(super) fn adopt(
        &mut self,
        turn: &Turn,
        director: &Director,
        key: &Key,
        now: u64,
        events: &mut Events,
    ) -> bool {
        let worker = turn.worker;
        let found = director.connections(worker).find(|entry| key_of(entry) == *key).copied();
        let Some(entry) = found.filter(|_| self.was_refused_by_port(turn)) else { return false };
        self.note_held(director, worker, *key, &entry, now);
        events.opened += 1;
        true
    }

    /// Takes a connection on account as the table has it.
    fn note_held(&mut self, director: &Director, worker: usize, key: Key, entry: &Entry, now: u64) {
        let place = held_place(director, worker, &key, entry);
        // Since when nobody saw.
        self.resting.remove(&(key.1, key.2, place.seat()));
        if let Some(local) = place.local {
            self.answers.insert((place.own, local, key.2), (worker, key));
        }
        let connection = Connection {
            place,
            state: entry.state,
            timeout_ms: u64::from(entry.timeout_ms()),
            notes_numbers: false,
            checks_rst: true,
            seen: now,
            router: director.router_of(worker, entry),
            passed: [0, 0],
            is_uncertain: true,
            over_in: 0,
        };
        self.connections[worker].insert(key, connection);
    }
}

/// Where the table has a connection's packets go.
fn held_place(director: &Director, worker: usize, key: &Key, entry: &Entry) -> Place {
    let local = entry.is_paired().then(|| (entry.new_addresses().source(), entry.new_ports().source()));
    let endpoint = director.backend_at(worker, entry.backend().as_usize()).expect("a backend");
    let own = if local.is_some() { endpoint } else { key.1 };
    Place { backend: backend_id(endpoint.0).expect("a backend of ours"), own, local }
}
