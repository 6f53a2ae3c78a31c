//! Header views: typed windows on packet bytes, one file a protocol.
//!
//! A view holds a fixed-size array, so its length was checked once and indexing costs nothing. Getters
//! return host order; the two types that keep wire order ([`AddressPair`], [`PortPair`]) say so.

pub mod checksum;
pub mod ethernet;
pub mod ipv4;
mod pairs;
pub mod tcp;
pub mod udp;

pub use pairs::{AddressPair, PortPair};
