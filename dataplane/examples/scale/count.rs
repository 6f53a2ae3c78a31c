//! One kind of operation, many times, in functions that callgrind can be told to count: what it costs in instructions, whatever
//! the machine is doing. `dataplane/tests/instructions.rs` compares the fills.

use std::hint::black_box;

use dataplane::flow::FlowKey;
use dataplane::index::EntryIndex;
use dataplane::rules::scheduler::{HashKey, MaglevTable, Seat};

use crate::Mix;
use crate::table::Filled;
use crate::turns::Newcomers;

/// Entries of the table: large enough that buckets fill as in a large one, small enough for valgrind.
const CAPACITY: u32 = 1 << 15;
/// Operations counted: few beside the entries, so that the fill stays what it is.
pub(crate) const OPERATIONS: usize = 300;

/// Turns counted.
const TURNS: u32 = 30;

/// `number` is the fill in percent; of `turn` the workers, of `maglev` the backends.
pub(crate) fn run(operation: &str, number: u32) {
    match operation {
        "turn" => return newcomers(number as u16),
        "maglev" => return maglev(number),
        _ => {}
    }
    let fill = number;
    let mut filled = Filled::new(CAPACITY, fill);
    let mut mix = Mix(7);
    // Entries come and go for a while: places are free where they are in a table that has lived.
    for _ in 0..8 {
        let leaving = filled.pick(&mut mix, CAPACITY as usize / 40);
        filled.removals(&leaving);
        filled.inserts(leaving.len());
    }
    let leaving = filled.pick(&mut mix, OPERATIONS);
    match operation {
        "insert" => {
            filled.removals(&leaving);
            inserts(&mut filled);
        }
        "hit" => {
            let keys = filled.some_keys(&mut mix, OPERATIONS);
            assert!(lookups(&filled, &keys) > 0);
        }
        "miss" => {
            let keys = filled.other_keys(OPERATIONS);
            assert_eq!(lookups(&filled, &keys), 0);
        }
        "remove" => removals(&mut filled, &leaving),
        _ => crate::usage(),
    }
    println!("{OPERATIONS} x {operation} at {fill}%: {} entries in use", filled.table.used());
}

fn newcomers(workers: u16) {
    let mut bench = Newcomers::new(workers);
    for _ in 0..TURNS {
        bench.lay_out();
        turns(&mut bench);
    }
    println!("{TURNS} x turn of one of {workers} workers: {} connections", bench.connections());
}

fn maglev(members: u32) {
    let seat = |number: u32| Seat {
        address: std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).into(),
        l4_port: 8080,
        weight_kept: 1 + number % 100,
    };
    let seats: Vec<_> = (0..members).map(seat).collect();
    println!("maglev of {members}: {} bytes", size_of_val(&tables(&seats)));
}

#[inline(never)]
fn turns(bench: &mut Newcomers) {
    black_box(bench).turn();
}

#[inline(never)]
fn tables(seats: &[Seat]) -> MaglevTable {
    MaglevTable::new(black_box(seats), None, HashKey::FiveTuple, true).expect("a table fits")
}

#[inline(never)]
fn inserts(filled: &mut Filled) {
    black_box(filled).inserts(OPERATIONS);
}

#[inline(never)]
fn lookups(filled: &Filled, keys: &[FlowKey]) -> usize {
    black_box(filled).lookups(keys)
}

#[inline(never)]
fn removals(filled: &mut Filled, indices: &[EntryIndex]) {
    black_box(filled).removals(indices);
}
