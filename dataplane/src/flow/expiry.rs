//! The hand that sweeps: connections idle beyond their timeout are forgotten.
//!
//! It visits every entry that was ever used once in [`SWEEP_PERIOD_MS`], a few a turn of the worker's loop,
//! so a turn's cost is bounded whatever the fill. A connection outlives its timeout by about one period; longer
//! where the loop turns so slowly, or so many end together, that a turn's bounds put the rest off to the next turns.

use arrayvec::ArrayVec;

use super::entry::{Entry, Rewrite};
use super::table::FlowTable;
use crate::index::EntryIndex;
use crate::time::Millis;

/// Time in which the hand goes round the table once, in milliseconds.
pub const SWEEP_PERIOD_MS: u32 = 4_000;
/// Entries visited in one turn at most: 64 bytes each, read in order.
pub const ENTRIES_PER_TURN_MAX: u32 = 512;
/// Connections forgotten in one turn at most.
const EXPIRED_MAX: usize = 64;

/// Connections that expired, by their first entry; the caller settles their accounts.
pub type Expired = ArrayVec<Entry, EXPIRED_MAX>;

/// Where the hand stands.
#[derive(Debug, Default)]
pub struct Hand {
    at: u32,
    last_turn: Millis,
    /// Entries that time asks to be visited and that no turn has visited yet.
    owed: u64,
}

impl Hand {
    /// Moves the hand as far as the time since the last turn asks for, within the turn's bounds; what it could not
    /// do is owed, and done in the next turns.
    pub fn sweep(&mut self, table: &mut FlowTable, now: Millis, expired: &mut Expired) {
        let end = table.used_end();
        let elapsed_ms = now.since(self.last_turn);
        if elapsed_ms > 0 {
            self.last_turn = now;
            let due = (u64::from(end) * u64::from(elapsed_ms)).div_ceil(u64::from(SWEEP_PERIOD_MS));
            // Once round is all there is to do.
            self.owed = (self.owed + due).min(u64::from(end));
        }
        for _ in 0..self.owed.min(u64::from(ENTRIES_PER_TURN_MAX)) {
            if expired.is_full() {
                return;
            }
            if self.at >= end {
                self.at = 0;
            }
            visit(table, EntryIndex(self.at), now, expired);
            self.at += 1;
            self.owed -= 1;
        }
    }
}

/// Forgets the connection of `index` when it is over; a pair is judged at its first entry.
fn visit(table: &mut FlowTable, index: EntryIndex, now: Millis, expired: &mut Expired) {
    let Some(entry) = table.entry(index) else { return };
    if entry.rewrite == Rewrite::FullnatToClient || now.since(entry.last_seen) <= entry.timeout_ms {
        return;
    }
    if now.since(table.last_seen(index)) > entry.timeout_ms {
        expired.extend(table.remove(index));
    }
}

#[cfg(test)]
mod tests {
    use cpu::Backing;

    use super::*;
    use crate::flow::table::Evicted;
    use crate::flow::tcp_state::TcpState;
    use crate::flow::{FlowKey, HashSecret};
    use crate::wire::{AddressPair, PortPair};

    fn entry(table: &FlowTable, number: u32, rewrite: Rewrite, timeout_ms: u32) -> Entry {
        let key = FlowKey {
            addresses: AddressPair::default(),
            ports: PortPair::new(number as u16, 1),
            protocol: 17,
        };
        let state = TcpState::Udp;
        Entry { key, hash: table.hash(&key), rewrite, state, timeout_ms, ..Entry::default() }
    }

    fn sweep_until(hand: &mut Hand, table: &mut FlowTable, from: u32, until: u32) -> Vec<Entry> {
        let mut gone = Vec::new();
        for now in from..=until {
            let mut expired = Expired::new();
            hand.sweep(table, Millis(now), &mut expired);
            gone.extend(expired);
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
            let entry = entry(&table, number, Rewrite::Dr, 10_000);
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
        let forward = entry(&table, 1, Rewrite::FullnatToBackend, 1_000);
        let back = entry(&table, 2, Rewrite::FullnatToClient, 1_000);
        let index = table.insert_pair(forward, back, Millis(0), &mut Evicted::new()).unwrap();
        table.entry_mut(index.peer()).unwrap().last_seen = Millis(5_000);
        assert_eq!(sweep_until(&mut hand, &mut table, 1, 6_000).len(), 0);
        let gone = sweep_until(&mut hand, &mut table, 6_001, 6_001 + SWEEP_PERIOD_MS);
        assert_eq!(gone.len(), 1, "a pair is one connection");
        assert_eq!(gone[0].rewrite, Rewrite::FullnatToBackend);
    }
}
