//! Ports whose frames are not as the line wants them: in a VLAN, in several buffers, cut by their driver.

use std::net::Ipv4Addr;

use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;
use dataplane::stage::framing::Framing;
use dataplane::verdict::DropReason;
use dataplane::wire::VlanTags;

use crate::common::frames::{Decoded, SYN};
use crate::common::rules::{BACK, FRONT, ONE_OF_EACH, PORT_MACS, ServiceSpec, VIP, backend_mac};
use crate::common::{Director, Frame, ruleset};

const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 7), 2_000);
const FRONT_TAGS: VlanTags = VlanTags::single(100);
const BACK_TAGS: VlanTags = VlanTags::double(200, 30);

/// A director whose clients are in VLAN 100 and whose backends in VLAN 30 within 200.
fn in_vlans() -> Director {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    for (port, tags) in director.worker.device_mut().ports.iter_mut().zip([FRONT_TAGS, BACK_TAGS]) {
        port.framing.tags = Some(tags);
    }
    director
}

fn tagged(frame: &[u8], tags: VlanTags) -> Vec<u8> {
    [&frame[..12], tags.bytes(), &frame[12..]].concat()
}

/// The frame without the tags it must have.
#[track_caller]
fn untagged(frame: &[u8], tags: VlanTags) -> Vec<u8> {
    let end = 12 + usize::from(tags.len());
    assert_eq!(&frame[12..end], tags.bytes());
    [&frame[..12], &frame[end..]].concat()
}

#[test]
fn dr_and_fullnat_take_tags_off_and_put_the_other_ports_on() {
    let mut director = in_vlans();
    for l4_port in [80, 8080] {
        let frame = Frame::tcp(CLIENT, (VIP, l4_port), SYN).with_payload([9; 33]);
        let (port, out) = director.pass(FRONT, tagged(&frame.bytes(), FRONT_TAGS)).expect("forwarded");
        let out = Decoded::from(&untagged(&out, BACK_TAGS));
        assert_eq!((port, out.from, out.payload), (BACK, PORT_MACS[1], vec![9; 33]));
        assert_eq!(out.l4_checksum.0, out.l4_checksum.1);
    }
    // The way back: by the station that the client's frames came from.
    let out = director.pass(FRONT, tagged(&Frame::udp(CLIENT, (VIP, 5353)).bytes(), FRONT_TAGS)).unwrap().1;
    let out = Decoded::from(&untagged(&out, BACK_TAGS));
    let answer = Frame { to: PORT_MACS[1], ..Frame::udp(out.destination, out.source) };
    let (port, back) = director.pass(BACK, tagged(&answer.bytes(), BACK_TAGS)).expect("answered");
    assert_eq!((port, Decoded::from(&untagged(&back, FRONT_TAGS)).source), (FRONT, (VIP, 5353)));
    director.assert_balanced();
}

#[test]
fn bytes_are_counted_as_on_the_wire() {
    let mut director = in_vlans();
    let frame = tagged(&Frame::tcp(CLIENT, (VIP, 80), SYN).bytes(), FRONT_TAGS);
    let stranger = Frame::tcp(CLIENT, (VIP, 80), SYN).bytes();
    director.pass(FRONT, frame.clone());
    director.pass(FRONT, stranger.clone());
    let (rx, tx) = (&director.counters.port(FRONT).rx, &director.counters.port(BACK).tx);
    assert_eq!((rx.packets.value(), rx.bytes.value()), (2, (frame.len() + stranger.len()) as u64));
    assert_eq!((tx.packets.value(), tx.bytes.value()), (1, frame.len() as u64 + 4));
}

#[test]
fn frames_of_other_vlans_are_dropped_and_counted() {
    let mut director = in_vlans();
    let frame = Frame::tcp(CLIENT, (VIP, 80), SYN).bytes();
    for tags in [VlanTags::NONE, VlanTags::single(101), VlanTags::double(100, 100), BACK_TAGS] {
        assert_eq!(director.pass(FRONT, tagged(&frame, tags)), None, "{tags}");
    }
    assert_eq!(director.drops(), [(DropReason::OtherVlan, 4)]);
    director.assert_balanced();
}

#[test]
fn a_tag_that_the_port_delivers_beside_the_frame_is_as_good() {
    let mut director = in_vlans();
    for tci in [0x6064, 101] {
        let mut packet = MemoryPacket::new(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes(), FRONT);
        packet.stripped_tag = Some(tci);
        director.worker.device_mut().ports[0].incoming.push_back(packet);
    }
    director.turn();
    assert_eq!(director.sent().len(), 1);
    assert_eq!(director.drops(), [(DropReason::OtherVlan, 1)]);
}

#[test]
fn replies_and_what_the_twin_sends_are_tagged_and_what_it_gets_is_not() {
    let mut director = in_vlans();
    director.worker.device_mut().ports[0].twin = true;
    let to_ssh = Frame::tcp(CLIENT, (VIP, 22), SYN).bytes();
    assert_eq!(director.pass(FRONT, tagged(&to_ssh, FRONT_TAGS)), None);
    let punted = director.worker.device_mut().ports[0].punted.pop().expect("punted");
    assert_eq!(punted.data(), to_ssh);
    let from_ssh = MemoryPacket::new(Frame::tcp((VIP, 22), CLIENT, SYN).bytes(), PortIndex(0));
    director.worker.device_mut().ports[0].from_twin.push_back(from_ssh.clone());
    director.turn();
    assert_eq!(untagged(&director.sent().pop().expect("sent").1, FRONT_TAGS), from_ssh.data());

    let nobody = ServiceSpec { weights: &[0], ..ONE_OF_EACH[1] };
    director.publish(ruleset(1, &[ONE_OF_EACH[0], nobody]));
    let refused = Frame::udp(CLIENT, (VIP, 53)).bytes();
    let (port, reply) = director.pass(FRONT, tagged(&refused, FRONT_TAGS)).expect("an ICMP error");
    let reply = untagged(&reply, FRONT_TAGS);
    assert_eq!((port, &reply[..6]), (FRONT, &refused[6..12]), "to whom it came from");
}

#[test]
fn what_is_handed_to_another_workers_queue_is_tagged_once() {
    let mut director = in_vlans();
    director.worker.device_mut().ports[1].hands_over = true;
    let frame = Frame::tcp(CLIENT, (VIP, 80), SYN).bytes();
    let (_, handed) = director.pass(FRONT, tagged(&frame, FRONT_TAGS)).expect("handed over");
    let device = director.worker.device_mut();
    device.ports[1].hands_over = false;
    device.ports[1].handed_over.push_back(MemoryPacket::new(handed.clone(), FRONT));
    director.turn();
    assert_eq!(director.sent(), [(BACK, handed.clone())]);
    assert_eq!(untagged(&handed, BACK_TAGS)[..6], backend_mac(0).0);
}

#[test]
fn what_other_workers_steered_here_has_no_tags_any_more() {
    let mut director = in_vlans();
    let packet = MemoryPacket::new(Frame::tcp(CLIENT, (VIP, 80), SYN).bytes(), FRONT);
    director.worker.device_mut().steered_in.push_back(packet);
    director.publish(ruleset(2, &ONE_OF_EACH));
    director.turn();
    let sent = director.sent();
    assert_eq!((sent.len(), director.worker.line().worker), (1, WorkerIndex(0)));
    untagged(&sent[0].1, BACK_TAGS);
}

#[test]
fn a_jumbo_packet_keeps_its_segments_and_needs_its_headers_in_the_first() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    director.worker.device_mut().ports[0].framing = Framing { is_scattered: true, ..Framing::PLAIN };
    let payload: Vec<u8> = (0..=255).cycle().take(8_900).collect();
    let frame = Frame::udp(CLIENT, (VIP, 5353)).with_payload(payload.clone()).bytes();
    for first_segment in [2_048, 60, 20, 1] {
        let packet = MemoryPacket::new(frame.clone(), FRONT).with_first_segment(first_segment);
        director.worker.device_mut().ports[0].incoming.push_back(packet);
        director.turn();
        let sent = director.worker.device_mut().ports[1].outgoing.pop().expect("forwarded");
        assert!(sent.data().len() < sent.packet_len(), "in several segments still");
        let out = Decoded::from(&sent.bytes());
        assert_eq!(out.payload, payload);
        assert_eq!((out.ip_checksum.0, out.l4_checksum.0), (out.ip_checksum.1, out.l4_checksum.1));
    }
    director.assert_balanced();
}

#[test]
fn a_port_that_sends_one_buffer_gets_one_or_the_packet_is_dropped() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    director.worker.device_mut().ports[1].framing.takes_one_buffer = true;
    for (len, fits) in [(1_400, true), (4_000, false)] {
        let frame = Frame::udp(CLIENT, (VIP, 53)).with_payload(vec![3; len]).bytes();
        let packet = MemoryPacket::new(frame, FRONT).with_first_segment(300);
        director.worker.device_mut().ports[0].incoming.push_back(packet);
        director.turn();
        let sent = std::mem::take(&mut director.worker.device_mut().ports[1].outgoing);
        assert_eq!(sent.len(), usize::from(fits));
        assert!(sent.iter().all(|packet| packet.data().len() == packet.packet_len()));
    }
    assert_eq!(director.drops(), [(DropReason::SegmentsUnsent, 1)]);
}

#[test]
fn a_packet_that_the_driver_cut_is_dropped_as_that() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    let frame = Frame::udp(CLIENT, (VIP, 53)).with_payload(vec![3; 4_000]).bytes();
    director.worker.device_mut().ports[0].framing.cut_from = 1_982;
    assert_eq!(director.pass(FRONT, &frame[..1_982]), None);
    assert_eq!(director.pass(FRONT, &frame[..1_900]), None, "the sender's own lie");
    assert_eq!(director.drops(), [(DropReason::CutByDriver, 1), (DropReason::Ipv4Length, 1)]);
}
