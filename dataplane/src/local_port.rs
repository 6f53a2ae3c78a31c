//! FullNAT's local addresses and l4_ports: what connections to backends come from. Pings have identifiers in place of
//! l4_ports, out of the same numbers.
//!
//! A local l4_port belongs to one worker, so an answer finds the flow's owner: without RSS by the l4_port alone, with RSS
//! by the hash of the whole answer ([`Ruleset::owner_of_answer`]), so that the port delivers it there. The same address and port may serve connections to different backends: what must be unique is the
//! whole key of the answer, and the flow table itself tells whether it is taken. A cursor walks over
//! addresses and ports, so a pair just given up rests for the longest time before it is used again.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::flow::{FlowHash, FlowKey, FlowTable};
use crate::index::{EntryIndex, PORTS_MAX, WorkerIndex};
use crate::rules::Ruleset;

/// The least local l4_port: those below are privileged on backends that check.
pub const L4_PORT_MIN: u16 = 1_024;
/// Candidates tried for one connection. Its price: with 90 % of the ports towards one backend in use, spread evenly,
/// one new connection in 800 is refused although a port is free.
const TRIES: u32 = 64;
/// Candidates tried for all new connections of a turn, so that it stays short when hardly a port is free. With 90 % of
/// the ports in use the connections of a whole burst need 320.
const TRIES_PER_TURN: u32 = 512;
/// Candidates tried with each backend even so.
const TRIES_LEAST: u32 = 1;
/// Pools there can be: of each port one of either family.
const LOCAL_POOLS_MAX: usize = 2 * PORTS_MAX;
/// Candidates looked up at once.
const PROBES: usize = 8;

/// The local addresses, of one family, for the backends of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPool {
    /// At least one address, each in one pool only.
    pub addresses: Box<[IpAddr]>,
}

/// One worker's cursors, by pool.
pub struct LocalPorts {
    cursors: [u64; LOCAL_POOLS_MAX],
    worker: WorkerIndex,
    /// In this turn.
    tries_left: u32,
}

impl LocalPorts {
    /// Cursors that start at `seed`: random, so that a restarted director does not reuse at once what it used last.
    pub fn new(worker: WorkerIndex, seed: u64) -> Self {
        Self { cursors: [seed; LOCAL_POOLS_MAX], worker, tries_left: TRIES_PER_TURN }
    }

    /// The worker whose they are.
    pub fn worker(&self) -> WorkerIndex {
        self.worker
    }

    /// A turn begins: there are tries for it again.
    pub fn begin_turn(&mut self) {
        self.tries_left = TRIES_PER_TURN;
    }

    /// A local address and l4_port for a connection to `backend`; `None` when all tried were taken by connections
    /// that are open.
    pub fn choose(
        &mut self,
        rules: &Ruleset,
        pool: (u16, &LocalPool),
        backend: (IpAddr, u16),
        protocol: u8,
        table: &FlowTable,
    ) -> Option<LocalPort> {
        let cursor = self.cursors.get_mut(usize::from(pool.0))?;
        let tries = TRIES.min(self.tries_left.max(TRIES_LEAST));
        let mut half_open = None;
        let mut attempt = 0;
        while attempt < tries {
            // The first is free nearly always; where it is not, the misses of the caches overlap.
            let mut probes = Probes::new();
            for attempt in attempt..tries.min(attempt + if attempt == 0 { 1 } else { PROBES as u32 }) {
                // The steps widen, so that a run of long-lived connections is soon left behind; they are odd, because even
                // ones come back to the same places where the number of ports is even.
                *cursor = cursor.wrapping_add((1 << (attempt / 4)) | 1);
                let local = candidate(pool.1, *cursor, self.worker, backend, rules);
                probes.push((local.map(|local| FlowKey::new(backend, local, protocol)), *cursor));
            }
            attempt += probes.len() as u32;
            self.tries_left = self.tries_left.saturating_sub(probes.len() as u32);
            let (free, taken) = first_free(&probes, table);
            if let Some((local_port, at)) = free {
                *cursor = at;
                return Some(local_port);
            }
            half_open = half_open.or(taken);
        }
        // Connections that never opened must not keep new ones out: a SYN flood would.
        half_open
    }
}

/// Keys of answers to look for at once, `None` where there is no port, each with its cursor.
type Probes = ArrayVec<(Option<FlowKey>, u64), PROBES>;

/// The first of `probes` that no connection holds, with its cursor; else the first that a half-open one holds.
fn first_free(probes: &Probes, table: &FlowTable) -> (Option<(LocalPort, u64)>, Option<LocalPort>) {
    let hash_of = |key: &FlowKey| {
        let hash = table.hash(key);
        table.prefetch(hash);
        hash
    };
    let hashes: ArrayVec<_, PROBES> =
        probes.iter().map(|(key, _)| key.as_ref().map_or(FlowHash(0), hash_of)).collect();
    let likely: ArrayVec<_, PROBES> = hashes.iter().map(|hash| table.candidate(*hash)).collect();
    let mut half_open = None;
    for (((key, cursor), hash), likely) in probes.iter().zip(hashes).zip(likely) {
        let Some(key) = *key else { continue };
        let holder = table.confirm(likely, hash, &key);
        if holder == EntryIndex::NONE {
            return (Some((LocalPort { key, hash, taken_from: None }, *cursor)), half_open);
        }
        if half_open.is_none() && table.entry(holder).is_some_and(|entry| entry.state.is_half_open()) {
            half_open = Some(LocalPort { key, hash, taken_from: Some(holder) });
        }
    }
    (None, half_open)
}

/// A local address and l4_port, as the flow of the backend's answers.
#[derive(Clone, Copy, Debug)]
pub struct LocalPort {
    /// The flow from the backend to the local address and port.
    pub key: FlowKey,
    /// Its hash.
    pub hash: FlowHash,
    /// A half-open connection that has to be evicted for it.
    pub taken_from: Option<EntryIndex>,
}

/// The address and l4_port at `cursor` among those of one worker: every address once before the next port. `None` where
/// there are none; with RSS and a poor key that may be so at one cursor only.
fn candidate(
    pool: &LocalPool,
    cursor: u64,
    worker: WorkerIndex,
    backend: (IpAddr, u16),
    rules: &Ruleset,
) -> Option<(IpAddr, u16)> {
    let address_count = pool.addresses.len() as u64;
    let address = *pool.addresses.get(cursor.checked_rem(address_count)? as usize)?;
    let cursor = cursor / address_count;
    let l4_port = match (&rules.rss, backend.0, address) {
        (Some(rss), IpAddr::V4(server), IpAddr::V4(local)) => {
            rss.local_port(worker, (server, backend.1), local, cursor)?
        }
        _ => l4_port_of_worker(worker, rules.worker_count.max(1), cursor),
    };
    Some((address, l4_port))
}

/// The l4_port at `cursor` among those that leave `worker` when divided by the number of workers.
fn l4_port_of_worker(worker: WorkerIndex, workers: u16, cursor: u64) -> u16 {
    // The first from L4_PORT_MIN on.
    let first = L4_PORT_MIN.next_multiple_of(workers) + worker.0;
    let first = if first - workers >= L4_PORT_MIN { first - workers } else { first };
    let ports_of_worker = u64::from((u16::MAX - first) / workers) + 1;
    first + ((cursor % ports_of_worker) as u16) * workers
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use cpu::Backing;

    use super::*;
    use crate::flow::table::Evicted;
    use crate::flow::tcp_state::TcpState;
    use crate::flow::{Entry, HashSecret, Rewrite};
    use crate::index::BackendIndex;
    use crate::rules::Rss;
    use crate::time::Millis;

    const BACKEND: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11)), 80);
    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 64));

    #[test]
    fn workers_share_the_ports_and_leave_none_out() {
        let pool = LocalPool { addresses: [LOCAL, Ipv4Addr::new(192, 0, 2, 65).into()].into() };
        for workers in [1u16, 2, 3, 7, 64] {
            let rules = Ruleset { worker_count: workers, ..Ruleset::default() };
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let before = seen.len();
                for cursor in 0..2 * 70_000 / u64::from(workers) {
                    let (address, l4_port) =
                        candidate(&pool, cursor, WorkerIndex(worker), BACKEND, &rules).unwrap();
                    assert!(l4_port >= L4_PORT_MIN && l4_port % workers == worker);
                    seen.insert((address, l4_port));
                }
                assert!(seen.len() > before);
            }
            assert_eq!(seen.len(), 2 * (65_536 - usize::from(L4_PORT_MIN)), "{workers} workers");
        }
    }

    /// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn random(number: u64) -> u64 {
        let word = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// With nine of ten ports in use, in no order: the tries a connection needs, in hundredths, and how many of 10,000 are
    /// refused.
    fn tries_and_refusals(rules: &Ruleset) -> (u32, u32) {
        const CONNECTIONS: u32 = 10_000;
        let pool = LocalPool { addresses: [LOCAL].into() };
        let mut table = FlowTable::new(1 << 16, Backing::Plain, HashSecret::new([1 << 60, 3 << 59])).unwrap();
        let worker = WorkerIndex(rules.worker_count - 1);
        let cursors = 0..2 * 65_536 / u64::from(rules.worker_count);
        let all: BTreeSet<_> =
            cursors.filter_map(|cursor| candidate(&pool, cursor, worker, BACKEND, rules)).collect();
        for (number, local) in (0u64..).zip(all) {
            if random(number).is_multiple_of(10) {
                continue;
            }
            let key = FlowKey::new(BACKEND, local, 6);
            let mut entry = Entry::new(&key, Rewrite::Dr, BackendIndex(0));
            entry.state = TcpState::Established;
            table.insert(entry, Millis(0), &mut Evicted::new()).unwrap();
        }
        let (mut tries, mut refusals) = (0, 0);
        for number in 0..CONNECTIONS {
            // From anywhere: nobody takes what is found here, so one that goes on would go round in a circle.
            let mut local_ports = LocalPorts::new(worker, random(number.into()));
            let found = local_ports.choose(rules, (0, &pool), BACKEND, 6, &table);
            tries += TRIES_PER_TURN - local_ports.tries_left;
            refusals += u32::from(found.is_none());
        }
        (tries / (CONNECTIONS / 100), refusals)
    }

    #[test]
    fn under_rss_no_try_is_wasted_on_other_workers_ports() {
        let key: Vec<u8> = (0..40u8).map(|byte| byte.wrapping_mul(151).wrapping_add(77)).collect();
        for worker_count in [2, 4, 16] {
            let without = Ruleset { worker_count, ..Ruleset::default() };
            let rss = Rss::new(&key, 128, worker_count);
            assert!(rss.is_fit_for_local_ports());
            let with = Ruleset { rss: Some(Arc::new(rss)), ..without.clone() };
            let (plain, hashed) = (tries_and_refusals(&without), tries_and_refusals(&with));
            println!("{worker_count} workers: {plain:?} without RSS, {hashed:?} with it");
            assert!(hashed.0 < 2_000, "{} tries for 100 connections", hashed.0);
            assert!(plain.1 < 100 && hashed.1 < 100, "{} and {} of 10,000 refused", plain.1, hashed.1);
        }
    }

    #[test]
    fn an_empty_pool_has_no_candidate() {
        assert_eq!(candidate(&LocalPool::default(), 3, WorkerIndex(0), BACKEND, &Ruleset::default()), None);
    }
}
