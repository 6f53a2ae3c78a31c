//! A port's kernel twin: which addresses stand on the TAP, and the switches that keep the kernel honest
//! there.
//!
//! The twin carries three kinds of addresses. The port's own (`addresses`) are ordinary: the kernel may call
//! from them. VIPs and FullNAT local addresses only have to be *answered for* (ARP, ND, ping): they get a /32
//! with host scope, or a deprecated /128, so that the kernel never picks one as a source. The reasons and the
//! measurements stand in `docs/decisions/0003-kernel-twin.md`.
//!
//! Each VIP that is put here is announced to the network (`announcement`), as it may have been another host's. Not here: making the TAP
//! and giving it the port's MAC (DPDK's `net_tap`).
//! Read first: ip-sysctl.rst on `arp_ignore`, `arp_announce` and `rp_filter`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

use dataplane::prefix::Prefix;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope, CacheInfo,
};
use rtnetlink::Handle;

use super::{
    announcement::Announcer,
    error::{KernelError, as_io, refused},
    link,
    sysctl::{Sysctl, effective_ipv4_conf},
};

/// What the rules want on a twin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TwinSettings {
    /// The port's own addresses with the prefix of their subnet. The first of a subnet is the kernel's source
    /// there.
    pub addresses: Vec<IpNet>,
    /// VIPs this port answers for. Every address of a network counts.
    pub vips: Vec<IpNet>,
    /// FullNAT's own addresses. Every address of a range counts, its first and last too: a range is a pool,
    /// not a subnet.
    pub local_addresses: Vec<IpNet>,
    /// Largest layer-3 packet in bytes; `None` leaves the interface as it is.
    pub mtu: Option<u32>,
}

/// How an address stands on the twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The kernel talks from it.
    Own,
    /// The kernel answers for it and never talks first from it.
    Answered,
}

/// A configured twin. It remembers which addresses it placed and removes no other.
#[derive(Debug)]
pub struct Twin {
    handle: Handle,
    link: link::Link,
    settings: TwinSettings,
    /// Addresses this process placed; one that was there before stays somebody else's.
    placed: BTreeMap<IpNet, Role>,
    warnings: Vec<String>,
}

impl Twin {
    /// Finds the interface, sets its switches, brings it up and puts the addresses of `settings` on it.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`], [`KernelError::NotPermitted`], [`KernelError::NoIpv6`],
    /// [`KernelError::ArpIgnoreAll`], or [`KernelError::Refused`] with the address in question.
    pub async fn configure(
        handle: Handle,
        ifname: &str,
        settings: TwinSettings,
    ) -> Result<Self, KernelError> {
        let link = link::find(&handle, ifname).await?;
        let warnings = set_switches(ifname);
        let mut twin =
            Self { handle, link, settings: TwinSettings::default(), placed: BTreeMap::new(), warnings };
        twin.sync(settings).await?;
        Ok(twin)
    }

    /// Makes the twin what `settings` say, touching only what differs. New addresses come before old ones go,
    /// so that a renumbered port keeps its routes. After an error the rest is done by the next call.
    ///
    /// # Errors
    /// As for [`Twin::configure`].
    pub async fn sync(&mut self, settings: TwinSettings) -> Result<(), KernelError> {
        let wanted = wanted_addresses(&settings);
        self.check(&wanted)?;
        let now = link::find(&self.handle, &self.link.ifname).await?;
        link::bring_up(&self.handle, &now, settings.mtu).await?;
        self.link = now;
        self.settings = settings;
        let mut come = Vec::new();
        for &(address, role) in &wanted {
            if self.place(address, role).await? {
                come.push(address.addr());
            }
        }
        self.announcer().announce(come);
        let kept: BTreeSet<IpNet> = wanted.into_iter().map(|(address, _)| address).collect();
        let gone: Vec<IpNet> = self.placed.keys().filter(|placed| !kept.contains(placed)).copied().collect();
        for address in gone {
            self.withdraw(address).await?;
        }
        Ok(())
    }

    /// Makes `vips` the VIPs of this twin and leaves everything else as it is: for a reload, and for a
    /// service that withdraws its VIP when its last backend dies.
    ///
    /// # Errors
    /// As for [`Twin::configure`].
    pub async fn sync_vips(&mut self, vips: &[IpNet]) -> Result<(), KernelError> {
        self.sync(TwinSettings { vips: vips.to_vec(), ..self.settings.clone() }).await
    }

    /// The kernel's number for the interface: what [`super::Wanted::ports`] is keyed by.
    pub fn ifindex(&self) -> u32 {
        self.link.ifindex
    }

    /// The interface's name.
    pub fn ifname(&self) -> &str {
        &self.link.ifname
    }

    /// Switches that could not be set, as sentences for the log. Traffic flows without them; the twin is less
    /// well guarded (a container with a read-only /proc/sys is the usual reason).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What would fail later, or silently not work, is refused before anything is changed.
    fn check(&self, wanted: &[(IpNet, Role)]) -> Result<(), KernelError> {
        let ifname = &self.link.ifname;
        if let Some((address, _)) = wanted.iter().find(|(address, _)| matches!(address, IpNet::V6(_))) {
            if !Path::new("/proc/sys/net/ipv6/conf").join(ifname).exists() {
                return Err(KernelError::NoIpv6 { ifname: ifname.clone(), address: address.addr() });
            }
            // A host that switches IPv6 off by default gets it here, on our own interface, because the rules
            // say so.
            let switch = Sysctl::new("ipv6", "conf", ifname, "disable_ipv6");
            switch.set(0).map_err(|message| KernelError::Io {
                what: format!("enable IPv6 on {ifname}"),
                source: io::Error::other(message),
            })?;
        }
        let arp_ignore = effective_ipv4_conf(ifname, "arp_ignore");
        let answered =
            |(address, role): &(IpNet, Role)| *role == Role::Answered && matches!(address, IpNet::V4(_));
        if arp_ignore > 1 && wanted.iter().any(answered) {
            return Err(KernelError::ArpIgnoreAll { value: arp_ignore });
        }
        Ok(())
    }

    fn announcer(&self) -> Announcer {
        Announcer { ifname: self.link.ifname.clone(), ifindex: self.link.ifindex, mac: self.link.mac }
    }

    /// Whether it was not there before.
    async fn place(&mut self, address: IpNet, role: Role) -> Result<bool, KernelError> {
        match self.placed.get(&address) {
            Some(&placed) if placed == role => return Ok(false),
            Some(_) => self.withdraw(address).await?,
            None => {}
        }
        let mut request = self.handle.address().add(self.link.ifindex, address.addr(), address.prefix_len());
        let message = request.message_mut();
        match (address, role) {
            (IpNet::V4(_), Role::Own) => {}
            (IpNet::V4(_), Role::Answered) => message.header.scope = AddressScope::Host,
            (IpNet::V6(_), role) => {
                // The address is ours by the rules, and a probe for it could come back through the port.
                message.header.flags |= AddressHeaderFlags::Nodad;
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                if role == Role::Answered {
                    message.attributes.push(AddressAttribute::CacheInfo(deprecated()));
                }
            }
        }
        match request.execute().await.map_err(|error| (as_io(error.clone()).kind(), error)) {
            Ok(()) => {
                self.placed.insert(address, role);
                Ok(true)
            }
            Err((io::ErrorKind::AlreadyExists, _)) => Ok(false),
            Err((_, error)) => Err(refused(format!("put {address} on {}", self.link.ifname))(error)),
        }
    }

    async fn withdraw(&mut self, address: IpNet) -> Result<(), KernelError> {
        let mut request = self.handle.address().add(self.link.ifindex, address.addr(), address.prefix_len());
        let message = request.message_mut().clone();
        match self
            .handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(|error| (as_io(error.clone()).kind(), error))
        {
            // Somebody else took it away already.
            Ok(()) | Err((io::ErrorKind::AddrNotAvailable, _)) => drop(self.placed.remove(&address)),
            Err((_, error)) => {
                return Err(refused(format!("take {address} off {}", self.link.ifname))(error));
            }
        }
        Ok(())
    }
}

/// Valid for ever, preferred never: RFC 6724 section 5 rule 3 avoids such an address as a source, and
/// neighbour discovery answers for it all the same.
fn deprecated() -> CacheInfo {
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_preferred = 0;
    lifetimes.ifa_valid = u32::MAX;
    lifetimes
}

/// Every address with its role, the port's own first and in the order of the rules. A VIP that is also one of
/// the port's own addresses is answered for already.
fn wanted_addresses(settings: &TwinSettings) -> Vec<(IpNet, Role)> {
    let own = settings.addresses.iter().map(|&address| (address, Role::Own));
    let is_own = |address: &IpAddr| settings.addresses.iter().any(|own| own.addr() == *address);
    let ranges = settings.vips.iter().chain(&settings.local_addresses);
    let answered = ranges.flat_map(|range| Prefix::new(range.network(), range.prefix_len()).addresses());
    let answered = answered.filter(|address| !is_own(address));
    own.chain(answered.map(|address| (IpNet::from(address), Role::Answered))).collect()
}

/// The twin's switches; returns those that could not be set.
fn set_switches(ifname: &str) -> Vec<String> {
    let conf = |key, value| (Sysctl::new("ipv4", "conf", ifname, key), value);
    let mut wanted = vec![
        // ARP goes out with the subnet's own address, not with a VIP whose ping is being answered.
        conf("arp_announce", 2),
        // Taking a subnet's first address off must not take the others with it.
        conf("promote_secondaries", 1),
        // After three unanswered unicast probes ask everybody before giving up: a new MAC is found without a
        // gap.
        (Sysctl::new("ipv4", "neigh", ifname, "mcast_resolicit"), 3),
    ];
    if effective_ipv4_conf(ifname, "arp_ignore") == 0 {
        // A port answers for its own addresses and not for those of another twin; VIPs stand on every twin.
        wanted.push(conf("arp_ignore", 1));
    }
    if effective_ipv4_conf(ifname, "rp_filter") == 1 {
        // Clients of a VIP come in by any port while the way back is one route: loose, not strict.
        wanted.push(conf("rp_filter", 2));
    }
    if Path::new("/proc/sys/net/ipv6/conf").join(ifname).exists() {
        // The link-local address must work at once, and the port can hear its own probe.
        wanted.push((Sysctl::new("ipv6", "conf", ifname, "accept_dad"), 0));
        // A port's addresses and routes are those of the rules and of whoever runs routing here, and not of any host on
        // the link that says it is a router (RFC 4861 section 6.3.4).
        wanted.push((Sysctl::new("ipv6", "conf", ifname, "accept_ra"), 0));
    }
    wanted.into_iter().filter_map(|(switch, value)| switch.set(value).err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_counts_whole_and_an_own_address_is_placed_once() {
        let settings = TwinSettings {
            addresses: vec!["192.0.2.5/24".parse().unwrap()],
            vips: vec!["203.0.113.10/31".parse().unwrap(), "192.0.2.5/32".parse().unwrap()],
            local_addresses: vec!["192.0.2.64/30".parse().unwrap(), "2001:db8::40/127".parse().unwrap()],
            mtu: None,
        };
        let wanted: Vec<String> =
            wanted_addresses(&settings).iter().map(|(a, role)| format!("{a} {role:?}")).collect();
        assert_eq!(
            wanted,
            [
                "192.0.2.5/24 Own",
                "203.0.113.10/32 Answered",
                "203.0.113.11/32 Answered",
                "192.0.2.64/32 Answered",
                "192.0.2.65/32 Answered",
                "192.0.2.66/32 Answered",
                "192.0.2.67/32 Answered",
                "2001:db8::40/128 Answered",
                "2001:db8::41/128 Answered",
            ]
        );
    }
}
