//! The RSTs that tell both ends of a connection that it is forgotten: packets of the worker's own, not turned around.
//! Not a stage: the worker calls it when connections expire or are taken away. Read first: RFC 9293 section 3.5.2,
//! RFC 5961 section 3.
//!
//! Each end gets one from its peer as it knows it: the client from the VIP, the backend from the local address (FullNAT)
//! or from the client (DR). A receiver takes a RST for certain only with the very number it expects next; that is its own
//! latest acknowledgment.

use super::ReplyLimits;
use super::rst::Rst;
use crate::adjacency::{Adjacency, ClientStations};
use crate::counters::WorkerCounters;
use crate::device::Device;
use crate::flow::sequence::End;
use crate::flow::tcp_state::TcpState;
use crate::flow::{Entry, Rewrite};
use crate::packet::PacketBuf;
use crate::rules::{Encapsulation, Ruleset};
use crate::stage::rewrite::tunnel;
use crate::stage::rewrite::udp_checksum::Egress;
use crate::stage::transmit::{self, Outboxes};
use crate::time::Millis;

/// Tells the ends of connections; [`Self::finish`] sends what is left.
pub struct Teller<'a, D: Device> {
    /// The rules in force, for the ways to backends.
    pub rules: &'a Ruleset,
    /// The ways to clients.
    pub stations: &'a ClientStations,
    /// How many the worker may still tell.
    pub limits: &'a mut ReplyLimits,
    /// Where they are counted.
    pub counters: &'a WorkerCounters,
    /// Where they wait for the end of a burst; empty when this is made.
    pub outboxes: &'a mut Outboxes<D::Packet>,
    /// Where they are taken from, and leave by.
    pub device: &'a mut D,
    /// The time.
    pub now: Millis,
}

impl<D: Device> Teller<'_, D> {
    /// Tells the ends of the connection that `entry`, and in FullNAT `back`, were. One that is over needs no end; whose
    /// numbers are not known cannot be told.
    pub fn tell(&mut self, entry: &Entry, back: Option<&Entry>) {
        let is_over = matches!(entry.state, TcpState::TimeWait | TcpState::Close);
        if is_over || !entry.watch.notes_numbers() || entry.rewrite == Rewrite::Local {
            return;
        }
        if let Some(rst) = to_client(entry, back) {
            self.send(&rst, self.stations.adjacency(entry.client_station).copied(), None);
        }
        if let Some(rst) = to_backend(entry, back) {
            let rules = self.rules;
            let tunnel = rules.encapsulation(entry.backend()).filter(|_| entry.rewrite == Rewrite::Tunnel);
            self.send(&rst, Some(rules.adjacency(entry.backend())), tunnel);
        }
    }

    /// Sends what waits.
    pub fn finish(self) {
        transmit::flush(self.outboxes, self.device, self.counters);
    }

    /// Sends it to `next_hop`, in the tunnel where there is one.
    fn send(&mut self, rst: &Rst, next_hop: Option<Adjacency>, tunnel: Option<&Encapsulation>) {
        let next_hop = next_hop.filter(Adjacency::is_resolved);
        match next_hop.and_then(|next_hop| self.make(rst, next_hop, tunnel)) {
            Some((packet, next_hop)) => {
                self.counters.own_resets.add(1);
                transmit::post(next_hop.port, packet, self.outboxes, self.device, self.counters);
            }
            None => self.counters.own_resets_withheld.add(1),
        }
    }

    fn make(
        &mut self,
        rst: &Rst,
        next_hop: Adjacency,
        tunnel: Option<&Encapsulation>,
    ) -> Option<(D::Packet, Adjacency)> {
        if !self.limits.own_resets.take(self.now) {
            return None;
        }
        let mut packet = self.device.reserve()?;
        // At most 74 bytes.
        rst.write(packet.append(rst.frame_len() as u16)?, next_hop.macs).ok()?;
        packet.set_port(next_hop.port);
        if let Some(encapsulation) = tunnel {
            let egress = Egress { next_hop: &next_hop, rules: self.rules, counters: self.counters };
            tunnel::rewrite(&mut packet, rst.shape(), &rst.key, encapsulation, None, egress).ok()?;
        }
        Some((packet, next_hop))
    }
}

/// Only a client that acknowledged something is told: who sent no more than a SYN may not exist.
fn to_client(entry: &Entry, back: Option<&Entry>) -> Option<Rst> {
    let End { sent, expected } = entry.end();
    // Its numbers are noted as its backend has them, behind the header of the PROXY protocol.
    let in_front = back.map_or(0, |back| back.kept().header_len());
    let acknowledgment = sent.map(|sent| sent.wrapping_sub(in_front));
    Some(Rst { key: entry.key().reversed(), sequence: expected?, acknowledgment })
}

/// A backend that was not heard of expects what the client sent.
fn to_backend(entry: &Entry, back: Option<&Entry>) -> Option<Rst> {
    let client = entry.end();
    let backend = back.map(Entry::end).unwrap_or_default();
    let key = back.map_or_else(|| entry.key(), |back| back.key().reversed());
    Some(Rst {
        key,
        sequence: backend.expected.or(client.sent)?,
        acknowledgment: backend.sent.or(client.expected),
    })
}
