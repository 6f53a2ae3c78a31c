//! The seeds: a thousand simulations, or the one that is asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::world::{Summary, World};

/// How many seeds run when nobody says otherwise.
const SEEDS: u64 = 1_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    if let Some(seed) = number("CROSSDOCK_SEED") {
        let summary = World::new(seed, true).run();
        eprintln!("seed {seed}: {summary:?}");
        return;
    }
    let count = number("CROSSDOCK_SEEDS").unwrap_or(SEEDS);
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failed, total) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // One failure is enough to look at.
                    if seed >= count || !failed.lock().expect("no panic under it").is_empty() {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())) {
                        Ok(summary) => total.lock().expect("no panic under it").add(&summary),
                        Err(_) => failed.lock().expect("no panic under it").push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic under it");
    if let Some(seed) = failed.iter().min() {
        panic!(
            "seed {seed} failed; to see it: \
             CROSSDOCK_SEED={seed} cargo test -p testbed --test simulation a_thousand -- --nocapture"
        );
    }
    let total = total.into_inner().expect("no panic under it");
    // To read, not to judge: the machine may be anybody's.
    println!("{count} seeds in {} s on {threads} threads: {total:?}", start.elapsed().as_secs());
    if count >= SEEDS {
        total.assert_all_happened();
    }
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in [1, 2, 3] {
        assert_eq!(World::new(seed, false).run(), World::new(seed, false).run(), "seed {seed}");
    }
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.opened += other.opened;
        self.reopened += other.reopened;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.steered += other.steered;
        self.done += other.done;
        self.refused += other.refused;
        self.broken += other.broken;
        self.purged += other.purged;
        self.answered += other.answered;
        self.returned += other.returned;
        self.told += other.told;
        self.publications += other.publications;
    }

    /// A simulation in which nothing happens finds nothing: everything it is about must have happened, and often.
    fn assert_all_happened(&self) {
        let Self {
            packets,
            opened,
            reopened,
            evicted,
            expired,
            steered,
            done,
            refused,
            purged,
            answered,
            returned,
            told,
            publications,
            ..
        } = *self;
        for (what, count) in [
            ("packets", packets / 100),
            ("connections opened", opened),
            ("connections reopened", reopened),
            ("evicted", evicted),
            ("expired", expired),
            ("steered", steered),
            ("sessions done", done),
            ("sessions refused", refused),
            ("connections purged", purged),
            ("packets answered", answered),
            ("clients returned to their backends", returned),
            ("ends of connections told", told),
            ("publications", publications),
        ] {
            assert!(count >= 1_000, "only {count} {what}: {self:?}");
        }
    }
}
