//! Every metric: its name, its unit, what it means, where its values come from.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

use super::{Snapshot, WorkerSample};
use crate::health::HealthReport;
use crate::report::{BackendReport, PortReport, ServiceReport};
use crate::slow_path::ClassSnapshot;

/// Backends with series of their own, over all services: some eight series each make a few megabytes a scrape. What the others
/// have is added up, a service, under the name `others`.
pub const BACKENDS_TOLD_MAX: usize = 4_096;

/// A snapshot as a collector.
#[derive(Debug)]
pub(super) struct Told(pub(super) Snapshot);

type Labels<'a> = Vec<(&'static str, &'a str)>;
/// What has values, with its labels.
type Rows<'a, T> = [(Labels<'a>, T)];
/// Name, unit, meaning, value.
type Metric<T, V> = (&'static str, Option<Unit>, &'static str, fn(&T) -> V);

/// A label's value, and what it counts of a class.
type Word = (&'static str, fn(&ClassSnapshot) -> u64);

/// Writes metrics one after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters<T, V: EncodeCounterValue>(
        &mut self,
        metrics: &[Metric<T, V>],
        rows: &Rows<'_, T>,
    ) -> fmt::Result {
        for (name, unit, help, value) in metrics {
            let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for (labels, row) in rows {
                let none: Option<&Exemplar<NoLabelSet, f64>> = None;
                if labels.is_empty() {
                    metric.encode_counter(&value(row), none)?;
                } else {
                    metric.encode_family(labels)?.encode_counter(&value(row), none)?;
                }
            }
        }
        Ok(())
    }

    fn gauges<T, V: EncodeGaugeValue>(
        &mut self,
        metrics: &[Metric<T, V>],
        rows: &Rows<'_, T>,
    ) -> fmt::Result {
        for (name, unit, help, value) in metrics {
            let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (labels, row) in rows {
                if labels.is_empty() {
                    metric.encode_gauge(&value(row))?;
                } else {
                    metric.encode_family(labels)?.encode_gauge(&value(row))?;
                }
            }
        }
        Ok(())
    }

    /// One counter whose rows are the values themselves.
    fn counted(&mut self, name: &'static str, help: &'static str, rows: &Rows<'_, u64>) -> fmt::Result {
        self.counters(&[(name, None, help, |count: &u64| *count)], rows)
    }
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        let Snapshot { report, workers, .. } = &self.0;
        process(&self.0, &mut writer)?;
        ports(&report.ports, &mut writer)?;
        packets(&self.0, &mut writer)?;
        services(&report.services, &mut writer)?;
        backends(&report.services, &mut writer)?;
        connections(&self.0, &mut writer)?;
        of_workers(workers, &mut writer)?;
        slow_path(&self.0, &mut writer)
    }
}

/// Rows of one label.
fn labelled<'a>(label: &'static str, rows: &[(&'a str, u64)]) -> Vec<(Labels<'a>, u64)> {
    rows.iter().map(|(name, count)| (vec![(label, *name)], *count)).collect()
}

fn process(snapshot: &Snapshot, writer: &mut Writer<'_>) -> fmt::Result {
    let Snapshot { report, reloads, .. } = snapshot;
    let mut build = writer.0.encode_descriptor("build", "The program", None, MetricType::Info)?;
    build.encode_info(&[("version", report.version.as_str())])?;
    writer.gauges(
        &[
            ("uptime", Some(Unit::Seconds), "Time since the start", |report: &&crate::report::Report| {
                report.seconds
            }),
            (
                "ruleset_revision",
                None,
                "The ruleset in force in every worker; one more with each change",
                |report| report.revision as f64,
            ),
        ],
        &[(vec![], report)],
    )?;
    let results = labelled("result", &[("applied", reloads.applied), ("refused", reloads.refused)]);
    writer.counted("reloads", "Reloads of the rules file; of a refused one nothing came into force", &results)
}

fn ports(ports: &[PortReport], writer: &mut Writer<'_>) -> fmt::Result {
    let rows: Vec<(Labels<'_>, &PortReport)> =
        ports.iter().map(|port| (vec![("port", port.name.as_str())], port)).collect();
    let bytes = || Some(Unit::Bytes);
    writer.counters(
        &[
            ("port_receive_packets", None, "Packets received", |port: &&PortReport| port.rx_packets),
            ("port_receive", bytes(), "Bytes received: frames without FCS", |port| port.rx_bytes),
            ("port_transmit_packets", None, "Packets that the port accepted for sending", |port| {
                port.tx_packets
            }),
            ("port_transmit", bytes(), "Bytes of those", |port| port.tx_bytes),
        ],
        &rows,
    )?;
    let lost = ports.iter().flat_map(|port| {
        let lost = port.lost;
        let causes = [
            ("rx_missed", lost.rx_missed),
            ("rx_errors", lost.rx_errors),
            ("rx_no_mbuf", lost.rx_no_mbuf),
            ("tx_errors", lost.tx_errors),
        ];
        causes.map(|(cause, count)| (vec![("port", port.name.as_str()), ("cause", cause)], count))
    });
    let lost: Vec<_> = lost.collect();
    let help = "Packets that the device itself lost: no free descriptor, damaged, no buffer, not sent";
    writer.counted("port_lost_packets", help, &lost)?;
    let links =
        ports.iter().filter_map(|port| Some((vec![("port", port.name.as_str())], u64::from(port.link?.up))));
    let links: Vec<_> = links.collect();
    let help = "1 if there is somebody at the other end of its link; only of ports whose device says so";
    writer.gauges(&[("port_link_up", None, help, |up: &u64| *up)], &links)
}

fn packets(snapshot: &Snapshot, writer: &mut Writer<'_>) -> fmt::Result {
    let report = &snapshot.report;
    let packets = &report.packets;
    let verdicts = [
        ("forwarded", packets.forwarded),
        ("reset", packets.resets),
        ("unreachable", packets.unreachables),
        ("too_big", packets.too_bigs),
        ("punted", packets.punted),
        ("dropped", packets.dropped),
    ];
    let help = "Packets by what became of them: forwarded, answered with a RST or an ICMP error, handed to the kernel, dropped";
    writer.counted("packets", help, &labelled("verdict", &verdicts))?;
    let drops: Vec<_> = report.drops.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    writer.counted("dropped_packets", "Packets dropped, by reason", &labelled("reason", &drops))?;
    let all = [
        ("steered_packets", "Packets handed from one worker to another", packets.steered),
        ("fragmented_packets", "Packets forwarded in fragments", packets.fragmented),
        ("decapsulated_packets", "Packets taken out of tunnels", packets.decapsulated),
        ("forwarded_icmp_errors", "ICMP errors about connections, forwarded", packets.icmp_errors),
    ];
    all.into_iter().try_for_each(|(name, help, count)| writer.counted(name, help, &[(vec![], count)]))
}

fn services(services: &[ServiceReport], writer: &mut Writer<'_>) -> fmt::Result {
    let rows: Vec<_> =
        services.iter().map(|service| (vec![("service", service.name.as_str())], service)).collect();
    writer.counters(
        &[
            ("service_packets", None, "Packets of the service, both ways", |service: &&ServiceReport| {
                service.packets
            }),
            ("service", Some(Unit::Bytes), "Bytes of those: IP packets", |service| service.bytes),
            ("service_connections", None, "Connections made", |service| service.connections),
            (
                "service_refused_connections",
                None,
                "Connections refused: no backend, no local port, no room, a limit",
                |service| service.refused,
            ),
        ],
        &rows,
    )?;
    let up =
        |service: &ServiceReport| service.backends.iter().filter(|backend| is_up(backend)).count() as u64;
    let up: Vec<_> = rows.iter().map(|(labels, service)| (labels.clone(), up(service))).collect();
    let help = "Backends that get new connections: up, of some weight, and with a next hop";
    writer.gauges(&[("service_backends_up", None, help, |count: &u64| *count)], &up)
}

/// Whether a backend gets new connections.
fn is_up(backend: &BackendReport) -> bool {
    backend.weight_in_force > 0.0 && backend.next_hop.is_some()
}

/// A backend, or a sorry server.
struct Backend {
    report: BackendReport,
    is_sorry: bool,
}

impl Backend {
    /// A sorry server has no weight: it gets what nobody else takes.
    fn is_up(&self) -> bool {
        is_up(&self.report) || self.is_sorry && self.report.next_hop.is_some()
    }
}

fn backends(services: &[ServiceReport], writer: &mut Writer<'_>) -> fmt::Result {
    let rows = backend_rows(services);
    writer.counters(
        &[
            ("backend_packets", None, "Packets to and from the backend", |backend: &Backend| {
                backend.report.packets
            }),
            ("backend", Some(Unit::Bytes), "Bytes of those: IP packets", |backend| backend.report.bytes),
            ("backend_connections", None, "Connections made", |backend| backend.report.connections),
        ],
        &rows,
    )?;
    writer.gauges(
        &[
            ("backend_open_connections", None, "Connections held now", |backend: &Backend| {
                backend.report.open
            }),
            (
                "backend_up",
                None,
                "1 if it gets new connections: up, of some weight, and with a next hop",
                |backend| u64::from(backend.is_up()),
            ),
            ("backend_resolved", None, "1 if its next hop is known", |backend| {
                u64::from(backend.report.next_hop.is_some())
            }),
        ],
        &rows,
    )?;
    let help = "The weight in force: less while it starts slowly, 0 unless it is up";
    writer.gauges(
        &[("backend_weight", None, help, |backend: &Backend| backend.report.weight_in_force)],
        &rows,
    )?;
    checks(&rows, writer)
}

/// What health checks say, of the backends that are checked.
fn checks(rows: &Rows<'_, Backend>, writer: &mut Writer<'_>) -> fmt::Result {
    let checked =
        rows.iter().filter_map(|(labels, backend)| Some((labels.clone(), backend.report.health.as_ref()?)));
    let checked: Vec<(Labels<'_>, &HealthReport)> = checked.collect();
    let help = "1 if its health checks say so; only of backends that are checked";
    let is_healthy = |health: &&HealthReport| u64::from(health.state == "up");
    writer.gauges(&[("backend_healthy", None, help, is_healthy)], &checked)?;
    let results = checked.iter().flat_map(|(labels, health)| {
        let passed = health.checks.saturating_sub(health.failed);
        [("passed", passed), ("failed", health.failed), ("not_done", health.not_done)].map(
            |(result, count)| {
                let mut labels = labels.clone();
                labels.push(("result", result));
                (labels, count)
            },
        )
    });
    let results: Vec<_> = results.collect();
    writer.counted("backend_checks", "Health checks; those not done failed on this side", &results)
}

/// As many rows as there may be, and one more a service that has backends beyond those.
fn backend_rows(services: &[ServiceReport]) -> Vec<(Labels<'_>, Backend)> {
    let mut room = BACKENDS_TOLD_MAX;
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for service in services {
        let own = service.backends.iter().map(|backend| (false, backend));
        let own = own.chain(service.sorry.iter().map(|sorry| (true, sorry)));
        let mut rest: Option<BackendReport> = None;
        for (is_sorry, backend) in own {
            if room == 0 {
                rest = Some(rest.map_or_else(|| backend.clone(), |sum| sum_of(sum, backend)));
                continue;
            }
            room -= 1;
            let row = Backend { report: backend.clone(), is_sorry };
            rows.push((backend_labels(&service.name, &backend.address, is_sorry), row));
        }
        others.extend(rest.map(|report| {
            let report = BackendReport { health: None, ..report };
            (backend_labels(&service.name, "others", false), Backend { report, is_sorry: false })
        }));
    }
    rows.extend(others);
    rows
}

fn backend_labels<'a>(service: &'a str, backend: &'a str, is_sorry: bool) -> Labels<'a> {
    vec![("service", service), ("backend", backend), ("role", if is_sorry { "sorry" } else { "backend" })]
}

/// Of backends without series of their own; `up` if any is.
fn sum_of(sum: BackendReport, other: &BackendReport) -> BackendReport {
    BackendReport {
        packets: sum.packets + other.packets,
        bytes: sum.bytes + other.bytes,
        connections: sum.connections + other.connections,
        open: sum.open + other.open,
        weight_in_force: sum.weight_in_force + other.weight_in_force,
        next_hop: sum.next_hop.clone().or_else(|| other.next_hop.clone()),
        ..sum
    }
}

fn connections(snapshot: &Snapshot, writer: &mut Writer<'_>) -> fmt::Result {
    let flows = &snapshot.report.flows;
    let open = &[(vec![], flows.open)];
    writer.gauges(&[("connections", None, "Connections held now", |count: &u64| *count)], open)?;
    writer.counted("connections_opened", "Connections made", &[(vec![], flows.opened)])?;
    let causes = [
        ("expired", flows.expired),
        ("evicted", flows.evicted),
        ("deleted", flows.deleted),
        ("purged", flows.purged),
    ];
    let help = "Connections forgotten: they outlived their timeout, were pushed out of a full table, were deleted by command, or \
                their backend has left";
    writer.counted("connections_forgotten", help, &labelled("cause", &causes))
}

fn of_workers(workers: &[WorkerSample], writer: &mut Writer<'_>) -> fmt::Result {
    let names: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(index, worker)| (index.to_string(), worker.core.to_string()))
        .collect();
    let rows = names
        .iter()
        .zip(workers)
        .map(|((index, core), worker)| (vec![("worker", index.as_str()), ("core", core.as_str())], *worker));
    let rows: Vec<(Labels<'_>, WorkerSample)> = rows.collect();
    let seconds = || Some(Unit::Seconds);
    writer.counters(
        &[(
            "worker_busy",
            seconds(),
            "Time in turns of the loop that found something to do: its rate is how busy the worker is",
            |worker: &WorkerSample| worker.busy_seconds,
        )],
        &rows,
    )?;
    writer.counters(
        &[
            ("worker_turns", None, "Turns of the loop", |worker: &WorkerSample| worker.turns),
            ("worker_receive_packets", None, "Packets received from ports", |worker| {
                worker.report.rx_packets
            }),
            ("worker_transmit_packets", None, "Packets that ports accepted for sending", |worker| {
                worker.report.tx_packets
            }),
            ("worker_steered_in_packets", None, "Packets taken from other workers", |worker| {
                worker.report.steered_in
            }),
            ("worker_dropped_packets", None, "Packets dropped", |worker| worker.report.dropped),
        ],
        &rows,
    )?;
    writer.gauges(
        &[
            (
                "worker_longest_turn",
                seconds(),
                "The longest turn since the start that found something to do, by the clock: with whatever else ran on the core",
                |worker: &WorkerSample| worker.longest_turn_seconds,
            ),
            ("worker_table_entries", None, "Flow table entries in use", |worker| worker.report.entries as f64),
            ("worker_table_capacity_entries", None, "Flow table entries there is room for", |worker| {
                worker.table_capacity.into()
            }),
        ],
        &rows,
    )
}

fn slow_path(snapshot: &Snapshot, writer: &mut Writer<'_>) -> fmt::Result {
    let twins = snapshot.report.slow_path.iter().flat_map(|(port, twin)| {
        let classes =
            [("arp", twin.arp), ("routing", twin.routing), ("local", twin.local), ("rest", twin.rest)];
        classes.map(|(class, counts)| (vec![("port", port.as_str()), ("class", class)], counts))
    });
    let rows: Vec<(Labels<'_>, ClassSnapshot)> = twins.collect();
    let by = |label: &'static str, words: &[Word]| {
        let each = rows.iter().flat_map(|(labels, counts)| {
            words.iter().map(move |(word, value)| {
                let mut labels = labels.clone();
                labels.push((label, *word));
                (labels, value(counts))
            })
        });
        each.collect::<Vec<_>>()
    };
    let passed = by(
        "direction",
        &[("to_kernel", |counts| counts.to_kernel), ("from_kernel", |counts| counts.from_kernel)],
    );
    writer.counted("slow_path_packets", "Packets between a port and its kernel twin, by class", &passed)?;
    let lost = by(
        "cause",
        &[
            ("policed", |counts| counts.policed),
            ("twin_refused", |counts| counts.twin_refused),
            ("worker_ring_full", |counts| counts.worker_ring_full),
        ],
    );
    let help = "Packets lost there: beyond the rate of their class, refused by the twin, or the worker's ring was full";
    writer.counted("slow_path_lost_packets", help, &lost)
}
