//! Packets of health checks between the kernel and the backends: the check address becomes the VIP on the way out, and the
//! VIP the check address on the way back; source address and l4_port become this director's own and are undone.
//!
//! What goes out is then sent as the service's packets are: to the backend's MAC, or in its tunnel. Not here: fragments, which
//! checks have no need of (their route has a small MTU), and protocols other than TCP and UDP.

use super::slots::Slots;
use super::{Check, Checks};
use crate::burst::Shape;
use crate::flow::{Addresses, FlowKey, HashSecret};
use crate::index::PortIndex;
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::stage::rewrite::tunnel;
use crate::stage::{icmp, parse};
use crate::time::Millis;
use crate::wire::checksum;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{self, Ipv6, Ipv6Mut};
use crate::wire::{quote, tcp, udp};

/// What becomes of a packet that the kernel sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToBackend {
    /// It is no check's: as it came.
    Other,
    /// It leaves by this port, rewritten.
    By(PortIndex),
    /// It is to a check address and cannot go on: nobody's, no TCP or UDP, the way is not known or too narrow.
    Refused,
}

/// What knows the connections of checks: one for all twins, as an answer may come by any port.
#[derive(Debug)]
pub struct CheckCarrier {
    slots: Slots,
    /// Rules that say nothing, to read packets by.
    nothing: Ruleset,
}

impl CheckCarrier {
    /// One that knows no connection yet; 3.6 MB, `secret` is random.
    pub fn new(secret: HashSecret) -> Self {
        Self { slots: Slots::new(secret), nothing: Ruleset::default() }
    }

    /// Makes a packet of the kernel's one to a backend, if it is to a check address.
    pub fn to_backend<P: PacketBuf>(&mut self, packet: &mut P, checks: &Checks, now: Millis) -> ToBackend {
        let Some(ends) = addresses(packet.data()) else { return ToBackend::Other };
        let Some(index) = checks.find(ends.destination()) else { return ToBackend::Other };
        let (Some(check), Some((key, shape))) = (checks.get(index), self.read(packet)) else {
            return ToBackend::Refused;
        };
        if shape.ip_len > check.next_hop.mtu {
            return ToBackend::Refused;
        }
        let l4_port = self.slots.l4_port(key, index, now);
        let new = FlowKey::new((check.source, l4_port), (check.vip, key.ports.destination()), key.protocol);
        match send(packet, shape, &key, &new, check) {
            Some(()) => ToBackend::By(check.next_hop.port),
            None => ToBackend::Refused,
        }
    }

    /// Makes a packet from the wire one of the connection that the kernel has, if it is an answer to a check, or an ICMP error
    /// about one; whether it is.
    pub fn from_backend<P: PacketBuf>(&mut self, packet: &mut P, checks: &Checks, now: Millis) -> bool {
        let is_possible =
            addresses(packet.data()).is_some_and(|ends| checks.sources.contains(ends.destination()));
        is_possible
            && match self.read(packet) {
                Some((key, shape)) => self.answer(packet, shape, &key, checks, now),
                None => self.error(packet, checks).is_some(),
            }
    }

    /// The flow of a whole packet of TCP or UDP.
    fn read<P: PacketBuf>(&self, packet: &P) -> Option<(FlowKey, Shape)> {
        let read = parse::packet(packet.data(), packet.packet_len(), &self.nothing)?;
        matches!(read.0.protocol, PROTOCOL_TCP | PROTOCOL_UDP).then_some(read)
    }

    fn answer<P: PacketBuf>(
        &mut self,
        packet: &mut P,
        shape: Shape,
        key: &FlowKey,
        checks: &Checks,
        now: Millis,
    ) -> bool {
        let Some(known) = self.known(&key.reversed(), checks, now) else { return false };
        rewrite(packet.data_mut(), shape, key, &known.reversed()).is_some()
    }

    /// What the kernel calls the connection that it has as `sent` on its way to a backend.
    fn known(&mut self, sent: &FlowKey, checks: &Checks, now: Millis) -> Option<FlowKey> {
        let slot = self.slots.of_l4_port(sent.ports.source())?;
        let check = checks.get(slot.backend)?;
        let is_it = (check.source, check.vip) == (sent.source(), sent.destination())
            && (slot.key.protocol, slot.key.ports.destination()) == (sent.protocol, sent.ports.destination());
        if !is_it {
            return None;
        }
        slot.touch(now);
        Some(slot.key)
    }

    /// An ICMP error about a check's packet, which may be of the backend or of any router.
    fn error<P: PacketBuf>(&mut self, packet: &mut P, checks: &Checks) -> Option<()> {
        let data = packet.data_mut();
        let ends = addresses(data)?;
        let is_v6 = ends.is_v6();
        let at = icmp::message_at(data, is_v6)?;
        let end = data.len().min(ethernet::HEADER_LEN + ip_len(data, is_v6)?);
        let kind = *data.get(at)?;
        let is_error = if is_v6 { quote::is_error6(kind) } else { quote::is_error(kind) };
        let quoted = quote::read(data.get(at..end).filter(|_| is_error)?, is_v6).ok()?;
        let slot = *self.slots.of_l4_port(quoted.key.ports.source())?;
        let check = checks.get(slot.backend)?;
        let is_it = (check.source, check.vip) == (quoted.key.source(), quoted.key.destination())
            && check.source == ends.destination()
            && (slot.key.protocol, slot.key.ports.destination())
                == (quoted.key.protocol, quoted.key.ports.destination());
        let new = Addresses::new(slot.key.destination(), slot.key.source());
        if !is_it || new.is_v6() != is_v6 {
            return None;
        }
        let delta = checksum::delta_of_addresses(ends, new);
        set_addresses(data, new, delta)?;
        // No address is part of an ICMP checksum; of ICMPv6's they are.
        quoted.rewrite(data.get_mut(at..end)?, &slot.key, if is_v6 { delta } else { 0 }).ok()
    }
}

/// The addresses of an untagged frame with an IP packet.
fn addresses(data: &[u8]) -> Option<Addresses> {
    let (link, packet) = data.split_first_chunk()?;
    match Ethernet(link).ethertype() {
        ETHERTYPE_IPV4 => Some(Ipv4(packet.first_chunk()?).addresses().into()),
        ETHERTYPE_IPV6 => Some(Ipv6(packet.first_chunk()?).addresses().into()),
        _ => None,
    }
}

fn ip_len(data: &[u8], is_v6: bool) -> Option<usize> {
    let packet = data.get(ethernet::HEADER_LEN..)?;
    Some(if is_v6 {
        ipv6::HEADER_LEN + Ipv6(packet.first_chunk()?).payload_len()
    } else {
        Ipv4(packet.first_chunk()?).total_len()
    })
}

/// Rewrites a packet and sets out for the backend; `None` where it has no room for that.
fn send<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    old: &FlowKey,
    new: &FlowKey,
    check: &Check,
) -> Option<()> {
    rewrite(packet.data_mut(), shape, old, new)?;
    match &check.encapsulation {
        Some(encapsulation) => {
            tunnel::rewrite_own(packet, shape, new, encapsulation, &check.next_hop).ok()?
        }
        None => *packet.data_mut().first_chunk_mut()? = check.next_hop.macs,
    }
    packet.set_port(check.next_hop.port);
    Some(())
}

/// Makes a packet of flow `old` one of flow `new`; its checksums move by what changed.
fn rewrite(data: &mut [u8], shape: Shape, old: &FlowKey, new: &FlowKey) -> Option<()> {
    if old.addresses.is_v6() != new.addresses.is_v6() {
        return None;
    }
    let of_addresses = checksum::delta_of_addresses(old.addresses, new.addresses);
    let delta = checksum::combine(of_addresses, checksum::delta_of_ports(old.ports, new.ports));
    set_addresses(data, new.addresses, of_addresses)?;
    let l4 = data.get_mut(shape.l4_at.into()..)?;
    *l4.first_chunk_mut()? = new.ports.to_wire();
    let is_udp = old.protocol == PROTOCOL_UDP;
    let at = if is_udp { udp::CHECKSUM_AT } else { tcp::CHECKSUM_AT };
    let field: &mut [u8; 2] = l4.get_mut(at..)?.first_chunk_mut()?;
    let before = u16::from_ne_bytes(*field);
    let after = if is_udp { checksum::update_udp(before, delta) } else { checksum::update(before, delta) };
    *field = after.to_ne_bytes();
    Some(())
}

/// Sets the addresses of a frame's IP header, by which its checksum moves by `delta`.
fn set_addresses(data: &mut [u8], new: Addresses, delta: u16) -> Option<()> {
    let packet = data.get_mut(ethernet::HEADER_LEN..)?;
    match new {
        Addresses::V4(pair) => {
            let mut header = Ipv4Mut(packet.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?);
            header.set_addresses(pair);
            header.move_checksum(delta);
        }
        Addresses::V6(pair) => Ipv6Mut(packet.first_chunk_mut::<{ ipv6::HEADER_LEN }>()?).set_addresses(pair),
    }
    Some(())
}
