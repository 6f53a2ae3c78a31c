//! FullNAT between the families: IPv6 clients of IPv4 backends (NAT64) and IPv4 clients of IPv6 backends (NAT46). The IP
//! header gives way to one of the other family and the rest stays where it is: an IPv4 header is 20 bytes shorter.
//!
//! Read first: RFC 7915 sections 4.1, 4.2 (echo), 4.5, 5.1 and 5.2 (echo). Addresses are those of the connection, as in
//! FullNAT, and not embedded ones (RFC 6052). IPv4 options and IPv6 extensions are left behind, as there. ICMP errors are in
//! [`icmp`]. Not here: fragments, which are dropped.

mod icmp;

use super::fullnat::rewrite_l4;
use super::set_macs;
use super::udp_checksum::{self, Egress};
use crate::burst::Shape;
use crate::flow::{Addresses, FlowTable};
use crate::index::EntryIndex;
use crate::packet::PacketBuf;
use crate::stage::cut::Identifications;
use crate::stage::icmp::message_at;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6, Upper};
use crate::wire::{AddressPair, AddressPair6, checksum, echo};

/// An IPv4 packet of at most so many bytes may be fragmented on its way: the IPv6 sender would not make it shorter if it
/// were told to (RFC 7915 section 5.1).
const FRAGMENTABLE_LEN_MAX: u16 = 1_260;
/// The flag that forbids fragmenting (RFC 791 section 3.1).
const DO_NOT_FRAGMENT: u8 = 0x40;

/// What of a packet goes into its new header.
struct Kept {
    /// DSCP and ECN.
    traffic_class: u8,
    /// One less than it was.
    hop_limit: u8,
    protocol: u8,
    /// Bytes behind the header.
    l4_len: u16,
}

/// The longest packet of the family it comes in that fits `mtu` when it leaves. 0 stays 0.
pub(super) fn mtu_before(mtu: u16, shape: Shape) -> u16 {
    const MORE: u16 = (ipv6::HEADER_LEN - ipv4::HEADER_LEN) as u16;
    match mtu {
        0 => 0,
        mtu if shape.is_v6 => mtu.saturating_add(MORE),
        mtu => mtu.saturating_sub(MORE),
    }
}

/// Rewrites a packet of the flow at `index` to the other family; returns where its headers lie now. `identifications`
/// are for IPv4 packets that may be fragmented.
#[inline(never)]
pub(super) fn rewrite<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    index: EntryIndex,
    table: &FlowTable,
    egress: Egress<'_>,
    identifications: &mut Identifications,
) -> Result<Shape, DropReason> {
    let l4_delta = table.entry(index).ok_or(DropReason::TableFull)?.l4_delta;
    let new = table.entry(index.peer()).ok_or(DropReason::TableFull)?.key().reversed();
    if is_source_routed(packet.data(), shape) {
        return Err(DropReason::SourceRoute);
    }
    if !shape.has_l4()
        && let Some(message_at) = message_at(packet.data(), shape.is_v6)
    {
        return icmp::rewrite(packet, shape, message_at, &new, egress.next_hop);
    }
    if !shape.has_l4() || is_fragment(packet.data(), shape) {
        return Err(DropReason::FamilyFragment);
    }
    let kept = kept(packet.data(), shape, new.protocol)?;
    if shape.is_v6 && udp_checksum::is_missing(shape.l4(packet.data()), new.protocol) {
        return Err(DropReason::UdpChecksum);
    }
    let (header_len, ethertype) = match new.addresses {
        Addresses::V4(_) => (ipv4::HEADER_LEN, ETHERTYPE_IPV4),
        Addresses::V6(_) => (ipv6::HEADER_LEN, ETHERTYPE_IPV6),
    };
    let l4_at = ethernet::HEADER_LEN + header_len;
    move_front(packet, shape.l4_at.into(), l4_at)?;
    let (headers, l4) = packet.data_mut().split_at_mut_checked(l4_at).ok_or(DropReason::Truncated)?;
    if echo::is_icmp(new.protocol) {
        let message = l4.first_chunk_mut().ok_or(DropReason::Truncated)?;
        if !echo::translate(message, new.addresses.is_v6(), l4_delta, kept.l4_len, new.ports) {
            return Err(DropReason::Untranslatable);
        }
    } else {
        rewrite_l4(l4, shape, new.protocol, l4_delta, new.ports)?;
    }
    let (link, header) = headers.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
    set_macs(link, egress.next_hop);
    [link[12], link[13]] = ethertype.to_be_bytes();
    let lacks_checksum = udp_checksum::is_missing(l4, kept.protocol);
    match new.addresses {
        Addresses::V4(pair) => header.copy_from_slice(&header4(&kept, pair, Some(identifications))),
        Addresses::V6(pair) => header.copy_from_slice(&header6(&kept, pair)),
    }
    // At most 54, and as long as it was but for the headers.
    let ip_len = kept.l4_len.saturating_add(header_len as u16);
    if lacks_checksum && new.addresses.is_v6() {
        udp_checksum::complete(packet, ip_len, egress)?;
    }
    Ok(Shape {
        l3_at: ethernet::HEADER_LEN as u16,
        l4_at: l4_at as u16,
        ip_len,
        is_v6: new.addresses.is_v6(),
        ..shape
    })
}

/// Whether there is more of the datagram in other packets. (An IPv6 fragment that is all of its datagram has a header that
/// is left behind.)
pub(super) fn is_fragment(data: &[u8], shape: Shape) -> bool {
    let header = data.get(shape.l3_at.into()..).unwrap_or_default();
    if !shape.is_v6 {
        return header.first_chunk().is_some_and(|header| Ipv4(header).is_fragment());
    }
    let Some((header, payload)) = header.split_first_chunk() else { return false };
    match ipv6::walk(Ipv6(header).next_header(), payload) {
        Upper::Fragment { at } => {
            let header = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
            header.is_none_or(|header| header[3] & 1 != 0)
        }
        _ => false,
    }
}

/// Whether a packet is on a way that its own header names, which the other family's cannot (RFC 7915 sections 4.1 and 5.1).
fn is_source_routed(data: &[u8], shape: Shape) -> bool {
    let packet = data.get(shape.l3_at.into()..).unwrap_or_default();
    if !shape.is_v6 {
        return ipv4::is_source_routed(packet);
    }
    packet
        .split_first_chunk()
        .is_some_and(|(header, payload)| ipv6::is_source_routed(Ipv6(header).next_header(), payload))
}

/// What stays of a header. IPv6's has no checksum, and IPv4's is made anew: one that came in wrong ends here, or nobody would know.
fn kept(data: &[u8], shape: Shape, protocol: u8) -> Result<Kept, DropReason> {
    let header = data.get(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    let l4_len = u16::try_from(shape.l4_len()).map_err(|_| DropReason::Ipv4Length)?;
    let (traffic_class, hops) = if shape.is_v6 {
        let header = Ipv6(header.first_chunk().ok_or(DropReason::Truncated)?);
        (header.traffic_class(), header.hop_limit())
    } else {
        if !ipv4::adds_up(header) {
            return Err(DropReason::Ipv4Checksum);
        }
        let header = Ipv4(header.first_chunk().ok_or(DropReason::Truncated)?);
        (header.tos(), header.ttl())
    };
    match hops {
        0 | 1 => Err(DropReason::TtlExpired),
        _ => Ok(Kept { traffic_class, hop_limit: hops - 1, protocol, l4_len }),
    }
}

/// Puts the L4 header, which lies at `from`, to `to`: by what stands in front of it, it itself stays.
fn move_front<P: PacketBuf>(packet: &mut P, from: usize, to: usize) -> Result<(), DropReason> {
    // Both are below the length of the first segment.
    if to > from {
        return packet.prepend((to - from) as u16).map(|_| ()).ok_or(DropReason::NoHeadroom);
    }
    if packet.trim_front((from - to) as u16) { Ok(()) } else { Err(DropReason::Truncated) }
}

/// With an identification where the packet may be fragmented and its sender has none for it.
fn header4(
    kept: &Kept,
    pair: AddressPair,
    identifications: Option<&mut Identifications>,
) -> [u8; ipv4::HEADER_LEN] {
    let total_len = kept.l4_len.saturating_add(ipv4::HEADER_LEN as u16);
    let (id, flags) = match identifications {
        Some(identifications) if total_len <= FRAGMENTABLE_LEN_MAX => (identifications.next_of_ipv4(), 0),
        _ => (0, DO_NOT_FRAGMENT),
    };
    let ([a, b], [c, d]) = (total_len.to_be_bytes(), id.to_be_bytes());
    let mut header = [0; ipv4::HEADER_LEN];
    let (fixed, addresses) = header.split_at_mut(ipv4::HEADER_LEN - 8);
    fixed.copy_from_slice(&[
        0x45,
        kept.traffic_class,
        a,
        b,
        c,
        d,
        flags,
        0,
        kept.hop_limit,
        kept.protocol,
        0,
        0,
    ]);
    addresses.copy_from_slice(&pair.to_wire());
    [header[10], header[11]] = (!checksum::sum(&header)).to_ne_bytes();
    header
}

fn header6(kept: &Kept, pair: AddressPair6) -> [u8; ipv6::HEADER_LEN] {
    let mut header = ipv6::header(kept.traffic_class, kept.l4_len, kept.protocol, pair);
    header[7] = kept.hop_limit;
    header
}
