//! The director under test: real rules text through the real builder to real workers, on the memory twin. The simulation
//! moves its clock, its packets and its publications.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use control::rules::build::{BuildError, Builder, PortFacts};
use control::rules::slots::Census;
use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::{Entry, FlowTable, HashSecret};
use dataplane::index::{BackendIndex, EntryIndex, PortIndex, ServiceIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::packet::PacketBuf;
use dataplane::persistence::Templates;
use dataplane::time::{Clock, Millis};
use dataplane::verdict::DropReason;
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{Publication, RulesQueue, Worker};

use crate::config::{Config, PORT_MACS};
use crate::random::Random;

/// Packets of one port in one turn: the line's burst.
const BURST: usize = 32;

/// Room for clients that return: more than there are.
const TEMPLATES: usize = 1_024;

/// The simulation's time, as workers see it: 32 bits of milliseconds from any start.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedClock(Rc<Cell<u32>>);

impl Clock for SimulatedClock {
    fn now(&mut self) -> Millis {
        Millis(self.0.get())
    }
}

/// What a worker did with a packet it took; a packet that is nowhere was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Sent by this port.
    Sent(PortIndex, Vec<u8>),
    /// Handed to the kernel twin of this port.
    Punted(PortIndex, Vec<u8>),
    /// Handed to this worker.
    Steered(usize),
    /// Freed.
    Dropped,
}

/// Frames of a worker's own making, with the port each left by.
pub(crate) type Made = Vec<(PortIndex, Vec<u8>)>;

/// One worker's turn, as seen from outside.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) worker: usize,
    /// The packets it took, by tag, in the order it looked at them, and what became of them.
    pub(crate) taken: Vec<(u64, Fate)>,
    /// What it sent beside those.
    pub(crate) made: Made,
    pub(crate) before: Tally,
    pub(crate) after: Tally,
}

/// A worker's counters at one time, summed over ports and backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: (u64, u64),
    pub(crate) sent: (u64, u64),
    pub(crate) inbound: (u64, u64),
    pub(crate) outbound: (u64, u64),
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) refused: u64,
    pub(crate) forwarded: u64,
    pub(crate) punted: u64,
    pub(crate) steered: u64,
    pub(crate) steered_in: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) purged: u64,
    /// Of the rules in force.
    pub(crate) revision: u64,
    pub(crate) answered: u64,
    pub(crate) own_resets: u64,
    pub(crate) withheld: u64,
    pub(crate) drops: Vec<u64>,
}

impl Tally {
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }
}

/// A worker and what waits for it.
struct Seat {
    worker: Worker<MemoryDevice, SimulatedClock>,
    counters: Arc<WorkerCounters>,
    queue: RulesQueue,
    /// Publications that control has yet to hand over, with their time.
    under_way: VecDeque<(u64, Publication)>,
}

/// The whole director.
pub(crate) struct Director {
    seats: Vec<Seat>,
    clock: SimulatedClock,
    builder: Builder,
    /// What was published, by revision less one.
    history: Vec<Rc<Config>>,
    /// Schedulers begin with the first backend, not with any.
    begins_with_the_first: bool,
}

impl Director {
    /// Workers that know no rules yet, with room for `capacity` table entries each.
    pub(crate) fn new(worker_count: usize, capacity: u32, random: &mut Random) -> Self {
        let clock = SimulatedClock::default();
        let all_counters: Vec<Arc<WorkerCounters>> = (0..worker_count).map(|_| Arc::default()).collect();
        let seat = |index: usize| {
            let others = all_counters.iter().enumerate().filter(|(other, _)| *other != index);
            let others = others.map(|(_, counters)| Arc::clone(counters)).collect();
            let secret = HashSecret::new([random.word(), random.word()]);
            let table = FlowTable::new(capacity, Backing::Plain, secret).expect("plain memory");
            let (counters, queue) = (Arc::clone(&all_counters[index]), RulesQueue::default());
            let index = WorkerIndex(index as u16);
            let state = LineState::new(table, index, &PORT_MACS, random.word()).with_peers(others);
            let mut device = MemoryDevice::with_ports(PORT_MACS.len());
            device.ports.iter_mut().for_each(|port| port.twin = true);
            let worker =
                Worker::new(device, clock.clone(), index, state, Arc::clone(&counters), queue.clone());
            Seat { worker, counters, queue, under_way: VecDeque::new() }
        };
        let seats = (0..worker_count).map(seat).collect();
        let facts =
            PORT_MACS.map(|mac| PortFacts { mac, is_station: true, mtu: 0, udp_offload: None }).to_vec();
        let builder = Builder::new(facts, worker_count as u16);
        Self { seats, clock, builder, history: Vec::new(), begins_with_the_first: false }
    }

    /// The same, whose schedulers begin with the first backend.
    pub(crate) fn that_begins_with_the_first(self) -> Self {
        Self { begins_with_the_first: true, ..self }
    }

    pub(crate) fn worker_count(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn set_time(&self, ms: u64) {
        // 32 bits of milliseconds wrap by design; see `Millis`.
        self.clock.0.set(ms as u32);
    }

    /// Builds the rules of `config` and sends them to the workers; each gets them at a time of its own, from `now` on.
    /// False when the rules cannot be put in force at present.
    pub(crate) fn publish(&mut self, config: &Config, now: u64, random: &mut Random) -> bool {
        let census = Counted(&self.seats);
        let built = match self.builder.build(&config.rules(), &config.next_hops(), &census) {
            Ok(built) => built,
            // A VIP is owned by clients' addresses or by their endpoints; a second change of that has to wait.
            Err(BuildError::Steering(_)) => return false,
            Err(error) => panic!("{error}"),
        };
        self.history.push(Rc::new(config.clone()));
        assert_eq!(built.ruleset.revision, self.history.len() as u64);
        let spread_ms = random.pick(&[0, 0, 5, 40]);
        for seat in &mut self.seats {
            // In order: what was published before arrives before.
            let earliest = seat.under_way.back().map_or(now, |(due, _)| *due).max(now);
            let due = earliest + random.between(0, spread_ms);
            // What control draws by chance is drawn by the seed here.
            let begin = if self.begins_with_the_first { 0 } else { random.word() };
            let mut publication = built.publication(|| begin);
            if publication.templates.is_some() {
                let secret = [random.word(), random.word()];
                publication.templates = Some(Templates::new(TEMPLATES, secret));
            }
            seat.under_way.push_back((due, publication));
        }
        true
    }

    /// Hands over what is due, as far as the queues take it.
    pub(crate) fn deliver_publications(&mut self, now: u64) {
        for seat in &mut self.seats {
            while let Some((due, publication)) = seat.under_way.pop_front() {
                if due > now {
                    seat.under_way.push_front((due, publication));
                    break;
                }
                if let Err(refused) = seat.queue.publish(publication) {
                    seat.under_way.push_front((due, refused));
                    break;
                }
            }
        }
    }

    /// What the worker goes by at present; `None` before its first rules.
    pub(crate) fn config_of(&self, worker: usize) -> Option<Rc<Config>> {
        let revision = self.seats[worker].counters.revision.value() as usize;
        self.history.get(revision.checked_sub(1)?).cloned()
    }

    /// Whether every worker goes by what was published last.
    pub(crate) fn is_settled(&self) -> bool {
        let last = self.history.len() as u64;
        self.seats.iter().all(|seat| seat.counters.revision.value() == last)
    }

    /// Lets a packet in by `port`, at the queue of `worker`.
    pub(crate) fn receive(&mut self, worker: usize, port: PortIndex, frame: Vec<u8>, tag: u64) {
        let mut packet = MemoryPacket::new(frame, port);
        packet.tag = tag;
        self.seats[worker].worker.device_mut().ports[port.as_usize()].incoming.push_back(packet);
    }

    /// Bounds what ports accept for sending in the worker's next turn.
    pub(crate) fn set_transmit_room(&mut self, worker: usize, room: Option<usize>) {
        self.seats[worker].worker.device_mut().ports.iter_mut().for_each(|port| port.transmit_room = room);
    }

    /// Whether any packet waits in a queue.
    pub(crate) fn has_backlog(&mut self) -> bool {
        self.seats.iter_mut().any(|seat| {
            let device = seat.worker.device_mut();
            !device.steered_in.is_empty() || device.ports.iter().any(|port| !port.incoming.is_empty())
        })
    }

    /// One turn of one worker. What it steers arrives at its owner's ring at once.
    pub(crate) fn turn(&mut self, index: usize) -> Turn {
        let (services, backends) = (self.service_slots(), self.backend_slots());
        let seat = &mut self.seats[index];
        let before = tally(&seat.counters, services, backends);
        let device = seat.worker.device_mut();
        let waiting: Vec<Vec<u64>> = device
            .ports
            .iter()
            .map(|port| port.incoming.iter().take(BURST).map(|packet| packet.tag).collect())
            .collect();
        let steered: Vec<u64> = device.steered_in.iter().map(|packet| packet.tag).collect();
        let left = |device: &MemoryDevice| {
            let ports = device.ports.iter().map(|port| port.incoming.len()).collect::<Vec<_>>();
            (ports, device.steered_in.len())
        };
        let (ports_before, _) = left(device);
        let first = seat.worker.next_source();
        seat.worker.turn();
        let device = seat.worker.device_mut();
        let (ports_after, steered_after) = left(device);
        let of_ports = waiting.into_iter().enumerate().map(|(port, mut tags)| {
            tags.truncate(ports_before[port] - ports_after[port]);
            tags
        });
        let mut by_source: Vec<Vec<u64>> = of_ports.collect();
        let steered_taken = steered.len() - steered_after;
        by_source.push(steered.into_iter().take(steered_taken).collect());
        // The worker begins where the turn before had enough.
        by_source.rotate_left(first);
        let taken: Vec<u64> = by_source.concat();
        let (mut fates, made) = self.collect(index);
        let taken = taken.into_iter().map(|tag| (tag, fates.remove(&tag).unwrap_or(Fate::Dropped))).collect();
        assert!(fates.is_empty(), "packets that nobody let in: {fates:?}");
        let after = tally(&self.seats[index].counters, services, backends);
        Turn { worker: index, taken, made, before, after }
    }

    /// Everything that left the worker, by tag; packets without a tag are of its own making.
    fn collect(&mut self, index: usize) -> (BTreeMap<u64, Fate>, Made) {
        let (mut fates, mut made) = (BTreeMap::new(), Vec::new());
        let mut note = |tag, fate| assert!(fates.insert(tag, fate).is_none(), "packet {tag} is there twice");
        let device = self.seats[index].worker.device_mut();
        for (number, port) in device.ports.iter_mut().enumerate() {
            let number = PortIndex(number as u16);
            for packet in port.outgoing.drain(..) {
                match packet.tag {
                    0 => made.push((number, packet.data().to_vec())),
                    tag => note(tag, Fate::Sent(number, packet.data().to_vec())),
                }
            }
            for packet in port.punted.drain(..) {
                note(packet.tag, Fate::Punted(number, packet.data().to_vec()));
            }
        }
        for (owner, packet) in std::mem::take(&mut device.steered_out) {
            note(packet.tag, Fate::Steered(owner.as_usize()));
            self.seats[owner.as_usize()].worker.device_mut().steered_in.push_back(packet);
        }
        (fates, made)
    }

    /// The connections the worker holds, each by its first entry.
    pub(crate) fn connections(&self, worker: usize) -> impl Iterator<Item = &Entry> {
        let table = &self.seats[worker].worker.line().state.table;
        let entries = (0..table.entry_count()).filter_map(|index| table.entry(EntryIndex(index)));
        entries.filter(|entry| !entry.rewrite.is_to_client())
    }

    /// Table entries in use, and how many there are.
    pub(crate) fn table_fill(&self, worker: usize) -> (u32, u32) {
        let table = &self.seats[worker].worker.line().state.table;
        (table.used(), table.capacity())
    }

    /// Connections of the worker to the backend in `slot`, and active ones among them, as counted.
    pub(crate) fn held(&self, worker: usize, slot: usize) -> (u64, u64) {
        let (counters, backend) = (&self.seats[worker].counters, BackendIndex(slot as u32));
        let (held, active) = (held(counters, slot), counters.backend(backend).active.value());
        let load = counters.load(backend);
        let told = (u64::from(load.active + load.inactive), u64::from(load.active));
        assert_eq!(told, (held, active), "the load of backend slot {slot}, as schedulers see it");
        (held, active)
    }

    /// Connections of the worker to the service in `slot`, and half-open ones among them, as counted.
    pub(crate) fn held_by_service(&self, worker: usize, slot: usize) -> (u64, u64) {
        let service = self.seats[worker].counters.service(ServiceIndex(slot as u16));
        (service.opened.value() - service.closed.value(), service.half_open.value())
    }

    /// Clients that the worker remembers, as counted.
    pub(crate) fn templates_used(&self, worker: usize) -> u64 {
        self.seats[worker].counters.templates_used.value()
    }

    /// Slots for services that were ever used.
    pub(crate) fn service_slots(&self) -> usize {
        self.builder.services().len()
    }

    /// Slots for backends that were ever used.
    pub(crate) fn backend_slots(&self) -> usize {
        self.builder.backends().len()
    }

    /// The backend in `slot`, by the worker's rules.
    pub(crate) fn backend_at(&self, worker: usize, slot: usize) -> Option<crate::packet::Endpoint> {
        let backend = self.seats[worker].worker.line().rules.backend(BackendIndex(slot as u32))?;
        Some((v4(backend.address), backend.l4_port))
    }

    /// The MAC that answers of this connection go to.
    pub(crate) fn router_of(&self, worker: usize, entry: &Entry) -> MacAddress {
        let stations = &self.seats[worker].worker.line().state.stations;
        let way = stations.adjacency(entry.client_station);
        way.and_then(|way| way.macs.first_chunk().copied()).map_or(PORT_MACS[0], MacAddress)
    }

    /// Connections that hold a client-side station.
    pub(crate) fn stations_held(&self, worker: usize) -> u64 {
        self.seats[worker].worker.line().state.stations.held()
    }
}

/// The census as control takes it: from the workers' counters.
struct Counted<'a>(&'a [Seat]);

impl Census for Counted<'_> {
    fn revision_in_force(&self) -> u64 {
        self.0.iter().map(|seat| seat.counters.revision.value()).min().unwrap_or(0)
    }

    fn open_connections(&self, backend_slot: usize) -> u64 {
        self.0.iter().map(|seat| held(&seat.counters, backend_slot)).sum()
    }
}

fn held(counters: &WorkerCounters, slot: usize) -> u64 {
    let backend = counters.backend(BackendIndex(slot as u32));
    let (opened, closed) = (backend.opened.value(), backend.closed.value());
    opened.checked_sub(closed).unwrap_or_else(|| panic!("slot {slot}: {opened} opened, {closed} closed"))
}

fn tally(counters: &WorkerCounters, service_slots: usize, backend_slots: usize) -> Tally {
    use dataplane::counters::Traffic;
    let add = |sum: &mut (u64, u64), traffic: &Traffic| {
        *sum = (sum.0 + traffic.packets.value(), sum.1 + traffic.bytes.value());
    };
    let mut tally = Tally {
        forwarded: counters.forwarded.value(),
        punted: counters.punted.value(),
        steered: counters.steered.value(),
        steered_in: counters.steered_in.value(),
        evicted: counters.evicted.value(),
        expired: counters.expired.value(),
        revision: counters.revision.value(),
        purged: counters.purged.value(),
        own_resets: counters.own_resets.value(),
        withheld: counters.own_resets_withheld.value(),
        answered: counters.resets.value() + counters.unreachables.value(),
        drops: DropReason::ALL.iter().map(|reason| counters.dropped(*reason).value()).collect(),
        ..Tally::default()
    };
    for port in (0..PORT_MACS.len()).map(|port| counters.port(PortIndex(port as u16))) {
        add(&mut tally.received, &port.rx);
        add(&mut tally.sent, &port.tx);
    }
    for backend in (0..backend_slots).map(|slot| counters.backend(BackendIndex(slot as u32))) {
        add(&mut tally.inbound, &backend.inbound);
        add(&mut tally.outbound, &backend.outbound);
        tally.opened += backend.opened.value();
        tally.closed += backend.closed.value();
    }
    for service in 0..service_slots {
        tally.refused += counters.service(ServiceIndex(service as u16)).refused.value();
    }
    tally
}

/// The address, which is IPv4: the simulated network knows no other.
pub(crate) fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} in a network of IPv4"),
    }
}
