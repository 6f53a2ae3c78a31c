//! SCTP associations through the whole line; the checksum is computed here, bit by bit.

use std::net::Ipv4Addr;

use dataplane::flow::tcp_state::TcpState;
use dataplane::index::{BackendIndex, EntryIndex, ServiceIndex};
use dataplane::rules::{Limits, Mode, NoFlow, Ruleset};
use dataplane::verdict::DropReason;
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header};

use crate::common::rules::{BACK, FRONT, PORT_MACS, ServiceSpec, VIP, with_service};
use crate::common::{Director, ruleset};

const SCTP: u8 = 132;
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 7), 40_000);
const SERVICE: (Ipv4Addr, u16) = (VIP, 3_868);

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

fn rules(mode: Mode) -> Ruleset {
    let spec = ServiceSpec { protocol: SCTP, l4_port: 3_868, mode, scheduler: "rr", weights: &[1, 1] };
    ruleset(1, &[spec])
}

/// CRC32c, a bit at a time (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register: u32, _| {
            register >> 1 ^ (0x82f6_3b78 & (register & 1).wrapping_neg())
        })
    })
}

fn packet(ports: (u16, u16), chunk: u8, len: usize) -> Vec<u8> {
    let mut packet = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), [1, 2], [3, 4], [0, 0], [0, 0]].concat();
    packet.extend([chunk, 3, 0, 0]);
    packet[14..16].copy_from_slice(&((len - 12) as u16).to_be_bytes());
    packet.extend((16..len).map(|at| (at * 31) as u8));
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn frame(port: usize, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), chunk: u8) -> Vec<u8> {
    of_packet(
        port,
        (source.0, destination.0),
        &packet((source.1, destination.1), chunk, 16 + usize::from(chunk) * 20),
    )
}

fn of_packet(port: usize, addresses: (Ipv4Addr, Ipv4Addr), packet: &[u8]) -> Vec<u8> {
    let (source, destination) = (addresses.0.octets(), addresses.1.octets());
    let mut ip = Ipv4Header::new(packet.len() as u16, 64, IpNumber::SCTP, source, destination).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    let link = Ethernet2Header {
        source: [2, 0, 0, 0, 0, 9],
        destination: PORT_MACS[port].0,
        ether_type: EtherType::IPV4,
    };
    [&link.to_bytes()[..], &ip.to_bytes(), packet].concat()
}

/// What an IPv4 frame says: its endpoints, and whether both checksums are right.
fn read(frame: &[u8]) -> ((Ipv4Addr, u16), (Ipv4Addr, u16), bool) {
    let (ip, rest) = Ipv4Header::from_slice(&frame[14..]).unwrap();
    let mut packet = rest[..usize::from(ip.total_len) - 20].to_vec();
    let sum = packet[8..12].to_vec();
    packet[8..12].fill(0);
    let right = crc32c(&packet).to_le_bytes() == sum[..] && ip.calc_header_checksum() == ip.header_checksum;
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ((ip.source.into(), port(0)), (ip.destination.into(), port(2)), right)
}

fn states(director: &Director) -> Vec<TcpState> {
    let table = &director.worker.line().state.table;
    let entries = (0..table.entry_count()).filter_map(|index| table.entry(EntryIndex(index)));
    entries.filter(|entry| entry.is_used()).map(|entry| entry.state).collect()
}

#[test]
fn an_association_opens_and_closes_through_fullnat() {
    use TcpState::*;
    let mut director = Director::new(rules(Mode::Fullnat));
    let (_, sent) = director.pass(FRONT, frame(0, CLIENT, SERVICE, INIT)).unwrap();
    let (local, backend, right) = read(&sent);
    assert!(right, "{sent:02x?}");
    assert_eq!((backend.1, states(&director)), (9_000, vec![SctpInit, SctpInit]));
    let steps = [
        (false, INIT_ACK, SctpCookieReplied),
        (true, COOKIE_ECHO, SctpCookieEchoed),
        (false, COOKIE_ACK, SctpEstablished),
        (true, DATA, SctpEstablished),
        (false, DATA, SctpEstablished),
        (false, SHUTDOWN, SctpShutdownSent),
        (true, SHUTDOWN_ACK, SctpShutdownAckSent),
        (false, SHUTDOWN_COMPLETE, SctpClosed),
    ];
    for (is_clients, chunk, state) in steps {
        let (from, to, expected) = if is_clients {
            (frame(0, CLIENT, SERVICE, chunk), BACK, (local, backend, true))
        } else {
            (frame(1, backend, local, chunk), FRONT, (SERVICE, CLIENT, true))
        };
        let (port, sent) = director.pass(if is_clients { FRONT } else { BACK }, from).unwrap();
        assert_eq!((port, read(&sent)), (to, expected), "chunk {chunk}");
        assert_eq!(states(&director), [state; 2], "chunk {chunk}");
        let half_open = director.counters.service(ServiceIndex(0)).half_open.value();
        assert_eq!(half_open, u64::from(matches!(state, SctpCookieReplied | SctpCookieEchoed)));
    }
    // The same ports again: another association, and another backend.
    let (_, sent) = director.pass(FRONT, frame(0, CLIENT, SERVICE, INIT)).unwrap();
    assert_ne!(read(&sent).1, backend);
    assert_eq!(states(&director), [SctpInit; 2]);
    director.assert_balanced();
    director.assert_table_adds_up();
}

#[test]
fn direct_return_leaves_the_packet_as_it_is() {
    let mut director = Director::new(rules(Mode::Dr));
    for (chunk, state) in [
        (INIT, TcpState::SctpInit),
        (COOKIE_ECHO, TcpState::SctpEstablished),
        (DATA, TcpState::SctpEstablished),
        (SHUTDOWN, TcpState::SctpShutdownSent),
        (SHUTDOWN_COMPLETE, TcpState::SctpClosed),
    ] {
        let came = frame(0, CLIENT, SERVICE, chunk);
        let sent = director.send(came.clone()).unwrap();
        assert_eq!((sent[5], &sent[26..]), (0, &came[26..]), "but for MACs, TTL and its checksum");
        assert_eq!(states(&director), [state]);
    }
    director.wait(61_000 + 5_000);
    assert!(states(&director).is_empty());
    director.assert_table_adds_up();
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut director = Director::new(rules(Mode::Fullnat));
    let mut wrong = frame(0, CLIENT, SERVICE, INIT);
    wrong[14 + 20 + 9] ^= 0x10;
    assert!(!read(&director.send(wrong).unwrap()).2);
    let mut damaged = frame(0, CLIENT, SERVICE, COOKIE_ECHO);
    *damaged.last_mut().unwrap() ^= 1;
    assert!(!read(&director.send(damaged).unwrap()).2);
}

#[test]
fn what_opens_nothing_is_as_a_stray_segment() {
    for (no_flow, forwarded, drops) in [
        (NoFlow::Kernel, false, 0),
        (NoFlow::Drop, false, 1),
        (NoFlow::Reset, false, 1),
        (NoFlow::Schedule, true, 0),
    ] {
        let rules = with_service(rules(Mode::Dr), 0, |service| service.policy.no_flow = no_flow);
        let mut director = Director::new(rules);
        assert_eq!(director.send(frame(0, CLIENT, SERVICE, DATA)).is_some(), forwarded, "{no_flow:?}");
        assert_eq!(director.counters.dropped(DropReason::NoFlow).value(), drops, "{no_flow:?}");
        if forwarded {
            assert_eq!(states(&director), [TcpState::SctpEstablished]);
        }
        director.assert_balanced();
    }
}

#[test]
fn an_abort_ends_it_and_limits_hold() {
    let limits = Limits { half_open: Some(1), ..Limits::default() };
    let rules = with_service(rules(Mode::Dr), 0, |service| service.policy.limits = limits);
    let mut director = Director::new(rules);
    assert!(director.send(frame(0, CLIENT, SERVICE, INIT)).is_some());
    let other = (CLIENT.0, 40_001);
    assert!(director.send(frame(0, other, SERVICE, INIT)).is_none());
    assert_eq!(director.counters.dropped(DropReason::HalfOpenLimit).value(), 1);
    assert!(director.send(frame(0, CLIENT, SERVICE, ABORT)).is_some());
    assert!(director.send(frame(0, other, SERVICE, INIT)).is_some());
    assert_eq!(director.counters.backend(BackendIndex(0)).active.value(), 0);
}

#[test]
fn lying_headers_have_a_reason() {
    let mut director = Director::new(rules(Mode::Dr));
    let short = packet((CLIENT.1, SERVICE.1), INIT, 16);
    director.send(of_packet(0, (CLIENT.0, VIP), &short[..15]));
    for len in [0u16, 3, 5] {
        let mut lying = short.clone();
        lying[14..16].copy_from_slice(&len.to_be_bytes());
        director.send(of_packet(0, (CLIENT.0, VIP), &lying));
    }
    assert_eq!(director.drops(), [(DropReason::SctpHeader, 4)]);
}
