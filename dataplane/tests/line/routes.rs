//! Packets that say where they go: QUIC connection IDs, the TCP option, IDs in datagrams, and clients' prefixes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::prefix::Prefix;
use dataplane::rules::route::{Configuration, DatagramIds, PrefixRoutes, PrefixTable, QuicLb, Routes};
use dataplane::rules::{Admits, Fate, Flows, Mode, Ruleset};

use crate::common::frames::{ACK, Decoded, SYN};
use crate::common::rules::{ServiceSpec, TCP, UDP, VIP, with_backend, with_service};
use crate::common::{Director, Frame, ruleset};

/// Three backends, whose server IDs are 0xa0, 0xa1 and 0xa2.
const FIRST_ID: u8 = 0xa0;

fn rules(protocol: u8, mode: Mode, routes: Routes) -> Ruleset {
    let spec = ServiceSpec { protocol, l4_port: 443, mode, scheduler: "rr", weights: &[1, 1, 1] };
    let server_ids = (0..3).map(|number| (u128::from(FIRST_ID) + u128::from(number), BackendIndex(number)));
    let routes = Routes { server_ids: server_ids.collect(), ..routes };
    let has_server_ids = routes.has_server_ids();
    let rules = with_service(ruleset(1, &[spec]), 0, |service| service.routes = Some(Box::new(routes)));
    Ruleset { has_server_ids, ..rules }
}

/// Server IDs in the clear: one byte, and a nonce of seven.
fn quic(mode: Mode) -> Ruleset {
    let mut quic_lb = QuicLb::default();
    assert!(quic_lb.set(0, Configuration::new(1, 7, None, false).unwrap()));
    rules(UDP, mode, Routes { datagrams: Some(DatagramIds::QuicLb(Box::new(quic_lb))), ..Routes::default() })
}

/// A connection ID of the backend `number`.
fn connection_id(number: u8) -> [u8; 9] {
    [0x1f, FIRST_ID + number, 1, 2, 3, 4, 5, 6, 7]
}

/// The payload of a packet with a short header.
fn short(id: &[u8]) -> Vec<u8> {
    [&[0x40][..], id, b"protected"].concat()
}

/// The payload of a packet with a long header of version 1.
fn long(packet_type: u8, id: &[u8]) -> Vec<u8> {
    [&[0xc0 | packet_type << 4, 0, 0, 0, 1, id.len() as u8][..], id, &[0, 0, 0]].concat()
}

const INITIAL: u8 = 0;
const HANDSHAKE: u8 = 2;

fn client(number: u8) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(198, 51, 100, number), 50_000)
}

/// Which backend gets a datagram of `client`.
fn send(director: &mut Director, client: (Ipv4Addr, u16), payload: Vec<u8>) -> u8 {
    let frame = Frame::udp(client, (VIP, 443)).with_payload(payload).bytes();
    Decoded::from(&director.send(frame).unwrap()).to.0[5]
}

/// `by_server_id`, `strangers`, `moved` and `by_prefix`.
fn counted(director: &Director) -> [u64; 4] {
    let service = director.counters.service(ServiceIndex(0));
    [&service.by_server_id, &service.strangers, &service.moved, &service.by_prefix].map(|count| count.value())
}

#[test]
fn a_quic_client_keeps_its_backend_over_changes_of_its_address() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let mut director = Director::new(quic(mode));
        let made_up = [0x1f, FIRST_ID + 2, 9, 9, 9, 9, 9, 9];
        assert_eq!(send(&mut director, client(1), long(INITIAL, &made_up)), 0, "the scheduler's choice");
        assert_eq!(send(&mut director, client(2), long(INITIAL, &made_up)), 1);
        assert_eq!(send(&mut director, client(1), long(HANDSHAKE, &connection_id(0))), 0);
        assert_eq!(send(&mut director, client(1), short(&connection_id(0))), 0);
        for number in 3..40 {
            assert_eq!(send(&mut director, client(number), short(&connection_id(1))), 1, "another address");
            assert_eq!(send(&mut director, client(number), short(&connection_id(1))), 1);
        }
        assert_eq!(counted(&director), [37, 0, 0, 0]);
        assert!(director.drops().is_empty());
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn a_flow_that_became_another_clients_goes_to_that_ones_backend() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let mut director = Director::new(quic(mode));
        assert_eq!(send(&mut director, client(1), long(INITIAL, &[7; 8])), 0);
        assert_eq!(send(&mut director, client(1), short(&connection_id(2))), 2, "the NAT gave the port away");
        assert_eq!(send(&mut director, client(1), short(&connection_id(2))), 2);
        assert_eq!(send(&mut director, client(1), short(&[0x3f; 9])), 2, "no configuration: with the flow");
        assert_eq!(counted(&director), [1, 0, 1, 0]);
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

/// Server IDs of one byte and nonces of 15, encrypted as one block: the IDs of the three backends.
fn encrypted(mode: Mode) -> (Ruleset, [[u8; 17]; 3]) {
    let key = [7; 16];
    let mut quic_lb = QuicLb::default();
    assert!(quic_lb.set(0, Configuration::new(1, 15, Some(key), false).unwrap()));
    // Some bytes are an ID of each: one of 256 is.
    let mut ids = [None; 3];
    for number in 0..u16::MAX {
        let mut id = [0x0f; 17];
        id[1..3].copy_from_slice(&number.to_be_bytes());
        let server_id = quic_lb.server_id(&id, None).unwrap();
        let place = server_id.checked_sub(FIRST_ID.into()).and_then(|place| ids.get_mut(place as usize));
        place.map(|place| place.get_or_insert(id));
    }
    let datagrams = Some(DatagramIds::QuicLb(Box::new(quic_lb)));
    (rules(UDP, mode, Routes { datagrams, ..Routes::default() }), ids.map(Option::unwrap))
}

#[test]
fn an_encrypted_id_that_was_found_right_is_asked_again_when_it_or_the_rules_change() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let (rules, ids) = encrypted(mode);
        let down = with_backend(rules.clone(), 2, |backend| backend.admits = Admits::Nobody);
        let mut director = Director::new(down);
        assert_eq!(send(&mut director, client(1), short(&ids[2])), 0, "the one it names is down: scheduled");
        for _ in 0..3 {
            assert_eq!(send(&mut director, client(1), short(&ids[2])), 0);
        }
        assert_eq!(send(&mut director, client(1), short(&ids[1])), 1);
        assert_eq!(send(&mut director, client(1), short(&ids[2])), 1, "with the flow");
        director.publish(Ruleset { revision: 2, ..rules });
        assert_eq!(send(&mut director, client(1), short(&ids[2])), 2, "it is back");
        assert_eq!(send(&mut director, client(1), short(&ids[2])), 2);
        assert_eq!(counted(&director), [2, 1, 2, 0]);
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn in_one_burst_a_flow_that_moves_is_not_lost() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        let mut director = Director::new(quic(mode));
        send(&mut director, client(1), long(INITIAL, &[7; 8]));
        for number in [2, 0, 0, 1, 1] {
            let payload = short(&connection_id(number));
            let frame = Frame::udp(client(1), (VIP, 443)).with_payload(payload).bytes();
            director.receive(crate::common::rules::FRONT, frame);
        }
        director.turn();
        assert_eq!(director.sent().len(), 5);
        assert_eq!(send(&mut director, client(1), short(&connection_id(1))), 1);
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn an_id_of_nobody_who_lives_is_scheduled_and_counted() {
    for admits in [Admits::Nobody, Admits::Returning] {
        let mut director = Director::new(with_backend(quic(Mode::Dr), 2, |backend| backend.admits = admits));
        let stranger = [0x1f, 0x77, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(send(&mut director, client(1), short(&stranger)), 0, "rr");
        assert_eq!(counted(&director), [0, 1, 0, 0]);
        let (expected, strangers) = match admits {
            Admits::Nobody => (1, 2),
            _ => (2, 1),
        };
        assert_eq!(
            send(&mut director, client(2), short(&connection_id(2))),
            expected,
            "drained ones keep theirs"
        );
        assert_eq!(counted(&director)[1], strangers);
        let cut = [&[0x40][..], &connection_id(1)[..8]].concat();
        assert_eq!(send(&mut director, client(1), cut), 0, "too short: with the flow");
    }
}

#[test]
fn any_worker_finds_the_backend_of_an_id() {
    for worker in 0..4 {
        let rules = Ruleset { worker_count: 4, ..quic(Mode::Dr) };
        let mut director = Director::with(rules, dataplane::index::WorkerIndex(worker), 4_096);
        for number in 0..200u8 {
            let frame =
                Frame::udp(client(number), (VIP, 443)).with_payload(short(&connection_id(number % 3)));
            // Packets of others are steered away.
            if let Some(sent) = director.send(frame.bytes()) {
                assert_eq!(Decoded::from(&sent).to.0[5], number % 3);
            }
        }
        assert!((20..90).contains(&director.table_used()), "a quarter of 200: {}", director.table_used());
    }
}

#[test]
fn a_service_without_flows_goes_by_ids_alone() {
    let rules = with_service(quic(Mode::Dr), 0, |service| service.policy.flows = Flows::OnePacket);
    let mut director = Director::new(rules);
    for number in [2, 0, 1, 1, 0] {
        assert_eq!(send(&mut director, client(1), short(&connection_id(number))), number);
    }
    assert_eq!((director.table_used(), counted(&director)), (0, [5, 0, 0, 0]));
}

#[test]
fn a_segment_that_nobody_knows_goes_where_its_option_says() {
    let mut director =
        Director::new(rules(TCP, Mode::Dr, Routes { tcp_option: Some(0xb7), ..Routes::default() }));
    let segment = |flags, number: u8, id: u8| {
        let mut frame = Frame::tcp(client(number), (VIP, 443), flags).bytes();
        // Behind the header of 20 bytes: the option, and two of filling.
        frame.splice(54..54, [0xb7, 6, id, 0, 0, 0, 1, 1]);
        (frame[17], frame[46]) = (48, 7 << 4);
        let sum: u16 = 8;
        let checksum = u16::from_be_bytes([frame[24], frame[25]]);
        // One's complement: a total length greater by 8.
        let (less, borrowed) = checksum.overflowing_sub(sum);
        [frame[24], frame[25]] = (less - u16::from(borrowed)).to_be_bytes();
        frame
    };
    let to = |sent: Option<Vec<u8>>| sent.map(|sent| sent[5]);
    assert_eq!(to(director.send(segment(SYN, 1, FIRST_ID + 2))), Some(0), "a SYN is scheduled");
    assert_eq!(to(director.send(segment(ACK, 2, FIRST_ID + 2))), Some(2), "in the middle of a connection");
    assert_eq!(
        to(director.send(Frame::tcp(client(2), (VIP, 443), ACK).bytes())),
        Some(2),
        "its flow is known"
    );
    assert_eq!(director.send(segment(ACK, 3, 0x55)), None, "a stranger is as any stray: the kernel's");
    assert_eq!(director.send(segment(ACK, 4, 0)), None);
    assert_eq!(counted(&director), [1, 1, 0, 0]);
    director.assert_table_adds_up();
}

#[test]
fn datagrams_with_an_id_at_a_fixed_place_stay_with_its_backend() {
    let datagrams = Some(DatagramIds::At { offset: 1, len: 3 });
    let mut director = Director::new(rules(UDP, Mode::Fullnat, Routes { datagrams, ..Routes::default() }));
    let payload = |id: u8| vec![0x52, 0, 0, id, 0, 0, 0, 0];
    assert_eq!(send(&mut director, client(1), payload(0)), 0, "names nobody");
    assert_eq!(send(&mut director, client(1), payload(FIRST_ID + 2)), 2);
    assert_eq!(send(&mut director, client(2), payload(FIRST_ID + 2)), 2);
    assert_eq!(send(&mut director, client(2), payload(0)), 2, "with its flow");
    assert_eq!(send(&mut director, client(3), vec![0x52]), 1, "too short");
    assert_eq!(counted(&director), [2, 0, 1, 0]);
}

#[test]
fn a_udp_flow_leaves_a_backend_that_is_down_where_rules_say_so() {
    for (mode, fate) in
        [Mode::Dr, Mode::Fullnat].into_iter().flat_map(|mode| [(mode, Fate::Move), (mode, Fate::Finish)])
    {
        let rules = || rules(UDP, mode, Routes::default());
        let mut director = Director::new(rules());
        assert_eq!(send(&mut director, client(1), vec![1; 20]), 0, "rr");
        let down =
            with_backend(rules(), 0, |backend| (backend.admits, backend.fate) = (Admits::Nobody, fate));
        let down = with_service(down, 0, |service| service.members[0].weight = 0);
        director.publish(Ruleset { revision: 2, fates_set_at: u64::from(fate == Fate::Move) * 2, ..down });
        let moved = fate == Fate::Move;
        assert_eq!(send(&mut director, client(1), vec![1; 20]) != 0, moved, "{mode:?} {fate:?}");
        director.assert_table_adds_up();
    }
}

#[test]
fn clients_go_where_their_prefix_leads_while_that_takes_new_ones() {
    let prefix = |address: &str, len, target| (Prefix::new(address.parse::<IpAddr>().unwrap(), len), target);
    let table = PrefixTable::new([prefix("198.51.100.0", 24, 0), prefix("198.51.100.64", 26, 1)]);
    let prefixes =
        PrefixRoutes { table: Arc::new(table), targets: [BackendIndex(2), BackendIndex(1)].map(Some).into() };
    let rules = rules(TCP, Mode::Dr, Routes { prefixes: Some(prefixes), ..Routes::default() });
    let open = |director: &mut Director, client: (Ipv4Addr, u16)| {
        director.send(Frame::tcp(client, (VIP, 443), SYN).bytes()).map(|sent| sent[5])
    };
    let mut director = Director::new(rules.clone());
    for _ in 0..3 {
        assert_eq!(open(&mut director, client(1)), Some(2));
        assert_eq!(open(&mut director, client(65)), Some(1));
    }
    assert_eq!(open(&mut director, (Ipv4Addr::new(192, 0, 2, 1), 1)), Some(0), "scheduled");
    let stray = Frame::tcp(client(2), (VIP, 443), ACK).bytes();
    assert_eq!(director.send(stray), None, "a stray segment is no newcomer");
    assert_eq!(counted(&director), [0, 0, 0, 2]);
    for admits in [Admits::Returning, Admits::Nobody] {
        let mut director = Director::new(with_backend(rules.clone(), 2, |backend| backend.admits = admits));
        assert_eq!(open(&mut director, client(1)), Some(0), "takes no new ones: scheduled");
        assert_eq!(counted(&director)[3], 0);
    }
}

/// What the issue asks for, and what it takes: memory, and lookups right at every edge. (Times are `examples/routes`'.)
#[test]
fn a_million_prefixes_of_each_family_are_told_apart_in_bounded_memory() {
    const COUNT: u32 = 1 << 20;
    // Every 4,096 addresses a /24, and a /9 around each half of a /8: what the small ones leave over.
    let small = |number: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(number << 12)), 24);
    let large = |number: u32| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(number << 23)), 9);
    let target = |number: u32| (number % 1_000) as u16;
    let prefixes = (0..COUNT)
        .map(|number| (small(number), target(number)))
        .chain((0..512).map(|number| (large(number), 2_000 + number as u16)));
    let table = PrefixTable::new(prefixes);
    // At most two ranges a prefix, of six bytes each, and one in 64 of them sampled.
    assert!(table.size() < 13_500_000, "{} bytes", table.size());
    for number in (0..COUNT).step_by(97).chain([COUNT - 1]) {
        let at = |low: u32| table.find(IpAddr::V4(Ipv4Addr::from_bits(number << 12 | low)));
        assert_eq!([at(0), at(255)], [Some(target(number)); 2]);
        assert_eq!([at(256), at(4_095)], [Some(2_000 + (number >> 11) as u16); 2]);
    }
    let network = |number: u32| std::net::Ipv6Addr::from_bits(0x2000 << 112 | u128::from(number) << 80);
    let prefixes = (0..COUNT).map(|number| (Prefix::new(IpAddr::V6(network(number)), 48), target(number)));
    let table = PrefixTable::new(prefixes);
    // Of 18 bytes.
    assert!(table.size() < 40_000_000, "{} bytes", table.size());
    for number in (0..COUNT).step_by(97) {
        let last = std::net::Ipv6Addr::from_bits(network(number).to_bits() | ((1 << 80) - 1));
        for address in [network(number), last] {
            assert_eq!(table.find(IpAddr::V6(address)), Some(target(number)));
        }
    }
    assert_eq!(table.find(IpAddr::V6(network(COUNT))), None);
}
