//! Random numbers for seeds and for secrets of hash tables.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// 64 random bits: the standard library seeds its hashers from the system.
pub(crate) fn word() -> u64 {
    RandomState::new().hash_one(0)
}
