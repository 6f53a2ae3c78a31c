//! What holds for schedulers whatever the members, loads and positions: properties, by kind.

use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;

use dataplane::flow::FlowKey;
use dataplane::index::BackendIndex;
use dataplane::rules::scheduler::{HashKey, LocalityCache, SchedulerKind, SchedulerSettings, Seat};
use dataplane::rules::{Load, Loads, Member, Position, Scheduler, ServiceState};
use dataplane::time::Millis;
use dataplane::wire::{AddressPair, PortPair};
use seal::{CountingAllocator, HeapCalls, heap_calls};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A service as the schedulers see it.
#[derive(Clone, Debug)]
struct Scene {
    weights: Vec<u32>,
    loads: Vec<(u32, u32)>,
    takes: Vec<bool>,
    position: (u32, u32),
    seed: u64,
}

impl Loads for Scene {
    fn load(&self, member: usize) -> Load {
        let (active, inactive) = self.loads[member];
        Load { active, inactive }
    }

    fn takes(&self, member: usize) -> bool {
        self.takes[member]
    }
}

impl Scene {
    fn members(&self) -> Vec<Member> {
        let member = |(n, &weight): (usize, &u32)| Member { backend: BackendIndex(n as u32), weight };
        self.weights.iter().enumerate().map(member).collect()
    }

    fn seats(&self) -> Vec<Seat> {
        let seat = |(n, &weight_kept): (usize, &u32)| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + n as u32).into();
            Seat { address, l4_port: 8080, weight_kept }
        };
        self.weights.iter().enumerate().map(seat).collect()
    }

    fn state(&self) -> ServiceState {
        let position = Position { next: self.position.0, threshold: self.position.1 };
        let locality = Some(Box::<LocalityCache>::default());
        ServiceState { position, seed: self.seed, locality }
    }

    /// Whether anybody could have the connection.
    fn has_taker(&self) -> bool {
        self.weights.iter().zip(&self.takes).any(|(weight, takes)| *weight > 0 && *takes)
    }
}

/// Up to 20 members; weights of every magnitude, often 0.
fn scenes() -> impl Strategy<Value = Scene> {
    (0usize..20).prop_flat_map(|count| {
        let weight = prop_oneof![Just(0), 1u32..10, 1u32..=1_000_000];
        let load = prop_oneof![Just((0, 0)), (0u32..20, 0u32..2_000), (any::<u32>(), any::<u32>())];
        let position = prop_oneof![Just((0, 0)), (any::<u32>(), any::<u32>())];
        (vec(weight, count), vec(load, count), vec(any::<bool>(), count), position, any::<u64>()).prop_map(
            |(weights, loads, takes, position, seed)| Scene { weights, loads, takes, position, seed },
        )
    })
}

/// Every scheduler with every hash that suits it.
fn all_settings() -> Vec<SchedulerSettings> {
    let hashes = |kind: SchedulerKind| -> Vec<HashKey> {
        let suits = |hash: &HashKey| !hash.is_ipvs() || kind.has_maglev_table();
        match kind.default_hash() {
            Some(_) => HashKey::ALL.into_iter().filter(suits).collect(),
            None => vec![HashKey::FiveTuple],
        }
    };
    let of_kind = |kind: SchedulerKind| {
        let slots = kind.has_maglev_table().then_some(1_009);
        hashes(kind).into_iter().map(move |hash| SchedulerSettings {
            hash,
            maglev_slots: slots,
            ..kind.into()
        })
    };
    SchedulerKind::ALL.into_iter().flat_map(of_kind).collect()
}

fn key(client: u32, source_port: u16) -> FlowKey {
    let addresses = AddressPair::new(Ipv4Addr::from_bits(client), Ipv4Addr::new(203, 0, 113, 1));
    FlowKey { addresses: addresses.into(), ports: PortPair::new(source_port, 80), protocol: 6 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whoever_is_chosen_has_a_weight_and_takes_the_connection_and_somebody_is(
        scene in scenes(), client in any::<u32>(), port in any::<u16>()
    ) {
        let (members, seats, key) = (scene.members(), scene.seats(), key(client, port));
        for settings in all_settings() {
            let scheduler = Scheduler::new(settings, &members, &seats).unwrap();
            let mut state = scene.state();
            for _ in 0..5 {
                let choice = scheduler.choose(&members, &state, &key, &scene);
                prop_assert_eq!(choice, scheduler.choose(&members, &state, &key, &scene), "{}: pure", settings);
                match choice {
                    Some(choice) => {
                        prop_assert!(scene.weights[choice.member] > 0 && scene.takes[choice.member], "{}", settings);
                        scheduler.commit(choice, &members, &key, &mut state, Millis(0));
                    }
                    None if settings.kind == SchedulerKind::Ovf => {}
                    None => prop_assert!(!scene.has_taker(), "{} found nobody", settings),
                }
            }
        }
    }

    #[test]
    fn without_fallback_a_client_gets_its_own_backend_or_none(
        scene in scenes(), client in any::<u32>(), port in any::<u16>()
    ) {
        let (members, seats, key) = (scene.members(), scene.seats(), key(client, port));
        let all_take = Scene { takes: vec![true; members.len()], ..scene.clone() };
        for settings in all_settings().into_iter().filter(|settings| settings.kind.is_hashing()) {
            let settings = SchedulerSettings { fallback: false, ..settings };
            let scheduler = Scheduler::new(settings, &members, &seats).unwrap();
            let choose = |scene: &Scene| {
                scheduler.choose(&members, &scene.state(), &key, scene).map(|choice| choice.member)
            };
            let own = choose(&all_take).filter(|own| scene.takes[*own]);
            prop_assert_eq!(choose(&scene), own, "{}", settings);
        }
    }

    #[test]
    fn hashes_choose_alike_whatever_the_order_of_the_backends(
        scene in scenes(), clients in vec((any::<u32>(), any::<u16>()), 20)
    ) {
        let (mut members, mut seats) = (scene.members(), scene.seats());
        let all_take = Scene { takes: vec![true; members.len()], ..scene };
        let chosen = |members: &[Member], seats: &[Seat], settings| -> Vec<_> {
            let scheduler = Scheduler::new(settings, members, seats).unwrap();
            let choose = |key: FlowKey| scheduler.choose(members, &all_take.state(), &key, &all_take);
            let choices = clients.iter().map(|(client, port)| choose(key(*client, *port)));
            choices.map(|choice| choice.map(|choice| members[choice.member].backend)).collect()
        };
        let hashing = all_settings().into_iter().filter(|settings| settings.kind.is_hashing());
        let own: Vec<_> = hashing.filter(|settings| !settings.hash.is_ipvs()).collect();
        let forward: Vec<_> = own.iter().map(|settings| chosen(&members, &seats, *settings)).collect();
        members.reverse();
        seats.reverse();
        for (settings, forward) in own.into_iter().zip(forward) {
            prop_assert_eq!(chosen(&members, &seats, settings), forward, "{}", settings);
        }
    }

    #[test]
    fn wrr_keeps_to_the_weights_over_a_whole_cycle_from_anywhere(
        weights in vec(0u32..12, 1..8), position in (any::<u32>(), any::<u32>())
    ) {
        let count = weights.len();
        let scene = Scene { loads: vec![(0, 0); count], takes: vec![true; count], weights, position, seed: 0 };
        let members = scene.members();
        let scheduler = Scheduler::new(SchedulerKind::Wrr.into(), &members, &scene.seats()).unwrap();
        let mut state = scene.state();
        let mut counts = vec![0u32; count];
        for _ in 0..scene.weights.iter().sum() {
            let choice = scheduler.choose(&members, &state, &key(1, 1), &scene).unwrap();
            scheduler.commit(choice, &members, &key(1, 1), &mut state, Millis(0));
            counts[choice.member] += 1;
        }
        prop_assert_eq!(counts, scene.weights);
    }
}

/// Of 20,000 clients those of a backend that goes find another, and of the others' so few that it is less than one
/// percent; of 100 backends every tenth is tried.
#[test]
fn a_backend_that_goes_moves_hardly_anybody_elses_clients() {
    let scene = |gone: Option<usize>| {
        let mut weights = vec![1; 100];
        gone.into_iter().for_each(|gone| weights[gone] = 0);
        Scene { weights, loads: vec![(0, 0); 100], takes: vec![true; 100], position: (0, 0), seed: 0 }
    };
    let chosen = |kind: SchedulerKind, scene: &Scene| -> Vec<usize> {
        let members = scene.members();
        let settings = SchedulerSettings { hash: HashKey::Source, ..kind.into() };
        let scheduler = Scheduler::new(settings, &members, &scene.seats()).unwrap();
        let choose = |client| scheduler.choose(&members, &scene.state(), &key(client, 1), scene);
        (0..20_000).map(|client| choose(0xc612_0000 + client).unwrap().member).collect()
    };
    for (kind, per_mille) in [(SchedulerKind::Mh, 10), (SchedulerKind::Sh, 10), (SchedulerKind::Conhash, 0)] {
        let before = chosen(kind, &scene(None));
        for gone in (0..100).step_by(10) {
            let after = chosen(kind, &scene(Some(gone)));
            let others = before.iter().zip(&after).filter(|(before, _)| **before != gone);
            let moved = others.clone().filter(|(before, after)| before != after).count();
            assert!(moved * 1_000 <= others.count() * per_mille, "{kind}: {moved} moved as {gone} went");
            assert!(!after.contains(&gone));
        }
    }
}

#[test]
fn no_scheduler_touches_the_heap_when_it_chooses() {
    let count = 50;
    let weights = (0..count).map(|n| n % 7).collect();
    let takes = (0..count).map(|n| n % 3 > 0).collect();
    let loads = (0..count).map(|n| (n % 5, n)).collect();
    let scene = Scene { weights, loads, takes, position: (0, 0), seed: 9 };
    for settings in all_settings() {
        let scheduler = Scheduler::new(settings, &scene.members(), &scene.seats()).unwrap();
        let (members, mut state) = (scene.members(), scene.state());
        let ((), calls) = heap_calls(|| {
            for client in 0..1_000 {
                let key = key(client, 7);
                let choice = scheduler.choose(&members, &state, &key, &scene);
                if let Some(choice) = choice {
                    scheduler.commit(choice, &members, &key, &mut state, Millis(client));
                }
            }
        });
        assert_eq!(calls, HeapCalls::default(), "{settings}");
    }
}
