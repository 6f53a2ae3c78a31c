//! What rules about connections become in the ruleset, and from one to the next. How they are written is tested in
//! `tests`, what slots do in `build`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::flow::FlowKey;
use dataplane::index::{BackendIndex, ServiceIndex};
use dataplane::rules::{Admits, ClientPart, Ruleset, Service, ServiceKey, ServicePattern, Vip};
use dataplane::wire::ethernet::MacAddress as StationMac;

use super::build::{BackendKey, Builder, NextHops, PortFacts, Verdicts};
use super::slots::{Census, NoWorkers};
use super::*;

const PORT: &str = "[[port]]\nname = \"p\"\ndevice = \"tap:xd0\"\nkernel = true\naddresses = [\"192.0.2.5/24\"]\n\
                    local_addresses = [\"10.0.0.64/28\"]\n";

/// Rules with one service, beginning with what it listens on.
fn rules(service: &str) -> Rules {
    let text = format!("{PORT}[[service]]\nname = \"s\"\nmode = \"fullnat\"\nlisten = {service}");
    Rules::parse("test", &text).unwrap_or_else(|errors| panic!("{}", errors.plain()))
}

fn no_services() -> Rules {
    Rules::parse("test", PORT).unwrap()
}

fn builder() -> Builder {
    Builder::new(vec![PortFacts { mac: StationMac([2; 6]), is_station: true, mtu: 0, udp_offload: None }], 1)
}

fn build(builder: &mut Builder, rules: &Rules) -> Arc<Ruleset> {
    builder.build(rules, &NextHops::new(), &NoWorkers).unwrap().ruleset
}

fn first(ruleset: &Ruleset) -> &Service {
    ruleset.service(ServiceIndex(0)).expect("a service")
}

/// Every backend has connections.
struct AllOpen;

impl Census for AllOpen {
    fn revision_in_force(&self) -> u64 {
        u64::MAX
    }

    fn open_connections(&self, _backend_slot: usize) -> u64 {
        1
    }
}

/// What a packet to the first VIP and l4 port of `listen` asks for.
fn asked(listen: &Listen) -> ServiceKey {
    let ServicePattern { vips, l4_ports, protocol } = listen.pattern();
    ServiceKey { vip: vips.network(), l4_port: l4_ports.first, protocol }
}

#[test]
fn a_service_on_a_network_and_on_ports_gets_what_no_narrower_one_has() {
    let text = |listen: &str, backend: &str| {
        format!(
            "[[service]]\nname = \"{backend}\"\nmode = \"fullnat\"\nlisten = \"{listen}\"\nbackend = [{{ address = \"{backend}\" }}]\n"
        )
    };
    let listens = ["tcp 203.0.113.0/28:*", "tcp 203.0.113.0/28:80-89", "tcp 203.0.113.1:80"];
    let services: String =
        (1..).zip(listens).map(|(last, listen)| text(listen, &format!("10.0.0.{last}"))).collect();
    let rules = Rules::parse("test", &format!("{PORT}{services}")).unwrap();
    let ruleset = build(&mut builder(), &rules);
    let l4_ports: Vec<_> = ruleset.backends.iter().map(|backend| backend.l4_port).collect();
    assert_eq!(l4_ports, [0, 0, 80], "of several ports the one the packet came to");
    for (last, l4_port, expected) in [(1, 80, 2), (2, 80, 1), (2, 90, 0), (1, 81, 1), (1, 90, 0)] {
        let vip = Ipv4Addr::new(203, 0, 113, last);
        let found = ruleset.matcher.find(ServiceKey { vip: vip.into(), l4_port, protocol: 6 });
        assert_eq!(found, Some(ServiceIndex(expected)), "{vip}:{l4_port}");
        assert!(ruleset.vips.contains(vip));
    }
    assert!(!ruleset.vips.contains(Ipv4Addr::new(203, 0, 113, 16)));
}

#[test]
fn a_port_group_is_one_service_at_every_listen() {
    let group = rules(
        "[\"tcp 203.0.113.1:80\", \"tcp 203.0.113.1:443\", \"udp 203.0.113.2:443\"]\n\
         backend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2:8080\" }]",
    );
    let ruleset = build(&mut builder(), &group);
    for listen in &group.services[0].listens {
        assert_eq!(ruleset.matcher.find(asked(listen)), Some(ServiceIndex(0)));
        assert!(ruleset.vips.contains(listen.vips.network()));
    }
    assert_eq!(ruleset.backends[0].l4_port, 0, "the one the packet came to");
    assert_eq!(ruleset.backends[1].l4_port, 8080);
    let one_number =
        rules("[\"tcp 203.0.113.1:53\", \"udp 203.0.113.1:53\"]\nbackend = [{ address = \"10.0.0.1\" }]");
    assert_eq!(build(&mut builder(), &one_number).backends[0].l4_port, 53);
}

#[test]
fn a_service_of_ipv6_has_pools_and_vips_of_its_own() {
    let port = PORT.replace("[\"10.0.0.64/28\"]", "[\"10.0.0.64/31\", \"2001:db8:1::40/126\"]");
    let service = "[[service]]\nname = \"s\"\nmode = \"fullnat\"\nlisten = [\"tcp [2001:db8::10]:80\", \"udp [2001:db8:2::/64]:53\"]\n\
                   backend = [{ address = \"[2001:db8:1::11]:8080\" }]\npersistence = { prefix6 = 56 }\nannounce = \"external\"";
    let rules = Rules::parse("test", &format!("{port}{service}"))
        .unwrap_or_else(|errors| panic!("{}", errors.plain()));
    let ruleset = build(&mut builder(), &rules);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let asked = ServiceKey { vip: address("2001:db8:2::77"), l4_port: 53, protocol: 17 };
    assert_eq!(ruleset.matcher.find(asked), Some(ServiceIndex(0)));
    let part = ClientPart::Network { host_bits: 72 };
    for vip in ["2001:db8::10", "2001:db8:2::1"] {
        assert_eq!(ruleset.vips.find(address(vip)).map(|vip| vip.part), Some(part), "{vip}");
    }
    assert_eq!((ruleset.backends[0].address, ruleset.backends[0].l4_port), (address("2001:db8:1::11"), 8080));
    let port = ruleset.ports[0];
    assert_eq!((port.local_pool, port.local_pool6), (Some(0), Some(1)));
    let counts: Vec<_> = ruleset.local_pools.iter().map(|pool| pool.addresses.len()).collect();
    assert_eq!(counts, [2, 4]);
    assert!(ruleset.local_addresses.contains(address("2001:db8:1::43")));
}

#[test]
fn backends_of_nat_and_networks_of_snat_are_inside() {
    let text = |persistence: &str| {
        format!(
            "{PORT}[[service]]\nname = \"in\"\nmode = \"nat\"\nlisten = \"tcp 203.0.113.1:80\"\n{persistence}\
             backend = [{{ address = \"10.0.0.1\" }}]\n\
             [[service]]\nname = \"in2\"\nmode = \"nat\"\nlisten = \"tcp 203.0.113.2:80\"\n\
             backend = [{{ address = \"10.0.0.1\" }}]\n\
             [[service]]\nname = \"out\"\nmode = \"snat\"\nfrom = [\"10.0.0.0/26\", \"10.1.0.0/16\"]\n\
             backend = [{{ address = \"192.0.2.1\" }}]\n"
        )
    };
    let parsed =
        |text: &str| Rules::parse("test", text).unwrap_or_else(|errors| panic!("{}", errors.plain()));
    let plain = build(&mut builder(), &parsed(&text("")));
    let host = |last| Ipv4Addr::new(10, 0, 0, last);
    let inside = |rules: &Ruleset, last| rules.inside.find(host(last));
    assert_eq!(
        [1, 2, 200].map(|last| inside(&plain, last)),
        [Some(ClientPart::Endpoint), Some(ClientPart::Endpoint), None]
    );
    assert_eq!([1, 200].map(|last| plain.snat.find(host(last))), [Some(ServiceIndex(2)), None]);
    // To the director, to a local address, to a group, and within.
    for to in [[192, 0, 2, 5], [10, 0, 0, 64], [224, 0, 0, 5], [255, 255, 255, 255], [10, 1, 2, 3]] {
        assert!(plain.exempt.contains(Ipv4Addr::from(to)), "{to:?}");
    }
    assert!(!plain.exempt.contains(Ipv4Addr::new(8, 8, 8, 8)));
    assert!(!plain.vips_are_plain, "answers of NAT do not come by RSS to their owner");

    let persistent = parsed(&text("persistence = { prefix = 24 }\n"));
    let part = ClientPart::Network { host_bits: 8 };
    let ruleset = build(&mut builder(), &persistent);
    assert_eq!(inside(&ruleset, 1), Some(part));
    assert_eq!(
        ruleset.vips.find(Ipv4Addr::new(203, 0, 113, 2)).map(|vip| vip.part),
        Some(part),
        "of all alike"
    );
    let mut several = Builder::new(
        vec![PortFacts { mac: StationMac([2; 6]), is_station: true, mtu: 1_500, udp_offload: None }],
        4,
    );
    build(&mut several, &parsed(&text("")));
    let refused = several.build(&persistent, &NextHops::new(), &NoWorkers).unwrap_err();
    assert!(refused.to_string().contains("by a restart only"), "{refused}");
    let gone = several.build(&no_services(), &NextHops::new(), &AllOpen).unwrap().ruleset;
    assert_eq!(inside(&gone, 1), Some(ClientPart::Endpoint), "while connections are open");
    assert_eq!(inside(&gone, 2), Some(ClientPart::Endpoint));
    assert_eq!(gone.snat.find(host(1)), None);
}

#[test]
fn answers_of_nat_have_their_owner_also_where_ports_hash() {
    let nat = "[[service]]\nname = \"in\"\nmode = \"nat\"\nlisten = \"tcp 203.0.113.1:80\"\n\
               backend = [{ address = \"10.0.0.1:8080\" }]\n";
    let fullnat =
        nat.replace(":80\"", ":81\"").replace("nat\"\n", "fullnat\"\n").replace("\"in\"", "\"other\"");
    let parsed = |services: &str| {
        Rules::parse("test", &format!("{PORT}{services}"))
            .unwrap_or_else(|errors| panic!("{}", errors.plain()))
    };
    let facts = PortFacts { mac: StationMac([2; 6]), is_station: true, mtu: 1_500, udp_offload: None };
    let key: Vec<u8> = (0..40u8).map(|byte| byte.wrapping_mul(151).wrapping_add(77)).collect();
    let rss = Some(Arc::new(dataplane::rules::Rss::new(&key, 128, 4)));
    let mut builder = Builder::new(vec![facts], 4).with_rss(rss);
    let (vip, host) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(10, 0, 0, 1));
    let assert_met = |rules: &Ruleset| {
        for l4_port in 2_000..2_200 {
            let client = (Ipv4Addr::from(u32::from(l4_port) * 7_919), l4_port);
            let there = FlowKey::new(client, (vip, 80), 6);
            let back = FlowKey::new((host, 8080), client, 6);
            let [there, back] = [there, back].map(|key| dataplane::stage::steer::owner(&key, rules));
            assert_eq!(there, back, "{client:?}");
        }
    };
    let alone = builder.build(&parsed(&fullnat), &NextHops::new(), &AllOpen).unwrap().ruleset;
    assert_eq!(alone.vips.find(vip), Some(Vip::PLAIN));
    // A service of NAT on a VIP that has connections of others.
    let both =
        builder.build(&parsed(&format!("{fullnat}{nat}")), &NextHops::new(), &AllOpen).unwrap().ruleset;
    let part = ClientPart::EndpointAlone;
    assert_eq!(both.vips.find(vip), Some(Vip { part, part_before: Some(ClientPart::Endpoint) }));
    assert_eq!(both.inside.find(host), Some(part));
    let settled =
        builder.build(&parsed(&format!("{fullnat}{nat}")), &NextHops::new(), &NoWorkers).unwrap().ruleset;
    assert_met(&settled);
    // And its end: until its connections have ended, answers are looked for where they are.
    let ended = builder.build(&parsed(&fullnat), &NextHops::new(), &AllOpen).unwrap().ruleset;
    assert_met(&ended);
}

#[test]
fn hosts_that_a_service_no_longer_has_stay_inside_while_it_has_connections() {
    let before = "[[service]]\nname = \"in\"\nmode = \"nat\"\nlisten = \"tcp 203.0.113.1:80\"\n\
                  backend = [{ address = \"10.9.0.1\" }]\n\
                  [[service]]\nname = \"out\"\nmode = \"snat\"\nfrom = [\"10.0.0.0/26\", \"10.1.0.0/16\"]\n\
                  backend = [{ address = \"192.0.2.1\" }]\n";
    let after = before.replace("mode = \"nat\"", "mode = \"fullnat\"").replace(", \"10.1.0.0/16\"", "");
    let parsed = |services: &str| {
        Rules::parse("test", &format!("{PORT}{services}"))
            .unwrap_or_else(|errors| panic!("{}", errors.plain()))
    };
    let mut builder = builder();
    let hosts = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 0, 0, 3)];
    let inside = |rules: &Ruleset| hosts.map(|host| rules.inside.find(host).is_some());
    assert_eq!(inside(&build(&mut builder, &parsed(before))), [true; 3]);
    let open = builder.build(&parsed(&after), &NextHops::new(), &AllOpen).unwrap().ruleset;
    assert_eq!(inside(&open), [true; 3], "answers and later packets find the owner of what is open");
    assert_eq!(open.snat.find(hosts[1]), None, "and nothing new is made");
    assert_eq!(inside(&build(&mut builder, &parsed(&after))), [false, false, true]);
}

#[test]
fn a_group_is_known_again_by_its_first_listen() {
    let mut builder = builder();
    build(&mut builder, &rules("[\"tcp 203.0.113.1:80\", \"tcp 203.0.113.1:81\"]"));
    let more = rules("[\"tcp 203.0.113.1:80\", \"tcp 203.0.113.1:82\"]");
    let built = builder.build(&more, &NextHops::new(), &NoWorkers).unwrap();
    assert!(built.fresh_services.is_empty());
    let other = rules("[\"tcp 203.0.113.1:82\", \"tcp 203.0.113.1:80\"]");
    let built = builder.build(&other, &NextHops::new(), &NoWorkers).unwrap();
    assert_eq!(built.fresh_services, [ServiceIndex(1)]);
}

#[test]
fn the_policy_arrives_and_the_sorry_server_has_a_slot_of_its_own() {
    let text = "\"tcp 203.0.113.1:80\"\nno_backend = \"drop\"\nmax_rate = 9\nsorry = { address = \"10.0.0.9\" }\n\
                backend = [{ address = \"10.0.0.1\", max_connections = 8 }]";
    let mut builder = builder();
    let ruleset = build(&mut builder, &rules(text));
    let service = first(&ruleset);
    assert_eq!((service.policy.no_backend, service.policy.limits.rate), (NoBackend::Drop, Some(9)));
    assert_eq!((service.policy.sorry, service.members.len()), (Some(BackendIndex(1)), 1));
    assert_eq!(ruleset.backends[1].address, Ipv4Addr::new(10, 0, 0, 9));
    assert!(service.has_thresholds);
    let row = ruleset.backends[0];
    assert_eq!((row.connections_upper, row.connections_lower), (8, 6));

    let changed =
        build(&mut builder, &rules(&text.replace("drop", "reset").replace(", max_connections = 8", "")));
    let changed_service = first(&changed);
    assert!(Arc::ptr_eq(&service.rate, &changed_service.rate), "connections of this second count");
    assert!(!changed_service.has_thresholds);
    assert_eq!((changed.backends[0].connections_upper, changed.backends[0].connections_lower), (0, 0));
}

#[test]
fn a_backend_takes_what_its_state_lets_it() {
    let states = rules(
        "\"tcp 203.0.113.1:80\"\non_remove = \"reset\"\nbackend = [{ address = \"10.0.0.1\" }, \
         { address = \"10.0.0.2\", state = \"drain\", weight = 7 }, { address = \"10.0.0.3\", weight = 0 }, \
         { address = \"10.0.0.4\", state = \"down\" }]",
    );
    let ruleset = build(&mut builder(), &states);
    let rows: Vec<_> = ruleset.backends.iter().map(|row| (row.admits, row.fate)).collect();
    assert_eq!(
        rows,
        [
            (Admits::New, Fate::Finish),
            (Admits::Returning, Fate::Finish),
            (Admits::Returning, Fate::Finish),
            (Admits::Nobody, Fate::Reset)
        ]
    );
    let weights: Vec<_> = first(&ruleset).members.iter().map(|member| member.weight).collect();
    assert_eq!(weights, [1, 0, 0, 0]);
}

#[test]
fn a_backend_that_its_checks_find_down_is_as_one_whose_rules_say_so() {
    let checked = rules(
        "\"tcp 203.0.113.1:80\"\non_remove = \"reset\"\nbackend = [{ address = \"10.0.0.1\" }, \
         { address = \"10.0.0.2\", state = \"drain\" }, { address = \"10.0.0.3\" }]",
    );
    let service = &checked.services[0];
    let key = |backend: usize| BackendKey::new(service.key().unwrap(), service.backends[backend].endpoint);
    let mut verdicts = Verdicts::default();
    verdicts.set(key(0), BackendState::Down);
    // Checks may not bring back what the rules have drained.
    verdicts.set(key(1), BackendState::Up);
    let mut builder = builder();
    builder.set_verdicts(verdicts);
    let down = build(&mut builder, &checked);
    let rows: Vec<_> = down.backends.iter().map(|row| (row.admits, row.fate)).collect();
    let (drained, serves) = ((Admits::Returning, Fate::Finish), (Admits::New, Fate::Finish));
    assert_eq!(rows, [(Admits::Nobody, Fate::Reset), drained, serves]);
    let weights =
        |ruleset: &Ruleset| first(ruleset).members.iter().map(|member| member.weight).collect::<Vec<_>>();
    assert_eq!(weights(&down), [0, 0, 1]);
    builder.set_verdicts(Verdicts::default());
    let up = build(&mut builder, &checked);
    assert_eq!((weights(&up), up.backends[0].admits), (vec![1, 0, 1], Admits::New));
}

#[test]
fn who_left_the_rules_goes_as_its_service_says_and_comes_back_as_new() {
    let text = |on_remove: &str, backends: &str| {
        rules(&format!("\"tcp 203.0.113.1:80\"\non_remove = \"{on_remove}\"\nbackend = [{backends}]"))
    };
    let (one, two) = ("{ address = \"10.0.0.1\" }", "{ address = \"10.0.0.2\" }");
    let both = format!("{one}, {two}");
    let mut builder = builder();
    build(&mut builder, &text("finish", &both));
    let state = |ruleset: &Ruleset, slot: usize| (ruleset.backends[slot].admits, ruleset.backends[slot].fate);
    let fewer = build(&mut builder, &text("move", two));
    assert_eq!(state(&fewer, 0), (Admits::Nobody, Fate::Move));
    assert_eq!(fewer.fates_set_at, fewer.revision);
    let otherwise = build(&mut builder, &text("reset", two));
    assert_eq!(state(&otherwise, 0), (Admits::Nobody, Fate::Reset));
    let back = build(&mut builder, &text("reset", &both));
    assert_eq!(state(&back, 0), (Admits::New, Fate::Finish));
    let gone = builder.build(&no_services(), &NextHops::new(), &AllOpen).unwrap().ruleset;
    assert_eq!([state(&gone, 0), state(&gone, 1)], [(Admits::Nobody, Fate::Reset); 2], "as it said last");
}

/// A census of nobody by workers that know the last rules.
struct AllGone;

impl Census for AllGone {
    fn revision_in_force(&self) -> u64 {
        u64::MAX
    }

    fn open_connections(&self, _backend_slot: usize) -> u64 {
        0
    }
}

#[test]
fn a_drain_ends_for_connections_and_for_clients_that_return_and_the_next_in_the_slot_has_its_own() {
    let text = |backends: &str| {
        rules(&format!("\"tcp 203.0.113.1:80\"\ndrain_timeout = \"60s\"\nbackend = [{backends}]"))
    };
    let (one, two) = ("{ address = \"10.0.0.1\" }", "{ address = \"10.0.0.2\" }");
    let drained = |address: &str| format!("{{ address = \"{address}\", weight = 0 }}");
    let mut builder = builder();
    let mut at = |second: u64, backends: &str| {
        builder.advance_to(Duration::from_secs(second));
        let built = builder.build(&text(backends), &NextHops::new(), &AllGone).unwrap();
        let row = built.ruleset.backends[0];
        (row.address, row.admits, row.fate)
    };
    let address = |last| IpAddr::from([10, 0, 0, last]);
    assert_eq!(at(0, &format!("{one}, {two}")), (address(1), Admits::New, Fate::Finish));
    let draining = format!("{}, {two}", drained("10.0.0.1"));
    assert_eq!(at(10, &draining), (address(1), Admits::Returning, Fate::Finish));
    assert_eq!(at(69, &draining), (address(1), Admits::Returning, Fate::Finish));
    assert_eq!(at(70, &draining), (address(1), Admits::Nobody, Fate::Reset));
    assert_eq!(at(80, two), (address(1), Admits::Nobody, Fate::Reset), "out of the rules");
    let other = format!("{two}, {}", drained("10.0.0.3"));
    assert_eq!(at(90, &other), (address(3), Admits::Returning, Fate::Finish), "not for twenty seconds");
    assert_eq!(at(149, &other), (address(3), Admits::Returning, Fate::Finish));
    assert_eq!(at(150, &other), (address(3), Admits::Nobody, Fate::Reset));
}

#[test]
fn all_vips_of_a_removed_group_stay_while_it_has_connections() {
    let mut builder = builder();
    build(
        &mut builder,
        &rules("[\"tcp 203.0.113.1:80\", \"tcp 203.0.113.2:80\"]\nbackend = [{ address = \"10.0.0.1\" }]"),
    );
    let gone = builder.build(&no_services(), &NextHops::new(), &AllOpen).unwrap().ruleset;
    let vips = [1, 2].map(|last| gone.vips.contains(Ipv4Addr::new(203, 0, 113, last)));
    assert_eq!(vips, [true, true]);
    let closed = build(&mut builder, &no_services());
    assert!(!closed.vips.contains(Ipv4Addr::new(203, 0, 113, 2)));
}

#[test]
fn a_backend_with_an_address_of_a_twin_is_this_host() {
    let own =
        rules("\"tcp 203.0.113.1:80\"\nbackend = [{ address = \"192.0.2.5\" }, { address = \"192.0.2.6\" }]");
    let ruleset = build(&mut builder(), &own);
    assert_eq!([ruleset.backends[0].is_local, ruleset.backends[1].is_local], [true, false]);
}

#[test]
fn a_backend_that_comes_later_starts_slowly_and_then_the_service_is_built_no_more() {
    let text = |backends: &str| {
        rules(&format!("\"tcp 203.0.113.1:80\"\nslow_start = \"10s\"\nbackend = [{backends}]"))
    };
    let both = text("{ address = \"10.0.0.1\", weight = 2 }, { address = \"10.0.0.2\", weight = 2 }");
    let mut builder = builder();
    let at = |builder: &mut Builder, second: u64, rules: &Rules| {
        builder.advance_to(Duration::from_secs(second));
        let ruleset = build(builder, rules);
        (first(&ruleset).members.iter().map(|member| member.weight).collect::<Vec<_>>(), ruleset)
    };
    assert_eq!(at(&mut builder, 0, &text("{ address = \"10.0.0.1\", weight = 2 }")).0, [2]);
    assert_eq!(at(&mut builder, 100, &both).0, [128, 1]);
    assert!(builder.is_due(Duration::from_secs(105)));
    assert_eq!(at(&mut builder, 105, &both).0, [128, 64]);
    assert_eq!([builder.rising_weight(0), builder.rising_weight(1)], [None, Some(1.0)]);
    let (weights, whole) = at(&mut builder, 110, &both);
    assert_eq!(weights, [2, 2]);
    assert!(!builder.is_due(Duration::from_secs(200)));
    let (_, later) = at(&mut builder, 200, &both);
    let services = [whole, later].map(|ruleset| ruleset.services[0].clone().unwrap());
    assert!(Arc::ptr_eq(&services[0], &services[1]));
}

#[test]
fn every_changed_setting_is_told_by_its_name() {
    let before =
        rules("[\"tcp 203.0.113.1:80\", \"udp 203.0.113.1:81\"]\nbackend = [{ address = \"10.0.0.1\" }]");
    let after = rules(
        "[\"tcp 203.0.113.1:80\", \"udp 203.0.113.1:82\"]\nno_backend = \"reset\"\nno_flow = \"drop\"\n\
         reuse = \"never\"\non_timeout = \"reset\"\non_remove = \"move\"\ncheck_rst = true\nslow_start = \"1m\"\ndrain_timeout = \"5m\"\n\
         max_connections = 5\nmax_half_open = 6\nmax_rate = 7\nhealth = { check = \"tcp\", port = 90 }\nsorry = { address = \"10.0.0.9\" }\n\
         timeouts = { established = \"1h\", udp = \"90s\" }\npersistence = { prefix = 24 }\n\
         backend = [{ address = \"10.0.0.1\", weight = 2, max_connections = 4, state = \"drain\", check_port = 91 }]",
    );
    let told = Diff::between(&before, &after).to_string();
    assert_eq!(
        told,
        "~ service s: listen tcp 203.0.113.1:80, udp 203.0.113.1:81 -> tcp 203.0.113.1:80, udp 203.0.113.1:82\n\
         ~ service s: no_backend unreachable -> reset\n\
         ~ service s: no_flow kernel -> drop\n\
         ~ service s: reuse when-over -> never\n\
         ~ service s: on_timeout forget -> reset\n\
         ~ service s: on_remove finish -> move\n\
         ~ service s: check_rst false -> true\n\
         ~ service s: slow_start none -> 1m\n\
         ~ service s: drain_timeout none -> 5m\n\
         ~ service s: max_connections none -> 5\n\
         ~ service s: max_half_open none -> 6\n\
         ~ service s: max_rate none -> 7/s\n\
         ~ service s: persistence none -> 6m of a /24 (IPv6: /128), drained: keep\n\
         ~ service s: health none -> tcp, port 90, every 2s within 1s, rise 2, fall 3, jitter 10 %, at first up\n\
         ~ service s: sorry none -> 10.0.0.9\n\
         ~ service s: timeouts.established 15m -> 1h\n\
         ~ service s: timeouts.udp 5m -> 90s\n\
         ~ service s: backend 10.0.0.1 weight 1 -> 2\n\
         ~ service s: backend 10.0.0.1 max_connections none -> 4\n\
         ~ service s: backend 10.0.0.1 resume_below none -> 3\n\
         ~ service s: backend 10.0.0.1 state up -> drain\n\
         ~ service s: backend 10.0.0.1 checked where it serves -> port 91\n"
    );
}
