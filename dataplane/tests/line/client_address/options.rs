//! The client's address in an option, of TCP or of IP.

use super::*;

#[test]
fn an_option_goes_with_every_segment_until_the_backend_has_answered() {
    for is_v6 in [false, true] {
        let policy = Policy { client_address: ClientAddress::Toa(200), ..Policy::default() };
        let mut connection = Connection::new(&policy, is_v6);
        connection.open();
        let mut option = vec![200, if is_v6 { 20 } else { 8 }];
        option.extend(connection.client.port().to_be_bytes());
        match connection.client.ip() {
            IpAddr::V4(address) => option.extend(address.octets()),
            IpAddr::V6(address) => option.extend(address.octets()),
        }
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let ack = connection.of_client(ACK, first(), SERVER_ISN + 1).with_options(timestamps);
        assert_eq!(connection.there(&ack).options, [&option[..], &timestamps].concat());
        let data = ack.clone().with_data(*b"hello");
        let got = connection.there(&data);
        assert_eq!((got.options.len(), got.data), (option.len() + 12, b"hello".to_vec()));
        // A repeated SYN-ACK says that the handshake is not complete.
        connection.back(&connection.of_server(SYN | ACK, SERVER_ISN, first()));
        assert_eq!(connection.there(&data).options.len(), option.len() + 12);
        let answer = connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(5)));
        assert_eq!(answer.acknowledgment, after(5));
        assert_eq!(connection.there(&data).options, timestamps);
        assert_eq!(connection.director.counters.client_address_withheld.value(), 0);
    }
}

#[test]
fn a_segment_without_room_for_the_option_goes_without() {
    let policy = Policy { client_address: ClientAddress::Toa(254), ..Policy::default() };
    let mut connection = Connection::new(&policy, false);
    let rules = connection.director.worker.line().rules.clone();
    let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_500)).collect();
    connection.director.publish(Ruleset { adjacencies, revision: 2, ..Ruleset::clone(&rules) });
    connection.open();
    let full = connection.of_client(ACK, first(), SERVER_ISN + 1).with_options([1; 36]);
    assert_eq!(connection.there(&full).options, [1; 36]);
    let long = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data([1; 1_453]);
    assert_eq!(connection.there(&long).options, []);
    assert_eq!(connection.director.counters.client_address_withheld.value(), 2);
    let fits = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data([1; 1_452]);
    assert_eq!(connection.there(&fits).options.len(), 8);
}

#[test]
fn a_datagram_has_the_option_until_the_backend_has_answered() {
    let policy = Policy { client_address: ClientAddress::Uoa(31), ..Policy::default() };
    let mut director = director(&policy);
    let frame = |from: (std::net::Ipv4Addr, u16), to: (std::net::Ipv4Addr, u16), macs: ([u8; 6], [u8; 6])| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0.octets(), to.0.octets(), 64);
        builder.udp(from.1, to.1).write(&mut frame, b"question").unwrap();
        frame
    };
    let question = frame(("198.51.100.7".parse().unwrap(), 5_000), (VIP, 80), (CLIENT_MAC.0, PORT_MACS[0].0));
    let read = |frame: &[u8]| {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len) + 14, frame.len());
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
        let udp_header = udp.to_header();
        assert_eq!(udp_header.calc_checksum_ipv4(&header, udp.payload()).unwrap(), udp_header.checksum);
        assert_eq!(udp.payload(), b"question");
        (header.options.as_slice().to_vec(), header.source, udp_header.source_port)
    };
    for _ in 0..2 {
        let (options, ..) = read(&director.send(question.clone()).unwrap());
        assert_eq!(options, [31, 8, 0x13, 0x88, 198, 51, 100, 7]);
    }
    let (_, local, local_port) = read(&director.send(question.clone()).unwrap());
    let answer =
        frame((backend_address(1), 9_000), (local.into(), local_port), (backend_mac(1).0, PORT_MACS[1].0));
    director.pass(BACK, answer).unwrap();
    assert_eq!(read(&director.send(question).unwrap()).0, []);
}

#[test]
fn a_connection_is_told_by_the_option_it_began_with_or_by_none() {
    let policy = Policy { client_address: ClientAddress::Toa(254), ..Policy::default() };
    let mut connection = Connection::new(&policy, false);
    connection.open();
    let rules = connection.director.worker.line().rules.clone();
    let other = Policy { client_address: ClientAddress::Uoa(31), ..Policy::default() };
    let rules = Ruleset { revision: 2, ..with_policy(Ruleset::clone(&rules), &other) };
    connection.director.publish(rules);
    let ack = connection.of_client(ACK, first(), SERVER_ISN + 1);
    let frame = connection.director.send(ack.bytes()).unwrap();
    assert_eq!((frame[14], frame[34 + 12] >> 4), (0x45, 5), "no option of the IPv4 header in a TCP segment");
    assert_eq!(connection.director.counters.client_address_withheld.value(), 1);
}
