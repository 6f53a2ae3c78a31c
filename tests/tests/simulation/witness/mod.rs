//! The witness: watches every packet into every worker and out of it, keeps its own account of every connection, and
//! panics where the director does what no rule says.
//!
//! It knows what a connection is, IPVS's states and what the rules said; it does not know how the line works. Which
//! connections were evicted it cannot foresee: that it learns from the table, and then asks whether it was allowed.

mod audit;
mod judge;
mod newcomers;
mod packets;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use dataplane::flow::expiry::SWEEP_PERIOD_MS;
use dataplane::flow::tcp_state::TcpState;
use dataplane::index::PortIndex;
use dataplane::verdict::DropReason;
use dataplane::wire::ethernet::MacAddress;

use crate::config::{
    BACK, Config, FRONT, Flows, PORT_MACS, SORRY, Service, Way as HopWay, backend_address, backend_id,
};
use crate::director::{Director, Fate, Tally, Turn};
use crate::packet::{Endpoint, L4, Packet, RST};
use crate::states::{self, Way};
use crate::tcp::reset_for;

use judge::{
    advance, any_lost, brief, check_balance, check_refusals, fate_of, ip_len, is_blind_reset,
    is_refused_stray, key_of, lacks_backend, makes_newcomer, place_of, remembered_as, renews, told,
};

/// Time in which connections are gone whose backends left, in milliseconds.
const PURGE_MS: u64 = 1_000;

/// A packet as it came to the director.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) packet: Packet,
    pub(crate) port: PortIndex,
    pub(crate) from: MacAddress,
    /// Counts arrivals of all packets.
    pub(crate) number: u64,
}

/// Client, VIP and l4_port, protocol.
pub(crate) type Key = (Endpoint, Endpoint, u8);

/// Where a connection's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Which backend.
    backend: usize,
    /// Its endpoint as packets have it: the VIP's where they keep that.
    own: Endpoint,
    /// The local endpoint that a backend sees, if not the client's.
    local: Option<Endpoint>,
}

/// What of a place is the backend's: itself, its endpoint, whether it sees a local one.
type Seat = (usize, u16, bool);

impl Place {
    fn seat(&self) -> Seat {
        (self.backend, self.own.1, self.local.is_some())
    }
}

/// A connection as the witness knows it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    place: Place,
    state: TcpState,
    /// Whether its ends can be told when it is forgotten.
    notes_numbers: bool,
    /// Whether a RST is judged by its number: whether it ends the connection the table tells.
    checks_rst: bool,
    /// Idle time after which it is forgotten, in milliseconds.
    timeout_ms: u64,
    /// When the last packet passed, in milliseconds.
    seen: u64,
    /// The MAC the client's last packet came from.
    router: MacAddress,
    /// The arrival number of the last packet that passed, from the client and from the backend.
    passed: [u64; 2],
    /// A packet was dropped after the state had followed it, or before: the table tells which.
    is_uncertain: bool,
    /// The turn in which the state became one that a SYN may replace.
    over_in: u64,
}

impl Connection {
    fn is_over(&self) -> bool {
        let one_way = self.place.local.is_none();
        matches!(self.state, TcpState::TimeWait | TcpState::Close)
            || (one_way && self.state == TcpState::FinWait)
    }
}

/// What happened in one turn, as far as packets tell.
#[derive(Debug, Default)]
struct Events {
    opened: u64,
    reopened: u64,
    /// Openings and closings that packets cannot show: a connection replaced by one to the same place.
    hidden_at_most: u64,
    evicted: u64,
    /// Connections that went as the rules say of removed backends.
    purged: u64,
    /// Packets whose senders were told.
    answered: u64,
    /// Packets after which the table tells the state.
    uncertain: u64,
    refused: Vec<Key>,
    /// Newcomers, perhaps, in the place of connections that may have been over.
    perhaps_refused: u64,
    inbound: (u64, u64),
    outbound: (u64, u64),
    forwarded: u64,
    punted: u64,
    steered: u64,
    dropped: u64,
}

/// The witness of one simulation.
pub(crate) struct Witness {
    arrived: HashMap<u64, Arrived>,
    arrivals: u64,
    connections: Vec<BTreeMap<Key, Connection>>,
    /// From a backend's and a local endpoint to the connection.
    answers: HashMap<(Endpoint, Endpoint, u8), (usize, Key)>,
    /// Whether packets of one flow arrive at one worker always, so that their order must be kept.
    keeps_order: bool,
    /// The longest step of the simulation, in milliseconds: expiry may be late by two.
    step_ms: u64,
    /// Connections that went in this turn, by their clients' and by their backends' side: what of them was looked up
    /// before has nowhere to go.
    left_keys: Vec<Key>,
    left_answers: Vec<(Endpoint, Endpoint, u8)>,
    turns: u64,
    audited: Vec<u64>,
    /// The revision each worker goes by, and since when.
    in_force: Vec<(u64, u64)>,
    history: HashMap<u64, Rc<Config>>,
    /// Where packets went that were scheduled by their hash alone, and by which revision.
    by_hash: HashMap<Key, (u64, usize)>,
    /// By service: by which rules a connection was admitted last, and when those of the last second were.
    admitted: HashMap<(Endpoint, u8), (u64, VecDeque<u64>)>,
    /// Backends that reached their upper threshold, by service and place, and by which rules.
    resting: HashMap<(Endpoint, u8, Seat), u64>,
    /// By worker, service and client network: its backend, since when, and by which persistence.
    remembered: HashMap<(usize, Endpoint, u8, u32), Remembered>,
    /// How many connections went for which reason, over all.
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) opened: u64,
    pub(crate) reopened: u64,
    pub(crate) steered: u64,
    pub(crate) purged: u64,
    pub(crate) answered: u64,
    pub(crate) returned: u64,
    /// RSTs of the director's own.
    pub(crate) told: u64,
    pub(crate) forwarded: u64,
    talks: bool,
}

/// The backend a persistent client was sent to last.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    place: Place,
    at: u64,
    persistence: (u64, u8, bool),
    revision: u64,
}

impl Witness {
    pub(crate) fn new(worker_count: usize, keeps_order: bool, step_ms: u64, talks: bool) -> Self {
        Self {
            arrived: HashMap::new(),
            arrivals: 0,
            connections: vec![BTreeMap::new(); worker_count],
            answers: HashMap::new(),
            keeps_order,
            step_ms,
            left_keys: Vec::new(),
            left_answers: Vec::new(),
            turns: 0,
            audited: vec![0; worker_count],
            in_force: vec![(0, 0); worker_count],
            history: HashMap::new(),
            by_hash: HashMap::new(),
            admitted: HashMap::new(),
            resting: HashMap::new(),
            remembered: HashMap::new(),
            purged: 0,
            answered: 0,
            returned: 0,
            told: 0,
            evicted: 0,
            expired: 0,
            opened: 0,
            reopened: 0,
            steered: 0,
            forwarded: 0,
            talks,
        }
    }

    /// Notes a packet that comes to the director; returns its tag.
    pub(crate) fn arrives(&mut self, packet: Packet, port: PortIndex, from: MacAddress) -> u64 {
        self.arrivals += 1;
        self.arrived.insert(self.arrivals, Arrived { packet, port, from, number: self.arrivals });
        self.arrivals
    }

    /// Connections there are, by what packets told.
    pub(crate) fn held(&self) -> usize {
        self.connections.iter().map(BTreeMap::len).sum()
    }

    /// Packets that no worker has taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.arrived.len()
    }

    /// Judges a turn.
    pub(crate) fn watch(&mut self, turn: &Turn, director: &Director, now: u64) {
        self.turns += 1;
        self.left_keys.clear();
        self.left_answers.clear();
        let mut events = Events::default();
        if self.in_force[turn.worker].0 != turn.after.revision {
            self.in_force[turn.worker] = (turn.after.revision, now);
            if let Some(config) = director.config_of(turn.worker) {
                self.history.insert(turn.after.revision, config);
            }
        }
        if !turn.taken.is_empty() {
            let config = director.config_of(turn.worker).expect("no packet is taken without rules");
            for (tag, fate) in &turn.taken {
                let arrived = self.arrived.remove(tag).expect("a tag the witness gave");
                if self.talks {
                    eprintln!("{now} ms worker {} {} -> {}", turn.worker, told(&arrived.packet), brief(fate));
                }
                self.follow(turn, director, arrived, *tag, fate, now, &mut events);
            }
            check_refusals(turn, &config, &events, !self.left_keys.is_empty(), director);
        }
        check_balance(turn, &events);
        let changed = turn.after.opened != turn.before.opened || turn.after.closed != turn.before.closed;
        if changed
            || events.evicted + events.purged + events.uncertain > 0
            || now >= self.audited[turn.worker] + 1_000
        {
            self.audited[turn.worker] = now;
            self.audit(turn, director, now, &events);
        }
        self.steered += events.steered;
        self.forwarded += events.forwarded;
    }

    #[expect(clippy::too_many_arguments, reason = "what a packet is judged by")]
    fn follow(
        &mut self,
        turn: &Turn,
        director: &Director,
        arrived: Arrived,
        tag: u64,
        fate: &Fate,
        now: u64,
        events: &mut Events,
    ) {
        match fate {
            Fate::Steered(owner) => {
                assert_ne!(*owner, turn.worker, "a packet steered to where it is");
                events.steered += 1;
                self.arrived.insert(tag, arrived);
                return;
            }
            Fate::Sent(port, _) if *port == arrived.port => {
                events.answered += 1;
                return self.follow_reply(turn, director, &arrived, fate, events);
            }
            Fate::Sent(..) => events.forwarded += 1,
            Fate::Punted(port, frame) => {
                events.punted += 1;
                assert_eq!(*port, arrived.port, "punted to another port's twin");
                assert_eq!(Packet::read(frame).2, arrived.packet, "a punted packet is untouched");
            }
            Fate::Dropped => events.dropped += 1,
        }
        if arrived.port == BACK {
            self.follow_answer(turn, director, arrived, fate, now, events);
        } else {
            self.follow_client(turn, director, arrived, fate, now, events);
        }
    }

    fn was_refused_by_port(&self, turn: &Turn) -> bool {
        turn.after.dropped(DropReason::TxRefused) > turn.before.dropped(DropReason::TxRefused)
    }

    fn mark_uncertain(&mut self, worker: usize, key: &Key) {
        if let Some(connection) = self.connections[worker].get_mut(key) {
            connection.is_uncertain = true;
        }
    }

    fn in_order(&self, connection: &Connection, side: usize, arrived: &Arrived) {
        assert!(
            !self.keeps_order || connection.passed[side] < arrived.number,
            "{} overtook another packet of its flow",
            told(&arrived.packet)
        );
    }

    /// Whether the rules say that the connection goes, and some have gone in this turn.
    fn is_purged(
        &self,
        turn: &Turn,
        config: &Config,
        key: &Key,
        connection: &Connection,
        events: &Events,
    ) -> bool {
        let counted = turn.after.purged - turn.before.purged;
        counted > events.purged && fate_of(config, key, connection) != "finish"
    }

    /// Takes a connection that must have gone in this turn off the account: it was purged, or evicted.
    fn lose(&mut self, turn: &Turn, config: &Config, key: Key, events: &mut Events) {
        let Some(connection) = self.connections[turn.worker].get(&key).copied() else { return };
        if self.is_purged(turn, config, &key, &connection, events) {
            events.purged += 1;
        } else {
            events.evicted += 1;
        }
        self.forget(turn.worker, &key);
    }

    fn forget(&mut self, worker: usize, key: &Key) {
        let Some(connection) = self.connections[worker].remove(key) else { return };
        self.left_keys.push(*key);
        if let Some(local) = connection.place.local {
            let answer = (connection.place.own, local, key.2);
            self.left_answers.push(answer);
            self.answers.remove(&answer);
        }
    }
}
