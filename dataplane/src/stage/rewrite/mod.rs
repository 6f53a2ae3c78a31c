//! rewrite: the new headers, in place. One file a mode; which one is the entry's own word.

mod dr;
mod fullnat;

use crate::adjacency::{Adjacency, ClientStations, station_key};
use crate::burst::{Burst, Finding, Shape};
use crate::counters::WorkerCounters;
use crate::flow::tcp_state::{Sender, TcpState};
use crate::flow::{FlowTable, Rewrite};
use crate::index::{EntryIndex, PortIndex};
use crate::line::LineState;
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{self, Ethernet, MacAddress};
use crate::wire::ipv4;

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
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        if finding.verdict == Verdict::Forward {
            match rewrite(packet, finding.entry, finding.shape, adjacencies, state, counters, now) {
                Ok(port) => finding.port_out = port,
                Err(reason) => finding.verdict = Verdict::Drop(reason),
            }
        }
        ports_seen.add(finding);
    }
    burst.common_port = ports_seen.common_port();
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

/// Rewrites one packet for its next hop; returns the port to that.
#[inline(always)]
fn rewrite<P: PacketBuf>(
    packet: &mut P,
    index: EntryIndex,
    shape: Shape,
    adjacencies: &[Adjacency],
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) -> Result<PortIndex, DropReason> {
    let LineState { table, stations, .. } = state;
    let port_in = packet.port();
    let frame = Frame::split(packet.data_mut(), shape)?;
    // Without an entry its connection was evicted by one admitted in the same burst.
    let mut entry = table.entry_known(index).ok_or(DropReason::TableFull)?;
    entry.last_seen = now;
    let backend = counters.backend(entry.backend);
    let (port_out, traffic) = match entry.rewrite {
        Rewrite::FullnatToBackend => {
            let source = Ethernet(frame.link).source_and_type();
            if !stations.leads_to(entry.client_station, station_key(source, port_in)) {
                follow_client(table, stations, index, source, port_in);
                entry = table.entry_known(index).ok_or(DropReason::TableFull)?;
            }
            let next_hop = usable(adjacencies.get(entry.backend.as_usize()))?;
            fullnat::rewrite(frame, entry, next_hop)?;
            (next_hop.port, &backend.inbound)
        }
        Rewrite::FullnatToClient => {
            let next_hop = usable(stations.adjacency(entry.client_station))?;
            fullnat::rewrite(frame, entry, next_hop)?;
            (next_hop.port, &backend.outbound)
        }
        Rewrite::Dr => {
            let next_hop = usable(adjacencies.get(entry.backend.as_usize()))?;
            dr::rewrite(frame, entry, next_hop)?;
            (next_hop.port, &backend.inbound)
        }
        Rewrite::Free => return Err(DropReason::TableFull),
    };
    traffic.add(u64::from(shape.ip_len));
    if shape.tcp_flags.steers_state() || entry.state == TcpState::SynRecv {
        follow_state(table, index, shape);
    }
    Ok(port_out)
}

/// A next hop whose MAC is known.
#[inline(always)]
fn usable(next_hop: Option<&Adjacency>) -> Result<&Adjacency, DropReason> {
    next_hop.filter(|next_hop| next_hop.resolved).ok_or(DropReason::NextHopUnresolved)
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
            if entry.rewrite == Rewrite::FullnatToBackend {
                stations.release(before);
            }
        }
    }
}

/// Moves the connection's state, in both entries of a pair.
#[cold]
fn follow_state(table: &mut FlowTable, index: EntryIndex, shape: Shape) {
    let Some(entry) = table.entry(index) else { return };
    let sender = match entry.rewrite {
        Rewrite::FullnatToBackend => Sender::Client,
        Rewrite::FullnatToClient => Sender::Server,
        Rewrite::Dr | Rewrite::Free => Sender::ClientOnly,
    };
    let after = entry.state.after(shape.tcp_flags, sender);
    if after == entry.state {
        return;
    }
    let peer = if entry.is_paired() { index.peer() } else { index };
    for index in [index, peer] {
        if let Some(entry) = table.entry_mut(index) {
            entry.state = after;
            entry.timeout_ms = after.timeout_ms();
        }
    }
}

/// The parts of a frame that rewriting touches.
struct Frame<'a> {
    /// Destination and source MAC, then the EtherType.
    link: &'a mut [u8; ethernet::HEADER_LEN],
    /// The fixed part of the IPv4 header.
    ipv4: &'a mut [u8; ipv4::HEADER_LEN],
    /// The TCP or UDP header, and what follows.
    l4: &'a mut [u8],
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn split(data: &'a mut [u8], shape: Shape) -> Result<Self, DropReason> {
        const COMMON_L4_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
        let l4_at = usize::from(shape.l4_at);
        let (headers, l4): (&mut [u8; COMMON_L4_AT], _) = if l4_at == COMMON_L4_AT {
            data.split_first_chunk_mut().ok_or(DropReason::Truncated)?
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
        if let Some(macs) = self.link.first_chunk_mut() {
            *macs = next_hop.macs;
        }
    }
}
