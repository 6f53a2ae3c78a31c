//! The rules file as typed: every value of the right TOML type, nothing checked, every value with its place
//! in the source.

use toml::Spanned;
use toml::de::DeTable;

use super::error::Problems;
use super::fields::{Field, Fields, Place};

/// The whole file.
pub(super) struct File {
    pub(super) dataplane: DataplaneTable,
    pub(super) control: ControlTable,
    pub(super) slow_path: SlowPathTable,
    pub(super) ports: Field<Vec<PortTable>>,
    pub(super) neighbours: Field<Vec<NeighbourTable>>,
    pub(super) services: Field<Vec<ServiceTable>>,
}

/// `[dataplane]`
pub(super) struct DataplaneTable {
    pub(super) workers: WorkersField,
    pub(super) memory: Field<String>,
    pub(super) max_flows: Field<i128>,
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
}

/// `[slow_path]`
pub(super) struct SlowPathTable {
    pub(super) arp: Field<i128>,
    pub(super) routing: Field<i128>,
    pub(super) local: Field<i128>,
    pub(super) rest: Field<i128>,
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
}

/// `[[neighbour]]`
pub(super) struct NeighbourTable {
    pub(super) place: Place,
    pub(super) address: Field<String>,
    pub(super) mac: Field<String>,
    pub(super) port: Field<String>,
}

/// `[[service]]`
pub(super) struct ServiceTable {
    pub(super) place: Place,
    pub(super) name: Field<String>,
    pub(super) listen: Field<String>,
    pub(super) mode: Field<String>,
    pub(super) scheduler: Field<String>,
    pub(super) announce: Field<String>,
    pub(super) backends: Field<Vec<BackendTable>>,
}

/// `[[service.backend]]`
pub(super) struct BackendTable {
    pub(super) place: Place,
    pub(super) address: Field<String>,
    pub(super) weight: Field<i128>,
}

impl File {
    pub(super) fn read(document: &Spanned<DeTable<'_>>, problems: &mut Problems) -> Self {
        let place = Place { title: "a rules file", span: document.span() };
        let keys = ["dataplane", "control", "slow_path", "port", "neighbour", "service"];
        let fields = Fields::open(place, document.get_ref(), &keys, problems);
        Self {
            dataplane: fields.table("dataplane", "[dataplane]", problems, DataplaneTable::read),
            control: fields.table("control", "[control]", problems, ControlTable::read),
            slow_path: fields.table("slow_path", "[slow_path]", problems, SlowPathTable::read),
            ports: fields.tables("port", "[[port]]", problems, PortTable::read),
            neighbours: fields.tables("neighbour", "[[neighbour]]", problems, NeighbourTable::read),
            services: fields.tables("service", "[[service]]", problems, ServiceTable::read),
        }
    }
}

impl DataplaneTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &["workers", "memory", "max_flows", "idle"], problems);
        Self {
            workers: if fields.is_list("workers") {
                WorkersField::Cores(fields.integers("workers", problems))
            } else {
                WorkersField::Word(fields.text("workers", problems))
            },
            memory: fields.text("memory", problems),
            max_flows: fields.integer("max_flows", problems),
            idle: fields.text("idle", problems),
        }
    }
}

impl ControlTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &["socket"], problems);
        Self { socket: fields.text("socket", problems) }
    }
}

impl SlowPathTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &["arp", "routing", "local", "rest"], problems);
        Self {
            arp: fields.integer("arp", problems),
            routing: fields.integer("routing", problems),
            local: fields.integer("local", problems),
            rest: fields.integer("rest", problems),
        }
    }
}

impl PortTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let keys = ["name", "device", "kernel", "addresses", "local_addresses", "mac"];
        let fields = Fields::open(place, table, &keys, problems);
        Self {
            name: fields.text("name", problems),
            device: fields.text("device", problems),
            kernel: fields.boolean("kernel", problems),
            addresses: fields.texts("addresses", problems),
            local_addresses: fields.texts("local_addresses", problems),
            mac: fields.text("mac", problems),
            place: fields.place,
        }
    }
}

impl NeighbourTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &["address", "mac", "port"], problems);
        Self {
            address: fields.text("address", problems),
            mac: fields.text("mac", problems),
            port: fields.text("port", problems),
            place: fields.place,
        }
    }
}

impl ServiceTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let keys = ["name", "listen", "mode", "scheduler", "announce", "backend"];
        let fields = Fields::open(place, table, &keys, problems);
        Self {
            name: fields.text("name", problems),
            listen: fields.text("listen", problems),
            mode: fields.text("mode", problems),
            scheduler: fields.text("scheduler", problems),
            announce: fields.text("announce", problems),
            backends: fields.tables("backend", "[[service.backend]]", problems, BackendTable::read),
            place: fields.place,
        }
    }
}

impl BackendTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &["address", "weight"], problems);
        Self {
            address: fields.text("address", problems),
            weight: fields.integer("weight", problems),
            place: fields.place,
        }
    }
}
