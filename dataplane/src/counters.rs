//! Counters: private to a worker, written with plain stores, read by anybody.
//!
//! An atomic with relaxed order compiles to a plain load, add and store. Readers see each counter as of a
//! moment ago and never a torn value; different counters are not of the same instant.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::index::{BACKENDS_MAX, BackendIndex, PORTS_MAX, PortIndex, SERVICES_MAX, ServiceIndex};
use crate::rules::Load;
use crate::verdict::DropReason;

/// A count that one thread writes and all may read.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call it.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes away, from a counter that is a gauge; only the owning worker may call it.
    #[inline(always)]
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(amount), Ordering::Relaxed);
    }

    /// Sets; only the owning worker may call it.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value of a moment ago.
    #[inline(always)]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and their bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: Counter,
    /// Bytes: of the frame without FCS at ports, of the IP packet at backends (as IPVS counts).
    pub bytes: Counter,
}

impl Traffic {
    /// One packet more.
    #[inline(always)]
    pub fn add(&self, bytes: u64) {
        self.packets.add(1);
        self.bytes.add(bytes);
    }
}

/// What passed one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Received from the port.
    pub rx: Traffic,
    /// Accepted by the port for sending.
    pub tx: Traffic,
    /// Of the packets looked at, the first of each burst of a port with RSS: came to the worker they had to come to, with
    /// the hash they have, if with any.
    pub rss_as_set: Counter,
    /// Of those: came to another worker, or with another hash.
    pub rss_otherwise: Counter,
}

/// What passed one backend.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct BackendCounters {
    /// From clients.
    pub inbound: Traffic,
    /// From the backend, where answers come back through the director.
    pub outbound: Traffic,
    /// Connections made.
    pub opened: Counter,
    /// Connections forgotten, for whatever reason. `opened - closed` are held.
    pub closed: Counter,
    /// Connections held whose state counts as active ([`crate::flow::tcp_state::TcpState::is_active`]): a gauge.
    pub active: Counter,
    /// TCP connections that the backend refused, where answers come back through the director: a RST in answer to the SYN.
    pub refused: Counter,
}

/// One active connection in a word of loads; one that is held is 1.
const ACTIVE: u64 = 1 << 32;

/// What concerns a service and none of its backends.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// New connections refused: no backend, no port, no room, a limit.
    pub refused: Counter,
    /// Connections made.
    pub opened: Counter,
    /// Connections forgotten: expired or evicted. `opened - closed` are held.
    pub closed: Counter,
    /// Connections held whose handshake is not complete: a gauge.
    pub half_open: Counter,
    /// Newcomers that went to the backend whose server ID they carry.
    pub by_server_id: Counter,
    /// Newcomers that carry a server ID of no backend that takes them: they were scheduled like others.
    pub strangers: Counter,
    /// Flows that left their backend for another one, whose server ID a packet of theirs carries. Of `by_server_id`.
    pub moved: Counter,
    /// Newcomers that went where their client's prefix leads.
    pub by_prefix: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCounters {
    ports: Box<[PortCounters; PORTS_MAX]>,
    services: Box<[ServiceCounters; SERVICES_MAX]>,
    backends: Box<[BackendCounters; BACKENDS_MAX]>,
    /// Connections held, by backend, and above [`ACTIVE`] those that are active: what rows of `backends` say, once more and close
    /// together, for schedulers that look at many. Eight backends a cache line.
    loads: Box<[Counter; BACKENDS_MAX]>,
    drops: [Counter; DropReason::ALL.len()],
    /// Packets forwarded, before the port had its say.
    pub forwarded: Counter,
    /// Packets answered with a TCP RST, before the port had its say.
    pub resets: Counter,
    /// Packets answered with ICMP destination unreachable, likewise.
    pub unreachables: Counter,
    /// Packets answered with how long one may be (ICMP fragmentation needed, ICMPv6 packet too big), likewise.
    pub too_bigs: Counter,
    /// Packets that left in fragments, before the port had its say.
    pub fragmented: Counter,
    /// Packets of services that tell backends their client by an option, which had no room for it and went without.
    pub client_address_withheld: Counter,
    /// RSTs of the worker's own, to the ends of connections that are forgotten, before the port had its say.
    pub own_resets: Counter,
    /// Those that were not sent: no buffer, no way, or too many in a second.
    pub own_resets_withheld: Counter,
    /// UDP checksums over whole datagrams that were left to the port.
    pub checksums_offloaded: Counter,
    /// Those that the worker summed up itself.
    pub checksums_summed: Counter,
    /// Packets taken out of tunnels that end here.
    pub decapsulated: Counter,
    /// Packets handed to the slow path.
    pub punted: Counter,
    /// Packets handed to another worker.
    pub steered: Counter,
    /// Packets taken from other workers.
    pub steered_in: Counter,
    /// Packets of the slow path taken for sending.
    pub from_slow_path: Counter,
    /// Connections pushed out of a full table.
    pub evicted: Counter,
    /// Connections that outlived their timeout.
    pub expired: Counter,
    /// Connections that were deleted by command.
    pub deleted: Counter,
    /// Connections that were removed because their backend has left or is down.
    pub purged: Counter,
    /// Table entries in use: one for DR, two for FullNAT.
    pub table_used: Counter,
    /// Clients that are remembered: templates in use.
    pub templates_used: Counter,
    /// Clients that were not remembered for want of room.
    pub templates_full: Counter,
    /// Fragments that wait for the first of their datagram: a gauge.
    pub fragments_waiting: Counter,
    /// ICMP errors about flows that went on, towards a backend or a client.
    pub icmp_errors: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Turns that found no packet.
    pub idle_turns: Counter,
    /// Time in turns that found something to do, in ticks of the worker's clock.
    pub busy_ticks: Counter,
    /// The longest of those turns, likewise.
    pub longest_turn_ticks: Counter,
    /// The revision of the ruleset in force.
    pub revision: Counter,
}

const _: () =
    assert!(PORTS_MAX.is_power_of_two() && SERVICES_MAX.is_power_of_two() && BACKENDS_MAX.is_power_of_two());

impl Default for WorkerCounters {
    fn default() -> Self {
        // By way of a Vec: megabytes would not fit the stack.
        fn rows<T: Default, const COUNT: usize>() -> Box<[T; COUNT]> {
            let rows: Vec<T> = std::iter::repeat_with(T::default).take(COUNT).collect();
            rows.into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("as many as were taken"))
        }
        Self {
            ports: rows(),
            services: rows(),
            backends: rows(),
            loads: rows(),
            drops: std::array::from_fn(|_| Counter::default()),
            forwarded: Counter::default(),
            resets: Counter::default(),
            unreachables: Counter::default(),
            too_bigs: Counter::default(),
            fragmented: Counter::default(),
            client_address_withheld: Counter::default(),
            own_resets: Counter::default(),
            own_resets_withheld: Counter::default(),
            checksums_offloaded: Counter::default(),
            checksums_summed: Counter::default(),
            decapsulated: Counter::default(),
            punted: Counter::default(),
            steered: Counter::default(),
            steered_in: Counter::default(),
            from_slow_path: Counter::default(),
            evicted: Counter::default(),
            expired: Counter::default(),
            deleted: Counter::default(),
            purged: Counter::default(),
            table_used: Counter::default(),
            templates_used: Counter::default(),
            templates_full: Counter::default(),
            fragments_waiting: Counter::default(),
            icmp_errors: Counter::default(),
            turns: Counter::default(),
            idle_turns: Counter::default(),
            busy_ticks: Counter::default(),
            longest_turn_ticks: Counter::default(),
            revision: Counter::default(),
        }
    }
}

impl WorkerCounters {
    /// The counters of a port. Indices are below the table's size, which is a power of two: the mask spares a check.
    #[inline(always)]
    pub fn port(&self, port: PortIndex) -> &PortCounters {
        &self.ports[port.as_usize() & (PORTS_MAX - 1)]
    }

    /// The counters of a service.
    #[inline(always)]
    pub fn service(&self, service: ServiceIndex) -> &ServiceCounters {
        &self.services[service.as_usize() & (SERVICES_MAX - 1)]
    }

    /// The counters of a backend.
    #[inline(always)]
    pub fn backend(&self, backend: BackendIndex) -> &BackendCounters {
        &self.backends[backend.as_usize() & (BACKENDS_MAX - 1)]
    }

    /// A connection to the backend was made.
    pub fn count_opened(&self, backend: BackendIndex, is_active: bool) {
        let row = self.backend(backend);
        row.opened.add(1);
        row.active.add(u64::from(is_active));
        self.load_word(backend).add(1 + u64::from(is_active) * ACTIVE);
    }

    /// A connection to the backend was forgotten.
    pub fn count_closed(&self, backend: BackendIndex, is_active: bool) {
        let row = self.backend(backend);
        row.closed.add(1);
        row.active.subtract(u64::from(is_active));
        self.load_word(backend).subtract(1 + u64::from(is_active) * ACTIVE);
    }

    /// A connection to the backend goes on, as one that is active, or no longer is.
    pub fn count_active(&self, backend: BackendIndex, is_active: bool) {
        if is_active {
            self.backend(backend).active.add(1);
            self.load_word(backend).add(ACTIVE);
        } else {
            self.backend(backend).active.subtract(1);
            self.load_word(backend).subtract(ACTIVE);
        }
    }

    /// What the worker's connections are to the backend.
    #[inline(always)]
    pub fn load(&self, backend: BackendIndex) -> Load {
        let word = self.load_word(backend).value();
        let (active, held) = ((word >> 32) as u32, word as u32);
        Load { active, inactive: held.saturating_sub(active) }
    }

    #[inline(always)]
    fn load_word(&self, backend: BackendIndex) -> &Counter {
        &self.loads[backend.as_usize() & (BACKENDS_MAX - 1)]
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// All drops.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().map(Counter::value).sum()
    }
}
