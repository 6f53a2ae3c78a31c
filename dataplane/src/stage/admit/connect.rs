//! Makes the connection of a newcomer to a backend: its entry, for FullNAT the pair of them with a local port.

use std::net::IpAddr;

use super::Admission;
use crate::flow::entry::NOT_PERSISTENT;
use crate::flow::kept::Kept;
use crate::flow::sequence::Watch;
use crate::flow::tcp_state::{Sender, TcpState};
use crate::flow::{Entry, FlowKey, Rewrite};
use crate::index::{BackendIndex, EntryIndex, PortIndex};
use crate::local_port::LocalPort;
use crate::rules::{Backend, ClientAddress, Mode};
use crate::stage::steer;
use crate::verdict::DropReason;
use crate::wire::ipv4::{PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::{PortPair, echo, sctp};

/// Identifiers tried for a ping whose own is in use. With four workers that is 16 of this one's.
const IDENTIFIERS_TRIED: u16 = 64;

impl Admission<'_> {
    /// Makes the connection to the backend at `index`, if that can be reached.
    pub(super) fn connect(&mut self, index: BackendIndex) -> Result<EntryIndex, DropReason> {
        let backend = *self.rules.backend(index).ok_or(DropReason::NoBackend)?;
        if backend.is_local {
            return self.insert(self.entry(index, Rewrite::Local));
        }
        let adjacency = self.rules.adjacency(index);
        if !adjacency.is_resolved() {
            return Err(DropReason::NextHopUnresolved);
        }
        match self.service.mode {
            Mode::Dr => {
                let mut entry = self.entry(index, Rewrite::Dr);
                if self.service.policy.keeps_ttl {
                    entry.keep_ttl();
                }
                self.connect_one_way(entry)
            }
            Mode::Tunnel => {
                // Without an address for the outer header's source the backend cannot be reached.
                self.rules.encapsulation(index).ok_or(DropReason::NextHopUnresolved)?;
                self.connect_one_way(self.entry(index, Rewrite::Tunnel))
            }
            Mode::Fullnat => self.connect_fullnat(index, &backend, adjacency.port),
            Mode::Nat => self.connect_nat(index, &backend),
            Mode::Snat => self.connect_snat(index, adjacency.port),
        }
    }

    /// The way of a packet that is scheduled by itself to the backend at `index`.
    pub(super) fn reach(&mut self, index: BackendIndex) -> Result<EntryIndex, DropReason> {
        let has_header = self.service.mode != Mode::Tunnel || self.rules.encapsulation(index).is_some();
        if self.rules.adjacency(index).is_resolved() && has_header {
            Ok(EntryIndex::without_flow(index))
        } else {
            Err(DropReason::NextHopUnresolved)
        }
    }

    /// The entry of the client's flow, as far as all modes have it alike.
    fn entry(&self, backend: BackendIndex, rewrite: Rewrite) -> Entry {
        self.entry_of(&self.newcomer.key, backend, rewrite)
    }

    /// The entry of the flow `key` of a new connection.
    fn entry_of(&self, key: &FlowKey, backend: BackendIndex, rewrite: Rewrite) -> Entry {
        let state = match key.protocol {
            PROTOCOL_TCP => TcpState::None.after(self.newcomer.flags, Sender::Client),
            PROTOCOL_SCTP => TcpState::of_first_chunk(sctp::first_chunk(self.newcomer.l4)),
            protocol if echo::is_icmp(protocol) => TcpState::Icmp,
            _ => TcpState::Udp,
        };
        let mut entry = Entry::new(key, rewrite, backend);
        entry.last_seen = self.now;
        entry.service = self.index;
        entry.client_prefix_len = NOT_PERSISTENT;
        entry.state = state;
        entry.watch = Watch::new(&self.service.policy, key.protocol).in_state(state);
        entry.set_timeout_ms(self.service.policy.timeouts.of(state));
        entry
    }

    fn insert(&mut self, entry: Entry) -> Result<EntryIndex, DropReason> {
        self.state.table.insert(entry, self.now, self.evicted).map_err(|_| DropReason::TableFull)
    }

    /// Where its client may have to be told something, of its end or of its tunnel, the connection keeps the way to the client;
    /// where there is no room for that, the client will not be told.
    fn connect_one_way(&mut self, mut entry: Entry) -> Result<EntryIndex, DropReason> {
        if (entry.watch.notes_numbers() || entry.rewrite == Rewrite::Tunnel)
            && let Some(row) = self.state.stations.hold(self.newcomer.station, self.newcomer.port)
        {
            (entry.client_station, entry.watch) = (row, entry.watch.holding_station());
        }
        self.insert(entry).inspect_err(|_| {
            if entry.watch.holds_station() {
                self.state.stations.release(entry.client_station);
            }
        })
    }

    /// Sets how the backend is told who the client is, if it is.
    fn keep_client_address(&self, forward: &mut Entry, back: &mut Entry) {
        let protocol = self.newcomer.key.protocol;
        let is_tcp = protocol == PROTOCOL_TCP;
        let (wanted, shifts) = match self.service.policy.client_address {
            // Of a connection that is taken up without its SYN the first byte is gone.
            wanted @ ClientAddress::Proxy(_) if is_tcp && self.newcomer.flags.opens() => (wanted, true),
            wanted @ ClientAddress::Toa(_) if is_tcp => (wanted, false),
            wanted @ ClientAddress::Uoa(_) if protocol == PROTOCOL_UDP => (wanted, false),
            _ => return,
        };
        back.set_kept(Kept::new(wanted, &self.newcomer.key));
        for entry in [forward, back] {
            entry.watch = entry.watch.keeping_address(shifts);
        }
    }

    /// FullNAT: from a local address and l4_port to the backend's, whose family may be another than the client's.
    fn connect_fullnat(
        &mut self,
        index: BackendIndex,
        backend: &Backend,
        port_out: PortIndex,
    ) -> Result<EntryIndex, DropReason> {
        let server = (backend.address, self.l4_port_of(backend));
        let answers = self.local_port(port_out, server)?;
        self.connect_pair(index, answers)
    }

    /// NAT: from the client itself to the backend's address and l4_port. So a client has one connection from one of its
    /// l4_ports to a backend, whatever VIPs it asks. Pings of one identifier it may have more: Windows has the same one for all
    /// of them.
    fn connect_nat(&mut self, index: BackendIndex, backend: &Backend) -> Result<EntryIndex, DropReason> {
        let FlowKey { addresses, ports, protocol } = self.newcomer.key;
        if addresses.is_v6() != backend.address.is_ipv6() {
            return Err(DropReason::OtherFamily);
        }
        let server = (backend.address, self.l4_port_of(backend));
        let key = FlowKey::new(server, (addresses.source(), ports.source()), protocol);
        let table = &self.state.table;
        let hash = table.hash(&key);
        let holder = table.find(hash, &key);
        let gives_way = |entry: &Entry| entry.state.is_half_open() || entry.state.is_over(false);
        if table.entry(holder).is_some_and(|entry| !gives_way(entry)) {
            let other = self.other_identifier(&key).ok_or(DropReason::NoLocalPort)?;
            return self.connect_pair(index, other);
        }
        let taken_from = (holder != EntryIndex::NONE).then_some(holder);
        self.connect_pair(index, LocalPort { key, hash, taken_from })
    }

    /// The answers of `key`, of a ping, under an identifier that no connection has and whose answers come to this worker.
    fn other_identifier(&self, key: &FlowKey) -> Option<LocalPort> {
        if !echo::is_icmp(key.protocol) {
            return None;
        }
        let (me, table) = (self.state.local_ports.worker(), &self.state.table);
        (1..=IDENTIFIERS_TRIED).find_map(|step| {
            let identifier = key.ports.destination().wrapping_add(step);
            let key = FlowKey { ports: PortPair::new(key.ports.source(), identifier), ..*key };
            let hash = table.hash(&key);
            let is_free = table.find(hash, &key) == EntryIndex::NONE;
            let is_mine = || steer::owner(&key, self.rules).is_none_or(|owner| owner == me);
            (is_free && is_mine()).then_some(LocalPort { key, hash, taken_from: None })
        })
    }

    /// SNAT: from a local address and l4_port to whom the host talks to.
    fn connect_snat(&mut self, index: BackendIndex, port_out: PortIndex) -> Result<EntryIndex, DropReason> {
        let FlowKey { addresses, ports, .. } = self.newcomer.key;
        let answers = self.local_port(port_out, (addresses.destination(), ports.destination()))?;
        self.connect_pair(index, answers)
    }

    /// The backend's l4_port, where it has one of its own; a ping has none.
    fn l4_port_of(&self, backend: &Backend) -> u16 {
        let is_ping = echo::is_icmp(self.newcomer.key.protocol);
        if backend.l4_port == 0 || is_ping { self.newcomer.key.ports.destination() } else { backend.l4_port }
    }

    /// A local address and l4_port for a connection to `server`, which is reached by `port_out`.
    fn local_port(&mut self, port_out: PortIndex, server: (IpAddr, u16)) -> Result<LocalPort, DropReason> {
        let Self { rules, state, newcomer, .. } = self;
        let pool = rules.local_pool(port_out, server.0).ok_or(DropReason::NoLocalPort)?;
        let protocol = echo::in_family(newcomer.key.protocol, server.0.is_ipv6());
        let local_port = state.local_ports.choose(rules, pool, server, protocol, &state.table);
        local_port.ok_or(DropReason::NoLocalPort)
    }

    /// Makes the pair: the client's flow to the backend, and the backend's back to the client, which is `answers`.
    fn connect_pair(&mut self, index: BackendIndex, answers: LocalPort) -> Result<EntryIndex, DropReason> {
        let client_key = self.newcomer.key;
        let Self { state, newcomer, .. } = self;
        let station = state.stations.hold(newcomer.station, newcomer.port);
        let client_station = station.ok_or(DropReason::ClientStationsFull)?;
        self.evicted.extend(answers.taken_from.and_then(|index| state.table.remove(index)));
        let translates = client_key.addresses.is_v6() != answers.key.addresses.is_v6();
        let (to_backend, to_client) = if translates {
            (Rewrite::TranslateToBackend, Rewrite::TranslateToClient)
        } else {
            (Rewrite::FullnatToBackend, Rewrite::FullnatToClient)
        };
        let mut forward = self.entry(index, to_backend);
        let mut back = self.entry_of(&answers.key, index, to_client);
        forward.rewrite_to(&answers.key.reversed());
        back.rewrite_to(&client_key.reversed());
        (forward.client_station, back.client_station) = (client_station, client_station);
        self.keep_client_address(&mut forward, &mut back);
        self.state.table.insert_pair(forward, back, self.now, self.evicted).map_err(|_| {
            self.state.stations.release(client_station);
            DropReason::TableFull
        })
    }
}
