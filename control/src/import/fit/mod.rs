//! A draft becomes what rules can say: one mode a service, backends newest first, no setting that the rules would refuse. Whatever gives
//! way leaves a note. What the rules refuse is told in docs/rules.md and decided by `rules::check`; a test holds both together.

mod backends;
mod health;
mod names;

use std::collections::HashSet;
use std::net::IpAddr;

use super::draft::{Draft, Listen, Note, Persistence, Service, Way};
use super::{PortSettings, draft};
use crate::ipvsadm::command::{Checksum, Tunnel};
use crate::rules::{Protocol, SchedulerKind, is_host};

/// What durations of connections end at: 24 days.
const TIMEOUT_MAX_S: u32 = 24 * 86_400;
/// IPVS's and keepalived's.
const SCHEDULER_DEFAULT: &str = "wlc";

pub(super) fn fit(draft: &mut Draft, port: &PortSettings) {
    for service in &mut draft.services {
        // IPVS puts each server at the head of its list, and its schedulers begin there.
        service.backends.reverse();
        backends::ways(service);
        listens(service);
    }
    each_place_once(&mut draft.services);
    let vips = vips(&draft.services);
    for service in &mut draft.services {
        one_packet(service);
        scheduler(service);
        durations(service);
        backends::fit(service, &vips, port);
        health::fit(service);
    }
    announcements(&mut draft.services);
    names::fit(&mut draft.services);
}

/// Addresses that clients can connect to, of one family where the mode leaves packets as they are.
fn listens(service: &mut Service) {
    let keeps_family = !matches!(service.way, Some(Way::Tunnel(_)));
    let is_ipv6 = service.listens.first().is_some_and(|listen| listen.vip.is_ipv6());
    let had_some = !service.listens.is_empty();
    let mut notes = Vec::new();
    let mut seen = HashSet::new();
    service.listens.retain(|listen| {
        let why = if !is_host(listen.vip) {
            "a VIP is the address of a host: neither loopback, multicast, link-local nor reserved"
        } else if keeps_family && listen.vip.is_ipv6() != is_ipv6 {
            "in this mode VIPs and backends are of one family: give the others a service of their own"
        } else if !seen.insert(*listen) {
            "it is listened on already"
        } else {
            return true;
        };
        notes.push(Note::new(listen_text(listen), why));
        false
    });
    for note in notes {
        service.note(note.what, note.why);
    }
    if had_some && service.listens.is_empty() && service.left_out.is_none() {
        let why = "nothing is left to listen on: see below";
        service.left_out = Some(Note::new(service.origin.clone(), why));
    }
}

/// As the rules write it.
pub(super) fn listen_text(listen: &Listen) -> String {
    let host = draft::host_text(listen.vip);
    match listen.l4_port {
        0 => format!("{} {host}:*", listen.protocol),
        l4_port => format!("{} {host}:{l4_port}", listen.protocol),
    }
}

/// IPVS has each place once, but keepalived's files may name it twice; the first gets it.
fn each_place_once(services: &mut [Service]) {
    let mut taken = HashSet::new();
    for service in
        services.iter_mut().filter(|service| service.left_out.is_none() && !service.listens.is_empty())
    {
        let mut notes = Vec::new();
        service.listens.retain(|listen| {
            let is_first = taken.insert(*listen);
            if !is_first {
                notes.push(Note::new(
                    listen_text(listen),
                    "a service above listens on it already: put the backends of both under one",
                ));
            }
            is_first
        });
        if service.listens.is_empty() {
            service.left_out = notes.pop();
        }
        service.notes.extend(notes);
    }
}

/// Of services in force.
fn vips(services: &[Service]) -> HashSet<IpAddr> {
    let in_force = services.iter().filter(|service| service.left_out.is_none());
    in_force.flat_map(|service| &service.listens).map(|listen| listen.vip).collect()
}

fn one_packet(service: &mut Service) {
    if !service.one_packet {
        return;
    }
    let is_udp = service.listens.iter().all(|listen| listen.protocol == Protocol::Udp);
    let why = if !is_udp {
        "IPVS heeds it for UDP alone, and so do the rules"
    } else if matches!(service.way, Some(Way::Nat)) {
        "mode \"nat\" must know each connection to change its answers back; mode \"dr\" need not"
    } else if service.persistence.is_some() {
        "a service that remembers clients has to remember flows: take `persistence` out for `one_packet = true`"
    } else {
        return;
    };
    service.one_packet = false;
    service.note("one-packet scheduling", why);
}

fn scheduler(service: &mut Service) {
    if SchedulerKind::ALL.iter().any(|kind| kind.name() == service.scheduler) {
        return;
    }
    if !service.scheduler.is_empty() {
        let what = format!("scheduler {}", service.scheduler);
        service.note(
            what,
            format!("there is none of this name; here it is {SCHEDULER_DEFAULT} (docs/schedulers.md)"),
        );
    }
    SCHEDULER_DEFAULT.clone_into(&mut service.scheduler);
}

fn durations(service: &mut Service) {
    if let Some(Persistence { timeout_s, .. }) = service.persistence
        && timeout_s > TIMEOUT_MAX_S
    {
        service.note(format!("persistence of {timeout_s} s"), "clients are remembered for at most 24 days");
        service.persistence = service.persistence.map(|old| Persistence { timeout_s: TIMEOUT_MAX_S, ..old });
    }
    // Flows that nobody remembers have no timeouts.
    let timeouts = std::mem::take(&mut service.timeouts);
    let timeouts = if service.one_packet { Vec::new() } else { timeouts };
    for (key, seconds) in timeouts {
        if seconds > TIMEOUT_MAX_S {
            service.note(format!("timeout of {seconds} s"), "connections are remembered for at most 24 days");
        }
        service.timeouts.push((key, seconds.min(TIMEOUT_MAX_S)));
    }
}

/// All services of a VIP have one `announce`, and a service has one for all its VIPs: what one says spreads.
fn announcements(services: &mut [Service]) {
    let mut by_vip: std::collections::HashMap<IpAddr, String> = std::collections::HashMap::new();
    loop {
        let before = by_vip.len();
        for service in services.iter_mut().filter(|service| service.left_out.is_none()) {
            if service.announced_by.is_none() {
                service.announced_by =
                    service.listens.iter().find_map(|listen| by_vip.get(&listen.vip)).cloned();
            }
            if let Some(by) = &service.announced_by {
                for listen in &service.listens {
                    by_vip.entry(listen.vip).or_insert_with(|| by.clone());
                }
            }
        }
        if by_vip.len() == before {
            return;
        }
    }
}

/// What of a tunnel has no counterpart, and the tunnel without it.
fn plain_tunnel(tunnel: Tunnel) -> (Tunnel, Option<Note>) {
    match tunnel {
        Tunnel::Gre { checksum: Checksum::Yes | Checksum::Remote } => {
            let why = "GRE goes without checksums here: backends must not ask for one";
            (Tunnel::Gre { checksum: Checksum::No }, Some(Note::new("tunnel checksum of GRE", why)))
        }
        Tunnel::Gue { l4_port, checksum: Checksum::Remote } => {
            let why = "here the director computes it: `udp_checksum = true`";
            (Tunnel::Gue { l4_port, checksum: Checksum::Yes }, Some(Note::new("remote checksum of GUE", why)))
        }
        plain => (plain, None),
    }
}
