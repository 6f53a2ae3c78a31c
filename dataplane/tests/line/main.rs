//! The whole line, from a port's queue to a port's queue, on the memory twin.

#[path = "../common/mod.rs"]
mod common;

mod any_bytes;
mod buffers;
mod checksums;
mod pressure;
mod strategies;
mod there_and_back;
mod timeouts;
mod verdicts;
mod weights;
mod workers;
