//! Where packets for a backend go: what the kernel's routes and neighbour entries, put together, say.
//!
//! Pure: no socket, no clock. [`super::neighbours`] feeds it with what netlink tells and publishes its rows.
//! Read first: `rtnetlink(7)`, RTM_NEWNEIGH; the kernel's `include/uapi/linux/neighbour.h` for the NUD
//! states.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use netlink_packet_route::{
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

/// Every wanted target with its next hop, or with the reason why there is none.
pub type NextHops = BTreeMap<IpAddr, Result<NextHop, Unresolved>>;

/// The port and the layer-2 neighbour that packets for a target are handed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the port, as given in [`super::Wanted::ports`].
    pub port_index: usize,
    /// The port's twin in the kernel.
    pub ifindex: u32,
    /// The neighbour's address: the target itself, or the gateway towards it.
    pub next_hop: IpAddr,
    /// The neighbour's MAC, in wire order.
    pub mac: [u8; 6],
}

/// Why a target has no next hop now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// The kernel has no route, or one that says no.
    NoRoute {
        /// The kernel's answer.
        reason: String,
    },
    /// The target is one of this host's own addresses.
    OwnAddress,
    /// The route needs what Crossdock does not do: a label, a broadcast or multicast target.
    Unsupported {
        /// What the route needs.
        reason: String,
    },
    /// The route leaves by an interface that is no port's twin.
    ForeignInterface {
        /// That interface's name.
        ifname: String,
    },
    /// The kernel is asking for the MAC.
    Asking {
        /// Whom it asks for.
        next_hop: IpAddr,
    },
    /// Nobody answered ARP or neighbour discovery; the kernel keeps asking.
    NoAnswer {
        /// Whom it asked for.
        next_hop: IpAddr,
    },
    /// The kernel would not take the neighbour entry (the interface is down, the neighbour table is full).
    Refused {
        /// The neighbour.
        next_hop: IpAddr,
        /// The kernel's answer.
        reason: String,
    },
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute { reason } => write!(f, "the kernel has no route to it ({reason})"),
            Self::OwnAddress => write!(f, "it is an address of this host"),
            Self::Unsupported { reason } => write!(f, "its route needs {reason}"),
            Self::ForeignInterface { ifname } => {
                write!(f, "its route leaves by {ifname}, which is the kernel twin of no port")
            }
            Self::Asking { next_hop } => {
                write!(f, "waiting for {next_hop} to answer {}", question(*next_hop))
            }
            Self::NoAnswer { next_hop } => write!(f, "{next_hop} does not answer {}", question(*next_hop)),
            Self::Refused { next_hop, reason } => {
                write!(f, "the kernel takes no neighbour entry for {next_hop} ({reason})")
            }
        }
    }
}

/// How the kernel asks a neighbour for its MAC.
const fn question(next_hop: IpAddr) -> &'static str {
    if next_hop.is_ipv4() { "ARP" } else { "neighbour discovery" }
}

/// A neighbour's place: the interface index and its address there.
pub(super) type Hop = (u32, IpAddr);

/// What a neighbour entry said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) state: NeighbourState,
    /// Wire order; `None` while the kernel does not know it.
    pub(super) mac: Option<[u8; 6]>,
}

impl Entry {
    /// The MAC while the kernel itself would send to it. A stale one is good until it is proved wrong.
    fn usable_mac(self) -> Option<[u8; 6]> {
        use NeighbourState as State;
        match self.state {
            State::Reachable
            | State::Stale
            | State::Delay
            | State::Probe
            | State::Permanent
            | State::Noarp => self.mac,
            _ => None,
        }
    }
}

/// An IPv4 or IPv6 entry of the neighbour table out of its message; `None` for other families, and for addresses that this
/// host answers for as a proxy.
pub(super) fn parse_neighbour(message: &NeighbourMessage) -> Option<(Hop, Entry)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), Entry { state: message.header.state, mac }))
}

/// The neighbour that a route to `target` leads to. It may be of the other family: an IPv4 route by an IPv6 gateway
/// (RFC 8950, RFC 5549 before it) needs the gateway's MAC and nothing else of it.
pub(super) fn parse_route(target: IpAddr, message: &RouteMessage) -> Result<Hop, Unresolved> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(Unresolved::OwnAddress),
        other => return Err(Unresolved::Unsupported { reason: format!("a {other:?} target") }),
    }
    let mut ifindex = None;
    let mut next_hop = target;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => ifindex = Some(*oif),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => {
                next_hop = IpAddr::V4(*gateway);
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
                next_hop = IpAddr::V6(*gateway);
            }
            RouteAttribute::Via(via) => {
                return Err(Unresolved::Unsupported { reason: format!("the gateway {via:?}") });
            }
            _ => {}
        }
    }
    let no_interface = || Unresolved::NoRoute { reason: "the route names no interface".into() };
    Ok((ifindex.ok_or_else(no_interface)?, next_hop))
}

/// Everything known, from which the rows follow.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Twin interface index to port index.
    pub(super) ports: BTreeMap<u32, usize>,
    /// Each target's route, as far as it leaves by a twin.
    pub(super) routes: BTreeMap<IpAddr, Result<Hop, Unresolved>>,
    /// Entries on the twins.
    pub(super) entries: HashMap<Hop, Entry>,
    /// Neighbours the kernel would not take, with its answer.
    pub(super) refused: BTreeMap<Hop, String>,
}

impl Table {
    /// The neighbours that the routes need.
    pub(super) fn hops(&self) -> BTreeSet<Hop> {
        self.routes.values().filter_map(|route| route.as_ref().ok()).copied().collect()
    }

    /// The answer for every target.
    pub(super) fn rows(&self) -> NextHops {
        let row = |route: &Result<Hop, Unresolved>| route.clone().and_then(|hop| self.row(hop));
        self.routes.iter().map(|(&target, route)| (target, row(route))).collect()
    }

    fn row(&self, hop: Hop) -> Result<NextHop, Unresolved> {
        let (ifindex, next_hop) = hop;
        let entry = self.entries.get(&hop);
        if let (Some(mac), Some(&port_index)) =
            (entry.and_then(|entry| entry.usable_mac()), self.ports.get(&ifindex))
        {
            return Ok(NextHop { port_index, ifindex, next_hop, mac });
        }
        Err(match (self.refused.get(&hop), entry.map(|entry| entry.state)) {
            (Some(reason), _) => Unresolved::Refused { next_hop, reason: reason.clone() },
            (None, Some(NeighbourState::Failed)) => Unresolved::NoAnswer { next_hop },
            (None, _) => Unresolved::Asking { next_hop },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));
    const GATEWAY: IpAddr = IpAddr::V4(GATEWAY_V4);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn table(state: NeighbourState) -> Table {
        let mut table = Table::default();
        table.ports.insert(4, 1);
        table.routes.insert(TARGET, Ok((4, GATEWAY)));
        table.entries.insert((4, GATEWAY), Entry { state, mac: Some(MAC) });
        table
    }

    #[test]
    fn a_stale_mac_serves_and_a_failed_one_does_not() {
        let hop = NextHop { port_index: 1, ifindex: 4, next_hop: GATEWAY, mac: MAC };
        assert_eq!(table(NeighbourState::Stale).rows()[&TARGET], Ok(hop));
        let no_answer = Unresolved::NoAnswer { next_hop: GATEWAY };
        assert_eq!(table(NeighbourState::Failed).rows()[&TARGET], Err(no_answer));
    }

    #[test]
    fn targets_behind_one_gateway_need_one_neighbour() {
        let mut table = table(NeighbourState::Reachable);
        table.routes.insert(Ipv4Addr::new(10, 0, 0, 12).into(), Ok((4, GATEWAY)));
        assert_eq!(table.hops().len(), 1);
    }

    #[test]
    fn an_unknown_neighbour_is_being_asked_for_and_a_refused_one_says_why() {
        let mut table = table(NeighbourState::Reachable);
        table.entries.clear();
        assert_eq!(table.rows()[&TARGET], Err(Unresolved::Asking { next_hop: GATEWAY }));
        table.refused.insert((4, GATEWAY), "Network is down".into());
        assert!(matches!(table.rows()[&TARGET], Err(Unresolved::Refused { .. })));
    }

    #[test]
    fn a_local_route_is_told_from_a_gateway_route() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Local;
        assert_eq!(parse_route(TARGET, &message), Err(Unresolved::OwnAddress));
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(4));
        assert_eq!(parse_route(TARGET, &message), Ok((4, TARGET)));
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY_V4)));
        assert_eq!(parse_route(TARGET, &message), Ok((4, GATEWAY)));
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        for gateway in [
            RouteAttribute::Gateway(RouteAddress::Inet6(router)),
            RouteAttribute::Via(RouteVia::Inet6(router)),
        ] {
            message.attributes.pop();
            message.attributes.push(gateway);
            assert_eq!(parse_route(TARGET, &message), Ok((4, router.into())));
        }
    }
}
