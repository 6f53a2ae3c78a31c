//! The rules file as typed: every value of the right TOML type, nothing checked, every value with its place
//! in the source.

mod health;
mod service;

use toml::Spanned;
use toml::de::DeTable;

pub(super) use health::{HealthTable, StatusField};
pub(super) use service::{
    BackendTable, MssField, PersistenceTable, QuicLbTable, RateField, RouteTable, ServerIdsTable,
    ServiceTable, SorryTable, TimeoutsTable, TunnelTable, WordOrNumber,
};

use super::error::Problems;
use super::fields::{Field, Fields, Place};
#[cfg(test)]
use super::words::TIMEOUTS;

/// The whole file.
pub(super) struct File {
    pub(super) dataplane: DataplaneTable,
    pub(super) control: ControlTable,
    pub(super) slow_path: SlowPathTable,
    pub(super) decap: Field<DecapTable>,
    pub(super) checks: Field<ChecksTable>,
    pub(super) ports: Field<Vec<PortTable>>,
    pub(super) neighbours: Field<Vec<NeighbourTable>>,
    pub(super) services: Field<Vec<ServiceTable>>,
}

/// `[dataplane]`
pub(super) struct DataplaneTable {
    pub(super) workers: WorkersField,
    pub(super) memory: Field<String>,
    pub(super) max_flows: Field<i128>,
    pub(super) fragments: Field<i128>,
    pub(super) fragment_timeout: Field<String>,
    pub(super) idle: Field<String>,
}

/// `workers = "auto"` or `workers = [1, 2]`
pub(super) enum WorkersField {
    Word(Field<String>),
    Cores(Field<Vec<Spanned<i128>>>),
}

/// `[control]`
pub(super) struct ControlTable {
    pub(super) socket: Field<String>,
    pub(super) group: Field<String>,
    pub(super) metrics: Field<String>,
    pub(super) listen: Field<String>,
    pub(super) certificate: Field<String>,
    pub(super) key: Field<String>,
    pub(super) client_ca: Field<String>,
}

/// `[slow_path]`
pub(super) struct SlowPathTable {
    pub(super) arp: Field<i128>,
    pub(super) routing: Field<i128>,
    pub(super) local: Field<i128>,
    pub(super) rest: Field<i128>,
}

/// `[decap]`
pub(super) struct DecapTable {
    pub(super) place: Place,
    pub(super) addresses: Field<Vec<Spanned<String>>>,
    pub(super) encapsulations: Field<Vec<Spanned<String>>>,
    pub(super) gue_port: Field<i128>,
}

/// `[checks]`
pub(super) struct ChecksTable {
    pub(super) addresses: Field<Vec<Spanned<String>>>,
}

/// `[[port]]`
pub(super) struct PortTable {
    pub(super) place: Place,
    pub(super) name: Field<String>,
    pub(super) device: Field<String>,
    pub(super) kernel: Field<bool>,
    pub(super) addresses: Field<Vec<Spanned<String>>>,
    pub(super) local_addresses: Field<Vec<Spanned<String>>>,
    pub(super) mac: Field<String>,
    pub(super) vlan: VlanField,
    pub(super) mtu: Field<i128>,
    pub(super) checksum_offload: Field<bool>,
    pub(super) promiscuous: Field<bool>,
}

/// `vlan = 100` or `vlan = [200, 100]`
pub(super) enum VlanField {
    One(Field<i128>),
    List(Field<Vec<Spanned<i128>>>),
}

/// `[[neighbour]]`
pub(super) struct NeighbourTable {
    pub(super) place: Place,
    pub(super) address: Field<String>,
    pub(super) mac: Field<String>,
    pub(super) port: Field<String>,
}

impl File {
    const KEYS: [&str; 8] =
        ["dataplane", "control", "slow_path", "decap", "checks", "port", "neighbour", "service"];

    pub(super) fn read(document: &Spanned<DeTable<'_>>, problems: &mut Problems) -> Self {
        let place = Place { title: "a rules file", span: document.span() };
        let fields = Fields::open(place, document.get_ref(), &Self::KEYS, problems);
        Self {
            dataplane: fields.table("dataplane", "[dataplane]", problems, DataplaneTable::read),
            control: fields.table("control", "[control]", problems, ControlTable::read),
            slow_path: fields.table("slow_path", "[slow_path]", problems, SlowPathTable::read),
            decap: fields.optional_table("decap", "[decap]", problems, DecapTable::read),
            checks: fields.optional_table("checks", "[checks]", problems, ChecksTable::read),
            ports: fields.tables("port", "[[port]]", problems, PortTable::read),
            neighbours: fields.tables("neighbour", "[[neighbour]]", problems, NeighbourTable::read),
            services: fields.tables("service", "[[service]]", problems, ServiceTable::read),
        }
    }
}

impl DataplaneTable {
    const KEYS: [&str; 6] = ["workers", "memory", "max_flows", "fragments", "fragment_timeout", "idle"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            workers: if fields.is_list("workers") {
                WorkersField::Cores(fields.integers("workers", problems))
            } else {
                WorkersField::Word(fields.text("workers", problems))
            },
            memory: fields.text("memory", problems),
            max_flows: fields.integer("max_flows", problems),
            fragments: fields.integer("fragments", problems),
            fragment_timeout: fields.text("fragment_timeout", problems),
            idle: fields.text("idle", problems),
        }
    }
}

impl ControlTable {
    const KEYS: [&str; 7] = ["socket", "group", "metrics", "listen", "certificate", "key", "client_ca"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        let mut text = |key| fields.text(key, problems);
        Self {
            socket: text("socket"),
            group: text("group"),
            metrics: text("metrics"),
            listen: text("listen"),
            certificate: text("certificate"),
            key: text("key"),
            client_ca: text("client_ca"),
        }
    }
}

impl SlowPathTable {
    const KEYS: [&str; 4] = ["arp", "routing", "local", "rest"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            arp: fields.integer("arp", problems),
            routing: fields.integer("routing", problems),
            local: fields.integer("local", problems),
            rest: fields.integer("rest", problems),
        }
    }
}

impl DecapTable {
    const KEYS: [&str; 3] = ["addresses", "encapsulations", "gue_port"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            addresses: fields.one_or_more_texts("addresses", problems),
            encapsulations: fields.one_or_more_texts("encapsulations", problems),
            gue_port: fields.integer("gue_port", problems),
            place: fields.place,
        }
    }
}

impl ChecksTable {
    const KEYS: [&str; 1] = ["addresses"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self { addresses: fields.one_or_more_texts("addresses", problems) }
    }
}

impl PortTable {
    const KEYS: [&str; 10] = [
        "name",
        "device",
        "kernel",
        "addresses",
        "local_addresses",
        "mac",
        "vlan",
        "mtu",
        "checksum_offload",
        "promiscuous",
    ];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            name: fields.text("name", problems),
            device: fields.text("device", problems),
            kernel: fields.boolean("kernel", problems),
            addresses: fields.texts("addresses", problems),
            local_addresses: fields.texts("local_addresses", problems),
            mac: fields.text("mac", problems),
            vlan: if fields.is_list("vlan") {
                VlanField::List(fields.integers("vlan", problems))
            } else {
                VlanField::One(fields.integer("vlan", problems))
            },
            mtu: fields.integer("mtu", problems),
            checksum_offload: fields.boolean("checksum_offload", problems),
            promiscuous: fields.boolean("promiscuous", problems),
            place: fields.place,
        }
    }
}

impl NeighbourTable {
    const KEYS: [&str; 3] = ["address", "mac", "port"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            address: fields.text("address", problems),
            mac: fields.text("mac", problems),
            port: fields.text("port", problems),
            place: fields.place,
        }
    }
}

/// Every table below the file's own, as its heading in `docs/rules.md` is written, with its keys.
#[cfg(test)]
pub(super) fn tables() -> [(&'static str, Vec<&'static str>); 17] {
    [
        ("## `[dataplane]`", DataplaneTable::KEYS.into()),
        ("## `[control]`", ControlTable::KEYS.into()),
        ("## `[slow_path]`", SlowPathTable::KEYS.into()),
        ("## `[decap]`", DecapTable::KEYS.into()),
        ("## `[checks]`", ChecksTable::KEYS.into()),
        ("## `[[port]]`", PortTable::KEYS.into()),
        ("## `[[neighbour]]`", NeighbourTable::KEYS.into()),
        ("## `[[service]]`", ServiceTable::KEYS.into()),
        ("### `[service.tunnel]`", TunnelTable::KEYS.into()),
        ("### `[service.timeouts]`", TIMEOUTS.map(|(key, _)| key).into()),
        ("### `[service.persistence]`", PersistenceTable::KEYS.into()),
        ("### `[service.health]`", HealthTable::KEYS.into()),
        ("### `[service.sorry]`", SorryTable::KEYS.into()),
        ("### `[service.server_ids]`", ServerIdsTable::KEYS.into()),
        ("### `[[service.quic_lb]]`", QuicLbTable::KEYS.into()),
        ("### `[[service.route]]`", RouteTable::KEYS.into()),
        ("### `[[service.backend]]`", BackendTable::KEYS.into()),
    ]
}
