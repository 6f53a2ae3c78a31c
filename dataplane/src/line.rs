//! The line: a burst's walk through the stages, in order.

use std::sync::Arc;

use crate::adjacency::ClientStations;
use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::effort::Effort;
use crate::flow::{Entry, FlowTable};
use crate::fragments::{FragmentLimits, Fragments};
use crate::index::{EntryIndex, SERVICES_MAX, WorkerIndex};
use crate::local_port::LocalPorts;
use crate::packet::PacketBuf;
use crate::path::PathReports;
use crate::peers::Peers;
use crate::persistence::Templates;
use crate::rules::{Ruleset, ServiceState};
use crate::stage::cut::Identifications;
use crate::stage::reply::ReplyLimits;
use crate::stage::{
    admit, decap, fragments, icmp, lookup, parse, reply, reroute, rewrite, steer, tunnel_error,
};
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
    /// The clients that return to their backends; `None` until the first rules that have persistent services.
    pub templates: Option<Templates>,
    /// The datagrams that come in fragments.
    pub fragments: Fragments,
    /// The other workers.
    pub peers: Peers,
    /// What newcomers have cost this turn.
    pub effort: Effort,
    /// How much it still answers.
    pub reply_limits: ReplyLimits,
    /// What it tells its fragments by.
    pub identifications: Identifications,
    /// Where it tells control of narrow ways.
    pub path_reports: PathReports,
}

impl LineState {
    /// Everything allocated, nothing known. `port_macs` are by [`crate::index::PortIndex`]; `seed` is random.
    pub fn new(table: FlowTable, worker: WorkerIndex, port_macs: &[MacAddress], seed: u64) -> Self {
        Self {
            table,
            services: std::iter::repeat_with(|| None).take(SERVICES_MAX).collect(),
            stations: ClientStations::new(port_macs),
            local_ports: LocalPorts::new(worker, seed),
            templates: None,
            fragments: Fragments::new(FragmentLimits::default()),
            peers: Peers::new(Box::default()),
            effort: Effort::default(),
            reply_limits: ReplyLimits::default(),
            identifications: Identifications::new(worker, seed),
            path_reports: PathReports::default(),
        }
    }

    /// One worker of several: `others` are the counters of all but itself.
    pub fn with_peers(self, others: Box<[Arc<WorkerCounters>]>) -> Self {
        Self { peers: Peers::new(others), ..self }
    }

    /// With other limits for fragments than the default.
    pub fn with_fragments(self, limits: FragmentLimits) -> Self {
        Self { fragments: Fragments::new(limits), ..self }
    }

    /// A turn begins: newcomers may cost something again.
    pub fn begin_turn(&mut self) {
        self.effort = Effort::default();
        self.local_ports.begin_turn();
    }

    /// Opens the accounts of a connection that is now in the table, given its first entry.
    pub fn open(&self, index: EntryIndex, counters: &WorkerCounters) {
        let Some(entry) = self.table.entry(index) else { return };
        counters.count_opened(entry.backend(), entry.state.is_active());
        let service = counters.service(entry.service);
        service.opened.add(1);
        service.half_open.add(u64::from(entry.state.is_half_open()));
    }

    /// Settles the accounts of a connection that is no longer in the table, given its first entry.
    pub fn settle(&mut self, entry: &Entry, counters: &WorkerCounters) {
        counters.count_closed(entry.backend(), entry.state.is_active());
        let service = counters.service(entry.service);
        service.closed.add(1);
        service.half_open.subtract(u64::from(entry.state.is_half_open()));
        if let (Some(client), Some(templates)) = (entry.client(), &mut self.templates) {
            templates.close(&client);
        }
        if entry.rewrite.is_to_backend() || entry.watch.holds_station() {
            self.stations.release(entry.client_station);
        }
    }
}

/// Where a burst came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port, with its own MAC if frames to others are to be dropped.
    Port(Option<MacAddress>),
    /// Another worker, which found that this one owns the flows; or fragments that waited here.
    Steered,
}

/// The stages, in the order of a packet's walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Tunnels that end here.
    Decap,
    /// What the packet is.
    Parse,
    /// Which worker it belongs to.
    Steer,
    /// What its datagram is, where it is a fragment.
    Fragments,
    /// Whether its flow is known.
    Lookup,
    /// Whether it names another backend than its flow has.
    Reroute,
    /// Who gets a new flow.
    Admit,
    /// What its sender is told.
    Reply,
    /// Which flow an ICMP error is about.
    Icmp,
    /// Its new headers.
    Rewrite,
}

/// Sees what each stage did to a burst: for `crossdock explain`. Workers walk with `()`, which sees nothing and costs nothing.
pub trait Witness<P> {
    /// After a stage that had anything to do.
    fn after(&mut self, stage: Stage, burst: &Burst<P>);
}

impl<P> Witness<P> for () {
    #[inline(always)]
    fn after(&mut self, _stage: Stage, _burst: &Burst<P>) {}
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
    #[inline(always)]
    pub fn walk<P: PacketBuf>(&mut self, burst: &mut Burst<P>, origin: Origin, now: Millis) {
        self.walk_before(burst, origin, now, &mut ());
    }

    /// The same with somebody who looks on.
    #[inline(always)]
    pub fn walk_before<P: PacketBuf>(
        &mut self,
        burst: &mut Burst<P>,
        origin: Origin,
        now: Millis,
        witness: &mut impl Witness<P>,
    ) {
        let Self { rules, state, counters, worker } = self;
        let station = match origin {
            Origin::Port(station) => station,
            Origin::Steered => None,
        };
        if let (Some(decap), Origin::Port(_)) = (&rules.decap, origin) {
            decap::run(burst, station, decap, counters);
            witness.after(Stage::Decap, burst);
        }
        parse::run(burst, station, rules, &state.table);
        witness.after(Stage::Parse, burst);
        if rules.worker_count > 1 && origin != Origin::Steered {
            steer::run(burst, *worker, rules, counters);
            witness.after(Stage::Steer, burst);
        }
        if burst.has_fragments {
            let LineState { table, fragments, .. } = state;
            fragments::run(burst, origin, *worker, rules, (table, fragments), now);
            witness.after(Stage::Fragments, burst);
        }
        lookup::run(burst, &state.table);
        witness.after(Stage::Lookup, burst);
        if rules.has_server_ids {
            reroute::run(burst, rules, &mut state.table);
            witness.after(Stage::Reroute, burst);
        }
        if burst.has_misses {
            admit::run(burst, rules, state, counters, *worker, now);
            witness.after(Stage::Admit, burst);
            reply::run(burst, rules, &mut state.reply_limits, counters, now);
            witness.after(Stage::Reply, burst);
        }
        if burst.has_fragments {
            let LineState { table, fragments, identifications, .. } = state;
            fragments::renumber(burst, (table, fragments), identifications);
        }
        if burst.has_errors {
            icmp::run(burst, &state.table, counters);
            witness.after(Stage::Icmp, burst);
        }
        if burst.has_tunnel_errors {
            tunnel_error::run(burst, (origin, *worker), rules, state, counters, now);
        }
        rewrite::run(burst, rules, state, counters, now);
        witness.after(Stage::Rewrite, burst);
    }
}
