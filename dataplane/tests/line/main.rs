//! The whole line, from a port's queue to a port's queue, on the memory twin.

#[path = "../common/mod.rs"]
mod common;

mod any_bytes;
mod buffers;
mod checks;
mod checksums;
mod client_address;
mod datagrams;
mod echo;
mod effort;
mod fragments;
mod framing;
mod full_table;
mod hops;
mod icmp_errors;
mod ipv6;
mod limits;
mod mss;
mod mtu;
mod nat;
mod offload;
mod persistence;
mod pressure;
mod replies;
mod resets;
mod routes;
mod rss;
mod sctp;
mod second_chance;
mod spread;
mod strategies;
mod there_and_back;
mod timeouts;
mod translation;
mod tunnel_errors;
mod tunnels;
mod verdicts;
mod walks;
mod weights;
mod without_flows;
mod workers;
