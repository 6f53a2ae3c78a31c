//! What the rules say of a packet or a connection, and what counters must add up to: pure.

use super::*;

/// Whether a RST may have been dropped because its receiver would not take it.
pub(super) fn is_blind_reset(turn: &Turn, packet: &Packet) -> bool {
    let reason = DropReason::RstOutOfWindow;
    packet.flags() & RST != 0 && turn.after.dropped(reason) > turn.before.dropped(reason)
}

/// By what a service's client is remembered: the worker, the service, the client's network.
pub(super) fn remembered_as(worker: usize, service: &Service, key: &Key) -> (usize, Endpoint, u8, u32) {
    let prefix_len = service.persistence().map_or(32, |(_, prefix_len, _)| prefix_len);
    (worker, key.1, key.2, key.0.0.to_bits() >> (32 - u32::from(prefix_len)))
}

/// What the rules say becomes of the connection, given where it goes.
pub(super) fn fate_of(config: &Config, key: &Key, connection: &Connection) -> &'static str {
    let listens = |service: &&Service| (service.endpoint(), service.tcp) == (key.1, key.2 == 6);
    let Some(service) = config.services.iter().find(listens) else { return "finish" };
    let is_its_mode = service.fullnat == connection.place.local.is_some();
    if is_its_mode { service.fate_of(connection.place.backend) } else { service.fate() }
}

/// Whether no backend of the service takes newcomers, or it may say so.
pub(super) fn lacks_backend(service: &Service, config: &Config) -> bool {
    service.is_choosy()
        || any_lost(service, config)
        || service.backends.iter().all(|(id, _)| service.weight_of(*id).unwrap_or(0) == 0)
}

pub(super) fn any_lost(service: &Service, config: &Config) -> bool {
    let sorry = service.policy.has_sorry.then_some(SORRY);
    service.backends.iter().map(|(id, _)| *id).chain(sorry).any(|id| config.ways[id].is_lost)
}

/// Whether the packet is scheduled where no connection of it is known.
pub(super) fn makes_newcomer(service: &Service, packet: &Packet) -> bool {
    let is_scheduled = service.policy.no_flow == "schedule" && packet.flags() & RST == 0;
    packet.opens() || service.flows() != Flows::Kept || is_scheduled
}

/// Whether a segment of no known connection is dropped by the rules.
pub(super) fn is_refused_stray(service: &Service, packet: &Packet) -> bool {
    let is_reset = packet.flags() & RST != 0;
    let is_stray = service.flows() == Flows::Kept && !packet.opens();
    is_stray
        && match service.policy.no_flow {
            "kernel" => false,
            "drop" => true,
            _ => is_reset,
        }
}

/// Whether the packet begins a new connection in the place of this one, as far as can be told.
pub(super) fn renews(config: &Config, packet: &Packet, connection: &Connection) -> bool {
    let service = config.service(packet.destination, packet.protocol());
    let reuse = service.filter(|service| service.flows() == Flows::Kept).map(|service| service.policy.reuse);
    let is_over = match reuse {
        Some("never") => return false,
        Some("when-closed") => matches!(connection.state, TcpState::TimeWait | TcpState::Close),
        _ => connection.is_over(),
    };
    packet.opens() && packet.protocol() == 6 && (is_over || connection.is_uncertain)
}

pub(super) fn advance(
    service: Option<&Service>,
    connection: &mut Connection,
    packet: &Packet,
    way: Way,
    now: u64,
    turn: u64,
) {
    connection.seen = now;
    if let L4::Tcp { flags, .. } = packet.l4 {
        let was_over = connection.is_over();
        let after = states::after(connection.state, flags, way);
        if after != connection.state {
            connection.state = after;
            // A service that is no longer there leaves its connections IPVS's timeouts.
            connection.timeout_ms =
                service.map_or(states::timeout_ms(after), |service| service.timeout_ms(after));
        }
        if connection.is_over() && !was_over {
            connection.over_in = turn;
        }
    }
}

/// Where a client's packet went, and that nothing else of it changed.
pub(super) fn place_of(port: PortIndex, frame: &[u8], packet: &Packet) -> Place {
    let (to, from, out) = Packet::read(frame);
    assert_eq!((port, from), (BACK, PORT_MACS[1]), "a client's packet leaves to the backends");
    assert_eq!((out.l4, &out.payload, out.ttl), (packet.l4, &packet.payload, packet.ttl - 1));
    let MacAddress([2, 0, 0, 1, card, id]) = to else { panic!("{to} is nobody's MAC") };
    let backend = usize::from(id);
    assert_eq!(HopWay { card, is_lost: false }.mac(backend), to);
    if out.destination == packet.destination {
        assert_eq!(out.source, packet.source, "direct routing changes no address");
        return Place { backend, own: out.destination, local: None };
    }
    assert_eq!(out.destination.0, backend_address(backend), "the MAC and the address are one backend's");
    Place { backend, own: out.destination, local: Some(out.source) }
}

pub(super) fn key_of(entry: &dataplane::flow::Entry) -> Key {
    let key = entry.key();
    let source = (crate::director::v4(key.source()), key.ports.source());
    (source, (crate::director::v4(key.destination()), key.ports.destination()), key.protocol)
}

/// IPv4's total length.
pub(super) fn ip_len(packet: &Packet) -> u64 {
    let header_len = if packet.protocol() == 6 { 40 } else { 28 };
    header_len + packet.payload.len() as u64
}

/// Every packet is somewhere once, and every counter says so.
pub(super) fn check_balance(turn: &Turn, events: &Events) {
    let Turn { before, after, .. } = turn;
    let delta = |of: fn(&Tally) -> u64| of(after) - of(before);
    let drops: u64 = after.drops.iter().sum::<u64>() - before.drops.iter().sum::<u64>();
    let refused_by_port = after.dropped(DropReason::TxRefused) - before.dropped(DropReason::TxRefused);
    assert_eq!(delta(|t| t.received.0) + delta(|t| t.steered_in), turn.taken.len() as u64, "packets taken");
    let made = turn.made.len() as u64;
    let own_refused = delta(|t| t.own_resets).checked_sub(made).expect("fewer made than left");
    assert_eq!(drops, events.dropped + own_refused, "drops: counted, missing");
    let refused_by_port = refused_by_port - own_refused;
    assert_eq!(delta(|t| t.punted), events.punted, "punted");
    assert_eq!(delta(|t| t.steered), events.steered, "steered");
    let handed = delta(|t| t.forwarded) + delta(|t| t.answered);
    assert_eq!(handed, events.forwarded + events.answered + refused_by_port, "forwarded and answered");
    assert_eq!(delta(|t| t.sent.0), events.forwarded + events.answered + made, "sent");
    let passed = (delta(|t| t.inbound.0), delta(|t| t.outbound.0));
    let bytes = (delta(|t| t.inbound.1), delta(|t| t.outbound.1));
    if refused_by_port == 0 {
        assert_eq!(delta(|t| t.answered), events.answered, "answered");
        assert_eq!((passed.0, bytes.0), events.inbound, "packets and bytes to backends");
        assert_eq!((passed.1, bytes.1), events.outbound, "packets and bytes from backends");
    } else {
        let least = events.forwarded;
        assert!((least..=least + refused_by_port).contains(&(passed.0 + passed.1)), "packets of backends");
    }
}

/// A newcomer is refused only when nobody could take it.
pub(super) fn check_refusals(
    turn: &Turn,
    config: &Config,
    events: &Events,
    has_left: bool,
    director: &Director,
) {
    let Turn { before, after, .. } = turn;
    let delta = |reason| after.dropped(reason) - before.dropped(reason);
    let refused_by_port = delta(DropReason::TxRefused);
    let gave_way = after.evicted > before.evicted;
    let is_full = delta(DropReason::TableFull) > 0;
    let mut reasons = 0;
    for key in &events.refused {
        let service = config.service(key.1, key.2).expect("refused, where nobody listens");
        let may = lacks_backend(service, config);
        reasons += u64::from(may);
        assert!(
            may || gave_way || is_full || refused_by_port > 0,
            "{key:?} was refused for {:?}: {service:?}",
            reasons_of(turn)
        );
    }
    let counted = after.refused - before.refused;
    let seen = events.refused.len() as u64;
    // Where there were evictions, some were admitted and gave way to another of the same burst.
    let least = if after.evicted > before.evicted { 0 } else { seen.saturating_sub(refused_by_port) };
    assert!(
        (least..=seen + refused_by_port + events.perhaps_refused).contains(&counted),
        "{counted} refused, {seen} seen"
    );
    for reason in [
        DropReason::NoBackend,
        DropReason::BackendFull,
        DropReason::ConnectionLimit,
        DropReason::HalfOpenLimit,
        DropReason::RateLimit,
        DropReason::ReplyLimit,
        DropReason::NextHopUnresolved,
    ] {
        let is_known = reason == DropReason::NextHopUnresolved && config.ways.iter().any(|way| way.is_lost);
        assert!(delta(reason) <= reasons + events.perhaps_refused || is_known, "{}", reason.name());
    }
    let (used, capacity) = director.table_fill(turn.worker);
    // By the same reason goes what was looked up before its connection went in the same burst.
    // In the smallest tables a pair of entries, or a place in its buckets, is soon not to be had.
    let is_explained = has_left || capacity < 64 || used * 10 >= capacity * 6;
    assert!(!is_full || is_explained, "full at {used} of {capacity}");
    for reason in [
        DropReason::NoLocalPort,
        DropReason::ClientStationsFull,
        DropReason::SteerFull,
        DropReason::Unanswerable,
        DropReason::NoHeadroom,
        DropReason::TcpFlags,
    ] {
        assert_eq!(delta(reason), 0, "{}", reason.name());
    }
}

/// Why packets were dropped in a turn.
pub(super) fn reasons_of(turn: &Turn) -> Vec<&'static str> {
    let grew = |reason: &&DropReason| turn.after.dropped(**reason) > turn.before.dropped(**reason);
    DropReason::ALL.iter().filter(grew).map(|reason| reason.name()).collect()
}

pub(super) fn brief(fate: &Fate) -> String {
    match fate {
        Fate::Sent(port, frame) => format!("sent by {} as {}", port.0, told(&Packet::read(frame).2)),
        Fate::Punted(port, _) => format!("punted to twin {}", port.0),
        Fate::Steered(owner) => format!("steered to {owner}"),
        Fate::Dropped => String::from("dropped"),
    }
}

/// A packet in a few words.
pub(super) fn told(packet: &Packet) -> String {
    let (source, destination) = (packet.source, packet.destination);
    let what = match packet.l4 {
        L4::Tcp { seq, ack, flags } => {
            let names = [(2, "SYN "), (1, "FIN "), (4, "RST "), (16, "ACK ")];
            let set: String =
                names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
            format!("{set}seq {seq} ack {ack}")
        }
        L4::Udp => String::from("UDP"),
        L4::Unreachable => String::from("unreachable"),
    };
    let len = packet.payload.len();
    format!("{}:{} > {}:{} {what} {len} bytes", source.0, source.1, destination.0, destination.1)
}
