//! UDP checksums that take a sum over the datagram: by the port where it can, in software where it cannot, the same either way.
//! What a port does is the memory twin's (it sums up to the end of the frame); etherparse judges.

use std::sync::Arc;

use dataplane::index::PortIndex;
use dataplane::memory::MemoryPacket;
use dataplane::rules::{Carrier, PortRules, Ruleset, Tunnel};
use dataplane::verdict::DropReason;
use dataplane::wire::VlanTags;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::director::Director;
use crate::common::frames::CLIENT_MAC;
use crate::common::rules::{BACK, FRONT, PORT_MACS, UDP};
use crate::{translation, tunnels};

/// Bytes in front of the IP header of a frame without tags.
const L2_LEN: u8 = 14;
/// Where the checksum of a datagram over IPv4 without options lies, and its length.
const CHECKSUM_AT: usize = 40;
const LENGTH_AT: usize = 38;

/// Who computes checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Port,
    Software,
}

/// From IPv4 clients to IPv6 backends.
fn translating() -> Ruleset {
    translation::rules(&translation::cases()[1], UDP)
}

/// In GUE to IPv6 backends, or to IPv4 backends with a checksum.
fn tunnelling(backend_is_v6: bool) -> Ruleset {
    let carrier = Carrier::Gue { has_header: true, l4_port: 6_080 };
    tunnels::rules(&Tunnel { carrier, udp_checksum: true, ..Tunnel::default() }, backend_is_v6)
}

fn with_ports(rules: Ruleset, change: impl Fn(&mut PortRules)) -> Ruleset {
    let mut ports = rules.ports.to_vec();
    ports.iter_mut().for_each(change);
    Ruleset { ports: ports.into(), ..rules }
}

/// A director whose ports compute checksums, or whose ports do not.
fn director(rules: Ruleset, by: By) -> Director {
    let l2_len = (by == By::Port).then_some(L2_LEN);
    let mut director = Director::new(with_ports(rules, |port| port.udp_offload = l2_len));
    for port in &mut director.worker.device_mut().ports {
        port.computes_udp_checksums = by == By::Port;
    }
    director
}

/// Checksums computed by ports, and in software.
fn computed(director: &Director) -> (u64, u64) {
    (director.counters.checksums_offloaded.value(), director.counters.checksums_summed.value())
}

/// A datagram over IPv4 of the service that translates; one without checksum.
fn bare(payload: &[u8]) -> Vec<u8> {
    let case = &translation::cases()[1];
    let macs = (CLIENT_MAC.0, PORT_MACS[0].0);
    let mut frame = translation::frame(UDP, macs, case.client, case.vip, payload);
    frame[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
    frame
}

/// The same of the services with tunnels.
fn bare_for_tunnel(payload: &[u8]) -> Vec<u8> {
    let mut frame =
        tunnels::Packet { payload: payload.to_vec(), ..tunnels::Packet::new(false, false) }.frame();
    frame[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
    frame
}

#[test]
fn a_port_computes_what_software_would() {
    for (by, counted) in [(By::Port, (1, 0)), (By::Software, (0, 1))] {
        let mut director = director(translating(), by);
        let (port, out) = director.pass(FRONT, bare(b"odd")).unwrap();
        assert_eq!((port, translation::read(&out).payload), (BACK, b"odd".to_vec()));
        assert_eq!(computed(&director), counted);
        director.assert_balanced();
    }
    for (backend_is_v6, by) in
        [(true, By::Port), (false, By::Port), (true, By::Software), (false, By::Software)]
    {
        let mut director = director(tunnelling(backend_is_v6), by);
        let frame = bare_for_tunnel(b"odd");
        let unwrapped = tunnels::unwrap(&director.send(frame.clone()).unwrap());
        assert_ne!(unwrapped.udp.unwrap().checksum, 0);
        assert_eq!(unwrapped.packet[20..], frame[34..]);
        assert_eq!(computed(&director), if by == By::Port { (1, 0) } else { (0, 1) });
        director.assert_balanced();
    }
}

/// What the port finds is the sum of the pseudo header, which is what the hardware of virtio and of Intel wants.
#[test]
fn the_port_finds_the_sum_of_the_pseudo_header() {
    let mut director = director(translating(), By::Port);
    director.worker.device_mut().ports[BACK.as_usize()].computes_udp_checksums = false;
    let out = director.send(bare(b"data")).unwrap();
    let words = out[22..54].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + 17 + 12;
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(u32::from(u16::from_be_bytes([out[60], out[61]])), (folded & 0xffff) + (folded >> 16));
}

#[test]
fn tags_of_the_port_stand_in_front_of_what_it_computes() {
    let tags = VlanTags::double(200, 30);
    let mut director = director(translating(), By::Software);
    director.publish(with_ports(translating(), |port| port.udp_offload = Some(L2_LEN + 8)));
    let back = &mut director.worker.device_mut().ports[BACK.as_usize()];
    (back.framing.tags, back.computes_udp_checksums) = (Some(tags), true);
    let out = director.send(bare(b"tagged")).unwrap();
    assert_eq!(&out[12..20], tags.bytes());
    let untagged = [&out[..12], &out[20..]].concat();
    assert_eq!(translation::read(&untagged).payload, b"tagged");
    assert_eq!(computed(&director), (1, 0));
}

#[test]
fn link_padding_is_not_summed_up() {
    for by in [By::Port, By::Software] {
        let mut director = director(translating(), by);
        let mut frame = bare(b"x");
        frame.extend([0xa5; 17]);
        assert_eq!(translation::read(&director.send(frame).unwrap()).payload, b"x");
        let mut director = self::director(tunnelling(true), by);
        let mut frame = bare_for_tunnel(b"x");
        frame.extend([0xa5; 17]);
        assert_ne!(tunnels::unwrap(&director.send(frame).unwrap()).udp.unwrap().checksum, 0);
    }
}

#[test]
fn a_port_sums_up_what_lies_in_several_buffers() {
    let payload = [0x5a; 1_301];
    for by in [By::Port, By::Software] {
        let mut director = director(translating(), by);
        let ports = &mut director.worker.device_mut().ports;
        ports[0].incoming.push_back(MemoryPacket::new(bare(&payload), FRONT).with_first_segment(300));
        director.turn();
        let sent = std::mem::take(&mut director.worker.device_mut().ports[BACK.as_usize()].outgoing);
        if by == By::Port {
            assert_eq!(translation::read(&sent[0].bytes()).payload, payload);
        } else {
            assert_eq!((sent.len(), director.drops()), (0, vec![(DropReason::UdpChecksum, 1)]));
        }
        director.assert_balanced();
    }
}

/// Each part would get a checksum of its own.
#[test]
fn what_is_to_be_cut_is_summed_up_before() {
    let payload = vec![0x5a; 1_400];
    let mut rules = translating();
    let adjacencies = rules.adjacencies.iter().map(|row| row.with_mtu(1_300));
    rules.adjacencies = adjacencies.collect();
    let rules = with_ports(rules, |port| port.mtu = 1_300);
    let rules = crate::common::rules::with_service(rules, 0, |service| service.policy.fragments = true);
    let mut director = director(rules, By::Port);
    // Without the flag that forbids it.
    let mut frame = bare(&payload);
    let checksum = u16::from_be_bytes([frame[24], frame[25]]);
    frame[20] ^= 0x40;
    let (sum, carry) = checksum.overflowing_add(0x4000);
    frame[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    director.receive(FRONT, frame);
    director.turn();
    let parts: Vec<Vec<u8>> = director.sent().into_iter().map(|(_, part)| part).collect();
    assert_eq!((parts.len(), computed(&director)), (2, (0, 1)), "{:?}", director.drops());
    // Put together again: the headers of the first but its fragment header, and the data of both.
    let mut whole = parts[0][..54].to_vec();
    whole[20] = UDP;
    whole[18..20].copy_from_slice(&1_408_u16.to_be_bytes());
    whole.extend(parts.iter().flat_map(|part| &part[62..]));
    assert_eq!(translation::read(&whole).payload, payload);
}

#[test]
fn a_datagram_shorter_than_its_packet_is_summed_up_as_far_as_it_goes() {
    for by in [By::Port, By::Software] {
        let mut director = director(translating(), by);
        let mut shorter = bare(b"data and a rest");
        shorter[LENGTH_AT + 1] -= 10;
        let mut out = director.send(shorter).unwrap();
        assert_eq!(computed(&director), (0, 1));
        // Without the rest, which nobody reads.
        out.truncate(out.len() - 10);
        out[19] -= 10;
        assert_eq!(translation::read(&out).payload, b"data ");
    }
}

/// A port would make a bad checksum good: those that packets have are moved, and never left to it.
#[test]
fn checksums_that_packets_have_are_not_left_to_the_port() {
    let case = &translation::cases()[1];
    let mut director = director(translating(), By::Port);
    let mut frame = translation::frame(UDP, (CLIENT_MAC.0, PORT_MACS[0].0), case.client, case.vip, b"data");
    assert_eq!(translation::read(&director.send(frame.clone()).unwrap()).payload, b"data");
    frame[CHECKSUM_AT] ^= 1;
    let out = director.send(frame).unwrap();
    assert!(std::panic::catch_unwind(|| translation::read(&out)).is_err(), "as wrong as it came");
    assert_eq!(computed(&director), (0, 0));
    let mut director = self::director(tunnelling(true), By::Port);
    for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let out = director.send(tunnels::Packet::new(is_v6, is_tcp).frame()).unwrap();
        assert_ne!(tunnels::unwrap(&out).udp.unwrap().checksum, 0);
    }
    assert_eq!(computed(&director), (0, 0));
}

/// It crosses to the worker that has a queue as it is, and the port has its say there.
#[test]
fn what_is_handed_over_keeps_its_request() {
    let mut sender = director(translating(), By::Port);
    sender.worker.device_mut().ports[BACK.as_usize()].hands_over = true;
    sender.receive(FRONT, bare(b"handed over"));
    sender.turn();
    let packet = sender.worker.device_mut().ports[BACK.as_usize()].outgoing.pop().expect("handed over");
    let mut owner = director(translating(), By::Port);
    owner.worker.device_mut().ports[BACK.as_usize()].handed_over.push_back(packet);
    owner.turn();
    let sent = owner.sent();
    assert_eq!((sent.len(), sent[0].0), (1, BACK));
    assert_eq!(translation::read(&sent[0].1).payload, b"handed over");
}

proptest! {
    #[test]
    fn port_and_software_agree(payload in vec(any::<u8>(), 0..1_400), padding in vec(any::<u8>(), 0..40), in_tunnel in any::<bool>(), backend_is_v6 in any::<bool>()) {
        let (rules, mut frame) = if in_tunnel {
            (tunnelling(backend_is_v6), bare_for_tunnel(&payload))
        } else {
            (translating(), bare(&payload))
        };
        frame.extend(padding);
        let [by_port, in_software] = [By::Port, By::Software].map(|by| director(rules.clone(), by).send(frame.clone()).unwrap());
        // Link padding the port does not get.
        prop_assert_eq!(&by_port[..], &in_software[..by_port.len()]);
    }
}

/// The port that a datagram leaves by is asked, and no other.
#[test]
fn only_the_port_it_leaves_by_is_asked() {
    let rules = translating();
    let ports: Arc<[PortRules]> = rules
        .ports
        .iter()
        .enumerate()
        .map(|(index, port)| PortRules {
            udp_offload: (PortIndex(index as u16) == FRONT).then_some(L2_LEN),
            ..*port
        })
        .collect();
    let mut director = Director::new(Ruleset { ports, ..rules });
    assert_eq!(translation::read(&director.send(bare(b"data")).unwrap()).payload, b"data");
    assert_eq!(computed(&director), (0, 1));
}
