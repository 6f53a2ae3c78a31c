//! The walk that is explained: the line's own, with a witness after each stage, and what its findings mean.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use cpu::Backing;
use dataplane::burst::{Burst, Finding};
use dataplane::counters::WorkerCounters;
use dataplane::device::Packets;
use dataplane::flow::{FlowKey, FlowTable, HashSecret, Rewrite};
use dataplane::index::{BackendIndex, PortIndex, ServiceIndex, WorkerIndex};
use dataplane::line::{Line, LineState, Origin, Stage, Witness};
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::persistence::Templates;
use dataplane::rules::scheduler::SchedulerKind;
use dataplane::rules::{Flows, Load, Ruleset, ServiceState};
use dataplane::stage::admit::match_service;
use dataplane::stage::framing;
use dataplane::time::Millis;
use dataplane::verdict::{DropReason, Verdict};

use super::frame::described;
use super::{Explanation, Flow, Step, World};
use crate::director::advice::remedy;
use crate::flows::protocol_name;
use crate::rules::{Endpoint, Service, no_flow_word};

/// Room for a few connections: there is one.
const TABLE_ENTRIES: u32 = 1_024;
const SECRET: HashSecret = HashSecret::new([1, 2]);
/// Backends that are listed with their weights; of more only the chosen one is.
const MEMBERS_LISTED: usize = 16;

/// What a stage left behind.
struct Seen {
    stage: Stage,
    finding: Finding,
    bytes: Vec<u8>,
}

/// Keeps what each stage left behind.
#[derive(Default)]
struct Notes(Vec<Seen>);

impl Witness<MemoryPacket> for Notes {
    fn after(&mut self, stage: Stage, burst: &Burst<MemoryPacket>) {
        if let (Some(packet), Some(finding)) = (burst.packets.first(), burst.findings.first()) {
            self.0.push(Seen { stage, finding: *finding, bytes: packet.data().to_vec() });
        }
    }
}

impl Notes {
    fn after(&self, stage: Stage) -> Option<&Seen> {
        self.0.iter().rev().find(|seen| seen.stage == stage)
    }
}

/// Says what each stage found.
struct Narrator<'a> {
    world: &'a World,
    answer: &'a mut Explanation,
}

/// Sends a frame that came in by `port` down the line, and says in `answer` what became of it. One that `is_from_wire` still has
/// the port's tags.
pub(super) fn walk(
    world: &World,
    port: PortIndex,
    frame: Vec<u8>,
    is_from_wire: bool,
    answer: &mut Explanation,
) -> anyhow::Result<()> {
    let mut narrator = Narrator { world, answer };
    let mut burst = Burst::default();
    let counters = Arc::<WorkerCounters>::default();
    burst.packets.push(MemoryPacket::new(frame, port));
    if is_from_wire {
        framing::unwrap_all(world.framing(port), &mut burst.packets, &counters);
    }
    if burst.packets.is_empty() {
        narrator.gone(&counters);
        return Ok(());
    }
    let station = world.ruleset.port(port).station;
    let (line, notes) = walked(world, WorkerIndex(0), Origin::Port(station), &mut burst, counters)?;
    narrator.tell_arrival(&notes);
    let owner = burst.findings.first().filter(|finding| finding.verdict == Verdict::Steer);
    let Some(owner) = owner.map(|finding| finding.owner) else {
        narrator.tell_rest(&line, &notes, burst);
        return Ok(());
    };
    narrator.answer.worker = owner.0;
    let counters = Arc::<WorkerCounters>::default();
    let (line, notes) = walked(world, owner, Origin::Steered, &mut burst, counters)?;
    narrator.tell_rest(&line, &notes, burst);
    Ok(())
}

/// A walk of the worker's line, which knows no connection.
fn walked(
    world: &World,
    worker: WorkerIndex,
    origin: Origin,
    burst: &mut Burst<MemoryPacket>,
    counters: Arc<WorkerCounters>,
) -> anyhow::Result<(Line, Notes)> {
    // What is found out here about thresholds is not for the workers.
    let full = Arc::new(world.ruleset.full.as_ref().clone());
    // Nor takes it a token that a worker's next newcomer needs.
    let services = world.ruleset.services.iter().map(|service| service.as_ref().map(detached));
    let rules = Arc::new(Ruleset { full, services: services.collect(), ..world.ruleset.as_ref().clone() });
    let table = FlowTable::new(TABLE_ENTRIES, Backing::Plain, SECRET).context("memory")?;
    let mut state = LineState::new(table, worker, &world.macs, 0)
        .with_peers(world.counters.clone().into_boxed_slice())
        .with_fragments(world.rules.dataplane.fragments);
    for (service, state) in rules.services.iter().zip(&mut state.services) {
        if service.is_some() {
            *state = Some(Box::new(ServiceState { locality: Some(Box::default()), ..ServiceState::new(0) }));
        }
    }
    state.templates = Some(Templates::new(16, [1, 2]));
    // The hand over the others' loads goes so far in a turn; here there is time for all.
    let backends = rules.load_readers.len().max(rules.bounded.len()) as u32;
    (1..=backends).for_each(|ms| state.peers.refresh(&rules, &counters, Millis(ms)));
    let mut line = Line { rules, state, counters, worker };
    let mut notes = Notes::default();
    line.walk_before(burst, origin, Millis(0), &mut notes);
    Ok((line, notes))
}

/// The same service with a rate of its own, of which nothing is used up.
fn detached(service: &Arc<dataplane::rules::Service>) -> Arc<dataplane::rules::Service> {
    match service.policy.limits.rate {
        Some(_) => Arc::new(dataplane::rules::Service { rate: Arc::default(), ..service.as_ref().clone() }),
        None => Arc::clone(service),
    }
}

impl Narrator<'_> {
    fn step(&mut self, stage: &str, found: Vec<String>) {
        if !found.is_empty() {
            self.answer.steps.push(Step { stage: stage.to_owned(), found });
        }
    }

    fn dropped(&mut self, reason: DropReason) {
        self.answer.verdict = "dropped".to_owned();
        self.answer.reason = Some(reason.name().to_owned());
        let mut found = vec![format!("{}: {}", reason.name(), reason.meaning())];
        found.extend(remedy(reason).map(|remedy| format!("to do: {remedy}")));
        self.step("drop", found);
    }

    /// It did not come to its end: what was counted says why.
    fn gone(&mut self, counters: &WorkerCounters) {
        let reason = DropReason::ALL.iter().find(|reason| counters.dropped(**reason).value() > 0);
        if let Some(reason) = reason {
            self.dropped(*reason);
        }
    }

    /// What was found out before the packet's owner was.
    fn tell_arrival(&mut self, notes: &Notes) {
        if let Some(seen) = notes.after(Stage::Decap) {
            let inner = described(&seen.bytes);
            if inner != self.answer.before && seen.finding.verdict != Verdict::Punt {
                let layers = inner.get(1..).unwrap_or_default().join(" | ");
                self.step("decap", vec![format!("a tunnel ends here; in it is {layers}")]);
            }
        }
        if let Some(seen) = notes.after(Stage::Parse) {
            let said = match seen.finding.verdict {
                Verdict::Forward => {
                    let flow = flow_of(&seen.finding.key);
                    let said = format!("a packet of the flow {} {} -> {}", flow.protocol, flow.from, flow.to);
                    self.answer.flow = Some(flow);
                    said
                }
                Verdict::Hold => "a fragment".to_owned(),
                Verdict::Punt => "nothing to balance: the kernel's".to_owned(),
                Verdict::Drop(_) => "not a packet that can be forwarded".to_owned(),
                other => format!("{other:?}"),
            };
            self.step("parse", vec![said]);
        }
        let workers = self.world.ruleset.worker_count;
        let is_steered = notes.after(Stage::Steer).filter(|_| workers > 1);
        if let Some(seen) =
            is_steered.filter(|seen| matches!(seen.finding.verdict, Verdict::Forward | Verdict::Steer))
        {
            let owner = if seen.finding.verdict == Verdict::Steer { seen.finding.owner.0 } else { 0 };
            let by = if self.world.ruleset.rss.is_some() {
                "by the port's RSS hash where the port has one, else by the flow's own"
            } else {
                "by the hash of its client"
            };
            let said =
                format!("worker {owner} of {workers} owns it, {by}; from another it crosses over a ring");
            self.step("steer", vec![said]);
        }
    }

    /// The rest of the walk, at the packet's owner.
    fn tell_rest(&mut self, line: &Line, notes: &Notes, burst: Burst<MemoryPacket>) {
        let Some((finding, packet)) = burst.findings.first().copied().zip(burst.packets.first()) else {
            self.gone(&line.counters);
            return;
        };
        let after_lookup = notes.after(Stage::Lookup).map(|seen| seen.finding.verdict);
        if after_lookup == Some(Verdict::Forward) {
            self.tell_admission(line, notes, &finding);
        }
        match finding.verdict {
            Verdict::Forward => self.tell_forwarded(packet, finding.port_out),
            Verdict::ForwardInParts => {
                self.step("fit", vec!["too long for its way: it leaves in fragments".to_owned()]);
                self.tell_forwarded(packet, packet.port());
            }
            Verdict::ReplyReset | Verdict::ReplyUnreachable | Verdict::ReplyTooBig => {
                self.step("reply", vec![reply_text(finding.verdict).to_owned()]);
                self.tell_forwarded(packet, packet.port());
                self.answer.verdict = "answered".to_owned();
            }
            Verdict::Punt => {
                let port = self.world.rules.ports.get(packet.port().as_usize());
                if port.is_none_or(|port| !port.kernel) {
                    return self.dropped(DropReason::NoTwin);
                }
                self.answer.verdict = "kernel".to_owned();
                let said = format!("the kernel twin of port {} gets it, untouched", self.answer.port);
                self.step("kernel", vec![said]);
            }
            Verdict::Hold => {
                self.answer.verdict = "waits".to_owned();
                self.step(
                    "fragments",
                    vec!["it waits for the first fragment, which has the ports".to_owned()],
                );
            }
            Verdict::Relay => {
                self.answer.verdict = "answered".to_owned();
                self.step(
                    "icmp",
                    vec!["a router's error about a tunnel: what it says is told to the client".to_owned()],
                );
            }
            Verdict::Steer => self.answer.verdict = "waits".to_owned(),
            Verdict::Drop(reason) => self.dropped(reason),
        }
    }

    fn tell_forwarded(&mut self, packet: &MemoryPacket, port: PortIndex) {
        let mut packets = Packets::new();
        packets.push(packet.clone());
        framing::wrap_all(self.world.framing(port), &mut packets, &WorkerCounters::default());
        self.answer.verdict = "forwarded".to_owned();
        self.answer.port_out = Some(self.world.port_name(port).to_owned());
        self.answer.after = packets.first().map(|packet| described(packet.data())).unwrap_or_default();
    }

    /// Who takes it, and why.
    fn tell_admission(&mut self, line: &Line, notes: &Notes, finding: &Finding) {
        let key = finding.key;
        let Some((index, service)) = match_service(&key, &self.world.ruleset) else {
            self.step("admit", vec!["no service listens there".to_owned()]);
            return;
        };
        let slot = index.as_usize();
        let name = self.world.service_name(slot).unwrap_or("?").to_owned();
        let source = self.world.rules.services.iter().find(|service| service.name == name);
        self.answer.service = Some(name.clone());
        let mut found = vec![match source {
            Some(source) => format!("service {name} ({}), mode {}", source.listens_text(), source.mode),
            None => format!("service {name}"),
        }];
        found.extend(self.before_the_scheduler(line, index, service));
        let chosen = self.backend_of(line, finding, notes);
        let overruled = self.overruled(line, index);
        match (chosen, source) {
            (Some(backend), Some(source)) => {
                match overruled {
                    Some(why) => found.push(why.to_owned()),
                    None => found.extend(self.choice(source, index, backend)),
                }
                self.answer.backend = Some(self.endpoint(backend));
                self.step("admit", found);
                let way = self.way(line, finding, backend, source);
                self.step("rewrite", way);
            }
            _ => {
                found.extend(stray_text(finding, source.map(AsRef::as_ref)));
                self.step("admit", found);
            }
        }
    }

    /// What may decide before the scheduler does, and what no walk outside the workers can know.
    fn before_the_scheduler(
        &self,
        line: &Line,
        index: ServiceIndex,
        service: &dataplane::rules::Service,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let policy = &service.policy;
        if let Some(persistence) = policy.persistence {
            let seconds = persistence.timeout_ms / 1_000;
            found.push(format!("persistent for {seconds} s: a client that has been here returns to its backend; this is for one that has not"));
        }
        if policy.flows != Flows::Kept {
            found.push("no flow is kept: each packet is scheduled by itself".to_owned());
        }
        if line.counters.service(index).strangers.value() > 0 {
            found.push("it names a backend that is not there: the name is not followed".to_owned());
        }
        found
    }

    /// What chose the backend instead of the scheduler.
    fn overruled(&self, line: &Line, index: ServiceIndex) -> Option<&'static str> {
        let counters = line.counters.service(index);
        if counters.by_server_id.value() > 0 {
            Some("the packet names its backend itself (server id)")
        } else if counters.by_prefix.value() > 0 {
            Some("a route for the client's prefix names the backend")
        } else {
            None
        }
    }

    /// The backend that admit found.
    fn backend_of(&self, line: &Line, finding: &Finding, notes: &Notes) -> Option<BackendIndex> {
        let entry = notes.after(Stage::Admit).map_or(finding.entry, |seen| seen.finding.entry);
        match entry.backend_without_flow() {
            Some(backend) => Some(backend),
            None => line.state.table.entry(entry).map(|entry| entry.backend()),
        }
    }

    /// The scheduler's reason, and the backends it had.
    fn choice(&self, source: &Service, index: ServiceIndex, chosen: BackendIndex) -> Vec<String> {
        let Some(service) = self.world.ruleset.service(index) else { return Vec::new() };
        if service.policy.sorry == Some(chosen) {
            return vec![format!("the sorry server, as no backend takes it: {}", self.endpoint(chosen))];
        }
        let mut found = vec![format!("scheduler {}: {}", source.scheduler, why(source.scheduler.kind))];
        let total: u64 = service.members.iter().map(|member| u64::from(member.weight)).sum();
        let listed = service.members.len() <= MEMBERS_LISTED;
        for member in service.members.iter().filter(|member| listed || member.backend == chosen) {
            let Load { active, inactive } = self.load(member.backend);
            let mark = if member.backend == chosen { " <- this one" } else { "" };
            found.push(format!(
                "  {} weight {} of {total}, {active} active and {inactive} other connections{mark}",
                self.endpoint(member.backend),
                member.weight
            ));
        }
        if !listed {
            found.push(format!("  and {} more", service.members.len() - 1));
        }
        found
    }

    /// Over all workers.
    fn load(&self, backend: BackendIndex) -> Load {
        let loads = self.world.counters.iter().map(|counters| counters.load(backend));
        loads.fold(Load::default(), |sum, load| Load {
            active: sum.active + load.active,
            inactive: sum.inactive + load.inactive,
        })
    }

    /// How it gets there.
    fn way(&self, line: &Line, finding: &Finding, backend: BackendIndex, source: &Service) -> Vec<String> {
        let next_hop = self.world.ruleset.adjacency(backend);
        let entry = line.state.table.entry(finding.entry);
        let said = match entry.map(|entry| entry.rewrite) {
            Some(Rewrite::Local) => return vec!["the backend is the director itself".to_owned()],
            Some(Rewrite::FullnatToBackend | Rewrite::TranslateToBackend) => {
                "new addresses and ports; where a local port is taken, the worker takes the next free one"
                    .to_owned()
            }
            _ => format!("mode {}", source.mode),
        };
        let mut found = vec![said];
        if next_hop.is_resolved() {
            let port = self.world.port_name(next_hop.port);
            found.push(format!("next hop {} by port {port}, MTU {}", Mac(&next_hop.macs), next_hop.mtu));
        }
        let address = self.world.ruleset.backend(backend).map(|backend| backend.address);
        if address.is_some_and(|address| self.world.made_up.contains(&address)) {
            found.push(
                "no [[neighbour]] names it: its MAC is made up; a director that runs asks the kernel"
                    .to_owned(),
            );
        }
        found
    }

    fn endpoint(&self, backend: BackendIndex) -> String {
        self.world.ruleset.backend(backend).map_or_else(
            || "?".to_owned(),
            |backend| Endpoint { address: backend.address, l4_port: backend.l4_port }.to_string(),
        )
    }
}

/// The destination of a ready-made link header.
struct Mac<'a>(&'a [u8; 12]);

impl fmt::Display for Mac<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, ..] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn flow_of(key: &FlowKey) -> Flow {
    let ends = [(key.source(), key.ports.source()), (key.destination(), key.ports.destination())];
    let [from, to] = ends.map(|(address, port)| SocketAddr::new(address, port));
    Flow { protocol: protocol_name(key.protocol).into_owned(), from, to }
}

/// Why a segment that opens no connection goes to no backend.
fn stray_text(finding: &Finding, source: Option<&Service>) -> Option<String> {
    let is_tcp = finding.key.protocol == dataplane::wire::ipv4::PROTOCOL_TCP;
    let no_flow = source.map(|source| source.policy.no_flow)?;
    (is_tcp && !finding.shape.tcp_flags.opens()).then(|| {
        format!("it opens no connection and belongs to none: no_flow = \"{}\"", no_flow_word(no_flow))
    })
}

fn reply_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::ReplyReset => "its sender gets a TCP RST",
        Verdict::ReplyTooBig => "its sender is told by ICMP how long a packet may be",
        _ => "its sender is told by ICMP that nobody takes it",
    }
}

/// Why a scheduler chooses whom it chooses.
fn why(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Rr | SchedulerKind::Wrr => {
            "by turns; each worker keeps its own, so the next connection may get another one"
        }
        SchedulerKind::Lc | SchedulerKind::Wlc | SchedulerKind::Sed | SchedulerKind::Nq => {
            "who has the least to do for its weight, over all workers"
        }
        SchedulerKind::Lblc | SchedulerKind::Lblcr => {
            "who had this key before, as each worker remembers, else who has the least to do"
        }
        SchedulerKind::Dh | SchedulerKind::Sh | SchedulerKind::Mh | SchedulerKind::Conhash => {
            "by hash: the same for every packet with this key, on every worker and director"
        }
        SchedulerKind::Fo => "the heaviest that can be reached",
        SchedulerKind::Ovf => "the heaviest that has room",
        SchedulerKind::Twos => "the better of two taken at random",
    }
}
