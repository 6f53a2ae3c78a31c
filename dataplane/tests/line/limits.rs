//! What a service or a backend does not take: connection limits, half-open limits, rates, thresholds; and who takes it
//! then.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::flow::tcp_state::TcpState;
use dataplane::index::BackendIndex;
use dataplane::rules::{Limits, Mode, NoBackend, Ruleset};
use dataplane::verdict::DropReason;

use super::spread;
use crate::common::frames::{ACK, Decoded, RST, SYN};
use crate::common::rules::{FRONT, ServiceSpec, TCP, VIP, with_backend, with_service};
use crate::common::{Director, Frame, ruleset};

const SECOND_MS: u32 = 1_000;

fn rules(limits: Limits) -> Ruleset {
    let spec =
        ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Fullnat, scheduler: "rr", weights: &[1, 1] };
    with_service(ruleset(1, &[spec]), 0, |service| service.policy.limits = limits)
}

/// Sends a segment of the client with this l4_port; which backend it went to.
fn send(director: &mut Director, client_port: u16, flags: u8) -> Option<u8> {
    let client = (Ipv4Addr::new(198, 51, 100, 7), client_port);
    director.send(Frame::tcp(client, (VIP, 80), flags).bytes()).map(|sent| Decoded::from(&sent).to.0[5])
}

#[test]
fn a_service_takes_as_many_connections_as_its_limit_and_one_more_for_each_that_ends() {
    let mut director = Director::new(rules(Limits { connections: Some(3), ..Limits::default() }));
    for client_port in 1..=3 {
        assert!(send(&mut director, client_port, SYN).is_some());
    }
    assert_eq!(send(&mut director, 4, SYN), None);
    assert_eq!(director.drops(), [(DropReason::ConnectionLimit, 1)]);
    assert!(send(&mut director, 1, ACK).is_some(), "what is open goes on");
    assert!(send(&mut director, 1, RST).is_some());
    director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS);
    assert!(send(&mut director, 5, SYN).is_some());
    assert_eq!(send(&mut director, 6, SYN), None);
}

#[test]
fn half_open_connections_have_a_limit_of_their_own() {
    let mut director = Director::new(rules(Limits { half_open: Some(2), ..Limits::default() }));
    for client_port in 1..=2 {
        assert!(send(&mut director, client_port, SYN).is_some());
    }
    assert_eq!(send(&mut director, 3, SYN), None);
    assert!(send(&mut director, 1, ACK).is_some(), "its handshake is complete");
    assert!(send(&mut director, 3, SYN).is_some());
    assert_eq!(send(&mut director, 4, SYN), None);
    assert_eq!(director.drops(), [(DropReason::HalfOpenLimit, 2)]);
    director.wait(TcpState::SynRecv.timeout_ms() + 5 * SECOND_MS);
    let service = director.counters.service(dataplane::index::ServiceIndex(0));
    assert_eq!((service.half_open.value(), service.opened.value() - service.closed.value()), (0, 1));
}

#[test]
fn new_connections_have_a_rate() {
    let mut director = Director::new(rules(Limits { rate: Some(100), ..Limits::default() }));
    let mut made = 0;
    for client_port in 1..5_000 {
        made += u32::from(send(&mut director, client_port, SYN).is_some());
        director.wait(1);
    }
    // Ten at once, then one each ten milliseconds for five seconds.
    assert!((505..=512).contains(&made), "{made}");
    assert_eq!(director.drops(), [(DropReason::RateLimit, 4_999 - u64::from(made))]);
}

#[test]
fn a_backend_at_its_upper_threshold_rests_until_it_falls_below_the_lower() {
    let rules = with_backend(rules(Limits::default()), 0, |backend| {
        (backend.connections_upper, backend.connections_lower) = (4, 3);
    });
    let rules = with_service(rules, 0, |service| service.has_thresholds = true);
    let mut director = Director::new(rules);
    let mut to_first = 0;
    for client_port in 1..=20 {
        to_first += u32::from(send(&mut director, client_port, SYN) == Some(0));
    }
    assert_eq!(to_first, 4);
    let opened = |director: &Director| director.counters.backend(BackendIndex(0)).opened.value();
    let mut end_one_of_the_first = {
        let mut client_port = 0;
        move |director: &mut Director| loop {
            client_port += 1;
            if send(director, client_port, RST) == Some(0) {
                break;
            }
        }
    };
    // The client's RST alone leaves a half-open connection as it is: complete it first.
    (1..=20).for_each(|client_port| assert!(send(&mut director, client_port, ACK).is_some()));
    end_one_of_the_first(&mut director);
    director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS);
    (21..=24).for_each(|client_port| assert_eq!(send(&mut director, client_port, SYN), Some(1)));
    assert_eq!(opened(&director), 4, "three are not below three");
    end_one_of_the_first(&mut director);
    director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS);
    (31..=40).for_each(|client_port| assert!(send(&mut director, client_port, SYN).is_some()));
    assert_eq!(opened(&director), 6, "two again, up to four");
}

/// One backend, which takes four connections at most and new ones again below three.
fn bounded(worker_count: u16) -> Ruleset {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1] };
    let rules = with_backend(ruleset(worker_count, &[spec]), 0, |backend| {
        (backend.connections_upper, backend.connections_lower) = (4, 3);
    });
    with_service(rules, 0, |service| {
        service.has_thresholds = true;
        service.policy.no_backend = NoBackend::Drop;
    })
}

#[test]
fn the_connection_that_reaches_the_upper_threshold_fills_the_backend_though_nobody_comes_then() {
    let mut director = Director::new(bounded(1));
    for client_port in 1..=4 {
        assert!(send(&mut director, client_port, SYN).is_some());
        assert!(send(&mut director, client_port, ACK).is_some());
    }
    send(&mut director, 1, RST);
    director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS);
    assert_eq!(director.table_used(), 3);
    assert_eq!(send(&mut director, 5, SYN), None, "three are not below three");
    assert_eq!(director.drops(), [(DropReason::BackendFull, 1)]);
    send(&mut director, 2, RST);
    director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS);
    assert!(send(&mut director, 6, SYN).is_some());
}

#[test]
fn a_worker_that_nobody_asked_while_the_backend_was_full_keeps_to_the_lower_threshold_too() {
    let mut team = spread::team(&bounded(4), 0);
    // Wherever a client comes in, the worker that owns it admits it.
    let client = |number: u16| (Ipv4Addr::new(198, 51, 100, 7), 3_000 + number);
    let send = |team: &mut super::workers::Team, number: u16, flags| {
        let passed = team.pass(0, FRONT, &Frame::tcp(client(number), (VIP, 80), flags));
        passed.map(|(worker, ..)| worker)
    };
    let owners: Vec<_> = (0..4).filter_map(|number| send(&mut team, number, SYN)).collect();
    assert_eq!(owners.len(), 4);
    (0..4).for_each(|number| assert!(send(&mut team, number, ACK).is_some()));
    let end_one = |team: &mut super::workers::Team, number: u16| {
        team.pass(0, FRONT, &Frame::tcp(client(number), (VIP, 80), RST));
        team.0.iter_mut().for_each(|director| director.wait(TcpState::Close.timeout_ms() + 5 * SECOND_MS));
    };
    end_one(&mut team, 0);
    let held = |team: &super::workers::Team| {
        let backend = |director: &Director| {
            let backend = director.counters.backend(BackendIndex(0));
            backend.opened.value() - backend.closed.value()
        };
        team.0.iter().map(backend).sum::<u64>()
    };
    assert_eq!(held(&team), 3);
    let taken: Vec<_> = (10..60).filter_map(|number| send(&mut team, number, SYN)).collect();
    assert!(taken.is_empty(), "three are not below three, at workers {taken:?} either");
    assert!(team.0.iter().all(|director| director.counters.dropped(DropReason::BackendFull).value() > 0));
    end_one(&mut team, 1);
    let taken = (60..110).filter(|number| send(&mut team, *number, SYN).is_some()).count();
    assert_eq!((taken, held(&team)), (2, 4), "two again, up to four");
    // The flag belongs to the backend: it outlives a reload.
    end_one(&mut team, 2);
    let rules = team.0[0].worker.line().rules.as_ref().clone();
    team.publish(&Ruleset { revision: rules.revision + 1, ..rules });
    assert_eq!((110..160).filter_map(|number| send(&mut team, number, SYN)).next(), None);
}

/// Control gives a slot to another backend, or the rules lift or raise a threshold: nobody asks, the workers look.
#[test]
fn a_threshold_that_is_lifted_or_raised_lets_connections_in_within_a_millisecond() {
    let full = || {
        let mut director = Director::new(bounded(1));
        (1..=5).for_each(|client_port| _ = send(&mut director, client_port, SYN));
        assert_eq!(director.drops(), [(DropReason::BackendFull, 1)]);
        director
    };
    for upper in [0, 10] {
        let mut director = full();
        let rules = director.worker.line().rules.as_ref().clone();
        let rules = with_backend(rules, 0, |backend| {
            (backend.connections_upper, backend.connections_lower) = (upper, upper);
        });
        director.publish(Ruleset { revision: 2, ..rules });
        director.wait(1);
        assert!(send(&mut director, 9, SYN).is_some(), "at most {upper}");
    }
}

#[test]
fn with_every_backend_full_the_sorry_server_takes_what_comes() {
    let full = |rules: Ruleset, index| {
        with_backend(rules, index, |backend| {
            (backend.connections_upper, backend.connections_lower) = (1, 1);
        })
    };
    let rules = full(full(rules(Limits::default()), 0), 1);
    let rules = with_service(rules, 0, |service| {
        service.has_thresholds = true;
        service.policy.no_backend = NoBackend::Drop;
    });
    let mut director = Director::new(rules.clone());
    let outcomes: Vec<_> = (1..=4).map(|client_port| send(&mut director, client_port, SYN)).collect();
    assert_eq!(outcomes, [Some(0), Some(1), None, None]);
    assert_eq!(director.drops(), [(DropReason::BackendFull, 2)]);

    // The second backend is the sorry server here, and no member.
    let rules = with_service(rules, 0, |service| {
        service.members = service.members[..1].into();
        service.policy.sorry = Some(BackendIndex(1));
    });
    // Another director's.
    let rules = Ruleset { full: Arc::default(), ..rules };
    let mut director = Director::new(rules);
    let outcomes: Vec<_> = (1..=4).map(|client_port| send(&mut director, client_port, SYN)).collect();
    assert_eq!(outcomes, [Some(0), Some(1), Some(1), Some(1)]);
    assert!(director.drops().is_empty());
}

#[test]
fn timeouts_are_the_services_own() {
    let rules = with_service(rules(Limits::default()), 0, |service| {
        service.policy.timeouts.set(TcpState::SynRecv, 2_000);
        service.policy.timeouts.set(TcpState::Established, 20_000);
    });
    let mut director = Director::new(rules);
    send(&mut director, 1, SYN);
    send(&mut director, 2, SYN);
    send(&mut director, 2, ACK);
    director.wait(2_000);
    assert_eq!(director.table_used(), 4);
    director.wait(5_000);
    assert_eq!(director.table_used(), 2);
    director.wait(13_000);
    assert_eq!(director.table_used(), 2, "20 seconds are not yet over");
    director.wait(5_000);
    assert_eq!(director.table_used(), 0);
}
