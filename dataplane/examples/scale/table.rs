//! Insert, lookup and removal at 10, 50, 75 and 90 % of the places taken: four tables of one size side by side, measured in
//! turns, so that what else the machine does hits them alike.

use std::net::Ipv4Addr;

use cpu::Backing;
use dataplane::flow::table::Evicted;
use dataplane::flow::tcp_state::TcpState;
use dataplane::flow::{Entry, FlowKey, FlowTable, Rewrite};
use dataplane::index::{BackendIndex, EntryIndex};
use dataplane::time::Millis;

use crate::common::director::SECRET;
use crate::{Mix, cpu_ns, resident_bytes};

/// Places taken of a hundred; at 90 every entry is in use.
pub(crate) const FILLS: [u32; 4] = [10, 50, 75, 90];
/// Operations between two readings of the clock.
const BATCH: usize = 8_192;
const ROUNDS: usize = 60;
/// Packets whose lookups overlap, as in the line.
const BURST: usize = 32;

/// A table and the connections in it.
pub(crate) struct Filled {
    pub(crate) table: FlowTable,
    pub(crate) indices: Vec<EntryIndex>,
    next: u32,
}

impl Filled {
    /// Pairs in `fill` of a hundred places of a table for `capacity` entries.
    pub(crate) fn new(capacity: u32, fill: u32) -> Self {
        let table = FlowTable::new(capacity, Backing::Auto, SECRET).expect("memory for the table");
        let pairs = u64::from(table.entry_count()) * u64::from(fill) / 180;
        let mut filled = Self { table, indices: Vec::with_capacity(pairs as usize), next: 0 };
        (0..pairs).for_each(|_| filled.insert());
        filled
    }

    fn insert(&mut self) {
        let forward = entry(&client_key(self.next), Rewrite::FullnatToBackend);
        let back = entry(&backend_key(self.next), Rewrite::FullnatToClient);
        self.next += 1;
        let mut evicted = Evicted::new();
        let index = self.table.insert_pair(forward, back, Millis(0), &mut evicted).expect("there is room");
        assert!(evicted.is_empty());
        // The reserve takes half-open connections alone: these do not open.
        self.indices.push(index);
    }

    pub(crate) fn inserts(&mut self, count: usize) {
        (0..count).for_each(|_| self.insert());
    }

    /// Looks connections up as the line does, by bursts; how many were found.
    pub(crate) fn lookups(&self, keys: &[FlowKey]) -> usize {
        let mut found = 0;
        for burst in keys.chunks(BURST) {
            let mut places = [(self.table.hash(&FlowKey::NONE), EntryIndex::NONE); BURST];
            for (key, place) in burst.iter().zip(&mut places) {
                place.0 = self.table.hash(key);
                self.table.prefetch(place.0);
            }
            for (hash, candidate) in &mut places[..burst.len()] {
                *candidate = self.table.candidate(*hash);
            }
            for (key, (hash, candidate)) in burst.iter().zip(places) {
                found += usize::from(self.table.confirm(candidate, hash, key) != EntryIndex::NONE);
            }
        }
        found
    }

    pub(crate) fn removals(&mut self, indices: &[EntryIndex]) {
        for index in indices {
            self.table.remove(*index).expect("it is there");
        }
    }

    /// Keys of connections that are in the table, chosen at random.
    pub(crate) fn some_keys(&self, mix: &mut Mix, count: usize) -> Vec<FlowKey> {
        let some = |_| self.indices[(mix.next() % self.indices.len() as u64) as usize];
        (0..count).map(some).map(|index| self.table.entry(index).expect("it is there").key()).collect()
    }

    /// Keys of no connection.
    pub(crate) fn other_keys(&self, count: usize) -> Vec<FlowKey> {
        (0..count as u32).map(|number| client_key(u32::MAX - number)).collect()
    }

    /// Connections chosen at random, taken off the list of those in the table.
    pub(crate) fn pick(&mut self, mix: &mut Mix, count: usize) -> Vec<EntryIndex> {
        let pick = |_| {
            let at = (mix.next() % self.indices.len() as u64) as usize;
            self.indices.swap_remove(at)
        };
        (0..count).map(pick).collect()
    }
}

fn entry(key: &FlowKey, rewrite: Rewrite) -> Entry {
    let mut entry = Entry::new(key, rewrite, BackendIndex(0));
    entry.state = TcpState::SynRecv;
    entry.set_timeout_ms(60_000);
    entry
}

fn client_key(number: u32) -> FlowKey {
    let client = Mix(u64::from(number)).next();
    let source = (Ipv4Addr::from(client as u32), (client >> 32) as u16);
    FlowKey::new(source, (Ipv4Addr::new(203, 0, 113, 10), 80), 6)
}

fn backend_key(number: u32) -> FlowKey {
    let backend = Ipv4Addr::from(0x0a01_0000 + number % 200);
    let local = (Ipv4Addr::from(0x0a02_0000 + number / 200 / 60_000), 1_024 + (number / 200 % 60_000) as u16);
    FlowKey::new((backend, 8_080), local, 6)
}

/// Nanoseconds an operation: insert, hit, miss, removal.
type Costs = [f64; 4];

fn round(filled: &mut Filled, mix: &mut Mix) -> Costs {
    let (hits, misses) = (filled.some_keys(mix, BATCH), filled.other_keys(BATCH));
    let leaving = filled.pick(mix, BATCH);
    let removal = timed(|| filled.removals(&leaving));
    let insert = timed(|| filled.inserts(BATCH));
    let mut found = [0; 2];
    let hit = timed(|| found[0] = filled.lookups(&hits));
    let miss = timed(|| found[1] = filled.lookups(&misses));
    // Some of the first were removed meanwhile.
    assert!(found[0] > 0 && found[1] == 0);
    [insert, hit, miss, removal]
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu_ns();
    work();
    (cpu_ns() - start) as f64 / BATCH as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn run(capacity: u32) {
    let before = resident_bytes();
    let mut tables = FILLS.map(|fill| Filled::new(capacity, fill));
    let lists: usize = tables.iter().map(|filled| filled.indices.capacity() * 4).sum();
    let taken = resident_bytes() - before - lists as u64;
    let bytes = taken as f64 / FILLS.len() as f64 / f64::from(capacity);
    println!(
        "{bytes:.1} bytes a one-way connection, {:.1} both ways, of open ones, reserve included",
        2.0 * bytes
    );
    let mut mix = Mix(1);
    let mut costs = [const { Vec::new() }; FILLS.len()];
    for _ in 0..ROUNDS {
        for (filled, costs) in tables.iter_mut().zip(&mut costs) {
            costs.push(round(filled, &mut mix));
        }
    }
    println!(
        "{:>6} {:>16} {:>16} {:>16} {:>16}",
        "fill", "insert a pair", "lookup, hit", "lookup, miss", "remove a pair"
    );
    for (fill, costs_here) in FILLS.iter().zip(&costs) {
        let cells: String = (0..4)
            .map(|operation| {
                let here = median(costs_here.iter().map(|costs| costs[operation]).collect());
                // Against the table next to empty in the same round.
                let ratio = median(
                    (costs_here.iter().zip(&costs[0]))
                        .map(|(here, first)| here[operation] / first[operation])
                        .collect(),
                );
                format!(" {here:>6.0} ns  x {ratio:.2}")
            })
            .collect();
        println!("{fill:>5}%{cells}");
    }
}
