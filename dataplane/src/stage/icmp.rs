//! icmp: errors about packets of flows. parse finds the flow by what an error quotes ([`flow_of`]); after lookup the quote
//! is rewritten as the flow's own packets are ([`run`]), and from there on the error is a packet of the flow that has no
//! L4 header. Read first: RFC 792, RFC 4443, RFC 5508 section 4, RFC 7690 (why they must find the right backend).
//!
//! An error travels against what it quotes: towards a VIP it quotes an answer to a client, towards a local address a
//! packet to a backend. It comes from any router on the way, and goes on from the address that the flow's packets have,
//! so that its receiver's filters take it; where neither address changes (DR, tunnel) it stays as it is.

use crate::burst::Burst;
use crate::counters::WorkerCounters;
use crate::flow::{Addresses, FlowKey, FlowTable};
use crate::packet::PacketBuf;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum;
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut, PROTOCOL_ICMP};
use crate::wire::ipv6::{self, Ipv6, PROTOCOL_ICMPV6, Upper};
use crate::wire::quote::{self, NoQuote};

/// The flow that the sender of a message quotes, as packets of it come here. `message` begins with the ICMP or ICMPv6
/// header and came to the destination of `outer`. `None` where it is no error, or one about something else than flows: the
/// kernel's.
///
/// # Errors
/// Why it must not pass.
#[cold]
pub fn flow_of(message: &[u8], outer: Addresses) -> Result<Option<FlowKey>, DropReason> {
    let kind = *message.first().ok_or(DropReason::Truncated)?;
    let is_error = if outer.is_v6() { quote::is_error6(kind) } else { quote::is_error(kind) };
    if !is_error {
        return Ok(None);
    }
    match quote::read(message, outer.is_v6()) {
        // An error goes to the sender of what it quotes: whoever quotes another packet made it up.
        Ok(quote) if quote.key.source() == outer.destination() => Ok(Some(quote.key.reversed())),
        Ok(_) | Err(NoQuote::Malformed) => Err(DropReason::IcmpQuote),
        Err(NoQuote::OtherProtocol) => Ok(None),
    }
}

/// Whether the packet of a frame is ICMP or ICMPv6. For those without an L4 header of their flow: the others are
/// fragments.
#[cold]
pub fn is_icmp(data: &[u8], is_v6: bool) -> bool {
    message_at(data, is_v6).is_some()
}

/// Rewrites what the errors of a burst quote, of flows that lookup or admit found.
#[cold]
pub fn run<P: PacketBuf>(burst: &mut Burst<P>, table: &FlowTable, counters: &WorkerCounters) {
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Forward || finding.shape.has_l4() {
            continue;
        }
        let data = packet.data_mut();
        let Some(at) = message_at(data, finding.shape.is_v6) else { continue };
        counters.icmp_errors.add(1);
        let Some(entry) = table.entry(finding.entry).filter(|entry| entry.is_paired()) else { continue };
        let Some(new) = table.entry(finding.entry.peer()).map(|back| back.key().reversed()) else { continue };
        if new.addresses.is_v6() != finding.shape.is_v6 {
            // Rewritten as a whole, headers and all, with the flow's other packets.
            continue;
        }
        let end = ethernet::HEADER_LEN + usize::from(finding.shape.ip_len);
        if rewrite(data, at, end, &entry.key(), &new).is_err() {
            finding.verdict = Verdict::Drop(DropReason::IcmpQuote);
        }
    }
}

/// Where the ICMP or ICMPv6 header of a frame begins; `None` where it has none.
pub fn message_at(data: &[u8], is_v6: bool) -> Option<usize> {
    let packet = data.get(ethernet::HEADER_LEN..)?;
    if !is_v6 {
        let header = Ipv4(packet.first_chunk()?);
        let is_icmp = header.protocol() == PROTOCOL_ICMP && !header.is_fragment();
        return is_icmp.then_some(ethernet::HEADER_LEN + header.header_len());
    }
    let (header, payload) = packet.split_first_chunk()?;
    match ipv6::walk(Ipv6(header).next_header(), payload) {
        Upper::Protocol { protocol: PROTOCOL_ICMPV6, at } => {
            Some(ethernet::HEADER_LEN + ipv6::HEADER_LEN + at)
        }
        _ => None,
    }
}

/// Makes an error about the flow against `old` one about the flow against `new`. Its source becomes that of `old`: what the
/// mode then does to the addresses is right for it as for any packet of the flow.
fn rewrite(
    data: &mut [u8],
    message_at: usize,
    end: usize,
    old: &FlowKey,
    new: &FlowKey,
) -> Result<(), NoQuote> {
    let end = end.min(data.len());
    let (headers, message) = data
        .get_mut(..end)
        .and_then(|data| data.split_at_mut_checked(message_at))
        .ok_or(NoQuote::Malformed)?;
    let packet = headers.get_mut(ethernet::HEADER_LEN..).ok_or(NoQuote::Malformed)?;
    let outer_delta = match old.addresses {
        Addresses::V4(of_flow) => {
            let header: &mut [u8; ipv4::HEADER_LEN] = packet.first_chunk_mut().ok_or(NoQuote::Malformed)?;
            let delta = checksum::delta_of_addresses(Ipv4(header).addresses().into(), old.addresses);
            let mut header = Ipv4Mut(header);
            header.set_addresses(of_flow);
            header.move_checksum(delta);
            // No address is part of an ICMP checksum.
            0
        }
        Addresses::V6(_) => {
            let header = Ipv6(packet.first_chunk().ok_or(NoQuote::Malformed)?);
            checksum::delta_of_addresses(header.addresses().into(), new.addresses)
        }
    };
    quote::read(message, old.addresses.is_v6())?.rewrite(message, &new.reversed(), outer_delta)
}
