//! rewrite: the new headers, in place. One file a mode; which one is the entry's own word.

mod client_address;
mod dr;
mod fullnat;
mod mss;
mod translate;
pub(crate) mod tunnel;
pub(in crate::stage) mod udp_checksum;

use self::udp_checksum::Egress;
use crate::adjacency::{Adjacency, ClientStations, station_key};
use crate::burst::{Burst, Finding, Shape};
use crate::counters::{Counter, WorkerCounters};
use crate::flow::sequence::{self, RstVerdict};
use crate::flow::tcp_state::{Sender, TcpState};
use crate::flow::{Entry, FlowTable, Rewrite};
use crate::index::{EntryIndex, PortIndex, ServiceIndex};
use crate::line::LineState;
use crate::packet::PacketBuf;
use crate::rules::{Mode, Mss, Ruleset};
use crate::stage::fit;
use crate::stage::reply::ReplyLimits;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddress};
use crate::wire::ipv4::{Ipv4, Ipv4Mut, PROTOCOL_SCTP, PROTOCOL_TCP};
use crate::wire::sctp;
use crate::wire::tcp::{Tcp, TcpFlags};
use crate::wire::{ipv4, ipv6};

/// Rewrites what will be forwarded, follows the connections' states and counts.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) {
    let adjacencies: &[Adjacency] = &rules.adjacencies;
    let mut ports_seen = Fates::default();
    let mut lengths_changed = false;
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        if finding.verdict == Verdict::Forward {
            // Most packets take the short way, which keeps everything in registers.
            let rewritten = match rewrite_common(packet, finding, adjacencies, state, counters, now) {
                Some(rewritten) => rewritten,
                None => rewrite(packet, finding, rules, state, counters, now, &mut lengths_changed),
            };
            match rewritten {
                Ok(port) => finding.port_out = port,
                Err(verdict) => finding.verdict = verdict,
            }
        }
        ports_seen.add(finding);
    }
    burst.common_port = ports_seen.common_port();
    burst.lengths_changed = lengths_changed;
}

/// Whether all packets of a burst leave by one port, found out without a branch a packet.
struct Fates {
    any: u32,
    all: u32,
}

/// Above every port: a packet that is not forwarded.
const ELSEWHERE: u32 = 1 << 16;

impl Default for Fates {
    fn default() -> Self {
        Self { any: 0, all: u32::MAX }
    }
}

impl Fates {
    #[inline(always)]
    fn add(&mut self, finding: &Finding) {
        let is_elsewhere = u32::from(finding.verdict != Verdict::Forward);
        let fate = u32::from(finding.port_out.0) | (is_elsewhere * ELSEWHERE);
        self.any |= fate;
        self.all &= fate;
    }

    fn common_port(&self) -> Option<PortIndex> {
        (self.any == self.all && self.any < ELSEWHERE).then_some(PortIndex(self.any as u16))
    }
}

/// [`rewrite`] for what nearly all packets are: IPv4 of a known flow in direct routing, NAT or FullNAT, that fits and that
/// nobody looks at beyond its rewriting. `None`, and nothing changed, where anything else is the case.
#[inline(always)]
fn rewrite_common<P: PacketBuf>(
    packet: &mut P,
    finding: &Finding,
    adjacencies: &[Adjacency],
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) -> Option<Result<PortIndex, Verdict>> {
    let LineState { table, stations, .. } = state;
    let shape = finding.shape;
    let entry = table.entry_known(finding.entry)?;
    if shape.is_v6 | !shape.has_l4() | shape.tcp_flags.steers_state() | entry.watch.is_set() {
        return None;
    }
    let next_hop = match entry.rewrite {
        Rewrite::FullnatToBackend => {
            let source = Ethernet(packet.data().first_chunk()?).source_and_type();
            if !stations.leads_to(entry.client_station, station_key(source, packet.port())) {
                return None;
            }
            adjacencies.get(entry.backend().as_usize())?
        }
        Rewrite::FullnatToClient => stations.adjacency(entry.client_station)?,
        Rewrite::Dr => adjacencies.get(entry.backend().as_usize())?,
        _ => return None,
    };
    // The MTU of an unresolved next hop is 0.
    if shape.ip_len > next_hop.mtu {
        return None;
    }
    entry.last_seen = now;
    let data = packet.data_mut();
    let rewritten = match entry.rewrite {
        Rewrite::Dr => dr::rewrite4(data, shape, entry.lowers_ttl(), next_hop),
        _ => fullnat::rewrite(data, shape, entry, next_hop),
    };
    if let Err(reason) = rewritten {
        return Some(Err(reason.into()));
    }
    let backend = counters.backend(entry.backend());
    let traffic =
        if entry.rewrite == Rewrite::FullnatToClient { &backend.outbound } else { &backend.inbound };
    traffic.add(u64::from(shape.ip_len));
    Some(Ok(next_hop.port))
}

/// Rewrites one packet for its next hop; returns the port to that, else what becomes of the packet.
#[inline(never)]
fn rewrite<P: PacketBuf>(
    packet: &mut P,
    finding: &mut Finding,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
    lengths_changed: &mut bool,
) -> Result<PortIndex, Verdict> {
    let adjacencies: &[Adjacency] = &rules.adjacencies;
    let LineState { table, stations, reply_limits, identifications, .. } = state;
    let (index, mut shape, port_in) = (finding.entry, finding.shape, packet.port());
    let Some(mut entry) = table.entry_known(index) else {
        return rewrite_without_flow(packet, finding, rules, reply_limits, counters, now, lengths_changed);
    };
    entry.last_seen = now;
    let watch = entry.watch;
    let backend = counters.backend(entry.backend());
    let (next_hop, traffic) = match entry.rewrite {
        Rewrite::FullnatToBackend => {
            let source = source_and_type(packet.data())?;
            // The sender of an ICMP error may be any router.
            if !stations.leads_to(entry.client_station, station_key(source, port_in)) && shape.has_l4() {
                follow_client(table, stations, index, source, port_in);
                entry = table.entry_known(index).ok_or(DropReason::TableFull)?;
            }
            let next_hop = known(adjacencies.get(entry.backend().as_usize()))?;
            if shape.ip_len > next_hop.mtu {
                fit::judge(packet, shape, next_hop.mtu, entry.service, rules, reply_limits, counters, now)?;
                leave_identification_to_cut(packet.data_mut(), shape, entry);
            }
            let data = packet.data_mut();
            if shape.is_v6 {
                fullnat::rewrite6(data, shape, index, table, next_hop)?;
            } else {
                fullnat::rewrite(data, shape, entry, next_hop)?;
            }
            (next_hop, &backend.inbound)
        }
        Rewrite::FullnatToClient => {
            let next_hop = known(stations.adjacency(entry.client_station))?;
            if shape.ip_len > next_hop.mtu {
                fit::judge(packet, shape, next_hop.mtu, entry.service, rules, reply_limits, counters, now)?;
            }
            let data = packet.data_mut();
            if shape.is_v6 {
                fullnat::rewrite6(data, shape, index, table, next_hop)?;
            } else {
                fullnat::rewrite(data, shape, entry, next_hop)?;
            }
            (next_hop, &backend.outbound)
        }
        Rewrite::Dr => {
            let next_hop = known(adjacencies.get(entry.backend().as_usize()))?;
            if shape.ip_len > next_hop.mtu {
                fit::judge(packet, shape, next_hop.mtu, entry.service, rules, reply_limits, counters, now)?;
            }
            dr::rewrite(packet.data_mut(), shape, entry.lowers_ttl(), next_hop)?;
            (next_hop, &backend.inbound)
        }
        Rewrite::Tunnel => {
            let next_hop = known(adjacencies.get(entry.backend().as_usize()))?;
            if shape.ip_len > next_hop.mtu {
                fit::judge(packet, shape, next_hop.mtu, entry.service, rules, reply_limits, counters, now)?;
            }
            let encapsulation = rules.encapsulation(entry.backend()).ok_or(DropReason::NoBackend)?;
            let egress = Egress { next_hop, rules, counters };
            tunnel::rewrite(packet, shape, &finding.key, encapsulation, None, egress)?;
            shape = shape.behind(encapsulation.added_len());
            *lengths_changed = true;
            (next_hop, &backend.inbound)
        }
        Rewrite::TranslateToBackend | Rewrite::TranslateToClient => {
            let is_to_backend = entry.rewrite.is_to_backend();
            if is_to_backend {
                let source = source_and_type(packet.data())?;
                if !stations.leads_to(entry.client_station, station_key(source, port_in)) && shape.has_l4() {
                    follow_client(table, stations, index, source, port_in);
                    entry = table.entry_known(index).ok_or(DropReason::TableFull)?;
                }
            }
            let next_hop = known(if is_to_backend {
                adjacencies.get(entry.backend().as_usize())
            } else {
                stations.adjacency(entry.client_station)
            })?;
            let mtu = translate::mtu_before(next_hop.mtu, shape);
            if shape.ip_len > mtu {
                fit::judge(packet, shape, mtu, entry.service, rules, reply_limits, counters, now)?;
            }
            let egress = Egress { next_hop, rules, counters };
            shape = translate::rewrite(packet, shape, index, table, egress, identifications)?;
            *lengths_changed = true;
            (next_hop, if is_to_backend { &backend.inbound } else { &backend.outbound })
        }
        Rewrite::Local => {
            follow(packet.data(), table, index, shape, rules, counters)?;
            backend.inbound.add(u64::from(shape.ip_len));
            return Err(Verdict::Punt);
        }
        Rewrite::Free => return Err(DropReason::TableFull.into()),
    };
    if shape.tcp_flags.steers_state() || watch.is_set() {
        // What it drops was rewritten in vain: here it costs the others nothing.
        look_closer(packet, table, index, shape, rules, (port_in, next_hop), counters, lengths_changed)?;
    }
    traffic.add(u64::from(shape.ip_len));
    if shape.ip_len > next_hop.mtu {
        // It may be cut, else it would not have come here.
        packet.set_port(next_hop.port);
        // What a tunnel has put in front is part of what is cut.
        finding.mtu_out = next_hop.mtu.saturating_add(shape.l3_at - finding.shape.l3_at);
        return Err(Verdict::ForwardInParts);
    }
    Ok(next_hop.port)
}

/// What is done with few packets beyond their rewriting: those of a handshake or an end, and those of connections whose
/// numbers are watched or changed. The packet is otherwise as it leaves, and leaves towards `next_hop`.
#[expect(
    clippy::too_many_arguments,
    reason = "what the line holds apart, which a struct would only name again"
)]
#[cold]
fn look_closer<P: PacketBuf>(
    packet: &mut P,
    table: &mut FlowTable,
    index: EntryIndex,
    mut shape: Shape,
    rules: &Ruleset,
    (port_in, next_hop): (PortIndex, &Adjacency),
    counters: &WorkerCounters,
    lengths_changed: &mut bool,
) -> Result<(), DropReason> {
    let Some(entry) = table.entry(index) else { return Ok(()) };
    let is_answer = entry.rewrite.is_to_client();
    if entry.watch.keeps_address() && is_answer && !shape.has_l4() {
        // Of an error without a number that could be told nothing is to be taken back.
        let _ = client_address::take_back_quote(packet, shape, index, table);
    }
    let keeps_address = entry.watch.keeps_address() && shape.has_l4();
    if shape.tcp_flags.has(TcpFlags::SYN) && entry.protocol() == PROTOCOL_TCP {
        let in_front = if is_answer { entry.kept().header_len() } else { 0 };
        let mss = rules.service(entry.service).map_or(Mss::Kept, |service| service.policy.mss);
        if mss != Mss::Kept || in_front != 0 {
            let is_translated =
                matches!(entry.rewrite, Rewrite::TranslateToBackend | Rewrite::TranslateToClient);
            // On the way in: a backend's SYN-ACK bounds what goes to that, and so may be encapsulated.
            let mtu_in =
                if is_answer { rules.way_mtu(entry.backend(), port_in) } else { rules.port_mtu(port_in) };
            let ways = [(next_hop.mtu, shape.is_v6), (mtu_in, shape.is_v6 != is_translated)];
            mss::lower(packet.data_mut(), shape.l4_at, mss, mss::fits(ways), in_front);
        }
    }
    if keeps_address && !is_answer {
        let ip_len = shape.ip_len;
        shape = client_address::tell(packet, shape, index, table, rules, counters)?;
        *lengths_changed |= shape.ip_len != ip_len;
    }
    let first =
        if keeps_address && is_answer { client_address::hear(packet, shape, index, table) } else { None };
    follow(packet.data(), table, index, shape, rules, counters)?;
    if keeps_address && is_answer {
        client_address::take_back(packet, shape, index, table, first)?;
    }
    Ok(())
}

/// The station a frame comes from, as [`Ethernet::source_and_type`] gives it for IPv4: stations are known by that,
/// whatever they send.
#[inline(always)]
fn source_and_type(data: &[u8]) -> Result<u64, DropReason> {
    const TO_IPV4: u64 = {
        let ([a, b], [c, d]) = (ETHERTYPE_IPV4.to_be_bytes(), ETHERTYPE_IPV6.to_be_bytes());
        u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a ^ c, b ^ d])
    };
    const IS_IPV6: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0x80, 0]);
    let word = Ethernet(data.first_chunk().ok_or(DropReason::Truncated)?).source_and_type();
    // Of the two EtherTypes that come here only IPv6's has this bit.
    Ok(if word & IS_IPV6 != 0 { word ^ TO_IPV4 } else { word })
}

/// Rewrites a packet that was scheduled by itself.
#[cold]
fn rewrite_without_flow<P: PacketBuf>(
    packet: &mut P,
    finding: &mut Finding,
    rules: &Ruleset,
    limits: &mut ReplyLimits,
    counters: &WorkerCounters,
    now: Millis,
    lengths_changed: &mut bool,
) -> Result<PortIndex, Verdict> {
    let shape = finding.shape;
    // With neither, its connection was evicted by one admitted in the same burst.
    let backend = finding.entry.backend_without_flow().ok_or(DropReason::TableFull)?;
    let next_hop = &rules.adjacency(backend);
    let index = rules.backend(backend).map_or(ServiceIndex::NONE, |backend| backend.service);
    let service = rules.service(index).ok_or(DropReason::NoBackend)?;
    let is_too_long = shape.ip_len > next_hop.mtu;
    if is_too_long {
        fit::judge(packet, shape, next_hop.mtu, index, rules, limits, counters, now)?;
    }
    finding.mtu_out = next_hop.mtu;
    if service.mode == Mode::Tunnel {
        let encapsulation = rules.encapsulation(backend).ok_or(DropReason::NoBackend)?;
        let second_choice = finding.entry.second_choice().and_then(|second| rules.ipv4_of(second));
        let egress = Egress { next_hop, rules, counters };
        tunnel::rewrite(packet, shape, &finding.key, encapsulation, second_choice, egress)?;
        finding.mtu_out = next_hop.mtu.saturating_add(encapsulation.added_len());
        *lengths_changed = true;
    } else {
        dr::rewrite(packet.data_mut(), shape, !service.policy.keeps_ttl, next_hop)?;
    }
    counters.backend(backend).inbound.add(u64::from(shape.ip_len));
    if is_too_long {
        packet.set_port(next_hop.port);
        return Err(Verdict::ForwardInParts);
    }
    Ok(next_hop.port)
}

/// A next hop; whether its MAC is known is for whoever compares its MTU to find out.
#[inline(always)]
fn known(next_hop: Option<&Adjacency>) -> Result<&Adjacency, DropReason> {
    next_hop.ok_or(DropReason::NextHopUnresolved)
}

/// A packet that is cut gets an identification of this director's where it leaves from an address of the director's, as
/// fragments do that arrive ([`crate::stage::fragments::renumber`]): none is what [`crate::stage::cut`] gives one for.
#[cold]
fn leave_identification_to_cut(data: &mut [u8], shape: Shape, entry: &Entry) {
    let l3 = data.get_mut(shape.l3_at.into()..).filter(|_| !shape.is_v6);
    let Some(header) = l3.and_then(|l3| l3.first_chunk_mut()) else { return };
    let view = Ipv4(header);
    if !view.is_fragment() && view.addresses().source() != entry.new_addresses().source() {
        Ipv4Mut(header).set_identification(0);
    }
}

/// Answers go where the client's packets come from: a client whose router changed (VRRP, a new gateway) is
/// followed with its first packet by the new way.
#[cold]
fn follow_client(
    table: &mut FlowTable,
    stations: &mut ClientStations,
    index: EntryIndex,
    source_and_type: u64,
    port: PortIndex,
) {
    let Some(row) = stations.hold(MacAddress::from_word(source_and_type), port) else { return };
    for index in [index, index.peer()] {
        if let Some(entry) = table.entry_mut(index) {
            let before = std::mem::replace(&mut entry.client_station, row);
            if entry.rewrite.is_to_backend() {
                stations.release(before);
            }
        }
    }
}

/// Follows the connection that a segment belongs to, or says why the segment goes no further.
#[cold]
fn follow(
    data: &[u8],
    table: &mut FlowTable,
    index: EntryIndex,
    shape: Shape,
    rules: &Ruleset,
    counters: &WorkerCounters,
) -> Result<(), DropReason> {
    if !shape.has_l4() {
        return Ok(());
    }
    if shape.tcp_flags.steers_state() && !shape.tcp_flags.are_possible() {
        return Err(DropReason::TcpFlags);
    }
    if table.entry(index).is_some_and(|entry| entry.watch.notes_numbers())
        && follow_numbers(data, table, index, shape)? == RstVerdict::Passes
    {
        return Ok(());
    }
    follow_state(data, table, index, shape, rules, counters);
    Ok(())
}

/// Notes the numbers of a segment; judges a RST by them where the rules say so.
fn follow_numbers(
    data: &[u8],
    table: &mut FlowTable,
    index: EntryIndex,
    shape: Shape,
) -> Result<RstVerdict, DropReason> {
    let header =
        data.get(shape.l4_at.into()..).and_then(|l4| l4.first_chunk()).ok_or(DropReason::Truncated)?;
    let segment = Tcp(header);
    if shape.tcp_flags.has(TcpFlags::RST) {
        let judged = table.entry(index).map(|entry| judge_rst(segment, entry, table, index));
        return match judged.unwrap_or(RstVerdict::Ends) {
            RstVerdict::Dropped => Err(DropReason::RstOutOfWindow),
            passes => Ok(passes),
        };
    }
    if let Some(entry) = table.entry_mut(index) {
        entry.numbers.note(&mut entry.watch, segment, shape.l4_len());
    }
    Ok(RstVerdict::Ends)
}

/// Whether the receiver of a RST may take it, as far as a director can tell.
fn judge_rst(rst: Tcp<'_>, entry: &Entry, table: &FlowTable, index: EntryIndex) -> RstVerdict {
    let to = if entry.is_paired() { table.entry(index.peer()).map(Entry::end) } else { None };
    // Where answers bypass the director, what the client refuses of a half-open connection may be any number.
    let tells_nothing = to.is_none() && entry.state.is_half_open();
    if !entry.watch.checks_rst() || tells_nothing {
        return RstVerdict::Ends;
    }
    sequence::judge_rst(rst, entry.end(), to)
}

/// Moves the connection's state, in both entries of a pair.
fn follow_state(
    data: &[u8],
    table: &mut FlowTable,
    index: EntryIndex,
    shape: Shape,
    rules: &Ruleset,
    counters: &WorkerCounters,
) {
    let Some(entry) = table.entry(index) else { return };
    let sender = match entry.rewrite {
        Rewrite::FullnatToBackend | Rewrite::TranslateToBackend => Sender::Client,
        Rewrite::FullnatToClient | Rewrite::TranslateToClient => Sender::Server,
        Rewrite::Dr | Rewrite::Tunnel | Rewrite::Local | Rewrite::Free => Sender::ClientOnly,
    };
    let after = match entry.state.protocol() {
        PROTOCOL_SCTP => entry.state.after_chunk(sctp::first_chunk(shape.l4(data)), sender),
        _ => entry.state.after(shape.tcp_flags, sender),
    };
    if after == entry.state {
        return;
    }
    if entry.state.is_active() != after.is_active() {
        counters.count_active(entry.backend(), after.is_active());
    }
    if (entry.state, after, sender) == (TcpState::SynRecv, TcpState::Close, Sender::Server) {
        counters.backend(entry.backend()).refused.add(1);
    }
    let half_open = &counters.service(entry.service).half_open;
    count_change(half_open, entry.state.is_half_open(), after.is_half_open());
    // A service that is no longer in the rules leaves its connections IPVS's timeouts.
    let timeout_ms =
        rules.service(entry.service).map_or(after.timeout_ms(), |service| service.policy.timeouts.of(after));
    table.set_state(index, after, timeout_ms);
}

/// Keeps a gauge of connections in step with one of them.
fn count_change(gauge: &Counter, before: bool, after: bool) {
    match (before, after) {
        (true, false) => gauge.subtract(1),
        (false, true) => gauge.add(1),
        _ => {}
    }
}

/// The parts of an IPv4 frame that rewriting touches.
struct Frame<'a> {
    /// Destination and source MAC, then the EtherType.
    link: &'a mut [u8; ethernet::HEADER_LEN],
    /// The fixed part of the IPv4 header.
    ipv4: &'a mut [u8; ipv4::HEADER_LEN],
    /// The TCP or UDP header, and what follows; nothing where the packet has none ([`Shape::has_l4`]).
    l4: &'a mut [u8],
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn split(data: &'a mut [u8], shape: Shape) -> Result<Self, DropReason> {
        const COMMON_L4_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
        let l4_at = usize::from(shape.l4_at);
        let (headers, l4): (&mut [u8; COMMON_L4_AT], _) = if l4_at == COMMON_L4_AT {
            data.split_first_chunk_mut().ok_or(DropReason::Truncated)?
        } else if !shape.has_l4() {
            (data.first_chunk_mut().ok_or(DropReason::Truncated)?, Default::default())
        } else {
            let (headers, l4) = data.split_at_mut_checked(l4_at).ok_or(DropReason::Truncated)?;
            (headers.first_chunk_mut().ok_or(DropReason::Truncated)?, l4)
        };
        let (link, ipv4) = headers.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
        let ipv4 = ipv4.first_chunk_mut().ok_or(DropReason::Truncated)?;
        Ok(Self { link, ipv4, l4 })
    }

    #[inline(always)]
    fn set_macs(&mut self, next_hop: &Adjacency) {
        set_macs(self.link, next_hop);
    }
}

/// The parts of an IPv6 frame that rewriting touches.
struct Frame6<'a> {
    /// Destination and source MAC, then the EtherType.
    link: &'a mut [u8; ethernet::HEADER_LEN],
    /// The IPv6 header, without extensions.
    ipv6: &'a mut [u8; ipv6::HEADER_LEN],
    /// The TCP or UDP header, and what follows; nothing where the packet has none ([`Shape::has_l4`]).
    l4: &'a mut [u8],
}

impl<'a> Frame6<'a> {
    #[inline(always)]
    fn split(data: &'a mut [u8], shape: Shape) -> Result<Self, DropReason> {
        let (headers, l4) = if shape.has_l4() {
            data.split_at_mut_checked(shape.l4_at.into()).ok_or(DropReason::Truncated)?
        } else {
            (data, Default::default())
        };
        let (link, rest) = headers.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
        let ipv6 = rest.first_chunk_mut().ok_or(DropReason::Truncated)?;
        Ok(Self { link, ipv6, l4 })
    }

    #[inline(always)]
    fn set_macs(&mut self, next_hop: &Adjacency) {
        set_macs(self.link, next_hop);
    }
}

#[inline(always)]
fn set_macs(link: &mut [u8; ethernet::HEADER_LEN], next_hop: &Adjacency) {
    if let Some(macs) = link.first_chunk_mut() {
        *macs = next_hop.macs;
    }
}
