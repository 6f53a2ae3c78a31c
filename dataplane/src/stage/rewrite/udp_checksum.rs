//! UDP checksums that no incremental update gives: of datagrams that came without one and leave in IPv6, and of tunnels around
//! packets that have none. They take a sum over the payload, so the port that sends the packet is left to compute them
//! where it can; else the sum is made here. Not here: checksums that packets have, which move by what changed.
//!
//! Read first: RFC 768, RFC 8200 section 8.1, RFC 7915 section 4.5; DPDK Programmer's Guide 22.11, "Mbuf Library", "Meta Information".

use crate::adjacency::Adjacency;
use crate::counters::WorkerCounters;
use crate::packet::{PacketBuf, UdpChecksum};
use crate::rules::Ruleset;
use crate::verdict::DropReason;
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_UDP};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Addresses, checksum, udp};

/// Where a packet leaves.
#[derive(Clone, Copy)]
pub(in crate::stage) struct Egress<'a> {
    /// What it leaves towards.
    pub(in crate::stage) next_hop: &'a Adjacency,
    /// They say what the port can do.
    pub(in crate::stage) rules: &'a Ruleset,
    /// Who computed what.
    pub(in crate::stage) counters: &'a WorkerCounters,
}

impl Egress<'_> {
    /// Where on the wire the IP header begins, if the port computes the UDP checksum of a packet that takes `ip_len` bytes of
    /// its way. One that is to be cut needs it before: each part would get a checksum of its own.
    pub(super) fn udp_offload(self, ip_len: u16) -> Option<u8> {
        self.rules.port(self.next_hop.port).udp_offload.filter(|_| ip_len <= self.next_hop.mtu)
    }

    /// Notes that a checksum was summed up here.
    pub(super) fn count_summed(self) {
        self.counters.checksums_summed.add(1);
    }
}

/// Whether it is a datagram without a checksum. One that came so in IPv6 is none that its receiver may take (RFC 8200 section 8.1); what has no
/// checksum to move must not leave with another header, where it could seem whole: as IPv4's zero, which means none, or computed.
pub(super) fn is_missing(l4: &[u8], protocol: u8) -> bool {
    protocol == PROTOCOL_UDP && l4.get(udp::CHECKSUM_AT..udp::HEADER_LEN) == Some(&[0, 0])
}

/// Gives a datagram without a checksum the one that IPv6 asks for. The packet is otherwise as it leaves: an IP header without
/// options or extensions, `ip_len` bytes with it. One that has to be summed up here and does not lie in the first segment as a
/// whole is dropped, as the RFC allows.
pub(super) fn complete<P: PacketBuf>(
    packet: &mut P,
    ip_len: u16,
    egress: Egress<'_>,
) -> Result<(), DropReason> {
    let (addresses, l4_at) = addresses(packet.data())?;
    let room = usize::from(ip_len).saturating_sub(l4_at - ethernet::HEADER_LEN);
    let l4 = packet.data_mut().get_mut(l4_at..).ok_or(DropReason::Truncated)?;
    let header = l4.first_chunk::<{ udp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    let len = u16::from_be_bytes([header[udp::LENGTH_AT], header[udp::LENGTH_AT + 1]]);
    // Ports sum up to the packet's end, whatever the datagram's length, which is at most that.
    if usize::from(len) == room
        && let Some(l2_len) = egress.udp_offload(ip_len)
    {
        return leave_to_port(packet, l2_len, egress);
    }
    let datagram = l4.get_mut(..len.into()).ok_or(DropReason::UdpChecksum)?;
    let pseudo = checksum::sum_of_pseudo_header(addresses, PROTOCOL_UDP, len);
    let sum = !checksum::combine(pseudo, checksum::sum(datagram));
    // A sum of zero is sent as ones (RFC 768).
    set_field(datagram, if sum == 0 { 0xffff } else { sum })?;
    egress.count_summed();
    Ok(())
}

/// Leaves the checksum of a datagram to the port. The packet is otherwise as it leaves, the datagram all that its IP header,
/// without options or extensions, is followed by.
pub(super) fn leave_to_port<P: PacketBuf>(
    packet: &mut P,
    l2_len: u8,
    egress: Egress<'_>,
) -> Result<(), DropReason> {
    let (addresses, l4_at) = addresses(packet.data())?;
    let datagram = packet.data_mut().get_mut(l4_at..).ok_or(DropReason::Truncated)?;
    let header = datagram.first_chunk::<{ udp::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    let len = u16::from_be_bytes([header[udp::LENGTH_AT], header[udp::LENGTH_AT + 1]]);
    // To this the port adds the sum of the datagram, the field included.
    set_field(datagram, checksum::sum_of_pseudo_header(addresses, PROTOCOL_UDP, len))?;
    // Link padding would be summed up too.
    if !packet.truncate(l4_at + usize::from(len)) {
        return Err(DropReason::Truncated);
    }
    let l3_len = (l4_at - ethernet::HEADER_LEN) as u16;
    packet.request_udp_checksum(UdpChecksum { l2_len, l3_len, is_v6: addresses.is_v6() });
    egress.counters.checksums_offloaded.add(1);
    Ok(())
}

/// The addresses of a packet and where its IP header, which has neither options nor extensions, ends.
fn addresses(data: &[u8]) -> Result<(Addresses, usize), DropReason> {
    let l3 = data.get(ethernet::HEADER_LEN..).ok_or(DropReason::Truncated)?;
    let is_v6 = l3.first().is_some_and(|byte| byte >> 4 == 6);
    if is_v6 {
        let header = Ipv6(l3.first_chunk().ok_or(DropReason::Truncated)?);
        return Ok((header.addresses().into(), ethernet::HEADER_LEN + ipv6::HEADER_LEN));
    }
    let header = Ipv4(l3.first_chunk().ok_or(DropReason::Truncated)?);
    Ok((header.addresses().into(), ethernet::HEADER_LEN + ipv4::HEADER_LEN))
}

/// Writes the checksum, in the order of its sum, which is native ([`checksum`]).
fn set_field(datagram: &mut [u8], sum: u16) -> Result<(), DropReason> {
    let field = datagram.get_mut(udp::CHECKSUM_AT..udp::HEADER_LEN).ok_or(DropReason::Truncated)?;
    field.copy_from_slice(&sum.to_ne_bytes());
    Ok(())
}
