//! The real binary in network namespaces, between real clients and servers. Needs root; `scripts/test` runs it.

#![forbid(unsafe_code)]

mod af_xdp;
mod answers;
mod changes;
mod connections;
mod day;
mod doctor;
mod explain;
mod flows;
mod health;
mod http_dr;
mod http_fullnat;
mod huge_pages;
mod judge;
mod jumbo;
mod leftovers;
mod metrics;
mod modes;
mod one_core;
mod ports;
mod quic;
mod refusals;
mod reload;
mod sctp;
mod second_chance;
mod service;
mod slow_start;
mod summary;
mod sweep;
mod system_calls;
mod taking_out;
mod twin;
mod udp;
mod vlan;
mod workers;
