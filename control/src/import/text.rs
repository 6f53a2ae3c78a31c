//! Writes a rules file: tables with their keys, and comments for what they cannot say.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use super::draft::{Backend, Check, Draft, Health, Note, Service, Way, host_text};
use super::fit::listen_text;
use super::{Imported, PortSettings};
use crate::ipvsadm::command::{Checksum, Tunnel};
use crate::rules::SchedulerKind;

/// A name that says where it stands; any will do.
const PORT_NAME: &str = "front";

/// What a service listens on until somebody says so: of TEST-NET-3, which nobody has (RFC 5737).
const LISTEN_PLACEHOLDER: &str = "tcp 203.0.113.10:80";

/// The rules, and what they came to. `command` is what wrote them.
pub(super) fn write(draft: &Draft, command: &str, port: &PortSettings) -> Imported {
    let mut rules = format!(
        "# Written by `{}`; docs/import.md tells what became of what.\n\
         # What has no counterpart is a comment that begins \"not imported:\".\n\
         # Backends stand in IPVS's own order, the one that was added last first.\n",
        command.replace(char::is_control, " ")
    );
    for hint in &draft.hints {
        comment(&mut rules, "", hint);
    }
    if !draft.notes.is_empty() {
        rules.push('\n');
    }
    notes(&mut rules, "", &draft.notes);
    rules.push('\n');
    rules.push_str(&port_text(port, draft));
    for service in &draft.services {
        rules.push('\n');
        let text = service_text(service);
        match &service.left_out {
            None => rules.push_str(&text),
            Some(note) => {
                notes(&mut rules, "", std::slice::from_ref(note));
                rules.push_str(&commented(&text));
            }
        }
    }
    let in_force = || draft.services.iter().filter(|service| service.left_out.is_none());
    let backends = in_force().flat_map(|service| &service.backends);
    let is_note = |line: &&str| line.trim_start().starts_with(NOT_IMPORTED);
    Imported {
        service_count: in_force().count(),
        backend_count: backends.filter(|backend| backend.left_out.is_none()).count(),
        not_imported_count: rules.lines().filter(is_note).count(),
        rules,
    }
}

/// The port by itself, as rules.
pub(super) fn port_alone(port: &PortSettings) -> String {
    port_text(port, &Draft::default())
}

const NOT_IMPORTED: &str = "# not imported:";

fn notes(out: &mut String, indent: &str, notes: &[Note]) {
    for Note { what, why } in notes {
        let line = format!("{indent}{NOT_IMPORTED} {what}: {why}");
        out.push_str(&line.replace(char::is_control, " "));
        out.push('\n');
    }
}

fn comment(out: &mut String, indent: &str, text: &str) {
    let line = format!("{indent}# {text}");
    out.push_str(&line.replace(char::is_control, " "));
    out.push('\n');
}

/// The same as comments; what is one already stays.
fn commented(text: &str) -> String {
    let each = text.lines().map(|line| {
        let rest = line.trim_start();
        let indent = line.get(..line.len() - rest.len()).unwrap_or_default();
        let sign = if rest.starts_with('#') || rest.is_empty() { "" } else { "# " };
        format!("{indent}{sign}{rest}\n")
    });
    each.collect()
}

/// A table: its header, and its keys with their signs below each other. A value may have a comment behind it.
struct Table<'a> {
    indent: &'a str,
    header: &'a str,
    rows: Vec<(&'static str, String)>,
}

impl<'a> Table<'a> {
    fn new(indent: &'a str, header: &'a str) -> Self {
        Self { indent, header, rows: Vec::new() }
    }

    /// A value as TOML writes it.
    fn raw(&mut self, key: &'static str, value: impl ToString) {
        self.rows.push((key, value.to_string()));
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.raw(key, quoted(value));
    }

    /// Where it is not the default.
    fn flag(&mut self, key: &'static str, value: bool) {
        if value {
            self.raw(key, value);
        }
    }

    fn write(self, out: &mut String) {
        let Self { indent, header, rows } = self;
        let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        out.push_str(&format!("{indent}{header}\n"));
        for (key, value) in rows {
            out.push_str(&format!("{indent}{key:width$} = {value}\n"));
        }
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            control if control.is_control() => {
                // To a string nothing fails to be written.
                let _: std::fmt::Result = write!(out, "\\u{:04X}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

fn list(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(&text)).collect();
    format!("[{}]", texts.join(", "))
}

/// The port that LVS does not know of.
fn port_text(port: &PortSettings, draft: &Draft) -> String {
    let mut out = String::new();
    let mut table = Table::new("", "[[port]]");
    table.text("name", PORT_NAME);
    match &port.device {
        Some(device) => table.text("device", device),
        None => table.raw("device", "\"af_packet:eth0\"  # put your NIC here: docs/rules.md, \"[[port]]\""),
    }
    table.raw("kernel", true);
    let missing = missing_addresses(port, draft);
    let all = list(port.addresses.iter().cloned().chain(missing.iter().map(|(text, _)| text.clone())));
    match missing.is_empty() {
        true => table.raw("addresses", all),
        false => {
            let places: Vec<&str> = missing.iter().map(|(text, _)| text.as_str()).collect();
            let own = missing.iter().map(|(_, family)| *family).collect::<Vec<_>>().join(" and ");
            table.raw(
                "addresses",
                format!("{all}  # in place of {} put the director's own {own} here", places.join(", ")),
            );
        }
    }
    table.write(&mut out);
    out
}

/// Places to fill in, with their family: where nothing was said, and where a tunnel needs an address to come from. They are of
/// the networks for documentation (RFC 5737, RFC 3849), and nobody's in the draft.
fn missing_addresses(port: &PortSettings, draft: &Draft) -> Vec<(String, &'static str)> {
    let has = |is_ipv6: bool| port.addresses.iter().any(|address| address.contains(':') == is_ipv6);
    let tunnels = draft.services.iter().filter(|service| matches!(service.way, Some(Way::Tunnel(_))));
    let reached: Vec<&Backend> =
        tunnels.flat_map(|service| service.backends.iter().chain(&service.sorry)).collect();
    let needs = |is_ipv6: bool| reached.iter().any(|backend| backend.address.is_ipv6() == is_ipv6);
    let used: std::collections::HashSet<IpAddr> = {
        let services = draft.services.iter();
        let backends = services.clone().flat_map(|service| service.backends.iter().chain(&service.sorry));
        let vips = services.flat_map(|service| service.listens.iter().map(|listen| listen.vip));
        backends.map(|backend| backend.address).chain(vips).collect()
    };
    let mut missing = Vec::new();
    if port.addresses.is_empty() || needs(false) && !has(false) {
        let free = (5..=254)
            .map(|host| Ipv4Addr::new(192, 0, 2, host))
            .find(|host| !used.contains(&IpAddr::V4(*host)));
        missing.push((format!("{}/24", free.unwrap_or(Ipv4Addr::new(198, 51, 100, 5))), "address"));
    }
    if needs(true) && !has(true) {
        let free = (5..=0xffff).map(|host| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host));
        let free = free.into_iter().find(|host| !used.contains(&IpAddr::V6(*host)));
        missing.extend(free.map(|free| (format!("{free}/64"), "IPv6 address")));
    }
    missing
}

fn service_text(service: &Service) -> String {
    let mut out = String::new();
    comment(&mut out, "", &service.origin);
    notes(&mut out, "", &service.notes);
    let mut table = Table::new("", "[[service]]");
    table.text("name", &service.name);
    let listens: Vec<String> = service.listens.iter().map(listen_text).collect();
    match &listens[..] {
        [] => table.raw("listen", format!("[{}]  # put the real ones here", quoted(LISTEN_PLACEHOLDER))),
        [one] => table.text("listen", one),
        several => table.raw("listen", list(several.iter().cloned())),
    }
    table.text("mode", service.way.map_or("dr", Way::mode));
    table.text("scheduler", &service.scheduler);
    hashing(&mut table, service);
    table.flag("one_packet", service.one_packet);
    if let Some(by) = &service.announced_by {
        table.raw("announce", format!("\"external\"  # {}", by.replace(char::is_control, " ")));
    }
    table.write(&mut out);
    tables_of(service, &mut out);
    for backend in &service.backends {
        out.push('\n');
        backend_text(backend, &mut out);
    }
    out
}

/// The backends that IPVS's hash chose, by which clients are still where they were.
fn hashing(table: &mut Table<'_>, service: &Service) {
    let kind = SchedulerKind::ALL.into_iter().find(|kind| kind.name() == service.scheduler);
    let Some(kind) = kind.filter(|kind| kind.has_maglev_table()) else { return };
    let with_l4_port = service.hashes_l4_port && kind != SchedulerKind::Dh;
    table.text("hash", if with_l4_port { "ipvs-port" } else { "ipvs" });
    if !service.fallback {
        table.raw("fallback", false);
    }
}

/// `[service.persistence]` and the others that are there once.
fn tables_of(service: &Service, out: &mut String) {
    let mut add = |table: Table<'_>| {
        out.push('\n');
        table.write(out);
    };
    if let Some(Way::Tunnel(tunnel @ (Tunnel::Gre { .. } | Tunnel::Gue { .. }))) = service.way {
        add(tunnel_table(tunnel));
    }
    if let Some(persistence) = service.persistence {
        let mut table = Table::new("  ", "[service.persistence]");
        table.text("timeout", &format!("{}s", persistence.timeout_s));
        let is_ipv6 = service.listens.first().is_some_and(|listen| listen.vip.is_ipv6());
        if let Some(prefix_len) = persistence.prefix_len {
            table.raw(if is_ipv6 { "prefix6" } else { "prefix" }, prefix_len);
        }
        add(table);
    }
    if !service.timeouts.is_empty() {
        let mut table = Table::new("  ", "[service.timeouts]");
        for (key, seconds) in &service.timeouts {
            table.text(key, &format!("{seconds}s"));
        }
        add(table);
    }
    if let Some(health) = &service.health {
        add(health_table(health, service.way));
    }
    if let Some(sorry) = &service.sorry {
        let mut table = Table::new("  ", "[service.sorry]");
        table.text("address", &sorry.endpoint());
        add(table);
    }
}

fn tunnel_table(tunnel: Tunnel) -> Table<'static> {
    let mut table = Table::new("  ", "[service.tunnel]");
    match tunnel {
        Tunnel::Ipip => table.text("encapsulation", "ipip"),
        Tunnel::Gre { .. } => table.text("encapsulation", "gre"),
        Tunnel::Gue { l4_port, checksum } => {
            table.text("encapsulation", "gue");
            // IPVS's GUE has a header of its own.
            table.raw("variant", 0);
            table.raw("port", l4_port);
            table.flag("udp_checksum", checksum != Checksum::No);
        }
    }
    table
}

fn health_table(health: &Health, way: Option<Way>) -> Table<'static> {
    let mut table = Table::new("  ", "[service.health]");
    table.text("check", health.check.word());
    match &health.check {
        Check::Tcp => {}
        Check::Http { is_tls, path, host, sni, status, body } => {
            for (key, value) in [("path", path), ("host", host), ("sni", sni), ("body", body)] {
                if let Some(value) = value {
                    table.text(key, value);
                }
            }
            table.raw("status", list(status.iter().cloned()));
            if *is_tls {
                table.raw(
                    "insecure",
                    "true  # as keepalived; `ca = \"...\"` in its place looks at certificates",
                );
            }
        }
        Check::Udp { send, expect } => {
            if !send.is_empty() {
                table.text("send", send);
            }
            if let Some(expect) = expect {
                table.text("expect", expect);
            }
        }
        Check::Dns { name, record_type } => {
            table.text("query", name);
            table.text("type", record_type);
        }
        Check::Script { argv } => table.raw("argv", list(argv.iter().cloned())),
    }
    table.text("interval", &duration_text(health.interval_ms));
    table.text("timeout", &duration_text(health.timeout_ms));
    table.raw("rise", 1);
    table.raw("fall", health.fall);
    if !matches!(way, Some(Way::Nat)) {
        table.raw("via", "\"address\"  # as keepalived; without it checks go to the VIP, as clients do");
    }
    if health.begins_down {
        table.text("initial", "down");
    }
    table.flag("inhibit", health.inhibit);
    if health.quorum > 1 {
        table.raw("quorum", health.quorum);
    }
    table
}

fn duration_text(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

fn backend_text(backend: &Backend, out: &mut String) {
    let mut text = String::new();
    notes(&mut text, "  ", &backend.notes);
    let mut table = Table::new("  ", "[[service.backend]]");
    table.text("address", &backend.endpoint());
    if backend.weight != 1 {
        table.raw("weight", backend.weight);
    }
    if backend.max_connections > 0 {
        table.raw("max_connections", backend.max_connections);
    }
    if backend.resume_below > 0 {
        table.raw("resume_below", backend.resume_below);
    }
    match (backend.check_address, backend.check_l4_port) {
        (Some(address), Some(l4_port)) => {
            table.text("check_address", &format!("{}:{l4_port}", host_text(address)))
        }
        (Some(address), None) => table.text("check_address", &host_text(address)),
        (None, Some(l4_port)) => table.raw("check_port", l4_port),
        (None, None) => {}
    }
    table.write(&mut text);
    match &backend.left_out {
        None => out.push_str(&text),
        Some(note) => {
            notes(out, "  ", std::slice::from_ref(note));
            out.push_str(&commented(&text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_string_of_toml() {
        for text in ["", "a b", "\"\\", "\n\t\u{7f}\u{85}é", "# x"] {
            let document = format!("key = {}", quoted(text));
            let table = toml::de::DeTable::parse(&document).unwrap();
            assert_eq!(table.get_ref()["key"].get_ref().as_str(), Some(text), "{document}");
        }
    }
}
