//! Services that take pings: the kernel's `ping` asks, the kernels of the backends answer, and count what they were asked.

use std::time::Duration;

use serde_json::Value;
use testbed::director::{Director, replaced, rules, with_two_workers};
use testbed::ends::TunnelEnds;
use testbed::lab::{BACKENDS, Family, Lab, VIP, VIP6};
use testbed::process::until;

use super::direct;
use super::tunnels::{self, KINDS};

/// The rules with services that listen for pings beside TCP.
fn with_pings(rules: &str) -> String {
    let text = replaced(rules, &format!("\"tcp {VIP}:80\""), &format!("[\"tcp {VIP}:80\", \"icmp {VIP}\"]"));
    let (tcp, icmp) = (format!("\"tcp [{VIP6}]:80\""), format!("\"icmp [{VIP6}]\""));
    replaced(&text, &tcp, &format!("[{tcp}, {icmp}]"))
}

/// Pings the VIP under an identifier; whether every answer came.
fn pings(lab: &Lab, role: &str, address: &str, identifier: u16, options: &[&str]) -> bool {
    let identifier = identifier.to_string();
    // The answer of a loaded machine may take its time; one that comes ends the waiting. Of several `ping` waits for the last as
    // long as for two of the others, or their interval.
    let argv = [&["ping", "-n", "-W", "10", "-e", &identifier], options, &[address]].concat();
    let output = lab.run(role, &argv);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.contains(" 0% packet loss")
}

/// Echo requests that a machine's kernel has got so far.
fn echoes(lab: &Lab, role: &str, family: Family) -> u64 {
    if family == Family::Ipv6 {
        let text = lab.succeed(role, &["cat", "/proc/net/snmp6"]);
        let line = text.lines().find_map(|line| line.strip_prefix("Icmp6InEchos"));
        return line.and_then(|count| count.trim().parse().ok()).expect("Icmp6InEchos");
    }
    let text = lab.succeed(role, &["cat", "/proc/net/snmp"]);
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, counts) = (lines.next().expect("names"), lines.next().expect("counts"));
    let at = names.split(' ').position(|name| name == "InEchos").expect("InEchos");
    counts.split(' ').nth(at).and_then(|count| count.parse().ok()).expect("a count")
}

fn echoes_of_backends(lab: &Lab, family: Family) -> [u64; BACKENDS] {
    std::array::from_fn(|index| echoes(lab, &format!("backend{}", index + 1), family))
}

/// What `f` adds to the echo requests of each backend; those of one that are of the family `there`.
fn asked_of_backends(lab: &Lab, there: Family, f: impl FnOnce()) -> [u64; BACKENDS] {
    let before = echoes_of_backends(lab, there);
    f();
    let after = echoes_of_backends(lab, there);
    std::array::from_fn(|index| after[index] - before[index])
}

/// `crossdock flows --json` of pings in a family.
fn flows(director: &Director, family: Family) -> Vec<Value> {
    let protocol = if family == Family::Ipv4 { "icmp" } else { "icmpv6" };
    let output = director.command(&["flows"], &["--json", "--protocol", protocol]).output().expect("flows");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Nine flows are spread by weight, each is one backend's, and the director knows them. The backends are of the family that
/// `there` says.
fn spreads_pings(lab: &Lab, director: &Director, family: Family, there: Family) {
    assert_eq!(asks_nine_times(lab, director, family, there), [5, 3, 1], "{family:?}");
}

/// The same, and who was asked how often: several workers choose each for themselves.
fn asks_nine_times(lab: &Lab, director: &Director, family: Family, there: Family) -> [u64; BACKENDS] {
    let before = flows(director, family).len();
    let nine = asked_of_backends(lab, there, || {
        for identifier in 100..109 {
            let answered = pings(lab, "client", family.vip(), identifier, &["-c", "1"]);
            assert!(answered, "{family:?}: no answer to {identifier}");
        }
    });
    let mut asked = asked_of_backends(lab, there, || {
        let options = ["-c", "5", "-i", "0.5", "-s", "1300"];
        assert!(pings(lab, "client", family.vip(), 7, &options), "{family:?}: one flow");
    });
    asked.sort_unstable();
    assert_eq!(asked, [0, 0, 5], "{family:?}: one flow, one backend");
    let flows = flows(director, family);
    assert_eq!(flows.len() - before, 10, "{flows:?}");
    for identifier in (100..109).chain([7]) {
        let ending = format!(":{identifier}");
        let is_it = |flow: &&Value| flow["client"].as_str().is_some_and(|client| client.ends_with(&ending));
        let flow = flows.iter().find(is_it).unwrap_or_else(|| panic!("{identifier}: {flows:?}"));
        assert_eq!(flow["state"], "icmp");
        let expires_ms = flow["expires_ms"].as_u64().expect("a time");
        assert!(expires_ms <= 60_000, "{flow}");
    }
    nine
}

/// IPv6: the way to the client is narrow, of which the answering kernel hears by an error that quotes its echo reply. Then it
/// sends fragments, and the client too, which come here as they are.
fn errors_reach_who_answered(lab: &Lab, director: &Director) {
    lab.narrow(1400);
    let answered = || pings(lab, "client", VIP6, 9, &["-c", "1", "-W", "1", "-s", "1390"]);
    assert!(until(Duration::from_secs(60), answered), "answers stay too long");
    let status = director.status();
    assert!(status["packets"]["icmp_errors"].as_u64() > Some(0), "no error passed: {}", status["packets"]);
}

/// A backend that refuses pings says so to the local address, in words of its family; the client hears it of the VIP.
fn errors_reach_who_asked(lab: &Lab, family: Family) {
    for number in 1..=BACKENDS {
        let role = format!("backend{number}");
        for words in [
            "add table inet refuse",
            "add chain inet refuse in { type filter hook input priority 0; }",
            "add rule inet refuse in icmp type echo-request reject with icmpx type host-unreachable",
            "add rule inet refuse in icmpv6 type echo-request reject with icmpx type host-unreachable",
        ] {
            lab.succeed(&role, &["nft", words]);
        }
    }
    // Kernels send few errors a second, and `ping` ends with the first that it gets.
    let hears = || {
        let output = lab.run("client", &["ping", "-n", "-c", "1", "-W", "2", "-e", "8", family.vip()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains(&format!("From {} icmp_seq=1 Destination", family.vip()))
    };
    assert!(until(Duration::from_secs(60), hears), "{family:?}: the client hears nothing");
}

/// The director with these rules in a lab; what it drops at the end.
fn start(lab: &Lab, rules: &str) -> Director {
    let director = Director::start(lab, rules);
    lab.route_director();
    director
}

fn drops_nothing(director: Director) {
    let summary = director.stop();
    assert_eq!(summary["packets"]["dropped"].as_u64(), Some(0), "{}", summary["drops"]);
}

#[test]
fn fullnat_carries_pings() {
    let lab = Lab::routed();
    let director = start(&lab, &with_pings(&rules("dual-stack.toml")));
    for family in Family::BOTH {
        spreads_pings(&lab, &director, family, family);
    }
    errors_reach_who_answered(&lab, &director);
    Family::BOTH.into_iter().for_each(|family| errors_reach_who_asked(&lab, family));
    drops_nothing(director);
}

/// The owner of a flow has its identifier, and the answers come to whichever worker they come to.
#[test]
fn fullnat_carries_pings_with_two_workers() {
    let lab = Lab::routed();
    let director = start(&lab, &with_two_workers(&with_pings(&rules("dual-stack.toml"))));
    for family in Family::BOTH {
        let asked = asks_nine_times(&lab, &director, family, family);
        assert_eq!(asked.iter().sum::<u64>(), 9, "{family:?}: {asked:?}");
    }
    errors_reach_who_answered(&lab, &director);
    Family::BOTH.into_iter().for_each(|family| errors_reach_who_asked(&lab, family));
    drops_nothing(director);
}

#[test]
fn nat_carries_pings() {
    let lab = Lab::routed();
    lab.answer_through_director();
    let director = start(&lab, &with_pings(&rules("nat.toml")));
    for family in Family::BOTH {
        spreads_pings(&lab, &director, family, family);
    }
    errors_reach_who_answered(&lab, &director);
    Family::BOTH.into_iter().for_each(|family| errors_reach_who_asked(&lab, family));
    drops_nothing(director);
}

#[test]
fn dr_carries_pings() {
    let lab = Lab::routed();
    lab.own_vips();
    let director = start(&lab, &with_pings(&direct::dual_stack()));
    for family in Family::BOTH {
        spreads_pings(&lab, &director, family, family);
    }
    errors_reach_who_answered(&lab, &director);
    drops_nothing(director);
}

#[test]
fn tunnels_carry_pings() {
    for outer in Family::BOTH {
        for kind in [&KINDS[0], &KINDS[4]] {
            let lab = Lab::routed();
            lab.own_vips();
            let ends = TunnelEnds::start(&lab, kind.end);
            let director = start(&lab, &with_pings(&tunnels::rules_of(kind, outer)));
            for family in Family::BOTH {
                spreads_pings(&lab, &director, family, family);
            }
            drops_nothing(director);
            let judged: Vec<Value> = ends.stop();
            assert_eq!(judged.len(), BACKENDS);
        }
    }
}

#[test]
fn pings_are_translated_between_the_families() {
    let lab = Lab::routed();
    let director = start(&lab, &with_pings(&rules("nat64.toml")));
    spreads_pings(&lab, &director, Family::Ipv4, Family::Ipv6);
    spreads_pings(&lab, &director, Family::Ipv6, Family::Ipv4);
    Family::BOTH.into_iter().for_each(|family| errors_reach_who_asked(&lab, family));
    drops_nothing(director);
}

/// Three hosts ping the client under one identifier: nothing else tells them apart, for whoever knows them by one address.
#[test]
fn snat_carries_pings_of_hosts_behind_the_director() {
    let lab = Lab::routed();
    lab.answer_through_director();
    let director = Director::start(&lab, &rules("snat.toml"));
    for family in Family::BOTH {
        let before = echoes(&lab, "client", family);
        for number in 1..=BACKENDS {
            let role = format!("backend{number}");
            assert!(pings(&lab, &role, family.client(), 5, &["-c", "3", "-i", "0.5"]), "{family:?}, {role}");
        }
        assert_eq!(echoes(&lab, "client", family) - before, 9);
        let flows = flows(&director, family);
        assert_eq!(flows.len(), BACKENDS, "{flows:?}");
        for flow in flows {
            assert_eq!(flow["mode"], "snat");
            let local = flow["local"].as_str().expect("a public address");
            let known = ["192.0.2.64:", "192.0.2.65:", "[2001:db8:1::40]:", "[2001:db8:1::41]:"];
            assert!(known.iter().any(|public| local.starts_with(public)), "{flow}");
        }
    }
    drops_nothing(director);
}

/// Where no service takes them they are the kernel's, as ever: of VIPs, and of the director's own addresses.
#[test]
fn the_director_answers_pings_that_no_service_takes() {
    let lab = Lab::routed();
    // A service of another VIP takes pings, so the line looks at them.
    let text = format!(
        "{}\n[[service]]\nname = \"pings\"\nlisten = \"icmp 192.0.2.101\"\nmode = \"fullnat\"\n",
        rules("dual-stack.toml")
    );
    let director = start(&lab, &text);
    for family in Family::BOTH {
        let asked = asked_of_backends(&lab, family, || {
            assert!(pings(&lab, "client", family.vip(), 7, &["-c", "3", "-i", "0.5"]), "{family:?}");
        });
        assert_eq!((asked, flows(&director, family).len()), ([0; BACKENDS], 0));
    }
    assert!(pings(&lab, "client", "192.0.2.5", 7, &["-c", "1"]), "its own address");
    drops_nothing(director);
}
