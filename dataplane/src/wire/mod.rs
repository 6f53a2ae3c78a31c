//! Header views: typed windows on packet bytes, one file a protocol.
//!
//! A view holds a fixed-size array, so its length was checked once and indexing costs nothing. Getters
//! return host order; the types that keep wire order ([`AddressPair`], [`AddressPair6`], [`PortPair`]) say so.

pub mod checksum;
pub mod client_option;
pub mod echo;
pub mod ethernet;
pub mod fragment;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod icmp_translation;
pub mod ipv4;
pub mod ipv6;
mod pairs;
pub mod proxy_protocol;
pub mod quic;
pub mod quote;
pub mod sctp;
pub mod tcp;
pub mod tcp_options;
pub mod udp;
pub mod vlan;

pub use pairs::{AddressPair, AddressPair6, Addresses, PortPair};
pub use vlan::VlanTags;
