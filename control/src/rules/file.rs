//! The rules file as typed: every value of the right TOML type, nothing checked, every value with its place
//! in the source.

mod health;

use toml::Spanned;
use toml::de::DeTable;

pub(super) use health::{HealthTable, StatusField};

use super::error::Problems;
use super::fields::{Field, Fields, Place};
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

/// `[[service]]`
pub(super) struct ServiceTable {
    pub(super) place: Place,
    pub(super) name: Field<String>,
    pub(super) listen: Field<Vec<Spanned<String>>>,
    pub(super) from: Field<Vec<Spanned<String>>>,
    pub(super) mode: Field<String>,
    pub(super) tunnel: Field<TunnelTable>,
    pub(super) ttl: Field<String>,
    pub(super) scheduler: Field<String>,
    pub(super) hash: Field<String>,
    pub(super) fallback: Field<bool>,
    pub(super) maglev_slots: Field<i128>,
    pub(super) announce: Field<String>,
    pub(super) client_address: Field<String>,
    pub(super) toa_option: Field<i128>,
    pub(super) uoa_option: Field<i128>,
    pub(super) mss: MssField,
    pub(super) fragment: Field<bool>,
    pub(super) flows: Field<String>,
    pub(super) one_packet: Field<bool>,
    pub(super) no_backend: Field<String>,
    pub(super) no_flow: Field<String>,
    pub(super) reuse: Field<String>,
    pub(super) on_timeout: Field<String>,
    pub(super) on_remove: Field<String>,
    pub(super) check_rst: Field<bool>,
    pub(super) slow_start: Field<String>,
    pub(super) drain_timeout: Field<String>,
    pub(super) max_connections: Field<i128>,
    pub(super) max_half_open: Field<i128>,
    pub(super) max_rate: RateField,
    pub(super) timeouts: TimeoutsTable,
    pub(super) persistence: Field<PersistenceTable>,
    pub(super) health: Field<HealthTable>,
    pub(super) sorry: Field<SorryTable>,
    pub(super) server_ids: Field<ServerIdsTable>,
    pub(super) quic_lb: Field<Vec<QuicLbTable>>,
    pub(super) routes: Field<Vec<RouteTable>>,
    pub(super) prefixes: Field<String>,
    pub(super) backends: Field<Vec<BackendTable>>,
}

/// `mss = "clamp"` or `mss = 1360`
pub(super) enum MssField {
    Word(Field<String>),
    Number(Field<i128>),
}

/// `max_rate = 1000` or `max_rate = "1000/s"`
pub(super) enum RateField {
    Text(Field<String>),
    Number(Field<i128>),
}

/// `[service.tunnel]`
pub(super) struct TunnelTable {
    pub(super) encapsulation: Field<String>,
    pub(super) key: Field<i128>,
    pub(super) variant: Field<i128>,
    pub(super) port: Field<i128>,
    pub(super) source: Field<Vec<Spanned<String>>>,
    pub(super) dscp: WordOrNumber,
    pub(super) ttl: WordOrNumber,
    pub(super) dont_fragment: Field<bool>,
    pub(super) udp_checksum: Field<bool>,
    pub(super) second_chance: Field<bool>,
}

/// `dscp = "copy"` or `dscp = 46`
pub(super) enum WordOrNumber {
    Word(Field<String>),
    Number(Field<i128>),
}

/// `[service.timeouts]`: each key with its value.
pub(super) struct TimeoutsTable(pub(super) Vec<(&'static str, Field<String>)>);

/// `[service.persistence]`
pub(super) struct PersistenceTable {
    pub(super) timeout: Field<String>,
    pub(super) prefix: Field<i128>,
    pub(super) prefix6: Field<i128>,
    pub(super) on_drain: Field<String>,
}

/// `[service.sorry]`
pub(super) struct SorryTable {
    pub(super) place: Place,
    pub(super) address: Field<String>,
}

/// `[service.server_ids]`
pub(super) struct ServerIdsTable {
    pub(super) place: Place,
    pub(super) datagrams: Field<String>,
    pub(super) offset: Field<i128>,
    pub(super) length: Field<i128>,
    pub(super) tcp_option: Field<i128>,
}

/// `[[service.quic_lb]]`
pub(super) struct QuicLbTable {
    pub(super) place: Place,
    pub(super) code_point: Field<i128>,
    pub(super) server_id_length: Field<i128>,
    pub(super) nonce_length: Field<i128>,
    pub(super) key: Field<String>,
    pub(super) encodes_length: Field<bool>,
}

/// `[[service.route]]`
pub(super) struct RouteTable {
    pub(super) place: Place,
    pub(super) from: Field<String>,
    pub(super) backend: Field<String>,
}

/// `[[service.backend]]`
pub(super) struct BackendTable {
    pub(super) place: Place,
    pub(super) address: Field<String>,
    pub(super) weight: Field<i128>,
    pub(super) max_connections: Field<i128>,
    pub(super) resume_below: Field<i128>,
    pub(super) state: Field<String>,
    pub(super) check_address: Field<String>,
    pub(super) check_port: Field<i128>,
    pub(super) server_id: Field<Vec<Spanned<i128>>>,
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

impl ServiceTable {
    const KEYS: [&str; 38] = [
        "name",
        "listen",
        "from",
        "mode",
        "tunnel",
        "ttl",
        "scheduler",
        "hash",
        "fallback",
        "maglev_slots",
        "announce",
        "client_address",
        "toa_option",
        "uoa_option",
        "mss",
        "fragment",
        "flows",
        "one_packet",
        "no_backend",
        "no_flow",
        "reuse",
        "on_timeout",
        "on_remove",
        "check_rst",
        "slow_start",
        "drain_timeout",
        "max_connections",
        "max_half_open",
        "max_rate",
        "timeouts",
        "persistence",
        "health",
        "sorry",
        "server_ids",
        "quic_lb",
        "route",
        "prefixes",
        "backend",
    ];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            name: fields.text("name", problems),
            listen: fields.one_or_more_texts("listen", problems),
            from: fields.one_or_more_texts("from", problems),
            mode: fields.text("mode", problems),
            tunnel: fields.optional_table("tunnel", "[service.tunnel]", problems, TunnelTable::read),
            ttl: fields.text("ttl", problems),
            scheduler: fields.text("scheduler", problems),
            hash: fields.text("hash", problems),
            fallback: fields.boolean("fallback", problems),
            maglev_slots: fields.integer("maglev_slots", problems),
            announce: fields.text("announce", problems),
            client_address: fields.text("client_address", problems),
            toa_option: fields.integer("toa_option", problems),
            uoa_option: fields.integer("uoa_option", problems),
            mss: if fields.is_text("mss") {
                MssField::Word(fields.text("mss", problems))
            } else {
                MssField::Number(fields.integer("mss", problems))
            },
            fragment: fields.boolean("fragment", problems),
            flows: fields.text("flows", problems),
            one_packet: fields.boolean("one_packet", problems),
            no_backend: fields.text("no_backend", problems),
            no_flow: fields.text("no_flow", problems),
            reuse: fields.text("reuse", problems),
            on_timeout: fields.text("on_timeout", problems),
            on_remove: fields.text("on_remove", problems),
            check_rst: fields.boolean("check_rst", problems),
            slow_start: fields.text("slow_start", problems),
            drain_timeout: fields.text("drain_timeout", problems),
            max_connections: fields.integer("max_connections", problems),
            max_half_open: fields.integer("max_half_open", problems),
            max_rate: if fields.is_text("max_rate") {
                RateField::Text(fields.text("max_rate", problems))
            } else {
                RateField::Number(fields.integer("max_rate", problems))
            },
            timeouts: fields.table("timeouts", "[service.timeouts]", problems, TimeoutsTable::read),
            persistence: fields.optional_table(
                "persistence",
                "[service.persistence]",
                problems,
                PersistenceTable::read,
            ),
            health: fields.optional_table("health", "[service.health]", problems, HealthTable::read),
            sorry: fields.optional_table("sorry", "[service.sorry]", problems, SorryTable::read),
            server_ids: fields.optional_table(
                "server_ids",
                "[service.server_ids]",
                problems,
                ServerIdsTable::read,
            ),
            quic_lb: fields.tables("quic_lb", "[[service.quic_lb]]", problems, QuicLbTable::read),
            routes: fields.tables("route", "[[service.route]]", problems, RouteTable::read),
            prefixes: fields.text("prefixes", problems),
            backends: fields.tables("backend", "[[service.backend]]", problems, BackendTable::read),
            place: fields.place,
        }
    }
}

impl TunnelTable {
    const KEYS: [&str; 10] = [
        "encapsulation",
        "key",
        "variant",
        "port",
        "source",
        "dscp",
        "ttl",
        "dont_fragment",
        "udp_checksum",
        "second_chance",
    ];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        let word_or_number = |key, problems: &mut Problems| {
            if fields.is_text(key) {
                WordOrNumber::Word(fields.text(key, problems))
            } else {
                WordOrNumber::Number(fields.integer(key, problems))
            }
        };
        Self {
            encapsulation: fields.text("encapsulation", problems),
            key: fields.integer("key", problems),
            variant: fields.integer("variant", problems),
            port: fields.integer("port", problems),
            source: fields.one_or_more_texts("source", problems),
            dscp: word_or_number("dscp", problems),
            ttl: word_or_number("ttl", problems),
            dont_fragment: fields.boolean("dont_fragment", problems),
            udp_checksum: fields.boolean("udp_checksum", problems),
            second_chance: fields.boolean("second_chance", problems),
        }
    }
}

impl TimeoutsTable {
    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let keys = TIMEOUTS.map(|(key, _)| key);
        let fields = Fields::open(place, table, &keys, problems);
        Self(keys.map(|key| (key, fields.text(key, problems))).into())
    }
}

impl PersistenceTable {
    const KEYS: [&str; 4] = ["timeout", "prefix", "prefix6", "on_drain"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            timeout: fields.text("timeout", problems),
            prefix: fields.integer("prefix", problems),
            prefix6: fields.integer("prefix6", problems),
            on_drain: fields.text("on_drain", problems),
        }
    }
}

impl SorryTable {
    const KEYS: [&str; 1] = ["address"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self { address: fields.text("address", problems), place: fields.place }
    }
}

impl ServerIdsTable {
    const KEYS: [&str; 4] = ["datagrams", "offset", "length", "tcp_option"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            datagrams: fields.text("datagrams", problems),
            offset: fields.integer("offset", problems),
            length: fields.integer("length", problems),
            tcp_option: fields.integer("tcp_option", problems),
            place: fields.place,
        }
    }
}

impl QuicLbTable {
    const KEYS: [&str; 5] = ["code_point", "server_id_length", "nonce_length", "key", "encodes_length"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            code_point: fields.integer("code_point", problems),
            server_id_length: fields.integer("server_id_length", problems),
            nonce_length: fields.integer("nonce_length", problems),
            key: fields.text("key", problems),
            encodes_length: fields.boolean("encodes_length", problems),
            place: fields.place,
        }
    }
}

impl RouteTable {
    const KEYS: [&str; 2] = ["from", "backend"];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            from: fields.text("from", problems),
            backend: fields.text("backend", problems),
            place: fields.place,
        }
    }
}

impl BackendTable {
    const KEYS: [&str; 8] = [
        "address",
        "weight",
        "max_connections",
        "resume_below",
        "state",
        "check_address",
        "check_port",
        "server_id",
    ];

    fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            address: fields.text("address", problems),
            weight: fields.integer("weight", problems),
            max_connections: fields.integer("max_connections", problems),
            resume_below: fields.integer("resume_below", problems),
            state: fields.text("state", problems),
            check_address: fields.text("check_address", problems),
            check_port: fields.integer("check_port", problems),
            server_id: fields.one_or_more_integers("server_id", problems),
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
