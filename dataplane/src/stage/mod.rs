//! The walk of a packet, one file a step, in this order:
//!
//! [`parse`] -> [`steer`] -> [`lookup`] -> [`admit`] (misses) -> [`rewrite`] -> [`transmit`]
//!
//! A stage takes the whole burst and leaves what it found in the burst's arrays; it prefetches what the next
//! one reads. Only rows whose verdict is `Forward` are looked at after parse.

pub mod admit;
pub mod lookup;
pub mod parse;
pub mod rewrite;
pub mod steer;
pub mod transmit;
