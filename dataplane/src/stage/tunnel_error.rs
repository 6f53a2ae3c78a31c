//! tunnel_error: ICMP errors of routers between this director and a backend, about packets that it has put in a tunnel. parse
//! knows them (`read`); here control is told how much fits, so that the packets behind are judged before they are sent
//! ([`super::fit`]), and the client is told at once, where the error quotes enough of the packet within ([`run`]).
//!
//! Read first: RFC 2003 sections 4 and 5.1, RFC 2473 section 8, RFC 4213 sections 3.2 to 3.4 (what a client is told of a
//! tunnel it knows nothing of), RFC 1191 sections 3, 5 and 7, RFC 8201 section 4, RFC 4884 (where a quote ends).
//!
//! Who forges them must know the outer header, and gains little: no way gets narrower than what every host takes, and clients are
//! told so often a second and no more. Not here: errors about the packet within, which its receiver sends ([`super::icmp`]).

use std::net::IpAddr;

use super::reply::{self, Told};
use super::{icmp, steer};
use crate::burst::{Burst, Shape};
use crate::counters::WorkerCounters;
use crate::flow::{Addresses, FlowKey, Rewrite};
use crate::index::WorkerIndex;
use crate::line::{LineState, Origin};
use crate::packet::PacketBuf;
use crate::path::PathReport;
use crate::rules::{Carrier, Encapsulation, QuotedTunnel, Ruleset};
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use crate::wire::icmp::{
    DESTINATION_UNREACHABLE, DESTINATION_UNREACHABLE6, FRAGMENTATION_NEEDED, HEADER_LEN, PACKET_TOO_BIG6,
    PORT_UNREACHABLE, SOURCE_ROUTE_FAILED, TIME_EXCEEDED, TIME_EXCEEDED6,
};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::quote;
use crate::wire::tcp::TcpFlags;

/// The least that a way over IPv4 is believed to take: what every host accepts (RFC 791 section 3.1). RFC 1191 section 3 allows down to
/// 68, which leaves a tunnel no room for a packet.
const IPV4_MTU_MIN: u16 = 576;
/// The same over IPv6 (RFC 8201 section 4).
const IPV6_MTU_MIN: u16 = 1_280;
/// Likely MTUs, for routers that do not say theirs (RFC 1191 section 7.1), down to the least that is believed.
const PLATEAUS: [u16; 7] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006];

/// What a router says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// So many bytes fit, the outer header included.
    TooBig(u16),
    /// The backend cannot be reached, or does not know the tunnel.
    Unreachable,
    /// Something about the outer packet alone.
    Else,
}

/// An error about a tunnel's packet.
pub(super) struct TunnelError {
    says: Says,
    tunnel: QuotedTunnel,
    /// Where the quote of the packet within begins and ends, in bytes from the beginning of the message.
    inner: std::ops::Range<usize>,
}

/// What a message is about a packet that this director has sent in a tunnel; `None` of anything else, which others have to
/// judge. It begins with the ICMP or ICMPv6 header and came to the destination of `addresses`.
#[cold]
pub(super) fn read(message: &[u8], addresses: Addresses, rules: &Ruleset) -> Option<TunnelError> {
    if rules.tunnel_ends.is_empty() {
        return None;
    }
    let is_v6 = addresses.is_v6();
    let header: &[u8; HEADER_LEN] = message.first_chunk()?;
    let is_error = if is_v6 { quote::is_error6(header[0]) } else { quote::is_error(header[0]) };
    let end = quote_end(header, is_v6).map_or(message.len(), |end| end.min(message.len()));
    let quoted = message.get(HEADER_LEN..end).filter(|_| is_error)?;
    let tunnel = rules.tunnel_ends.find(quoted, is_v6)?;
    // It goes to the sender of what it quotes.
    if source(quoted, is_v6)? != addresses.destination() {
        return None;
    }
    let says = if is_v6 { says6(header) } else { says4(header, &tunnel) };
    if let Says::TooBig(mtu) = says
        && (!tunnel.dont_fragment || usize::from(mtu) >= tunnel.len)
    {
        // No router would have had to say that.
        return None;
    }
    let inner = HEADER_LEN + usize::from(tunnel.encapsulation.added_len())..end;
    Some(TunnelError { says, tunnel, inner })
}

/// Where the quote ends, if the message says so: something else may follow (RFC 4884 sections 4.1 and 4.2).
fn quote_end(header: &[u8; HEADER_LEN], is_v6: bool) -> Option<usize> {
    let len = match (is_v6, header[0]) {
        (false, _) => usize::from(header[5]) * 4,
        (true, DESTINATION_UNREACHABLE6 | TIME_EXCEEDED6) => usize::from(header[4]) * 8,
        (true, _) => 0,
    };
    (len != 0).then_some(HEADER_LEN + len)
}

fn source(packet: &[u8], is_v6: bool) -> Option<IpAddr> {
    Some(if is_v6 {
        Ipv6(packet.first_chunk()?).addresses().source().into()
    } else {
        Ipv4(packet.first_chunk()?).addresses().source().into()
    })
}

/// RFC 2003 sections 4.1 to 4.5.
fn says4(header: &[u8; HEADER_LEN], tunnel: &QuotedTunnel) -> Says {
    let [kind, code, _, _, _, _, high, low] = *header;
    match (kind, code) {
        (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) => {
            let mtu = match u16::from_be_bytes([high, low]) {
                0 => plateau_below(tunnel.len),
                mtu => mtu,
            };
            Says::TooBig(mtu.max(IPV4_MTU_MIN))
        }
        (DESTINATION_UNREACHABLE, SOURCE_ROUTE_FAILED) => Says::Else,
        // Nobody listens for GUE; other tunnels have no port.
        (DESTINATION_UNREACHABLE, PORT_UNREACHABLE) if !has_port(&tunnel.encapsulation) => Says::Else,
        (DESTINATION_UNREACHABLE, _) | (TIME_EXCEEDED, 0) => Says::Unreachable,
        _ => Says::Else,
    }
}

/// RFC 2473 section 8.
fn says6(header: &[u8; HEADER_LEN]) -> Says {
    let [kind, code, _, _, mtu @ ..] = *header;
    match (kind, code) {
        (PACKET_TOO_BIG6, _) => {
            let mtu = u16::try_from(u32::from_be_bytes(mtu)).unwrap_or(u16::MAX);
            Says::TooBig(mtu.max(IPV6_MTU_MIN))
        }
        (DESTINATION_UNREACHABLE6, _) | (TIME_EXCEEDED6, 0) => Says::Unreachable,
        _ => Says::Else,
    }
}

fn has_port(encapsulation: &Encapsulation) -> bool {
    matches!(encapsulation.carrier(), Carrier::Gue { .. })
}

/// The likely MTU of a router that did not take a packet of `len` bytes.
fn plateau_below(len: usize) -> u16 {
    PLATEAUS.into_iter().find(|plateau| usize::from(*plateau) < len).unwrap_or(IPV4_MTU_MIN)
}

/// Acts on the errors that parse found.
#[cold]
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    (origin, me): (Origin, WorkerIndex),
    rules: &Ruleset,
    state: &mut LineState,
    counters: &WorkerCounters,
    now: Millis,
) {
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Relay {
            continue;
        }
        let Some((at, error)) = read_again(packet.data(), rules) else {
            finding.verdict = DropReason::TunnelError.into();
            continue;
        };
        let inner = Inner::read(packet.data(), at, &error);
        let owner = inner.as_ref().and_then(|inner| steer::owner(&inner.key, rules));
        if let Some(owner) = owner.filter(|owner| *owner != me)
            && rules.worker_count > 1
            && origin != Origin::Steered
        {
            (finding.verdict, finding.owner) = (Verdict::Steer, owner);
            continue;
        }
        if let Says::TooBig(mtu) = error.says {
            state
                .path_reports
                .tell(PathReport { destination: error.tunnel.encapsulation.destination(), mtu });
        }
        let relayed = inner.ok_or(DropReason::TunnelError).and_then(|inner| {
            let told = inner.told(packet.data(), &error).ok_or(DropReason::TunnelError)?;
            relay(packet, &inner, &error, told, rules, state, now)
        });
        match relayed {
            Ok(()) => counters.icmp_errors.add(1),
            Err(reason) => finding.verdict = reason.into(),
        }
    }
}

/// The error in a frame that parse has read before, and where its message begins; `None` where a checksum is wrong: what control
/// and the client are told has checksums of its own, so nobody after this could tell.
fn read_again(data: &[u8], rules: &Ruleset) -> Option<(usize, TunnelError)> {
    let is_v6 = Ethernet(data.first_chunk()?).ethertype() == ETHERTYPE_IPV6;
    let packet = data.get(ethernet::HEADER_LEN..)?;
    let (addresses, len): (Addresses, _) = if is_v6 {
        let header = Ipv6(packet.first_chunk()?);
        (header.addresses().into(), ipv6::HEADER_LEN + header.payload_len())
    } else {
        let header = Ipv4(packet.first_chunk().filter(|_| ipv4::adds_up(packet))?);
        (header.addresses().into(), header.total_len())
    };
    let at = icmp::message_at(data, is_v6)?;
    let end = data.len().min(ethernet::HEADER_LEN + len);
    let message = data.get(at..end).filter(|message| wire::icmp::adds_up(message, addresses))?;
    Some((at, read(message, addresses, rules)?))
}

/// The packet within, as far as it is quoted.
struct Inner {
    key: FlowKey,
    /// Where it begins and ends in the frame.
    range: std::ops::Range<usize>,
    shape: Shape,
}

impl Inner {
    fn read(data: &[u8], message_at: usize, error: &TunnelError) -> Option<Self> {
        if error.tunnel.is_part {
            return None;
        }
        let range = message_at + error.inner.start..message_at + error.inner.end;
        let packet = data.get(range.clone())?;
        let is_v6 = packet.first()? >> 4 == 6;
        // A quote is read behind the header of its message, of which nothing is read: any bytes serve.
        let key = quote::read(data.get(range.start - HEADER_LEN..range.end)?, is_v6).ok()?.key;
        let ip_len = if is_v6 {
            ipv6::HEADER_LEN + Ipv6(packet.first_chunk()?).payload_len()
        } else {
            Ipv4(packet.first_chunk()?).total_len()
        };
        let ip_len = u16::try_from(ip_len).ok()?;
        let shape =
            Shape { l3_at: ethernet::HEADER_LEN as u16, l4_at: 0, ip_len, tcp_flags: TcpFlags(0), is_v6 };
        Some(Self { key, range, shape })
    }

    /// What its sender is told, if anything.
    fn told(&self, data: &[u8], error: &TunnelError) -> Option<Told> {
        let mtu = match error.says {
            Says::Else => return None,
            Says::Unreachable => return Some(Told::HostUnreachable),
            Says::TooBig(mtu) => mtu.saturating_sub(error.tunnel.encapsulation.added_len()),
        };
        if self.shape.is_v6 {
            // What every link takes the director has to bring through itself.
            let mtu = mtu.max(IPV6_MTU_MIN);
            return (self.shape.ip_len > mtu).then_some(Told::TooBig(mtu));
        }
        let header = Ipv4(data.get(self.range.start..)?.first_chunk()?);
        (header.dont_fragment() && self.shape.ip_len > mtu).then_some(Told::TooBig(mtu))
    }
}

/// Makes the error one about the packet within, from whom that was sent to, on its way to the client.
fn relay<P: PacketBuf>(
    packet: &mut P,
    inner: &Inner,
    error: &TunnelError,
    told: Told,
    rules: &Ruleset,
    state: &mut LineState,
    now: Millis,
) -> Result<(), DropReason> {
    let LineState { table, stations, reply_limits, .. } = state;
    let entry = table.entry(table.find(table.hash(&inner.key), &inner.key)).ok_or(DropReason::TunnelError)?;
    let is_way = |way: &&Encapsulation| way.destination() == error.tunnel.encapsulation.destination();
    if entry.rewrite != Rewrite::Tunnel || rules.encapsulation(entry.backend()).filter(is_way).is_none() {
        // Of a connection that has moved to another backend since, or whose backend is another one.
        return Err(DropReason::TunnelError);
    }
    if !entry.watch.holds_station() {
        return Err(DropReason::ClientStationsFull);
    }
    let next_hop = *stations.adjacency(entry.client_station).ok_or(DropReason::ClientStationsFull)?;
    let ethertype = if inner.shape.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    // What stands before the packet within becomes room for the headers of the new error.
    let front = (inner.range.start - ethernet::HEADER_LEN) as u16;
    if !packet.truncate(inner.range.end) || !packet.trim_front(front) {
        return Err(DropReason::Truncated);
    }
    let link =
        packet.data_mut().first_chunk_mut::<{ ethernet::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
    [link[12], link[13]] = ethertype.to_be_bytes();
    reply::tell(packet, inner.shape, told, rules, reply_limits, now)?;
    let macs = packet.data_mut().first_chunk_mut().ok_or(DropReason::Truncated)?;
    *macs = next_hop.macs;
    packet.set_port(next_hop.port);
    Ok(())
}
