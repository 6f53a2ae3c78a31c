//! The buckets: from a key's hash to the indices of the entries that may be its.
//!
//! Shape: `buckets` x 64 bytes, eight 16-bit tags and eight 32-bit indices each. A key has two candidate buckets
//! (cuckoo hashing, Pagh and Rodler 2004; the second follows from the first and the tag, so an item moves without its
//! key: Fan et al., "Cuckoo Filter", 2014). Placing prefers the first, then the second, then moves one or two
//! items out of the way: work is bounded. What a bucket knows are tags: whether an entry has the key, only the entry tells.

use std::io;

use cpu::{Backing, HugeSlice, match_tags, prefetch_read};

use super::key::FlowHash;
use crate::index::EntryIndex;

/// Items in a bucket: as many 16-bit tags as one 128-bit compare takes.
pub(super) const BUCKET_ITEMS: usize = 8;
/// Items moved for one insertion at most.
const MOVES_MAX: u32 = 2;

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

/// The buckets of one table.
#[derive(Debug)]
pub(super) struct Buckets(HugeSlice<Bucket>);

impl Buckets {
    /// Buckets for so many items: nine places out of ten are taken when all are in.
    pub(super) fn new(item_count: usize, backing: Backing) -> io::Result<Self> {
        Ok(Self(HugeSlice::filled(buckets_for(item_count), EMPTY, backing)?))
    }

    /// The memory of buckets for so many items, in bytes.
    pub(super) const fn bytes_for(item_count: usize) -> usize {
        buckets_for(item_count) * size_of::<Bucket>()
    }

    /// Brings the first bucket of `hash` towards the cache.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: FlowHash) {
        if let Some(bucket) = self.0.get(self.first_bucket(hash)) {
            prefetch_read(bucket);
        }
    }

    /// The first entry with the tag of `hash` in its first bucket; when there is none the second bucket is on the way
    /// to the cache.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: FlowHash) -> EntryIndex {
        let first = self.first_bucket(hash);
        let Some(bucket) = self.0.get(first) else { return EntryIndex::NONE };
        let matches = match_tags(&bucket.tags, tag_of(hash));
        if matches == 0 {
            if let Some(second) = self.0.get(self.other_bucket(first, tag_of(hash))) {
                prefetch_read(second);
            }
            return EntryIndex::NONE;
        }
        bucket.entries[matches.trailing_zeros() as usize % BUCKET_ITEMS]
    }

    /// The entry with the tag of `hash` in either bucket that `is_it` says yes to, or [`EntryIndex::NONE`].
    #[inline(always)]
    pub(super) fn find(&self, hash: FlowHash, is_it: impl Fn(EntryIndex) -> bool) -> EntryIndex {
        for place in self.places(hash) {
            let Some(bucket) = self.0.get(place) else { continue };
            let mut matches = match_tags(&bucket.tags, tag_of(hash));
            while matches != 0 {
                let index = bucket.entries[matches.trailing_zeros() as usize % BUCKET_ITEMS];
                if is_it(index) {
                    return index;
                }
                matches &= matches - 1;
            }
        }
        EntryIndex::NONE
    }

    /// Adds an item; `false` when there is no place for it.
    pub(super) fn place(&mut self, hash: FlowHash, index: EntryIndex) -> bool {
        let tag = tag_of(hash);
        let places = self.places(hash);
        places.into_iter().any(|bucket| self.put(bucket, tag, index))
            || places
                .into_iter()
                .any(|bucket| self.make_room(bucket, MOVES_MAX) && self.put(bucket, tag, index))
    }

    /// Takes the item of `index`, an entry with this hash, out.
    pub(super) fn take_out(&mut self, hash: FlowHash, index: EntryIndex) {
        if let Some((place, item)) = self.item_of(hash, index) {
            self.vacate(place, item);
        }
    }

    /// Lets the item of an entry with this hash name `to` instead of `from`.
    pub(super) fn rename(&mut self, hash: FlowHash, from: EntryIndex, to: EntryIndex) {
        let Some((place, item)) = self.item_of(hash, from) else { return };
        if let Some(index) = self.0.get_mut(place).and_then(|bucket| bucket.entries.get_mut(item)) {
            *index = to;
        }
    }

    /// The entries in both buckets of `hash`, with [`EntryIndex::NONE`] for free places.
    pub(super) fn around(&self, hash: FlowHash) -> [EntryIndex; 2 * BUCKET_ITEMS] {
        let mut entries = [EntryIndex::NONE; 2 * BUCKET_ITEMS];
        for (half, place) in entries.chunks_exact_mut(BUCKET_ITEMS).zip(self.places(hash)) {
            let Some(bucket) = self.0.get(place) else { continue };
            for (entry, (tag, index)) in half.iter_mut().zip(bucket.tags.iter().zip(bucket.entries)) {
                *entry = if *tag == 0 { EntryIndex::NONE } else { index };
            }
        }
        entries
    }

    /// The two buckets of `hash`; they may be one and the same.
    #[inline(always)]
    pub(super) fn places(&self, hash: FlowHash) -> [usize; 2] {
        let first = self.first_bucket(hash);
        [first, self.other_bucket(first, tag_of(hash))]
    }

    /// Places that are taken, and their bytes, free ones included.
    #[cfg(test)]
    pub(super) fn items_and_bytes(&self) -> (usize, usize) {
        let items = self.0.iter().flat_map(|bucket| bucket.tags).filter(|tag| *tag != 0).count();
        (items, self.0.len() * size_of::<Bucket>())
    }

    #[inline(always)]
    fn first_bucket(&self, hash: FlowHash) -> usize {
        scale(hash.0, self.0.len())
    }

    /// The other candidate of an item with `tag` that is in `bucket`: its own inverse.
    #[inline(always)]
    fn other_bucket(&self, bucket: usize, tag: u16) -> usize {
        // 0x9E3779B1: the golden ratio's multiplier spreads 16 bits over 32 (Knuth, TAOCP 6.4).
        let sum = scale(u32::from(tag).wrapping_mul(0x9e37_79b1), self.0.len());
        if sum >= bucket { sum - bucket } else { sum + self.0.len() - bucket }
    }

    /// Where the item of `index`, an entry with this hash, is: bucket and place in it.
    fn item_of(&self, hash: FlowHash, index: EntryIndex) -> Option<(usize, usize)> {
        let tag = tag_of(hash);
        self.places(hash).into_iter().find_map(|place| {
            let bucket = self.0.get(place)?;
            let names = |item: &usize| bucket.tags[*item] == tag && bucket.entries[*item] == index;
            (0..BUCKET_ITEMS).find(names).map(|item| (place, item))
        })
    }

    /// Takes a free place of `bucket`, if there is one.
    fn put(&mut self, bucket: usize, tag: u16, index: EntryIndex) -> bool {
        let Some(bucket) = self.0.get_mut(bucket) else { return false };
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
        let Some(&Bucket { tags, entries, .. }) = self.0.get(bucket) else { return false };
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
        if let Some(tag) = self.0.get_mut(bucket).and_then(|bucket| bucket.tags.get_mut(place)) {
            *tag = 0;
        }
    }
}

const fn buckets_for(item_count: usize) -> usize {
    let count = (item_count * 10).div_ceil(9 * BUCKET_ITEMS);
    if count < 2 { 2 } else { count }
}

/// `hash` scaled to `0..len` by its high bits (Lemire, "Fast random integer generation in an interval", 2019).
#[inline(always)]
fn scale(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

/// The tag of a hash: its low bits, which choose no bucket in a table below 2^16 buckets. Above, they partly do:
/// with 2^22 buckets (30 million entries) ten bits of a tag are its own, and one lookup in a hundred reads an entry in vain. Never 0.
#[inline(always)]
fn tag_of(hash: FlowHash) -> u16 {
    (hash.0 as u16).max(1)
}
