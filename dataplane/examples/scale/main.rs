//! The table at scale, in figures: what a connection takes in memory, what insert, lookup and removal cost at every
//! fill, and how long the longest turn of the worker's loop is at its worst moments. Figures to read, not a gate: see
//! docs/connections.md for what they were.
//!
//!     cargo run --release -p dataplane --example scale -- table 4000000
//!     cargo run --release -p dataplane --example scale -- turns 20000000 3
//!     valgrind --tool=callgrind --toggle-collect='*::inserts' .../scale count insert 90

#[path = "../../tests/common/mod.rs"]
mod common;
mod count;
mod table;
mod turns;

use nix::time::{ClockId, clock_gettime};

/// Processor time of this thread so far, in nanoseconds: time that others had the core does not count.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Memory of this process that is resident, in bytes (proc(5): the second number of statm, in pages).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4_096
}

/// Numbers that look random and repeat never in 2^64 steps (SplitMix64, Steele, Lea and Flood 2014).
struct Mix(u64);

impl Mix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let first = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let second = (first ^ (first >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        second ^ (second >> 31)
    }
}

fn usage() -> ! {
    eprintln!(
        "usage: scale table ENTRIES | scale turns ENTRIES RUNS | scale count insert|hit|miss|remove FILL_PERCENT \
         | scale count turn WORKERS | scale count maglev BACKENDS"
    );
    std::process::exit(2);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> u32 {
        arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or_else(|| usage())
    };
    match arguments.first().map(String::as_str) {
        Some("table") => table::run(number(1)),
        Some("turns") => turns::run(number(1), number(2)),
        Some("count") => count::run(arguments.get(1).map_or("", String::as_str), number(2)),
        _ => usage(),
    }
}
