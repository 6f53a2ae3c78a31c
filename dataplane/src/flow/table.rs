//! The table: buckets of tags and indices over a slab of entries, and what gives way when there is no room.
//!
//! Shape: `Buckets`, and 64 bytes an entry. Open connections may take as many entries as were asked for; one
//! thirty-second more is there for half-open ones, so that a table full of open connections still lets clients in.
//!
//! * A SYN costs its sender nothing, so it never takes an open connection's entry: where none is free it takes that of
//!   another half-open connection, and a flood of SYNs contends with itself alone.
//! * A connection that opens while others hold all that is there for open ones takes of the reserve, and the hand
//!   that sweeps ([`super::expiry`]) evicts idle ones between the bursts.
//! * Any other newcomer (a datagram) evicts the idlest connection within reach of a second hand at once.
//!
//! What saw a packet within `IDLE_MIN_MS` is not evicted: then the newcomer is refused.

use std::io;

use arrayvec::ArrayVec;
use cpu::{Backing, HugeSlice, prefetch_write};

use super::buckets::Buckets;
use super::entry::Entry;
use super::half_open::HalfOpen;
use super::key::{FlowHash, FlowKey, HashSecret};
use super::slab::Slab;
use super::tcp_state::TcpState;
use crate::index::EntryIndex;
use crate::time::Millis;

/// What is there for half-open connections beyond the entries asked for: one in so many. A larger reserve gives them
/// longer to open under a flood, and costs every connection bytes.
const RESERVE_DIVISOR: u32 = 32;
/// Entries looked at for the idlest.
const EVICTION_REACH: u32 = 16;
/// How often that is tried for one newcomer, where all in reach are busy or half-open.
const REACHES: u32 = 4;
/// A connection that saw a packet this recently is not evicted for a new one.
pub(super) const IDLE_MIN_MS: u32 = 1_000;
/// Connections one newcomer may push out: one for its local port, two for its entries, and one a bucket.
const EVICTED_MAX: usize = 5;

/// Connections that were pushed out, by their first entry; the caller settles their accounts.
pub type Evicted = ArrayVec<Entry, EVICTED_MAX>;

/// No room, and nothing in reach may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// The flow table of one worker.
pub struct FlowTable {
    buckets: Buckets,
    entries: HugeSlice<Entry>,
    slab: Slab,
    half_open: HalfOpen,
    /// Entries that half-open connections take.
    half_open_entries: u32,
    /// Where the next idle connection to give way at once is looked for.
    idle_hand: u32,
    /// Entries that open connections may take.
    capacity: u32,
    secret: HashSecret,
    moved: u64,
}

impl FlowTable {
    /// A table for `capacity` entries of open connections (a DR connection takes one, a FullNAT connection two), all
    /// memory taken and touched now.
    ///
    /// # Errors
    /// When the memory cannot be had as `backing` asks.
    pub fn new(capacity: u32, backing: Backing, secret: HashSecret) -> io::Result<Self> {
        let capacity = capacity.next_multiple_of(2).max(2);
        let entry_count = entries_for(capacity);
        Ok(Self {
            buckets: Buckets::new(entry_count as usize, backing)?,
            entries: HugeSlice::filled(entry_count as usize, Entry::default(), backing)?,
            slab: Slab::new(entry_count),
            half_open: HalfOpen::new(entry_count, backing)?,
            half_open_entries: 0,
            idle_hand: 0,
            capacity,
            secret,
            moved: 0,
        })
    }

    /// The memory of a table for `capacity` entries of open connections, in bytes.
    pub const fn bytes_for(capacity: u32) -> usize {
        let entries = entries_for(capacity) as usize;
        entries * size_of::<Entry>() + Buckets::bytes_for(entries) + HalfOpen::bytes_for(entries)
    }

    /// Entries in use.
    pub fn used(&self) -> u32 {
        self.slab.used()
    }

    /// Counts entries that were moved or evicted: whoever holds an index from before a change looks it up again.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Entries that open connections may take.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Entries there are: `capacity`, and the reserve for half-open connections.
    pub fn entry_count(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Entries that half-open connections take.
    pub fn half_open(&self) -> u32 {
        self.half_open_entries
    }

    /// Entries that open connections take beyond their part: so many have to be evicted between bursts.
    pub(super) fn excess(&self) -> u32 {
        self.open().saturating_sub(self.capacity)
    }

    /// Entries that open connections take.
    fn open(&self) -> u32 {
        self.slab.used() - self.half_open_entries
    }

    /// No entry at or after this index was ever used.
    pub(super) fn used_end(&self) -> u32 {
        self.slab.used_end()
    }

    /// Where the memory came from: huge pages or plain.
    pub fn backing(&self) -> Backing {
        self.entries.backing()
    }

    /// The hash of `key`.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        self.secret.hash(key)
    }

    /// Brings the first bucket of `hash` towards the cache.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        self.buckets.prefetch(hash);
    }

    /// The entry that probably holds `hash`, by its tag in the first bucket alone; its line is on the way
    /// to the cache when this returns. [`Self::confirm`] tells for sure.
    #[inline(always)]
    pub fn candidate(&self, hash: FlowHash) -> EntryIndex {
        let index = self.buckets.candidate(hash);
        if let Some(entry) = self.entries.get(index.as_usize()) {
            prefetch_write(entry);
        }
        index
    }

    /// The entry of `key`, given its likely place.
    #[inline(always)]
    pub fn confirm(&self, candidate: EntryIndex, hash: FlowHash, key: &FlowKey) -> EntryIndex {
        match self.entries.get(candidate.as_usize()) {
            Some(entry) if entry.has_key(key) => candidate,
            _ => self.find(hash, key),
        }
    }

    /// The entry of `key`, or [`EntryIndex::NONE`]: both buckets, every tag that matches.
    #[inline(never)]
    pub fn find(&self, hash: FlowHash, key: &FlowKey) -> EntryIndex {
        let has_key =
            |index: EntryIndex| self.entries.get(index.as_usize()).is_some_and(|entry| entry.has_key(key));
        self.buckets.find(hash, has_key)
    }

    /// The entry that lookup or admit told, without asking whether it is in use.
    #[inline(always)]
    pub fn entry_known(&mut self, index: EntryIndex) -> Option<&mut Entry> {
        self.entries.get_mut(index.as_usize())
    }

    /// An entry in use.
    #[inline(always)]
    pub fn entry(&self, index: EntryIndex) -> Option<&Entry> {
        self.entries.get(index.as_usize()).filter(|entry| entry.is_used())
    }

    /// An entry in use, to change; key and hash must stay, and the state is changed by [`Self::set_state`].
    #[inline(always)]
    pub fn entry_mut(&mut self, index: EntryIndex) -> Option<&mut Entry> {
        self.entries.get_mut(index.as_usize()).filter(|entry| entry.is_used())
    }

    /// Moves the connection of `index` to `state`, in both entries of a pair; from now on it is forgotten after
    /// `timeout_ms` without a packet.
    pub fn set_state(&mut self, index: EntryIndex, state: TcpState, timeout_ms: u32) {
        let Some((before, paired)) = self.entry(index).map(|entry| (entry.state, entry.is_paired())) else {
            return;
        };
        let first = if paired { EntryIndex(index.0 & !1) } else { index };
        for index in [first, if paired { first.peer() } else { first }] {
            if let Some(entry) = self.entry_mut(index) {
                entry.state = state;
                entry.set_timeout_ms(timeout_ms);
                entry.watch = entry.watch.in_state(state);
            }
        }
        if before.is_half_open() != state.is_half_open() {
            self.note_half_open(first, paired, state.is_half_open());
        }
    }

    /// Notes that the connection at `first` is half-open, or is no longer.
    fn note_half_open(&mut self, first: EntryIndex, paired: bool, is_half_open: bool) {
        let entries = if paired { 2 } else { 1 };
        if is_half_open {
            self.half_open.insert(first);
            self.half_open_entries += entries;
        } else if self.half_open.remove(first).is_some() {
            self.half_open_entries -= entries;
        }
    }

    /// Adds a one-way connection. Its key must not be in the table.
    ///
    /// # Errors
    /// [`TableFull`] when nothing in reach may be evicted.
    pub fn insert(
        &mut self,
        entry: Entry,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<EntryIndex, TableFull> {
        debug_assert!(entry.is_used() && !entry.is_paired());
        self.make_way(1, entry.state, now, evicted)?;
        let index = self.slab.take_single(&mut self.entries).ok_or(TableFull)?;
        let hash = self.hash(&entry.key());
        if self.fill(index, entry, hash, now, evicted).is_err() {
            self.slab.give_single(&mut self.entries, index);
            return Err(TableFull);
        }
        if entry.state.is_half_open() {
            self.note_half_open(index, false, true);
        }
        Ok(index)
    }

    /// Adds a connection rewritten both ways: the client's flow at the index returned, the backend's at its
    /// peer. Neither key may be in the table.
    ///
    /// # Errors
    /// [`TableFull`] when nothing in reach may be evicted.
    pub fn insert_pair(
        &mut self,
        forward: Entry,
        back: Entry,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<EntryIndex, TableFull> {
        debug_assert!(forward.is_paired() && back.is_paired());
        self.make_way(2, forward.state, now, evicted)?;
        let index = self.take_pair().ok_or(TableFull)?;
        let (forward_hash, back_hash) = (self.hash(&forward.key()), self.hash(&back.key()));
        if self.fill(index, forward, forward_hash, now, evicted).is_err() {
            self.slab.give_pair(&mut self.entries, index);
            return Err(TableFull);
        }
        if self.fill(index.peer(), back, back_hash, now, evicted).is_err() {
            self.buckets.take_out(forward_hash, index);
            self.slab.give_pair(&mut self.entries, index);
            return Err(TableFull);
        }
        if forward.state.is_half_open() {
            self.note_half_open(index, true, true);
        }
        Ok(index)
    }

    /// Two of the entries that [`Self::make_way`] found free, side by side: where there are only scattered single ones, a
    /// one-way connection moves from one to another.
    fn take_pair(&mut self) -> Option<EntryIndex> {
        self.slab.take_pair(&mut self.entries).or_else(|| self.make_pair())
    }

    /// Makes a pair of two free single entries: the one-way connection beside the one moves to the other.
    ///
    /// It moves up, always: of two holes in different pairs the neighbour of the lower one moves to the higher one. So
    /// whoever goes through the table from the bottom up ([`super::walk`]) misses no connection.
    fn make_pair(&mut self) -> Option<EntryIndex> {
        let one = self.slab.take_single(&mut self.entries)?;
        let other = self.slab.take_single(&mut self.entries)?;
        let (hole, target) = (one.min(other), one.max(other));
        let moving = *self.entry(hole.peer())?;
        debug_assert!(!moving.is_paired() && hole.peer() < target);
        self.moved += 1;
        self.buckets.rename(self.hash(&moving.key()), hole.peer(), target);
        self.half_open.rename(hole.peer(), target);
        if let Some(line) = self.entries.get_mut(target.as_usize()) {
            *line = moving;
        }
        if let Some(line) = self.entries.get_mut(hole.peer().as_usize()) {
            *line = Entry::default();
        }
        Some(EntryIndex(hole.0 & !1))
    }

    /// Forgets the connection that `index` belongs to; returns its first entry as it was.
    pub fn remove(&mut self, index: EntryIndex) -> Option<Entry> {
        let paired = self.entry(index)?.is_paired();
        let first = if paired { EntryIndex(index.0 & !1) } else { index };
        let entry = *self.entry(first)?;
        self.moved += 1;
        if entry.state.is_half_open() {
            self.note_half_open(first, paired, false);
        }
        self.buckets.take_out(self.hash(&entry.key()), first);
        if paired {
            if let Some(back) = self.entry(first.peer()).map(|back| self.hash(&back.key())) {
                self.buckets.take_out(back, first.peer());
            }
            self.slab.give_pair(&mut self.entries, first);
        } else {
            self.slab.give_single(&mut self.entries, first);
        }
        Some(entry)
    }

    /// Brings what [`Self::remove`] will touch towards the cache.
    pub(super) fn prefetch_removal(&self, index: EntryIndex) {
        let Some(entry) = self.entry(index) else { return };
        self.buckets.prefetch(self.hash(&entry.key()));
        if let Some(peer) = self.entry(index.peer()).filter(|_| entry.is_paired()) {
            self.buckets.prefetch(self.hash(&peer.key()));
        }
    }

    /// When the last packet of the connection passed, either way.
    pub fn last_seen(&self, index: EntryIndex) -> Millis {
        let Some(entry) = self.entry(index) else { return Millis(0) };
        match self.entry(index.peer()) {
            Some(peer) if entry.is_paired() => entry.last_seen.later(peer.last_seen),
            _ => entry.last_seen,
        }
    }

    /// Writes `entry` to its line and its item to a bucket.
    fn fill(
        &mut self,
        index: EntryIndex,
        entry: Entry,
        hash: FlowHash,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<(), TableFull> {
        if !self.buckets.place(hash, index) {
            // The pair's other flow may have just taken its place here: it must not go for this one.
            let spared = if entry.is_paired() { index.peer() } else { EntryIndex::NONE };
            self.evict_from_buckets((&entry, hash), spared, now, evicted)?;
            if !self.buckets.place(hash, index) {
                return Err(TableFull);
            }
        }
        if let Some(line) = self.entries.get_mut(index.as_usize()) {
            *line = entry;
        }
        Ok(())
    }

    /// Sees to it that `needed` entries are free for a newcomer in this state, by evictions if need be.
    fn make_way(
        &mut self,
        needed: u32,
        newcomer: TcpState,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<(), TableFull> {
        let is_half_open = newcomer.is_half_open();
        // Each eviction frees an entry or two: after two there are two.
        for _ in 0..=2 {
            let victim = if !is_half_open && self.open() + needed > self.capacity {
                self.idlest_in_reach(now)
            } else if self.entry_count() - self.slab.used() < needed {
                self.half_open.oldest()
            } else {
                return Ok(());
            };
            evicted.extend(self.remove(victim.ok_or(TableFull)?));
        }
        Err(TableFull)
    }

    /// The idlest connection among the next entries under the hand; where all of them are busy, or half-open, among those
    /// after them.
    fn idlest_in_reach(&mut self, now: Millis) -> Option<EntryIndex> {
        (0..REACHES).find_map(|_| {
            let (end, start) = (self.used_end(), self.idle_hand);
            let reach = EVICTION_REACH.min(end);
            self.idle_hand = (start + reach).checked_rem(end)?;
            self.idlest((0..reach).map(|step| EntryIndex((start + step) % end)), now)
        })
    }

    /// Evicts one connection that has an item in either bucket of `newcomer`, but not that of `spared`.
    fn evict_from_buckets(
        &mut self,
        (newcomer, hash): (&Entry, FlowHash),
        spared: EntryIndex,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<(), TableFull> {
        let around = self.buckets.around(hash);
        let others = || around.into_iter().filter(|index| *index != spared);
        let is_half_open =
            |index: &EntryIndex| self.entry(*index).is_some_and(|entry| entry.state.is_half_open());
        let victim = match others().find(is_half_open) {
            None if newcomer.state.is_half_open() => None,
            None => self.idlest(others(), now),
            half_open => half_open,
        };
        evicted.extend(self.remove(victim.ok_or(TableFull)?));
        Ok(())
    }

    /// The idlest open connection of those that were idle long enough.
    fn idlest(&self, among: impl Iterator<Item = EntryIndex>, now: Millis) -> Option<EntryIndex> {
        let mut idlest = None;
        let mut idle_ms = IDLE_MIN_MS;
        for index in among {
            if self.entry(index).is_none_or(|entry| entry.state.is_half_open()) {
                continue;
            }
            let since_ms = now.since(self.last_seen(index));
            if since_ms >= idle_ms {
                (idlest, idle_ms) = (Some(index), since_ms);
            }
        }
        idlest
    }
}

/// Entries of a table for `capacity` entries of open connections: those and the reserve, an even number.
const fn entries_for(capacity: u32) -> u32 {
    capacity.saturating_add(capacity / RESERVE_DIVISOR).saturating_add(1) & !1
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::Rewrite;
    use crate::flow::tcp_state::TcpState;
    use crate::index::BackendIndex;

    const SECRET: HashSecret = HashSecret::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

    fn key(number: u32) -> FlowKey {
        let client = Ipv4Addr::from(0x0a00_0000 + number);
        FlowKey::new((client, number as u16), (Ipv4Addr::new(203, 0, 113, 1), 80), 6)
    }

    fn entry(number: u32, rewrite: Rewrite, state: TcpState, seen: Millis) -> Entry {
        let mut entry = Entry::new(&key(number), rewrite, BackendIndex(0));
        (entry.state, entry.last_seen) = (state, seen);
        entry
    }

    fn lookup(table: &FlowTable, number: u32) -> EntryIndex {
        let key = key(number);
        let hash = table.hash(&key);
        let index = table.confirm(table.candidate(hash), hash, &key);
        assert_eq!(index, table.find(hash, &key));
        index
    }

    #[test]
    fn every_entry_of_a_table_can_be_filled_without_an_eviction() {
        let mut table = FlowTable::new(100_000, Backing::Plain, SECRET).unwrap();
        let mut evicted = Evicted::new();
        for number in 0..100_000 {
            let entry = entry(number, Rewrite::Dr, TcpState::Established, Millis(0));
            table.insert(entry, Millis(0), &mut evicted).unwrap_or_else(|_| panic!("full at {number}"));
        }
        assert!(evicted.is_empty());
        assert_eq!((table.used(), table.capacity()), (100_000, 100_000));
        assert!((0..100_000).all(|number| lookup(&table, number) != EntryIndex::NONE));
        assert!((100_000..200_000).all(|number| lookup(&table, number) == EntryIndex::NONE));
    }

    /// A table without a free entry: open connections but for these, which are half-open, and the reserve.
    fn full(capacity: u32, half_open: &[u32], seen: impl Fn(u32) -> Millis) -> FlowTable {
        let mut table = FlowTable::new(capacity, Backing::Plain, SECRET).unwrap();
        for number in 0..table.entry_count() {
            let entry = entry(number, Rewrite::Dr, TcpState::SynRecv, seen(number));
            let index = table.insert(entry, seen(number), &mut Evicted::new()).unwrap();
            if !half_open.contains(&number) {
                table.set_state(index, TcpState::Established, 900_000);
            }
        }
        table
    }

    #[test]
    fn a_full_table_evicts_half_open_connections_first_then_the_idlest_and_never_a_busy_one() {
        let mut table = full(64, &[40, 50, 60], |number| Millis(if number == 7 { 1_000 } else { 9_500 }));
        let (now, mut evicted) = (Millis(10_000), Evicted::new());
        for (newcomer, gone) in [(100, 40), (101, 7)] {
            let entry = entry(newcomer, Rewrite::Dr, TcpState::Established, now);
            table.insert(entry, now, &mut evicted).unwrap();
            assert_eq!(evicted.pop().map(|entry| entry.key()), Some(key(gone)));
            assert_eq!(lookup(&table, gone), EntryIndex::NONE);
        }
        let entry = entry(102, Rewrite::Dr, TcpState::Established, now);
        assert_eq!(table.insert(entry, now, &mut evicted), Err(TableFull));
        assert_eq!(table.used(), table.entry_count());
    }

    #[test]
    fn a_syn_evicts_the_oldest_syn_and_never_an_open_connection_however_idle() {
        let mut table = full(1_000, &[17, 400, 800], |_| Millis(0));
        let (now, mut evicted) = (Millis(800_000), Evicted::new());
        let mut expected = std::collections::VecDeque::from([17, 400, 800]);
        for newcomer in 2_000..3_000 {
            let entry = entry(newcomer, Rewrite::Dr, TcpState::SynRecv, now);
            table.insert(entry, now, &mut evicted).unwrap();
            assert_eq!(evicted.pop().map(|entry| entry.key()), expected.pop_front().map(key));
            expected.push_back(newcomer);
        }
        // They open: now there is nothing left that a SYN may take.
        for number in expected {
            let index = lookup(&table, number);
            table.set_state(index, TcpState::Established, 900_000);
        }
        assert_eq!(table.half_open(), 0);
        let entry = entry(9_000, Rewrite::Dr, TcpState::SynRecv, now);
        assert_eq!(table.insert(entry, now, &mut evicted), Err(TableFull));
        assert_eq!(table.excess(), table.entry_count() - table.capacity());
    }

    /// The first entry from `number` on that can only lie in `bucket`.
    fn pinned(table: &FlowTable, bucket: usize, rewrite: Rewrite, number: u32) -> Entry {
        let entries = (number..).map(|number| entry(number, rewrite, TcpState::SynRecv, Millis(0)));
        let lies_there = |entry: &Entry| table.buckets.places(table.hash(&entry.key())) == [bucket; 2];
        entries.into_iter().find(lies_there).unwrap()
    }

    #[test]
    fn a_new_pair_whose_flows_share_a_full_bucket_does_not_evict_itself() {
        let mut table = FlowTable::new(40, Backing::Plain, SECRET).unwrap();
        let mut evicted = Evicted::new();
        for number in 0..9 {
            let backs_bucket = if number < 8 { 1 } else { 0 };
            let forward = pinned(&table, 0, Rewrite::FullnatToBackend, number * 1_000_000);
            let back = pinned(&table, backs_bucket, Rewrite::FullnatToClient, number * 1_000_000 + 500_000);
            let index = table.insert_pair(forward, back, Millis(0), &mut evicted).unwrap();
            assert!(evicted.iter().all(|gone| gone.key() != forward.key()));
            assert_eq!(table.find(table.hash(&forward.key()), &forward.key()), index);
            assert_eq!(table.find(table.hash(&back.key()), &back.key()), index.peer());
        }
        assert_eq!((evicted.len(), table.used()), (2, 14), "a place for each of its flows");
        assert_eq!(table.buckets.items_and_bytes().0, 14, "no item is left behind");
    }

    #[test]
    fn a_connection_takes_at_most_80_bytes_one_way_and_160_both_ways() {
        for capacity in [1 << 20, 20_000_000] {
            assert!(FlowTable::bytes_for(capacity) <= 80 * capacity as usize, "two entries for both ways");
        }
        let table = FlowTable::new(1 << 16, Backing::Plain, SECRET).unwrap();
        let bytes =
            size_of_val(&*table.entries) + table.buckets.items_and_bytes().1 + table.half_open.bytes();
        assert_eq!(bytes, FlowTable::bytes_for(1 << 16));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u32..60, 0u8..4), 1..300)) {
            let mut table = FlowTable::new(64, Backing::Plain, SECRET).unwrap();
            // Which connections there are, and whether they have two entries; where they lie may change.
            let mut model: HashMap<u32, bool> = HashMap::new();
            let mut evicted = Evicted::new();
            for (number, step) in steps {
                let known = model.get(&number).copied();
                match (step, known) {
                    (0, None) => {
                        let entry = entry(number, Rewrite::Dr, TcpState::Established, Millis(0));
                        if table.insert(entry, Millis(0), &mut evicted).is_ok() {
                            model.insert(number, false);
                        }
                    }
                    (1, None) => {
                        let forward = entry(number, Rewrite::FullnatToBackend, TcpState::Established, Millis(0));
                        let back = entry(number + 1_000, Rewrite::FullnatToClient, TcpState::Established, Millis(0));
                        let free = table.entry_count() - table.used();
                        let made = table.insert_pair(forward, back, Millis(0), &mut evicted).is_ok();
                        prop_assert!(made || free < 2 || table.used() > 50, "two free entries are a pair, wherever they lie");
                        if made {
                            model.insert(number, true);
                        }
                    }
                    (2, Some(paired)) => {
                        let index = lookup(&table, number);
                        let from = if paired && number % 2 == 0 { index.peer() } else { index };
                        prop_assert_eq!(table.remove(from).unwrap().key(), key(number));
                        model.remove(&number);
                    }
                    (3, Some(paired)) => {
                        let index = lookup(&table, number);
                        let from = if paired && number % 2 == 0 { index.peer() } else { index };
                        let half_open = table.entry(from).is_some_and(|entry| entry.state.is_half_open());
                        let state = if half_open { TcpState::Established } else { TcpState::SynRecv };
                        table.set_state(from, state, 1);
                    }
                    _ => {}
                }
                for gone in evicted.drain(..) {
                    prop_assert!(gone.state.is_half_open());
                    model.remove(&u32::from(gone.key().ports.source()));
                }
                for number in 0..60 {
                    let index = lookup(&table, number);
                    prop_assert_eq!(index != EntryIndex::NONE, model.contains_key(&number));
                    let back = lookup(&table, number + 1_000);
                    let paired = model.get(&number) == Some(&true);
                    prop_assert_eq!(back, if paired { index.peer() } else { EntryIndex::NONE });
                }
                let half_open = (0..1_060).filter(|number| {
                    let entry = table.entry(lookup(&table, *number));
                    entry.is_some_and(|entry| entry.state.is_half_open())
                });
                prop_assert_eq!(table.half_open() as usize, half_open.count());
                prop_assert_eq!(table.half_open() == 0, table.half_open.oldest().is_none());
                let entries: usize = model.values().map(|paired| if *paired { 2 } else { 1 }).sum();
                prop_assert_eq!(table.used() as usize, entries);
                prop_assert_eq!(table.buckets.items_and_bytes().0, entries);
            }
        }
    }
}
