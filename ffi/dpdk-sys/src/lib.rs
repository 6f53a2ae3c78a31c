//! Raw bindings to the system's DPDK: what bindgen made of `wrapper.h`, and no logic.
//!
//! The safe side is the `dpdk` crate; read that first. Field layouts that differ between DPDK releases are dealt
//! with in `wrapper.h` and nowhere else. Meaning and conditions of each `rte_*` function: DPDK's API reference,
//! <https://doc.dpdk.org/api-22.11/>; of each `xd_*` function: `wrapper.h`.
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::missing_safety_doc, rustdoc::all)]

use std::marker::{PhantomData, PhantomPinned};

/// A type that only C knows the inside of: not Send, not Sync, never moved, only pointed at.
macro_rules! foreign {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub struct $name {
            inside: [u8; 0],
            marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

foreign!(rte_mbuf, rte_mempool, rte_ring);

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
