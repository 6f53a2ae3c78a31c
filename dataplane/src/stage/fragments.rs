//! fragments: which flow a fragment belongs to, be it its datagram's first or a later one, without reassembly. Called
//! only with a burst that has fragments to a VIP or a local address. Read first: [`crate::fragments`]; RFC 791 section
//! 3.2, RFC 8200 section 4.5, RFC 1858, RFC 7112.
//!
//! All fragments of a datagram meet at one worker, by the hash of its addresses and identification: that one waits for
//! the first, learns the flow, and hands them on, the first before the others, to the worker that owns the flow. There
//! the first one is met first, so the same book-keeping serves.

use crate::burst::{Burst, Finding, Shape};
use crate::flow::{Entry, FlowKey, FlowTable, Rewrite};
use crate::fragments::{First, Fragments, Noted};
use crate::index::{BackendIndex, EntryIndex, WorkerIndex};
use crate::line::{LineState, Origin};
use crate::packet::PacketBuf;
use crate::rules::Ruleset;
use crate::stage::cut::Identifications;
use crate::stage::steer;
use crate::time::Millis;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::{self, ETHERTYPE_IPV6, Ethernet};
use crate::wire::fragment::{Fragment, datagram_key, identification};
use crate::wire::ipv4::{Ipv4, Ipv4Mut, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{self, FRAGMENT, FRAGMENT_HEADER_LEN, Ipv6, Upper};
use crate::wire::sctp::{self, Sctp};
use crate::wire::tcp::TcpFlags;
use crate::wire::{Addresses, PortPair, echo, tcp, udp};

/// What is read of one fragment.
struct Part {
    /// The datagram, see [`datagram_key`].
    datagram: FlowKey,
    addresses: Addresses,
    fragment: Fragment,
    /// What it says when it is the first.
    first: Option<First>,
    shape: Shape,
}

/// Decides about the packets that parse left with [`Verdict::Hold`].
#[cold]
pub fn run<P: PacketBuf>(
    burst: &mut Burst<P>,
    origin: Origin,
    me: WorkerIndex,
    rules: &Ruleset,
    (table, fragments): (&FlowTable, &mut Fragments),
    now: Millis,
) {
    for (packet, finding) in burst.packets.iter().zip(&mut burst.findings) {
        if finding.verdict != Verdict::Hold {
            continue;
        }
        let part = match read(packet.data()) {
            Ok(part) => part,
            Err(reason) => {
                finding.verdict = Verdict::Drop(reason);
                continue;
            }
        };
        let meets_at = meeting_worker(&part.datagram, rules.worker_count);
        if meets_at != me && origin != Origin::Steered {
            (finding.verdict, finding.owner) = (Verdict::Steer, meets_at);
            continue;
        }
        let noted = note(&part, table, fragments, now);
        finding.shape = part.shape;
        finding.verdict = match noted {
            Ok(Noted::Known(first)) => {
                finding.key =
                    FlowKey { addresses: part.addresses, ports: first.ports, protocol: first.protocol };
                finding.hash = table.hash(&finding.key);
                table.prefetch(finding.hash);
                finding.owner = steer::owner(&finding.key, rules).unwrap_or(me);
                // While owners change this worker may have the flow though another one is asked first (steer).
                let is_known = || table.find(finding.hash, &finding.key) != EntryIndex::NONE;
                // Where it came by the worker at which they meet, the flow is this one's.
                if first.protocol == First::OF_NO_FLOW {
                    Verdict::Punt
                } else if finding.owner != me && meets_at == me && !is_known() {
                    Verdict::Steer
                } else {
                    Verdict::Forward
                }
            }
            Ok(Noted::Waits(place)) if burst.waiting.try_push(place).is_ok() => Verdict::Hold,
            Ok(Noted::Waits(_)) => Verdict::Drop(DropReason::FragmentsFull),
            Err(reason) => Verdict::Drop(reason),
        };
    }
}

/// Notes a fragment, but for one that is all of its datagram (RFC 6946).
fn note(part: &Part, table: &FlowTable, fragments: &mut Fragments, now: Millis) -> Result<Noted, DropReason> {
    match part.first {
        Some(first) if part.fragment.is_last => Ok(Noted::Known(first)),
        first => fragments.note((&part.datagram, table.hash(&part.datagram)), part.fragment, first, now),
    }
}

/// Gives the fragments of a burst that go on from an address of the director's (FullNAT to backends, SNAT) an
/// identification of its own; drops those whose checksum the first one could not move. IPv6's identifications have 32 bits, which senders choose so that they hardly meet (RFC 7739).
#[cold]
pub fn renumber<P: PacketBuf>(
    burst: &mut Burst<P>,
    (table, fragments): (&FlowTable, &mut Fragments),
    identifications: &mut Identifications,
) {
    for (packet, finding) in burst.packets.iter_mut().zip(&mut burst.findings) {
        if finding.verdict == Verdict::Forward && is_sctp_of_pair(finding, table) && is_part(packet.data()) {
            finding.verdict = Verdict::Drop(DropReason::FragmentSctp);
        }
        if finding.verdict != Verdict::Forward || finding.shape.is_v6 || !changes_source(finding.entry, table)
        {
            continue;
        }
        let header =
            packet.data_mut().get_mut(finding.shape.l3_at.into()..).and_then(|ip| ip.first_chunk_mut());
        let Some(header) = header else { continue };
        let view = Ipv4(header);
        if !view.is_fragment() {
            continue;
        }
        let datagram = datagram_key(view.addresses().into(), view.identification().into(), view.protocol());
        let of_datagram = (&datagram, table.hash(&datagram));
        let given = fragments.identification(of_datagram, || identifications.next_of_ipv4());
        if let Some(identification) = given {
            Ipv4Mut(header).set_identification(identification);
        }
    }
}

/// Whether it is an SCTP packet whose l4_ports may change.
fn is_sctp_of_pair(finding: &Finding, table: &FlowTable) -> bool {
    finding.key.protocol == PROTOCOL_SCTP && table.entry(finding.entry).is_some_and(Entry::is_paired)
}

/// Whether there is more of the datagram in other packets.
fn is_part(data: &[u8]) -> bool {
    read(data).is_ok_and(|part| !(part.fragment.is_first() && part.fragment.is_last))
}

/// Whether packets of the flow go to a backend from another address than the client's.
fn changes_source(index: EntryIndex, table: &FlowTable) -> bool {
    let is_to_backend = |entry: &&Entry| entry.rewrite == Rewrite::FullnatToBackend;
    let (Some(entry), Some(back)) = (table.entry(index).filter(is_to_backend), table.entry(index.peer()))
    else {
        return false;
    };
    entry.key().source() != back.key().destination()
}

/// Notes which backend got the datagram whose first fragment `data` is, of a service that keeps no flows.
#[cold]
pub(super) fn remember(data: &[u8], backend: BackendIndex, state: &mut LineState) {
    if let Ok(part) = read(data)
        && part.first.is_some()
        && !part.fragment.is_last
    {
        let hash = state.table.hash(&part.datagram);
        state.fragments.set_backend((&part.datagram, hash), backend);
    }
}

/// Which one that was, for a later fragment.
#[cold]
pub(super) fn recall(data: &[u8], state: &LineState) -> Option<BackendIndex> {
    let part = read(data).ok()?;
    state.fragments.backend((&part.datagram, state.table.hash(&part.datagram)))
}

/// The worker at which the fragments of a datagram meet that `data` is of, if it is one.
#[cold]
pub(super) fn met_at(data: &[u8], worker_count: u16) -> Option<WorkerIndex> {
    let Part { fragment, shape, datagram, .. } = read(data).ok()?;
    // IPv6 has fragments that are all of their datagram.
    let is_packet = fragment.is_first() && fragment.is_last && !shape.is_v6;
    (!is_packet).then(|| meeting_worker(&datagram, worker_count))
}

/// The worker at which the fragments of a datagram meet.
fn meeting_worker(datagram: &FlowKey, worker_count: u16) -> WorkerIndex {
    let identification = u64::from(datagram.ports.word()) << 8 | u64::from(datagram.protocol);
    let hash = match datagram.addresses {
        Addresses::V4(pair) => cpu::crc32c_u64(0, pair.word()),
        Addresses::V6(pair) => pair.words().into_iter().fold(0, cpu::crc32c_u64),
    };
    let hash = u64::from(cpu::crc32c_u64(hash, identification));
    WorkerIndex(((hash * u64::from(worker_count.max(1))) >> 32) as u16)
}

/// Whether services take all of this protocol.
pub(super) const fn is_balanced(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP)
}

/// Reads a fragment, whose lengths parse found to be within the frame.
fn read(data: &[u8]) -> Result<Part, DropReason> {
    let (link, packet) = data.split_first_chunk().ok_or(DropReason::Truncated)?;
    if Ethernet(link).ethertype() == ETHERTYPE_IPV6 { read_ipv6(packet) } else { read_ipv4(packet) }
}

fn read_ipv4(packet: &[u8]) -> Result<Part, DropReason> {
    let header = Ipv4(packet.first_chunk().ok_or(DropReason::Truncated)?);
    let (header_len, total_len) = (header.header_len(), header.total_len());
    let fragment =
        Fragment::of_ipv4(header, total_len.saturating_sub(header_len)).ok_or(DropReason::FragmentLength)?;
    let (addresses, protocol) = (header.addresses().into(), header.protocol());
    let datagram = datagram_key(addresses, header.identification().into(), protocol);
    let shape = Shape {
        l3_at: ethernet::HEADER_LEN as u16,
        ip_len: total_len as u16,
        is_v6: false,
        ..Shape::default()
    };
    let part = Part { datagram, addresses, fragment, first: None, shape };
    part.with_l4(packet, header_len, protocol)
}

fn read_ipv6(packet: &[u8]) -> Result<Part, DropReason> {
    let (header, payload) = packet.split_first_chunk().ok_or(DropReason::Truncated)?;
    let header = Ipv6(header);
    let Upper::Fragment { at } = ipv6::walk(header.next_header(), payload) else {
        return Err(DropReason::Truncated);
    };
    let (fragment_header, behind) = payload
        .get(at..)
        .and_then(|rest| rest.split_first_chunk::<FRAGMENT_HEADER_LEN>())
        .ok_or(DropReason::Truncated)?;
    let len = header.payload_len().checked_sub(at + FRAGMENT_HEADER_LEN).ok_or(DropReason::Ipv6Length)?;
    let fragment = Fragment::of_ipv6(fragment_header, len).ok_or(DropReason::FragmentLength)?;
    let addresses = header.addresses().into();
    let datagram = datagram_key(addresses, identification(fragment_header), FRAGMENT);
    let ip_len = ipv6::HEADER_LEN + header.payload_len();
    let shape =
        Shape { l3_at: ethernet::HEADER_LEN as u16, ip_len: ip_len as u16, is_v6: true, ..Shape::default() };
    let part = Part { datagram, addresses, fragment, first: None, shape };
    let next_header = fragment_header[0];
    if !fragment.is_first() {
        return part.with_l4(packet, 0, next_header);
    }
    match ipv6::walk(next_header, behind) {
        Upper::Protocol { protocol, at: further } => {
            let l4_at = ipv6::HEADER_LEN + at + FRAGMENT_HEADER_LEN + further;
            part.with_l4(packet, l4_at, protocol)
        }
        Upper::Fragment { .. } => Err(DropReason::Ipv6Extensions),
        // All headers belong into the first fragment (RFC 7112).
        Upper::Truncated => Err(DropReason::FragmentTiny),
        Upper::TooMany => Err(DropReason::Ipv6Extensions),
    }
}

impl Part {
    /// Adds what the L4 header says, which begins at `l4_at` in the packet when this is the first fragment.
    fn with_l4(mut self, packet: &[u8], l4_at: usize, protocol: u8) -> Result<Self, DropReason> {
        if !self.fragment.is_first() {
            let is_in_header = usize::from(self.fragment.offset) < l4_header_len_min(protocol);
            return if is_in_header { Err(DropReason::FragmentTiny) } else { Ok(self) };
        }
        let l4_len = usize::from(self.shape.ip_len).saturating_sub(l4_at);
        let l4 = packet.get(l4_at..).ok_or(DropReason::Truncated)?;
        let is_v6 = self.shape.is_v6;
        let is_echo = protocol == echo::protocol_of(is_v6)
            && l4.first().is_some_and(|kind| l4_len > 0 && echo::is_echo(*kind, is_v6));
        if !is_balanced(protocol) && !is_echo {
            self.first = Some(First { ports: PortPair::default(), protocol: First::OF_NO_FLOW });
            return Ok(self);
        }
        let (ports, tcp_flags) = first_of_l4(l4, l4_len, protocol)?;
        self.first = Some(First { ports, protocol });
        self.shape.tcp_flags = tcp_flags;
        // Within the first segment, which is below 2^16 bytes.
        self.shape.l4_at = (ethernet::HEADER_LEN + l4_at) as u16;
        Ok(self)
    }
}

/// Bytes of the header that a first fragment must have.
const fn l4_header_len_min(protocol: u8) -> usize {
    match protocol {
        PROTOCOL_TCP => tcp::HEADER_LEN,
        PROTOCOL_SCTP => sctp::HEADER_AND_CHUNK_LEN,
        _ => udp::HEADER_LEN,
    }
}

/// The l4_ports and control bits of a first fragment with `l4_len` bytes of L4, which must have the whole header: what
/// the TCP or UDP length claims lies in later ones.
fn first_of_l4(l4: &[u8], l4_len: usize, protocol: u8) -> Result<(PortPair, TcpFlags), DropReason> {
    let header_len_min = l4_header_len_min(protocol);
    let header_len = match l4.get(tcp::DATA_OFFSET_AT) {
        Some(byte) if protocol == PROTOCOL_TCP => usize::from(byte >> 4) * 4,
        _ => header_len_min,
    };
    if l4_len < header_len_min || l4_len < header_len {
        return Err(DropReason::FragmentTiny);
    }
    if header_len < header_len_min {
        return Err(DropReason::TcpHeader);
    }
    let ports = if echo::is_icmp(protocol) {
        echo::ports(l4.first_chunk().ok_or(DropReason::Truncated)?)
    } else {
        PortPair::from_wire(*l4.first_chunk().ok_or(DropReason::Truncated)?)
    };
    let header = l4.get(..header_len_min).ok_or(DropReason::Truncated)?;
    let flags = match protocol {
        PROTOCOL_TCP => header.get(tcp::FLAGS_AT).map(|bits| TcpFlags(*bits)),
        PROTOCOL_SCTP => header.first_chunk().map(|header| Sctp(header).chunk().as_tcp_flags()),
        _ => None,
    };
    Ok((ports, flags.unwrap_or(TcpFlags(0))))
}
