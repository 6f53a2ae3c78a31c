//! `crossdock backend add|set|drain|remove`: backends of a running Crossdock's services, one at a time.

use clap::{Args, Subcommand};
use control::changes::Edit;
use control::rules::Values;

use super::change::{Meant, Setting, put, setting, values};

/// Add, change, drain or remove a backend of a service of a running Crossdock
#[derive(Args, Debug)]
pub(crate) struct Backend {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    Set(Set),
    Drain(Named),
    Remove(Gone),
}

/// Add a backend to a service
#[derive(Args, Debug)]
struct Add {
    #[command(flatten)]
    which: Which,
    /// Its weight
    #[arg(short, long)]
    weight: Option<u32>,
    /// Any key of `[[service.backend]]`
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
    #[command(flatten)]
    meant: Meant,
}

/// Change a backend: its weight, or KEY=VALUE
#[derive(Args, Debug)]
struct Set {
    #[command(flatten)]
    which: Which,
    /// Its weight; 0 gets no new connections
    #[arg(short, long)]
    weight: Option<u32>,
    /// Keys of `[[service.backend]]`; `KEY=` takes one out
    #[arg(value_name = "KEY=VALUE", value_parser = setting, required_unless_present = "weight")]
    settings: Vec<Setting>,
    #[command(flatten)]
    meant: Meant,
}

/// Let a backend keep its connections and get no new ones; `backend set ... state=up` takes it back
#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    meant: Meant,
}

/// Remove a backend
///
/// Open connections end by themselves unless the service's `on_remove` says otherwise.
#[derive(Args, Debug)]
struct Gone {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    meant: Meant,
}

#[derive(Args, Debug)]
struct Which {
    /// The service's name
    service: String,
    /// Its address and port: 10.0.0.11:8080; the address alone where that is clear
    address: String,
}

impl Backend {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Add(Add { which: Which { service, address }, weight, settings, meant }) => {
                let mut backend = Values::new();
                put(&mut backend, "address", Some(address));
                put(&mut backend, "weight", weight);
                backend.extend(values(&settings));
                meant.edit(vec![Edit::AddBackend { service, backend }])
            }
            Command::Set(Set { which: Which { service, address }, weight, settings, meant }) => {
                let mut set = values(&settings);
                put(&mut set, "weight", weight);
                meant.edit(vec![Edit::SetBackend { service, backend: address, set }])
            }
            Command::Drain(Named { which: Which { service, address }, meant }) => {
                let mut set = Values::new();
                put(&mut set, "state", Some("drain"));
                meant.edit(vec![Edit::SetBackend { service, backend: address, set }])
            }
            Command::Remove(Gone { which: Which { service, address }, meant }) => {
                meant.edit(vec![Edit::RemoveBackend { service, backend: address }])
            }
        }
    }
}
