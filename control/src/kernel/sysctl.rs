//! The kernel's per-interface switches under /proc/sys/net, in the calling thread's network namespace.
//!
//! A file is a few bytes of a pseudo file system and answers at once, so plain blocking reads and writes do.

use std::{fs, io, path::PathBuf};

/// One switch, for instance `arp_ignore` of `conf/xd0` in `ipv4`.
pub(super) struct Sysctl {
    path: PathBuf,
}

impl Sysctl {
    /// `/proc/sys/net/<family>/<table>/<scope>/<key>`; `scope` is an interface, "all" or "default".
    pub(super) fn new(family: &str, table: &str, scope: &str, key: &str) -> Self {
        Self { path: ["/proc/sys/net", family, table, scope, key].iter().collect() }
    }

    /// The switch's value.
    pub(super) fn read(&self) -> io::Result<u32> {
        fs::read_to_string(&self.path)?.trim().parse().map_err(io::Error::other)
    }

    /// Sets the switch unless it already stands so. What could not be done comes back as a sentence: a
    /// container with a read-only /proc/sys still works, less well guarded.
    pub(super) fn set(&self, value: u32) -> Result<(), String> {
        if self.read().is_ok_and(|old| old == value) {
            return Ok(());
        }
        fs::write(&self.path, value.to_string())
            .map_err(|error| format!("could not write {value} to {}: {error}", self.path.display()))
    }
}

/// The IPv4 `conf` switch `key` as it holds on `ifname`: the kernel takes the larger of the interface's value
/// and the host-wide one for `arp_ignore`, `arp_announce` and `rp_filter` (ip-sysctl.rst).
pub(super) fn effective_ipv4_conf(ifname: &str, key: &str) -> u32 {
    let value = |scope| Sysctl::new("ipv4", "conf", scope, key).read().unwrap_or(0);
    value("all").max(value(ifname))
}
