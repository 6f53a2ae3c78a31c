//! Walks over the whole table, a few entries a turn of the worker's loop: for `crossdock flows`, for `flows delete`, and
//! for what the rules say about the connections of backends that have left. Not the hand that expires: see
//! [`super::expiry`].
//!
//! A turn visits at most [`ENTRIES_PER_TURN`] entries for the purge and as many for one of the orders, so its cost is
//! constant whatever the fill. The worker neither waits for a reader nor loses a record: where a reader's queue is full
//! its walk stands still until there is room, and everything else goes on.
//!
//! The guarantee: a connection that lives from the beginning of a walk to its end is visited, once; twice where it was
//! moved in the table meanwhile, which it is upwards only (`FlowTable::make_pair`). One that is made or ends during the
//! walk may be visited or not. Each record is of one instant; two records are not. A walk ends after at most
//! `capacity / ENTRIES_PER_TURN` turns of its own, plus those in which its reader had no room, or in which as many
//! connections were removed as one turn may ([`REMOVALS_MAX`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::entry::{Entry, Rewrite};
use super::filter::Filter;
use super::key::FlowKey;
use super::table::FlowTable;
use super::tcp_state::TcpState;
use crate::counters::Counter;
use crate::device::BURST_MAX;
use crate::index::{EntryIndex, ServiceIndex};
use crate::rules::{Backend, Fate, Ruleset};
use crate::time::Millis;

/// Entries visited in one turn for one walk: 64 bytes each, read in order.
pub const ENTRIES_PER_TURN: u32 = 64;
/// Connections removed in one turn at most: a RST to each end of each fits a burst.
pub const REMOVALS_MAX: usize = BURST_MAX / 2;
/// Orders that one worker works at, at a time; they take turns.
pub const WALKS_MAX: usize = 4;

/// Why a connection was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `flows delete`.
    Deleted,
    /// Its backend's fate, which is not [`Fate::Finish`].
    Fate(Fate),
}

/// A connection that was removed; the caller settles its accounts, and tells its ends where that is called for.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// The first entry of the connection, as it was.
    pub entry: Entry,
    /// The flow back to the client, where there were two entries.
    pub back: Option<Entry>,
    /// Why.
    pub cause: Cause,
}

/// The connections that one turn removed.
pub type Removals = ArrayVec<Removal, REMOVALS_MAX>;

/// A connection as of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The flow from the client to the VIP.
    pub key: FlowKey,
    /// How the client's packets are rewritten.
    pub rewrite: Rewrite,
    /// Its state.
    pub state: TcpState,
    /// Its service.
    pub service: ServiceIndex,
    /// What the client's packets are rewritten to, where addresses are.
    pub new_key: Option<FlowKey>,
    /// Its backend; `None` where the rules no longer know it.
    pub backend: Option<Backend>,
    /// Time since its last packet, either way, in milliseconds.
    pub idle_ms: u32,
    /// Idle time after which it is forgotten, in milliseconds.
    pub timeout_ms: u32,
}

impl Record {
    fn new(entry: &Entry, back: Option<&Entry>, idle_ms: u32, rules: &Ruleset) -> Self {
        let Entry { rewrite, state, service, .. } = *entry;
        Self {
            key: entry.key(),
            rewrite,
            state,
            service,
            new_key: back.map(|back| back.key().reversed()),
            backend: rules.backend(entry.backend()).copied(),
            idle_ms,
            timeout_ms: entry.timeout_ms(),
        }
    }
}

/// What is done with each connection that the filter matches; all of them are counted.
#[derive(Clone, Debug)]
pub enum Task {
    /// Nothing.
    Count,
    /// Its record goes to this queue.
    List(Arc<ArrayQueue<Record>>),
    /// It is forgotten: its next packet is that of an unknown connection.
    Delete,
}

/// How far a walk is: written by the worker, but for the wish to end it.
#[derive(Debug, Default)]
pub struct Progress {
    matched: Counter,
    ended: AtomicBool,
    cancelled: AtomicBool,
}

impl Progress {
    /// Connections that were counted, told or deleted so far; all of them once the walk has ended.
    pub fn matched(&self) -> u64 {
        self.matched.value()
    }

    /// Whether the walk is over. A reader asks before it empties the queue: what is there then is the rest.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the walk soon, wherever it is.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// A walk that control asks for. Control keeps a share of everything in it, and gets it back to free it.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is done.
    pub task: Task,
    /// With which connections.
    pub filter: Filter,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// The two ends between control and one worker: orders go there, those that have ended come back.
///
/// Between two calls of [`Self::start`] no more can end than wait and are worked at after the first of them, so there is
/// room for those.
#[derive(Clone, Debug)]
pub struct WalkQueue {
    orders: Arc<ArrayQueue<Order>>,
    ended: Arc<ArrayQueue<Order>>,
}

impl Default for WalkQueue {
    fn default() -> Self {
        let queue = |capacity| Arc::new(ArrayQueue::new(capacity));
        Self { orders: queue(WALKS_MAX), ended: queue(2 * WALKS_MAX) }
    }
}

impl WalkQueue {
    /// Control: asks for a walk; gives the order back when too many are under way.
    ///
    /// # Errors
    /// The order itself.
    pub fn start(&self, order: Order) -> Result<(), Order> {
        self.free_ended();
        self.orders.push(order)
    }

    /// Control: frees the orders that have ended.
    pub fn free_ended(&self) {
        while self.ended.pop().is_some() {}
    }
}

/// The walks of one worker.
#[derive(Debug, Default)]
pub struct Walks {
    queue: WalkQueue,
    /// With the entry that each visits next.
    orders: ArrayVec<(Order, EntryIndex), WALKS_MAX>,
    /// Whose turn it was.
    latest: usize,
    /// The next entry of the walk that removes connections as their backends' fates say.
    purge: Option<EntryIndex>,
}

impl Walks {
    /// Control's ends.
    pub fn queue(&self) -> &WalkQueue {
        &self.queue
    }

    /// Whether there is nothing to do.
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.purge.is_none() && self.queue.orders.is_empty()
    }

    /// From the next turn on, removes the connections of backends whose fate is not to finish.
    pub fn start_purge(&mut self) {
        self.purge = Some(EntryIndex(0));
    }

    /// Goes on with the purge and with one of the orders; what is removed is added to `removals`, which is empty when
    /// called. Whether anything moved.
    pub fn turn(
        &mut self,
        table: &mut FlowTable,
        rules: &Ruleset,
        now: Millis,
        removals: &mut Removals,
    ) -> bool {
        while !self.orders.is_full() && !self.queue.orders.is_empty() {
            self.orders.extend(self.queue.orders.pop().map(|order| (order, EntryIndex(0))));
        }
        let mut visitor = Visitor { table, rules, now, removals };
        let mut moved = false;
        if let Some(at) = &mut self.purge {
            let step = visitor.advance(Errand::Purge, at);
            moved = step != Step::Waits;
            if step == Step::Ended {
                self.purge = None;
            }
        }
        // One that waits for its reader leaves its turn to the others.
        for _ in 0..self.orders.len() {
            if self.turn_of_next(&mut visitor) != Step::Waits {
                return true;
            }
        }
        moved
    }

    fn turn_of_next(&mut self, visitor: &mut Visitor<'_>) -> Step {
        self.latest = if self.latest + 1 < self.orders.len() { self.latest + 1 } else { 0 };
        let Some((order, at)) = self.orders.get_mut(self.latest) else { return Step::Waits };
        let cancelled = order.progress.cancelled.load(Ordering::Relaxed);
        let step = if cancelled { Step::Ended } else { visitor.advance(Errand::Order(order), at) };
        if step == Step::Ended {
            order.progress.ended.store(true, Ordering::Release);
            if let Some((order, _)) = self.orders.swap_pop(self.latest) {
                // There is room: see `WalkQueue`.
                let _ = self.queue.ended.push(order);
            }
        }
        step
    }
}

/// What a visit is for.
#[derive(Clone, Copy)]
enum Errand<'a> {
    Purge,
    Order(&'a Order),
}

/// What became of a walk in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It has entries before it.
    Moved,
    /// Its reader has no room, or the turn's removals are used up.
    Waits,
    /// It has seen all entries.
    Ended,
}

/// What a visit may read and change.
struct Visitor<'a> {
    table: &'a mut FlowTable,
    rules: &'a Ruleset,
    now: Millis,
    removals: &'a mut Removals,
}

impl Visitor<'_> {
    /// Visits entries from `at` on until the turn's bound, or up to one that has to wait: the next turn begins there.
    fn advance(&mut self, errand: Errand<'_>, at: &mut EntryIndex) -> Step {
        let start = *at;
        for _ in 0..ENTRIES_PER_TURN {
            // Read anew each time: connections are made while the walk is under way.
            if at.0 >= self.table.used_end() {
                return Step::Ended;
            }
            if !self.visit(errand, *at) {
                return if *at == start { Step::Waits } else { Step::Moved };
            }
            at.0 += 1;
        }
        Step::Moved
    }

    /// Does the errand at `index`; false where it has to be tried again.
    #[inline(always)]
    fn visit(&mut self, errand: Errand<'_>, index: EntryIndex) -> bool {
        let Some(entry) = self.table.entry(index) else { return true };
        if entry.is_paired() && !index.0.is_multiple_of(2) {
            // Its connection was visited at its first entry.
            return true;
        }
        match errand {
            Errand::Purge => match self.rules.backend(entry.backend()).map(|backend| backend.fate) {
                None | Some(Fate::Finish) => true,
                Some(fate) => self.remove(index, Cause::Fate(fate)),
            },
            Errand::Order(order) => {
                let idle_ms = self.now.since(self.table.last_seen(index));
                if !order.filter.matches(entry, idle_ms, self.rules) {
                    return true;
                }
                let done = match &order.task {
                    Task::Count => true,
                    Task::List(queue) => {
                        let back = self.table.entry(index.peer()).filter(|_| entry.is_paired());
                        queue.push(Record::new(entry, back, idle_ms, self.rules)).is_ok()
                    }
                    Task::Delete => self.remove(index, Cause::Deleted),
                };
                order.progress.matched.add(u64::from(done));
                done
            }
        }
    }

    /// Removes the connection whose first entry is at `index`, unless this turn has removed its share.
    fn remove(&mut self, index: EntryIndex, cause: Cause) -> bool {
        if self.removals.is_full() {
            return false;
        }
        let back = self.table.entry(index.peer()).filter(|back| back.is_paired()).copied();
        if let Some(entry) = self.table.remove(index) {
            self.removals.push(Removal { entry, back, cause });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use cpu::Backing;
    use proptest::prelude::*;

    use super::*;
    use crate::flow::HashSecret;
    use crate::flow::table::Evicted;
    use crate::index::BackendIndex;
    use crate::wire::PortPair;

    const SECRET: HashSecret = HashSecret::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
    const NOW: Millis = Millis(5_000);

    /// A table, its walks, and what a reader and the worker got from them.
    struct Bench {
        table: FlowTable,
        walks: Walks,
        rules: Ruleset,
        removed: Vec<Removal>,
    }

    impl Bench {
        /// Two backends, the second one's connections to be moved.
        fn new(capacity: u32) -> Self {
            let table = FlowTable::new(capacity, Backing::Plain, SECRET).unwrap();
            let backend = Backend::new([10, 0, 0, 11], 8080, ServiceIndex(0));
            let backends = [backend, Backend { fate: Fate::Move, ..backend }].into();
            let rules = Ruleset { backends, ..Ruleset::default() };
            Self { table, walks: Walks::default(), rules, removed: Vec::new() }
        }

        fn entry(&self, number: u32, rewrite: Rewrite) -> Entry {
            let ports = PortPair::new(number as u16, 80);
            let key = FlowKey { ports, protocol: 17, ..FlowKey::NONE };
            let mut entry = Entry::new(&key, rewrite, BackendIndex(number % 2));
            entry.state = TcpState::Udp;
            entry.set_timeout_ms(9_000);
            entry
        }

        /// Whether there was room for it.
        fn make(&mut self, number: u32, paired: bool) -> bool {
            let mut evicted = Evicted::new();
            let made = if paired {
                let forward = self.entry(number, Rewrite::FullnatToBackend);
                let back = self.entry(number + 10_000, Rewrite::FullnatToClient);
                self.table.insert_pair(forward, back, Millis(0), &mut evicted)
            } else {
                let entry = self.entry(number, Rewrite::Dr);
                self.table.insert(entry, Millis(0), &mut evicted)
            };
            assert!(evicted.is_empty());
            made.is_ok()
        }

        fn unmake(&mut self, number: u32) {
            let key = self.entry(number, Rewrite::Dr).key();
            let index = self.table.find(self.table.hash(&key), &key);
            self.table.remove(index).unwrap();
        }

        fn order(&self, task: Task, filter: Filter) -> Arc<Progress> {
            let progress = Arc::<Progress>::default();
            let order = Order { task, filter, progress: Arc::clone(&progress) };
            self.walks.queue().start(order).unwrap();
            progress
        }

        fn list(&self, queue_len: usize) -> (Arc<ArrayQueue<Record>>, Arc<Progress>) {
            let queue = Arc::new(ArrayQueue::new(queue_len));
            let progress = self.order(Task::List(Arc::clone(&queue)), Filter::default());
            (queue, progress)
        }

        fn turn(&mut self) -> bool {
            let mut removals = Removals::new();
            let moved = self.walks.turn(&mut self.table, &self.rules, NOW, &mut removals);
            self.removed.extend(removals);
            moved
        }
    }

    fn number_of(record: &Record) -> u32 {
        record.key.ports.source().into()
    }

    #[test]
    fn a_slow_reader_stops_its_own_walk_and_loses_nothing() {
        let mut bench = Bench::new(1_000);
        (0..500).for_each(|number| assert!(bench.make(number, number % 3 == 0) || number > 400));
        let (slow, slow_progress) = bench.list(3);
        let (quick, quick_progress) = bench.list(64);
        let mut quick_told = 0;
        while !quick_progress.has_ended() {
            assert!(bench.turn());
            quick_told += std::iter::from_fn(|| quick.pop()).count();
        }
        assert!((slow.len() == 3) && !slow_progress.has_ended() && !bench.turn(), "it waits");
        let mut slow_told = Vec::new();
        while !slow_progress.has_ended() {
            slow_told.extend(slow.pop());
            bench.turn();
        }
        slow_told.extend(std::iter::from_fn(|| slow.pop()));
        assert_eq!((slow_told.len(), slow_progress.matched()), (quick_told, quick_told as u64));
        assert_eq!(slow_told.iter().map(number_of).collect::<HashSet<_>>().len(), quick_told, "each once");
        assert!(bench.walks.is_idle());
    }

    #[test]
    fn a_record_says_how_things_stand() {
        let mut bench = Bench::new(64);
        assert!(bench.make(1, true));
        let index = bench
            .table
            .find(bench.table.hash(&bench.entry(1, Rewrite::Dr).key()), &bench.entry(1, Rewrite::Dr).key());
        bench.table.entry_mut(index.peer()).unwrap().last_seen = Millis(4_000);
        let (queue, _) = bench.list(8);
        bench.turn();
        let record = queue.pop().unwrap();
        assert_eq!((record.rewrite, record.state), (Rewrite::FullnatToBackend, TcpState::Udp));
        assert_eq!(
            (record.idle_ms, record.timeout_ms),
            (1_000, 9_000),
            "the latest packet either way counts"
        );
        assert_eq!(record.backend, bench.rules.backend(BackendIndex(1)).copied());
        assert_eq!(record.service, ServiceIndex(0));
        assert_eq!(queue.pop(), None, "a pair is one connection");
    }

    #[test]
    fn deleting_and_counting_keep_to_the_filter_and_a_turn_to_its_bound() {
        let mut bench = Bench::new(400);
        (0..200).for_each(|number| assert!(bench.make(number, number % 4 == 0)));
        let wanted = Filter { backend: None, protocol: Some(6), ..Filter::default() };
        let none = bench.order(Task::Delete, wanted);
        while bench.turn() {}
        assert_eq!((none.matched(), none.has_ended(), bench.removed.len()), (0, true, 0));
        let (deleted, counted) =
            (bench.order(Task::Delete, Filter::default()), bench.order(Task::Count, Filter::default()));
        bench.turn();
        bench.turn();
        assert!(bench.removed.len() <= REMOVALS_MAX);
        while bench.turn() {}
        assert_eq!((deleted.matched(), bench.removed.len(), bench.table.used()), (200, 200, 0));
        assert!(deleted.has_ended() && counted.has_ended() && counted.matched() <= 200);
        let pairs = bench.removed.iter().filter(|removal| removal.back.is_some());
        assert!(pairs.clone().all(|removal| removal.entry.rewrite == Rewrite::FullnatToBackend));
        assert_eq!(pairs.count(), 50);
    }

    #[test]
    fn a_purge_takes_what_the_fates_say_and_a_cancelled_order_ends() {
        let mut bench = Bench::new(400);
        (0..200).for_each(|number| assert!(bench.make(number, number % 4 < 2)));
        let (queue, progress) = bench.list(1);
        bench.walks.start_purge();
        progress.cancel();
        let turns = (0..).take_while(|_| bench.turn()).count();
        assert!(turns <= 200 / REMOVALS_MAX + 400 / ENTRIES_PER_TURN as usize + 2, "{turns} turns");
        assert!(progress.has_ended() && queue.is_empty());
        assert_eq!(bench.removed.len(), 100);
        let is_right = |removal: &Removal| {
            removal.entry.backend() == BackendIndex(1) && removal.cause == Cause::Fate(Fate::Move)
        };
        assert!(bench.removed.iter().all(is_right));
        bench.walks.queue().free_ended();
        assert_eq!((Arc::strong_count(&queue), Arc::strong_count(&progress)), (1, 1), "the order is back");
    }

    #[test]
    fn orders_beyond_the_bound_are_given_back_until_some_have_ended() {
        let mut bench = Bench::new(64);
        assert!(bench.make(1, false));
        let waiting: Vec<_> = (0..WALKS_MAX).map(|_| bench.list(1)).collect();
        bench.turn();
        let more: Vec<_> = (0..WALKS_MAX).map(|_| bench.list(1)).collect();
        let order = Order { task: Task::Count, filter: Filter::default(), progress: Arc::default() };
        assert!(bench.walks.queue().start(order.clone()).is_err());
        while bench.turn() {}
        assert!(
            waiting.iter().chain(&more).all(|(queue, progress)| progress.has_ended() && queue.len() == 1)
        );
        assert!(bench.walks.queue().start(order).is_ok());
    }

    proptest! {
        #[test]
        fn every_connection_that_lives_through_a_walk_is_told(
            before in proptest::collection::vec((0u32..400, any::<bool>()), 100..300),
            during in proptest::collection::vec((0u32..400, 0u8..6), 1..400),
        ) {
            // Nearly full: pairs are made by moving one-way connections out of the way.
            let mut bench = Bench::new(256);
            let mut living: HashMap<u32, bool> = HashMap::new();
            for (number, paired) in before {
                if !living.contains_key(&number) && bench.table.used() < 256 && bench.make(number, paired) {
                    living.insert(number, paired);
                }
            }
            let mut lived_through: HashSet<u32> = living.keys().copied().collect();
            let (queue, progress) = bench.list(7);
            let mut told = HashSet::new();
            for (number, step) in during {
                match (step, living.contains_key(&number)) {
                    (0 | 1, true) => {
                        bench.unmake(number);
                        living.remove(&number);
                        lived_through.remove(&number);
                    }
                    (2 | 3, false) if bench.table.used() <= 254 => {
                        if bench.make(number, step == 2) {
                            living.insert(number, step == 2);
                        }
                    }
                    _ => { bench.turn(); }
                }
                told.extend(queue.pop().as_ref().map(number_of));
            }
            loop {
                let is_rest = progress.has_ended();
                told.extend(std::iter::from_fn(|| queue.pop()).map(|record| number_of(&record)));
                if is_rest {
                    break;
                }
                bench.turn();
            }
            prop_assert!(lived_through.is_subset(&told), "missed: {:?}", lived_through.difference(&told));
        }
    }
}
