//! What schedulers cost, in a release build: a choice of each among 10, 100 and 1,000 members, how long a Maglev table
//! takes to build, and how many slots move when a member goes.
//!
//!     cargo run --release -p dataplane --example schedulers

use std::hint::black_box;
use std::net::Ipv4Addr;

use dataplane::flow::FlowKey;
use dataplane::index::BackendIndex;
use dataplane::rules::scheduler::{
    HashKey, LocalityCache, MaglevTable, SchedulerKind, SchedulerSettings, Seat,
};
use dataplane::rules::{Load, Loads, Member, Scheduler, ServiceState};
use dataplane::time::Millis;
use dataplane::wire::{AddressPair, PortPair};

/// Loads as counters would have them: in memory, one line a member.
struct Counted(Vec<Load>);

impl Loads for Counted {
    fn load(&self, member: usize) -> Load {
        self.0[member]
    }

    fn takes(&self, _member: usize) -> bool {
        true
    }
}

fn members(weights: &[u32]) -> (Vec<Member>, Vec<Seat>) {
    let member = |(n, &weight): (usize, &u32)| Member { backend: BackendIndex(n as u32), weight };
    let seat = |(n, &weight_kept): (usize, &u32)| {
        let address = Ipv4Addr::from_bits(0x0a00_0001 + n as u32).into();
        Seat { address, l4_port: 8080, weight_kept }
    };
    (weights.iter().enumerate().map(member).collect(), weights.iter().enumerate().map(seat).collect())
}

/// Processor time of this thread so far, in nanoseconds: others use the machine as well, so the clock would tell how
/// long this thread waited. (Linux, Documentation/scheduler/sched-stats: the first number.)
fn processor_ns() -> u64 {
    // The kernel brings the number up to date when the thread gives way.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
}

/// Processor time of each of `count` runs on average, in nanoseconds.
fn measure(count: u32, mut run: impl FnMut()) -> f64 {
    let before = processor_ns();
    (0..count).for_each(|_| run());
    (processor_ns() - before) as f64 / f64::from(count)
}

fn choice_ns(settings: SchedulerSettings, count: usize) -> f64 {
    const CHOICES: u32 = 2_000;
    let (members, seats) = members(&vec![5; count]);
    let scheduler = Scheduler::new(settings, &members, &seats).expect("a table fits");
    let mut state = ServiceState { locality: Some(Box::<LocalityCache>::default()), ..ServiceState::new(7) };
    let mut counted = Counted(vec![Load::default(); count]);
    let mut run = || {
        for client in 0..CHOICES {
            let addresses = AddressPair::new(Ipv4Addr::from_bits(client * 77), Ipv4Addr::new(203, 0, 113, 1));
            let key =
                FlowKey { addresses: addresses.into(), ports: PortPair::new(client as u16, 80), protocol: 6 };
            let choice = black_box(scheduler.choose(&members, &state, &key, &counted));
            if let Some(choice) = choice {
                scheduler.commit(choice, &members, &key, &mut state, Millis(client));
                counted.0[choice.member].active = (counted.0[choice.member].active + 1) % 4;
            }
        }
    };
    run();
    measure(20, run) / f64::from(CHOICES)
}

fn build_ms(weights: &[u32]) -> f64 {
    let (_, seats) = members(weights);
    let build = || {
        black_box(MaglevTable::new(&seats, None, HashKey::FiveTuple, true).expect("a table fits"));
    };
    measure(50, build) / 1e6
}

/// From the number of a backend to its weight.
type WeightOf = fn(u32) -> u32;

/// Of the others' slots, the parts in percent that change hands as one member after the other goes.
fn moved_percent(count: usize, slots: Option<usize>, step: usize) -> (f64, f64) {
    let table = |weights: &[u32]| {
        MaglevTable::new(&members(weights).1, slots, HashKey::FiveTuple, true).expect("a table fits")
    };
    let before = table(&vec![1; count]);
    let moved = (0..count).step_by(step).map(|gone| {
        let mut weights = vec![1; count];
        weights[gone] = 0;
        let after = table(&weights);
        let pairs = before.slots().iter().zip(after.slots()).filter(|(slot, _)| usize::from(**slot) != gone);
        let (all, moved) = pairs.fold((0, 0), |(all, moved), (a, b)| (all + 1, moved + u32::from(a != b)));
        f64::from(moved) * 100.0 / f64::from(all)
    });
    let moved: Vec<_> = moved.collect();
    (moved.iter().sum::<f64>() / moved.len() as f64, moved.iter().copied().fold(0.0, f64::max))
}

fn main() {
    println!("nanoseconds of processor time a choice, members all idle or nearly so:");
    println!("{:<22}{:>8}{:>8}{:>8}", "", 10, 100, 1_000);
    let ipvs = |kind: SchedulerKind| SchedulerSettings { hash: HashKey::Ipvs, ..kind.into() };
    let of_client = |kind: SchedulerKind| {
        if kind.has_cache() {
            // One destination would be one key.
            SchedulerSettings { hash: HashKey::Source, ..kind.into() }
        } else {
            kind.into()
        }
    };
    let all = SchedulerKind::ALL.into_iter().map(of_client);
    for settings in all.chain([ipvs(SchedulerKind::Sh), ipvs(SchedulerKind::Mh)]) {
        let [few, some, many] = [10, 100, 1_000].map(|count| choice_ns(settings, count));
        println!("{:<22}{few:>8.0}{some:>8.0}{many:>8.0}", settings.to_string());
    }
    println!("\nmilliseconds of processor time to build a Maglev table for 1,000 members:");
    let weights: [(&str, WeightOf); 4] = [
        ("equal", |_| 1),
        ("1 to 100", |n| n % 100 + 1),
        ("one 1,000,000, others 1", |n| if n == 0 { 1_000_000 } else { 1 }),
        ("1,000,000 / n", |n| 1_000_000 / (n + 1)),
    ];
    for (name, weight) in weights {
        println!("  {name:<26}{:.2}", build_ms(&(0..1_000).map(weight).collect::<Vec<_>>()));
    }
    println!("\npercent of the others' slots that move as one goes (average, worst):");
    for (count, slots, step) in [(100, None, 1), (100, Some(10_007), 1), (10, None, 1), (1_000, None, 50)] {
        let (average, worst) = moved_percent(count, slots, step);
        let size = slots.map_or("default".to_owned(), |slots| slots.to_string());
        println!("  {count:>5} members, {size:>7} slots: {average:.2} {worst:.2}");
    }
}
