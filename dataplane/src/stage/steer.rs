//! steer: which worker owns the flow. A connection belongs to exactly one worker, and its owner follows from
//! the packet and the rules alone, so both directions meet at the same flow table.
//!
//! * to a VIP: the hash of the client's endpoint, or of its network where the VIP has persistent services;
//! * to a FullNAT local address: the worker that owns that local l4_port;
//! * from a host behind NAT or SNAT to anywhere else: the hash of whom it is to, who is the client of NAT;
//! * where there are ports with RSS, their hash stands in for the client's endpoint and for the l4_port
//!   ([`crate::rules::Rss`]): what comes from them is then with its owner already;
//! * anything else is not load-balanced and stays with the worker it came to.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::flow::FlowKey;
use crate::index::WorkerIndex;
use crate::packet::PacketBuf;
use crate::rules::{Rss, Ruleset};
use crate::verdict::Verdict;
use crate::wire::echo;

/// Marks what belongs to another worker than `me`. Called only where several workers share the traffic, with a burst of
/// one port. Whose fragments are, their own stage says after this one.
pub fn run<P: PacketBuf>(burst: &mut Burst<P>, me: WorkerIndex, rules: &Ruleset, counters: &WorkerCounters) {
    let rss = rules.rss.as_deref();
    // Of a packet that came in a tunnel the port has hashed the outer header; fragments and errors it hashes by their
    // addresses alone, or by what is not their flow's.
    let can_tell = rules.decap.is_none() && !burst.has_fragments && !burst.has_errors;
    if let Some(rss) = rss.filter(|_| can_tell) {
        watch(burst, me, rss, counters);
    }
    // Then whatever has its owner here by RSS stays here, be it to a VIP, to a local address, or to neither.
    let by_rss_alone = rss.filter(|_| rules.vips_are_plain);
    for finding in burst.findings.iter_mut().take(burst.packets.len()) {
        if finding.verdict != Verdict::Forward
            || by_rss_alone.is_some_and(|rss| rss.owner(&finding.key) == Some(me))
        {
            continue;
        }
        if let Some(owner) = owner(&finding.key, rules).filter(|owner| *owner != me) {
            finding.verdict = Verdict::Steer;
            finding.owner = owner;
        }
    }
}

/// Compares what a port with RSS did with what it was told, on the first packet of the burst: enough to know, and no cost.
fn watch<P: PacketBuf>(burst: &Burst<P>, me: WorkerIndex, rss: &Rss, counters: &WorkerCounters) {
    let (Some(packet), Some(finding)) = (burst.packets.first(), burst.findings.first()) else { return };
    // Of pings ports hash the addresses alone.
    let is_hashed = finding.verdict == Verdict::Forward && !echo::is_icmp(finding.key.protocol);
    if !is_hashed || !rss.watches(packet.port()) {
        return;
    }
    let Some(hash) = rss.hash(&finding.key) else { return };
    let as_set = rss.owner_of_hash(hash) == me && packet.rss_hash().is_none_or(|reported| reported == hash);
    let port = counters.port(packet.port());
    if as_set { port.rss_as_set.add(1) } else { port.rss_otherwise.add(1) }
}

/// The worker that owns the flow of `key`; `None` where any may take it.
pub fn owner(key: &FlowKey, rules: &Ruleset) -> Option<WorkerIndex> {
    let destination = key.destination();
    if let Some(vip) = rules.vips.find(destination) {
        return Some(rules.owner_by(vip.first_part(), key));
    }
    if rules.local_addresses.contains(destination) {
        return Some(rules.owner_of_answer(key));
    }
    // An answer of NAT, or what SNAT takes: whom it is to decides, as if that one had sent it.
    let part = rules.inside.find(key.source())?;
    Some(rules.owner_by(part, &key.reversed()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::rules::Vip;
    use crate::wire::{AddressPair, PortPair};

    #[test]
    fn clients_spread_over_the_workers_and_answers_go_to_the_owner_of_the_port() {
        let (vip, local) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(192, 0, 2, 64));
        let rules = Ruleset {
            worker_count: 4,
            vips: Arc::new([(vip, Vip::PLAIN)].into_iter().collect()),
            local_addresses: Arc::new([local].into_iter().collect()),
            ..Ruleset::default()
        };
        let key = |destination, ports| FlowKey {
            addresses: AddressPair::new(Ipv4Addr::new(10, 0, 0, 1), destination).into(),
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
