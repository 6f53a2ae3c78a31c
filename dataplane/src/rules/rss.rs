//! Receive-side scaling, computed in software: which worker a port with RSS delivers a packet to.
//!
//! Such a port hashes a packet's endpoints (Toeplitz, [`cpu::toeplitz`]) and looks up the low bits of the hash in its
//! redirection table (RETA). Control gives every port that can the same key and the same owners, and this is the
//! function they then compute. So the owner of a packet follows from the packet alone, whichever port it came by;
//! where the port computes the same, its packets arrive at their owners, and from anywhere else they cross over.
//! Nothing here relies on what a port really does, and [`crate::stage::steer`] watches it.
//!
//! Read first: Microsoft, "RSS hashing types"; decision 0006.

use std::net::Ipv4Addr;

use cpu::ToeplitzTable;

use crate::flow::FlowKey;
use crate::index::{PORTS_MAX, PortIndex, WorkerIndex};
use crate::local_port::L4_PORT_MIN;
use crate::wire::{AddressPair, Addresses, PortPair};

/// Bytes that are hashed: addresses and l4_ports of IPv4.
const INPUT_LEN: usize = 12;

/// Entries of the redirection table at most; a device with a larger one repeats it.
pub const BUCKETS_MAX: usize = 512;

/// The owners of flows, by the hash that ports with RSS compute.
#[derive(Clone, Debug)]
pub struct Rss {
    hashes: ToeplitzTable<INPUT_LEN>,
    /// By bucket, which is the low bits of the hash: a power of two of them, at most [`BUCKETS_MAX`].
    owners: Box<[WorkerIndex]>,
    /// The buckets of each worker.
    buckets: Box<[Box<[u16]>]>,
    local_ports: LocalPortsByBucket,
    /// By port: it was told to compute the same.
    watched: [bool; PORTS_MAX],
}

impl Rss {
    /// The owners among `worker_count` workers under `key`. A `bucket_count` that is no power of two counts as the
    /// one below; it is at most [`BUCKETS_MAX`].
    pub fn new(key: &[u8], bucket_count: usize, worker_count: u16) -> Self {
        let bucket_count = 1 << bucket_count.clamp(1, BUCKETS_MAX).ilog2();
        let worker_count = worker_count.max(1);
        let owners: Box<[_]> =
            (0..bucket_count).map(|bucket| WorkerIndex(bucket as u16 % worker_count)).collect();
        let of_worker = |worker| {
            let buckets = (0..).zip(&owners).filter(move |(_, owner)| **owner == worker);
            buckets.map(|(bucket, _)| bucket).collect()
        };
        let buckets = (0..worker_count).map(|worker| of_worker(WorkerIndex(worker))).collect();
        let hashes = ToeplitzTable::new(key);
        let local_ports = LocalPortsByBucket::new(&hashes, owners.len());
        Self { hashes, owners, buckets, local_ports, watched: [false; PORTS_MAX] }
    }

    /// The hash of an IPv4 flow, as a port reports it. Ports are not told to hash IPv6: those flows have their owners by
    /// software.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> Option<u32> {
        match key.addresses {
            Addresses::V4(pair) => Some(self.hash4(pair, key.ports)),
            Addresses::V6(_) => None,
        }
    }

    #[inline(always)]
    fn hash4(&self, addresses: AddressPair, ports: PortPair) -> u32 {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l]) = (addresses.to_wire(), ports.to_wire());
        self.hashes.hash(&[a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// The owner of an IPv4 flow.
    #[inline(always)]
    pub fn owner(&self, key: &FlowKey) -> Option<WorkerIndex> {
        Some(self.owner_of_hash(self.hash(key)?))
    }

    /// The owner of the flows with this hash.
    #[inline(always)]
    pub fn owner_of_hash(&self, hash: u32) -> WorkerIndex {
        self.owners.get(self.bucket(hash)).copied().unwrap_or_default()
    }

    /// The owners by bucket: what the ports' redirection tables must hold.
    pub fn owners(&self) -> &[WorkerIndex] {
        &self.owners
    }

    /// Notes that `port` was told to do the same, so that workers watch whether it does.
    pub fn watch(&mut self, port: PortIndex) {
        if let Some(watched) = self.watched.get_mut(port.as_usize()) {
            *watched = true;
        }
    }

    /// Whether `port` was told to do the same.
    #[inline(always)]
    pub fn watches(&self, port: PortIndex) -> bool {
        self.watched.get(port.as_usize()).is_some_and(|watched| *watched)
    }

    /// Whether every worker finds local l4_ports for connections to any backend: not so under a poor key, whose hash
    /// of all l4_ports leaves buckets empty.
    pub fn is_fit_for_local_ports(&self) -> bool {
        (0..self.owners.len()).all(|bucket| !self.local_ports.of(bucket).is_empty())
    }

    /// The local l4_port at `cursor` among those at `local` whose answers from `backend` belong to `worker`. `None` where
    /// there is none: at one cursor of some hundreds, and at more of them under a poor key.
    pub fn local_port(
        &self,
        worker: WorkerIndex,
        backend: (Ipv4Addr, u16),
        local: Ipv4Addr,
        cursor: u64,
    ) -> Option<u16> {
        let buckets = self.buckets.get(worker.as_usize())?;
        let places = self.local_ports.places;
        let place = cursor.checked_rem(buckets.len() as u64 * places)?;
        let wanted = usize::from(*buckets.get((place / places) as usize)?);
        // The hash is linear: what the l4_port adds has to make up the difference.
        let addresses = AddressPair::new(backend.0, local);
        let without = self.bucket(self.hash4(addresses, PortPair::new(backend.1, 0)));
        self.local_ports.of(without ^ wanted).get((place % places) as usize).copied()
    }

    #[inline(always)]
    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.owners.len() - 1)
    }
}

/// The local l4_ports, from [`L4_PORT_MIN`] on, sorted by what they add to the bucket of an answer.
#[derive(Clone, Debug)]
struct LocalPortsByBucket {
    l4_ports: Box<[u16]>,
    /// Where those of each bucket begin, and where the last end.
    starts: Box<[u32]>,
    /// As many as the largest bucket has, made odd: cursors move by powers of two, which must not lead back to a place.
    places: u64,
}

impl LocalPortsByBucket {
    fn new(hashes: &ToeplitzTable<INPUT_LEN>, bucket_count: usize) -> Self {
        let bucket_of = |l4_port: u16| {
            let [high, low] = l4_port.to_be_bytes();
            // The destination's l4_port is what the input ends in.
            hashes.hash(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]) as usize & (bucket_count - 1)
        };
        let mut l4_ports: Box<[u16]> = (L4_PORT_MIN..=u16::MAX).collect();
        l4_ports.sort_by_key(|l4_port| bucket_of(*l4_port));
        let start = |bucket| l4_ports.partition_point(|l4_port| bucket_of(*l4_port) < bucket) as u32;
        let starts: Box<[_]> = (0..=bucket_count).map(start).collect();
        let largest = starts.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap_or_default();
        Self { l4_ports, starts, places: u64::from(largest | 1) }
    }

    fn of(&self, bucket: usize) -> &[u16] {
        let bounds = self.starts.get(bucket).zip(self.starts.get(bucket + 1));
        let range = bounds.map_or(0..0, |(start, end)| *start as usize..*end as usize);
        self.l4_ports.get(range).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Microsoft's own example key.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn a_flow_is_hashed_as_microsoft_does() {
        let key = FlowKey::new(([66, 9, 149, 187], 2_794), ([161, 142, 100, 80], 1_766), 6);
        let rss = Rss::new(&KEY, 128, 4);
        assert_eq!(rss.hash(&key), Some(0x51cc_c178));
        assert_eq!(rss.owner(&key), Some(WorkerIndex(0x78 % 4)));
    }

    #[test]
    fn each_worker_has_its_part_of_the_buckets() {
        for (asked, had) in [(0, 1), (1, 1), (100, 64), (128, 128), (4_096, BUCKETS_MAX)] {
            assert_eq!(Rss::new(&KEY, asked, 3).owners().len(), had);
        }
        for workers in [1, 2, 4, 16, 48] {
            let rss = Rss::new(&KEY, 128, workers);
            let of = |worker| rss.owners().iter().filter(|owner| owner.0 == worker).count();
            let counts: Vec<_> = (0..workers).map(of).collect();
            assert_eq!(counts.iter().sum::<usize>(), 128);
            assert!(counts.iter().all(|count| count.abs_diff(128 / usize::from(workers)) <= 1), "{counts:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn answers_to_a_local_port_belong_to_its_worker(
            key: [u8; 40], bucket_bits in 0u32..9, workers in 1u16..64, cursor: u64, backend: (u32, u16), local: u32
        ) {
            let rss = Rss::new(&key, 1 << bucket_bits, workers);
            let (backend, local) = ((Ipv4Addr::from(backend.0), backend.1), Ipv4Addr::from(local));
            for worker in (0..workers).map(WorkerIndex) {
                let own = (0..4).filter_map(|next| rss.local_port(worker, backend, local, cursor.wrapping_add(next)));
                for l4_port in own {
                    prop_assert!(l4_port >= L4_PORT_MIN);
                    let answer = FlowKey::new(backend, (local, l4_port), 6);
                    prop_assert_eq!(rss.owner(&answer), Some(worker));
                }
            }
        }
    }

    #[test]
    fn every_local_port_is_some_workers_and_only_its() {
        let (backend, local) = ((Ipv4Addr::new(10, 0, 0, 1), 80), Ipv4Addr::new(10, 0, 0, 64));
        for workers in [1u16, 2, 3, 16] {
            let rss = Rss::new(&KEY, 128, workers);
            assert!(rss.is_fit_for_local_ports());
            let mut seen = HashSet::new();
            for worker in (0..workers).map(WorkerIndex) {
                let mut own = HashSet::new();
                for cursor in 0..128u64.div_ceil(workers.into()) * (65_536 / 128 + 1) {
                    own.extend(rss.local_port(worker, backend, local, cursor));
                }
                let expected = (65_536 - 1_024) / usize::from(workers);
                assert!(own.len().abs_diff(expected) < expected / 8, "{workers} workers: {}", own.len());
                assert!(seen.is_disjoint(&own));
                seen.extend(own);
            }
            assert_eq!(seen.len(), 65_536 - usize::from(L4_PORT_MIN), "{workers} workers");
        }
    }
}
