//! A full table: who gives way, and who never does.

use std::net::Ipv4Addr;

use dataplane::index::WorkerIndex;
use dataplane::rules::Mode;
use dataplane::verdict::DropReason;

use crate::common::frames::{ACK, Decoded, Endpoint, SYN};
use crate::common::rules::{ServiceSpec, TCP, VIP};
use crate::common::{Director, Frame, ruleset};

/// Entries for open connections of the tables here.
const CAPACITY: u32 = 4_096;

const MODES: [Mode; 2] = [Mode::Dr, Mode::Fullnat];

fn director(mode: Mode) -> Director {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode, scheduler: "rr", weights: &[1, 1, 1] };
    Director::with(ruleset(1, &[spec]), WorkerIndex(0), CAPACITY)
}

/// Connections that fill the table of a mode.
fn connections(mode: Mode) -> u32 {
    if mode == Mode::Dr { CAPACITY } else { CAPACITY / 2 }
}

fn honest(number: u32) -> Endpoint {
    (Ipv4Addr::from(0xc633_6401 + number / 60_000), 1_024 + (number % 60_000) as u16)
}

/// Source addresses and ports of a flood: no two alike, none of an honest client.
fn spoofed(number: u32) -> Endpoint {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    (Ipv4Addr::from(0x1000_0000 | mixed >> 4), 1 + (mixed as u16 & 0x7fff))
}

/// Sends a segment; where it leaves to, and from which endpoint.
fn send(director: &mut Director, client: Endpoint, flags: u8) -> Option<(Endpoint, [u8; 6])> {
    let out = director.send(Frame::tcp(client, (VIP, 80), flags).bytes())?;
    let out = Decoded::from(&out);
    Some((out.source, out.to.0))
}

/// Opens so many connections; the ways their packets take.
fn open(director: &mut Director, count: u32) -> Vec<(Endpoint, [u8; 6])> {
    (0..count)
        .map(|number| {
            send(director, honest(number), SYN).expect("there is room");
            send(director, honest(number), ACK).expect("it has its connection")
        })
        .collect()
}

#[test]
fn a_flood_of_syns_costs_no_open_connection_a_packet_whether_it_moves_or_not() {
    for mode in MODES {
        let mut director = director(mode);
        let count = connections(mode);
        let ways = open(&mut director, count);
        assert_eq!(director.table_used(), CAPACITY, "{mode:?}: full of open connections");
        for number in 0..60_000 {
            // None is refused: it takes the place of one before it.
            assert!(send(&mut director, spoofed(number), SYN).is_some(), "{:?}", director.drops());
            if number % 100 == 0 {
                director.wait(90);
            }
            if number % 10 == 0 {
                // Every other connection sends now and then, the rest is silent for the minute that this lasts.
                let mover = (number / 10 * 2) % count;
                assert_eq!(
                    send(&mut director, honest(mover), ACK),
                    Some(ways[mover as usize]),
                    "{mode:?} {mover}"
                );
            }
        }
        for number in 0..count {
            assert_eq!(
                send(&mut director, honest(number), ACK),
                Some(ways[number as usize]),
                "{mode:?} {number}"
            );
        }
        assert_eq!(director.drops(), [], "{mode:?}");
        let reserve = (director.worker.line().state.table.entry_count() - CAPACITY) / (CAPACITY / count);
        assert_eq!(
            director.counters.evicted.value(),
            60_000 - u64::from(reserve),
            "{mode:?}: counted, every one"
        );
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn honest_clients_get_in_during_a_flood_and_idle_connections_make_room_for_them() {
    for mode in MODES {
        let mut director = director(mode);
        let count = connections(mode);
        let ways = open(&mut director, count);
        // One half moves now, the other has been silent for ten seconds.
        director.wait(10_000);
        (0..count / 2).for_each(|number| _ = send(&mut director, honest(number), ACK));
        let mut opened = Vec::new();
        for number in 0..500 {
            let client = honest(100_000 + number);
            assert!(send(&mut director, client, SYN).is_some(), "{mode:?} {number}");
            // Ten SYNs of the flood before its answer comes.
            (0..10).for_each(|spoof| _ = send(&mut director, spoofed(number * 10 + spoof), SYN));
            let way = send(&mut director, client, ACK);
            opened.push((
                client,
                way.unwrap_or_else(|| panic!("{mode:?} {number}: evicted meanwhile; {:?}", director.drops())),
            ));
            director.wait(1);
        }
        for (client, way) in opened {
            assert_eq!(send(&mut director, client, ACK), Some(way), "{mode:?}");
        }
        for number in 0..count / 2 {
            assert_eq!(
                send(&mut director, honest(number), ACK),
                Some(ways[number as usize]),
                "{mode:?}: it moved"
            );
        }
        let kept = director.table_used() - director.worker.line().state.table.half_open();
        assert_eq!(kept, CAPACITY, "{mode:?}: one idle connection went for each that opened");
        assert_eq!(director.drops(), [], "{mode:?}");
        director.assert_table_adds_up();
    }
}

#[test]
fn a_table_of_connections_that_all_move_refuses_the_next_and_says_so() {
    for mode in MODES {
        let mut director = director(mode);
        let (count, step) = (connections(mode), if mode == Mode::Dr { 1 } else { 2 });
        let reserve = (director.worker.line().state.table.entry_count() - CAPACITY) / step;
        let ways = open(&mut director, count);
        // They open and move, until the reserve is used up as well.
        for number in 0..reserve {
            let client = honest(100_000 + number);
            assert!(send(&mut director, client, SYN).is_some());
            assert!(send(&mut director, client, ACK).is_some());
        }
        assert_eq!(director.drops(), []);
        assert_eq!(send(&mut director, honest(200_000), SYN), None);
        assert_eq!(director.drops(), [(DropReason::TableFull, 1)]);
        for (number, way) in ways.iter().enumerate() {
            assert_eq!(send(&mut director, honest(number as u32), ACK), Some(*way), "{mode:?} {number}");
        }
        assert_eq!(director.counters.evicted.value(), 0);
        // A second's silence, and the first have their room back.
        director.wait(1_100);
        assert!(send(&mut director, honest(200_000), SYN).is_some(), "{mode:?}: {:?}", director.drops());
        assert!(director.table_used() <= CAPACITY + 2);
    }
}
