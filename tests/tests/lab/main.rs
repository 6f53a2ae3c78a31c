//! The real binary in network namespaces, between real clients and servers. Needs root; `scripts/test` runs it.

#![forbid(unsafe_code)]

mod af_xdp;
mod http_dr;
mod http_fullnat;
mod huge_pages;
mod leftovers;
mod one_core;
mod ports;
mod refusals;
mod reload;
mod summary;
mod sweep;
mod system_calls;
mod twin;
mod udp;
