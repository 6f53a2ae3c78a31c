//! A packet that does not fit its way: longer than the MTU of the port it would leave by, less what is put in front of it.
//!
//! It is cut where it may be and the service's rules say so ([`super::cut`]); where it may not be, its sender is told
//! how much fits (path MTU discovery); else it is dropped. Asked before anything of the packet is rewritten, so that the
//! sender sees what it sent.
//!
//! Read first: RFC 1191 sections 3 and 4, RFC 8201 section 4, RFC 2473 section 7 (tunnels), RFC 8200 section 5.

use super::icmp;
use super::reply::{self, ReplyLimits};
use crate::burst::Shape;
use crate::counters::WorkerCounters;
use crate::index::ServiceIndex;
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ipv4::Ipv4;

/// Every IPv6 link takes so much; what is put in front of a packet no longer than this is the director's own affair
/// (RFC 8200 section 5, RFC 2473 section 7.1).
const IPV6_MTU_MIN: u16 = 1_280;

/// What becomes of a packet of `service` that is longer than the `mtu` of its way: `Ok` where it is to leave in fragments.
/// An MTU of 0 is that of an unresolved next hop.
#[expect(
    clippy::too_many_arguments,
    reason = "what the line holds apart, which a struct would only name again"
)]
#[cold]
pub fn judge<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    mtu: u16,
    service: ServiceIndex,
    rules: &Ruleset,
    limits: &mut ReplyLimits,
    counters: &WorkerCounters,
    now: Millis,
) -> Result<(), Verdict> {
    if mtu == 0 {
        return Err(DropReason::NextHopUnresolved.into());
    }
    let mtu = if shape.is_v6 { mtu.max(IPV6_MTU_MIN) } else { mtu };
    if shape.is_v6 && shape.ip_len <= mtu {
        return Ok(());
    }
    if !shape.is_v6 && !dont_fragment(packet, shape) {
        let may_cut = rules.service(service).is_some_and(|service| service.policy.fragments);
        return if may_cut { Ok(()) } else { Err(DropReason::TooBig.into()) };
    }
    if is_not_reported(packet, shape) {
        return Err(DropReason::TooBig.into());
    }
    reply::too_big(packet, shape, mtu, rules, limits, now)?;
    counters.too_bigs.add(1);
    Err(Verdict::ReplyTooBig)
}

/// Whether nobody is told of the packet: it is an ICMP error itself, or a later fragment of an IPv4 datagram (RFC 1122 section
/// 3.2.2). IPv6's senders are told of any fragment, or would never learn (RFC 4443 section 2.4).
fn is_not_reported<P: PacketBuf>(packet: &P, shape: Shape) -> bool {
    !shape.has_l4() && (!shape.is_v6 || icmp::is_icmp(packet.data(), shape.is_v6))
}

/// Whether an IPv4 packet's sender forbids to cut it.
fn dont_fragment<P: PacketBuf>(packet: &P, shape: Shape) -> bool {
    let header = packet.data().get(shape.l3_at.into()..).and_then(|l3| l3.first_chunk());
    header.is_none_or(|header| Ipv4(header).dont_fragment())
}
