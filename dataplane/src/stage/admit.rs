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
use crate::rules::{Choice, Mode, Ruleset, Service, ServiceKey};
use crate::stage::lookup;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{TTL_LOWERED, combine, delta_of_addresses, delta_of_ports};
use crate::wire::ethernet::{Ethernet, MacAddress};
use crate::wire::ipv4::PROTOCOL_TCP;
use crate::wire::tcp::TcpFlags;

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
    let mut evicted_any = false;
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
            evicted_any = true;
        }
    }
    if evicted_any {
        // An entry found earlier in this burst may be another connection's by now.
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
    if known != EntryIndex::NONE {
        return Ok(known);
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
    let choice = choose(newcomer, service_index, service, state).ok_or(DropReason::NoBackend)?;
    let backend = service.members.get(choice.member).ok_or(DropReason::NoBackend)?.backend;
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
        service: service_index,
        rewrite: Rewrite::Dr,
        state: tcp_state,
        ..Entry::default()
    };
    let index = match service.mode {
        Mode::Dr => state.table.insert(entry, now, evicted).map_err(|_| DropReason::TableFull),
        Mode::Fullnat => connect_fullnat(newcomer, entry, adjacency.port, rules, state, now, evicted),
    }?;
    if let Some(Some(service)) = state.services.get_mut(service_index.as_usize()) {
        service.position = choice.position;
    }
    Ok((index, backend))
}

fn choose(newcomer: &Newcomer, index: ServiceIndex, service: &Service, state: &LineState) -> Option<Choice> {
    let position = state.services.get(index.as_usize())?.as_ref()?.position;
    service.scheduler.choose(&service.members, position, &newcomer.key)
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
    let (back_key, back_hash) = state
        .local_ports
        .choose(rules, pool, endpoint, newcomer.key.protocol, &state.table)
        .ok_or(DropReason::NoLocalPort)?;
    let client_station =
        state.stations.hold(newcomer.station, newcomer.port).ok_or(DropReason::ClientStationsFull)?;
    let client_key = newcomer.key;
    let forward = rewritten(entry, Rewrite::FullnatToBackend, client_station, back_key.reversed());
    let back_entry = Entry { key: back_key, hash: back_hash, ..entry };
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
