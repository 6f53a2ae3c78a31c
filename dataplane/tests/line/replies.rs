//! Packets that go no further and whose sender is told: RST and ICMP errors, read by etherparse.

use std::net::Ipv4Addr;

use dataplane::rules::{Mode, NoBackend, NoFlow, Policy};
use dataplane::verdict::DropReason;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Ipv4Slice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::common::frames::{ACK, CLIENT_MAC, Decoded, Endpoint, FIN, L4, RST, SYN};
use crate::common::rules::{
    LOCAL_ADDRESSES, ONE_OF_EACH, PORT_MACS, ServiceSpec, TCP, UDP, VIP, backend_mac, with_policy,
};
use crate::common::{Director, Frame, ruleset};
use crate::strategies::ip_options;

const CLIENT: Endpoint = (Ipv4Addr::new(198, 51, 100, 7), 40_000);

/// TCP on port 80 and UDP on port 53; no backend takes connections.
fn without_backends(no_backend: NoBackend) -> Director {
    let spec = |protocol, l4_port| ServiceSpec {
        protocol,
        l4_port,
        mode: Mode::Dr,
        scheduler: "rr",
        weights: &[0, 0],
    };
    let policy = Policy { no_backend, ..Policy::default() };
    Director::new(with_policy(ruleset(1, &[spec(TCP, 80), spec(UDP, 53)]), &policy))
}

/// A director for segments of no known connection.
fn with_strays(no_flow: NoFlow) -> Director {
    let policy = Policy { no_flow, ..Policy::default() };
    let mut director = Director::new(with_policy(ruleset(1, &ONE_OF_EACH), &policy));
    director.worker.device_mut().ports[0].twin = true;
    director
}

/// Fails unless `out` goes back from the VIP to the client that sent `frame`, checksums right and nothing behind.
fn assert_reset(out: &[u8], frame: &Frame) -> (u8, u32, u32) {
    let decoded = Decoded::from(out);
    assert_eq!((decoded.to, decoded.from), (frame.from, frame.to));
    assert_eq!((decoded.source, decoded.destination), (frame.destination, frame.source));
    assert_eq!((decoded.ttl, decoded.payload.len()), (64, 0));
    assert_eq!(decoded.ip_checksum.0, decoded.ip_checksum.1);
    assert_eq!(decoded.l4_checksum.0, decoded.l4_checksum.1);
    assert!(
        out.len() <= 60 && out[54..].iter().all(|byte| *byte == 0),
        "none of the sender's data behind it"
    );
    decoded.tcp
}

/// Fails unless `out` is port unreachable from the VIP to the client that sent `frame`; what it quotes.
fn assert_unreachable<'a>(out: &'a [u8], frame: &Frame) -> &'a [u8] {
    let packet = SlicedPacket::from_ethernet(out).unwrap();
    assert_eq!((out[..6].to_vec(), out[6..12].to_vec()), (frame.from.0.to_vec(), frame.to.0.to_vec()));
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4: {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source, header.destination), (frame.destination.0.octets(), frame.source.0.octets()));
    assert_eq!((header.time_to_live, header.total_len), (64, (out.len() - 14) as u16));
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("not ICMP: {packet:?}") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port)));
    let header = icmp.header();
    assert_eq!(icmp.checksum(), header.icmp_type.calc_checksum(icmp.payload()));
    let quoted = &out[42..];
    assert!(Ipv4Slice::from_slice(quoted).is_ok() || quoted.len() == 548, "an IPv4 datagram, whole or cut");
    quoted
}

#[test]
fn without_a_backend_the_client_is_told_as_the_rules_say() {
    let (segment, datagram) = (Frame::tcp(CLIENT, (VIP, 80), SYN), Frame::udp(CLIENT, (VIP, 53)));
    let datagram = datagram.with_payload([7; 40]);
    for frame in [&segment, &datagram] {
        let mut director = without_backends(NoBackend::Unreachable);
        let out = director.send(frame.bytes()).expect("told");
        assert_eq!(assert_unreachable(&out, frame), &frame.bytes()[14..], "the datagram as it came");
        assert_eq!((director.counters.unreachables.value(), director.counters.resets.value()), (1, 0));
        director.assert_balanced();
        let mut director = without_backends(NoBackend::Drop);
        assert_eq!(director.send(frame.bytes()), None);
        assert_eq!(director.drops(), [(DropReason::NoBackend, 1)]);
        assert_eq!(director.counters.service(dataplane::index::ServiceIndex(0)).refused.value(), {
            u64::from(matches!(frame.l4, L4::Tcp(_)))
        });
    }
    let mut director = without_backends(NoBackend::Reset);
    let out = director.send(segment.bytes()).expect("told");
    assert_eq!(assert_reset(&out, &segment), (RST | ACK, 0, 1_001), "its SYN is acknowledged");
    let out = director.send(datagram.bytes()).expect("told");
    assert_unreachable(&out, &datagram);
    assert_eq!((director.counters.unreachables.value(), director.counters.resets.value()), (1, 1));
    assert_eq!(director.table_used(), 0);
    director.assert_balanced();
}

#[test]
fn an_error_quotes_what_fits_576_bytes_and_no_link_padding() {
    let mut director = without_backends(NoBackend::Unreachable);
    let long = Frame::udp(CLIENT, (VIP, 53)).with_payload([9; 1_400]);
    let out = director.send(long.bytes()).expect("told");
    assert_eq!(out.len(), 14 + 576);
    assert_eq!(assert_unreachable(&out, &long), &long.bytes()[14..][..548]);
    let short = Frame::udp(CLIENT, (VIP, 53)).with_payload([9; 3]);
    let padded = [short.bytes(), vec![0xee; 15]].concat();
    let out = director.send(padded).expect("told");
    assert_eq!(assert_unreachable(&out, &short), &short.bytes()[14..]);
}

#[test]
fn only_a_backend_that_is_lacking_is_told_other_refusals_pass() {
    let mut rules = ruleset(1, &ONE_OF_EACH);
    rules.adjacencies = [dataplane::adjacency::Adjacency::UNRESOLVED; 8].into();
    let mut director = Director::new(rules);
    assert_eq!(director.send(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes()), None);
    assert_eq!(director.drops(), [(DropReason::NextHopUnresolved, 1)]);
}

#[test]
fn a_stray_segment_is_the_kernels_reset_dropped_or_scheduled() {
    let stray = Frame::tcp(CLIENT, (VIP, 80), ACK).with_numbers(5_000, 77).with_payload([1; 100]);
    let mut director = with_strays(NoFlow::Kernel);
    assert_eq!((director.send(stray.bytes()), director.counters.punted.value()), (None, 1));
    let mut director = with_strays(NoFlow::Reset);
    let out = director.send(stray.bytes()).expect("told");
    assert_eq!(
        assert_reset(&out, &stray),
        (RST, 77, 0),
        "the sender's acknowledgment is what it expects next"
    );
    assert_eq!(director.table_used(), 0);
    let mut director = with_strays(NoFlow::Drop);
    assert_eq!((director.send(stray.bytes()), director.drops()), (None, vec![(DropReason::NoFlow, 1)]));
    let mut director = with_strays(NoFlow::Schedule);
    assert_eq!(Decoded::from(&director.send(stray.bytes()).expect("scheduled")).to, backend_mac(0));
    director.wait(100_000);
    assert_eq!(director.table_used(), 1, "established, as it seems to be");
}

#[test]
fn a_stray_fin_that_is_scheduled_makes_a_connection_that_is_over() {
    let mut director = with_strays(NoFlow::Schedule);
    assert!(director.send(Frame::tcp(CLIENT, (VIP, 8080), FIN | ACK).bytes()).is_some());
    director.wait(10_000 + dataplane::flow::expiry::SWEEP_PERIOD_MS + 1);
    assert_eq!(director.table_used(), 0);
}

#[test]
fn a_reset_of_no_connection_never_makes_or_answers_anything() {
    for no_flow in [NoFlow::Reset, NoFlow::Drop, NoFlow::Schedule] {
        let mut director = with_strays(no_flow);
        for number in 0..2_000 {
            for flags in [RST, RST | ACK] {
                assert_eq!(director.send(Frame::tcp((CLIENT.0, number), (VIP, 8080), flags).bytes()), None);
            }
        }
        assert_eq!(director.drops(), [(DropReason::NoFlow, 4_000)]);
        assert_eq!((director.table_used(), director.counters.punted.value()), (0, 0));
    }
    let mut director = with_strays(NoFlow::Kernel);
    assert_eq!(director.send(Frame::tcp(CLIENT, (VIP, 80), RST).bytes()), None);
    assert_eq!((director.table_used(), director.counters.punted.value()), (0, 1));
}

#[test]
fn control_bits_that_make_no_sense_are_dropped_whatever_the_rules_say_of_strays() {
    for no_flow in [NoFlow::Kernel, NoFlow::Reset, NoFlow::Drop, NoFlow::Schedule] {
        let mut director = with_strays(no_flow);
        for flags in [SYN | FIN, SYN | RST, SYN | FIN | ACK, FIN, 0] {
            assert_eq!(director.send(Frame::tcp(CLIENT, (VIP, 80), flags).bytes()), None);
        }
        assert_eq!(director.drops(), [(DropReason::TcpFlags, 5)], "{no_flow:?}");
        assert_eq!((director.table_used(), director.counters.punted.value()), (0, 0));
    }
}

#[test]
fn nobody_is_answered_who_is_not_one_other_host() {
    let sources =
        [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 5), VIP, LOCAL_ADDRESSES[0]];
    for no_backend in [NoBackend::Unreachable, NoBackend::Reset] {
        let mut director = without_backends(no_backend);
        for source in sources {
            assert_eq!(director.send(Frame::tcp((source, 80), (VIP, 80), SYN).bytes()), None, "{source}");
        }
        assert_eq!(director.drops(), [(DropReason::Unanswerable, 5)]);
        director.assert_balanced();
    }
}

#[test]
fn a_flood_is_answered_so_many_times_a_second_and_no_more() {
    for (no_backend, rate, at_once) in [(NoBackend::Unreachable, 1_000, 50), (NoBackend::Reset, 10_000, 500)]
    {
        let mut director = without_backends(no_backend);
        let flood = |director: &mut Director| {
            (0..20_000)
                .filter(|_| director.send(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes()).is_some())
                .count()
        };
        assert_eq!(flood(&mut director), at_once);
        assert_eq!(director.drops(), [(DropReason::ReplyLimit, 20_000 - at_once as u64)]);
        let answered: usize = (0..100)
            .map(|_| {
                director.clock.advance(1);
                (0..30)
                    .filter(|_| director.send(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes()).is_some())
                    .count()
            })
            .sum();
        assert_eq!(answered, rate / 10, "in a tenth of a second");
        director.assert_balanced();
    }
}

#[test]
fn answers_leave_by_the_port_the_packet_came_in_by_among_what_is_forwarded() {
    let specs = [
        ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[1] },
        ServiceSpec { protocol: TCP, l4_port: 81, mode: Mode::Dr, scheduler: "rr", weights: &[0] },
    ];
    let mut director = Director::new(ruleset(1, &specs));
    for number in 0..32 {
        director.receive(
            crate::common::rules::FRONT,
            Frame::tcp((CLIENT.0, 2_000 + number), (VIP, 80 + number % 2), SYN).bytes(),
        );
    }
    director.turn();
    let sent = director.sent();
    let by_port = |port| sent.iter().filter(|(out, _)| *out == port).count();
    assert_eq!([by_port(crate::common::rules::FRONT), by_port(crate::common::rules::BACK)], [16, 16]);
    assert_eq!((director.counters.forwarded.value(), director.counters.unreachables.value()), (16, 16));
    director.assert_balanced();
}

proptest! {
    #[test]
    fn the_reset_for_any_segment_is_what_its_sender_must_accept(
        flags in proptest::sample::select(vec![ACK, ACK | FIN, SYN | ACK, SYN]), numbers in any::<(u32, u32)>(),
        ip_options in ip_options(), payload in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let frame = Frame { ip_options, ..Frame::tcp(CLIENT, (VIP, 80), flags) }.with_payload(payload);
        let frame = frame.with_numbers(numbers.0, numbers.1);
        let policy = Policy { no_flow: NoFlow::Reset, no_backend: NoBackend::Reset, ..Policy::default() };
        let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode: Mode::Dr, scheduler: "rr", weights: &[0] };
        let mut director = Director::new(with_policy(ruleset(1, &[spec]), &policy));
        let out = director.send(frame.bytes()).expect("told");
        let end = numbers.0.wrapping_add(frame.payload.len() as u32 + 1);
        let expected = if flags & ACK != 0 { (RST, numbers.1, 0) } else { (RST | ACK, 0, end) };
        prop_assert_eq!(assert_reset(&out, &frame), expected);
        prop_assert_eq!((frame.to, frame.from), (PORT_MACS[0], CLIENT_MAC));
    }

    #[test]
    fn the_error_about_any_datagram_quotes_it_unchanged(
        ip_options in ip_options(), payload in proptest::collection::vec(any::<u8>(), 0..1_400), tcp in any::<bool>()
    ) {
        let frame = if tcp { Frame::tcp(CLIENT, (VIP, 80), SYN) } else { Frame::udp(CLIENT, (VIP, 53)) };
        let frame = Frame { ip_options, ..frame }.with_payload(payload);
        let mut director = without_backends(NoBackend::Unreachable);
        let out = director.send(frame.bytes()).expect("told");
        let datagram = &frame.bytes()[14..];
        prop_assert_eq!(assert_unreachable(&out, &frame), &datagram[..datagram.len().min(548)]);
    }
}
