//! Whatever bytes come in, in whatever order: no panic, and every packet is accounted for once.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::rules::{Mode, NoBackend, NoFlow, Policy, Ruleset};

use crate::common::rules::{ONE_OF_EACH, ServiceSpec, TCP, with_policy};
use crate::common::{Director, ruleset};
use crate::strategies::any_frames;

#[derive(Clone, Debug)]
enum Step {
    Receive(PortIndex, Vec<u8>),
    Turn,
    Wait(u32),
    /// How many packets a port still takes before it refuses.
    Room(PortIndex, Option<usize>),
}

fn ports() -> impl Strategy<Value = PortIndex> {
    (0u16..2).prop_map(PortIndex)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (ports(), any_frames()).prop_map(|(port, frame)| Step::Receive(port, frame)),
        4 => Just(Step::Turn),
        1 => select_ms().prop_map(Step::Wait),
        1 => (ports(), proptest::option::of(0usize..4)).prop_map(|(port, room)| Step::Room(port, room)),
    ];
    vec(step, 1..150)
}

fn select_ms() -> impl Strategy<Value = u32> {
    select(vec![1u32, 500, 2_500, 70_000, 1_000_000])
}

fn act(director: &mut Director, step: Step) {
    match step {
        Step::Receive(port, frame) => director.receive(port, frame),
        Step::Turn => drop(director.worker.turn()),
        Step::Wait(ms) => {
            director.clock.advance(ms);
            director.worker.turn();
        }
        Step::Room(port, room) => director.worker.device_mut().ports[port.as_usize()].transmit_room = room,
    }
}

/// On a port that the frames are sent to and no other service listens on.
const REFUSING: ServiceSpec =
    ServiceSpec { protocol: TCP, l4_port: 81, mode: Mode::Dr, scheduler: "rr", weights: &[0] };

/// Takes pings, where the rules say that any service does.
const PINGED: ServiceSpec =
    ServiceSpec { protocol: 1, l4_port: 0, mode: Mode::Fullnat, scheduler: "rr", weights: &[1, 1] };

fn policies() -> impl Strategy<Value = Policy> {
    let no_backend = select(vec![NoBackend::Unreachable, NoBackend::Reset, NoBackend::Drop]);
    let no_flow = select(vec![NoFlow::Kernel, NoFlow::Reset, NoFlow::Drop, NoFlow::Schedule]);
    (no_backend, no_flow).prop_map(|(no_backend, no_flow)| Policy {
        no_backend,
        no_flow,
        ..Policy::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_panics_and_every_packet_is_accounted_for(
        steps in steps(), twins in any::<[bool; 2]>(), capacity in 2u32..80, policy in policies(), takes_echo in any::<bool>()
    ) {
        // A small table, so that it fills and evicts; and one service without a backend that takes connections.
        let services = [&ONE_OF_EACH[..], &[REFUSING, PINGED]].concat();
        let rules = Ruleset { takes_echo, ..with_policy(ruleset(1, &services), &policy) };
        let mut director = Director::with(rules, WorkerIndex(0), capacity);
        for (port, twin) in director.worker.device_mut().ports.iter_mut().zip(twins) {
            port.twin = twin;
        }
        for step in steps {
            act(&mut director, step);
            director.assert_balanced();
            director.assert_table_adds_up();
        }
        director.turn();
        director.assert_balanced();
    }
}
