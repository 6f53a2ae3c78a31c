//! The table: buckets of tags and indices over a slab of entries.
//!
//! Shape: `buckets` x 64 bytes (eight 16-bit tags, eight 32-bit indices) and `capacity` x 64 bytes of
//! entries. A key has two candidate buckets (cuckoo hashing, Pagh and Rodler 2004; the second follows from
//! the first and the tag, so an item moves without its key: Fan et al., "Cuckoo Filter", 2014). Inserting
//! prefers the first, then the second, then moves one or two items out of the way: work is bounded. Eight
//! items a bucket; when every entry is in use, 90 % of the items are.
//!
//! When there is no room, connections that never opened go first, then the idlest within reach of a clock
//! hand; one that moved within `IDLE_MIN_MS` is never evicted for a newcomer.

use std::io;

use arrayvec::ArrayVec;
use cpu::{Backing, HugeSlice, match_tags, prefetch_read, prefetch_write};

use super::entry::Entry;
use super::key::{FlowHash, FlowKey, HashSecret};
use super::slab::Slab;
use crate::index::EntryIndex;
use crate::time::Millis;

/// Items in a bucket: as many 16-bit tags as one 128-bit compare takes.
const BUCKET_ITEMS: usize = 8;
/// Items moved for one insertion at most.
const MOVES_MAX: u32 = 2;
/// Entries looked at for one eviction.
const EVICTION_REACH: u32 = 64;
/// A connection that saw a packet this recently is not evicted for a new one.
const IDLE_MIN_MS: u32 = 1_000;
/// Connections one newcomer may push out: one for its local port, two for its entries, and one a bucket.
const EVICTED_MAX: usize = 5;

/// Connections that were pushed out, by their first entry; the caller settles their accounts.
pub type Evicted = ArrayVec<Entry, EVICTED_MAX>;

/// No room, and nothing in reach may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 is a free place.
    tags: [u16; BUCKET_ITEMS],
    entries: [EntryIndex; BUCKET_ITEMS],
    spare: [u32; 4],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

const EMPTY: Bucket =
    Bucket { tags: [0; BUCKET_ITEMS], entries: [EntryIndex::NONE; BUCKET_ITEMS], spare: [0; 4] };

/// The flow table of one worker.
pub struct FlowTable {
    buckets: HugeSlice<Bucket>,
    entries: HugeSlice<Entry>,
    slab: Slab,
    secret: HashSecret,
    clock: u32,
    moved: u64,
}

impl FlowTable {
    /// A table for `capacity` entries (a DR connection takes one, a FullNAT connection two), all memory
    /// taken and touched now.
    ///
    /// # Errors
    /// When the memory cannot be had as `backing` asks.
    pub fn new(capacity: u32, backing: Backing, secret: HashSecret) -> io::Result<Self> {
        let capacity = capacity.next_multiple_of(2).max(2);
        // Nine slots out of ten used when every entry is.
        let bucket_count = (capacity as usize * 10).div_ceil(9 * BUCKET_ITEMS).max(2);
        Ok(Self {
            buckets: HugeSlice::filled(bucket_count, EMPTY, backing)?,
            entries: HugeSlice::filled(capacity as usize, Entry::default(), backing)?,
            slab: Slab::new(capacity),
            secret,
            clock: 0,
            moved: 0,
        })
    }

    /// Entries in use.
    pub fn used(&self) -> u32 {
        self.slab.used()
    }

    /// Counts entries that were moved or evicted: whoever holds an index from before a change looks it up again.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Entries there are.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
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
        if let Some(bucket) = self.buckets.get(self.first_bucket(hash)) {
            prefetch_read(bucket);
        }
    }

    /// The entry that probably holds `hash`, by its tag in the first bucket alone; its line is on the way
    /// to the cache when this returns. [`Self::confirm`] tells for sure.
    #[inline(always)]
    pub fn candidate(&self, hash: FlowHash) -> EntryIndex {
        let first = self.first_bucket(hash);
        let Some(bucket) = self.buckets.get(first) else { return EntryIndex::NONE };
        let matches = match_tags(&bucket.tags, tag_of(hash));
        if matches == 0 {
            if let Some(second) = self.buckets.get(self.other_bucket(first, tag_of(hash))) {
                prefetch_read(second);
            }
            return EntryIndex::NONE;
        }
        let index = bucket.entries[matches.trailing_zeros() as usize % BUCKET_ITEMS];
        if let Some(entry) = self.entries.get(index.as_usize()) {
            prefetch_write(entry);
        }
        index
    }

    /// The entry of `key`, given its likely place.
    #[inline(always)]
    pub fn confirm(&self, candidate: EntryIndex, hash: FlowHash, key: &FlowKey) -> EntryIndex {
        match self.entries.get(candidate.as_usize()) {
            Some(entry) if entry.key == *key => candidate,
            _ => self.find(hash, key),
        }
    }

    /// The entry of `key`, or [`EntryIndex::NONE`]: both buckets, every tag that matches.
    #[inline(never)]
    pub fn find(&self, hash: FlowHash, key: &FlowKey) -> EntryIndex {
        let first = self.first_bucket(hash);
        for place in [first, self.other_bucket(first, tag_of(hash))] {
            let Some(bucket) = self.buckets.get(place) else { continue };
            let mut matches = match_tags(&bucket.tags, tag_of(hash));
            while matches != 0 {
                let index = bucket.entries[matches.trailing_zeros() as usize % BUCKET_ITEMS];
                if self.entries.get(index.as_usize()).is_some_and(|entry| entry.key == *key) {
                    return index;
                }
                matches &= matches - 1;
            }
        }
        EntryIndex::NONE
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

    /// An entry in use, to change; key and hash must stay.
    #[inline(always)]
    pub fn entry_mut(&mut self, index: EntryIndex) -> Option<&mut Entry> {
        self.entries.get_mut(index.as_usize()).filter(|entry| entry.is_used())
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
        if self.slab.used() == self.capacity() {
            self.evict_by_clock(now, evicted)?;
        }
        let index = self.slab.take_single(&mut self.entries).ok_or(TableFull)?;
        if self.fill(index, entry, now, evicted).is_err() {
            self.slab.give_single(&mut self.entries, index);
            return Err(TableFull);
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
        let index = self.take_pair(now, evicted)?;
        if self.fill(index, forward, now, evicted).is_err() {
            self.slab.give_pair(&mut self.entries, index);
            return Err(TableFull);
        }
        if self.fill(index.peer(), back, now, evicted).is_err() {
            self.unlink(index);
            self.slab.give_pair(&mut self.entries, index);
            return Err(TableFull);
        }
        Ok(index)
    }

    /// Two entries side by side. Where only scattered single ones are free, a one-way connection moves from one to
    /// another; where not even two are, connections are evicted for them.
    fn take_pair(&mut self, now: Millis, evicted: &mut Evicted) -> Result<EntryIndex, TableFull> {
        // Each eviction frees an entry or two: after two there are two.
        for _ in 0..=2 {
            if let Some(index) = self.slab.take_pair(&mut self.entries) {
                return Ok(index);
            }
            if self.capacity() - self.slab.used() >= 2 {
                return self.make_pair().ok_or(TableFull);
            }
            self.evict_by_clock(now, evicted)?;
        }
        Err(TableFull)
    }

    /// Makes a pair of two free single entries: the one-way connection beside the first moves to the second.
    fn make_pair(&mut self) -> Option<EntryIndex> {
        let hole = self.slab.take_single(&mut self.entries)?;
        let target = self.slab.take_single(&mut self.entries)?;
        let moving = *self.entry(hole.peer())?;
        debug_assert!(!moving.is_paired());
        self.moved += 1;
        if let Some(item) = self.item_mut(moving.hash, hole.peer()) {
            *item = target;
        }
        if let Some(line) = self.entries.get_mut(target.as_usize()) {
            *line = moving;
        }
        if let Some(line) = self.entries.get_mut(hole.peer().as_usize()) {
            *line = Entry::default();
        }
        Some(EntryIndex(hole.0 & !1))
    }

    /// The place in a bucket that names `index`, an entry with this hash.
    fn item_mut(&mut self, hash: FlowHash, index: EntryIndex) -> Option<&mut EntryIndex> {
        let first = self.first_bucket(hash);
        let places = [first, self.other_bucket(first, tag_of(hash))];
        let names =
            |bucket: &Bucket, item: usize| bucket.tags[item] == tag_of(hash) && bucket.entries[item] == index;
        let (place, item) = places.into_iter().find_map(|place| {
            let bucket = self.buckets.get(place)?;
            (0..BUCKET_ITEMS).find(|item| names(bucket, *item)).map(|item| (place, item))
        })?;
        self.buckets.get_mut(place)?.entries.get_mut(item)
    }

    /// Forgets the connection that `index` belongs to; returns its first entry as it was.
    pub fn remove(&mut self, index: EntryIndex) -> Option<Entry> {
        let paired = self.entry(index)?.is_paired();
        let first = if paired { EntryIndex(index.0 & !1) } else { index };
        let entry = *self.entry(first)?;
        self.moved += 1;
        self.unlink(first);
        if paired {
            self.unlink(first.peer());
            self.slab.give_pair(&mut self.entries, first);
        } else {
            self.slab.give_single(&mut self.entries, first);
        }
        Some(entry)
    }

    /// When the last packet of the connection passed, either way.
    pub fn last_seen(&self, index: EntryIndex) -> Millis {
        let Some(entry) = self.entry(index) else { return Millis(0) };
        match self.entry(index.peer()) {
            Some(peer) if entry.is_paired() => entry.last_seen.later(peer.last_seen),
            _ => entry.last_seen,
        }
    }

    #[inline(always)]
    fn first_bucket(&self, hash: FlowHash) -> usize {
        scale(hash.0, self.buckets.len())
    }

    /// The other candidate of an item with `tag` that is in `bucket`: its own inverse.
    #[inline(always)]
    fn other_bucket(&self, bucket: usize, tag: u16) -> usize {
        // 0x9E3779B1: the golden ratio's multiplier spreads 16 bits over 32 (Knuth, TAOCP 6.4).
        let sum = scale(u32::from(tag).wrapping_mul(0x9e37_79b1), self.buckets.len());
        if sum >= bucket { sum - bucket } else { sum + self.buckets.len() - bucket }
    }

    /// Writes `entry` to its line and its item to a bucket.
    fn fill(
        &mut self,
        index: EntryIndex,
        entry: Entry,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<(), TableFull> {
        if !self.place(entry.hash, index) {
            // The pair's other flow may have just taken its place here: it must not go for this one.
            let spared = if entry.is_paired() { index.peer() } else { EntryIndex::NONE };
            self.evict_from_buckets(entry.hash, spared, now, evicted)?;
            if !self.place(entry.hash, index) {
                return Err(TableFull);
            }
        }
        if let Some(line) = self.entries.get_mut(index.as_usize()) {
            *line = entry;
        }
        Ok(())
    }

    fn place(&mut self, hash: FlowHash, index: EntryIndex) -> bool {
        let tag = tag_of(hash);
        let first = self.first_bucket(hash);
        let second = self.other_bucket(first, tag);
        self.put(first, tag, index) || self.put(second, tag, index) || {
            [first, second]
                .into_iter()
                .any(|bucket| self.make_room(bucket, MOVES_MAX) && self.put(bucket, tag, index))
        }
    }

    /// Takes a free place of `bucket`, if there is one.
    fn put(&mut self, bucket: usize, tag: u16, index: EntryIndex) -> bool {
        let Some(bucket) = self.buckets.get_mut(bucket) else { return false };
        let free = match_tags(&bucket.tags, 0);
        if free == 0 {
            return false;
        }
        let place = free.trailing_zeros() as usize % BUCKET_ITEMS;
        bucket.tags[place] = tag;
        bucket.entries[place] = index;
        true
    }

    /// Moves one item of a full bucket to its other bucket, making room there first if need be, `depth`
    /// buckets deep: at depth 2, 8 + 64 buckets are looked at for each of the two candidates in the worst case,
    /// which only the fullest tables meet.
    fn make_room(&mut self, bucket: usize, depth: u32) -> bool {
        let Some(&Bucket { tags, entries, .. }) = self.buckets.get(bucket) else { return false };
        for place in 0..BUCKET_ITEMS {
            let other = self.other_bucket(bucket, tags[place]);
            if other != bucket && self.put(other, tags[place], entries[place]) {
                self.vacate(bucket, place);
                return true;
            }
        }
        depth > 1
            && (0..BUCKET_ITEMS).any(|place| {
                let other = self.other_bucket(bucket, tags[place]);
                let moved = other != bucket
                    && self.make_room(other, depth - 1)
                    && self.put(other, tags[place], entries[place]);
                if moved {
                    self.vacate(bucket, place);
                }
                moved
            })
    }

    fn vacate(&mut self, bucket: usize, place: usize) {
        if let Some(tag) = self.buckets.get_mut(bucket).and_then(|bucket| bucket.tags.get_mut(place)) {
            *tag = 0;
        }
    }

    /// Takes the item of an entry out of its bucket.
    fn unlink(&mut self, index: EntryIndex) {
        let Some(entry) = self.entries.get(index.as_usize()) else { return };
        let tag = tag_of(entry.hash);
        let first = self.first_bucket(entry.hash);
        for place in [first, self.other_bucket(first, tag)] {
            let Some(bucket) = self.buckets.get_mut(place) else { continue };
            for item in 0..BUCKET_ITEMS {
                if bucket.tags[item] == tag && bucket.entries[item] == index {
                    bucket.tags[item] = 0;
                    return;
                }
            }
        }
    }

    /// Evicts one connection among the next entries under the clock hand.
    fn evict_by_clock(&mut self, now: Millis, evicted: &mut Evicted) -> Result<(), TableFull> {
        let reach = EVICTION_REACH.min(self.capacity());
        let start = self.clock;
        self.clock = (start + reach) % self.capacity();
        let within_reach = (0..reach).map(|step| EntryIndex((start + step) % self.capacity()));
        let victim = self.choose_victim(within_reach, now).ok_or(TableFull)?;
        evicted.extend(self.remove(victim));
        Ok(())
    }

    /// Evicts one connection that has an item in either bucket of `hash`, but not that of `spared`.
    fn evict_from_buckets(
        &mut self,
        hash: FlowHash,
        spared: EntryIndex,
        now: Millis,
        evicted: &mut Evicted,
    ) -> Result<(), TableFull> {
        let first = self.first_bucket(hash);
        let places = [first, self.other_bucket(first, tag_of(hash))];
        let items = places
            .map(|place| self.buckets.get(place).map_or([EntryIndex::NONE; 8], |bucket| bucket.entries));
        let others = items.into_iter().flatten().filter(|item| *item != spared);
        let victim = self.choose_victim(others, now).ok_or(TableFull)?;
        evicted.extend(self.remove(victim));
        Ok(())
    }

    /// The first half-open connection, else the idlest that was idle long enough.
    fn choose_victim(&self, among: impl Iterator<Item = EntryIndex>, now: Millis) -> Option<EntryIndex> {
        let mut idlest = None;
        let mut idle_ms = IDLE_MIN_MS;
        for index in among {
            let Some(entry) = self.entry(index) else { continue };
            if entry.state.is_half_open() {
                return Some(index);
            }
            let since_ms = now.since(self.last_seen(index));
            if since_ms >= idle_ms {
                (idlest, idle_ms) = (Some(index), since_ms);
            }
        }
        idlest
    }
}

/// `hash` scaled to `0..len` by its high bits (Lemire, "Fast random integer generation in an interval", 2019).
#[inline(always)]
fn scale(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

/// The tag of a hash: its low bits, which choose no bucket in a table below 2^16 buckets. Never 0.
#[inline(always)]
fn tag_of(hash: FlowHash) -> u16 {
    (hash.0 as u16).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::Rewrite;
    use crate::flow::tcp_state::TcpState;
    use crate::wire::{AddressPair, PortPair};

    const SECRET: HashSecret = HashSecret::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

    fn key(number: u32) -> FlowKey {
        FlowKey {
            addresses: AddressPair::new(Ipv4Addr::from(0x0a00_0000 + number), Ipv4Addr::new(203, 0, 113, 1)),
            ports: PortPair::new(number as u16, 80),
            protocol: 6,
        }
    }

    fn entry(table: &FlowTable, number: u32, rewrite: Rewrite, state: TcpState, seen: Millis) -> Entry {
        let key = key(number);
        Entry { key, hash: table.hash(&key), rewrite, state, last_seen: seen, ..Entry::default() }
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
            let entry = entry(&table, number, Rewrite::Dr, TcpState::Established, Millis(0));
            table.insert(entry, Millis(0), &mut evicted).unwrap_or_else(|_| panic!("full at {number}"));
        }
        assert!(evicted.is_empty());
        assert_eq!((table.used(), table.capacity()), (100_000, 100_000));
        assert!((0..100_000).all(|number| lookup(&table, number) != EntryIndex::NONE));
        assert!((100_000..200_000).all(|number| lookup(&table, number) == EntryIndex::NONE));
    }

    #[test]
    fn a_full_table_evicts_half_open_connections_first_then_the_idlest_and_never_a_busy_one() {
        let mut table = FlowTable::new(64, Backing::Plain, SECRET).unwrap();
        let mut evicted = Evicted::new();
        for number in 0..64 {
            let state = if number == 40 { TcpState::SynRecv } else { TcpState::Established };
            let seen = Millis(if number == 7 { 1_000 } else { 9_500 });
            let entry = entry(&table, number, Rewrite::Dr, state, seen);
            table.insert(entry, seen, &mut evicted).unwrap();
        }
        let now = Millis(10_000);
        for (newcomer, gone) in [(100, 40), (101, 7)] {
            let entry = entry(&table, newcomer, Rewrite::Dr, TcpState::Established, now);
            table.insert(entry, now, &mut evicted).unwrap();
            assert_eq!(evicted.pop().map(|entry| entry.key), Some(key(gone)));
            assert_eq!(lookup(&table, gone), EntryIndex::NONE);
        }
        let entry = entry(&table, 102, Rewrite::Dr, TcpState::SynRecv, now);
        assert_eq!(table.insert(entry, now, &mut evicted), Err(TableFull));
        assert_eq!(table.used(), 64);
    }

    /// The first entry from `number` on that can only lie in `bucket`.
    fn pinned(table: &FlowTable, bucket: usize, rewrite: Rewrite, number: u32) -> Entry {
        let entries = (number..).map(|number| entry(table, number, rewrite, TcpState::SynRecv, Millis(0)));
        let lies_there = |entry: &Entry| {
            let first = table.first_bucket(entry.hash);
            first == bucket && table.other_bucket(first, tag_of(entry.hash)) == bucket
        };
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
            assert!(evicted.iter().all(|gone| gone.key != forward.key));
            assert_eq!(table.find(forward.hash, &forward.key), index);
            assert_eq!(table.find(back.hash, &back.key), index.peer());
        }
        assert_eq!((evicted.len(), table.used()), (2, 14), "a place for each of its flows");
        let items = table.buckets.iter().flat_map(|bucket| bucket.tags).filter(|tag| *tag != 0).count();
        assert_eq!(items, 14, "no item is left behind");
    }

    #[test]
    fn bytes_a_connection_stay_within_their_bounds() {
        let table = FlowTable::new(1 << 20, Backing::Plain, SECRET).unwrap();
        let bytes = table.buckets.len() * size_of::<Bucket>() + table.entries.len() * size_of::<Entry>();
        assert!(bytes <= 80 * (1 << 20), "{} bytes an entry", bytes as f64 / f64::from(1 << 20));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u32..60, 0u8..3), 1..300)) {
            let mut table = FlowTable::new(64, Backing::Plain, SECRET).unwrap();
            // Which connections there are, and whether they have two entries; where they lie may change.
            let mut model: HashMap<u32, bool> = HashMap::new();
            let mut evicted = Evicted::new();
            for (number, step) in steps {
                let known = model.get(&number).copied();
                match (step, known) {
                    (0, None) => {
                        let entry = entry(&table, number, Rewrite::Dr, TcpState::Established, Millis(0));
                        if table.insert(entry, Millis(0), &mut evicted).is_ok() {
                            model.insert(number, false);
                        }
                    }
                    (1, None) => {
                        let forward = entry(&table, number, Rewrite::FullnatToBackend, TcpState::Established, Millis(0));
                        let back = entry(&table, number + 1_000, Rewrite::FullnatToClient, TcpState::Established, Millis(0));
                        let free = table.capacity() - table.used();
                        let made = table.insert_pair(forward, back, Millis(0), &mut evicted).is_ok();
                        prop_assert!(made || free < 2 || table.used() > 50, "two free entries are a pair, wherever they lie");
                        if made {
                            model.insert(number, true);
                        }
                    }
                    (2, Some(paired)) => {
                        let index = lookup(&table, number);
                        let from = if paired && number % 2 == 0 { index.peer() } else { index };
                        prop_assert_eq!(table.remove(from).unwrap().key, key(number));
                        model.remove(&number);
                    }
                    _ => {}
                }
                prop_assert!(evicted.is_empty());
                for number in 0..60 {
                    let index = lookup(&table, number);
                    prop_assert_eq!(index != EntryIndex::NONE, model.contains_key(&number));
                    let back = lookup(&table, number + 1_000);
                    let paired = model.get(&number) == Some(&true);
                    prop_assert_eq!(back, if paired { index.peer() } else { EntryIndex::NONE });
                }
                let entries: usize = model.values().map(|paired| if *paired { 2 } else { 1 }).sum();
                prop_assert_eq!(table.used() as usize, entries);
                let items = table.buckets.iter().flat_map(|bucket| bucket.tags).filter(|tag| *tag != 0).count();
                prop_assert_eq!(items, entries);
            }
        }
    }
}
