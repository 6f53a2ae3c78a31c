//! Pings that do not arrive, and errors about them.

use super::*;

#[test]
fn who_pings_in_vain_is_told_that_nobody_is_there() {
    for is_v6 in FAMILIES {
        let rules = with_service(rules(1, Mode::Dr, is_v6), 0, |service| {
            service.policy.limits = Limits { connections: Some(1), ..Limits::default() };
            service.members.iter_mut().for_each(|member| member.weight = 0);
        });
        let mut director = with_twins(rules);
        let asked = Ping::new(client(1, is_v6), 7);
        let (port, told) = director.pass(FRONT, asked.bytes()).unwrap();
        let at = if is_v6 { 54 } else { 34 };
        let unreachable = if is_v6 { [1, 3] } else { [3, 1] };
        assert_eq!((port, &told[at..at + 2]), (FRONT, &unreachable[..]));
        assert_eq!(told[at + 8..], asked.bytes()[14..], "all of it is quoted");
        assert_eq!(director.counters.unreachables.value(), 1);
        director.assert_balanced();
    }
}

/// An error to the sender of `quoted`, a frame, from a router.
fn error_about(quoted: &Ping, macs: (MacAddress, MacAddress), len: usize) -> Vec<u8> {
    let packet = &quoted.bytes()[14..];
    let packet = &packet[..len.min(packet.len())];
    let link = PacketBuilder::ethernet2(macs.1.0, macs.0.0);
    let mut bytes = Vec::new();
    match quoted.source {
        IpAddr::V4(source) => {
            let kind = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
            link.ipv4([192, 0, 2, 77], source.octets(), 61)
                .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
                .write(&mut bytes, packet)
                .unwrap();
        }
        IpAddr::V6(source) => {
            let router = mapped(Ipv4Addr::new(192, 0, 2, 77)).octets();
            link.ipv6(router, source.octets(), 61)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1_400 })
                .write(&mut bytes, packet)
                .unwrap();
        }
    }
    bytes
}

/// The ping that an error quotes, once the error's own checksum is found to be right. `whole` is as long as what was sent.
fn quoted(frame: &[u8], whole: &Ping) -> Ping {
    let is_v6 = frame[14] >> 4 == 6;
    let header_len = if is_v6 { 40 } else { 20 };
    let message = &frame[14 + header_len..];
    let len = (message.len() as u16).to_be_bytes();
    let pseudo = if is_v6 { [&frame[22..54], &len, &[0, 58]].concat() } else { Vec::new() };
    assert_eq!(sum(&[&pseudo, message]), 0xffff, "the error's checksum");
    assert_eq!(message[..2], if is_v6 { [2, 0] } else { [3, 4] });
    // What was not quoted is as it was sent.
    let sent = &whole.bytes()[14..];
    let mut packet = message[8..].to_vec();
    packet.extend(&sent[packet.len()..]);
    Ping::of(&[&frame[..14], &packet].concat())
}

#[test]
fn errors_about_pings_reach_who_sent_them_in_their_own_words() {
    for (client_is_v6, backend_is_v6) in TRANSLATIONS {
        let mut director = with_twins(rules(1, Mode::Fullnat, backend_is_v6));
        let asked = Ping::new(client(1, client_is_v6), 7).with_len(500);
        let there = pass(&mut director, FRONT, &asked).unwrap();
        let header_len = |is_v6| if is_v6 { 40 } else { 20 };
        for quoted_len in [8, 28, 508] {
            // Of a router between the director and the backend, about the question.
            let len = header_len(backend_is_v6) + quoted_len;
            let error = error_about(&there, (PORT_MACS[1], backend_mac(0)), len);
            let (port, out) = director.pass(BACK, error).unwrap();
            assert_eq!((port, &out[..6]), (FRONT, &CLIENT_MAC.0[..]));
            let seen = quoted(&out, &asked);
            assert_eq!(seen, Ping { to: CLIENT_MAC, hops: 63, ..asked.clone() });
            // Of one between the director and the client, about the answer.
            let answer = there.answered();
            let back = expected_answer(&asked);
            let len = header_len(client_is_v6) + quoted_len;
            let error = error_about(&back, (PORT_MACS[0], CLIENT_MAC), len);
            let (port, out) = director.pass(FRONT, error).unwrap();
            assert_eq!(port, BACK);
            let seen = quoted(&out, &answer);
            assert_eq!(seen, Ping { to: there.to, hops: 63, ..answer });
        }
        assert_eq!(director.counters.icmp_errors.value(), 6);
        // About a ping that nobody here knows, and one that its destination did not send.
        let stranger = Ping { identifier: 8, is_request: false, ..there.clone() };
        director.pass(BACK, error_about(&stranger, (PORT_MACS[1], backend_mac(0)), 100));
        assert_eq!((director.counters.punted.value(), director.drops()), (1, vec![]));
        director.assert_balanced();
    }
}

#[test]
fn errors_about_answers_of_dr_reach_the_backend_as_they_are() {
    for is_v6 in FAMILIES {
        let mut director = with_twins(rules(1, Mode::Dr, is_v6));
        let asked = Ping::new(client(1, is_v6), 7);
        let there = pass(&mut director, FRONT, &asked).unwrap();
        let answer = asked.answered();
        let (port, out) =
            director.pass(FRONT, error_about(&answer, (PORT_MACS[0], CLIENT_MAC), 100)).unwrap();
        assert_eq!((port, &out[..6]), (BACK, &there.to.0[..]));
        assert_eq!(quoted(&out, &answer), Ping { to: there.to, ..answer });
    }
}

#[test]
fn the_last_hop_ends_here() {
    for (client_is_v6, backend_is_v6) in TRANSLATIONS {
        let mut director = with_twins(rules(1, Mode::Fullnat, backend_is_v6));
        let asked = Ping { hops: 1, ..Ping::new(client(1, client_is_v6), 7) };
        assert_eq!(pass(&mut director, FRONT, &asked), None);
        assert_eq!(director.drops(), [(DropReason::TtlExpired, 1)]);
    }
}

#[test]
fn a_checksum_that_came_in_wrong_goes_out_wrong() {
    for (client_is_v6, backend_is_v6) in TRANSLATIONS {
        let mut director = with_twins(rules(1, Mode::Fullnat, backend_is_v6));
        let mut bytes = Ping::new(client(1, client_is_v6), 7).bytes();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x10;
        let (_, out) = director.pass(FRONT, bytes).unwrap();
        let right = std::panic::catch_unwind(|| Ping::of(&out));
        assert!(right.is_err());
        if !client_is_v6 && backend_is_v6 {
            let mut bytes = Ping::new(client(1, false), 7).bytes();
            bytes[19] ^= 1;
            assert_eq!(director.pass(FRONT, bytes), None, "a wrong header in place of none");
            assert_eq!(director.drops(), [(DropReason::Ipv4Checksum, 1)]);
        }
    }
}
