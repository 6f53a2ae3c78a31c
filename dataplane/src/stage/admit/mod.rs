//! admit: a packet of no known flow. Finds its service, chooses a backend and for FullNAT a local port, and
//! inserts the connection; or says why not.
//!
//! `limits` says whether the service takes a connection at all, `route` whether the packet or its client's address says who
//! gets it, else `choose` does, and `connect` makes it.

mod choose;
mod connect;
mod limits;
mod route;

use crate::burst::{Burst, Shape};
use crate::counters::WorkerCounters;
use crate::flow::table::Evicted;
use crate::flow::{Entry, FlowHash, FlowKey};
use crate::index::{BackendIndex, EntryIndex, PortIndex, ServiceIndex, WorkerIndex};
use crate::line::LineState;
use crate::packet::PacketBuf;
use crate::rules::{Flows, Reuse, Ruleset, Service, ServiceKey};
use crate::stage::{fragments, icmp, reply, reroute};
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::echo;
use crate::wire::ethernet::{Ethernet, MacAddress};
use crate::wire::ipv4::{PROTOCOL_SCTP, PROTOCOL_TCP};
use crate::wire::tcp::TcpFlags;

/// A packet that asks for a connection.
struct Newcomer<'a> {
    key: FlowKey,
    hash: FlowHash,
    flags: TcpFlags,
    part: Part,
    port: PortIndex,
    station: MacAddress,
    /// Its TCP or UDP header, or that of a ping, and what follows.
    l4: &'a [u8],
}

impl Newcomer<'_> {
    /// Whether it is the answer to a ping that nobody here knows: the kernel's, whose own it may be.
    fn is_stray_answer(&self) -> bool {
        let is_request = self.l4.first().is_some_and(|kind| echo::is_request(*kind));
        self.part == Part::Packet && echo::is_icmp(self.key.protocol) && !is_request
    }
}

/// What a packet is of what its flow sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A whole packet, or the first fragment of one.
    Packet,
    /// A later fragment.
    LaterFragment,
    /// An ICMP error about it.
    Error,
}

impl Part {
    fn of(shape: Shape, data: &[u8]) -> Self {
        if shape.has_l4() {
            Self::Packet
        } else if icmp::is_icmp(data, shape.is_v6) {
            Self::Error
        } else {
            Self::LaterFragment
        }
    }

    /// What becomes of one that could make a connection only if it were a packet. An error about something else than a
    /// connection is the kernel's: it owns the VIP.
    fn makes_connection(self) -> Result<(), Verdict> {
        match self {
            Self::Packet => Ok(()),
            Self::LaterFragment => Err(Verdict::Drop(DropReason::Fragment)),
            Self::Error => Err(Verdict::Punt),
        }
    }
}

/// What admitting a newcomer reads and changes.
struct Admission<'a> {
    newcomer: &'a Newcomer<'a>,
    index: ServiceIndex,
    service: &'a Service,
    rules: &'a Ruleset,
    state: &'a mut LineState,
    counters: &'a WorkerCounters,
    evicted: &'a mut Evicted,
    now: Millis,
}

/// Admits what lookup missed. `me` is the worker.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    me: WorkerIndex,
    now: Millis,
) {
    let moved_before = state.table.moved();
    let has_fragments = burst.has_fragments;
    for (packet, finding) in burst.packets.iter().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Forward || finding.entry != EntryIndex::NONE {
            continue;
        }
        let Some(link) = packet.data().first_chunk() else { continue };
        let newcomer = Newcomer {
            key: finding.key,
            hash: finding.hash,
            flags: finding.shape.tcp_flags,
            part: Part::of(finding.shape, packet.data()),
            port: packet.port(),
            station: Ethernet(link).source(),
            l4: finding.shape.l4(packet.data()),
        };
        if let Some(owner) = next_owner(&newcomer, packet.data(), rules, state, me) {
            (finding.verdict, finding.owner) = (Verdict::Steer, owner);
            continue;
        }
        if newcomer.part == Part::LaterFragment
            && let Some(backend) = fragments::recall(packet.data(), state)
        {
            finding.entry = EntryIndex::without_flow(backend);
            continue;
        }
        let mut evicted = Evicted::new();
        match admit(&newcomer, rules, state, counters, now, &mut evicted) {
            Ok(index) => {
                finding.entry = index;
                if has_fragments && let Some(backend) = index.backend_without_flow() {
                    fragments::remember(packet.data(), backend, state);
                }
            }
            Err(verdict) => finding.verdict = verdict,
        }
        for entry in &evicted {
            counters.evicted.add(1);
            state.settle(entry, counters);
        }
    }
    if state.table.moved() != moved_before {
        look_again(burst, state);
    }
}

/// After a change of the part of a client that decides who owns its connections, the owner by the part before is asked
/// first ([`crate::rules::Vip::part_before`]); what it does not know belongs to the owner by the part now. But a fragment that
/// came from there stays: it looked for the flow before it sent it, and would send it here again.
fn next_owner(
    newcomer: &Newcomer<'_>,
    data: &[u8],
    rules: &Ruleset,
    state: &LineState,
    me: WorkerIndex,
) -> Option<WorkerIndex> {
    let vip = rules.vips.find(newcomer.key.destination())?;
    if rules.worker_count <= 1 || vip.part_before.is_none() {
        return None;
    }
    let owner = rules.owner_by(vip.part, &newcomer.key);
    let is_unknown = || state.table.find(newcomer.hash, &newcomer.key) == EntryIndex::NONE;
    let came_from_there = || fragments::met_at(data, rules.worker_count) == Some(owner);
    (owner != me && is_unknown() && !came_from_there()).then_some(owner)
}

/// An entry found earlier in this burst may lie elsewhere, or be another connection's, by now.
fn look_again<P>(burst: &mut Burst<P>, state: &LineState) {
    let count = burst.packets.len();
    for finding in burst.findings.iter_mut().take(count) {
        if finding.verdict == Verdict::Forward && finding.entry.backend_without_flow().is_none() {
            finding.entry = state.table.find(finding.hash, &finding.key);
        }
    }
}

fn admit(
    newcomer: &Newcomer<'_>,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
    evicted: &mut Evicted,
) -> Result<EntryIndex, Verdict> {
    // An earlier packet of this burst may have made the connection.
    let known = state.table.find(newcomer.hash, &newcomer.key);
    if let Some(entry) = state.table.entry(known) {
        let is_over = newcomer.flags.opens() && entry.is_over() && gives_way(entry, rules);
        if !is_over {
            if !reroute::is_for_another(entry, newcomer.flags, newcomer.l4, rules) {
                return Ok(known);
            }
            counters.service(entry.service).moved.add(1);
        }
        // Not an eviction: it was over and its client says so, or this packet is of another connection.
        if let Some(over) = state.table.remove(known) {
            state.settle(&over, counters);
        }
    }
    let (index, service) =
        match_service(&newcomer.key, rules).filter(|_| !newcomer.is_stray_answer()).ok_or(Verdict::Punt)?;
    let mut admission = Admission { newcomer, index, service, rules, state, counters, evicted, now };
    let named = admission.named();
    let admitted = match service.policy.flows {
        Flows::Kept => {
            newcomer.part.makes_connection()?;
            let opens =
                newcomer.flags.opens() || !matches!(newcomer.key.protocol, PROTOCOL_TCP | PROTOCOL_SCTP);
            if !opens && named.is_none() {
                // A segment of a connection nobody here knows.
                reply::to_stray(newcomer.key.protocol, newcomer.flags, &service.policy)?;
            }
            admission.open_connection(named)
        }
        Flows::None | Flows::OnePacket => admission.schedule_packet(named),
    };
    admitted.map_err(|reason| {
        counters.service(index).refused.add(1);
        match newcomer.part {
            Part::Packet => {
                reply::to_newcomer(reason, &service.policy, newcomer.key.protocol, newcomer.flags)
            }
            // Of these nobody is told (RFC 1122 section 3.2.2).
            Part::LaterFragment | Part::Error => Verdict::Drop(reason),
        }
    })
}

/// Whether a SYN that meets a connection which is over opens a new one.
fn gives_way(over: &Entry, rules: &Ruleset) -> bool {
    let reuse = rules.service(over.service).map_or(Reuse::default(), |service| service.policy.reuse);
    match reuse {
        Reuse::WhenOver => true,
        Reuse::WhenClosed => over.state.is_over(false),
        Reuse::Never => false,
    }
}

impl Admission<'_> {
    fn open_connection(&mut self, named: Option<BackendIndex>) -> Result<EntryIndex, DropReason> {
        self.state.effort.admit();
        self.check_limits()?;
        let index = match self.route(named, Self::connect)? {
            Some(index) => index,
            None => self.choose_and_connect()?,
        };
        self.state.open(index, self.counters);
        if self.service.has_thresholds
            && let Some(entry) = self.state.table.entry(index)
        {
            // Whoever comes next, and wherever, finds it full: not only who asks before the next connection ends.
            self.state.peers.look(entry.backend(), self.rules, self.counters);
        }
        Ok(index)
    }
}

/// The service that takes a new connection with this key.
pub fn match_service<'r>(key: &FlowKey, rules: &'r Ruleset) -> Option<(ServiceIndex, &'r Service)> {
    let FlowKey { addresses, ports, protocol } = *key;
    let key = ServiceKey { vip: addresses.destination(), l4_port: ports.destination(), protocol };
    let index = match rules.matcher.find(key) {
        // What is to the director itself is no connection through it.
        None if !rules.vips.contains(key.vip) && !rules.exempt.contains(key.vip) => {
            rules.snat.find(addresses.source())?
        }
        found => found?,
    };
    Some((index, rules.service(index)?))
}
