//! `crossdock nic`: which PCI NICs there are, who has them, and how one passes from the kernel to DPDK and back.
//!
//! The work that dpdk-devbind.py and driverctl do, by the same files of sysfs. A binding lasts until the next boot; who
//! wants it then too lets the systemd unit bind (docs/guide/real-nic.md). Nothing here opens a device. Read first:
//! Documentation/ABI/testing/sysfs-bus-pci of the kernel, on `driver_override`; DPDK's Linux guide, "Linux Drivers".

pub mod bind;
pub mod inventory;
pub mod way_in;

pub use bind::{Bound, bind, release};
pub use inventory::{Nic, nics};
pub use way_in::{Use, uses};
