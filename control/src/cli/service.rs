//! `crossdock service add|set|drain|remove`: services of a running Crossdock, one at a time.

use clap::{Args, Subcommand};
use control::changes::Edit;
use control::rules::Values;
use serde_json::{Value, json};

use super::change::{Meant, Setting, put, setting, values};

/// Add, change, drain or remove a service of a running Crossdock
#[derive(Args, Debug)]
pub(crate) struct Service {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    Set(Set),
    Drain(Named),
    Remove(Remove),
}

/// Add a service
///
/// Any key of `[[service]]` may follow as KEY=VALUE: `hash=source timeouts.established=15m`. `crossdock backend add` gives it backends.
#[derive(Args, Debug)]
struct Add {
    /// Its name
    name: String,
    /// What it listens on: "tcp 192.0.2.100:80"; several times for a port group
    #[arg(short, long, value_name = "WHAT")]
    listen: Vec<String>,
    /// dr, tunnel, nat, fullnat or snat
    #[arg(short, long)]
    mode: String,
    /// Its scheduler
    #[arg(short, long)]
    scheduler: Option<String>,
    /// A backend, "10.0.0.11:8080" or "10.0.0.11:8080=5" with its weight; several times for several
    #[arg(short, long, value_name = "ADDRESS[=WEIGHT]")]
    backend: Vec<String>,
    /// Other settings
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
    #[command(flatten)]
    meant: Meant,
}

impl Add {
    fn edit(&self) -> anyhow::Result<Edit> {
        let mut service = Values::new();
        put(&mut service, "name", Some(self.name.clone()));
        put(&mut service, "listen", (!self.listen.is_empty()).then(|| json!(self.listen)));
        put(&mut service, "mode", Some(self.mode.clone()));
        put(&mut service, "scheduler", self.scheduler.clone());
        service.extend(values(&self.settings));
        let backends = self.backend.iter().map(|text| backend(text)).collect::<anyhow::Result<Vec<_>>>()?;
        put(&mut service, "backend", (!backends.is_empty()).then_some(Value::Array(backends)));
        Ok(Edit::AddService { service })
    }
}

fn backend(text: &str) -> anyhow::Result<Value> {
    Ok(match text.split_once('=') {
        None => json!({ "address": text }),
        Some((address, weight)) => {
            let weight: u32 =
                weight.parse().map_err(|_| anyhow::anyhow!("--backend {text}: {weight:?} is no weight"))?;
            json!({ "address": address, "weight": weight })
        }
    })
}

/// Change settings of a service: KEY=VALUE, or KEY= for what it is without the key
#[derive(Args, Debug)]
struct Set {
    /// Its name
    name: String,
    /// Keys of `[[service]]`; dots lead into tables: `timeouts.established=15m`
    #[arg(value_name = "KEY=VALUE", value_parser = setting, required = true)]
    settings: Vec<Setting>,
    #[command(flatten)]
    meant: Meant,
}

/// Let all backends of a service keep what they have and get nothing new
///
/// As `crossdock backend drain` for each; `crossdock rollback` takes it back.
#[derive(Args, Debug)]
struct Named {
    /// Its name
    name: String,
    #[command(flatten)]
    meant: Meant,
}

/// Remove a service
///
/// Open connections end by themselves unless its `on_remove` says otherwise; its VIP stays in use until the last has ended.
#[derive(Args, Debug)]
struct Remove {
    /// Its name
    name: String,
    #[command(flatten)]
    meant: Meant,
}

impl Service {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Add(add) => add.meant.edit(vec![add.edit()?]),
            Command::Set(Set { name, settings, meant }) => {
                meant.edit(vec![Edit::SetService { service: name, set: values(&settings) }])
            }
            Command::Drain(Named { name, meant }) => {
                let edits = backends(&name, &meant)?.into_iter().map(|backend| {
                    let set = values(&[setting("state=drain").map_err(anyhow::Error::msg)?]);
                    Ok(Edit::SetBackend { service: name.clone(), backend, set })
                });
                meant.edit(edits.collect::<anyhow::Result<_>>()?)
            }
            Command::Remove(Remove { name, meant }) => {
                meant.edit(vec![Edit::RemoveService { service: name }])
            }
        }
    }
}

/// The addresses of a service's backends.
fn backends(service: &str, meant: &Meant) -> anyhow::Result<Vec<String>> {
    use control::api::SERVICES_PATH;
    use control::api::client::Question;
    use control::report::ServiceReport;

    let path = format!("{SERVICES_PATH}/{}", super::encoded(service));
    let body = meant.target.ask(Question::new(hyper::Method::GET, path))?;
    let report: ServiceReport = serde_json::from_slice(&body)?;
    Ok(report.backends.into_iter().map(|backend| backend.address).collect())
}
