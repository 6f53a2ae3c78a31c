//! `[service.health]` as typed.

use toml::Spanned;
use toml::de::DeTable;

use super::Problems;
use crate::rules::fields::{Field, Fields, Place};

pub(in crate::rules) struct HealthTable {
    pub(in crate::rules) place: Place,
    pub(in crate::rules) check: Field<String>,
    pub(in crate::rules) interval: Field<String>,
    pub(in crate::rules) timeout: Field<String>,
    pub(in crate::rules) rise: Field<i128>,
    pub(in crate::rules) fall: Field<i128>,
    pub(in crate::rules) jitter: Field<i128>,
    pub(in crate::rules) initial: Field<String>,
    pub(in crate::rules) port: Field<i128>,
    pub(in crate::rules) via: Field<String>,
    pub(in crate::rules) method: Field<String>,
    pub(in crate::rules) path: Field<String>,
    pub(in crate::rules) host: Field<String>,
    pub(in crate::rules) status: StatusField,
    pub(in crate::rules) body: Field<String>,
    pub(in crate::rules) ca: Field<String>,
    pub(in crate::rules) insecure: Field<bool>,
    pub(in crate::rules) sni: Field<String>,
    pub(in crate::rules) send: Field<String>,
    pub(in crate::rules) expect: Field<String>,
    pub(in crate::rules) query: Field<String>,
    pub(in crate::rules) record_type: Field<String>,
    pub(in crate::rules) grpc_service: Field<String>,
    pub(in crate::rules) argv: Field<Vec<Spanned<String>>>,
    pub(in crate::rules) attempts: Field<i128>,
    pub(in crate::rules) damping: Field<String>,
    pub(in crate::rules) inhibit: Field<bool>,
    pub(in crate::rules) quorum: Field<i128>,
    pub(in crate::rules) withdraw: Field<bool>,
    pub(in crate::rules) notify: Field<Vec<Spanned<String>>>,
}

/// `status = 200`, `status = "200-399"` or a list of such strings.
pub(in crate::rules) enum StatusField {
    Number(Field<i128>),
    Texts(Field<Vec<Spanned<String>>>),
}

impl HealthTable {
    pub(super) const KEYS: [&str; 29] = [
        "check", "interval", "timeout", "rise", "fall", "jitter", "initial", "port", "via", "method", "path",
        "host", "status", "body", "ca", "insecure", "sni", "send", "expect", "query", "type", "service",
        "argv", "attempts", "damping", "inhibit", "quorum", "withdraw", "notify",
    ];

    pub(super) fn read(place: Place, table: &DeTable<'_>, problems: &mut Problems) -> Self {
        let fields = Fields::open(place, table, &Self::KEYS, problems);
        Self {
            check: fields.text("check", problems),
            interval: fields.text("interval", problems),
            timeout: fields.text("timeout", problems),
            rise: fields.integer("rise", problems),
            fall: fields.integer("fall", problems),
            jitter: fields.integer("jitter", problems),
            initial: fields.text("initial", problems),
            port: fields.integer("port", problems),
            via: fields.text("via", problems),
            method: fields.text("method", problems),
            path: fields.text("path", problems),
            host: fields.text("host", problems),
            status: if fields.is_list("status") || fields.is_text("status") {
                StatusField::Texts(fields.one_or_more_texts("status", problems))
            } else {
                StatusField::Number(fields.integer("status", problems))
            },
            body: fields.text("body", problems),
            ca: fields.text("ca", problems),
            insecure: fields.boolean("insecure", problems),
            sni: fields.text("sni", problems),
            send: fields.text("send", problems),
            expect: fields.text("expect", problems),
            query: fields.text("query", problems),
            record_type: fields.text("type", problems),
            grpc_service: fields.text("service", problems),
            argv: fields.texts("argv", problems),
            attempts: fields.integer("attempts", problems),
            damping: fields.text("damping", problems),
            inhibit: fields.boolean("inhibit", problems),
            quorum: fields.integer("quorum", problems),
            withdraw: fields.boolean("withdraw", problems),
            notify: fields.texts("notify", problems),
            place: fields.place,
        }
    }
}
