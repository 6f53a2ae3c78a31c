//! Pings through every mode: written by etherparse, read by it, every checksum computed anew. What has no service for them
//! stays the kernel's.

mod errors;
mod fragments;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BackendIndex, PortIndex, ServiceIndex, WorkerIndex};
use dataplane::local_port::LocalPool;
use dataplane::rules::{
    Backend, ClientPart, Flows, Limits, Mode, PortRules, Ruleset, ServiceKey, Timeouts, Vip,
};
use dataplane::verdict::DropReason;
use dataplane::wire::Addresses;
use dataplane::wire::ethernet::MacAddress;
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket};

use crate::common::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{
    BACK, FRONT, LOCAL_ADDRESSES, PORT_MACS, ServiceSpec, VIP, backend_address, backend_mac, ruleset,
    with_backend, with_service,
};
use crate::datagrams::{FAMILIES, address, cut, mapped, sum};
use crate::workers::Team;

/// Both families there and, where it is translated, the other one behind.
const TRANSLATIONS: [(bool, bool); 4] = [(false, false), (true, true), (true, false), (false, true)];

/// What ICMP, or ICMPv6, is numbered.
const fn protocol(is_v6: bool) -> u8 {
    if is_v6 { 58 } else { 1 }
}

fn client(number: u8, is_v6: bool) -> IpAddr {
    address(Ipv4Addr::new(198, 51, 100, number), is_v6)
}

/// A service that takes pings to the VIP of either family, and two backends of one.
fn rules(worker_count: u16, mode: Mode, backends_are_v6: bool) -> Ruleset {
    let spec = ServiceSpec { protocol: 1, l4_port: 0, mode, scheduler: "rr", weights: &[1, 1] };
    let rules = ruleset(worker_count, &[spec]);
    let family = |address: IpAddr| match address {
        IpAddr::V4(address) if backends_are_v6 => mapped(address).into(),
        as_it_is => as_it_is,
    };
    // Of a group that listens on a port, too: a ping asks for none.
    let backend =
        |backend: &Backend| Backend { address: family(backend.address), l4_port: 8_080, ..*backend };
    let vips = FAMILIES.map(|is_v6| address(VIP, is_v6));
    let keys =
        vips.map(|vip| (ServiceKey { vip, l4_port: 0, protocol: protocol(vip.is_ipv6()) }, ServiceIndex(0)));
    let locals = LOCAL_ADDRESSES.map(|address| family(address.into()));
    let inside = (0..2).map(|number| (family(backend_address(number).into()), ClientPart::Endpoint));
    Ruleset {
        takes_echo: true,
        backends: rules.backends.iter().map(backend).collect(),
        matcher: Arc::new(keys.into_iter().collect()),
        vips: Arc::new(vips.into_iter().map(|vip| (vip, Vip::PLAIN)).collect()),
        inside: Arc::new(inside.filter(|_| mode == Mode::Nat).collect()),
        local_addresses: Arc::new(locals.into_iter().collect()),
        local_pools: Arc::new([LocalPool { addresses: locals.into() }]),
        ports: Arc::new([
            PortRules { station: Some(PORT_MACS[0]), ..PortRules::default() },
            PortRules {
                station: Some(PORT_MACS[1]),
                local_pool: Some(0),
                local_pool6: Some(0),
                ..PortRules::default()
            },
        ]),
        ..rules
    }
}

/// An echo message as a test describes it, and as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ping {
    to: MacAddress,
    source: IpAddr,
    destination: IpAddr,
    is_request: bool,
    identifier: u16,
    sequence: u16,
    hops: u8,
    payload: Vec<u8>,
}

impl Ping {
    /// Of a client to the VIP.
    fn new(client: IpAddr, identifier: u16) -> Self {
        Self {
            to: PORT_MACS[0],
            source: client,
            destination: address(VIP, client.is_ipv6()),
            is_request: true,
            identifier,
            sequence: 1,
            hops: 64,
            payload: b"twelve bytes".to_vec(),
        }
    }

    fn with_len(self, len: usize) -> Self {
        Self { payload: (0..len).map(|at| (at * 7) as u8).collect(), ..self }
    }

    /// What the one who got it answers, by the back port.
    fn answered(&self) -> Self {
        Self {
            to: PORT_MACS[1],
            source: self.destination,
            destination: self.source,
            is_request: false,
            hops: 64,
            ..self.clone()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (id, seq) = (self.identifier, self.sequence);
        let echo = IcmpEchoHeader { id, seq };
        let from = if self.to == PORT_MACS[0] { CLIENT_MAC } else { backend_mac(0) };
        let link = PacketBuilder::ethernet2(from.0, self.to.0);
        let mut bytes = Vec::new();
        match Addresses::new(self.source, self.destination) {
            Addresses::V4(pair) => {
                let kind =
                    if self.is_request { Icmpv4Type::EchoRequest(echo) } else { Icmpv4Type::EchoReply(echo) };
                link.ipv4(pair.source().octets(), pair.destination().octets(), self.hops)
                    .icmpv4(kind)
                    .write(&mut bytes, &self.payload)
                    .unwrap();
            }
            Addresses::V6(pair) => {
                let kind =
                    if self.is_request { Icmpv6Type::EchoRequest(echo) } else { Icmpv6Type::EchoReply(echo) };
                link.ipv6(pair.source().octets(), pair.destination().octets(), self.hops)
                    .icmpv6(kind)
                    .write(&mut bytes, &self.payload)
                    .unwrap();
            }
        }
        bytes
    }

    /// Reads a frame, whose checksums must be right.
    fn of(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination, hops, message) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(header.protocol.0, 1);
                let message = ip.payload().payload;
                assert_eq!(sum(&[message]), 0xffff, "ICMP checksum");
                (IpAddr::from(header.source), IpAddr::from(header.destination), header.time_to_live, message)
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                let message = ip.payload().payload;
                assert_eq!(ip.payload().ip_number.0, 58);
                let len = (message.len() as u16).to_be_bytes();
                let sum = sum(&[&header.source, &header.destination, &len, &[0, 58], message]);
                assert_eq!(sum, 0xffff, "ICMPv6 checksum");
                (header.source.into(), header.destination.into(), header.hop_limit, message)
            }
            other => panic!("{other:?}"),
        };
        let request = if source.is_ipv6() { 128 } else { 8 };
        let reply = if source.is_ipv6() { 129 } else { 0 };
        assert!([request, reply].contains(&message[0]), "type {}", message[0]);
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        Self {
            to: MacAddress(*frame.first_chunk().unwrap()),
            source,
            destination,
            is_request: message[0] == request,
            identifier: word(4),
            sequence: word(6),
            hops,
            payload: message[8..].to_vec(),
        }
    }
}

/// A director whose ports have kernel twins.
fn with_twins(rules: Ruleset) -> Director {
    let mut director = Director::new(rules);
    director.worker.device_mut().ports.iter_mut().for_each(|port| port.twin = true);
    director
}

fn pass(director: &mut Director, port: PortIndex, ping: &Ping) -> Option<Ping> {
    director.pass(port, ping.bytes()).map(|(_, frame)| Ping::of(&frame))
}

/// What the client is to get for what it sent, when the backend that got `there` answers.
fn expected_answer(asked: &Ping) -> Ping {
    Ping { to: CLIENT_MAC, hops: 63, ..asked.answered() }
}

#[test]
fn dr_hands_a_clients_pings_to_one_backend_as_they_are() {
    for is_v6 in FAMILIES {
        let mut director = with_twins(rules(1, Mode::Dr, is_v6));
        let mut macs = BTreeSet::new();
        for identifier in 0..4 {
            let first = Ping::new(client(1, is_v6), identifier);
            let there = pass(&mut director, FRONT, &first).unwrap();
            assert_eq!(there, Ping { to: there.to, hops: 63, ..first.clone() });
            let again = Ping { sequence: 2, ..first.with_len(1_000) };
            assert_eq!(pass(&mut director, FRONT, &again).unwrap().to, there.to, "one flow, one backend");
            macs.insert(there.to.0);
        }
        assert_eq!(macs.len(), 2, "flows are spread by their identifiers");
        assert_eq!(director.table_used(), 4);
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn fullnat_gives_each_flow_an_identifier_of_its_own_and_answers_find_their_way_back() {
    for (client_is_v6, backend_is_v6) in TRANSLATIONS {
        let mut director = with_twins(rules(1, Mode::Fullnat, backend_is_v6));
        let mut given = BTreeSet::new();
        for (number, len) in [(1, 0), (2, 56), (3, 57), (4, 1_200)] {
            // Windows pings under the identifier 1, whoever and whatever it asks; 0 is one like any other.
            for identifier in [1, 0, 40_000] {
                let asked = Ping::new(client(number, client_is_v6), identifier).with_len(len);
                let there = pass(&mut director, FRONT, &asked).unwrap();
                assert!(there.is_request && there.hops == 63);
                assert_eq!((there.sequence, &there.payload), (1, &asked.payload));
                assert!(
                    (0..2)
                        .any(|backend| there.destination == address(backend_address(backend), backend_is_v6))
                );
                assert!(LOCAL_ADDRESSES.iter().any(|local| there.source == address(*local, backend_is_v6)));
                assert!(given.insert((there.source, there.destination, there.identifier)));
                let back = pass(&mut director, BACK, &there.answered()).unwrap();
                assert_eq!(back, expected_answer(&asked));
            }
        }
        assert_eq!(director.drops(), []);
        director.assert_balanced();
        director.assert_table_adds_up();
    }
}

#[test]
fn nat_keeps_the_identifier_and_the_client() {
    for is_v6 in FAMILIES {
        let mut director = with_twins(rules(1, Mode::Nat, is_v6));
        for identifier in [1, 0, 7] {
            let asked = Ping::new(client(1, is_v6), identifier);
            let there = pass(&mut director, FRONT, &asked).unwrap();
            let expected = Ping { to: there.to, destination: there.destination, hops: 63, ..asked.clone() };
            assert_eq!(there, expected);
            let back = pass(&mut director, BACK, &there.answered()).unwrap();
            assert_eq!(back, expected_answer(&asked));
        }
        director.assert_table_adds_up();
    }
}

#[test]
fn pings_of_one_identifier_to_two_vips_of_one_backend_are_told_apart_by_nat() {
    let other_vip = IpAddr::from([203, 0, 113, 11]);
    for worker_count in [1, 3] {
        let mut rules = with_service(rules(worker_count, Mode::Nat, false), 0, |service| {
            service.members = service.members[..1].into();
        });
        let vips = [address(VIP, false), other_vip];
        let keys = vips.map(|vip| (ServiceKey { vip, l4_port: 0, protocol: 1 }, ServiceIndex(0)));
        rules.matcher = Arc::new(keys.into_iter().collect());
        rules.vips = Arc::new(vips.into_iter().map(|vip| (vip, Vip::PLAIN)).collect());
        let mut team = Team::with(&rules);
        let mut pass = |port: PortIndex, ping: &Ping| {
            team.0[0].receive(port, ping.bytes());
            team.turn();
            let mut sent: Vec<_> = team.0.iter_mut().flat_map(Director::sent).collect();
            assert_eq!(sent.len(), 1);
            Ping::of(&sent.remove(0).1)
        };
        for number in 0..20 {
            let asked = vips.map(|vip| Ping { destination: vip, ..Ping::new(client(number, false), 1) });
            let there = asked.clone().map(|asked| pass(FRONT, &asked));
            assert_eq!(there[0].identifier, 1, "kept where it can be");
            assert_ne!(there[1].identifier, 1);
            for (asked, there) in asked.iter().zip(&there) {
                assert_eq!(pass(BACK, &there.answered()), expected_answer(asked));
            }
        }
        team.assert_balanced();
    }
}

/// One service that takes what the first backend's address sends anywhere.
fn outbound(is_v6: bool) -> Ruleset {
    let host = address(backend_address(0), is_v6);
    Ruleset {
        matcher: Arc::default(),
        ports: Arc::new([
            PortRules {
                station: Some(PORT_MACS[0]),
                local_pool: Some(0),
                local_pool6: Some(0),
                ..PortRules::default()
            },
            PortRules { station: Some(PORT_MACS[1]), ..PortRules::default() },
        ]),
        adjacencies: [Adjacency::resolved(CLIENT_MAC, PORT_MACS[0], FRONT); 2].into(),
        inside: Arc::new([(host, ClientPart::Endpoint)].into_iter().collect()),
        snat: Arc::new([(host, ServiceIndex(0))].into_iter().collect()),
        ..rules(1, Mode::Snat, is_v6)
    }
}

#[test]
fn hosts_behind_snat_ping_the_world_under_identifiers_of_the_director() {
    for is_v6 in FAMILIES {
        let mut director = with_twins(outbound(is_v6));
        let host = address(backend_address(0), is_v6);
        for number in 1..4 {
            let asked = Ping {
                to: PORT_MACS[1],
                source: host,
                destination: client(number, is_v6),
                ..Ping::new(host, 1)
            };
            let out = pass(&mut director, BACK, &asked).unwrap();
            assert_eq!((out.to, out.destination, out.hops), (CLIENT_MAC, asked.destination, 63));
            assert!(LOCAL_ADDRESSES.iter().any(|local| out.source == address(*local, is_v6)));
            let answer = Ping { to: PORT_MACS[0], ..out.answered() };
            let back = pass(&mut director, FRONT, &answer).unwrap();
            assert_eq!(back, Ping { to: backend_mac(0), hops: 63, ..asked.answered() });
        }
        // The host answers somebody who pinged it: the kernel forwards that as it forwarded the question.
        let answer = Ping { is_request: false, ..Ping::new(host, 9) };
        let answer = Ping { to: PORT_MACS[1], destination: client(9, is_v6), ..answer };
        assert_eq!(pass(&mut director, BACK, &answer), None);
        assert_eq!(director.counters.punted.value(), 1);
        director.assert_balanced();
    }
}

#[test]
fn without_a_service_for_them_pings_are_the_kernels() {
    for is_v6 in FAMILIES {
        for takes_echo in [false, true] {
            // Another VIP's service takes pings, or none does.
            let rules = Ruleset { takes_echo, matcher: Arc::default(), ..rules(1, Mode::Fullnat, is_v6) };
            let mut director = with_twins(rules);
            let asked = Ping::new(client(1, is_v6), 7);
            assert_eq!(pass(&mut director, FRONT, &asked), None);
            let long = asked.with_len(2_000).bytes();
            cut(&long, 1_000, 5).into_iter().for_each(|fragment| director.receive(FRONT, fragment));
            director.turn();
            assert_eq!((director.counters.punted.value(), director.drops()), (4, vec![]));
            director.assert_balanced();
        }
    }
}

#[test]
fn what_is_no_request_makes_no_flow() {
    for (is_v6, mode) in FAMILIES.into_iter().flat_map(|is_v6| [(is_v6, Mode::Dr), (is_v6, Mode::Fullnat)]) {
        let mut director = with_twins(rules(1, mode, is_v6));
        // The kernel pinged the client from the VIP, and this is its answer.
        for identifier in [0, 9] {
            let answer = Ping { is_request: false, ..Ping::new(client(1, is_v6), identifier) };
            assert_eq!(pass(&mut director, FRONT, &answer), None);
        }
        // Timestamp, or a multicast listener's report; and an echo request to a local address.
        let at = if is_v6 { 54 } else { 34 };
        let mut other = Ping::new(client(1, is_v6), 9).bytes();
        other[at] = if is_v6 { 143 } else { 13 };
        assert_eq!(director.pass(FRONT, other), None);
        let to_local =
            Ping { destination: address(LOCAL_ADDRESSES[0], is_v6), ..Ping::new(client(1, is_v6), 9) };
        assert_eq!(pass(&mut director, FRONT, &to_local), None);
        assert_eq!((director.counters.punted.value(), director.table_used()), (4, 0));
        // One that ends before it has said who it is.
        let mut cut = Ping::new(client(1, is_v6), 9).with_len(0).bytes();
        cut.truncate(at + 6);
        let len_at = if is_v6 { 19 } else { 17 };
        cut[len_at] -= 2;
        director.receive(FRONT, cut);
        director.turn();
        assert_eq!(director.drops(), [(DropReason::Truncated, 1)]);
        director.assert_balanced();
    }
}

#[test]
fn a_flow_is_forgotten_after_its_own_timeout() {
    let mut timeouts = Timeouts::default();
    timeouts.set(dataplane::flow::tcp_state::TcpState::Icmp, 5_000);
    for (timeouts, seconds) in [(Timeouts::default(), 60), (timeouts, 5)] {
        let rules =
            with_service(rules(1, Mode::Fullnat, false), 0, |service| service.policy.timeouts = timeouts);
        let mut director = with_twins(rules);
        pass(&mut director, FRONT, &Ping::new(client(1, false), 7)).unwrap();
        director.wait(seconds * 1_000 - 100);
        assert_eq!(director.table_used(), 2);
        director.wait(4_200);
        assert_eq!(director.table_used(), 0);
        director.assert_table_adds_up();
    }
}

#[test]
fn each_flow_is_one_workers_and_its_answers_come_to_that_one() {
    for (client_is_v6, backend_is_v6) in TRANSLATIONS {
        let mut team = Team::with(&rules(4, Mode::Fullnat, backend_is_v6));
        let mut owners = BTreeSet::new();
        for number in 0..40u16 {
            let asked = Ping::new(client(1, client_is_v6), number);
            for (at, sequence) in [(0, 1), (3, 2)] {
                team.0[at].receive(FRONT, Ping { sequence, ..asked.clone() }.bytes());
                team.turn();
                let sent: Vec<_> = team.0.iter_mut().flat_map(Director::sent).collect();
                let there = Ping::of(&sent[0].1);
                assert_eq!((sent.len(), there.sequence), (1, sequence));
                owners.insert(there.identifier % 4);
                team.0[usize::from(number) % 4].receive(BACK, there.answered().bytes());
                team.turn();
                let back: Vec<_> = team.0.iter_mut().flat_map(Director::sent).collect();
                let expected = expected_answer(&Ping { sequence, ..asked.clone() });
                assert_eq!((back.len(), Ping::of(&back[0].1)), (1, expected));
            }
        }
        assert_eq!(owners.len(), 4, "by the identifier");
        let opened: u64 = (0..2)
            .flat_map(|backend| {
                team.0.iter().map(move |of| of.counters.backend(BackendIndex(backend)).opened.value())
            })
            .sum();
        assert_eq!(opened, 40);
        team.assert_balanced();
    }
}

#[test]
fn a_service_without_flows_sends_each_ping_where_its_hash_says() {
    for is_v6 in FAMILIES {
        let spec = ServiceSpec { protocol: 1, l4_port: 0, mode: Mode::Dr, scheduler: "mh", weights: &[1, 1] };
        let hashing = ruleset(1, &[spec]);
        let rules = Ruleset { services: hashing.services, ..rules(1, Mode::Dr, is_v6) };
        let rules = with_service(rules, 0, |service| service.policy.flows = Flows::None);
        let mut director = with_twins(rules);
        for identifier in 0..8 {
            let asked = Ping::new(client(1, is_v6), identifier);
            let there = pass(&mut director, FRONT, &asked).unwrap();
            assert_eq!(pass(&mut director, FRONT, &asked).unwrap().to, there.to);
        }
        assert_eq!(director.table_used(), 0);
    }
}

#[test]
fn a_backend_on_the_director_is_pinged_by_its_kernel_twin() {
    let rules = (0..2).fold(rules(1, Mode::Dr, false), |rules, index| {
        with_backend(rules, index, |backend| backend.is_local = true)
    });
    let mut director = with_twins(rules);
    assert_eq!(pass(&mut director, FRONT, &Ping::new(client(1, false), 7)), None);
    assert_eq!((director.counters.punted.value(), director.table_used()), (1, 1));
}

#[test]
fn answers_of_nat_have_the_owner_of_their_questions() {
    let rules = rules(5, Mode::Nat, false);
    for identifier in 0..500 {
        let asked = dataplane::flow::FlowKey::new((client(1, false), identifier), (VIP, 0), 1);
        let answer =
            dataplane::flow::FlowKey::new((backend_address(0), 0), (client(1, false), identifier), 1);
        let owner = dataplane::stage::steer::owner(&asked, &rules);
        assert!(owner.is_some_and(|owner| owner < WorkerIndex(5)));
        assert_eq!(dataplane::stage::steer::owner(&answer, &rules), owner);
    }
}
