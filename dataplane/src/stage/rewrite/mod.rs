//! rewrite: the new headers, in place. One file a mode; which one is the entry's own word.

mod dr;
mod fullnat;

use crate::adjacency::Adjacency;
use crate::burst::{Burst, Shape};
use crate::counters::WorkerCounters;
use crate::flow::tcp_state::{Sender, TcpState};
use crate::flow::{Entry, Rewrite};
use crate::index::EntryIndex;
use crate::line::LineState;
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::Ethernet;
use crate::wire::ipv4;

/// Rewrites what will be forwarded, follows the connections' states and counts.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) {
    for (row, packet) in burst.packets.iter_mut().enumerate() {
        if burst.verdicts[row] != Verdict::Forward {
            continue;
        }
        let (index, shape) = (burst.entries[row], burst.shapes[row]);
        match rewrite(packet, index, shape, rules, state, counters, now) {
            Ok(adjacency) => burst.ports_out[row] = adjacency.port,
            Err(reason) => burst.verdicts[row] = Verdict::Drop(reason),
        }
    }
}

/// Rewrites one packet for the next hop returned.
#[inline(always)]
fn rewrite<P: PacketBuf>(
    packet: &mut P,
    index: EntryIndex,
    shape: Shape,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) -> Result<Adjacency, DropReason> {
    // Without an entry its connection was evicted by one admitted in the same burst.
    let entry = state.table.entry_mut(index).ok_or(DropReason::TableFull)?;
    entry.last_seen = now;
    let entry = *entry;
    let bytes = u64::from(shape.ip_len);
    let backend = counters.backend(entry.backend);
    let adjacency = match entry.rewrite {
        Rewrite::FullnatToClient => state.stations.row(entry.client_station),
        _ => rules.adjacency(entry.backend),
    };
    if !adjacency.resolved {
        return Err(DropReason::NextHopUnresolved);
    }
    match entry.rewrite {
        Rewrite::FullnatToBackend => {
            follow_client(packet, index, &entry, state);
            fullnat::rewrite(packet.data_mut(), shape, &entry, &adjacency)?;
            backend.inbound.add(bytes);
        }
        Rewrite::FullnatToClient => {
            fullnat::rewrite(packet.data_mut(), shape, &entry, &adjacency)?;
            backend.outbound.add(bytes);
        }
        Rewrite::Dr | Rewrite::Free => {
            dr::rewrite(packet.data_mut(), shape, &entry, &adjacency)?;
            backend.inbound.add(bytes);
        }
    }
    if entry.state != TcpState::Udp && (shape.tcp_flags.steers_state() || entry.state == TcpState::SynRecv) {
        follow_state(index, &entry, shape, state);
    }
    Ok(adjacency)
}

/// Answers go where the client's packets come from: a client whose router changed (VRRP, a new gateway) is
/// followed with its first packet by the new way.
#[inline(always)]
fn follow_client<P: PacketBuf>(packet: &P, index: EntryIndex, entry: &Entry, state: &mut LineState) {
    let Some(link) = packet.data().first_chunk() else { return };
    let (station, port) = (Ethernet(link).source(), packet.port());
    if state.stations.leads_to(entry.client_station, station, port) {
        return;
    }
    if let Some(row) = state.stations.hold(station, port) {
        state.stations.release(entry.client_station);
        for index in [index, index.peer()] {
            if let Some(entry) = state.table.entry_mut(index) {
                entry.client_station = row;
            }
        }
    }
}

/// Moves the connection's state, in both entries of a pair.
#[cold]
fn follow_state(index: EntryIndex, entry: &Entry, shape: Shape, state: &mut LineState) {
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
        if let Some(entry) = state.table.entry_mut(index) {
            entry.state = after;
            entry.timeout_ms = after.timeout_ms();
        }
    }
}

/// The parts of a frame that rewriting touches.
struct Frame<'a> {
    /// Destination and source MAC.
    macs: &'a mut [u8; 12],
    /// The fixed part of the IPv4 header.
    ipv4: &'a mut [u8; ipv4::HEADER_LEN],
    /// What follows that: options, then TCP or UDP.
    rest: &'a mut [u8],
}

#[inline(always)]
fn split(data: &mut [u8], shape: Shape) -> Result<Frame<'_>, DropReason> {
    let (macs, rest) = data.split_first_chunk_mut::<12>().ok_or(DropReason::Truncated)?;
    let l3 = rest.get_mut(usize::from(shape.l3_at).saturating_sub(12)..).ok_or(DropReason::Truncated)?;
    let (ipv4, rest) = l3.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
    Ok(Frame { macs, ipv4, rest })
}
