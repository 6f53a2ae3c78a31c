//! PROXY protocol within the connection: what the backend and the client get, segment by segment.

use super::*;

#[test]
fn the_header_comes_before_everything_the_client_sends() {
    for (version, is_v6) in VARIANTS {
        let mut connection = Connection::new(&proxy(version), is_v6);
        let header = connection.header(version);
        connection.open();
        let ack = connection.there(&connection.of_client(ACK, first(), SERVER_ISN + 1));
        assert_eq!((ack.sequence, ack.acknowledgment, &ack.data), (first(), SERVER_ISN + 1, &header));
        let request = connection.of_client(ACK | PSH, first(), SERVER_ISN + 1).with_data(*b"GET /");
        let got = connection.there(&request);
        assert_eq!(
            (got.sequence, got.data),
            (first(), [&header[..], b"GET /"].concat()),
            "not acknowledged yet"
        );
        let more = connection.of_client(ACK, after(5), SERVER_ISN + 1).with_data(*b"!");
        assert_eq!(connection.there(&more).sequence, after(5 + header.len()));
        let answer = connection.of_server(ACK, SERVER_ISN + 1, after(header.len() + 5)).with_data(*b"200");
        let got = connection.back(&answer);
        assert_eq!((got.sequence, got.acknowledgment, got.data), (SERVER_ISN + 1, after(5), b"200".to_vec()));
        let again = connection.there(&request);
        assert_eq!(
            (again.sequence, again.data),
            (after(header.len()), b"GET /".to_vec()),
            "it has the header"
        );
        let fin = connection.there(&connection.of_client(FIN | ACK, after(6), SERVER_ISN + 4));
        assert_eq!((fin.sequence, fin.acknowledgment), (after(6 + header.len()), SERVER_ISN + 4));
        connection.director.assert_balanced();
        connection.director.assert_table_adds_up();
    }
}

#[test]
fn a_backend_that_speaks_first_has_the_header_first() {
    let mut connection = Connection::new(&proxy(Version::V1), false);
    let header = connection.header(Version::V1);
    connection.open();
    // The ACK that completes the handshake, lost behind the director: the backend repeats its SYN-ACK, the client its ACK.
    let ack = connection.of_client(ACK, first(), SERVER_ISN + 1);
    for _ in 0..3 {
        let got = connection.there(&ack);
        assert_eq!((got.sequence, &got.data), (first(), &header));
        let syn_ack = connection.back(&connection.of_server(SYN | ACK, SERVER_ISN, first()));
        assert_eq!(syn_ack.acknowledgment, first());
    }
    let greeting = connection.of_server(ACK, SERVER_ISN + 1, after(header.len())).with_data(*b"220 hello");
    let got = connection.back(&greeting);
    assert_eq!((got.acknowledgment, got.data), (first(), b"220 hello".to_vec()));
    let ack = connection.there(&connection.of_client(ACK, first(), SERVER_ISN + 10));
    assert_eq!((ack.sequence, ack.data.len()), (after(header.len()), 0));
}

#[test]
fn what_is_acknowledged_of_the_header_the_client_does_not_hear_of() {
    let mut connection = Connection::new(&proxy(Version::V2), false);
    connection.open();
    let ack = connection.of_client(ACK, first(), SERVER_ISN + 1);
    connection.there(&ack);
    // A window that takes part of it only, then a segment that overtook: the header is not there yet.
    for part in [0, 1, 27] {
        let got = connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(part)));
        assert_eq!(got.acknowledgment, first(), "{part}");
        assert_eq!(connection.there(&ack).data.len(), 28);
    }
    let mut sack = vec![1, 1, 5, 18];
    for edge in [after(28 + 100), after(28 + 200), after(10), after(28 + 50)] {
        sack.extend(edge.to_be_bytes());
    }
    let blocks = |segment: &Segment| match &segment.options()[..] {
        [.., TcpOptionElement::SelectiveAcknowledgement(one, rest)] => (*one, rest[0].unwrap()),
        other => panic!("{other:?}"),
    };
    let early = connection.of_server(ACK, SERVER_ISN + 1, first()).with_options(sack.clone());
    let got = connection.back(&early);
    assert_eq!(blocks(&got), ((after(100), after(200)), (first(), after(50))));
    let late = connection.of_server(ACK, SERVER_ISN + 1, after(28)).with_options(sack);
    let got = connection.back(&late);
    assert_eq!(got.acknowledgment, first());
    assert_eq!(blocks(&got).0, (after(100), after(200)));
}

#[test]
fn a_handshake_leaves_room_for_the_header() {
    for (version, is_v6) in VARIANTS {
        let policy = proxy(version);
        let mut connection = Connection::new(&policy, is_v6);
        let len = connection.header(version).len() as u16;
        connection.there(&connection.of_client(SYN, CLIENT_ISN, 0).with_options([2, 4, 0x05, 0xb4]));
        let syn_ack = Segment {
            window: 1_000,
            ..connection.of_server(SYN | ACK, SERVER_ISN, first()).with_options([2, 4, 0x05, 0xb4])
        };
        let got = connection.back(&syn_ack);
        assert_eq!(got.options(), [TcpOptionElement::MaximumSegmentSize(1_460 - len)]);
        assert_eq!(got.window, 1_000 - len);
        let narrow = connection.back(&Segment { window: 3, ..syn_ack });
        assert_eq!(narrow.window, 0);
    }
}

#[test]
fn data_with_a_syn_comes_after_the_handshake() {
    let mut connection = Connection::new(&proxy(Version::V2), false);
    let header = connection.header(Version::V2);
    let syn = connection.of_client(SYN, CLIENT_ISN, 0).with_data(*b"early");
    let got = connection.there(&syn);
    assert_eq!((got.sequence, got.flags, got.data.len()), (CLIENT_ISN, SYN, 0));
    connection.back(&connection.of_server(SYN | ACK, SERVER_ISN, first()));
    let again = connection.there(&connection.of_client(ACK, first(), SERVER_ISN + 1).with_data(*b"early"));
    assert_eq!(again.data, [&header[..], b"early"].concat());
}

#[test]
fn a_first_segment_that_leaves_no_room_is_cut() {
    for (version, is_v6) in VARIANTS {
        let mut connection = Connection::new(&proxy(version), is_v6);
        let rules = connection.director.worker.line().rules.clone();
        let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_500)).collect();
        connection.director.publish(Ruleset { adjacencies, revision: 2, ..Ruleset::clone(&rules) });
        connection.open();
        let header = connection.header(version);
        let headers = if is_v6 { 60 } else { 40 };
        for data_len in [1_500 - headers, 1_500 - headers - header.len(), 1_500 - headers - header.len() + 1]
        {
            let data: Vec<u8> = (0..data_len).map(|n| (n % 251) as u8).collect();
            let segment = connection.of_client(FIN | ACK, first(), SERVER_ISN + 1).with_data(data.clone());
            let got = connection.there(&segment);
            let fits = 1_500 - headers - header.len();
            let room = if data_len <= fits { data_len } else { fits & !1 };
            assert_eq!(got.data, [&header[..], &data[..room]].concat());
            assert_eq!(got.flags & FIN != 0, room == data_len, "an end that is cut off is not told");
        }
    }
}

#[test]
fn resets_are_taken_by_backends_with_and_without_the_header() {
    let policy = Policy { checks_rst: true, ..proxy(Version::V2) };
    let reset = |told: bool| {
        let mut connection = Connection::new(&policy, false);
        connection.open();
        connection.there(&connection.of_client(ACK, first(), SERVER_ISN + 1));
        if told {
            connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(28)));
        }
        let rst = connection.there(&connection.of_client(RST, first(), 0));
        (rst.sequence, rst.data.len())
    };
    assert_eq!(reset(false), (first(), 0));
    assert_eq!(reset(true), (after(28), 0));
    // The backend refuses: what it acknowledges is the SYN.
    let mut connection = Connection::new(&proxy(Version::V2), false);
    connection.there(&connection.of_client(SYN, CLIENT_ISN, 0));
    let refusal = connection.back(&connection.of_server(RST | ACK, 0, first()));
    assert_eq!(refusal.acknowledgment, first());
}

#[test]
fn a_reset_out_of_the_window_is_known_by_the_backend_s_numbers() {
    let policy = Policy { checks_rst: true, ..proxy(Version::V2) };
    let mut connection = Connection::new(&policy, false);
    connection.open();
    let data = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data([7; 100]);
    connection.there(&data);
    connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(128)));
    let stray = connection.of_client(RST, after(99), 0).bytes();
    assert_eq!(connection.director.pass(FRONT, stray), None, "before what the backend expects");
    let rst = connection.there(&connection.of_client(RST, after(100), 0));
    assert_eq!(rst.sequence, after(128));
}

#[test]
fn urgent_data_stays_where_it_was() {
    let mut connection = Connection::new(&proxy(Version::V2), false);
    connection.open();
    let urgent = Segment { urgent: 3, ..connection.of_client(ACK | URG, first(), SERVER_ISN + 1) };
    assert_eq!(connection.there(&urgent.with_data(*b"abcdef")).urgent, 31);
}

#[test]
fn a_wrong_checksum_is_not_made_good() {
    for (version, is_v6) in VARIANTS {
        for (len, at) in [(0, 16), (5, 16), (6, 20), (5, 24), (5, 20)] {
            let mut connection = Connection::new(&proxy(version), is_v6);
            connection.open();
            let segment = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data(vec![9; len]);
            let mut frame = segment.bytes();
            frame[14 + if is_v6 { 40 } else { 20 } + at] ^= 0x5a;
            let (_, frame) = connection.director.pass(FRONT, frame).unwrap();
            assert!(std::panic::catch_unwind(|| Segment::from(&frame)).is_err());
        }
    }
}

#[test]
fn a_first_segment_in_fragments_is_dropped_and_a_later_one_passes() {
    let mut connection = Connection::new(&proxy(Version::V2), false);
    connection.open();
    let fragment = |segment: &Segment| {
        let mut frame = segment.bytes();
        // Each is of a datagram of its own.
        frame[18..20].copy_from_slice(&(segment.sequence as u16).to_be_bytes());
        frame[20] = 0x20;
        frame[24..26].fill(0);
        let sum: u32 =
            frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        frame
    };
    let data = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data([7; 100]);
    assert_eq!(connection.director.pass(FRONT, fragment(&data)), None);
    connection.there(&data);
    connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(128)));
    let more = connection.of_client(ACK, after(100), SERVER_ISN + 1).with_data([7; 100]);
    let (_, frame) = connection.director.pass(FRONT, fragment(&more)).unwrap();
    assert_eq!(u32::from_be_bytes(*frame[38..].first_chunk().unwrap()), after(128));
}

#[test]
fn without_the_rule_nothing_of_it_happens() {
    let mut connection = Connection::new(&Policy::default(), false);
    connection.open();
    let syn_ack = connection.of_server(SYN | ACK, SERVER_ISN, first()).with_options([2, 4, 0x05, 0xb4]);
    assert_eq!(connection.back(&syn_ack).options(), [TcpOptionElement::MaximumSegmentSize(1_460)]);
    let ack = connection.there(&connection.of_client(ACK, first(), SERVER_ISN + 1));
    assert_eq!((ack.sequence, ack.data.len(), ack.options.len()), (first(), 0, 0));
}
