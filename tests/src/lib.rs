//! Tests against software nobody here wrote: the real binary between real clients and real servers.
//!
//! What stands here is the lab the tests are made in; the tests are in `tests/`. Everything a lab makes is its own
//! (network namespaces, files, processes) and goes away with it, also when the test panics. A lab that cannot be made here
//! panics with the reason: such a test fails, it is not skipped.
//!
//! Read `scripts/lib/lab.sh` first: it draws the networks, and `scripts/run` uses the same ones.

#![forbid(unsafe_code)]

pub mod director;
pub mod ends;
pub mod lab;
pub mod process;
