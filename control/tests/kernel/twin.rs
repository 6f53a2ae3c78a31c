//! A twin's addresses come and go, are answered for, and are never a source they should not be.

use std::net::IpAddr;

use control::kernel::{KernelError, Twin, TwinSettings, connect};

use crate::netns::{NetNs, captured};

fn settings(addresses: &[&str], vips: &[&str], local_addresses: &[&str]) -> TwinSettings {
    TwinSettings {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        vips: vips.iter().map(|text| text.parse::<IpAddr>().unwrap().into()).collect(),
        local_addresses: local_addresses.iter().map(|text| text.parse().unwrap()).collect(),
        mtu: None,
    }
}

/// Director with `xd0` up to a peer with `up0` at 192.0.2.9 that reaches 203.0.113.0/24 there.
fn director_and_peer() -> (NetNs, NetNs) {
    let (director, peer) = (NetNs::new(), NetNs::new());
    director.cable("xd0", &peer, "up0");
    peer.run("ip addr add 192.0.2.9/24 dev up0 && ip route add 203.0.113.0/24 dev up0");
    (director, peer)
}

#[test]
fn addresses_appear_and_vanish_and_those_of_others_stay() {
    let director = NetNs::new();
    director.run("ip tuntap add dev xd0 mode tap && ip addr add 203.0.113.77/32 dev xd0");
    let shown = || director.run("ip -o addr show dev xd0");
    director.block_on(async || {
        let both = settings(
            &["192.0.2.5/24", "2001:db8::5/64"],
            &["203.0.113.10", "203.0.113.77"],
            &["192.0.2.64/30"],
        );
        let mut twin = Twin::configure(connect().unwrap(), "xd0", both.clone()).await.unwrap();
        assert_eq!(twin.warnings(), [] as [String; 0]);
        assert_eq!(twin.ifindex(), director.ifindex("xd0"));
        let up = shown();
        for address in ["192.0.2.5/24", "2001:db8::5/64", "203.0.113.10/32", "192.0.2.64/32", "192.0.2.67/32"]
        {
            assert!(up.contains(&format!(" {address} ")), "{address} is missing in\n{up}");
        }
        assert!(!up.contains("tentative"), "an IPv6 address waits for DAD:\n{up}");

        twin.sync_vips(&["203.0.113.11/32".parse().unwrap()]).await.unwrap();
        let reloaded = shown();
        assert!(reloaded.contains("203.0.113.11/32") && !reloaded.contains("203.0.113.10/32"), "{reloaded}");
        assert!(reloaded.contains("203.0.113.77/32"), "an address of somebody else was taken:\n{reloaded}");
        assert!(reloaded.contains("192.0.2.5/24"), "{reloaded}");

        twin.sync(TwinSettings { mtu: Some(1400), ..settings(&[], &[], &[]) }).await.unwrap();
        let down = shown();
        assert!(!down.contains("192.0.2.") && !down.contains("2001:db8"), "{down}");
        assert!(down.contains("203.0.113.77/32"), "{down}");
        assert!(director.run("ip link show dev xd0").contains("mtu 1400"));
    });
}

#[test]
fn a_renumbered_port_keeps_its_other_addresses_and_its_gateway() {
    let (director, _peer) = director_and_peer();
    director.block_on(async || {
        let before = settings(&["192.0.2.5/24", "192.0.2.6/24"], &[], &[]);
        let mut twin = Twin::configure(connect().unwrap(), "xd0", before).await.unwrap();
        director.run("ip route add default via 192.0.2.9");
        twin.sync(settings(&["192.0.2.6/24", "192.0.2.7/24"], &[], &[])).await.unwrap();
        let shown = director.run("ip -o -4 addr show dev xd0");
        assert!(
            shown.contains("192.0.2.6/24") && shown.contains("192.0.2.7/24") && !shown.contains("2.5/24"),
            "{shown}"
        );
        assert!(
            director.run("ip route").contains("default via 192.0.2.9"),
            "the gateway went with the address"
        );
    });
}

#[test]
fn the_kernel_answers_for_vips_and_local_addresses_until_they_are_withdrawn() {
    let (director, peer) = director_and_peer();
    director.block_on(async || {
        let wanted = settings(&["192.0.2.5/24"], &["203.0.113.10"], &["192.0.2.64/31"]);
        let mut twin = Twin::configure(connect().unwrap(), "xd0", wanted).await.unwrap();
        for address in ["192.0.2.5", "203.0.113.10", "192.0.2.64", "192.0.2.65"] {
            assert!(peer.arp_answered("up0", address), "no ARP answer for {address}");
        }
        peer.run("ping -c 1 -W 5 203.0.113.10");
        assert!(!peer.arp_answered("up0", "203.0.113.11"), "answered for an address nobody has");
        twin.sync_vips(&[]).await.unwrap();
        assert!(!peer.arp_answered("up0", "203.0.113.10"), "still answered after it was withdrawn");
    });
}

#[test]
fn the_kernel_calls_from_its_own_address_and_never_from_a_vip() {
    let (director, _peer) = director_and_peer();
    director.block_on(async || {
        // A VIP and a pool inside the port's own subnet, lower than its address: the worst case for a
        // careless choice.
        let wanted =
            settings(&["192.0.2.5/24", "2001:db8::5/64"], &["192.0.2.1", "2001:db8::1"], &["192.0.2.2/31"]);
        let mut twin = Twin::configure(connect().unwrap(), "xd0", wanted.clone()).await.unwrap();
        director.run("ip route add default via 192.0.2.9 && ip route add 198.51.100.0/24 dev xd0 scope link");
        for target in ["192.0.2.9", "192.0.2.1", "8.8.8.8", "198.51.100.1"] {
            let chosen = director.run(&format!("ip route get {target}"));
            let own = chosen.contains("src 192.0.2.5") || chosen.starts_with("local 192.0.2.1");
            assert!(own, "towards {target}: {chosen}");
        }
        let chosen = director.run("ip -6 route get 2001:db8::9");
        assert!(chosen.contains("src 2001:db8::5"), "{chosen}");

        // A port that was renumbered has its own address last in the kernel's list, and still calls from it.
        let own = ["192.0.2.7/24", "2001:db8::5/64"].map(|text| text.parse().unwrap());
        twin.sync(TwinSettings { addresses: own.into(), ..wanted }).await.unwrap();
        for target in ["192.0.2.9", "198.51.100.1"] {
            let chosen = director.run(&format!("ip route get {target}"));
            assert!(chosen.contains("src 192.0.2.7"), "towards {target}: {chosen}");
        }
    });
}

#[test]
fn an_arp_request_for_a_pinging_client_carries_the_ports_own_address() {
    let (director, peer) = director_and_peer();
    director.block_on(async || {
        let wanted = settings(&["192.0.2.5/24"], &["203.0.113.10"], &[]);
        let _twin = Twin::configure(connect().unwrap(), "xd0", wanted).await.unwrap();
        // The peer knows the director's MAC and the director does not know the peer's: the answer has to ask
        // first.
        let mac = director.mac("xd0").map(|byte| format!("{byte:02x}")).join(":");
        peer.run(&format!("ip neigh replace 203.0.113.10 dev up0 lladdr {mac} nud permanent"));
        let request = peer.capture("up0 -Q in", "arp[6:2] = 1");
        peer.run("ping -c 1 -W 5 203.0.113.10");
        let request = captured(request);
        assert!(request.contains("who-has 192.0.2.9 tell 192.0.2.5"), "{request}");
    });
}

#[test]
fn a_network_of_vips_is_answered_for_address_by_address() {
    let (director, peer) = director_and_peer();
    peer.run("ip addr add 2001:db8::9/64 dev up0 nodad");
    director.block_on(async || {
        let mut wanted = settings(&["192.0.2.5/24", "2001:db8::5/64"], &[], &["2001:db8::40/126"]);
        wanted.vips = vec!["203.0.113.16/30".parse().unwrap()];
        let _twin = Twin::configure(connect().unwrap(), "xd0", wanted).await.unwrap();
        for address in ["203.0.113.16", "203.0.113.19"] {
            assert!(peer.arp_answered("up0", address), "no ARP answer for {address}");
        }
        assert!(!peer.arp_answered("up0", "203.0.113.20"), "answered for an address nobody has");
        for address in ["2001:db8::40", "2001:db8::43"] {
            peer.run(&format!("ping -c 1 -W 5 {address}"));
        }
        let chosen = director.run("ip -6 route get 2001:db8::9");
        assert!(chosen.contains("src 2001:db8::5"), "{chosen}");
        let accepted = director.run("cat /proc/sys/net/ipv6/conf/xd0/accept_ra");
        assert_eq!(accepted.trim(), "0", "another host's word for a router is taken");
    });
}

#[test]
fn an_ipv6_vip_is_answered_at_once() {
    let (director, peer) = director_and_peer();
    peer.run("ip addr add 2001:db8::9/64 dev up0 nodad && ip -6 route add 2001:db8:1::/64 dev up0");
    director.block_on(async || {
        let wanted = settings(&["2001:db8::5/64"], &["2001:db8:1::10"], &[]);
        let _twin = Twin::configure(connect().unwrap(), "xd0", wanted).await.unwrap();
        peer.run("ping -c 1 -W 5 2001:db8:1::10");
    });
}

#[test]
fn a_vip_is_answered_on_the_port_that_has_it_and_on_no_other() {
    let (director, peer) = director_and_peer();
    let other = NetNs::new();
    director.cable("xd1", &other, "up1");
    other.run("ip addr add 198.51.100.9/24 dev up1");
    director.block_on(async || {
        let front = settings(&["192.0.2.5/24"], &["203.0.113.10"], &[]);
        let back = settings(&["198.51.100.5/24"], &[], &[]);
        let _front = Twin::configure(connect().unwrap(), "xd0", front).await.unwrap();
        let _back = Twin::configure(connect().unwrap(), "xd1", back).await.unwrap();
        assert!(peer.arp_answered("up0", "203.0.113.10"));
        assert!(!other.arp_answered("up1", "203.0.113.10"), "the other port answers for the VIP as well");
        assert!(other.arp_answered("up1", "198.51.100.5"));
    });
}

#[test]
fn what_cannot_work_is_refused_with_a_way_out() {
    let (director, _peer) = director_and_peer();
    director.block_on(async || {
        let error = Twin::configure(connect().unwrap(), "dx0", settings(&[], &[], &[])).await.unwrap_err();
        assert!(matches!(&error, KernelError::NoInterface { present, .. } if present[0] == "xd0"), "{error}");

        director.run("echo 3 > /proc/sys/net/ipv4/conf/all/arp_ignore");
        let wanted = settings(&["192.0.2.5/24"], &["203.0.113.10"], &[]);
        let error = Twin::configure(connect().unwrap(), "xd0", wanted).await.unwrap_err();
        assert!(matches!(error, KernelError::ArpIgnoreAll { value: 3 }), "{error}");
        assert!(!director.run("ip addr show dev xd0").contains("192.0.2.5"), "half of it was done");
    });
}
