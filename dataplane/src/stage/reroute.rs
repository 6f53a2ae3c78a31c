//! reroute: packets of known flows that name another backend than their flow's. Runs only where a service has packets that name
//! backends.
//!
//! A QUIC connection is its connection ID and not its addresses: a flow is what is remembered of one, and may be wrong. When
//! the NAT in front of two clients gives the address and port of the one to the other, a packet of the other's connection
//! comes by the flow of the first. So what the packet names goes before the flow (draft-ietf-quic-load-balancers-21 section
//! 4.2); a packet that names nobody, or nobody who lives, goes with its flow.
//!
//! Here such packets are only taken from their flow; admit then forgets the flow and makes another.

use crate::burst::Burst;
use crate::flow::sequence::Numbers;
use crate::flow::tcp_state::TcpState;
use crate::flow::{Entry, FlowTable};
use crate::index::{BackendIndex, EntryIndex, ServiceIndex};
use crate::packet::PacketBuf;
use crate::rules::route::Named;
use crate::rules::{Admits, Ruleset};
use crate::verdict::Verdict;
use crate::wire::tcp::TcpFlags;

/// Has admit see what belongs to another backend.
pub fn run<P: PacketBuf>(burst: &mut Burst<P>, rules: &Ruleset, table: &mut FlowTable) {
    for (packet, finding) in burst.packets.iter().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Forward {
            continue;
        }
        let Some(entry) = table.entry(finding.entry) else { continue };
        let l4 = finding.shape.l4(packet.data());
        let trace = trace(entry, l4, rules);
        if trace.is_some_and(|trace| entry.numbers.trace() == trace) {
            continue;
        }
        if is_for_another(entry, finding.shape.tcp_flags, l4, rules) {
            finding.entry = EntryIndex::NONE;
            burst.has_misses = true;
        } else if let (Some(trace), Some(entry)) = (trace, table.entry_mut(finding.entry)) {
            entry.numbers = Numbers::of_trace(trace);
        }
    }
}

/// The trace of the server ID in a datagram of the flow of `entry`: what was found right is not decrypted again, until a packet
/// has another ID or the rules change (draft-ietf-quic-load-balancers-21 section 6).
fn trace(entry: &Entry, l4: &[u8], rules: &Ruleset) -> Option<u32> {
    if entry.state != TcpState::Udp || entry.rewrite.is_to_client() {
        return None;
    }
    let routes = rules.service(entry.service)?.routes.as_deref()?;
    routes.trace(rules.revision as u32, l4)
}

/// Whether a packet of the flow of `entry` names a living backend that is not the flow's.
pub fn is_for_another(entry: &Entry, flags: TcpFlags, l4: &[u8], rules: &Ruleset) -> bool {
    let service = rules.service(entry.service);
    let Some(routes) = service.and_then(|service| service.routes.as_deref()) else { return false };
    if !routes.has_server_ids() || entry.rewrite.is_to_client() {
        return false;
    }
    match routes.named(entry.key().protocol, flags, l4) {
        Named::Nobody | Named::Stranger => false,
        Named::Backend(backend) => {
            backend != entry.backend() && keeps_connections(backend, entry.service, rules)
        }
    }
}

/// Whether a backend of `service` still has its connections: drained ones have.
pub fn keeps_connections(backend: BackendIndex, service: ServiceIndex, rules: &Ruleset) -> bool {
    let backend = rules.backend(backend).filter(|backend| backend.service == service);
    backend.is_some_and(|backend| backend.admits != Admits::Nobody)
}
