//! Adjacencies: ready-made layer-2 headers, one row per next hop. A flow holds a row's index, so a changed
//! MAC touches rows, never flows.
//!
//! Rows towards backends stand in the ruleset, one a backend, kept by control from the kernel's routes and
//! neighbours: a backend that moves behind another router changes its row too. Rows towards clients are the
//! worker's own ([`ClientStations`]): an answer leaves by the port and to the station its client's packets
//! come from, as DPVS's `fast_xmit` does, so no route to the client is needed.

use crate::index::{AdjacencyIndex, PORTS_MAX, PortIndex};
use crate::rules::PortRules;
use crate::wire::ethernet::{ETHERTYPE_IPV4, MacAddress};

/// The MACs of an outgoing frame, the port it leaves by, and how much fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// Destination and source MAC, as they open the frame.
    pub macs: [u8; 12],
    /// The port to the next hop.
    pub port: PortIndex,
    /// Bytes of the longest IP packet that fits the way to it, what is put in front taken off; 0 while the destination MAC
    /// is not known. So one compare tells whether a packet can go.
    pub mtu: u16,
}

impl Adjacency {
    /// A row for a next hop whose MAC is known, and whose way takes packets of any length.
    pub const fn resolved(destination: MacAddress, source: MacAddress, port: PortIndex) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (destination.0, source.0);
        Self { macs: [a, b, c, d, e, f, g, h, i, j, k, l], port, mtu: u16::MAX }
    }

    /// The same row where IP packets have at most `mtu` bytes; a next hop whose MAC is not known stays so.
    #[must_use]
    pub const fn with_mtu(self, mtu: u16) -> Self {
        Self { mtu: if self.mtu < mtu { self.mtu } else { mtu }, ..self }
    }

    /// Whether the destination MAC is known; frames to an unresolved next hop are dropped.
    #[inline(always)]
    pub const fn is_resolved(&self) -> bool {
        self.mtu != 0
    }

    /// A row for a next hop whose MAC is not known yet.
    pub const UNRESOLVED: Self = Self { macs: [0; 12], port: PortIndex(0), mtu: 0 };
}

/// Rows: distinct client-side stations (clients on the link, and routers) of one worker at a time.
const ROWS: usize = 8_192;
/// Places of the hash over them, twice as many so that probing stays short.
const PLACES: usize = ROWS * 2;
/// Places looked at for one station.
const PROBES: usize = 32;
const NO_ROW: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Row {
    adjacency: Adjacency,
    /// See [`station_key`].
    key: u64,
    flow_count: u32,
}

/// The stations that this worker's clients are reached by. Each row counts the flows that use it and is
/// given to another station only when there are none.
pub struct ClientStations {
    rows: Box<[Row]>,
    /// Row indices by hash of (port, MAC); linear probing, a fixed number of places.
    places: Box<[u16]>,
    port_macs: [MacAddress; PORTS_MAX],
    port_mtus: [u16; PORTS_MAX],
    hand: usize,
}

impl ClientStations {
    /// No stations yet; `port_macs` are the sources of frames, by port.
    pub fn new(port_macs: &[MacAddress]) -> Self {
        let mut macs = [MacAddress::default(); PORTS_MAX];
        for (mac, port_mac) in macs.iter_mut().zip(port_macs) {
            *mac = *port_mac;
        }
        let row = Row { adjacency: Adjacency::UNRESOLVED, key: u64::MAX, flow_count: 0 };
        Self {
            rows: vec![row; ROWS].into_boxed_slice(),
            places: vec![NO_ROW; PLACES].into_boxed_slice(),
            port_macs: macs,
            port_mtus: [u16::MAX; PORTS_MAX],
            hand: 0,
        }
    }

    /// Takes up what the rules say about ports, by [`PortIndex`]: how long the packets are that they send. Goes through all
    /// rows, where that has changed.
    pub fn set_mtus(&mut self, ports: &[PortRules]) {
        let mut mtus = [u16::MAX; PORTS_MAX];
        for (mtu, port) in mtus.iter_mut().zip(ports).filter(|(_, port)| port.mtu != 0) {
            *mtu = port.mtu;
        }
        if std::mem::replace(&mut self.port_mtus, mtus) == mtus {
            return;
        }
        for Row { adjacency, .. } in self.rows.iter_mut().filter(|row| row.adjacency.is_resolved()) {
            adjacency.mtu = mtus.get(adjacency.port.as_usize()).copied().unwrap_or(u16::MAX);
        }
    }

    /// The way to the station at `index`.
    #[inline(always)]
    pub fn adjacency(&self, index: AdjacencyIndex) -> Option<&Adjacency> {
        self.rows.get(index.as_usize()).map(|row| &row.adjacency)
    }

    /// Whether the row at `index` leads to the station with this [`station_key`].
    #[inline(always)]
    pub fn leads_to(&self, index: AdjacencyIndex, key: u64) -> bool {
        self.rows.get(index.as_usize()).is_some_and(|row| row.key == key)
    }

    /// The row of `station` on `port`, taken into use by one more flow; `None` when all rows are in use.
    pub fn hold(&mut self, station: MacAddress, port: PortIndex) -> Option<AdjacencyIndex> {
        let key = station_key(station.with_type(ETHERTYPE_IPV4), port);
        let start = place_of(key);
        let mut free = None;
        for place in (0..PROBES).map(|step| (start + step) % PLACES) {
            let index = self.places.get(place).copied().unwrap_or(NO_ROW);
            if index == NO_ROW {
                free = free.or(Some(place));
            } else if self.leads_to(AdjacencyIndex(index), key) {
                return self.count_flow(AdjacencyIndex(index));
            }
        }
        let index = self.take_row()?;
        if let Some(row) = self.rows.get_mut(index.as_usize()) {
            let source = self.port_macs.get(port.as_usize()).copied().unwrap_or_default();
            let mtu = self.port_mtus.get(port.as_usize()).copied().unwrap_or(u16::MAX);
            row.adjacency = Adjacency::resolved(station, source, port).with_mtu(mtu);
            row.key = key;
        }
        // With every probed place taken the row works all the same; it is only not shared.
        if let Some(place) = free.and_then(|place| self.places.get_mut(place)) {
            *place = index.0;
        }
        self.count_flow(index)
    }

    /// One flow less uses the row at `index`.
    pub fn release(&mut self, index: AdjacencyIndex) {
        if let Some(row) = self.rows.get_mut(index.as_usize()) {
            debug_assert!(row.flow_count > 0);
            row.flow_count = row.flow_count.saturating_sub(1);
        }
    }

    /// Flows that hold a row, over all stations: a walk over all rows, for whoever looks for leaks.
    pub fn held(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.flow_count)).sum()
    }

    fn count_flow(&mut self, index: AdjacencyIndex) -> Option<AdjacencyIndex> {
        self.rows.get_mut(index.as_usize())?.flow_count += 1;
        Some(index)
    }

    /// A row that no flow uses, within a bounded look; its old station is forgotten.
    fn take_row(&mut self) -> Option<AdjacencyIndex> {
        for attempt in 0..ROWS.min(256) {
            let at = self.hand;
            // The steps widen, so that a run of busy rows is soon left behind.
            self.hand = (at + 1 + attempt / 4) % ROWS;
            if self.rows.get(at).is_some_and(|row| row.flow_count == 0) {
                self.forget(AdjacencyIndex(at as u16));
                return Some(AdjacencyIndex(at as u16));
            }
        }
        None
    }

    fn forget(&mut self, index: AdjacencyIndex) {
        let Some(start) = self.rows.get(index.as_usize()).map(|row| place_of(row.key)) else { return };
        for place in (0..PROBES).map(|step| (start + step) % PLACES) {
            if let Some(place) = self.places.get_mut(place).filter(|place| **place == index.0) {
                *place = NO_ROW;
            }
        }
    }
}

/// A station and the port it is reached by, in one word: the last eight bytes of an IPv4 frame's Ethernet header,
/// in which the EtherType, always the same, makes room for the port.
#[inline(always)]
pub const fn station_key(source_and_type: u64, port: PortIndex) -> u64 {
    let [a, b] = port.0.to_ne_bytes();
    source_and_type ^ u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b])
}

fn place_of(key: u64) -> usize {
    cpu::crc32c_u64(0, key) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(number: u16) -> MacAddress {
        let [a, b] = number.to_be_bytes();
        MacAddress([2, 0, 0, 0, a, b])
    }

    fn key_of(number: u16, port: u16) -> u64 {
        station_key(station(number).with_type(ETHERTYPE_IPV4), PortIndex(port))
    }

    #[test]
    fn a_station_has_one_row_while_flows_use_it() {
        let mut stations = ClientStations::new(&[MacAddress([2; 6]), MacAddress([4; 6])]);
        let first = stations.hold(station(1), PortIndex(1)).unwrap();
        assert_eq!(stations.hold(station(1), PortIndex(1)), Some(first));
        assert_ne!(stations.hold(station(1), PortIndex(0)), Some(first));
        let way = Adjacency::resolved(station(1), MacAddress([4; 6]), PortIndex(1));
        assert_eq!(stations.adjacency(first), Some(&way));
        assert!(stations.leads_to(first, key_of(1, 1)));
        assert!(!stations.leads_to(first, key_of(2, 1)));
    }

    #[test]
    fn rows_in_use_are_never_given_away_and_free_ones_are() {
        let mut stations = ClientStations::new(&[MacAddress([2; 6])]);
        let rows: Vec<_> =
            (0..ROWS as u16).map(|n| stations.hold(station(n), PortIndex(0)).unwrap()).collect();
        assert_eq!(stations.hold(station(60_000), PortIndex(0)), None, "all in use");
        for (number, row) in rows.iter().enumerate() {
            assert!(stations.leads_to(*row, key_of(number as u16, 0)));
        }
        rows.iter().for_each(|row| stations.release(*row));
        for number in 10_000..18_000 {
            let row = stations.hold(station(number), PortIndex(0)).unwrap();
            assert_eq!(stations.hold(station(number), PortIndex(0)), Some(row), "found again");
        }
    }
}
