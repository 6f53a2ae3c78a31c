//! Slots, sharing and next hops from one ruleset to the next. What a policy becomes is tested in `policy_tests`.

use std::net::Ipv4Addr;

use dataplane::rules::ServiceKey;
use dataplane::rules::scheduler::SchedulerKind;

use super::*;
use crate::rules::slots::NoWorkers;

struct Busy {
    revision: u64,
    open: BTreeMap<usize, u64>,
}

impl Census for Busy {
    fn revision_in_force(&self) -> u64 {
        self.revision
    }

    fn open_connections(&self, backend_slot: usize) -> u64 {
        self.open.get(&backend_slot).copied().unwrap_or(0)
    }
}

fn rules(services: &[(&str, &[(&str, u16)])]) -> Rules {
    let mut text =
        String::from("[[port]]\nname = \"p\"\ndevice = \"null\"\nlocal_addresses = [\"192.0.2.64/30\"]\n");
    let addresses: BTreeSet<_> =
        services.iter().flat_map(|(_, backends)| backends.iter()).map(|(a, _)| a).collect();
    for address in addresses {
        let address = address.split(':').next().unwrap();
        text +=
            &format!("[[neighbour]]\naddress = \"{address}\"\nmac = \"02:00:00:00:00:01\"\nport = \"p\"\n");
    }
    for (listen, backends) in services {
        // Named after what it listens on: a service that moves in the file stays the same service.
        let name = listen.replace([' ', ':'], "-");
        text += &format!("[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmode = \"fullnat\"\n");
        for (address, weight) in *backends {
            text += &format!("[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
    }
    Rules::parse("test", &text).unwrap_or_else(|errors| panic!("{}", errors.plain()))
}

fn builder() -> Builder {
    Builder::new(vec![PortFacts { mac: MacAddress([2; 6]), is_station: true, mtu: 0, udp_offload: None }], 1)
}

/// What a packet to the first it listens on asks for.
fn asked(service: &checked::Service) -> ServiceKey {
    let ServicePattern { vips, l4_ports, protocol } = service.key().unwrap();
    ServiceKey { vip: vips.network(), l4_port: l4_ports.first, protocol }
}

#[test]
fn a_ruleset_has_all_that_the_rules_say() {
    let rules = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:8080", 3), ("10.0.0.2:8080", 1)])]);
    let built = builder().build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
    let set = &built.ruleset;
    assert_eq!((set.revision, set.backends.len(), set.local_pools[0].addresses.len()), (1, 2, 4));
    let found = set.matcher.find(asked(&rules.services[0])).unwrap();
    assert_eq!(set.service(found).unwrap().members[0].weight, 3);
    let destination = [2, 0, 0, 0, 0, 1];
    assert_eq!(set.adjacencies[1].macs[..6], destination);
    assert_eq!(
        set.ports[0],
        PortRules { station: Some(MacAddress([2; 6])), local_pool: Some(0), ..PortRules::default() }
    );
    assert_eq!(built.publication(|| 0).states.len(), 1);
}

#[test]
fn a_scheduler_by_loads_passes_over_those_that_cannot_be_reached_unless_that_is_all() {
    let backends: Vec<_> = (1..=6).map(|number| format!("10.0.0.{number}:80")).collect();
    let backends: Vec<_> = backends.iter().map(|address| (address.as_str(), 2)).collect();
    let mut by_loads = rules(&[("tcp 203.0.113.1:80", &backends)]);
    Arc::make_mut(&mut by_loads.services[0]).scheduler.kind = SchedulerKind::Wlc;
    let in_turn = rules(&[("tcp 203.0.113.1:80", &backends)]);
    let weights = |rules: &Rules, next_hops: &NextHops| {
        let built = builder().build(rules, next_hops, &NoWorkers).unwrap();
        let members = &built.ruleset.services.iter().flatten().next().unwrap().members;
        members.iter().map(|member| member.weight).collect::<Vec<_>>()
    };
    let mut one = static_next_hops(&by_loads);
    one.retain(|address, _| *address == Ipv4Addr::new(10, 0, 0, 6));
    assert_eq!(weights(&by_loads, &one), [0, 0, 0, 0, 0, 2]);
    assert_eq!(weights(&by_loads, &static_next_hops(&by_loads)), [2; 6]);
    assert_eq!(weights(&by_loads, &NextHops::new()), [2; 6], "nobody is known yet");
    assert_eq!(weights(&in_turn, &one), [2; 6], "in turn they do no harm");
}

#[test]
fn unchanged_services_are_shared_and_keep_their_slots() {
    let mut builder = builder();
    let one = ("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1u16)] as &[_]);
    let two = ("tcp 203.0.113.2:80", &[("10.0.0.2:80", 1u16)] as &[_]);
    let before = builder.build(&rules(&[one, two]), &NextHops::new(), &NoWorkers).unwrap();
    let heavier = ("tcp 203.0.113.2:80", &[("10.0.0.2:80", 7u16)] as &[_]);
    let after = builder.build(&rules(&[heavier, one]), &NextHops::new(), &NoWorkers).unwrap();
    let service = |built: &Built, slot: usize| built.ruleset.services[slot].clone().unwrap();
    assert!(Arc::ptr_eq(&service(&before, 0), &service(&after, 0)));
    assert_eq!(service(&after, 1).members[0].weight, 7);
    assert!(after.fresh_services.is_empty() && after.fresh_backends.is_empty());
}

#[test]
fn a_removed_backend_keeps_its_row_until_its_last_connection_is_gone() {
    let mut builder = builder();
    let with = |backends: &[(&str, u16)]| rules(&[("tcp 203.0.113.1:80", backends)]);
    builder.build(&with(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)]), &NextHops::new(), &NoWorkers).unwrap();
    let mut census = Busy { revision: 1, open: [(0, 9)].into() };
    let without = with(&[("10.0.0.2:80", 1)]);
    let built = builder.build(&without, &static_next_hops(&with(&[("10.0.0.1:80", 1)])), &census).unwrap();
    assert_eq!(built.ruleset.backends[0].address, Ipv4Addr::new(10, 0, 0, 1));
    assert!(built.ruleset.adjacencies[0].is_resolved(), "its connections go on");
    assert_eq!(built.ruleset.service(ServiceIndex(0)).unwrap().members.len(), 1);

    let other = with(&[("10.0.0.2:80", 1), ("10.0.0.3:80", 1)]);
    census.revision = 2;
    let built = builder.build(&other, &NextHops::new(), &census).unwrap();
    assert_eq!(built.fresh_backends, [BackendIndex(2)], "slot 0 has connections");

    census.open.clear();
    builder.build(&without, &NextHops::new(), &census).unwrap();
    let last = with(&[("10.0.0.2:80", 1), ("10.0.0.4:80", 1)]);
    let built = builder.build(&last, &NextHops::new(), &census).unwrap();
    assert_eq!(built.fresh_backends, [BackendIndex(0)], "slot 0 is free, slot 2 not yet known to be");
}

#[test]
fn a_removed_service_no_longer_matches() {
    let mut builder = builder();
    let before = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]);
    builder.build(&before, &NextHops::new(), &NoWorkers).unwrap();
    let built = builder.build(&rules(&[]), &NextHops::new(), &NoWorkers).unwrap();
    assert_eq!(built.ruleset.matcher.find(asked(&before.services[0])), None);
    assert!(built.ruleset.service(ServiceIndex(0)).is_none());
    assert!(!built.ruleset.vips.contains(Ipv4Addr::new(203, 0, 113, 1)));
}

#[test]
fn a_removed_services_vip_stays_one_while_it_has_connections() {
    let mut builder = builder();
    let vip = Ipv4Addr::new(203, 0, 113, 1);
    builder
        .build(&rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]), &NextHops::new(), &NoWorkers)
        .unwrap();
    let mut census = Busy { revision: 1, open: [(0, 1)].into() };
    let built = builder.build(&rules(&[]), &NextHops::new(), &census).unwrap();
    assert!(built.ruleset.vips.contains(vip), "workers find the owner of its packets by it");
    census.open.clear();
    let built = builder.build(&rules(&[]), &NextHops::new(), &census).unwrap();
    assert!(!built.ruleset.vips.contains(vip));
}

#[test]
fn a_direct_routing_backend_behind_a_router_cannot_be_reached() {
    let via_router = |address: &str| {
        let hop = NextHop { port: PortIndex(0), mac: MacAddress([4; 6]), is_on_link: false };
        NextHops::from([(address.parse().unwrap(), hop)])
    };
    let fullnat = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]);
    let mut direct = fullnat.clone();
    Arc::make_mut(&mut direct.services[0]).mode = Mode::Dr;
    let row = |rules: &Rules| {
        builder().build(rules, &via_router("10.0.0.1"), &NoWorkers).unwrap().ruleset.adjacencies[0]
    };
    assert!(row(&fullnat).is_resolved());
    assert!(!row(&direct).is_resolved(), "the router would send it back: it is still for the VIP");
}

#[test]
fn a_service_that_becomes_persistent_has_its_connections_looked_for_where_they_were() {
    let vip = Ipv4Addr::new(203, 0, 113, 1);
    let plain = rules(&[("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1)])]);
    let mut persistent = plain.clone();
    let persistence =
        checked::Persistence { timeout_ms: 1_000, prefix_len: 24, prefix_len6: 128, leaves_drained: false };
    Arc::make_mut(&mut persistent.services[0]).policy.persistence = Some(persistence);
    let part = ClientPart::Network { host_bits: 8 };
    let mut builder = builder();
    let vip_of = |built: &Built| built.ruleset.vips.find(vip).unwrap();
    let first = builder.build(&plain, &NextHops::new(), &NoWorkers).unwrap();
    assert_eq!((vip_of(&first), first.templates), (Vip::PLAIN, None));
    let second = builder.build(&persistent, &NextHops::new(), &NoWorkers).unwrap();
    let changing = Vip { part, part_before: Some(ClientPart::Endpoint) };
    assert_eq!(vip_of(&second), changing);
    assert!(second.templates.is_some() && second.publication(|| 0).templates.is_some());
    let busy = Busy { revision: 2, open: [(0, 1)].into() };
    let third = builder.build(&persistent, &NextHops::new(), &busy).unwrap();
    assert_eq!((vip_of(&third), third.templates), (changing, None), "room once is enough");
    let mut wider = persistent.clone();
    Arc::make_mut(&mut wider.services[0]).policy.persistence =
        Some(checked::Persistence { prefix_len: 16, ..persistence });
    let refused = builder.build(&wider, &NextHops::new(), &busy).unwrap_err();
    assert!(refused.to_string().contains("203.0.113.1 has changed twice"), "{refused}");
    assert!(!builder.can_settle_vips(&busy) && builder.can_settle_vips(&NoWorkers));
    let last = builder.build(&persistent, &NextHops::new(), &NoWorkers).unwrap();
    assert_eq!(vip_of(&last), Vip { part, part_before: None });
    assert!(!builder.can_settle_vips(&NoWorkers));
}

/// Two services with a tunnel to the same backend, one of direct routing, and one that needs no check address.
fn of_all_modes() -> Rules {
    let text = r#"
        [checks]
        [[port]]
        name = "p"
        device = "null"
        kernel = true
        addresses = ["192.0.2.5/24"]
        local_addresses = ["192.0.2.64/30"]
        [[neighbour]]
        address = "10.0.0.1"
        mac = "02:00:00:00:00:01"
        port = "p"
        [[service]]
        name = "ipip"
        listen = "tcp 203.0.113.1:80"
        mode = "tunnel"
        backend = [{ address = "10.0.0.1" }]
        [[service]]
        name = "gue"
        listen = "tcp [2001:db8::1]:80"
        mode = "tunnel"
        tunnel = { encapsulation = "gue" }
        backend = [{ address = "10.0.0.1" }]
        [[service]]
        name = "dr"
        listen = "tcp 203.0.113.1:81"
        mode = "dr"
        backend = [{ address = "10.0.0.1", state = "drain" }]
        [[service]]
        name = "fullnat"
        listen = "tcp 203.0.113.1:82"
        mode = "fullnat"
        backend = [{ address = "10.0.0.1" }]
    "#;
    Rules::parse("test", text).unwrap_or_else(|errors| panic!("{}", errors.plain()))
}

#[test]
fn a_narrow_way_counts_for_every_tunnel_to_its_end_until_it_may_have_changed() {
    let rules = of_all_modes();
    let mut builder = builder();
    let mtus = |builder: &mut Builder| {
        let built = builder.build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
        built.ruleset.adjacencies.iter().map(|row| row.mtu).collect::<Vec<_>>()
    };
    assert_eq!(mtus(&mut builder), [65_515, 65_507, 65_535, 65_535]);
    let report = PathReport { destination: Ipv4Addr::new(10, 0, 0, 1).into(), mtu: 1_400 };
    assert!(builder.hear(report, Duration::from_secs(1)) && !builder.hear(report, Duration::from_secs(2)));
    assert_eq!(mtus(&mut builder), [1_380, 1_372, 65_535, 65_535]);
    let later = Duration::from_secs(602);
    assert!(!builder.is_due(later - Duration::from_secs(1)) && builder.is_due(later));
    builder.advance_to(later);
    assert_eq!(mtus(&mut builder), [65_515, 65_507, 65_535, 65_535]);
}

#[test]
fn backends_that_own_the_vip_have_check_addresses_and_others_a_reason() {
    let rules = of_all_modes();
    let mut builder = builder();
    let built = builder.build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
    let of = |builder: &Builder, rules: &Rules, number: usize| {
        let service = &rules.services[number];
        let key = BackendKey::new(service.key().unwrap(), service.backends[0].endpoint);
        builder.check_address(rules, &key)
    };
    let address = |text: &str| Ok(text.parse().unwrap());
    assert_eq!(of(&builder, &rules, 0), address("198.18.0.1"));
    assert_eq!(of(&builder, &rules, 1), Err(NoCheckAddress::NoSource), "no port has an IPv6 address");
    assert_eq!(of(&builder, &rules, 2), address("198.18.0.3"), "drained or not");
    assert_eq!(of(&builder, &rules, 3), Err(NoCheckAddress::OtherMode));
    let check = |slot: u32| built.checks.get(BackendIndex(slot)).copied();
    let vip: IpAddr = Ipv4Addr::new(203, 0, 113, 1).into();
    let source: IpAddr = Ipv4Addr::new(192, 0, 2, 5).into();
    let tunnel = check(0).unwrap();
    assert_eq!((tunnel.vip, tunnel.source, tunnel.encapsulation.is_some()), (vip, source, true));
    assert!(check(1).is_none() && check(2).unwrap().encapsulation.is_none() && check(3).is_none());

    let mut fewer = rules.clone();
    fewer.services.remove(0);
    builder.build(&fewer, &NextHops::new(), &NoWorkers).unwrap();
    assert_eq!(of(&builder, &fewer, 1), address("198.18.0.3"), "it keeps its address");
    assert!(builder.check(0).is_none(), "gone");
    fewer.checks = None;
    let built = builder.build(&fewer, &NextHops::new(), &NoWorkers).unwrap();
    assert!(built.checks.is_empty());
    assert_eq!(of(&builder, &fewer, 1), Err(NoCheckAddress::NoNetwork));
}

#[test]
fn pings_are_looked_at_while_a_service_takes_them_or_has_some_left() {
    let web = ("tcp 203.0.113.1:80", &[("10.0.0.1:80", 1u16)] as &[_]);
    let pinged = ("icmp 203.0.113.2", &[("10.0.0.2", 1u16)] as &[_]);
    let mut builder = builder();
    let mut takes_echo = |services: &[_], census: &Busy| {
        builder.build(&rules(services), &NextHops::new(), census).unwrap().ruleset.takes_echo
    };
    let mut census = Busy { revision: 0, open: BTreeMap::new() };
    assert!(!takes_echo(&[web], &census));
    assert!(takes_echo(&[web, pinged], &census));
    // The backend of the service in the second slot has a flow, whose answers come until it is forgotten.
    census = Busy { revision: 2, open: [(1, 1)].into() };
    assert!(takes_echo(&[web], &census));
    census.open.clear();
    assert!(!takes_echo(&[web], &census));
    let snat = "[[port]]\nname = \"p\"\ndevice = \"null\"\nkernel = true\nlocal_addresses = [\"192.0.2.64/30\"]\n\
                [[service]]\nname = \"out\"\nmode = \"snat\"\nfrom = \"10.0.0.0/24\"\n\
                backend = [{ address = \"192.0.2.1\" }]\n";
    let snat = Rules::parse("test", snat).unwrap_or_else(|errors| panic!("{}", errors.plain()));
    let built = self::builder().build(&snat, &NextHops::new(), &NoWorkers).unwrap();
    assert!(built.ruleset.takes_echo, "hosts behind it ping the world");
}
