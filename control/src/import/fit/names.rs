//! Names of services: what the input calls them, else after what they listen on; each its own, of letters that rules allow.

use std::collections::HashSet;

use crate::import::draft::Service;

const NAME_BYTES_MAX: usize = 32;

pub(super) fn fit(services: &mut [Service]) {
    let mut taken = HashSet::new();
    for service in services {
        let wanted = if service.name.is_empty() { after_listen(service) } else { allowed(&service.name) };
        let mut name = shortened(&wanted, "");
        let mut number = 2_u32;
        while !taken.insert(name.clone()) {
            name = shortened(&wanted, &format!("-{number}"));
            number += 1;
        }
        service.name = name;
    }
}

fn after_listen(service: &Service) -> String {
    let Some(listen) = service.listens.first() else { return "service".to_owned() };
    let l4_port = match listen.l4_port {
        0 => "any".to_owned(),
        l4_port => l4_port.to_string(),
    };
    let vip = allowed(&listen.vip.to_string());
    let name = format!("{}-{vip}-{l4_port}", listen.protocol);
    // A long IPv6 address: its beginning is every VIP's.
    let keep = NAME_BYTES_MAX.saturating_sub(name.len() - vip.len());
    let vip = vip.get(vip.len().saturating_sub(keep)..).unwrap_or_default();
    format!("{}-{vip}-{l4_port}", listen.protocol)
}

fn allowed(text: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().map(|c| if is_allowed(c) { c } else { '.' }).collect()
}

/// ASCII, by now.
fn shortened(name: &str, suffix: &str) -> String {
    let len = name.len().min(NAME_BYTES_MAX - suffix.len());
    format!("{}{suffix}", name.get(..len).unwrap_or_default())
}
