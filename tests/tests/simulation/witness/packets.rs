//! What became of each packet, and whether it should have.

use super::*;

impl Witness {
    /// The sender was told that its packet goes no further.
    pub(super) fn follow_reply(
        &mut self,
        turn: &Turn,
        director: &Director,
        arrived: &Arrived,
        fate: &Fate,
        events: &mut Events,
    ) {
        let (Fate::Sent(_, frame), packet) = (fate, &arrived.packet) else { return };
        let (to, from, out) = Packet::read(frame);
        assert_eq!(arrived.port, FRONT, "only clients are answered");
        assert_eq!((to, from), (arrived.from, PORT_MACS[0]), "where a reply goes");
        let key = (packet.source, packet.destination, packet.protocol());
        let config = director.config_of(turn.worker).expect("rules in force");
        let service = config.service(key.1, key.2).expect("a reply for a service");
        let is_newcomer = makes_newcomer(service, packet);
        match out.l4 {
            L4::Unreachable => {
                let sent = packet.frame(to, from);
                assert!(sent[14..].starts_with(&out.payload), "an ICMP error quotes what was sent");
                assert!(out.payload.len() >= 28 && out.destination.0 == packet.source.0);
                let is_told_so = service.policy.no_backend == "unreachable"
                    || (service.policy.no_backend == "reset" && !service.tcp);
                assert!(is_newcomer && is_told_so, "{} was told it is unreachable", told(packet));
            }
            _ => {
                let reset = reset_for(packet).expect("a RST is not answered");
                assert_eq!((out.source, out.destination), (packet.destination, packet.source));
                let L4::Tcp { seq, ack, flags } = out.l4 else { panic!("{} answered", told(packet)) };
                assert_eq!((seq, ack, flags), (reset.seq, reset.ack, reset.flags));
                let setting = if is_newcomer { service.policy.no_backend } else { service.policy.no_flow };
                assert_eq!(setting, "reset", "{} was reset", told(packet));
            }
        }
        match self.connections[turn.worker].get(&key).copied() {
            Some(connection) if renews(&config, packet, &connection) => {
                events.reopened += 1;
                self.forget(turn.worker, &key);
            }
            Some(_) => self.lose(turn, &config, key, events),
            None => {}
        }
        if is_newcomer {
            events.refused.push(key);
            assert!(lacks_backend(service, &config), "{} refused, and there are backends", told(packet));
        }
    }

    pub(super) fn follow_client(
        &mut self,
        turn: &Turn,
        director: &Director,
        arrived: Arrived,
        fate: &Fate,
        now: u64,
        events: &mut Events,
    ) {
        let config = &*director.config_of(turn.worker).expect("rules in force");
        let packet = &arrived.packet;
        let key = (packet.source, packet.destination, packet.protocol());
        let known = self.connections[turn.worker].get(&key).copied();
        match fate {
            Fate::Sent(port, frame) => {
                let place = place_of(*port, frame, packet);
                events.inbound.0 += 1;
                events.inbound.1 += ip_len(packet);
                self.passed_inbound(turn, config, &arrived, key, known, place, now, events);
            }
            Fate::Dropped => match known {
                Some(connection) => {
                    self.dropped_known(turn, director, key, connection, &arrived, events);
                }
                None => {
                    let service = config.service(key.1, key.2);
                    if service.is_some_and(|service| is_refused_stray(service, packet)) {
                        return;
                    }
                    let is_newcomer = service.is_some_and(|service| makes_newcomer(service, packet));
                    // It went a moment ago; or what it was to be told the port refused.
                    let is_explained = self.left_keys.contains(&key) || self.was_refused_by_port(turn);
                    if !is_newcomer && is_explained {
                        return;
                    }
                    assert!(is_newcomer, "dropped without a reason: {}", told(packet));
                    if !self.adopt(turn, director, &key, now, events) {
                        events.refused.push(key);
                    }
                    // It may have been made, remembered and evicted in one burst.
                    if let Some(service) = service {
                        self.remembered.remove(&remembered_as(turn.worker, service, &key));
                    }
                }
            },
            Fate::Punted(..) => {
                let listens = config.service(packet.destination, packet.protocol()).is_some();
                assert!(!(packet.opens() && listens), "a service's newcomer punted: {}", told(packet));
                match known {
                    Some(connection) if renews(config, packet, &connection) => {
                        // Its service is gone: so is the old connection, and there is no new one.
                        events.reopened += 1;
                        self.forget(turn.worker, &key);
                    }
                    Some(_) => self.lose(turn, config, key, events),
                    None => {}
                }
            }
            Fate::Steered(_) => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a packet is judged by")]
    pub(super) fn passed_inbound(
        &mut self,
        turn: &Turn,
        config: &Config,
        arrived: &Arrived,
        key: Key,
        known: Option<Connection>,
        place: Place,
        now: u64,
        events: &mut Events,
    ) {
        let packet = &arrived.packet;
        match known {
            Some(connection) if connection.place == place => {
                if renews(config, packet, &connection) {
                    // To the same place: it may be the old connection's, if that ended in this very turn.
                    if connection.over_in == self.turns || connection.is_uncertain {
                        events.hidden_at_most += 1;
                    } else {
                        events.reopened += 1;
                        self.forget(turn.worker, &key);
                        return self.begin(turn, config, arrived, key, place, now, events);
                    }
                }
                self.in_order(&connection, 0, arrived);
            }
            Some(connection) => {
                let service = config.service(key.1, key.2);
                assert!(
                    service.is_some_and(|service| makes_newcomer(service, packet)),
                    "{} went to {place:?}, its connection is at {connection:?}",
                    told(packet)
                );
                if renews(config, packet, &connection) {
                    events.reopened += 1;
                    self.forget(turn.worker, &key);
                } else {
                    self.lose(turn, config, key, events);
                }
                return self.begin(turn, config, arrived, key, place, now, events);
            }
            None => {
                let service = config.service(key.1, key.2);
                let is_newcomer = service.is_some_and(|service| makes_newcomer(service, packet));
                assert!(is_newcomer, "{} was forwarded, and nobody knows its connection", told(packet));
                return self.begin(turn, config, arrived, key, place, now, events);
            }
        }
        let way = if place.local.is_some() { Way::Client } else { Way::ClientAlone };
        let turns = self.turns;
        let connection = self.connections[turn.worker].get_mut(&key).expect("just found");
        connection.router = arrived.from;
        connection.passed[0] = arrived.number;
        if connection.checks_rst && packet.flags() & RST != 0 {
            connection.is_uncertain = true;
            events.uncertain += 1;
        }
        advance(config.service(key.1, key.2), connection, packet, way, now, turns);
    }

    pub(super) fn follow_answer(
        &mut self,
        turn: &Turn,
        director: &Director,
        arrived: Arrived,
        fate: &Fate,
        now: u64,
        events: &mut Events,
    ) {
        let config = &*director.config_of(turn.worker).expect("rules in force");
        let packet = &arrived.packet;
        let answer = (packet.source, packet.destination, packet.protocol());
        let known = self.answers.get(&answer).copied();
        let Some((worker, key)) = known else {
            let was_evicted = *fate == Fate::Dropped && self.left_answers.contains(&answer);
            let is_fine = matches!(fate, Fate::Punted(..)) || was_evicted;
            assert!(is_fine, "{} belongs to nobody: {fate:?}", told(packet));
            return;
        };
        assert_eq!(worker, turn.worker, "{} was handled by another worker", told(packet));
        let connection = self.connections[worker][&key];
        match fate {
            Fate::Sent(port, frame) => {
                let (to, from, out) = Packet::read(frame);
                assert_eq!(
                    (*port, from, to),
                    (FRONT, PORT_MACS[0], connection.router),
                    "where an answer goes"
                );
                assert_eq!((out.source, out.destination), (key.1, key.0), "whose an answer is");
                assert_eq!((out.l4, &out.payload, out.ttl), (packet.l4, &packet.payload, packet.ttl - 1));
                events.outbound.0 += 1;
                events.outbound.1 += ip_len(packet);
                self.in_order(&connection, 1, &arrived);
                let turns = self.turns;
                let connection = self.connections[worker].get_mut(&key).expect("just found");
                connection.passed[1] = arrived.number;
                if connection.checks_rst && packet.flags() & RST != 0 {
                    connection.is_uncertain = true;
                    events.uncertain += 1;
                }
                advance(config.service(key.1, key.2), connection, packet, Way::Backend, now, turns);
            }
            Fate::Dropped if self.was_refused_by_port(turn) || is_blind_reset(turn, packet) => {
                self.mark_uncertain(worker, &key);
                events.uncertain += 1;
            }
            Fate::Dropped | Fate::Punted(..) => self.lose(turn, config, key, events),
            Fate::Steered(_) => {}
        }
    }

    /// A packet of a known connection was dropped: the port refused it, its backend cannot be reached, or the connection
    /// was evicted a moment ago.
    pub(super) fn dropped_known(
        &mut self,
        turn: &Turn,
        director: &Director,
        key: Key,
        connection: Connection,
        arrived: &Arrived,
        events: &mut Events,
    ) {
        let Arrived { packet, from, .. } = arrived;
        let config = &*director.config_of(turn.worker).expect("rules in force");
        let is_lost = config.ways[connection.place.backend].is_lost;
        if renews(config, packet, &connection) && self.was_refused_by_port(turn) {
            // What is in its place now nobody saw leave: the table tells.
            self.forget(turn.worker, &key);
            if self.adopt(turn, director, &key, connection.seen, events) {
                events.opened -= 1;
                events.hidden_at_most += 1;
            } else {
                events.reopened += 1;
                events.refused.push(key);
            }
        } else if renews(config, packet, &connection) && !connection.is_uncertain {
            // A newcomer in an old one's place, refused: the old one is gone, the new one never was.
            events.reopened += 1;
            events.refused.push(key);
            self.forget(turn.worker, &key);
        } else if is_lost || self.was_refused_by_port(turn) || is_blind_reset(turn, packet) {
            self.mark_uncertain(turn.worker, &key);
            events.uncertain += 1;
            events.perhaps_refused += u64::from(packet.opens());
            // Where answers go follows from the packet, whatever becomes of it.
            if let Some(connection) = self.connections[turn.worker].get_mut(&key) {
                connection.router = *from;
            }
        } else {
            let was_evicted = turn.after.evicted > turn.before.evicted;
            let is_purged = self.is_purged(turn, config, &key, &connection, events);
            assert!(was_evicted || is_purged, "{} of {connection:?} was dropped", told(packet));
            self.lose(turn, config, key, events);
            let service = config.service(key.1, key.2);
            let is_newcomer = service.is_some_and(|service| makes_newcomer(service, packet));
            events.perhaps_refused += u64::from(is_newcomer);
        }
    }
}
