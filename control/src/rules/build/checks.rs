//! The checks of backends that own the VIP: each has a check address by its slot, which stays its own for as long as it does.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::checks::{Check, Checks};
use dataplane::index::BackendIndex;
use dataplane::rules::ServicePattern;

use super::tunnels::port_address;
use super::{BackendKey, Builder, NextHops};
use crate::rules::checked::{Mode, Rules};

/// Why a backend has no check address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCheckAddress {
    /// The rules have no such backend, or it is this host.
    NoBackend,
    /// It does not own the VIP: packets to it have its own address.
    OtherMode,
    /// The rules have no check addresses of the VIP's family.
    NoNetwork,
    /// No port has an address of the VIP's family, which the backend could answer to.
    NoSource,
}

impl fmt::Display for NoCheckAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBackend => "it is no other host in the rules",
            Self::OtherMode => "its service has another mode than dr and tunnel: check it at its own address",
            Self::NoNetwork => "[checks] `addresses` names no network of the VIP's family",
            Self::NoSource => {
                "no port with `kernel = true` has an address of the VIP's family for it to answer to: give one to a port"
            }
        })
    }
}

impl Builder {
    /// The address that a connection is made to by which a backend of mode `dr` or `tunnel` is checked: it reaches that
    /// backend as the service's packets do, with the VIP as its destination, and with the l4_port of the connection. A socket of the kernel's, in the
    /// director's own namespace. It stays the same while the backend is in the rules; where there is no next hop,
    /// nothing answers.
    ///
    /// # Errors
    /// [`NoCheckAddress`].
    pub fn check_address(&self, rules: &Rules, key: &BackendKey) -> Result<IpAddr, NoCheckAddress> {
        let slot = self.backends.find(key).ok_or(NoCheckAddress::NoBackend)?;
        self.rows.get(slot).filter(|row| !row.is_local).ok_or(NoCheckAddress::NoBackend)?;
        if !self.owns_vip(&key.service) {
            return Err(NoCheckAddress::OtherMode);
        }
        let vip = vip(&key.service);
        let networks = rules.check_networks().ok_or(NoCheckAddress::NoNetwork)?;
        let address = networks.address(slot, vip.is_ipv6()).ok_or(NoCheckAddress::NoNetwork)?;
        port_address(rules, None, vip).ok_or(NoCheckAddress::NoSource)?;
        Ok(address)
    }

    /// How the backend in `slot` is checked, if it has a check address.
    pub fn check(&self, slot: usize) -> Option<&Check> {
        self.last_checks.get(BackendIndex(slot as u32))
    }

    /// The checks of all backends that have check addresses.
    pub(super) fn checks(&self, rules: &Rules, next_hops: &NextHops) -> Arc<Checks> {
        let Some(networks) = rules.check_networks() else { return Arc::default() };
        let check = |slot: usize| {
            let key = self.backends.key(slot).filter(|_| self.backends.is_live(slot))?;
            let address = self.check_address(rules, key).ok()?;
            let next_hop = self.adjacency(slot, next_hops);
            let port = Some(next_hop.port.as_usize()).filter(|_| next_hop.is_resolved());
            let vip = vip(&key.service);
            let source = port_address(rules, port, vip)?;
            // Without a twin of the port nobody hands its packets over to the worker that sends.
            let is_served = port.is_none_or(|port| rules.ports.get(port).is_some_and(|port| port.kernel));
            let encapsulation = self.encapsulations.get(slot).copied().flatten();
            let has_way = encapsulation.is_some() || self.is_dr(&key.service);
            (is_served && has_way).then_some(Check { address, vip, source, next_hop, encapsulation })
        };
        let rows = (0..self.backends.len()).map(check).collect();
        Arc::new(Checks::new(rows, networks.all()))
    }

    fn owns_vip(&self, service: &ServicePattern) -> bool {
        let source = self.services.find(service).and_then(|slot| self.sources.get(&slot));
        source.is_some_and(|source| matches!(source.mode, Mode::Dr | Mode::Tunnel))
    }
}

/// The address of the service that checks are to: the first it listens on, of a network the first.
fn vip(service: &ServicePattern) -> IpAddr {
    service.vips.network()
}
