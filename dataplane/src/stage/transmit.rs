//! transmit: hands each packet to where its verdict says. What a port or ring refuses is freed and counted.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::device::{Device, Packets, Transmitted};
use crate::index::{PORTS_MAX, PortIndex, WORKERS_MAX, WorkerIndex};
use crate::packet::PacketBuf;
use crate::verdict::{DropReason, Verdict};

/// Packets sorted by where they go; empty between bursts.
pub struct Outboxes<P> {
    ports: Box<[Packets<P>]>,
    workers: Box<[Packets<P>]>,
    twins: Box<[Packets<P>]>,
}

impl<P> Default for Outboxes<P> {
    fn default() -> Self {
        let empty = |count| std::iter::repeat_with(Packets::new).take(count).collect();
        Self { ports: empty(PORTS_MAX), workers: empty(WORKERS_MAX), twins: empty(PORTS_MAX) }
    }
}

/// Empties the burst.
pub fn run<D: Device>(
    burst: &mut Burst<D::Packet>,
    outboxes: &mut Outboxes<D::Packet>,
    device: &mut D,
    counters: &WorkerCounters,
) {
    if let Some(port) = burst.common_port {
        counters.forwarded.add(burst.packets.len() as u64);
        // Rewriting has changed no length.
        return send(port, &mut burst.packets, burst.bytes, device, counters);
    }
    sort(burst, outboxes, counters);
    for port in (0..device.port_count().min(PORTS_MAX)).map(|port| PortIndex(port as u16)) {
        let packets = &mut outboxes.ports[port.as_usize()];
        if !packets.is_empty() {
            counters.forwarded.add(packets.len() as u64);
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

/// Moves each packet to where its verdict says, or drops it.
fn sort<P: PacketBuf>(burst: &mut Burst<P>, outboxes: &mut Outboxes<P>, counters: &WorkerCounters) {
    for (packet, finding) in burst.packets.drain(..).zip(&burst.findings) {
        let sorted = match finding.verdict {
            Verdict::Forward => put(&mut outboxes.ports, finding.port_out.as_usize(), packet),
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
}

/// Bytes of all packets.
pub fn bytes_of<P: PacketBuf>(packets: &Packets<P>) -> u64 {
    packets.iter().map(|packet| packet.packet_len() as u64).sum()
}

/// Sends `packets`, which have `bytes`, by `port` and empties it; what the port refuses is dropped and counted.
pub fn send<D: Device>(
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
