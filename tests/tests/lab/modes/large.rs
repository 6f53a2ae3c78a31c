//! Datagrams of 5,000 bytes, which come in fragments, arrive whole. Over af_xdp and libpcap: for af_packet the kernel puts
//! fragments together, to frames that DPDK's driver cuts off.

use std::time::Duration;

use testbed::director::{replaced, rules};
use testbed::ends::{ECHO_PORT, TunnelEnds, ask};
use testbed::lab::{Family, Lab};
use testbed::process::until;

use super::tunnels::{self, KINDS};
use super::{Answers, Network, direct};

/// How many bytes, of which a fragment carries 1,480 at most.
const LARGE: usize = 5_000;

/// A way to an interface of the kernel that leaves packets as they are.
#[derive(Clone, Copy, Debug)]
enum Driver {
    AfXdp,
    Pcap,
}

impl Driver {
    /// The rules with these devices on the same interfaces.
    fn put_into(self, text: &str) -> String {
        let device = |interface: &str, number: u8| match self {
            Self::AfXdp => format!("\"af_xdp:{interface}\""),
            Self::Pcap => format!("\"net_pcap{number},iface={interface}\""),
        };
        let text = replaced(text, "\"af_packet:front\"", &device("front", 0));
        replaced(&text, "\"af_packet:back\"", &device("back", 1))
    }

    fn lab(self) -> Lab {
        let lab = Lab::routed();
        if matches!(self, Self::Pcap) {
            lab.hide_from_kernel(&["front", "back"]);
        }
        lab
    }

    fn carries_large_datagrams(self, network: &Network, rules: &str) {
        let director = network.director(&self.put_into(rules), &Family::BOTH);
        for family in Family::BOTH {
            assert_eq!(ask(&network.lab, family, 9, LARGE, 30_000).len(), 9, "{self:?}, {family:?}");
        }
        let status = director.status();
        assert_eq!(status["packets"]["dropped"].as_u64(), Some(0), "{self:?}: {}", status["drops"]);
    }
}

fn carries_large_datagrams(rules: &str, answers: Answers) {
    for driver in [Driver::AfXdp, Driver::Pcap] {
        driver.carries_large_datagrams(&Network::start_in(driver.lab(), answers), rules);
    }
}

#[test]
fn fullnat_carries_large_datagrams() {
    carries_large_datagrams(&rules("dual-stack.toml"), Answers::OwnAddress);
}

#[test]
fn dr_carries_large_datagrams() {
    carries_large_datagrams(&direct::dual_stack(), Answers::Vip);
}

/// The client's fragments leave room for the outer header: one of 1,500 bytes would not fit a tunnel over Ethernet.
#[test]
fn a_tunnel_carries_large_datagrams() {
    for driver in [Driver::AfXdp, Driver::Pcap] {
        let network = Network::start_in(driver.lab(), Answers::Vip);
        for (version, gateway) in [("-4", "198.51.100.1"), ("-6", "2001:db8:c::1")] {
            let way =
                ["ip", version, "route", "change", "default", "via", gateway, "dev", "eth0", "mtu", "1400"];
            network.lab.succeed("client", &way);
        }
        let ends = TunnelEnds::start(&network.lab, "ipip");
        driver.carries_large_datagrams(&network, &rules("tunnel.toml"));
        assert_eq!(ends.stop().len(), 3);
    }
}

#[test]
fn nat_carries_large_datagrams() {
    carries_large_datagrams(&rules("nat.toml"), Answers::ThroughDirector);
}

/// What does not fit with its outer header: of IPv4 that header's packet is cut, and put together before it is unwrapped; of
/// IPv6 the client is told what fits, and cuts its datagrams so. No kind leaves more room than the one before, so what
/// the client has heard is not too little.
#[test]
fn tunnels_carry_large_datagrams() {
    let network = Network::start_in(Driver::AfXdp.lab(), Answers::Vip);
    for outer in Family::BOTH {
        for kind in KINDS {
            let mode = "mode      = \"tunnel\"";
            let text = replaced(&tunnels::rules_of(&kind, outer), mode, &format!("{mode}\nfragment  = true"));
            let ends = TunnelEnds::start(&network.lab, kind.end);
            let director = network.director(&Driver::AfXdp.put_into(&text), &Family::BOTH);
            send_large(&network.lab, kind.mtu(outer));
            for family in Family::BOTH {
                let answers = ask(&network.lab, family, 9, LARGE, 30_000);
                assert_eq!(answers.len(), 9, "{} in {outer:?}, {family:?}", kind.end);
            }
            let summary = director.stop();
            assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
            let fragments = ends.stop().iter().map(|end| end["fragments"].as_u64().unwrap_or(0)).sum::<u64>();
            assert!(fragments > 0, "{} in {outer:?}: no outer packet was cut", kind.end);
        }
    }
}

/// Sends datagrams over IPv6 until the client's kernel knows how large its fragments may be: packets of `mtu` bytes fit.
fn send_large(lab: &Lab, mtu: u16) {
    let vip = Family::Ipv6.vip();
    let send = format!(
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(bytes({LARGE}), ('{vip}', {ECHO_PORT}))"
    );
    let fragments_fit = || {
        lab.succeed("client", &["python3", "-c", &send]);
        let route = lab.succeed("client", &["ip", "route", "get", vip]);
        let known = route.split("mtu ").nth(1).and_then(|rest| rest.split(' ').next());
        // Two headers, and data in multiples of eight bytes.
        known
            .and_then(|known| known.parse::<u16>().ok())
            .is_some_and(|known| (known - 48) / 8 * 8 + 48 <= mtu)
    };
    assert!(until(Duration::from_secs(30), fragments_fit), "the client was not told that {mtu} bytes fit");
}
