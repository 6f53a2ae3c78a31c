//! `crossdock services`, `backends`, `ports`, `neighbours`: parts of the status as tables that fit the terminal.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use control::api::STATUS_PATH;
use control::api::client::Question;
use control::report::{BackendReport, Report};
use hyper::Method;
use serde::Serialize;
use serde_json::json;

use super::target::Target;

/// How a list is shown
#[derive(Args, Debug)]
struct Shown {
    #[command(flatten)]
    target: Target,
    /// Show it again every second, or as often as is said, until Ctrl-C
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s",
        value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
}

/// A list in both its forms.
struct List {
    json: serde_json::Value,
    heading: &'static [&'static str],
    /// Columns of numbers, which stand to the right.
    numbers: &'static [usize],
    rows: Vec<Vec<String>>,
}

impl Shown {
    fn show(&self, list: impl Fn(&Report) -> anyhow::Result<List>) -> anyhow::Result<()> {
        super::watch(self.watch, || {
            let body = self.target.ask(Question::new(Method::GET, STATUS_PATH))?;
            let report: Report =
                serde_json::from_slice(&body).context("the answer is not a status; is the server older?")?;
            let list = list(&report)?;
            Ok(if self.target.json { format!("{}\n", list.json) } else { list.text() })
        })
    }
}

impl List {
    /// Fits the terminal; as wide as it is where there is none.
    fn text(self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        let align = |column: usize, text: &str| {
            let is_number = self.numbers.contains(&column);
            Cell::new(text).set_alignment(if is_number { CellAlignment::Right } else { CellAlignment::Left })
        };
        table.set_header(self.heading.iter().enumerate().map(|(column, text)| align(column, text)));
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(|(column, text)| align(column, text)));
        }
        table.column_iter_mut().enumerate().for_each(|(column, settings)| {
            settings.set_padding((if column == 0 { 0 } else { 1 }, 1));
        });
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn json_of(what: &impl Serialize) -> anyhow::Result<serde_json::Value> {
    serde_json::to_value(what).context("the list")
}

/// List the services in force
#[derive(Args, Debug)]
pub(crate) struct Services {
    #[command(flatten)]
    shown: Shown,
}

impl Services {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.shown.show(|report| {
            let rows = report.services.iter().map(|service| {
                let up = service.backends.iter().filter(|backend| backend.weight_in_force > 0.0).count();
                let open: u64 =
                    service.backends.iter().chain(&service.sorry).map(|backend| backend.open).sum();
                vec![
                    service.name.clone(),
                    service.listen.clone(),
                    service.mode.clone(),
                    service.scheduler.clone(),
                    format!("{up}/{}", service.backends.len()),
                    service.connections.to_string(),
                    open.to_string(),
                    service.refused.to_string(),
                    service.packets.to_string(),
                    service.bytes.to_string(),
                ]
            });
            Ok(List {
                json: json_of(&report.services)?,
                heading: &[
                    "SERVICE",
                    "LISTEN",
                    "MODE",
                    "SCHEDULER",
                    "UP",
                    "CONNECTIONS",
                    "OPEN",
                    "REFUSED",
                    "PACKETS",
                    "BYTES",
                ],
                numbers: &[4, 5, 6, 7, 8, 9],
                rows: rows.collect(),
            })
        })
    }
}

/// List the backends of all services, or of one
#[derive(Args, Debug)]
pub(crate) struct Backends {
    /// The name of a service
    service: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

impl Backends {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let asked = self.service.as_deref();
        self.shown.show(|report| {
            let is_asked = |name: &str| asked.is_none_or(|asked| asked == name);
            let services: Vec<_> = report.services.iter().filter(|service| is_asked(&service.name)).collect();
            if let (Some(asked), true) = (asked, services.is_empty()) {
                anyhow::bail!("there is no service {asked:?}; `crossdock services` lists those there are");
            }
            let all: Vec<(&str, &BackendReport, bool)> = services
                .iter()
                .flat_map(|service| {
                    let backends = service.backends.iter().map(|backend| (backend, false));
                    let all = backends.chain(service.sorry.iter().map(|sorry| (sorry, true)));
                    all.map(|(backend, is_sorry)| (service.name.as_str(), backend, is_sorry))
                })
                .collect();
            let json = all.iter().map(|(service, backend, is_sorry)| {
                let mut json = json_of(backend)?;
                json["service"] = json!(service);
                json["role"] = json!(if *is_sorry { "sorry" } else { "backend" });
                Ok(json)
            });
            Ok(List {
                json: json.collect::<anyhow::Result<_>>()?,
                heading: &[
                    "SERVICE",
                    "BACKEND",
                    "WEIGHT",
                    "STATE",
                    "CONNECTIONS",
                    "OPEN",
                    "PACKETS",
                    "BYTES",
                    "NEXT HOP",
                ],
                numbers: &[2, 4, 5, 6, 7],
                rows: all
                    .iter()
                    .map(|(service, backend, is_sorry)| row(service, backend, *is_sorry))
                    .collect(),
            })
        })
    }
}

fn row(service: &str, backend: &BackendReport, is_sorry: bool) -> Vec<String> {
    let health = backend.health.as_ref().filter(|health| health.state != "up");
    let state = match health {
        _ if is_sorry => "sorry".to_owned(),
        Some(_) if backend.state == "up" => "failed".to_owned(),
        _ => backend.state.clone(),
    };
    vec![
        service.to_owned(),
        backend.address.clone(),
        backend.weight.to_string(),
        state,
        backend.connections.to_string(),
        backend.open.to_string(),
        backend.packets.to_string(),
        backend.bytes.to_string(),
        backend.next_hop.clone().unwrap_or_else(|| "unknown".to_owned()),
    ]
}

/// List the ports
#[derive(Args, Debug)]
pub(crate) struct Ports {
    #[command(flatten)]
    shown: Shown,
}

impl Ports {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.shown.show(|report| {
            let rows = report.ports.iter().map(|port| {
                vec![
                    port.name.clone(),
                    port.device.clone(),
                    port.link.map_or_else(|| "-".to_owned(), |link| link.to_string()),
                    port.mac.clone().unwrap_or_default(),
                    port.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
                    port.twin.clone().unwrap_or_else(|| "-".to_owned()),
                    port.rx_packets.to_string(),
                    port.rx_bytes.to_string(),
                    port.tx_packets.to_string(),
                    port.tx_bytes.to_string(),
                    (port.lost.rx_missed + port.lost.rx_errors + port.lost.rx_no_mbuf + port.lost.tx_errors)
                        .to_string(),
                ]
            });
            Ok(List {
                json: json_of(&report.ports)?,
                heading: &[
                    "PORT",
                    "DEVICE",
                    "LINK",
                    "MAC",
                    "MTU",
                    "TWIN",
                    "RX PACKETS",
                    "RX BYTES",
                    "TX PACKETS",
                    "TX BYTES",
                    "LOST",
                ],
                numbers: &[4, 6, 7, 8, 9, 10],
                rows: rows.collect(),
            })
        })
    }
}

/// List the hosts that packets are sent to, and why some cannot be
#[derive(Args, Debug)]
pub(crate) struct Neighbours {
    #[command(flatten)]
    shown: Shown,
}

impl Neighbours {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.shown.show(|report| {
            let rows = report.neighbours.iter().map(|neighbour| {
                let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                let way = match (&neighbour.problem, neighbour.is_on_link) {
                    (Some(problem), _) => problem.clone(),
                    (None, true) => "on the link".to_owned(),
                    (None, false) => "by a router".to_owned(),
                };
                vec![
                    neighbour.address.to_string(),
                    or_none(&neighbour.mac),
                    or_none(&neighbour.port),
                    neighbour.source.clone(),
                    way,
                ]
            });
            Ok(List {
                json: json_of(&report.neighbours)?,
                heading: &["ADDRESS", "MAC", "PORT", "SAID BY", "WAY"],
                numbers: &[],
                rows: rows.collect(),
            })
        })
    }
}
