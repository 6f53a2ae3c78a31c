//! Hosts behind the director whose packets it changes on their way to anywhere: backends of NAT, whose answers get the VIP's
//! address back, and the networks whose connections SNAT takes.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::index::ServiceIndex;
use dataplane::prefix::Prefix;
use dataplane::rules::{AddressMap, AddressSet, ClientPart, ServicePattern};

use super::{BuildError, Builder};
use crate::rules::checked::{self, Mode, Protocol, Rules};

/// Groups, reserved and broadcast addresses (RFC 5771, RFC 1112), IPv6 groups and what is of the link (RFC 4291).
const NOT_TO_BE_TRANSLATED: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// Hosts of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    service: ServicePattern,
    pub(super) hosts: Prefix,
    /// What decides who owns their connections.
    pub(super) part: ClientPart,
}

impl Builder {
    /// Those hosts. Those of a service that has left the rules, or has them no more, stay while it has connections: by
    /// them workers find the owner of what those hosts send.
    pub(super) fn next_inside(&self, open: &HashSet<ServicePattern>) -> Result<Vec<Inside>, BuildError> {
        let mut inside = self.nat_backends()?;
        let hosts_of = |service: &checked::Service| {
            let (key, part) = (service.key(), ClientPart::Endpoint);
            let hosts = service.from.iter();
            hosts
                .filter_map(move |from| Some(Inside { service: key?, hosts: *from, part }))
                .collect::<Vec<_>>()
        };
        inside.extend(self.used_services(open).flat_map(hosts_of));
        let now: HashSet<_> = inside.iter().map(|now| (now.service, now.hosts)).collect();
        let still = self.inside.iter().filter(|before| {
            open.contains(&before.service) && !now.contains(&(before.service, before.hosts))
        });
        inside.extend(still);
        Ok(inside)
    }

    /// The backends of services of NAT.
    fn nat_backends(&self) -> Result<Vec<Inside>, BuildError> {
        let mut inside = Vec::new();
        for slot in 0..self.backends.len() {
            let Some(key) = self.backends.key(slot) else { continue };
            let Some(service_slot) = self.services.find(&key.service) else { continue };
            let source = self.sources.get(&service_slot);
            let Some(service) = source.filter(|service| service.mode == Mode::Nat) else { continue };
            let is_live = self.services.is_live(service_slot);
            let is_ipv6 = key.address.is_ipv6();
            let vips = super::vips_of(service, is_ipv6).filter_map(|vip| Some((vip, self.vips.get(&vip)?)));
            for (vip, how) in vips {
                // A VIP that has just got its first service of NAT has no connections of NAT from before.
                let is_new = how.part_before == Some(ClientPart::Endpoint) && self.rss.is_some();
                // The backend's answers cannot be looked for at two workers.
                if is_live && how.part_before.is_some() && !is_new && self.worker_count > 1 {
                    return Err(BuildError::NatSteering { vip });
                }
                // A service that has left the rules has connections from before a change only.
                let part = if is_live { how.part } else { how.first_part() };
                inside.push(Inside { service: key.service, hosts: key.address.into(), part });
            }
        }
        Ok(inside)
    }

    /// Whether any service takes pings, or one that has left the rules has some.
    pub(super) fn takes_echo(&self, open: &HashSet<ServicePattern>) -> bool {
        let are_pings = |listen: &checked::Listen| listen.protocol == Protocol::Icmp;
        self.used_services(open)
            .any(|service| service.mode == Mode::Snat || service.listens.iter().any(are_pings))
    }

    /// The services in the rules, and those that have left them and have connections.
    fn used_services(&self, open: &HashSet<ServicePattern>) -> impl Iterator<Item = &checked::Service> {
        (0..self.services.len()).filter_map(move |slot| {
            let is_used = |key: &&ServicePattern| self.services.is_live(slot) || open.contains(key);
            self.services.key(slot).filter(is_used)?;
            self.sources.get(&slot).map(AsRef::as_ref)
        })
    }

    /// Whose connections services of SNAT take, and where to they do not: to the director itself, to groups, and from one of
    /// those networks to another.
    pub(super) fn snat(
        &self,
        rules: &Rules,
        local_addresses: impl Iterator<Item = IpAddr>,
    ) -> (AddressMap<ServiceIndex>, AddressSet) {
        let slots = rules.services.iter().filter_map(|service| {
            let index = ServiceIndex(self.services.find(&service.key()?)? as u16);
            Some(service.from.iter().map(move |from| (*from, index)))
        });
        let taken: Vec<(Prefix, ServiceIndex)> = slots.flatten().collect();
        if taken.is_empty() {
            return Default::default();
        }
        let own = rules.own_addresses().into_iter().chain(local_addresses).map(Prefix::of);
        let others = NOT_TO_BE_TRANSLATED.map(|(network, len)| Prefix::new(network, len));
        let exempt = own.chain(others).chain(taken.iter().map(|(from, _)| *from));
        (taken.iter().copied().collect(), exempt.map(|prefix| (prefix, ())).collect())
    }
}
