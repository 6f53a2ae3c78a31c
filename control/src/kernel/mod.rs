//! The kernel beside the data path: what Crossdock asks of it over netlink, and how it is kept out of the
//! way.
//!
//! Five jobs, one file each:
//!
//! * [`twin`]: the addresses on a port's TAP, so that the kernel answers ARP and ping for them;
//! * [`neighbours`]: where a backend's packets have to go, as the kernel's routes and neighbour table say;
//! * [`shield`]: an `af_packet` interface is hidden from the kernel that it belongs to.
//! * [`check_routes`]: the kernel's packets to backends whose health is checked come to the slow path;
//! * [`xdp`]: the XDP program of an `af_xdp` port goes when Crossdock does, however it ends, and another's stays.
//!
//! It makes no TAP and moves no packet: DPDK's `net_tap` does the first, the slow-path thread the second.
//! Everything here is `async`, runs on control's current-thread runtime, and acts in the network namespace of
//! the thread that called it. What was decided, and measured, stands in `docs/decisions/0003-kernel-twin.md`.
//! Read first: `rtnetlink(7)`, and `Documentation/networking/ip-sysctl.rst` of the kernel for the switches.

mod announcement;
pub mod check_routes;
pub mod error;
pub mod link;
pub mod neighbours;
pub mod next_hops;
pub mod shield;
mod sysctl;
pub mod twin;
pub mod xdp;

pub use check_routes::{CheckRoute, CheckRoutes};
pub use error::KernelError;
pub use neighbours::{Neighbours, Refresh, Wanted};
pub use next_hops::{NextHop, NextHops, Unresolved};
pub use rtnetlink::Handle;
pub use shield::Shield;
pub use twin::{Twin, TwinSettings};
pub use xdp::XdpGuard;

/// Opens a netlink socket for requests and serves it on the current tokio runtime.
///
/// The socket belongs to the calling thread's network namespace and closes when the last clone of the
/// [`Handle`] is dropped.
///
/// # Errors
/// [`KernelError::Io`] when the kernel refuses the socket. Panics outside a tokio runtime, as `tokio::spawn`
/// does.
pub fn connect() -> Result<Handle, KernelError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(error::socket)?;
    tokio::spawn(connection);
    Ok(handle)
}
