//! The segment size that the ends of a connection name each other.

use super::*;

#[test]
fn a_segment_size_is_lowered_as_the_rules_say() {
    let named = |mss, is_v6, mtus: (u16, u16)| {
        let mut connection = Connection::new(&Policy { mss, ..Policy::default() }, is_v6);
        let rules = connection.director.worker.line().rules.clone();
        let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(mtus.1)).collect();
        let mut ports = rules.ports.to_vec();
        ports[0].mtu = mtus.0;
        let rules = Ruleset { adjacencies, ports: ports.into(), revision: 2, ..Ruleset::clone(&rules) };
        connection.director.publish(rules);
        let size = |segment: &Segment| match segment.options()[..] {
            [TcpOptionElement::MaximumSegmentSize(mss)] => mss,
            _ => panic!("{segment:?}"),
        };
        let option = [2, 4, 0x05, 0xb4];
        let syn = connection.there(&connection.of_client(SYN, CLIENT_ISN, 0).with_options(option));
        let syn_ack = connection.of_server(SYN | ACK, SERVER_ISN, first()).with_options(option);
        (size(&syn), size(&connection.back(&syn_ack)))
    };
    assert_eq!(named(Mss::Kept, false, (1_400, 1_300)), (1_460, 1_460));
    assert_eq!(named(Mss::Clamped, false, (1_400, 1_300)), (1_260, 1_260));
    assert_eq!(named(Mss::Clamped, true, (1_300, 1_400)), (1_240, 1_240));
    assert_eq!(named(Mss::Clamped, false, (9_000, 9_000)), (1_460, 1_460));
    assert_eq!(named(Mss::AtMost(1_000), false, (1_400, 1_300)), (1_000, 1_000));
}

/// The header stands in front of what the client sends: only what the backend names is lowered by so much.
#[test]
fn a_proxy_header_comes_off_the_segment_size_that_the_backend_names() {
    for (mss, is_v6, header, expected) in [
        (Mss::Kept, false, 28, (1_460, 1_260)),
        (Mss::Clamped, false, 28, (1_260, 1_260)),
        (Mss::Clamped, true, 52, (1_240, 1_240)),
        (Mss::AtMost(1_000), false, 28, (1_000, 1_000)),
    ] {
        let policy = Policy { mss, client_address: ClientAddress::Proxy(Version::V2), ..Policy::default() };
        let mut connection = Connection::new(&policy, is_v6);
        let rules = connection.director.worker.line().rules.clone();
        let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_300)).collect();
        let mut ports = rules.ports.to_vec();
        ports[0].mtu = 1_400;
        let rules = Ruleset { adjacencies, ports: ports.into(), revision: 2, ..Ruleset::clone(&rules) };
        connection.director.publish(rules);
        let size = |segment: &Segment| match segment.options()[..] {
            [TcpOptionElement::MaximumSegmentSize(mss)] => mss,
            _ => panic!("{segment:?}"),
        };
        let option = [2, 4, 0x05, 0xb4];
        let syn = connection.there(&connection.of_client(SYN, CLIENT_ISN, 0).with_options(option));
        let syn_ack = connection.of_server(SYN | ACK, SERVER_ISN, first()).with_options(option);
        let named = size(&connection.back(&syn_ack));
        // With a bound of the rules' own there is room: the header is taken off what fits.
        let room = if matches!(mss, Mss::AtMost(_)) { named } else { named + header };
        assert_eq!((size(&syn), room), expected, "{mss:?}");
    }
}
