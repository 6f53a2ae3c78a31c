//! What newcomers may cost one turn: those beyond it wait in their queues, and nothing is lost.

use std::net::Ipv4Addr;

use dataplane::memory::MemoryPacket;
use dataplane::rules::Mode;

use crate::common::frames::{ACK, Endpoint, SYN};
use crate::common::rules::{BACK, FRONT, ServiceSpec, TCP, VIP};
use crate::common::{Director, Frame, ruleset};

const BURST: usize = 32;

fn client(number: usize) -> Endpoint {
    (Ipv4Addr::new(198, 51, 100, (number / 1_000) as u8), 2_000 + (number % 1_000) as u16)
}

fn syn(number: usize) -> Frame {
    Frame::tcp(client(number), (VIP, 80), SYN)
}

fn director(worker_count: u16) -> Director {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1, 1] };
    Director::new(ruleset(worker_count, &[spec]))
}

#[test]
fn a_turn_takes_one_burst_of_newcomers_from_the_ring_and_leaves_the_rest_for_the_next() {
    let mut director = director(4);
    for number in 0..3 * BURST {
        let steered = MemoryPacket::new(syn(number).bytes(), FRONT);
        director.worker.device_mut().steered_in.push_back(steered);
    }
    for turn in 1..=3 {
        assert!(director.worker.turn());
        assert_eq!(director.counters.forwarded.value() as usize, turn * BURST, "turn {turn}");
    }
    assert!(!director.worker.turn());
    director.assert_balanced();
    director.assert_table_adds_up();
}

#[test]
fn packets_of_known_connections_are_taken_from_every_source_in_one_turn() {
    let mut director = director(4);
    let steer = |director: &mut Director, flags| {
        for number in 0..3 * BURST {
            let frame = Frame::tcp(client(number), (VIP, 80), flags);
            director.worker.device_mut().steered_in.push_back(MemoryPacket::new(frame.bytes(), FRONT));
        }
    };
    steer(&mut director, SYN);
    director.turn();
    steer(&mut director, ACK);
    director.worker.turn();
    assert_eq!(director.counters.forwarded.value() as usize, 6 * BURST);
}

/// However many newcomers come by one port, the other and the ring have their turns.
#[test]
fn no_source_waits_for_ever_behind_newcomers_of_another() {
    let mut director = director(2);
    let mut number = 0;
    for _ in 0..30 {
        for port in [FRONT, BACK] {
            let mut more = director.worker.device_mut().ports[port.as_usize()].incoming.len();
            while more < BURST {
                let frame = Frame { to: crate::common::rules::PORT_MACS[port.as_usize()], ..syn(number) };
                director.receive(port, frame.bytes());
                (more, number) = (more + 1, number + 1);
            }
        }
        let device = director.worker.device_mut();
        while device.steered_in.len() < BURST {
            device.steered_in.push_back(MemoryPacket::new(syn(number).bytes(), FRONT));
            number += 1;
        }
        director.worker.turn();
    }
    let received = |port| director.counters.port(port).rx.packets.value();
    let shares = [received(FRONT), received(BACK), director.counters.steered_in.value()];
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    // Of what comes by ports half is another worker's, and costs nothing here.
    assert!(*least >= 10 * BURST as u64 && *most <= 2 * least, "{shares:?}");
}
