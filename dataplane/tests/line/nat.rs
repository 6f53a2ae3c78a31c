//! NAT and SNAT: one endpoint of a connection is rewritten, and the way back undoes it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::adjacency::Adjacency;
use dataplane::index::{BackendIndex, ServiceIndex, WorkerIndex};
use dataplane::rules::{ClientPart, Mode, PortRules, Rss, Ruleset};
use dataplane::stage::steer;
use dataplane::verdict::DropReason;

use crate::common::director::Director;
use crate::common::frames::{ACK, CLIENT_MAC, Decoded, Endpoint, Frame, RST, SYN};
use crate::common::rules::{
    BACK, FRONT, LOCAL_ADDRESSES, PORT_MACS, ServiceSpec, TCP, UDP, VIP, backend_address, backend_mac,
    ruleset,
};

const CLIENT: Endpoint = (Ipv4Addr::new(198, 51, 100, 7), 40_000);
const SERVER: Endpoint = (Ipv4Addr::new(10, 0, 0, 11), 9_000);

fn spec(protocol: u8, l4_port: u16, mode: Mode) -> ServiceSpec {
    ServiceSpec { protocol, l4_port, mode, scheduler: "rr", weights: &[1] }
}

/// A frame of the first backend, which comes in by the back port.
fn of_backend(frame: Frame) -> Vec<u8> {
    Frame { to: PORT_MACS[1], from: backend_mac(0), ..frame }.bytes()
}

fn assert_right(decoded: &Decoded) {
    assert_eq!(decoded.ip_checksum.0, decoded.ip_checksum.1, "{decoded:?}");
    assert_eq!(decoded.l4_checksum.0, decoded.l4_checksum.1, "{decoded:?}");
}

#[test]
fn nat_rewrites_the_destination_alone_and_the_answers_source() {
    for protocol in [TCP, UDP] {
        let mut director = Director::new(ruleset(1, &[spec(protocol, 80, Mode::Nat)]));
        let frame = |source, destination| match protocol {
            TCP => Frame::tcp(source, destination, if source == CLIENT { SYN } else { SYN | ACK }),
            _ => Frame::udp(source, destination).with_payload(*b"who?"),
        };
        let there = director.pass(FRONT, frame(CLIENT, (VIP, 80)).bytes()).unwrap();
        let decoded = Decoded::from(&there.1);
        assert_eq!((there.0, decoded.to, decoded.ttl), (BACK, backend_mac(0), 63));
        assert_eq!((decoded.source, decoded.destination), (CLIENT, SERVER));
        assert_right(&decoded);
        let back = director.pass(BACK, of_backend(frame(SERVER, CLIENT))).unwrap();
        let decoded = Decoded::from(&back.1);
        assert_eq!((back.0, decoded.to, decoded.from), (FRONT, CLIENT_MAC, PORT_MACS[0]));
        assert_eq!((decoded.source, decoded.destination), ((VIP, 80), CLIENT));
        assert_right(&decoded);
    }
}

#[test]
fn a_client_has_one_connection_from_one_port_to_a_backend_whatever_it_asks() {
    let mut rules = ruleset(1, &[spec(TCP, 80, Mode::Nat), spec(TCP, 81, Mode::Nat)]);
    // Both services have the first backend.
    let mut backends = rules.backends.to_vec();
    backends[1].address = backends[0].address;
    (backends[0].l4_port, backends[1].l4_port) = (9_000, 9_000);
    rules.backends = backends.into();
    let mut director = Director::new(rules);
    assert!(director.send(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes()).is_some());
    director.send(Frame::tcp(CLIENT, (VIP, 80), ACK).bytes());
    assert_eq!(director.send(Frame::tcp(CLIENT, (VIP, 81), SYN).bytes()), None);
    assert_eq!(director.counters.dropped(DropReason::NoLocalPort).value(), 1);
    let other = (CLIENT.0, 40_001);
    assert!(director.send(Frame::tcp(other, (VIP, 81), SYN).bytes()).is_some());
}

/// Not one that is reset once it was made: that is how some protocols end.
#[test]
fn a_connection_that_the_backend_refuses_is_counted_as_that() {
    let mut director = Director::new(ruleset(1, &[spec(TCP, 80, Mode::Nat)]));
    let refused = |director: &Director| director.counters.backend(BackendIndex(0)).refused.value();
    for (answers, expected) in [(&[RST | ACK][..], 1), (&[SYN | ACK, ACK, RST], 1), (&[RST | ACK], 2)] {
        let client = (CLIENT.0, 50_000 + answers.len() as u16 * 10 + expected as u16);
        director.pass(FRONT, Frame::tcp(client, (VIP, 80), SYN).bytes()).unwrap();
        for flags in answers {
            // The ACK is the client's, which completes the handshake.
            let passed = match *flags {
                ACK => director.pass(FRONT, Frame::tcp(client, (VIP, 80), ACK).bytes()),
                flags => director.pass(BACK, of_backend(Frame::tcp(SERVER, client, flags))),
            };
            assert!(passed.is_some());
        }
        assert_eq!(refused(&director), expected);
    }
}

/// One service that takes what the backends' network sends anywhere; its one "backend" is the clients' router.
fn outbound() -> Ruleset {
    let rules = ruleset(1, &[spec(TCP, 0, Mode::Snat)]);
    let host = backend_address(0);
    Ruleset {
        matcher: Arc::default(),
        ports: Arc::new([
            PortRules { station: Some(PORT_MACS[0]), local_pool: Some(0), ..PortRules::default() },
            PortRules { station: Some(PORT_MACS[1]), ..PortRules::default() },
        ]),
        adjacencies: Arc::new([Adjacency::resolved(CLIENT_MAC, PORT_MACS[0], FRONT)]),
        inside: Arc::new([(host, ClientPart::Endpoint)].into_iter().collect()),
        snat: Arc::new([(host, ServiceIndex(0))].into_iter().collect()),
        exempt: Arc::new([Ipv4Addr::new(10, 0, 0, 1)].into_iter().collect()),
        ..rules
    }
}

#[test]
fn snat_rewrites_the_source_alone_and_the_answers_destination() {
    let mut director = Director::new(outbound());
    let host = (backend_address(0), 50_000);
    let out = director.pass(BACK, of_backend(Frame::tcp(host, CLIENT, SYN))).unwrap();
    let decoded = Decoded::from(&out.1);
    assert_eq!((out.0, decoded.to, decoded.destination), (FRONT, CLIENT_MAC, CLIENT));
    assert!(LOCAL_ADDRESSES.contains(&decoded.source.0));
    assert_right(&decoded);
    let answer = Frame::tcp(CLIENT, decoded.source, SYN | ACK).bytes();
    let back = director.pass(FRONT, answer).unwrap();
    let decoded = Decoded::from(&back.1);
    assert_eq!((back.0, decoded.to), (BACK, backend_mac(0)));
    assert_eq!((decoded.source, decoded.destination), (CLIENT, host));
    assert_right(&decoded);
    // To the director itself, and from a host nobody named.
    assert_eq!(
        director.pass(BACK, of_backend(Frame::tcp(host, (Ipv4Addr::new(10, 0, 0, 1), 22), SYN))),
        None
    );
    let stranger = (Ipv4Addr::new(10, 0, 0, 99), 50_000);
    assert_eq!(director.pass(BACK, of_backend(Frame::tcp(stranger, CLIENT, SYN))), None);
    assert_eq!(director.counters.backend(BackendIndex(0)).opened.value(), 1);
}

#[test]
fn answers_of_nat_have_the_owner_of_their_clients_packets() {
    let host = backend_address(0);
    let rss = || Some(Arc::new(Rss::new(&std::array::from_fn::<_, 40, _>(|n| (n * 73 + 5) as u8), 128, 7)));
    let network = ClientPart::Network { host_bits: 8 };
    for (part, rss) in [
        (ClientPart::Endpoint, None),
        (network, None),
        // What ports hash of a question and of its answer differs: of a VIP and of a backend.
        (ClientPart::EndpointAlone, rss()),
        (network, rss()),
    ] {
        let mut rules = Ruleset { rss, ..ruleset(7, &[spec(TCP, 80, Mode::Nat)]) };
        rules.vips =
            Arc::new([(VIP, dataplane::rules::Vip { part, part_before: None })].into_iter().collect());
        rules.inside = Arc::new([(host, part)].into_iter().collect());
        let mut owners = [0; 7];
        for l4_port in 1_024..2_024 {
            let client = (Ipv4Addr::from(u32::from(l4_port) << 8 | 0x0a00_0000), l4_port);
            let there = dataplane::flow::FlowKey::new(client, (VIP, 80), TCP);
            let back = dataplane::flow::FlowKey::new((host, 9_000), client, TCP);
            let owner = steer::owner(&there, &rules);
            assert_eq!(steer::owner(&back, &rules), owner);
            owners[owner.unwrap_or(WorkerIndex(0)).as_usize()] += 1;
        }
        assert!(owners.iter().all(|count| *count > 50), "{owners:?}");
    }
}
