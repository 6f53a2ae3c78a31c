//! transmit: hands each packet to where its verdict says. What a port or ring refuses is freed and counted.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::device::{Device, Packets, Transmitted};
use crate::fragments::Waiting;
use crate::index::{PORTS_MAX, PortIndex, WORKERS_MAX, WorkerIndex};
use crate::packet::PacketBuf;
use crate::stage::cut::{self, Identifications};
use crate::stage::framing;
use crate::verdict::{DropReason, Verdict};

/// Packets sorted by where they go; but for those that wait, empty between bursts.
pub struct Outboxes<P> {
    ports: Box<[Packets<P>]>,
    workers: Box<[Packets<P>]>,
    twins: Box<[Packets<P>]>,
    /// Fragments that wait for the first of their datagram: these stay there.
    pub waiting: Waiting<P>,
}

impl<P> Outboxes<P> {
    /// With room for so many fragments that wait.
    pub fn new(waiting_count: usize) -> Self {
        let empty = |count| std::iter::repeat_with(Packets::new).take(count).collect();
        let waiting = Waiting::new(waiting_count);
        Self { ports: empty(PORTS_MAX), workers: empty(WORKERS_MAX), twins: empty(PORTS_MAX), waiting }
    }
}

/// Empties the burst.
pub fn run<D: Device>(
    burst: &mut Burst<D::Packet>,
    outboxes: &mut Outboxes<D::Packet>,
    device: &mut D,
    identifications: &mut Identifications,
    counters: &WorkerCounters,
) {
    if let Some(port) = burst.common_port {
        counters.forwarded.add(burst.packets.len() as u64);
        let bytes = if burst.lengths_changed { bytes_of(&burst.packets) } else { burst.bytes };
        return send(port, &mut burst.packets, bytes, device, counters);
    }
    counters.forwarded.add(sort(burst, outboxes, device, identifications, counters));
    for port in (0..device.port_count().min(PORTS_MAX)).map(|port| PortIndex(port as u16)) {
        let packets = &mut outboxes.ports[port.as_usize()];
        if !packets.is_empty() {
            send(port, packets, bytes_of(packets), device, counters);
        }
        punt(port, &mut outboxes.twins[port.as_usize()], device, counters);
    }
    for (owner, packets) in outboxes.workers.iter_mut().enumerate() {
        if !packets.is_empty() {
            steer(WorkerIndex(owner as u16), packets, device, counters);
        }
    }
}

/// Puts a packet of the worker's own with those that leave by `port`; [`flush`] sends them, or the next one that finds no
/// room.
pub fn post<D: Device>(
    port: PortIndex,
    packet: D::Packet,
    outboxes: &mut Outboxes<D::Packet>,
    device: &mut D,
    counters: &WorkerCounters,
) {
    if let Some(packets) = outboxes.ports.get_mut(port.as_usize()).filter(|packets| packets.is_full()) {
        send(port, packets, bytes_of(packets), device, counters);
    }
    if !put(&mut outboxes.ports, port.as_usize(), packet) {
        counters.dropped(DropReason::TxRefused).add(1);
    }
}

/// Sends what [`post`] has put.
pub fn flush<D: Device>(outboxes: &mut Outboxes<D::Packet>, device: &mut D, counters: &WorkerCounters) {
    for port in (0..device.port_count().min(PORTS_MAX)).map(|port| PortIndex(port as u16)) {
        let packets = &mut outboxes.ports[port.as_usize()];
        if !packets.is_empty() {
            send(port, packets, bytes_of(packets), device, counters);
        }
    }
}

/// Moves each packet to where its verdict says, or drops it; returns how many are forwarded.
fn sort<D: Device>(
    burst: &mut Burst<D::Packet>,
    outboxes: &mut Outboxes<D::Packet>,
    device: &mut D,
    identifications: &mut Identifications,
    counters: &WorkerCounters,
) -> u64 {
    let mut forwarded = 0;
    for (packet, finding) in burst.packets.drain(..).zip(&burst.findings) {
        let sorted = match finding.verdict {
            Verdict::Forward => {
                forwarded += 1;
                post(finding.port_out, packet, outboxes, device, counters);
                true
            }
            Verdict::ForwardInParts => {
                forwarded += 1;
                post_in_parts(packet, finding.mtu_out, outboxes, device, identifications, counters);
                true
            }
            Verdict::Relay => {
                forwarded += 1;
                post(packet.port(), packet, outboxes, device, counters);
                true
            }
            Verdict::ReplyReset | Verdict::ReplyUnreachable | Verdict::ReplyTooBig => {
                post(packet.port(), packet, outboxes, device, counters);
                true
            }
            Verdict::Hold => {
                let place = burst.waiting.pop_at(0);
                place.is_some_and(|place| outboxes.waiting.put(place, packet).is_ok())
            }
            Verdict::Steer => put(&mut outboxes.workers, finding.owner.as_usize(), packet),
            Verdict::Punt => put(&mut outboxes.twins, packet.port().as_usize(), packet),
            Verdict::Drop(reason) => {
                counters.dropped(reason).add(1);
                true
            }
        };
        if !sorted {
            counters.dropped(DropReason::TxRefused).add(1);
        }
    }
    forwarded
}

/// Cuts a packet to the MTU of its way, and posts the parts.
#[cold]
fn post_in_parts<D: Device>(
    packet: D::Packet,
    mtu: u16,
    outboxes: &mut Outboxes<D::Packet>,
    device: &mut D,
    identifications: &mut Identifications,
    counters: &WorkerCounters,
) {
    let port = packet.port();
    match cut::cut(packet, mtu, identifications, device) {
        Ok(parts) => {
            counters.fragmented.add(1);
            for part in parts {
                post(port, part, outboxes, device, counters);
            }
        }
        Err(reason) => counters.dropped(reason).add(1),
    }
}

/// Bytes of all packets.
pub fn bytes_of<P: PacketBuf>(packets: &Packets<P>) -> u64 {
    packets.iter().map(|packet| packet.packet_len() as u64).sum()
}

/// Sends `packets`, which have `bytes`, by `port` and empties it; what the port refuses is dropped and counted.
pub fn send<D: Device>(
    port: PortIndex,
    packets: &mut Packets<D::Packet>,
    mut bytes: u64,
    device: &mut D,
    counters: &WorkerCounters,
) {
    if framing::wrap_all(device.framing(port), packets, counters) {
        bytes = bytes_of(packets);
    }
    send_wrapped(port, packets, bytes, device, counters);
}

/// The same for packets that are ready for the port's wire.
pub fn send_wrapped<D: Device>(
    port: PortIndex,
    packets: &mut Packets<D::Packet>,
    bytes: u64,
    device: &mut D,
    counters: &WorkerCounters,
) {
    let count = packets.len();
    if device.transmit(port, packets) == Transmitted::Sent {
        let tx = &counters.port(port).tx;
        tx.packets.add((count - packets.len()) as u64);
        tx.bytes.add(bytes - bytes_of(packets));
    }
    refuse(packets, DropReason::TxRefused, counters);
}

fn punt<D: Device>(
    port: PortIndex,
    packets: &mut Packets<D::Packet>,
    device: &mut D,
    counters: &WorkerCounters,
) {
    if packets.is_empty() {
        return;
    }
    if !device.has_twin(port) {
        return refuse(packets, DropReason::NoTwin, counters);
    }
    let count = packets.len();
    device.punt(port, packets);
    counters.punted.add((count - packets.len()) as u64);
    refuse(packets, DropReason::SlowPathFull, counters);
}

fn steer<D: Device>(
    owner: WorkerIndex,
    packets: &mut Packets<D::Packet>,
    device: &mut D,
    counters: &WorkerCounters,
) {
    let count = packets.len();
    device.steer(owner, packets);
    counters.steered.add((count - packets.len()) as u64);
    refuse(packets, DropReason::SteerFull, counters);
}

fn refuse<P>(packets: &mut Packets<P>, reason: DropReason, counters: &WorkerCounters) {
    if !packets.is_empty() {
        counters.dropped(reason).add(packets.len() as u64);
        packets.clear();
    }
}

fn put<P>(outboxes: &mut [Packets<P>], which: usize, packet: P) -> bool {
    outboxes.get_mut(which).is_some_and(|outbox| outbox.try_push(packet).is_ok())
}
