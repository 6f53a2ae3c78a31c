//! Walks over the connections while packets pass: telling, deleting, and what a backend's fate asks for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use dataplane::flow::filter::{Endpoint as Wanted, Filter};
use dataplane::flow::tcp_state::TcpState;
use dataplane::flow::walk::{Order, Progress, Record, Task};
use dataplane::index::BackendIndex;
use dataplane::prefix::Prefix;
use dataplane::rules::{Backend, Fate, Mode, Ruleset};
use dataplane::worker::Publication;

use crate::common::frames::{ACK, Decoded, Endpoint, SYN};
use crate::common::rules::{ServiceSpec, TCP, VIP, backend_address};
use crate::common::{Director, Frame, ruleset};

const BOTH_MODES: [ServiceSpec; 2] = [
    ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1, 1] },
    ServiceSpec { protocol: TCP, l4_port: 8080, mode: Mode::Fullnat, scheduler: "rr", weights: &[1, 1] },
];

fn client(number: u16) -> Endpoint {
    (Ipv4Addr::new(198, 51, 100, (number % 200) as u8), 3_000 + number)
}

fn open(director: &mut Director, number: u16, l4_port: u16) -> Option<Vec<u8>> {
    director.send(Frame::tcp(client(number), (VIP, l4_port), SYN).bytes())?;
    director.send(Frame::tcp(client(number), (VIP, l4_port), ACK).bytes())
}

fn order(director: &Director, task: Task, filter: Filter) -> Arc<Progress> {
    let progress = Arc::<Progress>::default();
    let order = Order { task, filter, progress: Arc::clone(&progress) };
    director.worker.walk_queue().start(order).unwrap();
    progress
}

/// Every connection that the filter matches.
fn list(director: &mut Director, filter: Filter) -> Vec<Record> {
    let queue = Arc::new(ArrayQueue::new(4_096));
    let progress = order(director, Task::List(Arc::clone(&queue)), filter);
    director.turn();
    assert!(progress.has_ended());
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn a_listed_connection_says_who_talks_to_whom_by_what_way() {
    let mut director = Director::new(ruleset(1, &BOTH_MODES));
    let there = Decoded::from(&open(&mut director, 7, 8080).unwrap());
    open(&mut director, 8, 80).unwrap();
    director.clock.advance(250);
    let records = list(&mut director, Filter::default());
    let record = records.iter().find(|record| record.key.ports.destination() == 8080).unwrap();
    let endpoint = |(address, l4_port): (Ipv4Addr, u16)| (IpAddr::V4(address), l4_port);
    assert_eq!((record.key.source(), record.key.ports.source()), endpoint(client(7)));
    let new_key = record.new_key.unwrap();
    assert_eq!((new_key.source(), new_key.ports.source()), endpoint(there.source));
    let backend = record.backend.map(|backend| (backend.address, backend.l4_port));
    assert_eq!(backend, Some(endpoint(there.destination)));
    assert_eq!((record.state, record.idle_ms, record.timeout_ms), (TcpState::Established, 250, 900_000));
    assert_eq!(records.len(), 2);
    let client = Some(Wanted { addresses: Prefix::new(client(8).0, 32), l4_port: None });
    assert_eq!(list(&mut director, Filter { client, ..Filter::default() }).len(), 1);
}

#[test]
fn a_deleted_connection_is_unknown_and_its_next_syn_is_scheduled_anew() {
    for l4_port in [80, 8080] {
        let mut director = Director::new(ruleset(1, &BOTH_MODES));
        for number in 0..300 {
            open(&mut director, number, l4_port).unwrap();
        }
        let vip = Some(Wanted { addresses: Prefix::new(VIP, 32), l4_port: Some(l4_port) });
        let progress = order(&director, Task::Delete, Filter { vip, ..Filter::default() });
        // A packet of a connection that is not deleted yet passes as before.
        let last = Frame::tcp(client(299), (VIP, l4_port), ACK).bytes();
        director.receive(crate::common::rules::FRONT, last.clone());
        director.worker.turn();
        assert_eq!(director.sent().len(), 1);
        director.turn();
        assert_eq!((progress.matched(), director.counters.deleted.value()), (300, 300));
        assert_eq!(director.table_used(), 0);
        director.assert_table_adds_up();
        // In the middle of nothing: for the kernel, which resets it.
        assert_eq!(director.send(last), None);
        assert!(open(&mut director, 299, l4_port).is_some());
        let opened = |index| director.counters.backend(BackendIndex(index)).opened.value();
        assert_eq!((0..4).map(opened).sum::<u64>(), 301);
        director.assert_balanced();
    }
}

/// The rules with the fate of the first backend of each service set, and its weight 0.
fn leaving(fate: Fate, fates_set_at: u64) -> Ruleset {
    let left = [
        ServiceSpec { weights: &[0, 1], ..BOTH_MODES[0] },
        ServiceSpec { weights: &[0, 1], ..BOTH_MODES[1] },
    ];
    let rules = ruleset(1, &left);
    let with_fate = |(slot, backend): (usize, &Backend)| match slot % 2 {
        0 => Backend { fate, ..*backend },
        _ => *backend,
    };
    let backends = rules.backends.iter().enumerate().map(with_fate).collect();
    Ruleset { revision: 2, fates_set_at, backends, ..rules }
}

#[test]
fn a_backend_that_leaves_keeps_its_connections_or_not_as_its_fate_says() {
    for (fate, fates_set_at, goes) in
        [(Fate::Finish, 0, false), (Fate::Move, 2, true), (Fate::Reset, 2, true)]
    {
        let mut director = Director::new(ruleset(1, &BOTH_MODES));
        for number in 0..200 {
            open(&mut director, number, 80).unwrap();
            open(&mut director, number, 8080).unwrap();
        }
        let ruleset = Arc::new(leaving(fate, fates_set_at));
        director.queue.publish(Publication { ruleset, states: Vec::new(), templates: None }).unwrap();
        director.turn();
        let first_backends = [backend_address(0), backend_address(2)].map(IpAddr::V4);
        let records = list(&mut director, Filter::default());
        let of_first = records.iter().filter_map(|record| record.backend);
        let of_first = of_first.filter(|backend| first_backends.contains(&backend.address)).count();
        assert_eq!((of_first, records.len()), if goes { (0, 200) } else { (200, 400) }, "{fate:?}");
        assert_eq!(director.counters.purged.value(), if goes { 200 } else { 0 });
        director.assert_table_adds_up();
        // The clients of those who left open anew, at whoever is there.
        for number in 0..200 {
            assert!(open(&mut director, number, 8080).is_some());
        }
        let records = list(&mut director, Filter { protocol: Some(TCP), ..Filter::default() });
        assert_eq!(records.len(), if goes { 300 } else { 400 });
    }
}
