//! What the processor offers, made safe: prefetch, the timestamp counter, an eight-tag compare, CRC32C,
//! Toeplitz and slices on huge pages.
//!
//! The dataplane forbids `unsafe`, and the intrinsics need it; so they live here, one file each. Every
//! function has a portable twin that gives the same result, taken under Miri and wherever the build's target
//! lacks SSE4.2 (`.cargo/config.toml` sets x86-64-v2, which has it, so nothing is detected at run time). The
//! twins are compared with each other by property tests.
//!
//! This crate knows nothing of packets, and it is not a place for general helpers: what needs no `unsafe` to
//! be fast belongs to the crate that uses it. [`toeplitz`] is the exception: it stands beside [`crc32c`]
//! because both are the hash functions that hardware computes as well.

mod crc32c;
mod huge;
mod prefetch;
mod tags;
mod timestamp;
mod toeplitz;

pub use crc32c::{crc32c, crc32c_u64};
pub use huge::{Backing, HugeSlice};
pub use prefetch::{prefetch_read, prefetch_write};
pub use tags::match_tags;
pub use timestamp::{timestamp, timestamp_hz};
pub use toeplitz::{ToeplitzTable, toeplitz};
