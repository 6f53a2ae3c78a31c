//! The line: a burst's walk through the stages, in order.

use std::sync::Arc;

use crate::adjacency::ClientStations;
use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::flow::{Entry, FlowTable, Rewrite};
use crate::index::{SERVICES_MAX, WorkerIndex};
use crate::local_port::LocalPorts;
use crate::packet::PacketBuf;
use crate::rules::{Ruleset, ServiceState};
use crate::stage::{admit, lookup, parse, rewrite, steer};
use crate::time::Millis;
use crate::wire::ethernet::MacAddress;

/// What one worker owns and every packet may change.
pub struct LineState {
    /// Its flows.
    pub table: FlowTable,
    /// What it keeps for each service, by [`crate::index::ServiceIndex`].
    pub services: Box<[Option<Box<ServiceState>>]>,
    /// The stations its clients are reached by.
    pub stations: ClientStations,
    /// Its part of the FullNAT local ports.
    pub local_ports: LocalPorts,
}

impl LineState {
    /// Everything allocated, nothing known. `port_macs` are by [`crate::index::PortIndex`]; `seed` is random.
    pub fn new(table: FlowTable, worker: WorkerIndex, port_macs: &[MacAddress], seed: u64) -> Self {
        Self {
            table,
            services: std::iter::repeat_with(|| None).take(SERVICES_MAX).collect(),
            stations: ClientStations::new(port_macs),
            local_ports: LocalPorts::new(worker, seed),
        }
    }

    /// Settles the accounts of a connection that is no longer in the table, given its first entry.
    pub fn settle(&mut self, entry: &Entry, counters: &WorkerCounters) {
        counters.backend(entry.backend).closed.add(1);
        if entry.rewrite == Rewrite::FullnatToBackend {
            self.stations.release(entry.client_station);
        }
    }
}

/// Where a burst came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port, with its own MAC if frames to others are to be dropped.
    Port(Option<MacAddress>),
    /// Another worker, which found that this one owns the flows.
    Steered,
}

/// One worker's line.
pub struct Line {
    /// The rules in force, for a burst at a time.
    pub rules: Arc<Ruleset>,
    /// What the worker owns.
    pub state: LineState,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// Which worker it is.
    pub worker: WorkerIndex,
}

impl Line {
    /// Walks a burst up to its verdicts; [`crate::stage::transmit`] then hands the packets on.
    pub fn walk<P: PacketBuf>(&mut self, burst: &mut Burst<P>, origin: Origin, now: Millis) {
        let Self { rules, state, counters, worker } = self;
        let station = match origin {
            Origin::Port(station) => station,
            Origin::Steered => None,
        };
        parse::run(burst, station, rules, &state.table);
        if rules.worker_count > 1 && origin != Origin::Steered {
            steer::run(burst, *worker, rules);
        }
        lookup::run(burst, &state.table);
        if burst.has_misses {
            admit::run(burst, rules, state, counters, now);
        }
        rewrite::run(burst, rules, state, counters, now);
    }
}
