//! Connections are forgotten when IPVS would forget them, and not before. The hand takes four seconds round.

use std::net::Ipv4Addr;

use dataplane::flow::expiry::SWEEP_PERIOD_MS;

use crate::common::frames::{ACK, Decoded, Endpoint, FIN, RST, SYN};
use crate::common::rules::{BACK, ONE_OF_EACH, PORT_MACS, VIP};
use crate::common::{Director, Frame, ruleset};

const CLIENT: Endpoint = (Ipv4Addr::new(198, 51, 100, 7), 40_000);

/// Fails unless the connections are all there just before `timeout_ms` and all gone a sweep after it.
fn assert_outlives(director: &mut Director, timeout_ms: u32) {
    let held = director.table_used();
    assert!(held > 0);
    director.wait(timeout_ms);
    assert_eq!(director.table_used(), held, "forgotten before {timeout_ms} ms");
    director.wait(SWEEP_PERIOD_MS + 1);
    assert_eq!(director.table_used(), 0, "held beyond {timeout_ms} ms");
    director.assert_table_adds_up();
    assert_eq!(director.counters.expired.value(), 1);
}

fn client_sends(director: &mut Director, l4_port: u16, flags: u8) -> Vec<u8> {
    director.send(Frame::tcp(CLIENT, (VIP, l4_port), flags).bytes()).unwrap()
}

#[test]
fn half_open_connections_are_kept_a_minute() {
    for l4_port in [80, 8080] {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        client_sends(&mut director, l4_port, SYN);
        assert_outlives(&mut director, 60_000);
    }
}

#[test]
fn established_connections_are_kept_a_quarter_of_an_hour_after_their_last_packet() {
    for l4_port in [80, 8080] {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        client_sends(&mut director, l4_port, SYN);
        client_sends(&mut director, l4_port, ACK);
        director.wait(800_000);
        client_sends(&mut director, l4_port, ACK);
        assert_outlives(&mut director, 900_000);
    }
}

#[test]
fn answers_alone_keep_a_connection() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    client_sends(&mut director, 8080, SYN);
    let there = Decoded::from(&client_sends(&mut director, 8080, ACK));
    let answer = Frame { to: PORT_MACS[1], ..Frame::tcp(there.destination, there.source, ACK) };
    for _ in 0..3 {
        director.wait(800_000);
        assert!(director.pass(BACK, answer.bytes()).is_some());
    }
    assert_outlives(&mut director, 900_000);
}

#[test]
fn closed_and_reset_connections_go_as_in_ipvs() {
    // A client's FIN: CLOSE_WAIT for a minute with FullNAT, FIN_WAIT for two where the director sees one way only.
    for (l4_port, timeout_ms) in [(8080, 60_000), (80, 120_000)] {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        for flags in [SYN, ACK, FIN | ACK] {
            client_sends(&mut director, l4_port, flags);
        }
        assert_outlives(&mut director, timeout_ms);
    }
    for l4_port in [80, 8080] {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        for flags in [SYN, ACK, RST] {
            client_sends(&mut director, l4_port, flags);
        }
        assert_outlives(&mut director, 10_000);
    }
}

#[test]
fn udp_flows_are_kept_five_minutes() {
    for l4_port in [53, 5353] {
        let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
        assert!(director.send(Frame::udp(CLIENT, (VIP, l4_port)).bytes()).is_some());
        assert_outlives(&mut director, 300_000);
    }
}
