//! The ruleset's outer headers of tunnels, and the tunnels that end here.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::index::BackendIndex;
use dataplane::rules::{self, Encapsulation, Tunnel, TunnelEnds};

use super::{Builder, NextHops};
use crate::rules::checked::{Decap, Rules};

impl Builder {
    /// Renews the outer header towards each backend whose service has a tunnel.
    pub(super) fn complete_encapsulations(&mut self, rules: &Rules, next_hops: &NextHops) {
        self.encapsulations.resize(self.backends.len(), None);
        for slot in 0..self.backends.len() {
            let Some(key) = self.backends.key(slot) else { continue };
            let source = self.services.find(&key.service).and_then(|slot| self.sources.get(&slot));
            let Some((source, tunnel)) = source.and_then(|source| Some((source, source.tunnel?))) else {
                continue;
            };
            let tunnel = Tunnel { lowers_ttl: !source.policy.keeps_ttl, ..tunnel };
            let backend = key.address;
            let port = next_hops.get(&key.address).map(|next_hop| next_hop.port.as_usize());
            self.encapsulations[slot] =
                Encapsulation::new(&tunnel, port_address(rules, port, backend), backend);
        }
    }

    /// The slot is another backend's.
    pub(super) fn forget_encapsulation(&mut self, index: BackendIndex) {
        if let Some(row) = self.encapsulations.get_mut(index.as_usize()) {
            *row = None;
        }
    }

    /// As workers have them: none at all without tunnels, and those of the ruleset before where nothing differs.
    pub(super) fn encapsulations(&self) -> Arc<[Option<Encapsulation>]> {
        if self.encapsulations.iter().all(Option::is_none) {
            return Arc::default();
        }
        if *self.last.encapsulations == *self.encapsulations {
            return Arc::clone(&self.last.encapsulations);
        }
        self.encapsulations.as_slice().into()
    }

    /// Where they lead, likewise.
    pub(super) fn tunnel_ends(&self) -> Arc<TunnelEnds> {
        if *self.last.encapsulations == *self.encapsulations {
            return Arc::clone(&self.last.tunnel_ends);
        }
        Arc::new(self.encapsulations.iter().flatten().copied().collect())
    }
}

/// An address of the backend's family: the port's by which it is reached, else the first of any port.
pub(super) fn port_address(rules: &Rules, port: Option<usize>, backend: IpAddr) -> Option<IpAddr> {
    let reached_by = port.and_then(|port| rules.ports.get(port));
    let addresses = reached_by.into_iter().chain(&rules.ports).flat_map(|port| &port.addresses);
    addresses.map(|net| net.addr()).find(|address| address.is_ipv6() == backend.is_ipv6())
}

/// As workers have it.
pub(super) fn decap(checked: &Decap) -> rules::Decap {
    let Decap { addresses, ipip, gre, gue_port } = checked;
    let addresses = addresses.iter().copied().collect();
    rules::Decap { addresses, ipip: *ipip, gre: *gre, gue_port: *gue_port }
}
