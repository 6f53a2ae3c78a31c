//! Virtual reassembly: which flow the fragments of a datagram belong to. Read first: RFC 791 section 3.2 (reassembly), RFC
//! 8200 section 4.5; RFC 1858, RFC 3128 and RFC 5722 for what must not pass.
//!
//! Only the first fragment carries l4_ports. What it said is kept here for a while, so that the later ones follow it;
//! later ones that come before it wait. Nothing is put together and no payload is copied: each fragment goes on by
//! itself, and its receiver reassembles. What is looked at is where the fragments lie: none that covers what another
//! one covered, and none that reaches into the L4 header, gets to a backend.
//!
//! Shape: datagrams chained by hash, and in a list by age whose oldest goes first, be it for its time or for want of room;
//! places for waiting fragments, of which each datagram has a list. This is the book-keeping alone: the packets lie in
//! [`Waiting`], by place.

use arrayvec::ArrayVec;

use crate::flow::{FlowHash, FlowKey};
use crate::index::BackendIndex;
use crate::time::Millis;
use crate::verdict::DropReason;
use crate::wire::PortPair;
use crate::wire::fragment::Fragment;

/// Datagrams that are forgotten in one turn of the worker's loop at most.
const EXPIRED_PER_TURN_MAX: usize = 16;
/// Fragments that wait for the first one of a datagram at most. A datagram of 64 KiB sent last part first over
/// Ethernet has 44; those 16 are a datagram of 23 KiB.
const WAITING_PER_DATAGRAM_MAX: u8 = 16;
/// Stretches of a datagram that are known apart: its fragments may come in any order that leaves no more holes than that.
const STRETCHES_MAX: usize = 8;
/// No datagram, no place: the end of a list.
const NIL: u16 = u16::MAX;

/// How much one worker remembers of fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams at once, below 2^16.
    pub datagrams: u16,
    /// Fragments that wait at once for the first of their datagram, below 2^16: a packet buffer each.
    pub waiting: u16,
    /// How long a datagram is remembered, and a fragment waits, in milliseconds.
    pub timeout_ms: u32,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self { datagrams: 4_096, waiting: 256, timeout_ms: 3_000 }
    }
}

/// Where a waiting packet lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u16);

/// What the first fragment says of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Its l4_ports.
    pub ports: PortPair,
    /// Its protocol: behind IPv6's extension headers, so that later fragments need not tell it. [`Self::OF_NO_FLOW`] where
    /// it is nothing that services take.
    pub protocol: u8,
}

impl First {
    /// The protocol of no flow.
    pub const OF_NO_FLOW: u8 = FlowKey::NONE.protocol;
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Its datagram's first fragment said this.
    Known(First),
    /// The first fragment has not come: it waits in this place.
    Waits(Place),
}

/// Where the fragments of a datagram lay, in units of eight bytes.
#[derive(Clone, Debug, Default)]
struct Stretches {
    /// Begin and end, in order, none of which touch.
    known: ArrayVec<(u16, u16), STRETCHES_MAX>,
    /// The datagram's end; 0 while the last fragment has not come.
    end: u16,
}

impl Stretches {
    /// Whether the network doubled a fragment: all of it has passed. No harm is done where this one does not.
    fn have(&self, begin: u16, end: u16) -> bool {
        self.known.iter().any(|(known, known_end)| *known <= begin && end <= *known_end)
    }

    /// Adds a fragment, or says why it must not pass.
    fn add(&mut self, begin: u16, end: u16, is_last: bool) -> Result<(), DropReason> {
        let reached = self.known.last().map_or(0, |(_, end)| *end);
        let agrees = if is_last { self.end == 0 && end >= reached } else { self.end == 0 || end < self.end };
        let at = self.known.iter().position(|(_, known_end)| *known_end >= begin).unwrap_or(self.known.len());
        let overlaps = self.known.iter().any(|(known, known_end)| begin < *known_end && *known < end);
        if overlaps || !agrees {
            return Err(DropReason::FragmentOverlap);
        }
        self.join(at, begin, end)?;
        if is_last {
            self.end = end;
        }
        Ok(())
    }

    /// Puts a stretch in at `at`, joined with those that it touches.
    fn join(&mut self, at: usize, begin: u16, end: u16) -> Result<(), DropReason> {
        let touches_before = self.known.get(at).is_some_and(|(_, known_end)| *known_end == begin);
        let after = if touches_before { at + 1 } else { at };
        let joined_end = self.known.get(after).filter(|(known, _)| *known == end).map(|(_, end)| *end);
        match (touches_before, joined_end) {
            (false, None) => {
                return self.known.try_insert(at, (begin, end)).map_err(|_| DropReason::FragmentsFull);
            }
            (false, Some(end)) => self.set(at, (begin, end)),
            (true, None) => self.lengthen(at, end),
            (true, Some(end)) => {
                self.lengthen(at, end);
                let _ = self.known.pop_at(after);
            }
        }
        Ok(())
    }

    fn set(&mut self, at: usize, stretch: (u16, u16)) {
        if let Some(known) = self.known.get_mut(at) {
            *known = stretch;
        }
    }

    fn lengthen(&mut self, at: usize, end: u16) {
        if let Some(known) = self.known.get_mut(at) {
            known.1 = end;
        }
    }

    /// Whether every byte has been seen.
    fn are_all(&self) -> bool {
        self.end != 0 && self.known[..] == [(0, self.end)]
    }
}

/// One datagram.
#[derive(Clone, Debug)]
struct Datagram {
    key: FlowKey,
    hash: FlowHash,
    /// `None` while it has not come.
    first: Option<First>,
    began: Millis,
    stretches: Stretches,
    /// No other fragment of it may pass.
    is_bad: bool,
    /// What tells its fragments from others' where its addresses are not its sender's ([`Fragments::identification`]).
    identification: Option<u16>,
    /// Who got it, where no flow tells.
    backend: BackendIndex,
    /// All of it has passed, so its identification may come again for another datagram.
    is_over: bool,
    /// Its waiting fragments: how many, the first and the last of the list.
    waiting: u8,
    first_place: u16,
    last_place: u16,
    /// The next with this hash, or of those that are free.
    next: u16,
    older: u16,
    newer: u16,
}

impl Datagram {
    /// One of which nothing has come, in no list.
    fn new(key: FlowKey, hash: FlowHash, began: Millis) -> Self {
        Self {
            key,
            hash,
            first: None,
            began,
            stretches: Stretches::default(),
            is_bad: false,
            identification: None,
            backend: BackendIndex::NONE,
            is_over: false,
            waiting: 0,
            first_place: NIL,
            last_place: NIL,
            next: NIL,
            older: NIL,
            newer: NIL,
        }
    }
}

/// A list of places.
#[derive(Clone, Copy, Debug)]
struct Places {
    first: u16,
    last: u16,
}

impl Places {
    const EMPTY: Self = Self { first: NIL, last: NIL };
}

/// The datagrams that one worker knows in fragments.
#[derive(Debug)]
pub struct Fragments {
    datagrams: Box<[Datagram]>,
    /// The first datagram of each hash; as many as datagrams, rounded up to a power of two.
    chains: Box<[u16]>,
    free: u16,
    oldest: u16,
    newest: u16,
    used: u16,
    /// The next place in the list that each is in.
    places: Box<[u16]>,
    free_places: u16,
    waiting: u16,
    /// Places whose packets go on now.
    released: Places,
    /// Places whose packets are dropped now.
    refused: Places,
    timeout_ms: u32,
}

impl Fragments {
    /// Room for as much as `limits` say, all of it taken now.
    pub fn new(limits: FragmentLimits) -> Self {
        let count = limits.datagrams.clamp(1, NIL - 1);
        let nothing = Datagram::new(FlowKey::NONE, FlowHash(0), Millis(0));
        let next_of = |index: u16, count: u16| if index + 1 < count { index + 1 } else { NIL };
        let datagrams = (0..count).map(|index| Datagram { next: next_of(index, count), ..nothing.clone() });
        let waiting = limits.waiting.min(NIL - 1);
        Self {
            datagrams: datagrams.collect(),
            chains: vec![NIL; usize::from(count).next_power_of_two()].into_boxed_slice(),
            free: 0,
            oldest: NIL,
            newest: NIL,
            used: 0,
            places: (0..waiting).map(|place| next_of(place, waiting)).collect(),
            free_places: if waiting == 0 { NIL } else { 0 },
            waiting: 0,
            released: Places::EMPTY,
            refused: Places::EMPTY,
            timeout_ms: limits.timeout_ms,
        }
    }

    /// Datagrams that are remembered.
    pub fn used(&self) -> u16 {
        self.used
    }

    /// Fragments that wait.
    pub fn waiting(&self) -> u16 {
        self.waiting
    }

    /// Places there are.
    pub fn place_count(&self) -> usize {
        self.places.len()
    }

    /// Notes a fragment of the datagram `key` ([`crate::wire::fragment::datagram_key`]), whose hash is `hash`; `first` is what it says when
    /// it is the first. One that waits is noted when it goes on, so that it is looked at once.
    ///
    /// # Errors
    /// Why it must not pass.
    pub fn note(
        &mut self,
        (key, hash): (&FlowKey, FlowHash),
        fragment: Fragment,
        first: Option<First>,
        now: Millis,
    ) -> Result<Noted, DropReason> {
        let index = match self.find(key, hash) {
            Some(index) => index,
            None => self.begin(key, hash, now).ok_or(DropReason::FragmentsFull)?,
        };
        let datagram = self.datagram_mut(index).ok_or(DropReason::FragmentsFull)?;
        if datagram.is_bad {
            return Err(DropReason::FragmentOverlap);
        }
        let Some(first) = first.or(datagram.first) else { return self.wait(index).map(Noted::Waits) };
        let (begin, end) = fragment.units();
        if datagram.stretches.have(begin, end) {
            return Err(DropReason::FragmentOverlap);
        }
        if let Err(reason) = datagram.stretches.add(begin, end, fragment.is_last) {
            datagram.is_bad = reason == DropReason::FragmentOverlap;
            return Err(reason);
        }
        datagram.first = Some(first);
        datagram.is_over = datagram.stretches.are_all();
        if datagram.is_over {
            self.move_to_oldest(index);
        }
        self.release(index);
        Ok(Noted::Known(first))
    }

    /// Notes which backend got a datagram of a service that keeps no flows.
    pub fn set_backend(&mut self, (key, hash): (&FlowKey, FlowHash), backend: BackendIndex) {
        if let Some(index) = self.latest(key, hash)
            && let Some(datagram) = self.datagram_mut(index)
        {
            datagram.backend = backend;
        }
    }

    /// Which one that was.
    pub fn backend(&self, (key, hash): (&FlowKey, FlowHash)) -> Option<BackendIndex> {
        let datagram = self.datagrams.get(usize::from(self.latest(key, hash)?))?;
        (datagram.backend != BackendIndex::NONE).then_some(datagram.backend)
    }

    /// An IPv4 identification for the fragments of a datagram that goes on between addresses of the director's own: the
    /// one it has, or the one that is `given` now. What clients chose may be equal, and their datagrams come from one address
    /// now: their receiver would mix them up (RFC 4963, RFC 6864 section 5.3).
    pub fn identification(
        &mut self,
        (key, hash): (&FlowKey, FlowHash),
        given: impl FnOnce() -> u16,
    ) -> Option<u16> {
        let index = self.latest(key, hash)?;
        Some(*self.datagram_mut(index)?.identification.get_or_insert_with(given))
    }

    /// Whether packets that waited may go on.
    pub fn has_released(&self) -> bool {
        self.released.first != NIL
    }

    /// The next packet that may go on, in the order they came; its place is free from now on.
    pub fn next_released(&mut self) -> Option<Place> {
        let place = pop(&mut self.released, &self.places)?;
        self.give_place(place);
        Some(Place(place))
    }

    /// The next packet that waited in vain; its place is free from now on.
    pub fn next_refused(&mut self) -> Option<Place> {
        let place = pop(&mut self.refused, &self.places)?;
        self.give_place(place);
        Some(Place(place))
    }

    /// Forgets the oldest datagrams, as far as their time is over, so many at most.
    pub fn sweep(&mut self, now: Millis) {
        for _ in 0..EXPIRED_PER_TURN_MAX {
            let Some(oldest) = self.datagrams.get(usize::from(self.oldest)) else { return };
            if !oldest.is_over && now.since(oldest.began) <= self.timeout_ms {
                return;
            }
            self.forget(self.oldest);
        }
    }

    fn datagram_mut(&mut self, index: u16) -> Option<&mut Datagram> {
        self.datagrams.get_mut(usize::from(index))
    }

    fn chain_of(&mut self, hash: FlowHash) -> Option<&mut u16> {
        let mask = self.chains.len() - 1;
        self.chains.get_mut(hash.0 as usize & mask)
    }

    /// The datagram of `key`, unless all of it has passed: then its identification is another's by now.
    fn find(&self, key: &FlowKey, hash: FlowHash) -> Option<u16> {
        self.latest(key, hash)
            .filter(|index| self.datagrams.get(usize::from(*index)).is_some_and(|datagram| !datagram.is_over))
    }

    /// The latest datagram of `key`.
    fn latest(&self, key: &FlowKey, hash: FlowHash) -> Option<u16> {
        let mut index = *self.chains.get(hash.0 as usize & (self.chains.len() - 1))?;
        while let Some(datagram) = self.datagrams.get(usize::from(index)) {
            if datagram.hash == hash && datagram.key == *key {
                return Some(index);
            }
            index = datagram.next;
        }
        None
    }

    /// Remembers a new datagram, in the oldest one's place where there is no other.
    fn begin(&mut self, key: &FlowKey, hash: FlowHash, now: Millis) -> Option<u16> {
        if self.free == NIL {
            self.forget(self.oldest);
        }
        let index = self.free;
        let (newest, chained) = (self.newest, *self.chain_of(hash)?);
        let datagram = self.datagram_mut(index)?;
        let free = datagram.next;
        *datagram = Datagram { next: chained, older: newest, ..Datagram::new(*key, hash, now) };
        self.free = free;
        self.used += 1;
        *self.chain_of(hash)? = index;
        match self.datagram_mut(newest) {
            Some(before) => before.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
        Some(index)
    }

    /// Forgets a datagram; what waits for its first fragment is refused.
    fn forget(&mut self, index: u16) {
        self.refuse_waiting(index);
        self.leave_ages(index);
        let Some((hash, after)) = self.datagram_mut(index).map(|datagram| (datagram.hash, datagram.next))
        else {
            return;
        };
        self.leave_chain(index, hash, after);
        let free = self.free;
        if let Some(datagram) = self.datagram_mut(index) {
            datagram.next = free;
        }
        self.free = index;
        self.used -= 1;
    }

    fn leave_chain(&mut self, index: u16, hash: FlowHash, after: u16) {
        let Some(first) = self.chain_of(hash) else { return };
        if *first == index {
            *first = after;
            return;
        }
        let mut at = *first;
        while let Some(datagram) = self.datagram_mut(at) {
            if datagram.next == index {
                datagram.next = after;
                return;
            }
            at = datagram.next;
        }
    }

    fn leave_ages(&mut self, index: u16) {
        let Some((older, newer)) = self.datagram_mut(index).map(|datagram| (datagram.older, datagram.newer))
        else {
            return;
        };
        match self.datagram_mut(older) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.datagram_mut(newer) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }

    /// The next to be forgotten.
    fn move_to_oldest(&mut self, index: u16) {
        self.leave_ages(index);
        let oldest = self.oldest;
        if let Some(datagram) = self.datagram_mut(index) {
            (datagram.older, datagram.newer) = (NIL, oldest);
        }
        match self.datagram_mut(oldest) {
            Some(oldest) => oldest.older = index,
            None => self.newest = index,
        }
        self.oldest = index;
    }

    /// Gives a fragment a place to wait in.
    fn wait(&mut self, index: u16) -> Result<Place, DropReason> {
        let place = self.free_places;
        let next_free = self.places.get(usize::from(place)).copied().ok_or(DropReason::FragmentsFull)?;
        let datagram = self.datagrams.get_mut(usize::from(index)).ok_or(DropReason::FragmentsFull)?;
        if datagram.waiting >= WAITING_PER_DATAGRAM_MAX {
            return Err(DropReason::FragmentsFull);
        }
        datagram.waiting += 1;
        let mut list = Places { first: datagram.first_place, last: datagram.last_place };
        push(&mut list, &mut self.places, place);
        (datagram.first_place, datagram.last_place) = (list.first, list.last);
        self.free_places = next_free;
        self.waiting += 1;
        Ok(Place(place))
    }

    /// The waiting fragments of a datagram, which has none from now on.
    fn take_waiting(&mut self, index: u16) -> Places {
        let Some(datagram) = self.datagram_mut(index) else { return Places::EMPTY };
        let list = Places { first: datagram.first_place, last: datagram.last_place };
        (datagram.first_place, datagram.last_place, datagram.waiting) = (NIL, NIL, 0);
        list
    }

    fn release(&mut self, index: u16) {
        let list = self.take_waiting(index);
        append(&mut self.released, &mut self.places, list);
    }

    fn refuse_waiting(&mut self, index: u16) {
        let list = self.take_waiting(index);
        append(&mut self.refused, &mut self.places, list);
    }

    fn give_place(&mut self, place: u16) {
        let free = self.free_places;
        if let Some(next) = self.places.get_mut(usize::from(place)) {
            *next = free;
            self.free_places = place;
            self.waiting -= 1;
        }
    }
}

/// Puts `place` at the end of a list.
fn push(list: &mut Places, places: &mut [u16], place: u16) {
    if let Some(next) = places.get_mut(usize::from(place)) {
        *next = NIL;
    }
    append(list, places, Places { first: place, last: place });
}

/// Puts all of `other` at the end of a list.
fn append(list: &mut Places, places: &mut [u16], other: Places) {
    if other.first == NIL {
        return;
    }
    match places.get_mut(usize::from(list.last)) {
        Some(next) => *next = other.first,
        None => list.first = other.first,
    }
    list.last = other.last;
}

/// Takes the first place from a list.
fn pop(list: &mut Places, places: &[u16]) -> Option<u16> {
    let place = list.first;
    list.first = *places.get(usize::from(place))?;
    if list.first == NIL {
        list.last = NIL;
    }
    Some(place)
}

/// The packets that wait, by place.
pub struct Waiting<P> {
    packets: Box<[Option<P>]>,
}

impl<P> Waiting<P> {
    /// Room for as many.
    pub fn new(place_count: usize) -> Self {
        Self { packets: std::iter::repeat_with(|| None).take(place_count).collect() }
    }

    /// Puts a packet in its place.
    ///
    /// # Errors
    /// The packet, where there is no such place.
    pub fn put(&mut self, place: Place, packet: P) -> Result<(), P> {
        match self.packets.get_mut(usize::from(place.0)) {
            Some(room) => {
                *room = Some(packet);
                Ok(())
            }
            None => Err(packet),
        }
    }

    /// Takes it out again.
    pub fn take(&mut self, place: Place) -> Option<P> {
        self.packets.get_mut(usize::from(place.0))?.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::fragment::datagram_key;
    use crate::wire::ipv4::PROTOCOL_UDP;

    const FIRST: First = First { ports: PortPair::new(5_000, 53), protocol: PROTOCOL_UDP };

    fn key(identification: u32) -> (FlowKey, FlowHash) {
        let (client, vip) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 10));
        let flow = FlowKey::new((client, 0), (vip, 0), PROTOCOL_UDP);
        // Every other one shares a chain.
        (datagram_key(flow.addresses, identification, PROTOCOL_UDP), FlowHash(identification / 2))
    }

    /// A fragment of these units of eight bytes.
    fn part(begin: u16, end: u16, is_last: bool) -> Fragment {
        Fragment { offset: begin * 8, len: (end - begin) * 8, is_last }
    }

    fn note(table: &mut Fragments, id: u32, fragment: Fragment, now: u32) -> Result<Noted, DropReason> {
        let (key, hash) = key(id);
        let first = (fragment.offset == 0).then_some(FIRST);
        table.note((&key, hash), fragment, first, Millis(now))
    }

    const KNOWN: Result<Noted, DropReason> = Ok(Noted::Known(FIRST));

    fn place(noted: Result<Noted, DropReason>) -> Place {
        let Ok(Noted::Waits(place)) = noted else { panic!("does not wait: {noted:?}") };
        place
    }

    fn table(datagrams: u16, waiting: u16) -> Fragments {
        Fragments::new(FragmentLimits { datagrams, waiting, timeout_ms: 1_000 })
    }

    #[test]
    fn later_fragments_follow_the_first_and_a_whole_datagram_is_forgotten() {
        let mut table = table(4, 4);
        assert_eq!(note(&mut table, 1, part(0, 185, false), 0), KNOWN);
        assert_eq!(note(&mut table, 1, part(370, 400, true), 0), KNOWN);
        assert_eq!(table.used(), 1);
        table.sweep(Millis(0));
        assert_eq!(table.used(), 1, "a hole is left");
        assert_eq!(note(&mut table, 1, part(185, 370, false), 0), KNOWN);
        // The same identification again, at once: another datagram.
        assert_eq!(note(&mut table, 1, part(0, 10, false), 0), KNOWN);
        table.sweep(Millis(0));
        assert_eq!(table.used(), 1);
    }

    #[test]
    fn what_comes_before_the_first_waits_and_goes_on_in_order() {
        let mut table = table(4, 8);
        let places = [(1, part(4, 6, true)), (2, part(9, 10, true)), (1, part(2, 4, false))]
            .map(|(id, fragment)| place(note(&mut table, id, fragment, 0)));
        assert_eq!((table.waiting(), table.next_released()), (3, None));
        assert_eq!(note(&mut table, 1, part(0, 2, false), 0), KNOWN);
        let released: Vec<_> = std::iter::from_fn(|| table.next_released()).collect();
        assert_eq!(released, [places[0], places[2]]);
        assert_eq!(note(&mut table, 1, part(4, 6, true), 0), KNOWN, "they are noted as they go on");
        assert_eq!(note(&mut table, 1, part(2, 4, false), 0), KNOWN);
        assert_eq!((table.waiting(), table.next_refused()), (1, None));
        table.sweep(Millis(1_001));
        assert_eq!((table.next_refused(), table.next_refused()), (Some(places[1]), None));
        assert_eq!((table.waiting(), table.used()), (0, 0));
    }

    #[test]
    fn what_overlaps_is_refused_and_so_is_all_that_follows() {
        let overlaps = Err(DropReason::FragmentOverlap);
        for (second, why) in
            [(part(7, 9, false), "over the end"), (part(7, 9, true), "over the end, and the last")]
        {
            let mut table = table(4, 4);
            assert_eq!(note(&mut table, 1, part(0, 8, false), 0), KNOWN);
            assert_eq!(note(&mut table, 1, second, 0), overlaps, "{why}");
            assert_eq!(note(&mut table, 1, part(8, 9, true), 0), overlaps, "{why}: the rest");
            assert_eq!(note(&mut table, 2, part(0, 8, false), 0), KNOWN, "another datagram");
        }
        let mut table = table(4, 4);
        assert_eq!(note(&mut table, 1, part(0, 8, false), 0), KNOWN);
        assert_eq!(note(&mut table, 1, part(0, 8, false), 0), overlaps, "doubled by the network");
        assert_eq!(note(&mut table, 1, part(2, 3, false), 0), overlaps, "within what has passed");
        assert_eq!(note(&mut table, 1, part(20, 30, true), 0), KNOWN);
        assert_eq!(note(&mut table, 1, part(30, 31, false), 0), overlaps, "behind the end");
        assert_eq!(note(&mut table, 3, part(0, 8, false), 0), KNOWN);
        assert_eq!(note(&mut table, 3, part(20, 30, true), 0), KNOWN);
        assert_eq!(note(&mut table, 3, part(10, 12, true), 0), overlaps, "two ends");
    }

    #[test]
    fn room_is_bounded_and_the_oldest_datagram_gives_way() {
        let mut table = table(2, 3);
        place(note(&mut table, 1, part(1, 2, false), 0));
        assert_eq!(note(&mut table, 2, part(0, 2, false), 0), KNOWN);
        assert_eq!(note(&mut table, 3, part(0, 2, false), 0), KNOWN);
        assert_eq!(table.used(), 2);
        assert!(table.next_refused().is_some(), "the first one's fragment waits for nothing");
        assert_eq!(note(&mut table, 2, part(2, 3, false), 0), KNOWN);
        place(note(&mut table, 4, part(1, 2, false), 0));
        place(note(&mut table, 4, part(2, 3, false), 0));
        place(note(&mut table, 4, part(3, 4, false), 0));
        assert_eq!(note(&mut table, 4, part(4, 5, false), 0), Err(DropReason::FragmentsFull), "no place");
        let mut table = Fragments::new(FragmentLimits { waiting: 0, ..FragmentLimits::default() });
        assert_eq!(note(&mut table, 4, part(1, 2, false), 0), Err(DropReason::FragmentsFull));
    }

    #[test]
    fn a_datagram_keeps_the_identification_it_is_given() {
        let mut table = table(8, 1);
        for id in 0..100 {
            assert_eq!(note(&mut table, id, part(0, 2, false), 0), KNOWN);
            let (key, hash) = key(id);
            let given = 1_000 + id as u16;
            assert_eq!(table.identification((&key, hash), || given), Some(given));
            assert_eq!(table.identification((&key, hash), || 7), Some(given), "its own");
        }
    }

    #[test]
    fn holes_are_bounded() {
        let mut table = table(4, 4);
        assert_eq!(note(&mut table, 1, part(0, 1, false), 0), KNOWN);
        for hole in 1..STRETCHES_MAX as u16 {
            assert_eq!(note(&mut table, 1, part(hole * 2, hole * 2 + 1, false), 0), KNOWN);
        }
        assert_eq!(note(&mut table, 1, part(100, 101, false), 0), Err(DropReason::FragmentsFull));
    }

    proptest! {
        /// Against a model that knows every byte and never forgets before its time.
        #[test]
        fn each_byte_passes_once_whatever_comes(
            steps in proptest::collection::vec((0u32..6, 0u16..24, 1u16..8, any::<bool>(), 0u32..200), 1..120)
        ) {
            let mut table = table(64, 16);
            let mut waiting = Waiting::new(table.place_count());
            let mut passed: HashMap<u32, Vec<bool>> = HashMap::new();
            let (mut now, mut held) = (0, 0);
            for (id, begin, len, is_last, ms) in steps {
                now += ms;
                let mut queue = VecDeque::from([(id, part(begin, begin + len, is_last))]);
                while let Some((id, fragment)) = queue.pop_front() {
                    match note(&mut table, id, fragment, now) {
                        Ok(Noted::Known(_)) => {
                            let bytes = passed.entry(id).or_insert_with(|| vec![false; 40]);
                            let (begin, end) = fragment.units();
                            let seen = &mut bytes[usize::from(begin)..usize::from(end)];
                            prop_assert!(!seen.contains(&true));
                            seen.fill(true);
                            let (key, hash) = key(id);
                            if table.find(&key, hash).is_none() {
                                // All of it has passed: the next is another datagram.
                                passed.remove(&id);
                            }
                        }
                        Ok(Noted::Waits(place)) => {
                            held += 1;
                            prop_assert!(waiting.put(place, (id, fragment)).is_ok());
                        }
                        Err(_) => {}
                    }
                    while let Some(place) = table.next_released() {
                        held -= 1;
                        queue.push_back(waiting.take(place).unwrap());
                    }
                }
                table.sweep(Millis(now));
                while let Some(place) = table.next_refused() {
                    held -= 1;
                    waiting.take(place).unwrap();
                }
                prop_assert_eq!(held, i32::from(table.waiting()));
                prop_assert_eq!(waiting.packets.iter().flatten().count() as i32, held);
                // Forgotten ones begin anew.
                for id in 0..6 {
                    let (key, hash) = key(id);
                    if table.find(&key, hash).is_none() {
                        passed.remove(&id);
                    }
                }
            }
            table.sweep(Millis(now + 1_001));
            table.sweep(Millis(now + 1_001));
            prop_assert_eq!(table.used(), 0);
        }
    }
}
