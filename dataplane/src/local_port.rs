//! FullNAT's local addresses and l4_ports: what connections to backends come from.
//!
//! A local l4_port belongs to one worker ([`Ruleset::local_port_owner`]), so an answer finds the flow's
//! owner. The same address and port may serve connections to different backends: what must be unique is the
//! whole key of the answer, and the flow table itself tells whether it is taken. A cursor walks over
//! addresses and ports, so a pair just given up rests for the longest time before it is used again.

use std::net::Ipv4Addr;

use crate::flow::{FlowHash, FlowKey, FlowTable};
use crate::index::{EntryIndex, PORTS_MAX, WorkerIndex};
use crate::rules::Ruleset;
use crate::wire::{AddressPair, PortPair};

/// The least local l4_port: those below are privileged on backends that check.
pub const L4_PORT_MIN: u16 = 1_024;
/// Candidates tried for one connection. Its price: with 90 % of the ports towards one backend in use, spread evenly,
/// one new connection in 800 is refused although a port is free.
const TRIES: u32 = 64;

/// The local addresses for the backends of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPool {
    /// At least one address, each in one pool only.
    pub addresses: Box<[Ipv4Addr]>,
}

/// One worker's cursors, by pool.
pub struct LocalPorts {
    cursors: [u64; PORTS_MAX],
    worker: WorkerIndex,
}

impl LocalPorts {
    /// Cursors that start at `seed`: random, so that a restarted director does not reuse at once what it used last.
    pub fn new(worker: WorkerIndex, seed: u64) -> Self {
        Self { cursors: [seed; PORTS_MAX], worker }
    }

    /// A local address and l4_port for a connection to `backend`; `None` when all tried were taken by connections
    /// that are open.
    pub fn choose(
        &mut self,
        rules: &Ruleset,
        pool: (u16, &LocalPool),
        backend: (Ipv4Addr, u16),
        protocol: u8,
        table: &FlowTable,
    ) -> Option<LocalPort> {
        let cursor = self.cursors.get_mut(usize::from(pool.0))?;
        let mut half_open = None;
        for attempt in 0..TRIES {
            // The steps widen, so that a run of long-lived connections is soon left behind.
            *cursor = cursor.wrapping_add(1 << (attempt / 4));
            let (address, l4_port) = candidate(pool.1, *cursor, self.worker, rules.worker_count.max(1))?;
            let key = FlowKey {
                addresses: AddressPair::new(backend.0, address),
                ports: PortPair::new(backend.1, l4_port),
                protocol,
            };
            let hash = table.hash(&key);
            let holder = table.find(hash, &key);
            if holder == EntryIndex::NONE {
                return Some(LocalPort { key, hash, taken_from: None });
            }
            if half_open.is_none() && table.entry(holder).is_some_and(|entry| entry.state.is_half_open()) {
                half_open = Some(LocalPort { key, hash, taken_from: Some(holder) });
            }
        }
        // Connections that never opened must not keep new ones out: a SYN flood would.
        half_open
    }
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

/// The address and l4_port at `cursor` among those of one worker: every address once before the next port.
fn candidate(pool: &LocalPool, cursor: u64, worker: WorkerIndex, workers: u16) -> Option<(Ipv4Addr, u16)> {
    let address_count = pool.addresses.len() as u64;
    let address = *pool.addresses.get(cursor.checked_rem(address_count)? as usize)?;
    // The first port of this worker: the least from L4_PORT_MIN on that leaves `worker` when divided.
    let first = L4_PORT_MIN.next_multiple_of(workers) + worker.0;
    let first = if first - workers >= L4_PORT_MIN { first - workers } else { first };
    let ports_of_worker = u64::from((u16::MAX - first) / workers) + 1;
    let l4_port = first + ((cursor / address_count % ports_of_worker) as u16) * workers;
    Some((address, l4_port))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn workers_share_the_ports_and_leave_none_out() {
        let pool =
            LocalPool { addresses: [Ipv4Addr::new(192, 0, 2, 64), Ipv4Addr::new(192, 0, 2, 65)].into() };
        for workers in [1u16, 2, 3, 7, 64] {
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let before = seen.len();
                for cursor in 0..2 * 70_000 / u64::from(workers) {
                    let (address, l4_port) = candidate(&pool, cursor, WorkerIndex(worker), workers).unwrap();
                    assert!(l4_port >= L4_PORT_MIN && l4_port % workers == worker);
                    seen.insert((address, l4_port));
                }
                assert!(seen.len() > before);
            }
            assert_eq!(seen.len(), 2 * (65_536 - usize::from(L4_PORT_MIN)), "{workers} workers");
        }
    }

    #[test]
    fn an_empty_pool_has_no_candidate() {
        assert_eq!(candidate(&LocalPool::default(), 3, WorkerIndex(0), 1), None);
    }
}
