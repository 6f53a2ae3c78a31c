//! `lblc` and `lblcr`: locality-based least connection (LVS-HOWTO, job scheduling). Connections with the same key
//! go to the same member, found by `wlc` at first, until that has too much to do. `lblcr` keeps a set of members
//! for a key instead of one, and takes the least of them.
//!
//! What it remembers stands in a cache of fixed size that each worker has for itself. IPVS keys it by the
//! destination's address, for caches behind a transparent proxy; a service has one VIP, so `hash = "source"` is
//! of more use here.

use super::hash::{HashKey, scaled};
use super::least_connection::{Cost, Least, overhead, takers};
use super::{Choice, Loads, Position};
use crate::flow::FlowKey;
use crate::index::BackendIndex;
use crate::rules::service::Member;
use crate::time::Millis;

/// How long a set of `lblcr` stays as it is before its busiest member leaves it: IPVS's 24 hours.
const UNCHANGED_MAX_MS: u32 = 24 * 60 * 60 * 1_000;
/// Members of a set of `lblcr`. Where more would be needed, the one longest in it leaves.
const SET_MAX: usize = 12;
/// Keys that may have the same place in the cache; of more, the one longest unused is forgotten.
const WAYS: usize = 4;
/// Rows of the cache: 16,384 keys, as many as IPVS keeps at most.
const ROWS: usize = 4_096;

/// `lblc`, or `lblcr` where it replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// What makes connections belong together.
    pub hash: HashKey,
    /// Whether a key may have several members.
    pub replicates: bool,
}

/// Which members have a key.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Place {
    /// The hash of the key; 0 while free.
    word: u64,
    used: Millis,
    changed: Millis,
    /// The oldest first; free ones at the end.
    backends: [BackendIndex; SET_MAX],
}

const _: () = assert!(size_of::<Place>() == 64);

impl Place {
    const FREE: Self =
        Self { word: 0, used: Millis(0), changed: Millis(0), backends: [BackendIndex::NONE; SET_MAX] };

    fn backends(&self) -> impl Iterator<Item = BackendIndex> {
        self.backends.into_iter().take_while(|backend| *backend != BackendIndex::NONE)
    }

    fn add(&mut self, backend: BackendIndex) {
        if !self.backends.contains(&BackendIndex::NONE) {
            self.backends.copy_within(1.., 0);
            self.backends[SET_MAX - 1] = BackendIndex::NONE;
        }
        if let Some(free) = self.backends.iter_mut().find(|place| **place == BackendIndex::NONE) {
            *free = backend;
        }
    }

    fn remove(&mut self, backend: BackendIndex) {
        let mut kept = [BackendIndex::NONE; SET_MAX];
        let others = self.backends().filter(|other| *other != backend);
        kept.iter_mut().zip(others).for_each(|(place, other)| *place = other);
        self.backends = kept;
    }
}

/// One worker's memory of which members have which keys: `ROWS` x `WAYS` x 64 bytes, 1 MiB. Allocated by
/// control.
#[derive(Clone, Debug)]
pub struct LocalityCache {
    rows: Box<[[Place; WAYS]]>,
}

impl Default for LocalityCache {
    fn default() -> Self {
        Self { rows: vec![[Place::FREE; WAYS]; ROWS].into() }
    }
}

impl LocalityCache {
    /// `word` is not 0, which marks free places.
    fn find(&self, word: u64) -> Option<&Place> {
        self.rows.get(scaled(word, ROWS))?.iter().find(|place| place.word == word)
    }

    /// The place of `word`: a new one takes that of the key longest unused.
    fn place(&mut self, word: u64, now: Millis) -> Option<&mut Place> {
        let row = self.rows.get_mut(scaled(word, ROWS))?;
        let age = |place: &Place| if place.word == 0 { u32::MAX } else { now.since(place.used) };
        let known = row.iter().position(|place| place.word == word);
        let at = known.or_else(|| (0..WAYS).max_by_key(|way| row.get(*way).map(age)))?;
        let place = row.get_mut(at)?;
        if known.is_none() {
            *place = Place { word, changed: now, ..Place::FREE };
        }
        place.used = now;
        Some(place)
    }
}

impl Locality {
    /// What the key of `flow` is remembered by; never 0.
    pub(super) fn word(&self, flow: &FlowKey) -> u64 {
        self.hash.word(flow).max(1)
    }

    pub(super) fn choose(
        &self,
        members: &[Member],
        first: usize,
        word: u64,
        cache: Option<&LocalityCache>,
        position: Position,
        loads: &impl Loads,
    ) -> Option<Choice> {
        let place = cache.and_then(|cache| cache.find(word));
        let member_of = |backend| members.iter().position(|member| member.backend == backend);
        let known = || place.into_iter().flat_map(Place::backends).filter_map(member_of);
        let usable = known().filter_map(|member| {
            let weight = members.get(member)?.weight;
            (weight > 0 && loads.takes(member)).then_some((member, weight))
        });
        let cost = |(member, weight): (usize, u32)| Cost { work: overhead(loads.load(member)), weight };
        let least = usable.reduce(|a, b| if cost(b).is_below(cost(a)) { b } else { a });
        let kept = least.filter(|(member, weight)| {
            let is_overloaded = loads.load(*member).active > *weight;
            !(is_overloaded && somebody_is_half_idle(members, first, loads))
        });
        let member = match kept {
            Some((member, _)) => member,
            None => Least::WeightedConnection.choose(members, first, loads)?,
        };
        let weigh = |member: usize| (member, members.get(member).map_or(1, |member| member.weight));
        let busiest = known().map(weigh).reduce(|a, b| if cost(a).is_below(cost(b)) { b } else { a });
        let busiest = busiest.and_then(|(member, _)| members.get(member)).map(|member| member.backend);
        Some(Choice { member, position, busiest })
    }

    /// Remembers the choice; a set of `lblcr` that was the same for a day loses its busiest member.
    pub(super) fn commit(
        &self,
        cache: &mut LocalityCache,
        word: u64,
        backend: BackendIndex,
        busiest: Option<BackendIndex>,
        now: Millis,
    ) {
        let Some(place) = cache.place(word, now) else { return };
        if !place.backends.contains(&backend) {
            if !self.replicates {
                place.backends = [BackendIndex::NONE; SET_MAX];
            }
            place.add(backend);
            place.changed = now;
        }
        let is_set = place.backends().nth(1).is_some();
        if is_set && now.since(place.changed) > UNCHANGED_MAX_MS {
            place.remove(busiest.unwrap_or(BackendIndex::NONE));
            place.changed = now;
        }
    }
}

/// Whether a member has less than half of the active connections that its weight says.
fn somebody_is_half_idle(members: &[Member], first: usize, loads: &impl Loads) -> bool {
    takers(members, first, loads)
        .any(|(member, weight)| u64::from(loads.load(member).active) * 2 < u64::from(weight))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Busy, members};
    use super::*;

    const DAY_MS: u32 = UNCHANGED_MAX_MS;

    struct Fixture {
        scheduler: Locality,
        members: Vec<Member>,
        cache: LocalityCache,
        busy: Busy,
    }

    impl Fixture {
        fn new(replicates: bool, weights: &[u32]) -> Self {
            let scheduler = Locality { hash: HashKey::Source, replicates };
            let (cache, busy) = (LocalityCache::default(), Busy::idle(weights.len()));
            Self { scheduler, members: members(weights), cache, busy }
        }

        fn schedule(&mut self, word: u64, now: u32) -> usize {
            let Self { scheduler, members, cache, busy } = self;
            let position = Position::default();
            let choice = scheduler.choose(members, 0, word, Some(cache), position, busy).unwrap();
            let backend = members[choice.member].backend;
            scheduler.commit(cache, word, backend, choice.busiest, Millis(now));
            choice.member
        }
    }

    #[test]
    fn a_key_stays_with_its_member_until_that_has_too_much_and_another_little_to_do() {
        let mut fixture = Fixture::new(false, &[10, 10]);
        assert_eq!(fixture.schedule(7, 0), 0);
        fixture.busy.loads[0].active = 10;
        assert_eq!(fixture.schedule(8, 0), 1, "another key goes to who has the least to do");
        assert_eq!(fixture.schedule(7, 0), 0, "as many as its weight is not too much");
        fixture.busy.loads[0].active = 11;
        fixture.busy.loads[1].active = 5;
        assert_eq!(fixture.schedule(7, 0), 0, "nobody is half idle");
        fixture.busy.loads[1].active = 4;
        assert_eq!(fixture.schedule(7, 0), 1);
        fixture.busy.loads[0].active = 0;
        assert_eq!(fixture.schedule(7, 0), 1, "it has moved for good");
    }

    #[test]
    fn a_member_that_is_quiesced_or_full_or_gone_loses_its_keys() {
        for lose in [
            (|fixture| fixture.members[0].weight = 0) as fn(&mut Fixture),
            |fixture| fixture.busy.full.push(0),
            |fixture| {
                fixture.members.remove(0);
            },
        ] {
            let mut fixture = Fixture::new(false, &[10, 10]);
            assert_eq!(fixture.schedule(7, 0), 0);
            lose(&mut fixture);
            let chosen = fixture.schedule(7, 0);
            assert_eq!(fixture.members[chosen].backend, BackendIndex(1));
        }
    }

    #[test]
    fn a_set_grows_under_load_and_loses_its_busiest_after_a_day_without_change() {
        let mut fixture = Fixture::new(true, &[10, 10]);
        assert_eq!(fixture.schedule(7, 0), 0);
        fixture.busy.loads[0].active = 11;
        assert_eq!(fixture.schedule(7, 1), 1);
        fixture.busy.loads[1].active = 12;
        assert_eq!(fixture.schedule(7, 2), 0, "the least of the set");
        assert_eq!(fixture.schedule(7, 1 + DAY_MS), 0);
        fixture.busy.loads[1].active = 11;
        fixture.busy.loads[0].active = 12;
        assert_eq!(fixture.schedule(7, 2 + DAY_MS), 1, "and 0 leaves");
        fixture.busy.loads[0].active = 0;
        fixture.busy.loads[1].active = 10;
        assert_eq!(fixture.schedule(7, 3 + DAY_MS), 1);
    }

    #[test]
    fn a_full_set_and_a_full_row_forget_the_oldest() {
        let mut place = Place { word: 1, ..Place::FREE };
        (0..14).for_each(|n| place.add(BackendIndex(n)));
        assert_eq!(
            place.backends().map(|backend| backend.0).collect::<Vec<_>>(),
            (2..14).collect::<Vec<_>>()
        );
        place.remove(BackendIndex(5));
        assert_eq!(place.backends().count(), 11);

        let mut cache = LocalityCache::default();
        // Their upper halves choose the row: these are all in the first one.
        for (now, word) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 1), (5, 5)] {
            cache.place(word, Millis(now)).unwrap();
        }
        assert_eq!([1, 2, 3, 4, 5].map(|word| cache.find(word).is_some()), [true, false, true, true, true]);
    }
}
