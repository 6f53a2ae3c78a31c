//! Backends of one service: reached in one way, at ports that the mode allows, each once.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::plain_tunnel;
use crate::import::PortSettings;
use crate::import::draft::{Backend, Note, Service, Way};
use crate::rules::{WEIGHT_MAX, is_host};

/// LVS lets each server have a way of its own, the rules have one for all: the one that most of them have, of equals that of the
/// server that was added first. The others become comments.
pub(super) fn ways(service: &mut Service) {
    let mut notes = Vec::new();
    for backend in service.backends.iter_mut().chain(&mut service.sorry) {
        if let Way::Tunnel(tunnel) = backend.way {
            let (plain, note) = plain_tunnel(tunnel);
            backend.way = Way::Tunnel(plain);
            notes.extend(note);
        }
    }
    for note in notes {
        service.note(note.what, note.why);
    }
    // From the one that was added first on.
    let mut counts: Vec<(Way, usize)> = Vec::new();
    for backend in service.backends.iter().rev() {
        match counts.iter_mut().find(|(way, _)| *way == backend.way) {
            Some((_, count)) => *count += 1,
            None => counts.push((backend.way, 1)),
        }
    }
    // Of equals `max_by_key` takes the last.
    let most = counts.iter().rev().max_by_key(|(_, count)| *count).map(|(way, _)| *way);
    let of_sorry = service.sorry.as_ref().map(|sorry| sorry.way);
    let way = most.or(of_sorry).or(service.way).unwrap_or(Way::Dr);
    service.way = Some(way);
    for backend in service.backends.iter_mut().filter(|backend| backend.way != way) {
        let what = format!("backend {}", backend.endpoint());
        let why = match (backend.way, way) {
            (Way::Tunnel(_), Way::Tunnel(_)) => {
                "its tunnel is another one, and a service has one: give it a service of its own".to_owned()
            }
            (own, _) => format!(
                "its mode is {:?}, and a service has one, here {:?}: give it a service of its own",
                own.mode(),
                way.mode()
            ),
        };
        backend.left_out = Some(Note::new(what, why));
    }
    if let Some(sorry) = service.sorry.as_mut().filter(|sorry| sorry.way != way) {
        let what = format!("mode {:?} of the sorry server", sorry.way.mode());
        sorry.notes.push(Note::new(what, "it is reached as the backends are"));
    }
}

pub(super) fn fit(service: &mut Service, vips: &HashSet<IpAddr>, port: &PortSettings) {
    let way = service.way.unwrap_or(Way::Dr);
    let l4_port = l4_port(service);
    let l4_ports: HashSet<u16> = service.listens.iter().map(|listen| listen.l4_port).collect();
    let is_ipv6 = service.listens.first().map(|listen| listen.vip.is_ipv6());
    let one_packet = service.one_packet;
    let mut seen = HashSet::new();
    let place = |backend: &mut Backend, seen: &mut HashSet<(IpAddr, Option<u16>)>| {
        if backend.left_out.is_some() {
            return;
        }
        if way != Way::Nat {
            port_of_service(backend, l4_port, &l4_ports);
        }
        let own = backend.l4_port.or(l4_port);
        let why = if !is_host(backend.address) {
            "not the address of a host: neither loopback, multicast, link-local nor reserved"
        } else if vips.contains(&backend.address) {
            "its address is a VIP: a backend has an address of its own, for this host one of the port's"
        } else if !matches!(way, Way::Tunnel(_))
            && is_ipv6.is_some_and(|is_ipv6| is_ipv6 != backend.address.is_ipv6())
        {
            "its family is not the VIP's, which only mode \"tunnel\" and mode \"fullnat\" can bridge"
        } else if is_own(backend.address, port) && own != l4_port {
            "it is this host, whose packets reach the kernel at the service's port"
        } else if !seen.insert((backend.address, own)) {
            "the service has it already: raise its weight instead"
        } else {
            return;
        };
        backend.left_out = Some(Note::new(format!("backend {}", backend.endpoint()), why));
    };
    for backend in &mut service.backends {
        place(backend, &mut seen);
        numbers(backend, one_packet);
    }
    if let Some(mut sorry) = service.sorry.take() {
        place(&mut sorry, &mut seen);
        service.notes.append(&mut sorry.notes);
        match sorry.left_out.take() {
            Some(Note { what, why }) => service.note(what.replace("backend", "sorry server"), why),
            None => service.sorry = Some(sorry),
        }
    }
}

/// The port of everything that is listened on, where there is one.
pub(super) fn l4_port(service: &Service) -> Option<u16> {
    let first = service.listens.first()?.l4_port;
    let is_one = first > 0 && service.listens.iter().all(|listen| listen.l4_port == first);
    is_one.then_some(first)
}

/// Where packets are left as they are a server's port is the service's, whatever it was added with.
fn port_of_service(backend: &mut Backend, l4_port: Option<u16>, l4_ports: &HashSet<u16>) {
    let Some(own) = backend.l4_port.filter(|own| Some(*own) != l4_port) else { return };
    if !l4_ports.contains(&own) && !l4_ports.is_empty() {
        let why = "the mode leaves a packet's port as it is, and IPVS does so too";
        backend.notes.push(Note::new(format!("port {own}"), why));
    }
    backend.l4_port = None;
}

fn is_own(address: IpAddr, port: &PortSettings) -> bool {
    let mut own = port.addresses.iter().filter_map(|text| text.parse::<IpNet>().ok());
    own.any(|net| net.addr() == address)
}

fn numbers(backend: &mut Backend, one_packet: bool) {
    if backend.weight > WEIGHT_MAX {
        let what = format!("weight {}", backend.weight);
        backend
            .notes
            .push(Note::new(what, format!("the most is {WEIGHT_MAX}: scale the weights of the service")));
        backend.weight = WEIGHT_MAX;
    }
    let (upper, lower) = (backend.max_connections, backend.resume_below);
    if upper > 0 && one_packet {
        backend.notes.push(Note::new(
            format!("upper threshold {upper}"),
            "with `one_packet` there are no connections to count",
        ));
        (backend.max_connections, backend.resume_below) = (0, 0);
    } else if lower > 0 && upper == 0 {
        backend.notes.push(Note::new(
            format!("lower threshold {lower}"),
            "without an upper one a backend is never full",
        ));
        backend.resume_below = 0;
    } else if lower > upper {
        backend.notes.push(Note::new(
            format!("lower threshold {lower}"),
            format!("it is above the upper one, {upper}"),
        ));
        backend.resume_below = 0;
    }
}
