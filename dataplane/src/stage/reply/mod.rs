//! reply: packets whose sender is told that they go no further. The same buffer is turned around and leaves by the
//! port it came in by.
//!
//! What the ends of a connection are told when it is forgotten is in [`ends`].
//!
//! admit decides that a packet is answered (`to_newcomer`, `to_stray`); here the answer is made. Nothing answers
//! an answer: no RST is sent for a RST, nothing for an ICMP error or a later fragment (admit and [`crate::stage::fit`] see to
//! that), and nothing to an address that is not one host's (RFC 1122 section 3.2.2). Each worker sends so many a second and no more:
//! answers must not multiply a flood.

pub mod ends;
mod icmp;
mod rst;

use std::net::IpAddr;

pub(super) use self::icmp::Told;
use crate::burst::{Burst, Shape};
use crate::counters::WorkerCounters;
use crate::packet::PacketBuf;
use crate::rules::{NoBackend, NoFlow, Policy, Ruleset};
use crate::time::Millis;
use crate::token_bucket::TokenBucket;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{Ipv4, PROTOCOL_TCP};
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::TcpFlags;
use crate::wire::{Addresses, echo};

/// ICMP errors a second and worker, and at once: Linux's `icmp_msgs_per_sec` and `icmp_msgs_burst`.
const UNREACHABLES: TokenBucket = TokenBucket::new(1_000, 50);
/// RSTs a second and worker, and at once. Linux bounds them by nothing; ten times the ICMP errors are a megabyte a second.
const RESETS: TokenBucket = TokenBucket::new(10_000, 500);

/// How much one worker still answers.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    unreachables: TokenBucket,
    /// Apart from those, which cost nobody a connection when they are lost.
    too_bigs: TokenBucket,
    resets: TokenBucket,
    /// Apart from the answers, which strangers can use up.
    own_resets: TokenBucket,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { unreachables: UNREACHABLES, too_bigs: UNREACHABLES, resets: RESETS, own_resets: RESETS }
    }
}

/// What becomes of a packet that asked for a connection and got none, for `reason`. Only where no backend takes
/// connections is the sender told: anything else passes, and a client that hears nothing tries again.
pub(super) fn to_newcomer(reason: DropReason, policy: &Policy, protocol: u8, flags: TcpFlags) -> Verdict {
    let lacks_backend = matches!(reason, DropReason::NoBackend | DropReason::BackendFull);
    if !lacks_backend || flags.has(TcpFlags::RST) {
        return Verdict::Drop(reason);
    }
    match policy.no_backend {
        NoBackend::Drop => Verdict::Drop(reason),
        NoBackend::Reset if protocol == PROTOCOL_TCP => Verdict::ReplyReset,
        NoBackend::Reset | NoBackend::Unreachable => Verdict::ReplyUnreachable,
    }
}

/// What becomes of a TCP segment, or an SCTP packet, that opens nothing and belongs to no known connection; `Ok` where it makes
/// one all the same.
pub(super) fn to_stray(protocol: u8, flags: TcpFlags, policy: &Policy) -> Result<(), Verdict> {
    if !flags.are_possible() {
        return Err(Verdict::Drop(DropReason::TcpFlags));
    }
    let is_reset = flags.has(TcpFlags::RST);
    match policy.no_flow {
        NoFlow::Kernel => Err(Verdict::Punt),
        NoFlow::Reset if !is_reset && protocol == PROTOCOL_TCP => Err(Verdict::ReplyReset),
        NoFlow::Schedule if !is_reset => Ok(()),
        NoFlow::Reset | NoFlow::Schedule | NoFlow::Drop => Err(Verdict::Drop(DropReason::NoFlow)),
    }
}

/// Turns around what is to be answered.
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    rules: &Ruleset,
    limits: &mut ReplyLimits,
    counters: &WorkerCounters,
    now: Millis,
) {
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        let (is_reset, bucket, counter) = match finding.verdict {
            Verdict::ReplyReset => (true, &mut limits.resets, &counters.resets),
            Verdict::ReplyUnreachable => (false, &mut limits.unreachables, &counters.unreachables),
            _ => continue,
        };
        let addresses = finding.key.addresses;
        let made = if !is_answerable(addresses.source(), rules) {
            Err(DropReason::Unanswerable)
        } else if !bucket.take(now) {
            Err(DropReason::ReplyLimit)
        } else if is_reset {
            rst::turn_around(packet, finding.shape, &finding.key)
        } else {
            // A ping asks for a host and no port.
            let is_ping = echo::is_icmp(finding.key.protocol);
            let told = if is_ping { Told::HostUnreachable } else { Told::PortUnreachable };
            icmp::turn_around(packet, finding.shape, addresses, told)
        };
        match made {
            Ok(()) => counter.add(1),
            Err(reason) => finding.verdict = Verdict::Drop(reason),
        }
    }
}

/// Turns around a packet, just as it came, that is too long: `mtu` bytes of IP fit.
pub(super) fn too_big<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    mtu: u16,
    rules: &Ruleset,
    limits: &mut ReplyLimits,
    now: Millis,
) -> Result<(), DropReason> {
    tell(packet, shape, Told::TooBig(mtu), rules, limits, now)
}

/// Turns around a packet, just as it came or as far as it is known, into the ICMP error that tells its sender.
pub(super) fn tell<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    told: Told,
    rules: &Ruleset,
    limits: &mut ReplyLimits,
    now: Millis,
) -> Result<(), DropReason> {
    let l3 = packet.data().get(shape.l3_at.into()..).ok_or(DropReason::Truncated)?;
    let addresses: Addresses = if shape.is_v6 {
        Ipv6(l3.first_chunk().ok_or(DropReason::Truncated)?).addresses().into()
    } else {
        Ipv4(l3.first_chunk().ok_or(DropReason::Truncated)?).addresses().into()
    };
    if !is_answerable(addresses.source(), rules) {
        return Err(DropReason::Unanswerable);
    }
    let bucket =
        if matches!(told, Told::TooBig(_)) { &mut limits.too_bigs } else { &mut limits.unreachables };
    if !bucket.take(now) {
        return Err(DropReason::ReplyLimit);
    }
    icmp::turn_around(packet, shape, addresses, told)
}

/// Whether the source is one host's, and not this director's own: to the VIP itself an answer would come back.
fn is_answerable(source: IpAddr, rules: &Ruleset) -> bool {
    let is_host = match source {
        IpAddr::V4(source) => {
            let [first, ..] = source.octets();
            // "This network", loopback, and from 224 on multicast, reserved and broadcast addresses (RFC 6890, RFC 5771).
            first != 0 && first != 127 && first < 224
        }
        // RFC 4443 section 2.4, point e.
        IpAddr::V6(source) => !source.is_unspecified() && !source.is_loopback() && !source.is_multicast(),
    };
    is_host && !rules.vips.contains(source) && !rules.local_addresses.contains(source)
}

/// The Ethernet header of a frame back to where one with `header` came from.
fn back(header: Ethernet<'_>) -> [u8; ethernet::HEADER_LEN] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *header.0;
    [g, h, i, j, k, l, a, b, c, d, e, f, m, n]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_an_address_of_one_other_host_is_answered() {
        let vip = Ipv4Addr::new(203, 0, 113, 10);
        let rules = Ruleset { local_addresses: Arc::new([vip].into_iter().collect()), ..Ruleset::default() };
        let answered = |a, b, c, d| is_answerable(Ipv4Addr::new(a, b, c, d).into(), &rules);
        assert!(answered(198, 51, 100, 7) && answered(10, 0, 0, 1) && answered(223, 255, 255, 254));
        for [a, b, c, d] in
            [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4], vip.octets()]
        {
            assert!(!answered(a, b, c, d), "{a}.{b}.{c}.{d}");
        }
    }
}
