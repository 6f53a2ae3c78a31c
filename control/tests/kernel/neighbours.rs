//! Next hops follow the kernel's routes and neighbours, and the entries stay fresh by themselves.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use control::kernel::{Neighbours, NextHop, NextHops, Refresh, Unresolved, Wanted};
use tokio::sync::watch;

use crate::netns::NetNs;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

/// A director with two ports: `xd0` to a peer at 192.0.2.9, `xd1` to another at 198.51.100.9.
struct Lab {
    director: NetNs,
    peer: NetNs,
    other: NetNs,
}

impl Lab {
    fn new() -> Self {
        let (director, peer, other) = (NetNs::new(), NetNs::new(), NetNs::new());
        director.cable("xd0", &peer, "up0");
        director.cable("xd1", &other, "up1");
        director.run("ip addr add 192.0.2.5/24 dev xd0 && ip addr add 198.51.100.5/24 dev xd1");
        peer.run("ip addr add 192.0.2.9/24 dev up0");
        other.run("ip addr add 198.51.100.9/24 dev up1");
        Self { director, peer, other }
    }

    /// Both ports as ports 0 and 1.
    fn wanted(&self, targets: &[IpAddr]) -> Wanted {
        let ports = [(self.director.ifindex("xd0"), 0), (self.director.ifindex("xd1"), 1)];
        Wanted { ports: ports.into(), targets: targets.iter().copied().collect() }
    }

    fn entries(&self, ifname: &str) -> String {
        self.director.run(&format!("ip neigh show dev {ifname}"))
    }
}

/// Waits until the row of `target` is as `expected` says.
async fn row(
    rows: &mut watch::Receiver<Arc<NextHops>>,
    target: IpAddr,
    expected: impl Fn(&Result<NextHop, Unresolved>) -> bool,
) -> Result<NextHop, Unresolved> {
    let seen =
        rows.wait_for(|rows| rows.get(&target).is_some_and(&expected)).await.expect("the watcher ended");
    seen[&target].clone()
}

fn has_mac(mac: [u8; 6]) -> impl Fn(&Result<NextHop, Unresolved>) -> bool {
    move |row| row.as_ref().is_ok_and(|hop| hop.mac == mac)
}

#[test]
fn a_neighbour_is_resolved_managed_followed_and_given_back() {
    let lab = Lab::new();
    lab.director.block_on(async || {
        let neighbours = Neighbours::start(lab.wanted(&[PEER]), Refresh::of_this_kernel()).await.unwrap();
        let mut rows = neighbours.next_hops();
        let mac = lab.peer.mac("up0");
        let hop = row(&mut rows, PEER, Result::is_ok).await.unwrap();
        assert_eq!(hop, NextHop { port_index: 0, ifindex: lab.director.ifindex("xd0"), next_hop: PEER, mac });
        assert!(lab.entries("xd0").contains("managed"), "{}", lab.entries("xd0"));

        lab.peer.run("ip link set up0 address 02:00:00:00:00:77 && arping -c 1 -A -I up0 192.0.2.9 || true");
        row(&mut rows, PEER, has_mac([2, 0, 0, 0, 0, 0x77])).await.unwrap();

        // What others remove comes back; what we no longer want goes.
        lab.director.run("ip neigh flush dev xd0");
        while !lab.entries("xd0").contains("managed") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        row(&mut rows, PEER, Result::is_ok).await.unwrap();
        neighbours.set_wanted(lab.wanted(&[]));
        rows.wait_for(|rows| rows.is_empty()).await.unwrap();
        assert!(!lab.entries("xd0").contains("managed"), "{}", lab.entries("xd0"));

        neighbours.set_wanted(lab.wanted(&[PEER]));
        row(&mut rows, PEER, Result::is_ok).await.unwrap();
        neighbours.stop().await;
        assert!(!lab.entries("xd0").contains("managed"), "{}", lab.entries("xd0"));
    });
}

#[test]
fn a_new_mac_is_found_without_any_announcement() {
    let lab = Lab::new();
    // The kernel's half minute of trust, shortened; the rest of the way is the managed entry's own.
    lab.director.run("echo 500 > /proc/sys/net/ipv4/neigh/xd0/base_reachable_time_ms");
    lab.director.run("echo 3 > /proc/sys/net/ipv4/neigh/xd0/mcast_resolicit");
    for refresh in [Refresh::Managed, Refresh::Use] {
        lab.director.block_on(async || {
            let neighbours = Neighbours::start(lab.wanted(&[PEER]), refresh).await.unwrap();
            let mut rows = neighbours.next_hops();
            row(&mut rows, PEER, Result::is_ok).await.unwrap();
            let last = if refresh == Refresh::Managed { 0x78 } else { 0x79 };
            lab.peer.run(&format!("ip link set up0 address 02:00:00:00:00:{last:02x}"));
            row(&mut rows, PEER, has_mac([2, 0, 0, 0, 0, last])).await.unwrap();
            neighbours.stop().await;
        });
    }
}

#[test]
fn a_gateway_is_followed_from_one_port_to_another() {
    let lab = Lab::new();
    lab.director.run("ip route add 10.9.9.0/24 via 192.0.2.9");
    lab.director.block_on(async || {
        let neighbours = Neighbours::start(lab.wanted(&[REMOTE]), Refresh::Managed).await.unwrap();
        let mut rows = neighbours.next_hops();
        let hop = row(&mut rows, REMOTE, Result::is_ok).await.unwrap();
        assert_eq!((hop.port_index, hop.next_hop, hop.mac), (0, PEER, lab.peer.mac("up0")));

        lab.director.run("ip route replace 10.9.9.0/24 via 198.51.100.9");
        let hop = row(&mut rows, REMOTE, has_mac(lab.other.mac("up1"))).await.unwrap();
        assert_eq!((hop.port_index, hop.next_hop), (1, IpAddr::from([198, 51, 100, 9])));
        assert!(!lab.entries("xd0").contains("managed"), "the old gateway is still managed");

        lab.director.run("ip route del 10.9.9.0/24");
        let gone = row(&mut rows, REMOTE, Result::is_err).await;
        assert!(matches!(gone, Err(Unresolved::NoRoute { .. })), "{gone:?}");
    });
}

#[test]
fn ipv6_neighbours_and_gateways_are_resolved_managed_and_given_back() {
    let lab = Lab::new();
    lab.director.run("ip addr add 2001:db8::5/64 dev xd0 nodad && ip addr add fe80::5/64 dev xd0 nodad");
    lab.peer.run("ip addr add 2001:db8::9/64 dev up0 nodad && ip addr add fe80::9/64 dev up0 nodad");
    lab.director.run("ip route add 2001:db8:9::/64 via fe80::9 dev xd0");
    // RFC 8950: an IPv4 network behind an IPv6 router.
    lab.director.run("ip route add 10.9.9.0/24 via inet6 fe80::9 dev xd0");
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (on_link, remote, router) = (address("2001:db8::9"), address("2001:db8:9::9"), address("fe80::9"));
    let (own, silent) = (address("2001:db8::5"), address("2001:db8::77"));
    lab.director.block_on(async || {
        let wanted = lab.wanted(&[on_link, remote, REMOTE, own, silent]);
        let neighbours = Neighbours::start(wanted, Refresh::of_this_kernel()).await.unwrap();
        let mut rows = neighbours.next_hops();
        for (target, next_hop) in [(on_link, on_link), (remote, router), (REMOTE, router)] {
            let hop = row(&mut rows, target, Result::is_ok).await.unwrap();
            assert_eq!((hop.port_index, hop.next_hop, hop.mac), (0, next_hop, lab.peer.mac("up0")));
        }
        assert_eq!(row(&mut rows, own, Result::is_err).await, Err(Unresolved::OwnAddress));
        let no_answer = Err(Unresolved::NoAnswer { next_hop: silent });
        row(&mut rows, silent, |row| *row == no_answer).await.unwrap_err();
        assert!(lab.entries("xd0").contains("fe80::9"), "{}", lab.entries("xd0"));

        lab.director.run("ip neigh flush dev xd0");
        row(&mut rows, on_link, Result::is_err).await.unwrap_err();
        row(&mut rows, on_link, Result::is_ok).await.unwrap();
        lab.director.run("ip route replace 2001:db8:9::/64 via 2001:db8::9 dev xd0");
        row(&mut rows, remote, |row| row.as_ref().is_ok_and(|hop| hop.next_hop == on_link)).await.unwrap();
        neighbours.stop().await;
        assert!(!lab.entries("xd0").contains("managed"), "{}", lab.entries("xd0"));
    });
}

#[test]
fn a_link_that_goes_down_and_up_again_heals() {
    let lab = Lab::new();
    lab.director.block_on(async || {
        let neighbours = Neighbours::start(lab.wanted(&[PEER]), Refresh::Managed).await.unwrap();
        let mut rows = neighbours.next_hops();
        row(&mut rows, PEER, Result::is_ok).await.unwrap();
        lab.director.run("ip link set xd0 down");
        row(&mut rows, PEER, Result::is_err).await.unwrap_err();
        lab.director.run("ip link set xd0 up");
        row(&mut rows, PEER, Result::is_ok).await.unwrap();
    });
}

#[test]
fn what_is_not_ours_is_told_and_not_touched() {
    let lab = Lab::new();
    lab.director.run("ip route add 10.9.9.0/24 via 198.51.100.9");
    lab.director.run("ip neigh add 192.0.2.50 dev xd0 lladdr 02:00:00:00:00:50 nud permanent");
    let typed = IpAddr::from([192, 0, 2, 50]);
    let own = IpAddr::from([192, 0, 2, 5]);
    lab.director.block_on(async || {
        let mut wanted = lab.wanted(&[REMOTE, typed, own, SILENT]);
        wanted.ports.retain(|_, port_index| *port_index == 0);
        let neighbours = Neighbours::start(wanted, Refresh::Managed).await.unwrap();
        let mut rows = neighbours.next_hops();
        let foreign = row(&mut rows, REMOTE, Result::is_err).await;
        assert_eq!(foreign, Err(Unresolved::ForeignInterface { ifname: "xd1".into() }));
        assert!(!lab.entries("xd1").contains("managed"), "an interface that is not ours was touched");
        row(&mut rows, typed, has_mac([2, 0, 0, 0, 0, 0x50])).await.unwrap();
        assert_eq!(row(&mut rows, own, Result::is_err).await, Err(Unresolved::OwnAddress));
        let no_answer = Err(Unresolved::NoAnswer { next_hop: SILENT });
        row(&mut rows, SILENT, |row| *row == no_answer).await.unwrap_err();
        neighbours.stop().await;
        assert!(lab.entries("xd0").contains("02:00:00:00:00:50 PERMANENT"), "{}", lab.entries("xd0"));
    });
}
