//! Zero copy: the buffer that leaves is the buffer that came.

use std::net::Ipv4Addr;

use dataplane::memory::MemoryPacket;
use dataplane::packet::PacketBuf;

use crate::common::frames::SYN;
use crate::common::rules::{BACK, FRONT, LOCAL_ADDRESSES, ONE_OF_EACH, PORT_MACS, VIP, backend_address};
use crate::common::{Director, Frame, ruleset};

/// Sends a burst of 32 by `port` and fails unless the same 32 buffers come out, in order.
fn assert_same_buffers(director: &mut Director, frames: impl Iterator<Item = Frame>, port_in: usize) {
    let port_out = 1 - port_in;
    let packets: Vec<_> = frames
        .map(|frame| MemoryPacket::new(frame.bytes(), if port_in == 0 { FRONT } else { BACK }))
        .collect();
    let came: Vec<_> = packets.iter().map(|packet| packet.data().as_ptr()).collect();
    assert_eq!(came.len(), 32);
    director.worker.device_mut().ports[port_in].incoming.extend(packets);
    director.turn();
    let left = &director.worker.device_mut().ports[port_out].outgoing;
    let left: Vec<_> = left.iter().map(|packet| packet.data().as_ptr()).collect();
    assert_eq!(left, came);
    director.worker.device_mut().ports[port_out].outgoing.clear();
}

#[test]
fn dr_and_fullnat_send_the_buffers_they_received() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    let client = |number: u16| (Ipv4Addr::new(198, 51, 100, 7), 2_000 + number);
    for l4_port in [80, 8080] {
        let frames = (0..32).map(|number| {
            Frame::tcp(client(number), (VIP, l4_port), SYN).with_payload(vec![7; usize::from(number) * 40])
        });
        assert_same_buffers(&mut director, frames, 0);
    }
    let punted = director.worker.device_mut().ports[0].punted.len();
    assert_eq!(punted, 0);
}

#[test]
fn answers_of_fullnat_backends_keep_their_buffers_too() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    let mut answers = Vec::new();
    for number in 0..32 {
        let frame = Frame::udp((Ipv4Addr::new(198, 51, 100, 7), 2_000 + number), (VIP, 5353));
        let out = crate::common::frames::Decoded::from(&director.send(frame.bytes()).unwrap());
        assert!(LOCAL_ADDRESSES.contains(&out.source.0) && out.destination.0 >= backend_address(0));
        answers.push(
            Frame { to: PORT_MACS[1], ..Frame::udp(out.destination, out.source) }.with_payload([1; 99]),
        );
    }
    assert_same_buffers(&mut director, answers.into_iter(), 1);
}

#[test]
fn what_is_punted_goes_to_the_twin_untouched_in_its_buffer() {
    let mut director = Director::new(ruleset(1, &ONE_OF_EACH));
    director.worker.device_mut().ports[0].twin = true;
    let frame = Frame::tcp((Ipv4Addr::new(198, 51, 100, 7), 2_000), (VIP, 22), SYN).bytes();
    let packet = MemoryPacket::new(frame.clone(), FRONT);
    let came = packet.data().as_ptr();
    director.worker.device_mut().ports[0].incoming.push_back(packet);
    director.turn();
    let punted = director.worker.device_mut().ports[0].punted.pop().unwrap();
    assert_eq!((punted.data().as_ptr(), punted.data()), (came, &frame[..]));
}
