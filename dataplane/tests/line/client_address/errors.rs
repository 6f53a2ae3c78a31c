//! ICMP errors about segments whose numbers were changed on their way.

use super::*;

/// A router behind the director says that a segment is too long, and quotes so much of it.
fn too_long(about: &[u8], quoted_len: usize) -> Vec<u8> {
    let quoted = &about[14..about.len().min(14 + quoted_len)];
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(backend_mac(0).0, PORT_MACS[1].0);
    if about[12] == 0x08 {
        let local = *about[26..].first_chunk().unwrap();
        let needed = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
        let builder = builder.ipv4([10, 9, 9, 9], local, 64);
        let builder = builder.icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(needed));
        builder.write(&mut frame, quoted).unwrap();
    } else {
        let local = *about[22..].first_chunk().unwrap();
        let builder = builder.ipv6([0x20; 16], local, 64);
        let builder = builder.icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: 1_400 });
        builder.write(&mut frame, quoted).unwrap();
    }
    frame
}

/// The sequence number that an ICMP error quotes, whose checksum is right.
fn quoted_sequence(frame: &[u8]) -> u32 {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let l4 = match (sliced.transport.unwrap(), sliced.net.unwrap()) {
        (TransportSlice::Icmpv4(icmp), _) => {
            assert_eq!(icmp.header().icmp_type.calc_checksum(icmp.payload()), icmp.checksum());
            icmp.payload()[20..].to_vec()
        }
        (TransportSlice::Icmpv6(icmp), NetSlice::Ipv6(ip)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let full = icmp.header().icmp_type.calc_checksum(source, destination, icmp.payload()).unwrap();
            assert_eq!(full, icmp.checksum());
            icmp.payload()[40..].to_vec()
        }
        other => panic!("{other:?}"),
    };
    u32::from_be_bytes(*l4[4..].first_chunk().unwrap())
}

#[test]
fn an_error_about_a_segment_quotes_the_client_s_own_number() {
    for (version, is_v6) in VARIANTS {
        let headers = if is_v6 { 40 } else { 20 };
        for quoted_len in [headers + 8, headers + 20, 500] {
            let mut connection = Connection::new(&proxy(version), is_v6);
            let len = connection.header(version).len();
            connection.open();
            let data = connection.of_client(ACK, first(), SERVER_ISN + 1).with_data([7; 100]);
            let (_, there) = connection.director.pass(FRONT, data.bytes()).unwrap();
            let error = connection.director.pass(BACK, too_long(&there, quoted_len)).unwrap().1;
            assert_eq!(quoted_sequence(&error), first());
            connection.back(&connection.of_server(ACK, SERVER_ISN + 1, after(len + 100)));
            let more = connection.of_client(ACK, after(100), SERVER_ISN + 1).with_data([8; 50]);
            let (_, there) = connection.director.pass(FRONT, more.bytes()).unwrap();
            assert_eq!(Segment::from(&there).sequence, after(100 + len));
            let error = connection.director.pass(BACK, too_long(&there, quoted_len)).unwrap().1;
            assert_eq!(quoted_sequence(&error), after(100));
        }
    }
}
