//! `[[service]]` and the tables within it, as typed.

use toml::Spanned;
use toml::de::DeTable;

use super::{HealthTable, Problems};
use crate::rules::fields::{Field, Fields, Place};
use crate::rules::words::TIMEOUTS;

/// `[[service]]`
pub(in crate::rules) struct ServiceTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) name: Field<String>,
    pub(in crate::rules) listen: Field<Vec<Spanned<String>>>,
    pub(in crate::rules) from: Field<Vec<Spanned<String>>>,
    pub(in crate::rules) mode: Field<String>,
    pub(in crate::rules) tunnel: Field<TunnelTable>,
    pub(in crate::rules) ttl: Field<String>,
    pub(in crate::rules) scheduler: Field<String>,
    pub(in crate::rules) hash: Field<String>,
    pub(in crate::rules) fallback: Field<bool>,
    pub(in crate::rules) maglev_slots: Field<i128>,
    pub(in crate::rules) announce: Field<String>,
    pub(in crate::rules) client_address: Field<String>,
    pub(in crate::rules) toa_option: Field<i128>,
    pub(in crate::rules) uoa_option: Field<i128>,
    pub(in crate::rules) mss: MssField,
    pub(in crate::rules) fragment: Field<bool>,
    pub(in crate::rules) flows: Field<String>,
    pub(in crate::rules) one_packet: Field<bool>,
    pub(in crate::rules) no_backend: Field<String>,
    pub(in crate::rules) no_flow: Field<String>,
    pub(in crate::rules) reuse: Field<String>,
    pub(in crate::rules) on_timeout: Field<String>,
    pub(in crate::rules) on_remove: Field<String>,
    pub(in crate::rules) check_rst: Field<bool>,
    pub(in crate::rules) slow_start: Field<String>,
    pub(in crate::rules) drain_timeout: Field<String>,
    pub(in crate::rules) max_connections: Field<i128>,
    pub(in crate::rules) max_half_open: Field<i128>,
    pub(in crate::rules) max_rate: RateField,
    pub(in crate::rules) timeouts: TimeoutsTable,
    pub(in crate::rules) persistence: Field<PersistenceTable>,
    pub(in crate::rules) health: Field<HealthTable>,
    pub(in crate::rules) sorry: Field<SorryTable>,
    pub(in crate::rules) server_ids: Field<ServerIdsTable>,
    pub(in crate::rules) quic_lb: Field<Vec<QuicLbTable>>,
    pub(in crate::rules) routes: Field<Vec<RouteTable>>,
    pub(in crate::rules) prefixes: Field<String>,
    pub(in crate::rules) backends: Field<Vec<BackendTable>>,
}

/// `mss = "clamp"` or `mss = 1360`
pub(in crate::rules) enum MssField {
    Word(Field<String>),
    Number(Field<i128>),
}

/// `max_rate = 1000` or `max_rate = "1000/s"`
pub(in crate::rules) enum RateField {
    Text(Field<String>),
    Number(Field<i128>),
}

/// `[service.tunnel]`
pub(in crate::rules) struct TunnelTable {
    pub(in crate::rules) encapsulation: Field<String>,
    pub(in crate::rules) key: Field<i128>,
    pub(in crate::rules) variant: Field<i128>,
    pub(in crate::rules) port: Field<i128>,
    pub(in crate::rules) source: Field<Vec<Spanned<String>>>,
    pub(in crate::rules) dscp: WordOrNumber,
    pub(in crate::rules) ttl: WordOrNumber,
    pub(in crate::rules) dont_fragment: Field<bool>,
    pub(in crate::rules) udp_checksum: Field<bool>,
    pub(in crate::rules) second_chance: Field<bool>,
}

/// `dscp = "copy"` or `dscp = 46`
pub(in crate::rules) enum WordOrNumber {
    Word(Field<String>),
    Number(Field<i128>),
}

/// `[service.timeouts]`: each key with its value.
pub(in crate::rules) struct TimeoutsTable(pub(in crate::rules) Vec<(&'static str, Field<String>)>);

/// `[service.persistence]`
pub(in crate::rules) struct PersistenceTable {
    pub(in crate::rules) timeout: Field<String>,
    pub(in crate::rules) prefix: Field<i128>,
    pub(in crate::rules) prefix6: Field<i128>,
    pub(in crate::rules) on_drain: Field<String>,
}

/// `[service.sorry]`
pub(in crate::rules) struct SorryTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) address: Field<String>,
}

/// `[service.server_ids]`
pub(in crate::rules) struct ServerIdsTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) datagrams: Field<String>,
    pub(in crate::rules) offset: Field<i128>,
    pub(in crate::rules) length: Field<i128>,
    pub(in crate::rules) tcp_option: Field<i128>,
}

/// `[[service.quic_lb]]`
pub(in crate::rules) struct QuicLbTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) code_point: Field<i128>,
    pub(in crate::rules) server_id_length: Field<i128>,
    pub(in crate::rules) nonce_length: Field<i128>,
    pub(in crate::rules) key: Field<String>,
    pub(in crate::rules) encodes_length: Field<bool>,
}

/// `[[service.route]]`
pub(in crate::rules) struct RouteTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) from: Field<String>,
    pub(in crate::rules) backend: Field<String>,
}

/// `[[service.backend]]`
pub(in crate::rules) struct BackendTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) address: Field<String>,
    pub(in crate::rules) weight: Field<i128>,
    pub(in crate::rules) max_connections: Field<i128>,
    pub(in crate::rules) resume_below: Field<i128>,
    pub(in crate::rules) state: Field<String>,
    pub(in crate::rules) check_address: Field<String>,
    pub(in crate::rules) check_port: Field<i128>,
    pub(in crate::rules) server_id: Field<Vec<Spanned<i128>>>,
}

impl ServiceTable {
    pub(super) const KEYS: [&str; 38] = [
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

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
    pub(super) const KEYS: [&str; 10] = [
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

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let keys = TIMEOUTS.map(|(key, _)| key);
        let fields = Fields::open(place, table, &keys, problems);
        Self(keys.map(|key| (key, fields.text(key, problems))).into())
    }
}

impl PersistenceTable {
    pub(super) const KEYS: [&str; 4] = ["timeout", "prefix", "prefix6", "on_drain"];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
    pub(super) const KEYS: [&str; 1] = ["address"];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self { address: fields.text("address", problems), place: fields.place }
    }
}

impl ServerIdsTable {
    pub(super) const KEYS: [&str; 4] = ["datagrams", "offset", "length", "tcp_option"];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
    pub(super) const KEYS: [&str; 5] =
        ["code_point", "server_id_length", "nonce_length", "key", "encodes_length"];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
    pub(super) const KEYS: [&str; 2] = ["from", "backend"];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            from: fields.text("from", problems),
            backend: fields.text("backend", problems),
            place: fields.place,
        }
    }
}

impl BackendTable {
    pub(super) const KEYS: [&str; 8] = [
        "address",
        "weight",
        "max_connections",
        "resume_below",
        "state",
        "check_address",
        "check_port",
        "server_id",
    ];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
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
