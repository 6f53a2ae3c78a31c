//! The flow table: which connection a packet belongs to, and what rewrite needs for it, ready-made.
//!
//! One table per worker, owned by it alone. [`table`] finds, inserts and evicts; `buckets` lead from a hash to
//! entries; `slab` hands out the 64-byte entries; [`expiry`] is the hand that sweeps; [`walk`] goes through it for
//! `crossdock flows`, [`filter`] says for which connections; [`tcp_state`] follows a TCP connection.

mod buckets;
pub mod entry;
pub mod expiry;
pub mod filter;
mod half_open;
mod index_set;
pub mod kept;
mod key;
pub mod sequence;
mod slab;
pub mod table;
pub mod tcp_state;
pub mod walk;

pub use entry::{Entry, Rewrite};
pub use key::{FlowHash, FlowKey, HashSecret};
pub use table::FlowTable;

pub use crate::wire::Addresses;
