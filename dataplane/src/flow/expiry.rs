//! The hand that sweeps: connections idle beyond their timeout are forgotten, and where open connections take more
//! than their part of the table, idle ones are evicted.
//!
//! It visits every entry that was ever used once in [`SWEEP_PERIOD_MS`], a few a turn of the worker's loop,
//! so a turn's cost is bounded whatever the fill. A connection outlives its timeout by about one period; longer
//! where the loop turns so slowly, or so many end together, that a turn's bounds put the rest off to the next turns.
//!
//! Evicting it is the hand of a CLOCK (Corbato, "A Paging Experiment with the Multics System", 1968): what saw a packet
//! since the hand last passed is spared. There is no bit to set a packet: the time of a flow's last packet says as much.

use arrayvec::ArrayVec;

use super::entry::Entry;
use super::table::{FlowTable, IDLE_MIN_MS};
use crate::index::EntryIndex;
use crate::time::Millis;

/// Time in which the hand goes round the table once, in milliseconds.
pub const SWEEP_PERIOD_MS: u32 = 4_000;
/// Entries visited in one turn at most: 64 bytes each, read in order.
pub const ENTRIES_PER_TURN_MAX: u32 = 512;
/// Connections forgotten in one turn at most: two entries and two buckets each, at random places in memory.
pub const FORGOTTEN_PER_TURN_MAX: usize = 64;

/// Connections that the hand forgot in one turn, by their first entry; the caller settles their accounts.
#[derive(Debug, Default)]
pub struct Swept {
    /// They outlived their timeout.
    pub expired: ArrayVec<Entry, FORGOTTEN_PER_TURN_MAX>,
    /// Of the expired, those whose ends are to be told, with the flow back to the client where there were two entries.
    pub to_tell: ArrayVec<(Entry, Option<Entry>), FORGOTTEN_PER_TURN_MAX>,
    /// They were idle, and the table is short of room.
    pub evicted: ArrayVec<Entry, FORGOTTEN_PER_TURN_MAX>,
}

/// Forgets the connection at `index`, its first entry.
fn expire(table: &mut FlowTable, index: EntryIndex, swept: &mut Swept) {
    let back = table.entry(index.peer()).filter(|back| back.is_paired()).copied();
    let Some(entry) = table.remove(index) else { return };
    swept.expired.push(entry);
    if entry.watch.tells_on_timeout() {
        swept.to_tell.push((entry, back));
    }
}

/// Why a connection is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Expired,
    Evicted,
}

/// Where the hand stands.
#[derive(Debug, Default)]
pub struct Hand {
    at: u32,
    last_turn: Millis,
    /// Entries that time asks to be visited and that no turn has visited yet.
    owed: u32,
    round_began: Millis,
    /// How long the last round took: so long ago the hand passed before.
    round_ms: u32,
}

impl Hand {
    /// Moves the hand as far as the time since the last turn asks for, within the turn's bounds; what it could not
    /// do is owed, and done in the next turns. When connections have to be evicted it goes as far as it may.
    pub fn sweep(&mut self, table: &mut FlowTable, now: Millis, swept: &mut Swept) {
        let end = table.used_end();
        self.owe(end, now);
        let mut excess = table.excess();
        let due = if excess > 0 { end } else { self.owed };
        let visits_max = due.min(ENTRIES_PER_TURN_MAX);
        let mut visited = 0;
        let mut leaving = ArrayVec::<_, FORGOTTEN_PER_TURN_MAX>::new();
        while visited < visits_max && !leaving.is_full() {
            if self.at >= end {
                self.begin_round(now);
            }
            let index = EntryIndex(self.at);
            let (entries, cause) = self.judge(table, index, now, excess > 0);
            if let Some(cause) = cause {
                // All that go are fetched first and removed then, so that the misses of the caches overlap.
                table.prefetch_removal(index);
                leaving.push((index, cause));
                excess = excess.saturating_sub(entries);
            }
            self.at += entries;
            visited += entries;
        }
        self.owed = self.owed.saturating_sub(visited);
        for (index, cause) in leaving {
            match cause {
                Cause::Expired => expire(table, index, swept),
                Cause::Evicted => swept.evicted.extend(table.remove(index)),
            }
        }
    }

    /// Adds what the time since the last turn asks for; once round is all there is to do.
    fn owe(&mut self, end: u32, now: Millis) {
        let elapsed_ms = now.since(self.last_turn);
        if elapsed_ms > 0 {
            self.last_turn = now;
            let due = (u64::from(end) * u64::from(elapsed_ms)).div_ceil(u64::from(SWEEP_PERIOD_MS));
            self.owed = (u64::from(self.owed) + due).min(u64::from(end)) as u32;
        }
    }

    fn begin_round(&mut self, now: Millis) {
        self.at = 0;
        self.round_ms = now.since(self.round_began);
        self.round_began = now;
    }

    /// How many entries the connection at `index` takes, and why it is forgotten, if it is. A pair is judged at its first
    /// entry.
    fn judge(
        &self,
        table: &FlowTable,
        index: EntryIndex,
        now: Millis,
        is_short: bool,
    ) -> (u32, Option<Cause>) {
        let Some(entry) = table.entry(index) else { return (1, None) };
        if entry.rewrite.is_to_client() {
            return (1, None);
        }
        let entries = if entry.is_paired() { 2 } else { 1 };
        let spare_ms = if is_short { self.spare_ms(entry) } else { u32::MAX };
        let bound_ms = entry.timeout_ms().min(spare_ms);
        // The other entry of a pair is read only when this one has been idle.
        if now.since(entry.last_seen) <= bound_ms {
            return (entries, None);
        }
        let idle_ms = now.since(table.last_seen(index));
        let cause = if idle_ms > entry.timeout_ms() {
            Some(Cause::Expired)
        } else {
            (idle_ms > spare_ms).then_some(Cause::Evicted)
        };
        (entries, cause)
    }

    /// Idle time up to which a connection is spared when room is short, in milliseconds. One that is over waits for
    /// nothing but late packets. Half-open ones are not what there is too much of: [`FlowTable`] evicts them.
    fn spare_ms(&self, entry: &Entry) -> u32 {
        if entry.state.is_half_open() {
            u32::MAX
        } else if entry.is_over() {
            IDLE_MIN_MS
        } else {
            self.round_ms.clamp(IDLE_MIN_MS, SWEEP_PERIOD_MS)
        }
    }
}

#[cfg(test)]
mod tests {
    use cpu::Backing;

    use super::*;
    use crate::flow::table::Evicted;
    use crate::flow::tcp_state::TcpState;
    use crate::flow::{FlowKey, HashSecret, Rewrite};
    use crate::index::BackendIndex;
    use crate::wire::PortPair;

    fn entry(number: u32, rewrite: Rewrite, timeout_ms: u32) -> Entry {
        let ports = PortPair::new(number as u16, 1);
        let key = FlowKey { ports, protocol: 17, ..FlowKey::NONE };
        let mut entry = Entry::new(&key, rewrite, BackendIndex(0));
        entry.state = TcpState::Udp;
        entry.set_timeout_ms(timeout_ms);
        entry
    }

    fn sweep_until(hand: &mut Hand, table: &mut FlowTable, from: u32, until: u32) -> Vec<Entry> {
        let mut gone = Vec::new();
        for now in from..=until {
            let mut swept = Swept::default();
            hand.sweep(table, Millis(now), &mut swept);
            assert!(swept.evicted.is_empty(), "there is room");
            gone.extend(swept.expired);
        }
        gone
    }

    #[test]
    fn an_idle_connection_goes_within_a_period_of_its_timeout_and_not_before() {
        let mut table = FlowTable::new(
            1_000,
            Backing::Plain,
            HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]),
        )
        .unwrap();
        let mut hand = Hand::default();
        for number in 0..1_000 {
            let entry = entry(number, Rewrite::Dr, 10_000);
            table.insert(entry, Millis(0), &mut Evicted::new()).unwrap();
        }
        assert_eq!(sweep_until(&mut hand, &mut table, 1, 10_000).len(), 0);
        assert_eq!(sweep_until(&mut hand, &mut table, 10_001, 10_001 + SWEEP_PERIOD_MS).len(), 1_000);
        assert_eq!(table.used(), 0);
    }

    #[test]
    fn packets_either_way_keep_a_pair() {
        let mut table = FlowTable::new(
            64,
            Backing::Plain,
            HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]),
        )
        .unwrap();
        let mut hand = Hand::default();
        let forward = entry(1, Rewrite::FullnatToBackend, 1_000);
        let back = entry(2, Rewrite::FullnatToClient, 1_000);
        let index = table.insert_pair(forward, back, Millis(0), &mut Evicted::new()).unwrap();
        table.entry_mut(index.peer()).unwrap().last_seen = Millis(5_000);
        assert_eq!(sweep_until(&mut hand, &mut table, 1, 6_000).len(), 0);
        let gone = sweep_until(&mut hand, &mut table, 6_001, 6_001 + SWEEP_PERIOD_MS);
        assert_eq!(gone.len(), 1, "a pair is one connection");
        assert_eq!(gone[0].rewrite, Rewrite::FullnatToBackend);
    }

    /// A table for 1,024 entries of open connections, and 1,056 connections that opened: idle since the moment told.
    fn overfull(last_seen: impl Fn(u32) -> u32) -> FlowTable {
        let secret = HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let mut table = FlowTable::new(1_024, Backing::Plain, secret).unwrap();
        for number in 0..table.entry_count() {
            let seen = Millis(last_seen(number));
            let state = TcpState::SynRecv;
            let mut entry = entry(number, Rewrite::Dr, 60_000);
            (entry.last_seen, entry.state) = (seen, state);
            let index = table.insert(entry, seen, &mut Evicted::new()).unwrap();
            table.set_state(index, TcpState::Established, 900_000);
        }
        table
    }

    fn evicted_in_turns(hand: &mut Hand, table: &mut FlowTable, now: u32, turns: u32) -> Vec<u16> {
        let mut gone = Vec::new();
        for _ in 0..turns {
            let mut swept = Swept::default();
            hand.sweep(table, Millis(now), &mut swept);
            assert!(swept.expired.is_empty());
            gone.extend(swept.evicted.iter().map(|entry| entry.key().ports.source()));
        }
        gone
    }

    #[test]
    fn open_connections_beyond_their_part_are_evicted_when_idle_and_only_so_many() {
        // Every other one moved a moment ago.
        let mut table = overfull(|number| if number % 2 == 0 { 99_500 } else { 50_000 });
        let gone = evicted_in_turns(&mut Hand::default(), &mut table, 100_000, 10);
        assert_eq!((gone.len(), table.used()), (32, 1_024));
        assert!(gone.iter().all(|number| number % 2 == 1));
    }

    #[test]
    fn what_saw_a_packet_since_the_hand_last_passed_is_spared() {
        let mut table = overfull(|number| if number < 1_000 { 9_000 } else { 3_000 });
        let mut hand = Hand::default();
        // Rounds of four seconds, the last one complete at 8,000.
        for now in (0..=8_000).step_by(10) {
            let early = table.used_end();
            hand.owe(early, Millis(now));
            hand.at += std::mem::take(&mut hand.owed);
            if hand.at >= early {
                hand.begin_round(Millis(now));
            }
        }
        let gone = evicted_in_turns(&mut hand, &mut table, 11_000, 3);
        assert_eq!(gone.len(), 32);
        assert!(gone.iter().all(|number| *number >= 1_000), "{gone:?}");
    }

    #[test]
    fn a_connection_that_is_over_goes_before_one_that_is_idle() {
        let mut table = overfull(|_| 98_000);
        for index in (0..table.entry_count()).step_by(10).map(EntryIndex) {
            table.set_state(index, TcpState::TimeWait, 120_000);
        }
        let mut hand = Hand { round_ms: SWEEP_PERIOD_MS, ..Hand::default() };
        let gone = evicted_in_turns(&mut hand, &mut table, 100_000, 3);
        assert_eq!(gone.len(), 32);
        assert!(gone.iter().all(|number| number % 10 == 0), "{gone:?}");
    }

    #[test]
    fn when_all_move_none_is_evicted() {
        let mut table = overfull(|_| 100_000);
        assert_eq!(evicted_in_turns(&mut Hand::default(), &mut table, 100_500, 100), []);
    }
}
