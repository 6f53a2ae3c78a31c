//! `virtual_server`: what it listens on, its settings, and which check all of its backends get.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Context;
use super::checker::Found;
use super::server;
use super::settings::{Settings, Taken, way};
use super::tree::Statement;
use crate::import::draft::{Backend, Health, Listen, Note, Persistence, Service, Way};
use crate::import::{NO_ENGINE, Problem, mark_note, timeouts_of};
use crate::rules::Protocol;

/// keepalived's `persistence_timeout` without a number.
const PERSISTENCE_DEFAULT_S: u32 = 360;
/// Of one line of a group; a whole /24.
const VIPS_PER_LINE_MAX: usize = 256;

/// What is read of a virtual server besides what the draft has.
struct Read {
    protocol: Option<Protocol>,
    way: Way,
    granularity: Option<String>,
    settings: Settings,
    quorum: u32,
    sorry_way: Option<Way>,
}

pub(super) fn read(
    statement: &Statement,
    context: &Context<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Service> {
    if statement.block.is_none() {
        problems
            .push(context.problem(statement, "a virtual_server without its block: its line ends with `{`"));
        return None;
    }
    let mut service = Service { scheduler: "wlc".to_owned(), ..Service::default() };
    let mut read = Read {
        protocol: None,
        // keepalived's default.
        way: Way::Nat,
        granularity: None,
        settings: Settings::default(),
        quorum: 1,
        sorry_way: None,
    };
    for word in statement.block().iter().filter(|word| word.keyword() != "real_server") {
        match read.settings.take(word) {
            Taken::Yes => {}
            Taken::Note(why) => service.note(word.words.join(" "), why),
            Taken::Wrong(allowed) => problems.push(context.problem(word, wrong(word, allowed))),
            Taken::No => {
                if let Err(allowed) = read.take(word, &mut service, context) {
                    problems.push(context.problem(word, wrong(word, allowed)));
                }
            }
        }
    }
    let protocol = read.protocol.unwrap_or(Protocol::Udp);
    service.origin = match read.protocol {
        Some(_) => statement.text(),
        None => format!("{}; without `protocol`, which is UDP for keepalived", statement.text()),
    };
    if let Err(message) = listens(statement, protocol, context, &mut service) {
        problems.push(context.problem(statement, message));
        return None;
    }
    service.way = Some(read.way);
    granularity(&mut service, read.granularity.as_deref());
    service.timeouts = timeouts_of(protocol, context.timeouts);
    let instance = service.listens.iter().find_map(|listen| context.instances.get(&listen.vip));
    service.announced_by = instance.map(|name| format!("vrrp_instance {name} of keepalived"));
    if let Some(sorry) = &mut service.sorry {
        sorry.way = read.sorry_way.unwrap_or(read.way);
    }
    servers(statement, &read, protocol, context, &mut service, problems);
    // keepalived takes a failed server out, and then IPVS hashes its clients to others.
    service.fallback |= service.health.as_ref().is_some_and(|health| !health.inhibit);
    Some(service)
}

pub(super) fn wrong(word: &Statement, allowed: &str) -> String {
    format!("{:?} is not what {} takes; allowed: {allowed}", word.arguments().join(" "), word.keyword())
}

impl Read {
    /// # Errors
    /// What is allowed.
    fn take(
        &mut self,
        word: &Statement,
        service: &mut Service,
        context: &Context<'_>,
    ) -> Result<(), &'static str> {
        let number = |default: u32| match word.argument() {
            Some(text) => text.parse::<u32>().map_err(|_| "a number of 0 and more"),
            None => Ok(default),
        };
        match word.keyword() {
            "lb_algo" | "lvs_sched" => {
                service.scheduler = word.argument().ok_or("the name of a scheduler")?.to_owned();
            }
            "lb_kind" | "lvs_method" => self.way = way(word.arguments()).ok_or(METHODS)?,
            "sorry_server_lvs_method" => self.sorry_way = Some(way(word.arguments()).ok_or(METHODS)?),
            "protocol" => {
                self.protocol = Some(match word.argument() {
                    Some("TCP") => Protocol::Tcp,
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => return Err("TCP, UDP, SCTP"),
                });
            }
            "persistence_timeout" => {
                let timeout_s = number(PERSISTENCE_DEFAULT_S)?;
                service.persistence = (timeout_s > 0).then_some(Persistence { timeout_s, prefix_len: None });
            }
            "persistence_granularity" => {
                self.granularity = Some(word.argument().ok_or("a netmask, or a prefix of IPv6")?.to_owned());
            }
            "persistence_engine" => service.note(word.text(), NO_ENGINE),
            "sh-port" | "mh-port" | "flag-2" => service.hashes_l4_port = true,
            "sh-fallback" | "mh-fallback" | "flag-1" => service.fallback = true,
            "flag-3" => service.note(word.text(), "no scheduler reads it"),
            "ops" => service.one_packet = true,
            "quorum" => self.quorum = number(1)?,
            "sorry_server" => {
                let (address, l4_port) = server::endpoint(word.arguments(), Protocol::Tcp, context)?;
                service.sorry = Some(Backend::new(address, l4_port, self.way));
            }
            keyword => service.note(word.text(), no_counterpart(keyword)),
        }
        Ok(())
    }
}

const METHODS: &str = "NAT, DR, or TUN [type {ipip|gue port NUM|gre} [nocsum|csum|remcsum]]";

fn no_counterpart(keyword: &str) -> &'static str {
    match keyword {
        "quorum_up" | "quorum_down" => {
            "`notify` of [service.health] runs one program at every change; CROSSDOCK_EVENT=service and CROSSDOCK_STATE tell it this one"
        }
        "hysteresis" => {
            "a quorum is met or it is not; `damping` of [service.health] keeps backends that flap out"
        }
        "omega" => "nothing is run at the end: the kernel twin goes, and the VIP with it",
        "sorry_server_inhibit" => "the sorry server is not checked",
        "ha_suspend" => "checks go on while another director has the VIP",
        "ip_family" => "VIPs say their family themselves",
        _ => "keepalived.conf(5) does not know this word here",
    }
}

/// `IP [PORT]`, `fwmark N`, `group NAME`
fn listens(
    statement: &Statement,
    protocol: Protocol,
    context: &Context<'_>,
    service: &mut Service,
) -> Result<(), String> {
    let forms = "a virtual_server is `IP [PORT]`, `fwmark NUMBER` or `group NAME`";
    match statement.arguments() {
        [word, mark] if word == "fwmark" => {
            let mark: u32 = mark.parse().map_err(|_| forms)?;
            service.name = format!("mark-{mark}");
            service.left_out = Some(mark_note(&format!("fwmark {mark}"), mark));
        }
        [word, name] if word == "group" => {
            let group = context.groups.get(name.as_str());
            let group = group.ok_or_else(|| format!("there is no virtual_server_group {name}"))?;
            service.name.clone_from(name);
            group_listens(group, protocol, context, service)?;
            if service.listens.is_empty() {
                service.left_out = Some(
                    statement.note("its group names no address: put what clients connect to into `listen`"),
                );
            }
        }
        words => {
            let (vip, l4_port) = server::endpoint(words, protocol, context).map_err(|_| forms)?;
            service.listens.push(Listen { protocol, vip, l4_port: l4_port.unwrap_or(0) });
        }
    }
    Ok(())
}

fn group_listens(
    group: &Statement,
    protocol: Protocol,
    context: &Context<'_>,
    service: &mut Service,
) -> Result<(), String> {
    for line in group.block() {
        if line.keyword() == "fwmark" {
            let why = "there are no firewall marks here: add what the firewall gives it to `listen`";
            service.note(line.text(), why);
            continue;
        }
        let wrong =
            || format!("{}: a line of a group is IP[-LAST][/LENGTH] [PORT] or fwmark NUMBER", line.text());
        let l4_port = match line.arguments() {
            [] => 0,
            [l4_port] => server::l4_port(l4_port, protocol, context).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        for vip in range(line.keyword()).ok_or_else(wrong)? {
            service.listens.push(Listen { protocol, vip, l4_port });
        }
    }
    Ok(())
}

/// `192.0.2.1`, `192.0.2.1-10`, `192.0.2.1-192.0.2.10`, `192.0.2.0/29`, likewise of IPv6, where the last part is hexadecimal.
fn range(text: &str) -> Option<Vec<IpAddr>> {
    if let Ok(net) = text.parse::<IpNet>() {
        let (first, last) = (net.network(), net.broadcast());
        return between(first, last);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: IpAddr = first.parse().ok()?;
    let last = match (last.parse::<IpAddr>(), first) {
        (Ok(last), _) => last,
        (Err(_), IpAddr::V4(first)) => {
            let [a, b, c, _] = first.octets();
            IpAddr::from([a, b, c, last.parse().ok()?])
        }
        (Err(_), IpAddr::V6(first)) => {
            let [a, b, c, d, e, f, g, _] = first.segments();
            IpAddr::from([a, b, c, d, e, f, g, u16::from_str_radix(last, 16).ok()?])
        }
    };
    between(first, last)
}

/// Both ends included; nothing where they are no range, or one too long to be written out.
fn between(first: IpAddr, last: IpAddr) -> Option<Vec<IpAddr>> {
    let all: Vec<IpAddr> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let bits = (first.to_bits()..=last.to_bits()).take(VIPS_PER_LINE_MAX + 1);
            bits.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let bits = (first.to_bits()..=last.to_bits()).take(VIPS_PER_LINE_MAX + 1);
            bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).collect()
        }
        _ => return None,
    };
    (1..=VIPS_PER_LINE_MAX).contains(&all.len()).then_some(all)
}

fn granularity(service: &mut Service, written: Option<&str>) {
    let Some(written) = written else { return };
    let is_ipv6 = service.listens.first().is_some_and(|listen| listen.vip.is_ipv6());
    let prefix_len = match written.parse::<Ipv4Addr>() {
        Ok(netmask) if !is_ipv6 => {
            let ones = netmask.to_bits().leading_ones();
            let is_whole = ones > 0 && ones + netmask.to_bits().trailing_zeros() >= u32::BITS;
            is_whole.then_some(ones as u8)
        }
        _ => written.parse().ok().filter(|len| (1..=if is_ipv6 { 128 } else { 32 }).contains(len)),
    };
    match (service.persistence, prefix_len) {
        (Some(persistence), Some(_)) => service.persistence = Some(Persistence { prefix_len, ..persistence }),
        (Some(_), None) => service.note(
            format!("persistence_granularity {written}"),
            "a client is a prefix of an address: a netmask without gaps, of IPv6 a number",
        ),
        (None, _) => service.note(
            format!("persistence_granularity {written}"),
            "there is no persistence_timeout; `persistence = {}` switches persistence on",
        ),
    }
}

/// All real servers, and the check that most of them have.
fn servers(
    statement: &Statement,
    read: &Read,
    protocol: Protocol,
    context: &Context<'_>,
    service: &mut Service,
    problems: &mut Vec<Problem>,
) {
    let mut checks = Vec::new();
    for word in statement.block().iter().filter(|word| word.keyword() == "real_server") {
        if let Some((backend, check, inhibit)) =
            server::read(word, (&read.settings, read.way, protocol), context, service, problems)
        {
            service.backends.push(backend);
            checks.push((check, inhibit));
        }
    }
    let Some(common) = most_common(&checks) else {
        if read.quorum > 1 {
            service.note(format!("quorum {}", read.quorum), "nobody is checked, so nobody is missed");
        }
        return;
    };
    let inhibits = checks.iter().all(|(_, inhibit)| *inhibit);
    service.health = Some(Health { inhibit: inhibits, quorum: read.quorum.max(1), ..common.health.clone() });
    let word = common.health.check.word();
    for (backend, (check, inhibit)) in service.backends.iter_mut().zip(&checks) {
        match check {
            None => {
                let what = format!("real_server {} without a check of its own", backend.endpoint());
                backend.notes.push(Note::new(
                    what,
                    format!("a service checks all its backends alike, here by {word:?}"),
                ));
            }
            Some(check) if !check.is_like(common) => {
                let why = format!(
                    "a service has one check for all its backends, here {word:?}: give it a service of its own"
                );
                backend.notes.push(Note::new(check.what.clone(), why));
            }
            Some(_) => {}
        }
        if *inhibit && !inhibits {
            let why = "it is the service's: `inhibit = true` in [service.health] is for all its backends";
            backend.notes.push(Note::new(format!("inhibit_on_failure of {}", backend.endpoint()), why));
        }
    }
}

/// Of equals the one that stands first.
fn most_common(checks: &[(Option<Found>, bool)]) -> Option<&Found> {
    let mut counts: Vec<(&Found, usize)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for check in checks.iter().filter_map(|(check, _)| check.as_ref()) {
        let place = *places.entry(check.key()).or_insert_with(|| {
            counts.push((check, 0));
            counts.len() - 1
        });
        if let Some((_, count)) = counts.get_mut(place) {
            *count += 1;
        }
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(check, _)| check)
}
