//! Fills the reports from the workers' counters and the rules in force.

use std::collections::{BTreeMap, HashMap};

use dataplane::counters::WorkerCounters;
use dataplane::index::PortIndex;
use dataplane::rules::ServicePattern;
use dataplane::verdict::DropReason;
use dataplane::wire::ethernet::MacAddress;

use super::accounts::{Accounts, BackendTotals};
use super::{BackendReport, FlowReport, PacketReport, PortReport, Report, ServiceReport};
use crate::rules::build::{BackendKey, Builder};
use crate::rules::routes::Routes;
use crate::rules::{self, BackendState, Rules};
use crate::worker_report::{RssReport, WorkerReport};

/// Puts the report together.
pub fn report(
    seconds: f64,
    rules: &Rules,
    builder: &Builder,
    accounts: &Accounts,
    workers: &[&WorkerCounters],
) -> Report {
    let sum = |of: &dyn Fn(&WorkerCounters) -> u64| workers.iter().map(|worker| of(worker)).sum::<u64>();
    let ports = rules
        .ports
        .iter()
        .enumerate()
        .map(|(index, port)| port_report(index, port, builder, workers))
        .collect();
    let several = if workers.len() > 1 { workers } else { &[] };
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
        rules_revision: 0,
        workers: workers.len(),
        neighbours: Vec::new(),
        per_worker: several.iter().map(|worker| WorkerReport::read(worker, totals.len())).collect(),
        ports,
        services,
        drops: DropReason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), sum(&|worker| worker.dropped(*reason).value())))
            .collect(),
        packets: PacketReport {
            forwarded: sum(&|worker| worker.forwarded.value()),
            resets: sum(&|worker| worker.resets.value()),
            unreachables: sum(&|worker| worker.unreachables.value()),
            too_bigs: sum(&|worker| worker.too_bigs.value()),
            fragmented: sum(&|worker| worker.fragmented.value()),
            client_address_withheld: sum(&|worker| worker.client_address_withheld.value()),
            own_resets: sum(&|worker| worker.own_resets.value()),
            own_resets_withheld: sum(&|worker| worker.own_resets_withheld.value()),
            icmp_errors: sum(&|worker| worker.icmp_errors.value()),
            fragments_waiting: sum(&|worker| worker.fragments_waiting.value()),
            checksums_offloaded: sum(&|worker| worker.checksums_offloaded.value()),
            checksums_summed: sum(&|worker| worker.checksums_summed.value()),
            decapsulated: sum(&|worker| worker.decapsulated.value()),
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
            deleted: sum(&|worker| worker.deleted.value()),
            purged: sum(&|worker| worker.purged.value()),
            entries: sum(&|worker| worker.table_used.value()),
        },
        slow_path: BTreeMap::new(),
        checks: None,
    }
}

fn port_report(
    index: usize,
    port: &rules::Port,
    builder: &Builder,
    workers: &[&WorkerCounters],
) -> PortReport {
    let (index, name, device) = (PortIndex(index as u16), port.name.clone(), port.device.to_string());
    let has_rss = builder.last().rss.as_ref().is_some_and(|rss| rss.watches(index));
    let rss = has_rss.then(|| RssReport::read(index, workers));
    let computes_udp = builder.last().port(index).udp_offload.is_some();
    let offloads = computes_udp.then(|| "udp_checksum".to_owned()).into_iter().collect();
    let mut report = PortReport { name, device, offloads, rss, ..PortReport::default() };
    for worker in workers {
        let counters = worker.port(index);
        report.rx_packets += counters.rx.packets.value();
        report.rx_bytes += counters.rx.bytes.value();
        report.tx_packets += counters.tx.packets.value();
        report.tx_bytes += counters.tx.bytes.value();
    }
    report
}

/// The backend slots of every service, retired ones included.
fn slots_by_service(builder: &Builder) -> HashMap<ServicePattern, Vec<usize>> {
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
    slots: &HashMap<ServicePattern, Vec<usize>>,
    builder: &Builder,
    accounts: &Accounts,
    workers: &[&WorkerCounters],
) -> ServiceReport {
    let key = service.key();
    let report_of = |backend: &rules::Backend| {
        let slot = key.and_then(|key| builder.backends().find(&BackendKey::new(key, backend.endpoint)));
        backend_report(backend, slot, builder, accounts, workers)
    };
    let sorry = service.sorry.map(rules::Backend::sorry);
    let backends = service.backends.iter().map(report_of).collect();
    let former = key.and_then(|key| accounts.former.get(&key).copied()).unwrap_or_default();
    let of_slots = key.and_then(|key| slots.get(&key)).into_iter().flatten();
    let of_slots = of_slots.map(|slot| accounts.backend(*slot, workers));
    let totals = of_slots.fold(former, |sum, one| sum.zip(one, u64::wrapping_add));
    let slot = key.and_then(|key| builder.services().find(&key));
    let own = slot.map(|slot| accounts.service(slot, workers)).unwrap_or_default();
    ServiceReport {
        name: service.name.clone(),
        listen: service.listens_text(),
        mode: service.mode.to_string(),
        scheduler: service.scheduler.to_string(),
        packets: totals.packets_in + totals.packets_out,
        bytes: totals.bytes_in + totals.bytes_out,
        connections: totals.opened,
        refused: own.refused,
        routed: (service.routes != Routes::default()).then_some(own.routed),
        backends,
        sorry: sorry.as_ref().map(report_of),
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
    let is_local = slot.and_then(|slot| builder.last().backends.get(slot)).is_some_and(|row| row.is_local);
    let row = slot.and_then(|slot| builder.last().adjacencies.get(slot)).filter(|row| row.is_resolved());
    let mac = row.map(|row| {
        let [a, b, c, d, e, f, ..] = row.macs;
        MacAddress([a, b, c, d, e, f]).to_string()
    });
    let next_hop = if is_local { Some("this host".to_owned()) } else { mac };
    BackendReport {
        address: backend.endpoint.to_string(),
        weight: backend.weight,
        weight_in_force: weight_in_force(backend, slot, builder),
        health: None,
        state: backend.state.to_string(),
        packets: totals.packets_in + totals.packets_out,
        bytes: totals.bytes_in + totals.bytes_out,
        packets_in: totals.packets_in,
        packets_out: totals.packets_out,
        connections: totals.opened,
        open: totals.opened.saturating_sub(totals.closed),
        next_hop,
        path_mtu: slot.and_then(|slot| path_mtu(slot, builder)),
        check_address: slot.and_then(|slot| Some(builder.check(slot)?.address.to_string())),
    }
}

fn path_mtu(slot: usize, builder: &Builder) -> Option<u16> {
    builder.last().encapsulations.get(slot)?.as_ref()?;
    builder.path_mtu(&builder.backends().key(slot)?.address)
}

fn weight_in_force(backend: &rules::Backend, slot: Option<usize>, builder: &Builder) -> f64 {
    let key = slot.and_then(|slot| builder.backends().key(slot));
    let state = key.map_or(backend.state, |key| builder.state_in_force(key, backend));
    match (state, slot.and_then(|slot| builder.rising_weight(slot))) {
        (BackendState::Up, Some(rising)) => rising,
        (BackendState::Up, None) => backend.weight.into(),
        (BackendState::Drain | BackendState::Down, _) => 0.0,
    }
}
