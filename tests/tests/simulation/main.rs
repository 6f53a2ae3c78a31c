//! A deterministic simulation of clients, backends, a bad network and an operator around the real data path: rules text
//! through the real parser and builder to real workers, on the memory twin and in simulated time.
//!
//! `world` is one simulation; a seed decides everything in it. `witness` judges every turn of every worker. It is not a
//! test of devices, of DPDK or of the kernel: `tests/lab` is.
//!
//! A seed that fails is printed. To see what happened in it:
//!
//!     CROSSDOCK_SEED=n cargo test -p testbed --test simulation -- --nocapture
//!
//! `CROSSDOCK_SEEDS=count` runs more of them, or fewer.

#![forbid(unsafe_code)]

mod backend;
mod client;
mod config;
mod director;
mod message;
mod network;
mod packet;
mod random;
mod schedulers;
mod seeds;
mod states;
mod tcp;
mod tcp_states;
mod witness;
mod world;
