//! What a scrape reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::health::HealthReport;
use crate::report::{BackendReport, LinkReport, PortReport, ServiceReport};
use crate::slow_path::TwinSnapshot;

fn backend(address: &str) -> BackendReport {
    BackendReport {
        address: address.into(),
        weight_in_force: 2.0,
        next_hop: Some("02:00:00:00:00:01".into()),
        packets: 7,
        connections: 3,
        open: 1,
        ..BackendReport::default()
    }
}

/// Something of everything.
fn snapshot() -> Snapshot {
    let health = HealthReport { state: "down".into(), checks: 10, failed: 4, ..HealthReport::default() };
    let checked = BackendReport { next_hop: None, health: Some(health), ..backend("10.0.0.12:8080") };
    let service = ServiceReport {
        name: "web".into(),
        backends: vec![backend("10.0.0.11:8080"), checked],
        sorry: Some(BackendReport { weight_in_force: 0.0, ..backend("10.0.0.11:8080") }),
        refused: 4,
        ..ServiceReport::default()
    };
    let mut report = Report {
        version: "1.2.3".into(),
        seconds: 2.5,
        ports: vec![PortReport {
            name: "front".into(),
            rx_packets: 11,
            link: Some(LinkReport { up: true, speed_mbps: None }),
            ..PortReport::default()
        }],
        services: vec![service],
        ..Report::default()
    };
    report.drops.insert("no_local_port".into(), 5);
    let mut twin = TwinSnapshot::default();
    twin.arp.policed = 9;
    report.slow_path.insert("front".into(), twin);
    let worker =
        WorkerSample { core: 3, busy_seconds: 0.5, table_capacity: 1_024, ..WorkerSample::default() };
    Snapshot { report, workers: vec![worker], reloads: Reloads { applied: 2, refused: 1 } }
}

#[test]
fn a_scrape_tells_names_labels_units_and_values() {
    let told = openmetrics(snapshot());
    for line in [
        "crossdock_build_info{version=\"1.2.3\"} 1",
        "crossdock_uptime_seconds 2.5",
        "crossdock_reloads_total{result=\"refused\"} 1",
        "crossdock_port_link_up{port=\"front\"} 1",
        "crossdock_port_receive_packets_total{port=\"front\"} 11",
        "# UNIT crossdock_port_receive_bytes bytes",
        "crossdock_dropped_packets_total{reason=\"no_local_port\"} 5",
        "crossdock_service_refused_connections_total{service=\"web\"} 4",
        "crossdock_service_backends_up{service=\"web\"} 1",
        "crossdock_backend_packets_total{service=\"web\",backend=\"10.0.0.11:8080\",role=\"backend\"} 7",
        "crossdock_backend_up{service=\"web\",backend=\"10.0.0.12:8080\",role=\"backend\"} 0",
        "crossdock_backend_up{service=\"web\",backend=\"10.0.0.11:8080\",role=\"sorry\"} 1",
        "crossdock_backend_healthy{service=\"web\",backend=\"10.0.0.12:8080\",role=\"backend\"} 0",
        "crossdock_backend_checks_total{service=\"web\",backend=\"10.0.0.12:8080\",role=\"backend\",result=\"passed\"} 6",
        "crossdock_worker_busy_seconds_total{worker=\"0\",core=\"3\"} 0.5",
        "crossdock_worker_table_capacity_entries{worker=\"0\",core=\"3\"} 1024.0",
        "crossdock_slow_path_lost_packets_total{port=\"front\",class=\"arp\",cause=\"policed\"} 9",
        "# EOF",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
    }
    let series: Vec<_> =
        told.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != "#").collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "no series is there twice");
}

#[test]
fn a_name_from_the_rules_cannot_break_the_format() {
    let mut odd = snapshot();
    odd.report.services[0].name = "a\"b\\c\nd".into();
    let told = openmetrics(odd);
    assert!(told.contains(r#"{service="a\"b\\c\nd"}"#), "{told}");
}

#[test]
fn the_older_text_has_totals_in_its_names_and_neither_units_nor_an_end() {
    let told = text(&openmetrics(snapshot()));
    assert!(
        told.contains(
            "# TYPE crossdock_reloads_total counter\ncrossdock_reloads_total{result=\"applied\"} 2\n"
        ),
        "{told}"
    );
    assert!(told.contains("# TYPE crossdock_build_info gauge\ncrossdock_build_info{version"), "{told}");
    assert!(told.contains("# TYPE crossdock_uptime_seconds gauge\ncrossdock_uptime_seconds 2.5\n"), "{told}");
    assert!(!told.contains("# UNIT") && !told.contains("# EOF"), "{told}");
}

/// However many backends there are, so many have series; nothing that they counted is lost.
#[test]
fn backends_beyond_the_bound_are_added_up() {
    let mut many = snapshot();
    let service = &mut many.report.services[0];
    service.backends = (0..BACKENDS_TOLD_MAX + 10).map(|number| backend(&format!("10.{number}"))).collect();
    let told = openmetrics(many);
    let packets: Vec<_> =
        told.lines().filter(|line| line.starts_with("crossdock_backend_packets_total{")).collect();
    assert_eq!(packets.len(), BACKENDS_TOLD_MAX + 1);
    // Ten of them, and the sorry server.
    assert!(
        packets.last().unwrap().ends_with("backend=\"others\",role=\"backend\"} 77"),
        "{:?}",
        packets.last()
    );
}

/// docs/metrics.md has every name, with its kind, and no other.
#[test]
fn the_documentation_has_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let documentation = fs::read_to_string(path).unwrap();
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `crossdock_"));
    let documented: BTreeSet<String> = rows
        .map(|row| {
            let mut cells = row.split(" | ");
            format!("crossdock_{} {}", cells.next().unwrap().trim_end_matches('`'), cells.next().unwrap())
        })
        .collect();
    let told = text(&openmetrics(snapshot()));
    let told: BTreeSet<String> =
        told.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    assert_eq!(told, documented);
}
