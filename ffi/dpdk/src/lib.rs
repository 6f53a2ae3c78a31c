//! Safe wrappers around DPDK: what Crossdock needs of it and no more.
//!
//! Start with [`Eal::init`]. A [`Mempool`] makes [`Mbuf`]s, a [`Port`] hands out its [`RxQueue`]s and [`TxQueue`]s
//! once, a [`ring`] carries mbufs between two threads, and a thread that handles many of them is
//! [registered](thread::register). Every value keeps what it stands on alive, so nothing here can be used after the
//! memory under it is gone; the order in which things are dropped does not matter.
//!
//! Packets are never copied: an [`Mbuf`] is one pointer, a [`Burst`] is the array that DPDK fills and empties.
//!
//! Guides: DPDK Programmer's Guide 22.11, chapters "Environment Abstraction Layer", "Mempool Library", "Mbuf
//! Library", "Poll Mode Driver", "Ring Library" <https://doc.dpdk.org/guides-22.11/prog_guide/>. Why our own
//! bindings: `docs/decisions/0002-dpdk-bindings.md`.

mod burst;
mod device;
mod eal;
mod error;
mod layout;
mod log;
mod mbuf;
mod mempool;
mod port;
mod queue;
pub mod ring;
mod rss;
pub mod thread;

pub use burst::{BURST_MAX, Burst};
pub use eal::Eal;
pub use error::{Error, Result};
pub use log::{LogLevel, set_log_level};
pub use mbuf::{Mbuf, Segments};
pub use mempool::{DATA_ROOM_BYTES_DEFAULT, HEADROOM_BYTES, Mempool};
pub use port::{Link, Port, PortConfig, PortInfo, PortStats};
pub use queue::{RxQueue, TxQueue};
pub use rss::RssSettings;

/// The DPDK release in use, as DPDK says it ("DPDK 22.11.11").
pub fn version() -> String {
    // SAFETY: takes nothing and returns a static, NUL-terminated string.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::xd_version()) }.to_string_lossy().into_owned()
}
