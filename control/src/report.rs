//! What the data path counted, put together for people and programs: `crossdock status`, the summary `run` ends
//! with, and `replay`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use dataplane::counters::WorkerCounters;
use dataplane::index::{BackendIndex, PortIndex, ServiceIndex};
use dataplane::rules::ServiceKey;
use dataplane::verdict::DropReason;
use serde::{Deserialize, Serialize};

use crate::rules::build::{BackendKey, Builder, Built, service_key};
use crate::rules::{self, Rules};
use crate::slow_path::{ClassSnapshot, TwinSnapshot};

/// Everything, summed over the workers, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Seconds since the start.
    pub seconds: f64,
    /// The ruleset in force in every worker; one more with each change of rules or next hops.
    pub revision: u64,
    /// Workers.
    pub workers: usize,
    /// Ports, in the order of the rules.
    pub ports: Vec<PortReport>,
    /// Services, in the order of the rules.
    pub services: Vec<ServiceReport>,
    /// Packets dropped, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Where packets went.
    pub packets: PacketReport,
    /// Connections.
    pub flows: FlowReport,
    /// Packets between ports and their kernel twins, by the name of the port; only ports with a twin.
    pub slow_path: BTreeMap<String, TwinSnapshot>,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its device, as in the rules.
    pub device: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received: frames without FCS.
    pub rx_bytes: u64,
    /// Packets the port accepted for sending.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// What the device itself lost; all 0 where its driver does not say.
    pub lost: DeviceLosses,
}

/// Packets that a device lost before the line saw them, or after it let them go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLosses {
    /// Arrived and found no free descriptor: the worker was too slow.
    pub rx_missed: u64,
    /// Arrived damaged.
    pub rx_errors: u64,
    /// Arrived when the mempool was empty.
    pub rx_no_mbuf: u64,
    /// Accepted for sending and not sent.
    pub tx_errors: u64,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// What it listens on, as in the rules.
    pub listen: String,
    /// `dr` or `fullnat`.
    pub mode: String,
    /// Its scheduler.
    pub scheduler: String,
    /// Packets both ways, of backends that left the service too.
    pub packets: u64,
    /// Bytes of those: IP packets.
    pub bytes: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections refused: no backend, no local port, no room.
    pub refused: u64,
    /// Its backends, in the order of the rules.
    pub backends: Vec<BackendReport>,
}

/// One backend of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Address and l4_port.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// Packets both ways.
    pub packets: u64,
    /// Bytes of those: IP packets.
    pub bytes: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets from the backend, where answers come back through the director.
    pub packets_out: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections held now.
    pub open: u64,
    /// MAC of the next hop; `null` while it is not known, and then nothing is sent to the backend.
    pub next_hop: Option<String>,
}

/// Where packets went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketReport {
    /// Forwarded to a backend or back to a client, before the port had its say.
    pub forwarded: u64,
    /// Handed to the slow path.
    pub punted: u64,
    /// Dropped, for whatever reason.
    pub dropped: u64,
    /// Handed from one worker to another.
    pub steered: u64,
    /// Sent for the kernel twins.
    pub from_slow_path: u64,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Held now.
    pub open: u64,
    /// Made since the start.
    pub opened: u64,
    /// Gone because they outlived their timeout.
    pub expired: u64,
    /// Pushed out of a full table.
    pub evicted: u64,
    /// Table entries in use: one for a DR connection, two for FullNAT.
    pub entries: u64,
}

/// What one backend counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct BackendTotals {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    opened: u64,
    closed: u64,
}

impl BackendTotals {
    fn read(workers: &[&WorkerCounters], slot: usize) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let backend = worker.backend(BackendIndex(slot as u32));
            totals.closed += backend.closed.value();
            totals.opened += backend.opened.value();
            totals.packets_in += backend.inbound.packets.value();
            totals.bytes_in += backend.inbound.bytes.value();
            totals.packets_out += backend.outbound.packets.value();
            totals.bytes_out += backend.outbound.bytes.value();
        }
        totals
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            packets_in: with(self.packets_in, other.packets_in),
            bytes_in: with(self.bytes_in, other.bytes_in),
            packets_out: with(self.packets_out, other.packets_out),
            bytes_out: with(self.bytes_out, other.bytes_out),
            opened: with(self.opened, other.opened),
            closed: with(self.closed, other.closed),
        }
    }
}

/// Keeps tenants of a reused slot apart: a worker's counters never go back, so what the tenants before counted is
/// noted when the slot changes hands.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// By backend slot: who has it, and what stood there before.
    backends: BTreeMap<usize, (BackendKey, BackendTotals)>,
    /// By service slot: what was refused before its tenant came.
    refused: BTreeMap<usize, u64>,
    /// What backends counted that lost their slot while their service lived on, by service.
    former: BTreeMap<ServiceKey, BackendTotals>,
}

impl Accounts {
    /// Notes the new tenants of `built`; call it before the workers get the rules.
    pub fn note(&mut self, built: &Built, builder: &Builder, workers: &[&WorkerCounters]) {
        for index in &built.fresh_backends {
            let slot = index.as_usize();
            let totals = BackendTotals::read(workers, slot);
            let Some(key) = builder.backends().key(slot).copied() else { continue };
            if let Some((old, before)) = self.backends.insert(slot, (key, totals)) {
                let former = self.former.entry(old.service).or_default();
                *former = former.zip(totals.zip(before, u64::wrapping_sub), u64::wrapping_add);
            }
        }
        for index in &built.fresh_services {
            let refused = workers.iter().map(|worker| worker.service(*index).refused.value()).sum();
            self.refused.insert(index.as_usize(), refused);
        }
        self.former.retain(|service, _| builder.services().find(service).is_some());
    }

    fn backend(&self, slot: usize, workers: &[&WorkerCounters]) -> BackendTotals {
        let before = self.backends.get(&slot).map(|(_, totals)| *totals).unwrap_or_default();
        BackendTotals::read(workers, slot).zip(before, u64::saturating_sub)
    }

    fn refused(&self, slot: usize, workers: &[&WorkerCounters]) -> u64 {
        let index = ServiceIndex(slot as u16);
        let now: u64 = workers.iter().map(|worker| worker.service(index).refused.value()).sum();
        now.saturating_sub(self.refused.get(&slot).copied().unwrap_or(0))
    }
}

/// Puts the report together.
pub fn report(
    seconds: f64,
    rules: &Rules,
    builder: &Builder,
    accounts: &Accounts,
    workers: &[&WorkerCounters],
) -> Report {
    let sum = |of: &dyn Fn(&WorkerCounters) -> u64| workers.iter().map(|worker| of(worker)).sum::<u64>();
    let ports =
        rules.ports.iter().enumerate().map(|(index, port)| port_report(index, port, workers)).collect();
    let slots = slots_by_service(builder);
    let services = rules
        .services
        .iter()
        .map(|service| service_report(service, &slots, builder, accounts, workers))
        .collect();
    let totals: Vec<_> =
        (0..builder.backends().len()).map(|slot| BackendTotals::read(workers, slot)).collect();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seconds,
        revision: workers.iter().map(|worker| worker.revision.value()).min().unwrap_or(0),
        workers: workers.len(),
        ports,
        services,
        drops: DropReason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), sum(&|worker| worker.dropped(*reason).value())))
            .collect(),
        packets: PacketReport {
            forwarded: sum(&|worker| worker.forwarded.value()),
            punted: sum(&|worker| worker.punted.value()),
            dropped: sum(&WorkerCounters::dropped_total),
            steered: sum(&|worker| worker.steered.value()),
            from_slow_path: sum(&|worker| worker.from_slow_path.value()),
        },
        flows: FlowReport {
            open: totals.iter().map(|totals| totals.opened.saturating_sub(totals.closed)).sum(),
            opened: totals.iter().map(|totals| totals.opened).sum(),
            expired: sum(&|worker| worker.expired.value()),
            evicted: sum(&|worker| worker.evicted.value()),
            entries: sum(&|worker| worker.table_used.value()),
        },
        slow_path: BTreeMap::new(),
    }
}

fn port_report(index: usize, port: &rules::Port, workers: &[&WorkerCounters]) -> PortReport {
    let mut report =
        PortReport { name: port.name.clone(), device: port.device.to_string(), ..PortReport::default() };
    for worker in workers {
        let counters = worker.port(PortIndex(index as u16));
        report.rx_packets += counters.rx.packets.value();
        report.rx_bytes += counters.rx.bytes.value();
        report.tx_packets += counters.tx.packets.value();
        report.tx_bytes += counters.tx.bytes.value();
    }
    report
}

/// The backend slots of every service, retired ones included.
fn slots_by_service(builder: &Builder) -> HashMap<ServiceKey, Vec<usize>> {
    let mut slots: HashMap<_, Vec<_>> = HashMap::new();
    for slot in 0..builder.backends().len() {
        if let Some(key) = builder.backends().key(slot) {
            slots.entry(key.service).or_default().push(slot);
        }
    }
    slots
}

fn service_report(
    service: &rules::Service,
    slots: &HashMap<ServiceKey, Vec<usize>>,
    builder: &Builder,
    accounts: &Accounts,
    workers: &[&WorkerCounters],
) -> ServiceReport {
    let key = service_key(service);
    let slot_of = |backend: &rules::Backend| {
        builder.backends().find(&BackendKey {
            service: key,
            address: backend.address,
            l4_port: backend.l4_port,
        })
    };
    let backends = service
        .backends
        .iter()
        .map(|backend| backend_report(backend, slot_of(backend), builder, accounts, workers))
        .collect();
    let former = accounts.former.get(&key).copied().unwrap_or_default();
    let of_slots = slots.get(&key).into_iter().flatten().map(|slot| accounts.backend(*slot, workers));
    let totals = of_slots.fold(former, |sum, one| sum.zip(one, u64::wrapping_add));
    ServiceReport {
        name: service.name.clone(),
        listen: format!("{} {}:{}", service.protocol, service.vip, service.l4_port),
        mode: service.mode.to_string(),
        scheduler: service.scheduler.to_string(),
        packets: totals.packets_in + totals.packets_out,
        bytes: totals.bytes_in + totals.bytes_out,
        connections: totals.opened,
        refused: builder.services().find(&key).map_or(0, |slot| accounts.refused(slot, workers)),
        backends,
    }
}

fn backend_report(
    backend: &rules::Backend,
    slot: Option<usize>,
    builder: &Builder,
    accounts: &Accounts,
    workers: &[&WorkerCounters],
) -> BackendReport {
    let totals = slot.map(|slot| accounts.backend(slot, workers)).unwrap_or_default();
    let row = slot.and_then(|slot| builder.last().adjacencies.get(slot)).filter(|row| row.resolved);
    let next_hop = row.map(|row| {
        let [a, b, c, d, e, f, ..] = row.macs;
        dataplane::wire::ethernet::MacAddress([a, b, c, d, e, f]).to_string()
    });
    BackendReport {
        address: format!("{}:{}", backend.address, backend.l4_port),
        weight: backend.weight,
        packets: totals.packets_in + totals.packets_out,
        bytes: totals.bytes_in + totals.bytes_out,
        packets_in: totals.packets_in,
        packets_out: totals.packets_out,
        connections: totals.opened,
        open: totals.opened.saturating_sub(totals.closed),
        next_hop,
    }
}

impl fmt::Display for Report {
    /// One screen for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "crossdock {}, up {:.1} s, revision {}, {} worker{}",
            self.version,
            self.seconds,
            self.revision,
            self.workers,
            if self.workers == 1 { "" } else { "s" }
        )?;
        writeln!(
            f,
            "\n{:<14}{:>14}{:>16}{:>14}{:>16}  DEVICE",
            "PORT", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES"
        )?;
        for port in &self.ports {
            let PortReport { name, device, rx_packets, rx_bytes, tx_packets, tx_bytes, lost } = port;
            writeln!(f, "{name:<14}{rx_packets:>14}{rx_bytes:>16}{tx_packets:>14}{tx_bytes:>16}  {device}")?;
            if *lost != DeviceLosses::default() {
                let DeviceLosses { rx_missed, rx_errors, rx_no_mbuf, tx_errors } = lost;
                writeln!(
                    f,
                    "  lost by the device: {rx_missed} missed, {rx_errors} damaged, {rx_no_mbuf} without a buffer, \
                     {tx_errors} not sent"
                )?;
            }
        }
        writeln!(
            f,
            "\n{:<30}{:>7}{:>12}{:>8}{:>14}{:>16}  NEXT HOP",
            "SERVICE / BACKEND", "WEIGHT", "CONNECTIONS", "OPEN", "PACKETS", "BYTES"
        )?;
        for service in &self.services {
            service.write(f)?;
        }
        self.write_totals(f)
    }
}

impl Report {
    fn write_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PacketReport { forwarded, punted, dropped, steered, from_slow_path } = self.packets;
        writeln!(
            f,
            "\npackets: {forwarded} forwarded, {punted} to the kernel, {from_slow_path} from it, {steered} steered, {dropped} dropped"
        )?;
        for (reason, count) in self.drops.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  {reason:<22}{count:>14}")?;
        }
        let FlowReport { open, opened, expired, evicted, entries } = self.flows;
        for (port, twin) in &self.slow_path {
            let ClassSnapshot { to_kernel, from_kernel, policed, twin_refused, worker_ring_full } =
                twin.total();
            writeln!(
                f,
                "twin of {port}: {to_kernel} packets to the kernel, {from_kernel} from it; lost: {policed} policed, \
                 {twin_refused} refused by the twin, {worker_ring_full} ring full"
            )?;
        }
        writeln!(
            f,
            "connections: {open} open ({entries} table entries), {opened} made, {expired} expired, {evicted} evicted"
        )
    }
}

impl ServiceReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, listen, mode, scheduler, packets, bytes, connections, refused, backends } = self;
        let open: u64 = backends.iter().map(|backend| backend.open).sum();
        let title = format!("{name} {listen} {mode} {scheduler}");
        if title.len() < 37 {
            writeln!(f, "{title:<37}{connections:>12}{open:>8}{packets:>14}{bytes:>16}")?;
        } else {
            writeln!(f, "{title}\n{:<37}{connections:>12}{open:>8}{packets:>14}{bytes:>16}", "")?;
        }
        if *refused > 0 {
            writeln!(f, "  {refused} connections refused")?;
        }
        for backend in backends {
            let BackendReport { address, weight, packets, bytes, connections, open, next_hop, .. } = backend;
            let next_hop = next_hop.as_deref().unwrap_or("unknown");
            writeln!(
                f,
                "  {address:<28}{weight:>7}{connections:>12}{open:>8}{packets:>14}{bytes:>16}  {next_hop}"
            )?;
        }
        Ok(())
    }
}
