//! Tunnels to backends behind a router, whose kernel reports on the outer packets: of a narrow link, and of none at all.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced};
use testbed::ends::TunnelEnds;
use testbed::lab::{BACKENDS, Family, Lab};
use testbed::process::until;

use super::tunnels::{KINDS, Kind, rules_of};
use super::{Answers, Network};

/// What the link behind the router takes.
const NARROW: u16 = 1_400;

/// Connects to port 80: prints what the kernel says of that.
const CONNECT: &str = r#"
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(60)
try:
    s.connect((sys.argv[1], 80))
    print("connected")
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"#;

/// Where a tunnel ends, behind the router.
fn far_end(family: Family, number: usize) -> String {
    match family {
        Family::Ipv4 => format!("10.0.9.1{number}"),
        Family::Ipv6 => format!("2001:db8:9::1{number}"),
    }
}

/// The router on the front network knows the ways to the far ends.
fn put_ends_behind_router(lab: &Lab) {
    for number in 1..=BACKENDS {
        for (version, family, via) in
            [("-4", Family::Ipv4, "10.0.0.1"), ("-6", Family::Ipv6, "2001:db8:2::1")]
        {
            let (end, via, mtu) = (far_end(family, number), format!("{via}{number}"), NARROW.to_string());
            lab.succeed(&format!("backend{number}"), &["ip", version, "address", "add", &end, "dev", "lo"]);
            let way = ["ip", version, "route", "add", &end, "via", &via, "dev", "back", "mtu", "lock", &mtu];
            lab.succeed("router", &way);
        }
    }
}

/// The rules with tunnels of `kind` to the far ends.
fn far_rules(kind: &Kind, outer: Family) -> String {
    let mut text = rules_of(kind, outer);
    for number in 1..=BACKENDS {
        let (near, far) = match outer {
            Family::Ipv4 => (format!("\"10.0.0.1{number}\""), format!("\"{}\"", far_end(outer, number))),
            Family::Ipv6 => {
                (format!("\"[2001:db8:2::1{number}]\""), format!("\"[{}]\"", far_end(outer, number)))
            }
        };
        text = replaced(&text, &near, &far);
    }
    text
}

/// The next hop is found when the twin has a route.
fn start(lab: &Lab, rules: &str) -> Director {
    let director = Director::spawn(lab, rules);
    for (version, net, via) in
        [("-4", "10.0.9.0/24", "192.0.2.1"), ("-6", "2001:db8:9::/64", "2001:db8:1::1")]
    {
        let way = ["ip", version, "route", "replace", net, "via", via, "dev", "xd-front"];
        let is_there = || lab.run("director", &way).status.success();
        assert!(until(Duration::from_secs(20), is_there), "no twin: {}", director.stderr());
    }
    director.ready()
}

/// What the client's kernel has heard of the VIP's path.
fn path_mtu(lab: &Lab, family: Family) -> Option<u64> {
    let said = lab.succeed("client", &["ip", "-json", "route", "get", family.vip()]);
    let routes: Value = serde_json::from_str(&said).expect("ip writes JSON");
    routes[0]["metrics"][0]["mtu"].as_u64()
}

fn forget_path_mtu(lab: &Lab) {
    for version in ["-4", "-6"] {
        lab.succeed("client", &["ip", version, "route", "flush", "cache"]);
    }
}

/// Each family with a director that knows nothing yet, and one backend, which so is the one that is known.
fn carries_over_a_narrow_link(kinds: &[Kind]) {
    for (kind, outer) in kinds.iter().flat_map(|kind| Family::BOTH.map(|outer| (kind, outer))) {
        let network = Network::start(Answers::Vip);
        put_ends_behind_router(&network.lab);
        let ends = TunnelEnds::start(&network.lab, kind.end);
        let text = far_rules(kind, outer).replace("weight  = 3", "weight  = 0");
        let text = replaced(&text, "weight  = 1", "weight  = 0");
        for (family, service) in Family::BOTH.into_iter().zip(0..) {
            let director = start(&network.lab, &text);
            network.carries_both_ways(family);
            let fits = u64::from(kind.mtu(outer) - (1_500 - NARROW));
            assert_eq!(path_mtu(&network.lab, family), Some(fits), "{family:?} in {outer:?} {}", kind.end);
            let status = director.status();
            let backend = &status["services"][service]["backends"][0];
            assert_eq!(backend["path_mtu"].as_u64(), Some(NARROW.into()), "{backend}");
            let relayed = status["packets"]["icmp_errors"].as_u64();
            assert!(relayed >= Some(1), "{}", status["packets"]);
            // Every worker knows it by now: the client hears of it before anything is lost.
            forget_path_mtu(&network.lab);
            network.carries_an_upload(family);
            assert_eq!(path_mtu(&network.lab, family), Some(fits));
            assert_eq!(director.status()["packets"]["icmp_errors"].as_u64(), relayed);
            director.stop();
            forget_path_mtu(&network.lab);
        }
        assert_eq!(ends.stop().len(), BACKENDS);
    }
}

#[test]
fn a_narrow_link_in_the_way_of_ipip_and_gre_is_told_to_clients() {
    carries_over_a_narrow_link(&KINDS[..3]);
}

#[test]
fn a_narrow_link_in_the_way_of_gue_is_told_to_clients() {
    carries_over_a_narrow_link(&KINDS[3..]);
}

#[test]
fn a_client_hears_that_a_router_has_no_way_to_the_backend() {
    for outer in Family::BOTH {
        let network = Network::start(Answers::Vip);
        put_ends_behind_router(&network.lab);
        let ends = TunnelEnds::start(&network.lab, "ipip");
        let director = start(&network.lab, &far_rules(&KINDS[0], outer));
        let version = if outer == Family::Ipv4 { "-4" } else { "-6" };
        for number in 1..=BACKENDS {
            let end = far_end(outer, number);
            network.lab.succeed("router", &["ip", version, "route", "delete", &end]);
            network.lab.succeed("router", &["ip", version, "route", "add", "unreachable", &end]);
        }
        for family in Family::BOTH {
            let said = network.lab.succeed("client", &["python3", "-c", CONNECT, family.vip()]);
            assert_eq!(said, "EHOSTUNREACH\n", "{family:?} in {outer:?}");
        }
        assert!(director.status()["packets"]["icmp_errors"].as_u64() >= Some(2));
        assert_eq!(ends.stop().len(), BACKENDS);
    }
}
