//! decap: what comes in a tunnel to an address that the rules name is taken out of it, before anything else is asked
//! about it. Then it is a packet like any other: of a service, of a flow, or the kernel's.
//!
//! One tunnel a packet, no more: a packet in a packet in a packet is somebody's attempt at a loop. Read first: RFC 2003
//! sections 3.1 and 3.6 (the packet's own TTL stays as it is: nothing was routed yet), RFC 6040 section 4.2 (ECN). Not here: the
//! checks of the packet itself, which are parse's; checksums of outer headers, as the packet has its own; fragments of
//! tunnel packets, which nobody can unwrap before they are put together.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::packet::PacketBuf;
use crate::rules::Decap;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddress, StationFilter};
use crate::wire::gre::{self, Gre};
use crate::wire::gue::Gue;
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP};
use crate::wire::ipv6::{self, Ipv6, Ipv6Mut, Upper};
use crate::wire::udp;

/// Unwraps the burst; what cannot be unwrapped and would have to be is dropped here.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    station: Option<MacAddress>,
    decap: &Decap,
    counters: &WorkerCounters,
) {
    let filter = StationFilter::new(station);
    burst.packets.retain(|packet| {
        let (received, port) = (packet.packet_len(), packet.port());
        let unwrapped = unwrap(packet, filter, decap);
        let left = match unwrapped {
            Ok(is_unwrapped) => {
                counters.decapsulated.add(is_unwrapped.into());
                packet.packet_len()
            }
            Err(reason) => {
                counters.dropped(reason).add(1);
                0
            }
        };
        // What is left parse counts as received.
        counters.port(port).rx.bytes.add(received.saturating_sub(left) as u64);
        unwrapped.is_ok()
    });
}

/// Takes the packet out of its tunnel, if it is in one that ends here.
fn unwrap<P: PacketBuf>(packet: &mut P, filter: StationFilter, decap: &Decap) -> Result<bool, DropReason> {
    const L3_AT: usize = ethernet::HEADER_LEN;
    let Some((link, rest)) = packet.data().split_first_chunk::<L3_AT>() else { return Ok(false) };
    let link = *link;
    // What is not for this station is not ours to unwrap; what ends too early parse will say.
    let Some(outer) =
        Outer::read(Ethernet(&link).ethertype(), rest).filter(|_| filter.takes(Ethernet(&link)))
    else {
        return Ok(false);
    };
    if !outer.ends_here(decap) {
        return Ok(false);
    }
    if outer.is_fragment {
        return Err(DropReason::DecapFragment);
    }
    let Some(inner) = outer.carries(rest, decap)? else { return Ok(false) };
    let carried = rest.get(inner.at..).unwrap_or_default();
    let nested = Outer::read(inner.ethertype, carried).ok_or(DropReason::DecapPacket)?;
    if nested.ends_here(decap) && (nested.is_fragment || nested.carries(carried, decap)?.is_some()) {
        return Err(DropReason::DecapNested);
    }
    let end = L3_AT + outer.len;
    if end > packet.packet_len() || nested.len > outer.len.saturating_sub(inner.at) {
        return Err(DropReason::DecapPacket);
    }
    // What Ethernet has padded the tunnel packet with is no part of the packet.
    if end < packet.packet_len() && !packet.truncate(end) {
        return Err(DropReason::DecapPacket);
    }
    let carried = packet.data_mut().get_mut(L3_AT + inner.at..).ok_or(DropReason::DecapPacket)?;
    take_over_ecn(carried, inner.ethertype, outer.traffic_class)?;
    // Within the first segment, which is below 2^16 bytes.
    if !packet.trim_front(inner.at as u16) {
        return Err(DropReason::DecapPacket);
    }
    let front = packet.data_mut().first_chunk_mut::<L3_AT>().ok_or(DropReason::DecapPacket)?;
    *front = link;
    [front[12], front[13]] = inner.ethertype.to_be_bytes();
    Ok(true)
}

/// What an IP header says that may be a tunnel's.
struct Outer {
    is_fragment: bool,
    destination: std::net::IpAddr,
    protocol: u8,
    /// Where what it carries begins, in bytes from its own start.
    payload_at: usize,
    /// Bytes of the whole packet, as it claims.
    len: usize,
    traffic_class: u8,
}

/// What a tunnel carries.
struct Carried {
    /// Where it begins, in bytes from the start of the outer IP header.
    at: usize,
    ethertype: u16,
}

impl Outer {
    fn read(ethertype: u16, packet: &[u8]) -> Option<Self> {
        match ethertype {
            ETHERTYPE_IPV4 => Self::read_v4(Ipv4(packet.first_chunk()?)),
            ETHERTYPE_IPV6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(header: Ipv4<'_>) -> Option<Self> {
        let (header_len, len) = (header.header_len(), header.total_len());
        let is_honest = header.version() == 4 && header_len >= ipv4::HEADER_LEN && len >= header_len;
        is_honest.then(|| Self {
            is_fragment: header.is_fragment(),
            destination: header.addresses().destination().into(),
            protocol: header.protocol(),
            payload_at: header_len,
            len,
            traffic_class: header.tos(),
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let (header, payload) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let header = Ipv6(header);
        let (is_fragment, protocol, at) = match ipv6::walk(header.next_header(), payload) {
            Upper::Protocol { protocol, at } => (false, protocol, at),
            Upper::Fragment { at } => (true, ipv6::FRAGMENT, at),
            Upper::Truncated | Upper::TooMany => return None,
        };
        (header.version() == 6).then(|| Self {
            is_fragment,
            destination: header.addresses().destination().into(),
            protocol,
            payload_at: ipv6::HEADER_LEN + at,
            len: ipv6::HEADER_LEN + header.payload_len(),
            traffic_class: header.traffic_class(),
        })
    }

    fn ends_here(&self, decap: &Decap) -> bool {
        decap.addresses.contains(self.destination)
    }

    /// What it carries, if it is a tunnel of a kind that ends here; an error where it says so and does not hold it.
    fn carries(&self, packet: &[u8], decap: &Decap) -> Result<Option<Carried>, DropReason> {
        let at = self.payload_at;
        let payload = packet.get(at..).unwrap_or_default();
        match self.protocol {
            protocol @ (PROTOCOL_IPV4 | PROTOCOL_IPV6) if decap.ipip => Ok(carried(at, protocol)),
            gre::PROTOCOL_GRE if decap.gre => {
                let read = payload.first_chunk().and_then(|fixed| Gre::read(*fixed));
                let Gre { header_len, ethertype } = read.ok_or(DropReason::DecapHeader)?;
                let is_ip = matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
                Ok(is_ip.then_some(Carried { at: at + header_len, ethertype }))
            }
            PROTOCOL_UDP => {
                let Some((header, payload)) = payload.split_first_chunk::<{ udp::HEADER_LEN }>() else {
                    return Ok(None);
                };
                if decap.gue_port != Some(u16::from_be_bytes([header[2], header[3]])) {
                    return Ok(None);
                }
                let read = payload.first_chunk().and_then(|first| Gue::read(*first));
                let Gue { header_len, protocol } = read.ok_or(DropReason::DecapHeader)?;
                Ok(carried(at + udp::HEADER_LEN + header_len, protocol))
            }
            _ => Ok(None),
        }
    }
}

/// What carries neither IPv4 nor IPv6 is left to the kernel.
fn carried(at: usize, protocol: u8) -> Option<Carried> {
    match protocol {
        PROTOCOL_IPV4 => Some(Carried { at, ethertype: ETHERTYPE_IPV4 }),
        PROTOCOL_IPV6 => Some(Carried { at, ethertype: ETHERTYPE_IPV6 }),
        _ => None,
    }
}

/// The low bits of the TOS byte and of the traffic class (RFC 3168 section 5).
const ECN: u8 = 3;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CONGESTION: u8 = 3;

/// Gives the packet the ECN mark that it was given on its way through the tunnel (RFC 6040 figure 4).
fn take_over_ecn(packet: &mut [u8], ethertype: u16, outer: u8) -> Result<(), DropReason> {
    let before = match ethertype {
        ETHERTYPE_IPV4 => Ipv4(packet.first_chunk().ok_or(DropReason::DecapPacket)?).tos(),
        _ => Ipv6(packet.first_chunk().ok_or(DropReason::DecapPacket)?).traffic_class(),
    };
    let after = match (before & ECN, outer & ECN) {
        // Who does not know ECN sees congestion by loss alone.
        (0, CONGESTION) => return Err(DropReason::DecapCongestion),
        (ECT_0 | ECT_1, CONGESTION) => CONGESTION,
        (ECT_0, ECT_1) => ECT_1,
        (unchanged, _) => unchanged,
    };
    if after == before & ECN {
        return Ok(());
    }
    let traffic_class = before & !ECN | after;
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.first_chunk_mut().ok_or(DropReason::DecapPacket)?;
        Ipv4Mut(header).set_tos(traffic_class);
    } else {
        let header = packet.first_chunk_mut().ok_or(DropReason::DecapPacket)?;
        Ipv6Mut(header).set_traffic_class(traffic_class);
    }
    Ok(())
}
