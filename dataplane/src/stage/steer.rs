//! steer: which worker owns the flow. A connection belongs to exactly one worker, and its owner follows from
//! the packet and the rules alone, so both directions meet at the same flow table.
//!
//! * to a VIP: the hash of the client's endpoint;
//! * to a FullNAT local address: the worker that owns that local l4_port;
//! * anything else is not load-balanced and stays with the worker it came to.

use crate::burst::Burst;
use crate::flow::FlowKey;
use crate::index::WorkerIndex;
use crate::rules::Ruleset;
use crate::verdict::Verdict;

/// Marks what belongs to another worker than `me`. Called only where several workers share the traffic.
pub fn run<P>(burst: &mut Burst<P>, me: WorkerIndex, rules: &Ruleset) {
    for finding in burst.findings.iter_mut().take(burst.packets.len()) {
        if finding.verdict != Verdict::Forward {
            continue;
        }
        if let Some(owner) = owner(&finding.key, rules).filter(|owner| *owner != me) {
            finding.verdict = Verdict::Steer;
            finding.owner = owner;
        }
    }
}

/// The worker that owns the flow of `key`; `None` where any may take it.
pub fn owner(key: &FlowKey, rules: &Ruleset) -> Option<WorkerIndex> {
    let destination = key.addresses.destination();
    if rules.vips.contains(destination) {
        let client = u64::from(key.addresses.source().to_bits()) << 16 | u64::from(key.ports.source());
        let hash = cpu::crc32c_u64(0, client);
        return Some(WorkerIndex(((u64::from(hash) * u64::from(rules.worker_count.max(1))) >> 32) as u16));
    }
    rules.local_addresses.contains(destination).then(|| rules.local_port_owner(key.ports.destination()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::wire::{AddressPair, PortPair};

    #[test]
    fn clients_spread_over_the_workers_and_answers_go_to_the_owner_of_the_port() {
        let (vip, local) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(192, 0, 2, 64));
        let rules = Ruleset {
            worker_count: 4,
            vips: Arc::new([vip].into_iter().collect()),
            local_addresses: Arc::new([local].into_iter().collect()),
            ..Ruleset::default()
        };
        let key = |destination, ports| FlowKey {
            addresses: AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), destination),
            ports,
            protocol: 6,
        };
        let mut counts = [0; 4];
        for l4_port in 1_024..=u16::MAX {
            counts[owner(&key(vip, PortPair::new(l4_port, 80)), &rules).unwrap().as_usize()] += 1;
            let answer = owner(&key(local, PortPair::new(80, l4_port)), &rules);
            assert_eq!(answer, Some(WorkerIndex(l4_port % 4)));
        }
        let expected = (65_536 - 1_024) / 4;
        assert!(counts.iter().all(|count: &i32| count.abs_diff(expected) < 1_000), "{counts:?}");
        assert_eq!(owner(&key(Ipv4Addr::new(8, 8, 8, 8), PortPair::new(1, 2)), &rules), None);
    }
}
