//! `[[neighbour]]`: next hops given by hand.

use std::net::IpAddr;

use toml::Spanned;

use super::ports::Ports;
use super::{no_duplicates, required};
use crate::rules::checked::{MacAddress, Neighbour};
use crate::rules::error::{Problem, Problems};
use crate::rules::fields::Field;
use crate::rules::file::NeighbourTable;
use crate::rules::values::{host, mac};

/// All neighbours, and what is known about them when some could not be read.
pub(super) struct Neighbours {
    pub(super) list: Vec<NeighbourDraft>,
    /// Every address was read: only then is a missing one really missing.
    pub(super) complete: bool,
}

impl Neighbours {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.list
            .iter()
            .filter_map(|neighbour| neighbour.address.as_ref())
            .any(|known| *known.get_ref() == address)
    }
}

/// A neighbour of which some values may have been wrong.
pub(super) struct NeighbourDraft {
    pub(super) address: Option<Spanned<IpAddr>>,
    mac: Option<MacAddress>,
    port: Option<usize>,
}

impl NeighbourDraft {
    pub(super) fn finish(self) -> Option<Neighbour> {
        Some(Neighbour { address: self.address?.into_inner(), mac: self.mac?, port: self.port? })
    }
}

pub(super) fn check(
    field: &Field<Vec<NeighbourTable>>,
    ports: &Ports,
    problems: &mut Problems,
) -> Neighbours {
    let tables = field.value().map_or(&[][..], |tables| tables.get_ref());
    let list: Vec<NeighbourDraft> = tables.iter().map(|table| neighbour(table, ports, problems)).collect();
    let addresses = list.iter().filter_map(|neighbour| neighbour.address.as_ref());
    no_duplicates(addresses.map(|address| (*address.get_ref(), address.span())), problems, |address| {
        Problem::new(format!("two neighbours have the address {address}"))
            .help("an address has one MAC, behind one port")
    });
    let complete =
        !matches!(field, Field::Unreadable) && list.iter().all(|neighbour| neighbour.address.is_some());
    Neighbours { list, complete }
}

fn neighbour(table: &NeighbourTable, ports: &Ports, problems: &mut Problems) -> NeighbourDraft {
    let place = &table.place;
    let address = required(&table.address, (place, "address"), problems, |text| host(text));
    let mac = required(&table.mac, (place, "mac"), problems, |text| mac(text));
    let port = required(&table.port, (place, "port"), problems, |text| Ok(text.clone()));
    NeighbourDraft {
        address,
        mac: mac.map(Spanned::into_inner),
        port: port.and_then(|port| port_index(&port, ports, problems)),
    }
}

fn port_index(written: &Spanned<String>, ports: &Ports, problems: &mut Problems) -> Option<usize> {
    let names = || ports.list.iter().map(|port| port.name.as_ref().map_or("", |name| name.get_ref()));
    let index = names().position(|name| name == written.get_ref());
    // Where a port could not be read, this may have been its name.
    if index.is_none() && ports.complete {
        let known: Vec<&str> = names().collect();
        problems.push(
            Problem::new(format!("no [[port]] is named {:?}", written.get_ref()))
                .at(written.span())
                .near(written.get_ref(), names())
                .help(format!("ports: {}", known.join(", "))),
        );
    }
    index
}
