//! `crossdock nic`: PCI NICs, and who has them.

use std::net::IpAddr;

use anyhow::Context;
use clap::{Args, Subcommand};
use control::machine::Machine;
use control::nic::inventory::DRIVERS_FOR_DPDK;
use control::nic::{self, Bound, Nic as Found, Use};
use nix::ifaddrs::getifaddrs;

/// Show the machine's NICs, give one to DPDK, or give it back
#[derive(Debug, Args)]
pub(crate) struct Nic {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every NIC on the PCI bus: its driver, its interfaces, and what those are needed for
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a NIC to DPDK, until the next boot
    ///
    /// Refused are NICs whose interface carries an SSH session or a default route, or has addresses.
    Bind {
        /// As `crossdock nic list` shows it
        #[arg(value_name = "PCI-ADDRESS")]
        address: String,
        /// The driver that gets it [default: vfio-pci behind an IOMMU, else uio_pci_generic]
        #[arg(long, value_parser = DRIVERS_FOR_DPDK)]
        driver: Option<String>,
        /// Also when its interface has addresses, which go with it
        #[arg(long)]
        force: bool,
    },
    /// Give a NIC back to the kernel's own driver
    Release {
        /// As `crossdock nic list` shows it
        #[arg(value_name = "PCI-ADDRESS")]
        address: String,
    },
}

/// A NIC with what its interfaces are needed for, as `--json` prints it.
#[derive(serde::Serialize)]
struct Row {
    #[serde(flatten)]
    nic: Found,
    used_for: Vec<String>,
}

impl Nic {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let machine = Machine::this();
        match self.command {
            Command::List { json } => list(&machine, json),
            Command::Bind { address, driver, force } => {
                let uses = uses(&machine)?;
                let bound = nic::bind(&machine, &address, driver.as_deref(), &uses, force)?;
                tell(&address, &bound)
            }
            Command::Release { address } => tell(&address, &nic::release(&machine, &address)?),
        }
    }
}

fn list(machine: &Machine, json: bool) -> anyhow::Result<()> {
    let uses = uses(machine)?;
    let rows = nic::nics(machine).into_iter().map(|nic| {
        let of_interfaces = nic.interfaces.iter().filter_map(|interface| uses.get(interface));
        let used_for = of_interfaces.flatten().map(Use::to_string).collect();
        Row { nic, used_for }
    });
    let rows: Vec<Row> = rows.collect();
    if json {
        return super::print(format_args!("{}\n", serde_json::to_string(&rows)?));
    }
    if rows.is_empty() {
        return super::print("no NIC on the PCI bus; af_xdp and af_packet ports need none\n");
    }
    super::print(format_args!(
        "{:<14}{:<17}{:<16}{:>5}{:>6}  NAME\n",
        "PCI ADDRESS", "DRIVER", "INTERFACE", "NODE", "GROUP"
    ))?;
    rows.iter().try_for_each(|row| super::print(line(row)))
}

fn line(Row { nic, used_for }: &Row) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let interfaces = (!nic.interfaces.is_empty()).then(|| nic.interfaces.join(","));
    let mut line = format!(
        "{:<14}{:<17}{:<16}{:>5}{:>6}  {}\n",
        nic.address,
        or_none(nic.driver.clone()),
        or_none(interfaces),
        or_none(nic.numa_node.map(|node| node.to_string())),
        or_none(nic.iommu_group.clone()),
        nic.name.as_ref().unwrap_or(&nic.id),
    );
    if nic.is_for_dpdk() {
        line += "    ready for DPDK\n";
    }
    if !used_for.is_empty() {
        line += &format!("    in use: {}\n", used_for.join(", "));
    }
    line
}

fn tell(address: &str, bound: &Bound) -> anyhow::Result<()> {
    let name = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".into());
    super::print(match bound {
        Bound::Already(driver) => format!("{address}: {driver} has it already\n"),
        Bound::Moved { from, to } => format!("{address}: from {} to {}\n", name(from), name(to)),
    })
}

/// What interfaces are needed for. Not knowing their addresses would mean to cut somebody off, so that is an error.
fn uses(
    machine: &Machine,
) -> anyhow::Result<std::collections::BTreeMap<String, std::collections::BTreeSet<Use>>> {
    let addresses = getifaddrs().context("the interfaces' addresses")?.filter_map(|entry| {
        let storage = entry.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        Some((entry.interface_name, v4.or(v6)?))
    });
    let addresses: Vec<_> = addresses.collect();
    Ok(nic::uses(machine, &addresses, std::env::var("SSH_CONNECTION").ok().as_deref()))
}
