//! The flow table: which connection a packet belongs to, and what rewrite needs for it, ready-made.
//!
//! One table per worker, owned by it alone. [`table`] finds, inserts and evicts; `slab` hands out the
//! 64-byte entries; [`expiry`] is the hand that sweeps; [`tcp_state`] follows a TCP connection.

pub mod entry;
pub mod expiry;
pub mod key;
mod slab;
pub mod table;
pub mod tcp_state;

pub use entry::{Entry, Rewrite};
pub use key::{FlowHash, FlowKey, HashSecret};
pub use table::FlowTable;
