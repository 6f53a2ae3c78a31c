//! RSTs as the rules treat them: those that Crossdock sends to both ends of a connection it forgets, and those it does
//! not believe. Also what a SYN does on a connection that is over.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::flow::expiry::SWEEP_PERIOD_MS;
use dataplane::flow::tcp_state::TcpState;
use dataplane::index::{BackendIndex, PortIndex};
use dataplane::rules::{Fate, OnTimeout, Policy, Reuse, Ruleset};
use dataplane::verdict::DropReason;
use dataplane::worker::Publication;

use crate::common::frames::{ACK, CLIENT_MAC, Decoded, Endpoint, FIN, RST, SYN};
use crate::common::rules::{
    BACK, FRONT, ONE_OF_EACH, PORT_MACS, VIP, backend_mac, with_backend, with_policy,
};
use crate::common::{Director, Frame, ruleset};

const CLIENT: Endpoint = (Ipv4Addr::new(198, 51, 100, 7), 40_000);
/// Initial sequence numbers; the server's wraps within its answer.
const CLIENT_ISS: u32 = 1_000;
const SERVER_ISS: u32 = u32::MAX - 50;

const DR: u16 = 80;
const FULLNAT: u16 = 8080;

fn resetting() -> Policy {
    Policy { on_timeout: OnTimeout::Reset, ..Policy::default() }
}

fn checking() -> Policy {
    Policy { checks_rst: true, ..Policy::default() }
}

fn director(policy: &Policy) -> Director {
    Director::new(with_policy(ruleset(1, &ONE_OF_EACH), policy))
}

/// A segment of the client; what leaves towards the backend.
fn client_sends(
    director: &mut Director,
    l4_port: u16,
    flags: u8,
    numbers: (u32, u32),
    len: usize,
) -> Option<Decoded> {
    let frame = Frame::tcp(CLIENT, (VIP, l4_port), flags).with_numbers(numbers.0, numbers.1);
    director.send(frame.with_payload(vec![1; len]).bytes()).map(|out| Decoded::from(&out))
}

/// A segment of the backend that answers `there`; what leaves towards the client.
fn server_sends(
    director: &mut Director,
    there: &Decoded,
    flags: u8,
    numbers: (u32, u32),
    len: usize,
) -> Option<Decoded> {
    let frame = Frame::tcp(there.destination, there.source, flags).with_numbers(numbers.0, numbers.1);
    let frame = Frame { to: PORT_MACS[1], from: there.to, ..frame };
    director.pass(BACK, frame.with_payload(vec![2; len]).bytes()).map(|(_, out)| Decoded::from(&out))
}

/// An open connection: the client has sent 10 bytes and got 100. What the backend got last.
fn open(director: &mut Director, l4_port: u16) -> Decoded {
    let there = client_sends(director, l4_port, SYN, (CLIENT_ISS, 0), 0).expect("forwarded");
    let is_seen = l4_port == FULLNAT;
    if is_seen {
        server_sends(director, &there, SYN | ACK, (SERVER_ISS, CLIENT_ISS + 1), 0).expect("answered");
    }
    client_sends(director, l4_port, ACK, (CLIENT_ISS + 1, SERVER_ISS + 1), 0);
    client_sends(director, l4_port, ACK, (CLIENT_ISS + 1, SERVER_ISS + 1), 10);
    if is_seen {
        server_sends(director, &there, ACK, (SERVER_ISS + 1, CLIENT_ISS + 11), 100);
    }
    client_sends(director, l4_port, ACK, (CLIENT_ISS + 11, (SERVER_ISS + 1).wrapping_add(100)), 0);
    there
}

/// What is sent until the connection has outlived `state`, each with its port.
fn told_after(director: &mut Director, state: TcpState) -> Vec<(PortIndex, Decoded)> {
    assert_eq!(director.sent(), []);
    director.wait(state.timeout_ms());
    assert_eq!(director.sent(), [], "not before its time");
    director.wait(SWEEP_PERIOD_MS + 1);
    assert_eq!(director.table_used(), 0);
    director.assert_table_adds_up();
    sent(director)
}

/// Everything sent, and checked.
fn sent(director: &mut Director) -> Vec<(PortIndex, Decoded)> {
    let sent: Vec<_> = director.sent();
    // The books need what was taken: they count what the ports count.
    director.assert_balanced();
    for (_, frame) in &sent {
        assert_eq!((frame.len(), &frame[54..]), (60, &[0; 6][..]), "a RST and padding");
    }
    let decoded: Vec<_> = sent.into_iter().map(|(port, frame)| (port, Decoded::from(&frame))).collect();
    for (_, rst) in &decoded {
        assert_eq!(rst.ip_checksum.0, rst.ip_checksum.1);
        assert_eq!(rst.l4_checksum.0, rst.l4_checksum.1);
        assert_eq!((rst.ttl, rst.payload.len()), (64, 0));
    }
    decoded
}

const CLIENT_END: u32 = CLIENT_ISS + 11;
const SERVER_END: u32 = (SERVER_ISS + 1).wrapping_add(100);

fn assert_client_told(port: PortIndex, rst: &Decoded, l4_port: u16) {
    assert_eq!((port, rst.to, rst.from), (FRONT, CLIENT_MAC, PORT_MACS[0]));
    assert_eq!((rst.source, rst.destination), ((VIP, l4_port), CLIENT));
    assert_eq!(rst.tcp, (RST | ACK, SERVER_END, CLIENT_END), "what it expects next");
}

#[test]
fn both_ends_of_a_rewritten_connection_are_told_when_it_expires() {
    let mut director = director(&resetting());
    let there = open(&mut director, FULLNAT);
    let told = told_after(&mut director, TcpState::Established);
    assert_eq!(told.len(), 2);
    assert_client_told(told[0].0, &told[0].1, FULLNAT);
    let (port, rst) = &told[1];
    assert_eq!((*port, rst.to, rst.from), (BACK, there.to, PORT_MACS[1]));
    assert_eq!((rst.source, rst.destination), (there.source, there.destination), "from the local address");
    assert_eq!(rst.tcp, (RST | ACK, CLIENT_END, SERVER_END), "what it expects next");
    assert_eq!((director.counters.own_resets.value(), director.counters.expired.value()), (2, 1));
}

#[test]
fn both_ends_of_a_one_way_connection_are_told_too() {
    let mut director = director(&resetting());
    open(&mut director, DR);
    let told = told_after(&mut director, TcpState::Established);
    assert_eq!(told.len(), 2);
    assert_client_told(told[0].0, &told[0].1, DR);
    let (port, rst) = &told[1];
    assert_eq!((*port, rst.to, rst.from), (BACK, backend_mac(0), PORT_MACS[1]));
    assert_eq!((rst.source, rst.destination), (CLIENT, (VIP, DR)), "as from the client");
    assert_eq!(rst.tcp, (RST | ACK, CLIENT_END, SERVER_END));
}

#[test]
fn of_a_half_open_connection_only_the_backend_is_told() {
    for l4_port in [DR, FULLNAT] {
        let mut director = director(&resetting());
        client_sends(&mut director, l4_port, SYN, (CLIENT_ISS, 0), 0);
        let told = told_after(&mut director, TcpState::SynRecv);
        assert_eq!(told.len(), 1, "a client that sent no more than a SYN may not exist");
        assert_eq!(
            (told[0].0, told[0].1.tcp),
            (BACK, (RST, CLIENT_ISS + 1, 0)),
            "what it expects, if it is there"
        );
    }
}

#[test]
fn a_backend_that_answered_a_syn_is_told_with_its_own_number() {
    let mut director = director(&resetting());
    let there = client_sends(&mut director, FULLNAT, SYN, (CLIENT_ISS, 0), 0).unwrap();
    // The server's ACK is what makes the director take it for open, as IPVS does.
    server_sends(&mut director, &there, SYN | ACK, (SERVER_ISS, CLIENT_ISS + 1), 0);
    let told = told_after(&mut director, TcpState::SynRecv);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.tcp, (RST | ACK, CLIENT_ISS + 1, SERVER_ISS + 1));
}

#[test]
fn who_closed_or_asks_for_nothing_is_not_told() {
    for (policy, flags, state) in [
        (Policy::default(), ACK, TcpState::Established),
        (checking(), ACK, TcpState::Established),
        (resetting(), RST, TcpState::Close),
    ] {
        for l4_port in [DR, FULLNAT] {
            let mut director = director(&policy);
            open(&mut director, l4_port);
            client_sends(&mut director, l4_port, flags, (CLIENT_END, SERVER_END), 0);
            assert_eq!(told_after(&mut director, state).len(), 0, "{policy:?}");
        }
    }
}

#[test]
fn datagrams_expire_in_silence() {
    let mut director = director(&resetting());
    for l4_port in [53, 5353] {
        assert!(director.send(Frame::udp(CLIENT, (VIP, l4_port)).bytes()).is_some());
    }
    assert_eq!(told_after(&mut director, TcpState::Udp).len(), 0);
}

#[test]
fn the_ends_of_many_connections_are_told_so_many_times_a_second_and_the_rest_is_counted() {
    let mut director = Director::with(
        with_policy(ruleset(1, &ONE_OF_EACH), &resetting()),
        dataplane::index::WorkerIndex(0),
        8_192,
    );
    for number in 0..4_000u16 {
        let frame = Frame::tcp((CLIENT.0, 2_000 + number), (VIP, DR), SYN);
        assert!(director.send(frame.bytes()).is_some());
    }
    director.clock.advance(TcpState::SynRecv.timeout_ms() + 1);
    (0..200).for_each(|_| _ = director.worker.turn());
    let (told, withheld) = (&director.counters.own_resets, &director.counters.own_resets_withheld);
    assert_eq!((told.value(), withheld.value()), (500, 3_500), "what one millisecond allows at once");
    assert_eq!(director.sent().len(), 500);
    director.assert_balanced();
}

#[test]
fn an_empty_reserve_is_counted() {
    let mut director = director(&resetting());
    open(&mut director, FULLNAT);
    director.worker.device_mut().reserve_room = Some(1);
    assert_eq!(told_after(&mut director, TcpState::Established).len(), 1);
    assert_eq!(director.counters.own_resets_withheld.value(), 1);
}

#[test]
fn connections_of_a_backend_that_is_taken_away_are_reset_when_the_rules_say_so() {
    let policy = Policy { on_remove: Fate::Reset, ..Policy::default() };
    for l4_port in [DR, FULLNAT] {
        let rules = with_policy(ruleset(1, &ONE_OF_EACH), &policy);
        let mut director = Director::new(rules.clone());
        open(&mut director, l4_port);
        let fated = (0..rules.backends.len() as u32).fold(rules, |rules, number| {
            with_backend(rules, BackendIndex(number).as_usize(), |backend| backend.fate = Fate::Reset)
        });
        let rules = Ruleset { revision: 2, fates_set_at: 2, ..fated };
        let publication = Publication { ruleset: Arc::new(rules), states: vec![], templates: None };
        director.queue.publish(publication).unwrap();
        director.sent();
        director.wait(100);
        assert_eq!((director.table_used(), director.counters.purged.value()), (0, 1));
        let told = sent(&mut director);
        assert_eq!(told.len(), 2);
        assert_client_told(told[0].0, &told[0].1, l4_port);
        assert_eq!(told[1].1.tcp, (RST | ACK, CLIENT_END, SERVER_END));
    }
}

#[test]
fn a_reset_that_its_receiver_would_not_take_is_dropped_and_the_connection_stays() {
    let mut director = director(&checking());
    let there = open(&mut director, FULLNAT);
    for sequence in [0, CLIENT_ISS, CLIENT_END + (1 << 31)] {
        assert!(client_sends(&mut director, FULLNAT, RST, (sequence, 0), 0).is_none(), "{sequence}");
    }
    for sequence in [0, SERVER_END - 1] {
        assert!(
            server_sends(&mut director, &there, RST | ACK, (sequence, CLIENT_END), 0).is_none(),
            "{sequence}"
        );
    }
    assert_eq!(director.drops(), [(DropReason::RstOutOfWindow, 5)]);
    // What was sent before it may have been lost on its way to the director: the server asks whether it is meant.
    assert!(client_sends(&mut director, FULLNAT, RST, (CLIENT_END + 1, 0), 0).is_some(), "it passes");
    director.wait(100_000);
    assert_eq!(director.table_used(), 2, "open as before");
    assert!(client_sends(&mut director, FULLNAT, RST, (CLIENT_END, 0), 0).is_some(), "its own reset passes");
    director.wait(TcpState::Close.timeout_ms() + SWEEP_PERIOD_MS + 1);
    assert_eq!(director.table_used(), 0);
}

#[test]
fn a_server_s_own_reset_passes() {
    let mut director = director(&checking());
    let there = open(&mut director, FULLNAT);
    assert!(server_sends(&mut director, &there, RST | ACK, (SERVER_END, CLIENT_END), 0).is_some());
    let mut director = self::director(&checking());
    let there = client_sends(&mut director, FULLNAT, SYN, (CLIENT_ISS, 0), 0).unwrap();
    assert!(
        server_sends(&mut director, &there, RST | ACK, (0, CLIENT_ISS), 0).is_none(),
        "no answer to the SYN"
    );
    assert!(
        server_sends(&mut director, &there, RST | ACK, (0, CLIENT_ISS + 1), 0).is_some(),
        "connection refused"
    );
}

#[test]
fn where_answers_bypass_the_director_a_reset_must_lie_close_behind_what_the_client_sent() {
    let mut director = director(&checking());
    open(&mut director, DR);
    let far = CLIENT_END.wrapping_sub((1 << 20) + 1);
    for sequence in [far, CLIENT_END + (1 << 20) + 1] {
        assert!(client_sends(&mut director, DR, RST, (sequence, 0), 0).is_none());
    }
    assert_eq!(director.drops(), [(DropReason::RstOutOfWindow, 2)]);
    assert!(client_sends(&mut director, DR, RST, (CLIENT_END - 5, 0), 0).is_some());
}

#[test]
fn without_the_check_any_reset_passes() {
    for policy in [Policy::default(), resetting()] {
        let mut director = director(&policy);
        open(&mut director, FULLNAT);
        assert!(client_sends(&mut director, FULLNAT, RST, (7, 0), 0).is_some());
        director.wait(TcpState::Close.timeout_ms() + SWEEP_PERIOD_MS + 1);
        assert_eq!(director.table_used(), 0);
    }
}

#[test]
fn control_bits_that_make_no_sense_change_no_connection() {
    for l4_port in [DR, FULLNAT] {
        let mut director = director(&Policy::default());
        open(&mut director, l4_port);
        for flags in [SYN | FIN, SYN | RST, FIN] {
            assert!(client_sends(&mut director, l4_port, flags, (CLIENT_END, SERVER_END), 0).is_none());
        }
        assert_eq!(director.drops(), [(DropReason::TcpFlags, 3)]);
        director.wait(TcpState::Established.timeout_ms());
        assert!(director.table_used() > 0, "established all the while");
    }
}

/// The backends of a client's connection and of the next one from its port, when the first has been closed.
fn backends_of_reused_port(policy: &Policy) -> [Decoded; 2] {
    let mut director = director(policy);
    let there = open(&mut director, FULLNAT);
    client_sends(&mut director, FULLNAT, FIN | ACK, (CLIENT_END, SERVER_END), 0);
    server_sends(&mut director, &there, FIN | ACK, (SERVER_END, CLIENT_END + 1), 0);
    let again = client_sends(&mut director, FULLNAT, SYN, (90_000, 0), 0).expect("forwarded");
    director.assert_table_adds_up();
    [there, again]
}

#[test]
fn a_reused_port_makes_a_new_connection_or_returns_to_its_backend_as_the_rules_say() {
    // wrr with weights 3 and 1: the second connection goes to the same backend by a local port of its own.
    let [before, after] = backends_of_reused_port(&Policy::default());
    assert_ne!(before.source, after.source, "scheduled anew");
    let [before, after] = backends_of_reused_port(&Policy { reuse: Reuse::Never, ..Policy::default() });
    assert_eq!((before.source, before.destination), (after.source, after.destination));
}
