//! admit: a packet of no known flow. Finds its service, chooses a backend and for FullNAT a local port, and
//! inserts the connection; or says why not.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::flow::table::Evicted;
use crate::flow::tcp_state::{Sender, TcpState};
use crate::flow::{Entry, FlowHash, FlowKey, Rewrite};
use crate::index::{AdjacencyIndex, BackendIndex, EntryIndex, PortIndex, ServiceIndex};
use crate::line::LineState;
use crate::packet::PacketBuf;
use crate::rules::{Choice, Mode, Position, Ruleset, Service, ServiceKey};
use crate::stage::lookup;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{TTL_LOWERED, combine, delta_of_addresses, delta_of_ports};
use crate::wire::ethernet::{Ethernet, MacAddress};
use crate::wire::ipv4::PROTOCOL_TCP;
use crate::wire::tcp::TcpFlags;

/// Backends tried for one connection: those without a known MAC, or without a free local port, are passed over.
const ATTEMPTS_MAX: u32 = 4;

/// A packet that asks for a connection.
struct Newcomer {
    key: FlowKey,
    hash: FlowHash,
    flags: TcpFlags,
    port: PortIndex,
    station: MacAddress,
}

/// Admits what lookup missed.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) {
    let moved_before = state.table.moved();
    for (packet, finding) in burst.packets.iter().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Forward || finding.entry != EntryIndex::NONE {
            continue;
        }
        let Some(link) = packet.data().first_chunk() else { continue };
        let newcomer = Newcomer {
            key: finding.key,
            hash: finding.hash,
            flags: finding.shape.tcp_flags,
            port: packet.port(),
            station: Ethernet(link).source(),
        };
        let mut evicted = Evicted::new();
        match admit(&newcomer, rules, state, counters, now, &mut evicted) {
            Ok(index) => finding.entry = index,
            Err(verdict) => finding.verdict = verdict,
        }
        for entry in &evicted {
            counters.evicted.add(1);
            state.settle(entry, counters);
        }
    }
    if state.table.moved() != moved_before {
        // An entry found earlier in this burst may lie elsewhere, or be another connection's, by now.
        lookup::run(burst, &state.table);
    }
}

fn admit(
    newcomer: &Newcomer,
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
    evicted: &mut Evicted,
) -> Result<EntryIndex, Verdict> {
    // An earlier packet of this burst may have made the connection.
    let known = state.table.find(newcomer.hash, &newcomer.key);
    if let Some(entry) = state.table.entry(known) {
        if !(newcomer.flags.opens() && entry.is_over()) {
            return Ok(known);
        }
        // Not an eviction: it was over, and its client says so.
        if let Some(over) = state.table.remove(known) {
            state.settle(&over, counters);
        }
    }
    let (service_index, service) = match_service(newcomer, rules).ok_or(Verdict::Punt)?;
    if newcomer.key.protocol == PROTOCOL_TCP && !newcomer.flags.opens() {
        // A segment of a connection nobody here knows: the kernel, which owns the VIP, resets it.
        return Err(Verdict::Punt);
    }
    let made = connect(newcomer, service_index, service, rules, state, now, evicted);
    match made {
        Ok((index, backend)) => {
            counters.backend(backend).opened.add(1);
            Ok(index)
        }
        Err(reason) => {
            counters.service(service_index).refused.add(1);
            Err(Verdict::Drop(reason))
        }
    }
}

fn match_service<'r>(newcomer: &Newcomer, rules: &'r Ruleset) -> Option<(ServiceIndex, &'r Service)> {
    let FlowKey { addresses, ports, protocol } = newcomer.key;
    let key = ServiceKey { vip: addresses.destination(), l4_port: ports.destination(), protocol };
    let index = rules.matcher.find(key)?;
    Some((index, rules.service(index)?))
}

fn connect(
    newcomer: &Newcomer,
    service_index: ServiceIndex,
    service: &Service,
    rules: &Ruleset,
    state: &mut LineState,
    now: Millis,
    evicted: &mut Evicted,
) -> Result<(EntryIndex, BackendIndex), DropReason> {
    let mut refusal = DropReason::NoBackend;
    for attempt in 0..ATTEMPTS_MAX {
        let Some(choice) = choose(newcomer, service_index, service, state, attempt) else { break };
        // Kept also when the backend cannot take the connection: else the next newcomer meets the same one.
        if let Some(Some(service)) = state.services.get_mut(service_index.as_usize()) {
            service.position = choice.position;
        }
        let Some(member) = service.members.get(choice.member) else { break };
        match connect_to(newcomer, member.backend, service.mode, rules, state, now, evicted) {
            Ok(index) => return Ok((index, member.backend)),
            Err(reason @ (DropReason::NextHopUnresolved | DropReason::NoLocalPort)) => refusal = reason,
            Err(reason) => return Err(reason),
        }
    }
    Err(refusal)
}

/// Makes the connection to `backend`, if that can be reached.
fn connect_to(
    newcomer: &Newcomer,
    backend: BackendIndex,
    mode: Mode,
    rules: &Ruleset,
    state: &mut LineState,
    now: Millis,
    evicted: &mut Evicted,
) -> Result<EntryIndex, DropReason> {
    let adjacency = rules.adjacency(backend);
    if !adjacency.resolved {
        return Err(DropReason::NextHopUnresolved);
    }
    let tcp = newcomer.key.protocol == PROTOCOL_TCP;
    let tcp_state = if tcp { TcpState::None.after(newcomer.flags, Sender::Client) } else { TcpState::Udp };
    let entry = Entry {
        key: newcomer.key,
        hash: newcomer.hash,
        ip_delta: TTL_LOWERED,
        last_seen: now,
        timeout_ms: tcp_state.timeout_ms(),
        backend,
        rewrite: Rewrite::Dr,
        state: tcp_state,
        ..Entry::default()
    };
    match mode {
        Mode::Dr => state.table.insert(entry, now, evicted).map_err(|_| DropReason::TableFull),
        Mode::Fullnat => connect_fullnat(newcomer, entry, adjacency.port, rules, state, now, evicted),
    }
}

fn choose(
    newcomer: &Newcomer,
    index: ServiceIndex,
    service: &Service,
    state: &LineState,
    attempt: u32,
) -> Option<Choice> {
    let kept = state.services.get(index.as_usize()).and_then(|state| state.as_ref());
    let position = kept.map_or(Position::default(), |state| state.position);
    service.scheduler.choose(&service.members, position, &newcomer.key, attempt)
}

/// Completes `entry` to a pair: the client's flow to the backend, and the backend's back to the client.
fn connect_fullnat(
    newcomer: &Newcomer,
    entry: Entry,
    port_out: PortIndex,
    rules: &Ruleset,
    state: &mut LineState,
    now: Millis,
    evicted: &mut Evicted,
) -> Result<EntryIndex, DropReason> {
    let backend = rules.backend(entry.backend).ok_or(DropReason::NoBackend)?;
    let pool = rules.local_pool(port_out).ok_or(DropReason::NoLocalPort)?;
    let endpoint = (backend.address, backend.l4_port);
    let local_port = state
        .local_ports
        .choose(rules, pool, endpoint, newcomer.key.protocol, &state.table)
        .ok_or(DropReason::NoLocalPort)?;
    let client_station =
        state.stations.hold(newcomer.station, newcomer.port).ok_or(DropReason::ClientStationsFull)?;
    evicted.extend(local_port.taken_from.and_then(|index| state.table.remove(index)));
    let client_key = newcomer.key;
    let forward = rewritten(entry, Rewrite::FullnatToBackend, client_station, local_port.key.reversed());
    let back_entry = Entry { key: local_port.key, hash: local_port.hash, ..entry };
    let back = rewritten(back_entry, Rewrite::FullnatToClient, client_station, client_key.reversed());
    state.table.insert_pair(forward, back, now, evicted).map_err(|_| {
        state.stations.release(client_station);
        DropReason::TableFull
    })
}

/// `entry` with everything rewrite needs to turn its key into `new`.
fn rewritten(entry: Entry, rewrite: Rewrite, client_station: AdjacencyIndex, new: FlowKey) -> Entry {
    let FlowKey { addresses, ports, .. } = entry.key;
    let of_addresses = delta_of_addresses(addresses, new.addresses);
    Entry {
        new_addresses: new.addresses,
        new_ports: new.ports,
        ip_delta: combine(of_addresses, TTL_LOWERED),
        l4_delta: combine(of_addresses, delta_of_ports(ports, new.ports)),
        client_station,
        rewrite,
        ..entry
    }
}
