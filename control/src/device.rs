//! Where the line's traits meet DPDK: a worker's queues and rings, and mbufs as packets.

use dataplane::device::{Device, Packets, Transmitted};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::packet::{PacketBuf, UdpChecksum};
use dataplane::stage::framing::Framing;
use dpdk::ring::{Consumer, Producer};
use dpdk::{Burst, Mbuf, Mempool, RxQueue, TxQueue};

/// An mbuf on the line. Its `port` field holds the [`PortIndex`] it came in by, not DPDK's port id.
#[derive(Debug)]
pub struct Packet(pub Mbuf);

const _: () = assert!(size_of::<Option<Packet>>() == size_of::<*const u8>());

impl PacketBuf for Packet {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        self.0.data()
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    #[inline(always)]
    fn packet_len(&self) -> usize {
        self.0.packet_len()
    }

    #[inline(always)]
    fn port(&self) -> PortIndex {
        PortIndex(self.0.port())
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        self.0.rss_hash()
    }

    #[inline]
    fn stripped_tag(&self) -> Option<u16> {
        self.0.stripped_tag()
    }

    #[inline(always)]
    fn set_port(&mut self, port: PortIndex) {
        self.0.set_port(port.0);
    }

    #[inline]
    fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        self.0.prepend(n)
    }

    #[inline]
    fn trim_front(&mut self, n: u16) -> bool {
        self.0.trim_front(n)
    }

    #[inline]
    fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        self.0.append(n)
    }

    fn gather(&mut self, n: usize) -> bool {
        self.0.gather(n)
    }

    fn request_udp_checksum(&mut self, wanted: UdpChecksum) {
        self.0.request_udp_checksum(wanted.l2_len, wanted.l3_len, wanted.is_v6);
    }

    #[inline]
    fn truncate(&mut self, len: usize) -> bool {
        self.0.truncate(len)
    }
}

/// How a worker sends by a port.
#[derive(Debug)]
pub enum Transmit {
    /// By a queue of its own.
    Queue(TxQueue),
    /// Over a ring to the first worker, where the device has fewer queues than there are workers (pcap has one).
    Ring(Producer),
}

/// One worker's share of one port.
#[derive(Debug)]
pub struct PortShare {
    /// How frames look on its wire.
    pub framing: Framing,
    /// Whether it computes checksums that packets ask for.
    pub computes_checksums: bool,
    /// Its receive queue, if the device has one for this worker.
    pub rx: Option<RxQueue>,
    /// How it sends.
    pub tx: Transmit,
    /// First worker only: what the kernel twin wants sent.
    pub from_twin: Option<Consumer>,
    /// First worker only: what workers without a queue want sent.
    pub handed_over: Vec<Consumer>,
    /// To the slow path, where the port has a kernel twin.
    pub to_twin: Option<Producer>,
}

/// What one worker polls and feeds.
#[derive(Debug)]
pub struct WorkerDevice {
    ports: Vec<PortShare>,
    /// By worker; none to itself.
    to_workers: Vec<Option<Producer>>,
    from_workers: Vec<Consumer>,
    /// What packets of the worker's own are made of.
    pool: Mempool,
    /// The array DPDK fills and empties; empty between calls.
    burst: Burst,
}

impl WorkerDevice {
    /// From its parts, in the order of the rules' ports and of the workers.
    pub fn new(
        ports: Vec<PortShare>,
        to_workers: Vec<Option<Producer>>,
        from_workers: Vec<Consumer>,
        pool: Mempool,
    ) -> Self {
        Self { ports, to_workers, from_workers, pool, burst: Burst::new() }
    }
}

/// Whether the port is to compute something for any of them: then its driver has to see them twice.
#[inline(always)]
fn asks_for_checksum(packets: &Packets<Packet>) -> bool {
    packets.iter().fold(false, |any, Packet(mbuf)| any | mbuf.requests_checksum())
}

/// Moves packets to the array DPDK takes, gives it to `send`, and puts back what that left.
#[inline(always)]
fn send_by(burst: &mut Burst, packets: &mut Packets<Packet>, send: impl FnOnce(&mut Burst)) {
    for Packet(mbuf) in packets.drain(..) {
        // Both hold 32: what one held, the other takes.
        let refused = burst.push(mbuf);
        debug_assert!(refused.is_ok());
    }
    send(burst);
    if !burst.is_empty() {
        packets.extend(burst.drain().map(Packet));
    }
}

/// Adds what `ring` holds, as far as there is room.
#[inline(always)]
fn pop_into(burst: &mut Burst, ring: &mut Consumer, into: &mut Packets<Packet>) {
    ring.pop(burst);
    into.extend(burst.drain().map(|mbuf| {
        mbuf.prefetch_data();
        Packet(mbuf)
    }));
}

impl Device for WorkerDevice {
    type Packet = Packet;

    #[inline(always)]
    fn port_count(&self) -> usize {
        self.ports.len()
    }

    #[inline(always)]
    fn framing(&self, port: PortIndex) -> Framing {
        self.ports.get(port.as_usize()).map_or(Framing::PLAIN, |share| share.framing)
    }

    #[inline(always)]
    fn receive(&mut self, port: PortIndex, into: &mut Packets<Packet>) {
        let Some(rx) = self.ports.get_mut(port.as_usize()).and_then(|share| share.rx.as_mut()) else {
            return;
        };
        if rx.receive(&mut self.burst) == 0 {
            return;
        }
        into.extend(self.burst.drain().map(|mut mbuf| {
            mbuf.prefetch_data();
            mbuf.set_port(port.0);
            Packet(mbuf)
        }));
    }

    #[inline(always)]
    fn transmit(&mut self, port: PortIndex, packets: &mut Packets<Packet>) -> Transmitted {
        let Some(share) = self.ports.get_mut(port.as_usize()) else { return Transmitted::Sent };
        match &mut share.tx {
            Transmit::Queue(queue) if share.computes_checksums && asks_for_checksum(packets) => {
                send_by(&mut self.burst, packets, |burst| _ = queue.transmit_prepared(burst));
                Transmitted::Sent
            }
            Transmit::Queue(queue) => {
                send_by(&mut self.burst, packets, |burst| _ = queue.transmit(burst));
                Transmitted::Sent
            }
            Transmit::Ring(ring) => {
                send_by(&mut self.burst, packets, |burst| _ = ring.push(burst));
                Transmitted::HandedOver
            }
        }
    }

    fn receive_steered(&mut self, into: &mut Packets<Packet>) {
        // A ring is emptied into an empty batch only, so that what it gives always fits; the first that has
        // something goes to the end of the line.
        for at in 0..self.from_workers.len() {
            pop_into(&mut self.burst, &mut self.from_workers[at], into);
            if !into.is_empty() {
                self.from_workers.rotate_left(at + 1);
                return;
            }
        }
    }

    fn steer(&mut self, owner: WorkerIndex, packets: &mut Packets<Packet>) {
        if let Some(Some(ring)) = self.to_workers.get_mut(owner.as_usize()) {
            send_by(&mut self.burst, packets, |burst| _ = ring.push(burst));
        }
    }

    #[inline(always)]
    fn receive_from_twin(&mut self, port: PortIndex, into: &mut Packets<Packet>) {
        if let Some(ring) = self.ports.get_mut(port.as_usize()).and_then(|share| share.from_twin.as_mut()) {
            pop_into(&mut self.burst, ring, into);
        }
    }

    #[inline(always)]
    fn receive_handed_over(&mut self, port: PortIndex, into: &mut Packets<Packet>) {
        let Some(share) = self.ports.get_mut(port.as_usize()) else { return };
        for at in 0..share.handed_over.len() {
            pop_into(&mut self.burst, &mut share.handed_over[at], into);
            if !into.is_empty() {
                share.handed_over.rotate_left(at + 1);
                return;
            }
        }
    }

    #[inline(always)]
    fn has_twin(&self, port: PortIndex) -> bool {
        self.ports.get(port.as_usize()).is_some_and(|share| share.to_twin.is_some())
    }

    fn punt(&mut self, port: PortIndex, packets: &mut Packets<Packet>) {
        if let Some(ring) = self.ports.get_mut(port.as_usize()).and_then(|share| share.to_twin.as_mut()) {
            send_by(&mut self.burst, packets, |burst| _ = ring.push(burst));
        }
    }

    fn reserve(&mut self) -> Option<Packet> {
        self.pool.alloc().map(Packet)
    }
}
