//! The routes to check addresses: the kernel's packets to backends whose health is checked leave by a twin, where the slow
//! path takes them. To the kernel there is a router, with a MAC that nobody has; nobody is ever asked for it.
//!
//! They end with the twin's TAP, however the process ends. Read first: docs/decisions/0011-health-checks.md; ip-route(8), `onlink`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::prefix::Prefix;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::{KernelError, as_io, refused};

/// The MAC of the router that is not there: locally administered, "check" on a telephone's keys.
const MAC: [u8; 6] = [0x02, 0x02, 0x43, 0x25, 0x00, 0x00];
/// Bytes of a packet on these routes, the least there is of IPv6: checks have little to say, and it fits with any tunnel's header
/// in front where 1,332 bytes fit.
const MTU: u32 = 1_280;

/// A route to a network of check addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckRoute {
    /// The check addresses.
    pub network: Prefix,
    /// The address of the router that the kernel sends them to, of the same family.
    pub gateway: IpAddr,
    /// The twin's interface index.
    pub ifindex: u32,
}

/// The routes this process has made.
#[derive(Debug, Default)]
pub struct CheckRoutes(BTreeMap<Prefix, CheckRoute>);

impl CheckRoutes {
    /// Makes the kernel's routes these, and no others of ours.
    ///
    /// # Errors
    /// [`KernelError::Refused`], where the kernel has another route to a network for instance, or [`KernelError::NotPermitted`].
    pub async fn sync(&mut self, handle: &Handle, wanted: &[CheckRoute]) -> Result<(), KernelError> {
        let gone: Vec<_> = self.0.values().filter(|route| !wanted.contains(route)).copied().collect();
        for route in gone {
            let what = format!("remove the route to the check addresses {}", route.network);
            match handle.route().del(message(&route)).execute().await {
                Ok(()) => {}
                // It went with its interface, or somebody else took it away.
                Err(error) if as_io(error.clone()).raw_os_error() == Some(ESRCH) => {}
                Err(error) => return Err(refused(what)(error)),
            }
            self.0.remove(&route.network);
        }
        for route in wanted {
            if self.0.contains_key(&route.network) {
                continue;
            }
            let neighbour = handle.neighbours().add(route.ifindex, route.gateway).replace();
            let neighbour = neighbour.link_layer_address(&MAC).state(NeighbourState::Permanent);
            let what = |what: &str| format!("{what} the check addresses {}", route.network);
            neighbour.execute().await.map_err(refused(what("name a router for")))?;
            match handle.route().add(message(route)).execute().await {
                Ok(()) => drop(self.0.insert(route.network, *route)),
                Err(error) if as_io(error.clone()).kind() == io::ErrorKind::AlreadyExists => {
                    let hint =
                        "make a route to (there is one; let [checks] `addresses` name another network)";
                    return Err(refused(what(hint))(error));
                }
                Err(error) => return Err(refused(what("make a route to"))(error)),
            }
        }
        Ok(())
    }
}

/// The kernel's errno for a route that is not there.
const ESRCH: i32 = 3;

fn message(route: &CheckRoute) -> RouteMessage {
    let len = route.network.prefix_len();
    let mut message = match (route.network.network(), route.gateway) {
        (IpAddr::V4(network), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, len)
            .gateway(gateway)
            .output_interface(route.ifindex)
            .build(),
        (network, gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(as_v6(network), len)
            .gateway(as_v6(gateway))
            .output_interface(route.ifindex)
            .build(),
    };
    // The router is on no network of the twin's.
    message.header.flags.insert(RouteFlags::Onlink);
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(MTU)]));
    message
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
