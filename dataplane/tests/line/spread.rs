//! Four workers, each with a position of its own and the others' loads as of a moment ago: over all of them the
//! connections of every scheduler lie by the weights.

use std::net::Ipv4Addr;
use std::sync::Arc;

use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::FlowTable;
use dataplane::index::{BackendIndex, ServiceIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::MemoryDevice;
use dataplane::rules::scheduler::SchedulerKind;
use dataplane::rules::{Mode, Ruleset, ServiceState};
use dataplane::worker::{Publication, RulesQueue, Worker};

use super::workers::Team;
use crate::common::director::{Director, SECRET, TestClock};
use crate::common::frames::{ACK, SYN};
use crate::common::rules::{FRONT, PORT_MACS, ServiceSpec, TCP, VIP};
use crate::common::{Frame, ruleset};

const WORKERS: u16 = 4;
const CONNECTIONS: u64 = 10_000;
/// New connections of one millisecond: 20,000 a second.
const A_MILLISECOND: u64 = 20;

/// Workers that see each other's counters, and schedulers that begin where the seed says, as in a real director.
pub(crate) fn team(rules: &Ruleset, seed: u64) -> Team {
    let counters: Vec<Arc<WorkerCounters>> = (0..WORKERS).map(|_| Arc::default()).collect();
    let director = |index: u16| {
        let own = usize::from(index);
        let others = counters.iter().enumerate().filter(|(other, _)| *other != own);
        let others = others.map(|(_, counters)| Arc::clone(counters)).collect();
        let table = FlowTable::new(8_192, Backing::Plain, SECRET).unwrap();
        let index = WorkerIndex(index);
        let state = LineState::new(table, index, &PORT_MACS, 0).with_peers(others);
        let (clock, queue) = (TestClock::default(), RulesQueue::default());
        let device = MemoryDevice::with_ports(PORT_MACS.len());
        let worker =
            Worker::new(device, clock.clone(), index, state, Arc::clone(&counters[own]), queue.clone());
        let mut director = Director { worker, clock, counters: Arc::clone(&counters[own]), queue };
        let seed = (seed + own as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        let state = ServiceState { locality: Some(Box::default()), ..ServiceState::new(seed) };
        let states = vec![(ServiceIndex(0), Some(Box::new(state)))];
        director
            .queue
            .publish(Publication { ruleset: Arc::new(rules.clone()), states, templates: None })
            .unwrap();
        director.worker.turn();
        director
    };
    Team((0..WORKERS).map(director).collect())
}

/// Connections opened at each backend over all workers.
fn opened(scheduler: &'static str, weights: &'static [u16]) -> Vec<u64> {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler, weights };
    let mut team = team(&ruleset(WORKERS, &[spec]), 7);
    for number in 0..CONNECTIONS {
        if number % A_MILLISECOND == 0 {
            team.0.iter().for_each(|director| director.clock.advance(1));
        }
        let client = (Ipv4Addr::from(0xc633_6400 + (number % 251) as u32), 1_024 + (number / 251) as u16);
        let frame = Frame::tcp(client, (VIP, 80), SYN);
        assert!(team.pass((number % u64::from(WORKERS)) as usize, FRONT, &frame).is_some());
    }
    team.assert_balanced();
    let of_backend = |index: usize| {
        let index = BackendIndex(index as u32);
        team.0.iter().map(|director| director.counters.backend(index).opened.value()).sum()
    };
    (0..weights.len()).map(of_backend).collect()
}

/// Fails where a backend's part is off its share by more than `percent` of all connections.
fn assert_spread(scheduler: &'static str, weights: &'static [u16], shares: &[u64], percent: u64) {
    let opened = opened(scheduler, weights);
    let total: u64 = shares.iter().sum();
    for (opened_here, share) in opened.iter().zip(shares) {
        let expected = CONNECTIONS * share / total;
        assert!(
            opened_here.abs_diff(expected) <= CONNECTIONS * percent / 100,
            "{scheduler} {weights:?}: {opened:?}, of {expected}"
        );
    }
}

#[test]
fn over_four_workers_connections_lie_within_one_percent_of_the_weights() {
    for scheduler in ["wrr", "wlc", "sed", "nq", "twos", "mh"] {
        assert_spread(scheduler, &[5, 0, 3, 1, 1], &[5, 0, 3, 1, 1], 1);
    }
    for scheduler in ["rr", "lc"] {
        assert_spread(scheduler, &[5, 0, 3, 1, 1], &[1, 0, 1, 1, 1], 1);
    }
}

/// 256 clients are few for a hash of the address, and a ring is as uneven as it is.
#[test]
fn over_four_workers_clients_lie_by_weight_where_a_client_is_what_is_hashed() {
    for (scheduler, percent) in [("sh", 8), ("conhash", 15)] {
        assert_spread(scheduler, &[2, 0, 1, 1], &[2, 0, 1, 1], percent);
    }
}

#[test]
fn over_four_workers_the_heaviest_gets_all_where_it_is_meant_to() {
    assert_eq!(opened("fo", &[1, 3, 2]), [0, CONNECTIONS, 0]);
    assert_eq!(opened("ovf", &[1, 40_000]), [0, CONNECTIONS]);
    // One VIP is one destination; with everybody idle that means one backend.
    assert_eq!(opened("dh", &[1, 1, 1]).iter().filter(|opened| **opened > 0).count(), 1);
}

#[test]
fn workers_do_not_all_begin_with_the_same_backend() {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1; 8] };
    let mut firsts = std::collections::HashSet::new();
    for seed in 0..8 {
        let mut team = team(&ruleset(WORKERS, &[spec]), seed * 100);
        let frame = Frame::tcp((Ipv4Addr::new(198, 51, 100, 1), 5_000), (VIP, 80), SYN);
        firsts.insert(team.pass(0, FRONT, &frame).unwrap().2.to.0);
    }
    assert!(firsts.len() > 2, "eight directors began with {firsts:?}");
}

/// The position that a worker's scheduler has reached and the connections it made outlive every change of scheduler.
#[test]
fn open_connections_stay_where_they_are_whatever_scheduler_comes() {
    let rules = |scheduler| {
        ruleset(
            WORKERS,
            &[ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler, weights: &[3, 1, 2] }],
        )
    };
    let mut team = team(&rules("wrr"), 3);
    let client = |number: u16| (Ipv4Addr::new(198, 51, 100, number as u8), 4_000);
    let mut homes = Vec::new();
    for (round, kind) in SchedulerKind::ALL.into_iter().enumerate() {
        team.publish(&Ruleset { revision: round as u64 + 2, ..rules(kind.name()) });
        let newcomer = Frame::tcp(client(round as u16), (VIP, 80), SYN);
        homes.push(team.pass(round % 4, FRONT, &newcomer).unwrap().2.to);
        for (number, home) in homes.iter().enumerate() {
            let more = Frame::tcp(client(number as u16), (VIP, 80), ACK);
            assert_eq!(
                team.pass(round % 4, FRONT, &more).unwrap().2.to,
                *home,
                "client {number} under {kind}"
            );
        }
    }
    team.assert_balanced();
}

#[test]
fn a_reload_does_not_begin_the_turns_anew() {
    let spec =
        |weights| ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "wrr", weights };
    let mut director = Director::new(ruleset(1, &[spec(&[2, 1, 1])]));
    for round in 0..100u16 {
        let frame = Frame::tcp((Ipv4Addr::new(198, 51, 100, 1), 2_000 + round), (VIP, 80), SYN);
        assert!(director.send(frame.bytes()).is_some());
        director.publish(Ruleset { revision: u64::from(round) + 2, ..ruleset(1, &[spec(&[2, 1, 1])]) });
    }
    let opened = [0, 1, 2].map(|index| director.counters.backend(BackendIndex(index)).opened.value());
    assert_eq!(opened, [50, 25, 25]);
}
