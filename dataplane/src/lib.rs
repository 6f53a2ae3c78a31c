//! The packet line: packets in, packets out.
//!
//! A packet's walk is one file per step in [`stage`], called in order by [`mod@line`]; [`worker`] is the poll
//! loop around it. What it is not: it knows no DPDK, no clock and no configuration. Devices come in through
//! [`device::Device`], the time through [`time::Clock`], rules as an immutable [`rules::Ruleset`]. So the
//! whole line runs in unit tests, property tests and `crossdock replay` on plain memory.
//!
//! Nothing here allocates after start, locks, logs, makes a system call, or panics on what a packet holds.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod adjacency;
pub mod burst;
pub mod checks;
pub mod counters;
pub mod device;
pub mod effort;
pub mod flow;
pub mod fragments;
pub mod index;
pub mod line;
pub mod loads;
pub mod local_port;
pub mod memory;
pub mod packet;
pub mod path;
pub mod peers;
pub mod persistence;
pub mod prefix;
pub mod rules;
pub mod stage;
pub mod time;
pub mod token_bucket;
pub mod verdict;
pub mod wire;
pub mod worker;
