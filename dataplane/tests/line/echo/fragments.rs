//! Pings in fragments.

use super::*;

#[test]
fn fragments_of_a_long_ping_follow_their_first_one() {
    for (mode, is_v6) in
        [Mode::Dr, Mode::Fullnat, Mode::Nat].into_iter().flat_map(|mode| FAMILIES.map(|v6| (mode, v6)))
    {
        for worker_count in [1, 3] {
            let mut team = Team::with(&rules(worker_count, mode, is_v6));
            let mut pass = |port: PortIndex, ping: &Ping, identification: u32| {
                let mut parts = cut(&ping.bytes(), 1_480, identification);
                // The last one comes first, each at another worker.
                parts.reverse();
                let mut sent = Vec::new();
                for (number, part) in parts.into_iter().enumerate() {
                    team.0[number % usize::from(worker_count)].receive(port, part);
                    team.turn();
                    sent.extend(team.0.iter_mut().flat_map(Director::sent).map(|(_, frame)| frame));
                }
                assert_eq!(sent.len(), 4);
                Ping::of(&whole(sent))
            };
            for number in 0..6 {
                let asked = Ping::new(client(number, is_v6), 1).with_len(5_000);
                let there = pass(FRONT, &asked, number.into());
                assert_eq!((there.is_request, &there.payload), (true, &asked.payload));
                if mode != Mode::Dr {
                    assert_eq!(pass(BACK, &there.answered(), number.into()), expected_answer(&asked));
                }
            }
            team.assert_balanced();
            assert!(team.0.iter().all(|director| director.drops().is_empty()));
        }
    }
}

/// Fragments put together: by their offsets, the header that of the first.
fn whole(mut fragments: Vec<Vec<u8>>) -> Vec<u8> {
    let is_v6 = fragments[0][14] >> 4 == 6;
    let offset = |fragment: &Vec<u8>| {
        let at = if is_v6 { 56 } else { 20 };
        let word = u16::from_be_bytes([fragment[at], fragment[at + 1]]);
        if is_v6 { word & !7 } else { (word & 0x1fff) * 8 }
    };
    fragments.sort_by_key(offset);
    let header_len = if is_v6 { 48 } else { 20 };
    let payload: Vec<u8> =
        fragments.iter().flat_map(|fragment| fragment[14 + header_len..].to_vec()).collect();
    let first = &fragments[0];
    let mut frame = first[..14].to_vec();
    if is_v6 {
        let mut header = etherparse::Ipv6Header::from_slice(&first[14..]).unwrap().0;
        (header.next_header, header.payload_length) = (etherparse::IpNumber(first[54]), payload.len() as u16);
        frame.extend(header.to_bytes());
    } else {
        let mut header = etherparse::Ipv4Header::from_slice(&first[14..]).unwrap().0;
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        header.more_fragments = false;
        header.set_payload_len(payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        frame.extend(header.to_bytes());
    }
    frame.extend(payload);
    frame
}

#[test]
fn fragments_are_not_translated() {
    for (client_is_v6, backend_is_v6) in [(true, false), (false, true)] {
        let mut director = with_twins(rules(1, Mode::Fullnat, backend_is_v6));
        let long = Ping::new(client(1, client_is_v6), 7).with_len(2_000).bytes();
        cut(&long, 1_000, 5).into_iter().for_each(|fragment| director.receive(FRONT, fragment));
        director.turn();
        assert_eq!(director.drops(), [(DropReason::FamilyFragment, 3)]);
    }
}
