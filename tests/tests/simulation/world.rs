//! One simulation: a seed decides who there is and what happens, the loop lets it happen, the end looks for leaks.

use dataplane::index::PortIndex;
use dataplane::wire::ethernet::MacAddress;

use crate::backend::{Backend, from_segment};
use crate::client::{Client, Outcome};
use crate::config::{BACK, BACKENDS, Config, FRONT, Flows, PORT_MACS, Service};
use crate::director::{Director, Fate, Turn};
use crate::network::{Event, Network, Quality};
use crate::packet::Packet;
use crate::random::Random;
use crate::tcp::reset_for;
use crate::witness::Witness;

/// The longest step while clients are about, in milliseconds.
const STEP_MS: u64 = 50;
/// The step while connections only expire.
const DRAIN_STEP_MS: u64 = 250;
/// Longer than the longest timeout, a sweep, and what backends still send to clients that are gone, in milliseconds.
const DRAIN_MS: u64 = 960_000;
/// How long clients may take to end what they began.
const PATIENCE_MS: u64 = 120_000;

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    worker_count: usize,
    /// Table entries of each worker.
    capacity: u32,
    clients: usize,
    /// Packets of one flow arrive at one worker, as RSS has it; else at any.
    has_rss: bool,
    active_ms: u64,
    pause_max_ms: u64,
    quality: Quality,
    rules_change: bool,
    ways_change: bool,
    routers_change: bool,
    /// Ports accept so little now and then that packets are lost there.
    has_narrow_ports: bool,
    /// The workers' clock wraps while packets flow.
    clock_wraps: bool,
}

impl Scenario {
    fn random(random: &mut Random) -> Self {
        Self {
            worker_count: random.pick(&[1, 1, 2, 2, 3, 4]),
            capacity: random.pick(&[16, 48, 128, 512, 1_024]),
            clients: random.between(5, 60) as usize,
            has_rss: random.chance(50),
            active_ms: random.between(1_000, 8_000),
            pause_max_ms: random.pick(&[0, 20, 200, 2_000]),
            quality: Quality::random(random),
            rules_change: random.chance(60),
            ways_change: random.chance(20),
            routers_change: random.chance(30),
            has_narrow_ports: random.chance(10),
            clock_wraps: random.chance(10),
        }
    }

    /// Whether nothing that happens may break an open connection: there is room for all, and all can be reached.
    fn is_calm(&self) -> bool {
        let entries = self.clients * 3 * 2;
        self.capacity as usize >= 2 * entries && !self.ways_change && !self.has_narrow_ports
    }

    /// Whether rules that change may break what is open: by what is said of removal, or as nothing is kept.
    fn may_break(&self, config: &Config) -> bool {
        let breaks =
            |service: &Service| service.policy.on_remove != "finish" || service.flows() != Flows::Kept;
        self.rules_change && config.services.iter().any(breaks)
    }
}

/// What a simulation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) packets: u64,
    pub(crate) opened: u64,
    pub(crate) reopened: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) steered: u64,
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) broken: u64,
    pub(crate) purged: u64,
    pub(crate) answered: u64,
    pub(crate) returned: u64,
    pub(crate) told: u64,
    pub(crate) publications: u64,
    /// Of everything that left the director, in order: two runs of one seed have the same.
    pub(crate) digest: u64,
}

/// Everything there is in one simulation.
pub(crate) struct World {
    scenario: Scenario,
    random: Random,
    now: u64,
    network: Network,
    clients: Vec<Client>,
    backends: Vec<Backend>,
    director: Director,
    witness: Witness,
    config: Config,
    /// What was published last.
    in_force: Config,
    /// Whether rules that were in force may have broken what was open.
    may_have_broken: bool,
    /// The MAC that each client's packets come from: by client modulo their number.
    routers: [MacAddress; 3],
    /// Time until which clients begin new sessions and rules change.
    active_until: u64,
    summary: Summary,
    talks: bool,
}

impl World {
    /// Everybody in place, rules in force.
    pub(crate) fn new(seed: u64, talks: bool) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::random(&mut random);
        if talks {
            eprintln!("seed {seed}: {scenario:?}");
        }
        let config = Config::random(&mut random);
        let director = Director::new(scenario.worker_count, scenario.capacity, &mut random);
        let witness = Witness::new(scenario.worker_count, scenario.has_rss, DRAIN_STEP_MS, talks);
        let pause_max_ms = scenario.pause_max_ms;
        let mut world = Self {
            network: Network::new(scenario.quality),
            clients: (0..scenario.clients).map(|id| Client::new(id as u32, pause_max_ms)).collect(),
            backends: (0..BACKENDS).map(Backend::new).collect(),
            director,
            witness,
            in_force: config.clone(),
            may_have_broken: false,
            config,
            routers: [1, 2, 3].map(|number| MacAddress([2, 0, 0, 9, 0, number])),
            now: 0,
            active_until: 0,
            summary: Summary::default(),
            talks,
            scenario,
            random,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.publish();
        // Workers know no more of a time than its distance from the last one they saw: less than 24 days each.
        if self.scenario.clock_wraps {
            let wrap = u64::from(u32::MAX);
            for part in 1..=8 {
                self.now = wrap / 8 * part - self.random.between(0, 3_000);
                self.director.set_time(self.now);
                self.director.deliver_publications(self.now);
                (0..self.director.worker_count()).for_each(|worker| self.turn(worker));
            }
        }
        while !self.director.is_settled() {
            self.now += 1;
            self.turn_all();
        }
        self.active_until = self.now + self.scenario.active_ms;
        for client in 0..self.clients.len() {
            let at = self.now + self.random.between(0, 500);
            self.network.schedule(at, Event::ClientWakes(client));
        }
        let first = self.now + 100;
        let changes = [
            (self.scenario.rules_change, Event::RulesChange),
            (self.scenario.ways_change, Event::WaysChange),
            (self.scenario.routers_change, Event::RoutersChange),
        ];
        for (happens, event) in changes {
            if happens {
                self.network.schedule(first, event);
            }
        }
    }

    /// Lets everything happen; panics where it should not have.
    pub(crate) fn run(mut self) -> Summary {
        let give_up = self.active_until + PATIENCE_MS;
        while self.now < self.active_until || self.clients.iter().any(|client| !client.is_idle()) {
            self.step(STEP_MS);
            assert!(
                self.now < give_up,
                "clients still wait: {:?}",
                self.clients.iter().find(|c| !c.is_idle())
            );
        }
        let end = self.now + DRAIN_MS;
        while self.now < end {
            self.step(DRAIN_STEP_MS);
        }
        self.look_for_leaks();
        self.sum_up()
    }

    /// One step in time: what is due happens, then the workers turn, in any order.
    fn step(&mut self, step_max_ms: u64) {
        let latest = self.now + step_max_ms;
        let next = self.network.next_at().unwrap_or(latest);
        let hurries = self.director.has_backlog();
        self.now = if hurries { self.now + 1 } else { next.clamp(self.now + 1, latest) };
        while let Some(event) = self.network.take(self.now) {
            self.happen(event);
        }
        self.turn_all();
    }

    fn turn_all(&mut self) {
        self.director.set_time(self.now);
        self.director.deliver_publications(self.now);
        let mut order: Vec<usize> = (0..self.director.worker_count()).collect();
        for _ in 0..self.random.between(1, 2) {
            self.random.shuffle(&mut order);
            for worker in &order {
                if self.random.chance(85) {
                    self.turn(*worker);
                }
            }
        }
    }

    fn turn(&mut self, worker: usize) {
        if self.scenario.has_narrow_ports {
            let room = self.random.chance(20).then(|| self.random.below(4));
            self.director.set_transmit_room(worker, room);
        }
        let turn = self.director.turn(worker);
        self.witness.watch(&turn, &self.director, self.now);
        self.hand_on(turn);
    }

    /// Carries what left the director to where it goes.
    fn hand_on(&mut self, turn: Turn) {
        for (_, fate) in turn.taken {
            match fate {
                Fate::Sent(port, frame) => self.leave(port, &frame),
                Fate::Punted(port, frame) => self.punt(port, &frame),
                Fate::Steered(_) | Fate::Dropped => {}
            }
        }
        for (port, frame) in turn.made {
            self.leave(port, &frame);
        }
    }

    fn leave(&mut self, port: PortIndex, frame: &[u8]) {
        self.summary.packets += 1;
        for byte in frame {
            self.summary.digest = (self.summary.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let (to, _, packet) = Packet::read(frame);
        if port == FRONT {
            return self.network.carry(self.now, Event::ToClient(packet), &mut self.random);
        }
        // A frame to a network card that is no longer there is lost.
        if let Some(id) = (0..BACKENDS).find(|id| self.config.ways[*id].mac(*id) == to) {
            self.network.carry(self.now, Event::ToBackend(id, packet), &mut self.random);
        }
    }

    /// The kernel: it has the VIPs and no socket on them, so it resets what it gets.
    fn punt(&mut self, port: PortIndex, frame: &[u8]) {
        let (_, _, packet) = Packet::read(frame);
        let Some(segment) = reset_for(&packet).filter(|_| packet.protocol() == 6) else { return };
        let reset = from_segment(packet.destination, packet.source, segment);
        if port == FRONT {
            self.network.carry(self.now, Event::ToClient(reset), &mut self.random);
        } else if let Some(id) = crate::config::backend_id(packet.source.0) {
            self.network.carry(self.now, Event::ToBackend(id, reset), &mut self.random);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToDirector { packet, port, from } => self.arrive(packet, port, from),
            Event::ToClient(packet) => {
                let id = Client::id_of(packet.destination.0);
                let packets = self.clients[id].receive(&packet, self.now, &mut self.random);
                self.client_sends(id, packets);
            }
            Event::ToBackend(id, packet) => {
                let (packets, wake) = self.backends[id].receive(&packet, self.now, &mut self.random);
                self.backend_sends(id, packets, wake, (packet.source, packet.destination));
            }
            Event::ClientWakes(id) => self.client_wakes(id),
            Event::BackendWakes(id, peer, own) => {
                let (packets, wake) = self.backends[id].wake(peer, own, self.now);
                self.backend_sends(id, packets, wake, (peer, own));
            }
            Event::RulesChange => {
                self.config.change_rules(&mut self.random);
                self.change_again(Event::RulesChange, 600);
            }
            Event::WaysChange => {
                self.config.change_ways(&mut self.random);
                self.change_again(Event::WaysChange, 1_000);
            }
            Event::RoutersChange => {
                let at = self.random.below(self.routers.len());
                self.routers[at].0[4] = self.routers[at].0[4].wrapping_add(1);
                let next = self.now + self.random.between(50, 2_000);
                self.network.schedule(next, Event::RoutersChange);
            }
        }
    }

    /// Publishes what changed, and lets it change again later; in the end every way is found.
    fn change_again(&mut self, event: Event, pause_ms: u64) {
        let next = self.now + self.random.between(0, pause_ms);
        if self.now < self.active_until {
            self.network.schedule(next, event);
        } else {
            self.config.ways.iter_mut().for_each(|way| way.is_lost = false);
        }
        self.publish();
    }

    /// Puts the rules in force. What cannot be now is taken back, but for what the network did.
    fn publish(&mut self) {
        if self.director.publish(&self.config, self.now, &mut self.random) {
            self.summary.publications += 1;
            if self.talks {
                eprintln!("{} ms rules {}:\n{}", self.now, self.summary.publications, self.config.text());
            }
            self.in_force = self.config.clone();
            self.may_have_broken |= self.scenario.may_break(&self.config);
            return;
        }
        self.config = Config { ways: self.config.ways, ..self.in_force.clone() };
    }

    fn arrive(&mut self, packet: Packet, port: PortIndex, from: MacAddress) {
        let workers = self.director.worker_count();
        let worker = if self.scenario.has_rss {
            let (source, destination) = (packet.source, packet.destination);
            let words =
                [source.0.to_bits(), destination.0.to_bits(), u32::from(source.1), u32::from(destination.1)];
            let hash = words.iter().fold(0u64, |hash, word| {
                (hash ^ u64::from(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            });
            (hash % workers as u64) as usize
        } else {
            self.random.below(workers)
        };
        let frame = packet.frame(PORT_MACS[port.as_usize()], from);
        let tag = self.witness.arrives(packet, port, from);
        self.director.receive(worker, port, frame, tag);
    }

    fn client_wakes(&mut self, id: usize) {
        if self.clients[id].is_idle() {
            if self.now < self.active_until {
                let service = self.config.services[self.random.below(self.config.services.len())].clone();
                let packets =
                    self.clients[id].begin(service.endpoint(), service.tcp, self.now, &mut self.random);
                self.client_sends(id, packets);
            }
        } else if self.clients[id].wants_to_wake(self.now) {
            let packets = self.clients[id].wake(self.now);
            self.client_sends(id, packets);
        }
    }

    fn client_sends(&mut self, id: usize, packets: Vec<Packet>) {
        let from = self.routers[id % self.routers.len()];
        for packet in packets {
            let event = Event::ToDirector { packet, port: FRONT, from };
            self.network.carry(self.now, event, &mut self.random);
        }
        let wakes_at = match self.clients[id].is_idle() {
            true => Some(self.now + 1 + self.random.between(0, self.scenario.pause_max_ms)),
            false => self.clients[id].next_wake(self.now),
        };
        if let Some(at) = wakes_at {
            self.network.schedule(at, Event::ClientWakes(id));
        }
    }

    fn backend_sends(
        &mut self,
        id: usize,
        packets: Vec<Packet>,
        wake: Option<u64>,
        (peer, own): (crate::packet::Endpoint, crate::packet::Endpoint),
    ) {
        let from = self.config.ways[id].mac(id);
        for packet in packets {
            // With direct routing the backend answers as the VIP, to the client itself.
            let is_direct = packet.source.0 != crate::config::backend_address(id);
            let event = if is_direct {
                Event::ToClient(packet)
            } else {
                Event::ToDirector { packet, port: BACK, from }
            };
            self.network.carry(self.now, event, &mut self.random);
        }
        if let Some(at) = wake {
            self.network.schedule(at.max(self.now + 1), Event::BackendWakes(id, peer, own));
        }
    }

    fn look_for_leaks(&mut self) {
        assert_eq!(self.witness.held(), 0, "connections are held for ever");
        for worker in 0..self.director.worker_count() {
            assert_eq!(self.director.table_fill(worker).0, 0, "table entries of worker {worker} leak");
            assert_eq!(self.director.stations_held(worker), 0, "client stations of worker {worker} leak");
            assert_eq!(self.director.templates_used(worker), 0, "clients are remembered for ever");
            for slot in 0..self.director.service_slots() {
                let held = self.director.held_by_service(worker, slot);
                assert_eq!(held, (0, 0), "connections, and half-open ones, of service slot {slot}");
            }
            for slot in 0..self.director.backend_slots() {
                assert_eq!(self.director.held(worker, slot), (0, 0), "connections of backend slot {slot}");
            }
        }
        assert!(!self.director.has_backlog(), "packets wait for ever");
        assert_eq!(self.witness.waiting(), 0, "packets were lost track of");
    }

    fn sum_up(self) -> Summary {
        let mut outcome = Outcome::default();
        for client in &self.clients {
            outcome.done += client.outcome.done;
            outcome.refused += client.outcome.refused;
            outcome.broken += client.outcome.broken;
        }
        assert!(
            !self.scenario.is_calm() || self.may_have_broken || outcome.broken == 0,
            "{outcome:?} in {:?}",
            self.scenario
        );
        Summary {
            opened: self.witness.opened,
            reopened: self.witness.reopened,
            evicted: self.witness.evicted,
            expired: self.witness.expired,
            steered: self.witness.steered,
            purged: self.witness.purged,
            answered: self.witness.answered,
            returned: self.witness.returned,
            told: self.witness.told,
            done: outcome.done,
            refused: outcome.refused,
            broken: outcome.broken,
            ..self.summary
        }
    }
}
