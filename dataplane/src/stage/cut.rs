//! Fragments on the way out: a packet that is longer than its port's MTU, and may be cut, leaves in parts. Not here: whether
//! it may (see [`super::fit`]), and the fragments that arrive.
//!
//! Read first: RFC 791 section 3.2 (the fragmentation procedure), RFC 8200 section 4.5, RFC 6864 for identifications. The
//! first part stays in the packet's own buffer; the others are copied into buffers of the worker's reserve, as a buffer
//! can lie in one queue only: here, and nowhere else on the line, payload is copied. It is all parts or none.

use arrayvec::ArrayVec;

use crate::device::{Device, Packets};
use crate::index::{WORKERS_MAX, WorkerIndex};
use crate::packet::{self, PacketBuf};
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};

/// Where the IP header begins.
const L3_AT: usize = ethernet::HEADER_LEN;
/// Do not fragment, of the flags of the IPv4 header.
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, likewise.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset of a fragment, in units of eight bytes.
const OFFSET: u16 = 0x1fff;
/// Set in the type of an IPv4 option that every fragment has (RFC 791 section 3.1).
const COPIED: u8 = 0x80;

/// As much as a buffer of the reserve takes (`RTE_MBUF_DEFAULT_DATAROOM`), less its Ethernet header and two VLAN tags.
const PART_LEN_MAX: usize = 2_048 - L3_AT - 8;

/// The identifications one worker gives to packets of the director's own: no other worker gives the same ones.
#[derive(Clone, Copy, Debug)]
pub struct Identifications {
    worker: u16,
    /// Workers that share those of IPv4, which are few: each gives every so manieth.
    worker_count: u16,
    latest: u32,
}

impl Identifications {
    /// Bits of an IPv6 identification that tell the worker.
    const WORKER_BITS: u32 = 6;

    /// Of worker `worker`; `seed` is where it starts.
    pub fn new(worker: WorkerIndex, seed: u64) -> Self {
        Self { worker: worker.0, worker_count: WORKERS_MAX as u16, latest: seed as u32 }
    }

    /// Of so many workers, this one among them.
    pub fn share_among(&mut self, worker_count: u16) {
        self.worker_count = worker_count.max(self.worker + 1);
    }

    /// The next one of IPv4. Zero stands for none, and is the next but one.
    pub fn next_of_ipv4(&mut self) -> u16 {
        match self.step_of_ipv4() {
            0 => self.step_of_ipv4(),
            identification => identification,
        }
    }

    fn step_of_ipv4(&mut self) -> u16 {
        self.latest = self.latest.wrapping_add(1);
        let workers = u32::from(self.worker_count);
        // Below 2^16: the remainder is at most 2^16 / workers - 1, the worker below their number.
        (self.latest % (0x1_0000 / workers) * workers + u32::from(self.worker)) as u16
    }

    /// The next one of IPv6.
    fn next_of_ipv6(&mut self) -> u32 {
        self.latest = self.latest.wrapping_add(1);
        u32::from(self.worker) << (32 - Self::WORKER_BITS) | self.latest.reverse_bits() >> Self::WORKER_BITS
    }
}

const _: () = assert!(WORKERS_MAX <= 1 << Identifications::WORKER_BITS);

/// Cuts a packet, ready to leave, into parts of at most `mtu` bytes of IP, in order.
pub fn cut<D: Device>(
    mut packet: D::Packet,
    mtu: u16,
    identifications: &mut Identifications,
    device: &mut D,
) -> Result<Packets<D::Packet>, DropReason> {
    let link = Ethernet(packet.data().first_chunk().ok_or(DropReason::Truncated)?);
    let plan = match link.ethertype() {
        ETHERTYPE_IPV4 => prepare4(&mut packet, mtu, identifications)?,
        ETHERTYPE_IPV6 => prepare6(&mut packet, mtu, identifications)?,
        _ => return Err(DropReason::TooBig),
    };
    let data = packet.data().get(plan.first_header_len..).ok_or(DropReason::Truncated)?;
    let mut parts = Packets::new();
    // The first part takes its place when the others are made.
    for (number, part) in data.chunks(plan.step).enumerate().skip(1) {
        let mut made = device.reserve().ok_or(DropReason::ReserveEmpty)?;
        let len = plan.later_header.len() + part.len();
        let bytes = u16::try_from(len).ok().and_then(|len| made.append(len)).ok_or(DropReason::TooBig)?;
        let (header, payload) =
            bytes.split_at_mut_checked(plan.later_header.len()).ok_or(DropReason::TooBig)?;
        header.copy_from_slice(&plan.later_header);
        payload.copy_from_slice(part);
        let is_last = (number + 1) * plan.step >= data.len();
        plan.number(header, number * plan.step, part.len(), is_last);
        made.set_port(packet.port());
        parts.try_push(made).map_err(|_| DropReason::TooBig)?;
    }
    let first_len = plan.step.min(data.len());
    let is_only = first_len == data.len();
    if !packet.truncate(plan.first_header_len + first_len) {
        return Err(DropReason::Truncated);
    }
    let header = packet.data_mut().get_mut(..plan.first_header_len).ok_or(DropReason::Truncated)?;
    plan.number(header, 0, first_len, is_only);
    // Few elements, and moved once a packet that did not fit.
    parts.try_insert(0, packet).map_err(|_| DropReason::TooBig)?;
    Ok(parts)
}

/// How a packet is cut.
struct Plan {
    is_v6: bool,
    /// Bytes in front of the data of the first part: Ethernet and IP headers.
    first_header_len: usize,
    /// The same bytes of the later parts, but for what [`Self::number`] writes.
    later_header: ArrayVec<u8, HEADERS_LEN_MAX>,
    /// Bytes of data in each part but the last, a multiple of eight.
    step: usize,
    /// Where the packet's own data begins, if it is a fragment itself, in units of eight bytes.
    offset: u16,
    /// Whether more fragments follow the packet, if it is one itself.
    has_more: bool,
    /// What the words of the IPv4 header sum up to, ones where its checksum is right.
    sum: u16,
}

/// Of Ethernet and the longest IPv4 header; IPv6 with a fragment header is shorter.
const HEADERS_LEN_MAX: usize = L3_AT + ipv4::HEADER_LEN_MAX;

impl Plan {
    /// Writes what tells one part from another: length, offset, and whether more follow; and IPv4's checksum, which
    /// is as wrong as the packet's was.
    fn number(&self, header: &mut [u8], from: usize, len: usize, is_last: bool) {
        let Some(ip) = header.get_mut(L3_AT..) else { return };
        // Both fit: the whole packet is shorter than 2^16.
        let offset = self.offset + (from / 8) as u16;
        let has_more = !is_last || self.has_more;
        if self.is_v6 {
            let payload_len = (ip.len() - ipv6::HEADER_LEN + len) as u16;
            put(ip, 4, payload_len);
            put(ip, ipv6::HEADER_LEN + 2, offset << 3 | u16::from(has_more));
            return;
        }
        put(ip, 2, (ip.len() + len) as u16);
        put(ip, 6, offset | if has_more { MORE_FRAGMENTS } else { 0 });
        put(ip, 10, 0);
        let sum = checksum::combine(self.sum, !checksum::sum(ip));
        put(ip, 10, u16::from_be_bytes(sum.to_ne_bytes()));
    }
}

/// Writes two bytes at `at`, if there are so many.
fn put(header: &mut [u8], at: usize, number: u16) {
    if let Some(place) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = number.to_be_bytes();
    }
}

fn prepare4<P: PacketBuf>(
    packet: &mut P,
    mtu: u16,
    identifications: &mut Identifications,
) -> Result<Plan, DropReason> {
    let ip = packet.data().get(L3_AT..).ok_or(DropReason::Truncated)?;
    let header = Ipv4(ip.first_chunk().ok_or(DropReason::Truncated)?);
    let (header_len, total_len) = (header.header_len(), header.total_len());
    let fragment = u16::from_be_bytes([header.0[6], header.0[7]]);
    let first_header_len = L3_AT + header_len;
    take_whole(packet, L3_AT + total_len)?;
    let headers = packet.data_mut().get_mut(..first_header_len).ok_or(DropReason::Truncated)?;
    let ip = headers.get_mut(L3_AT..).ok_or(DropReason::Truncated)?;
    let sum = checksum::sum(ip);
    let is_whole = fragment & (MORE_FRAGMENTS | OFFSET) == 0;
    if fragment & DONT_FRAGMENT != 0 || is_whole && ip.get(4..6) == Some(&[0; 2]) {
        // A header of the director's own has no identification yet (RFC 6864 section 4).
        put(ip, 4, identifications.next_of_ipv4());
    }
    let (link, ip) = headers.split_at_checked(L3_AT).ok_or(DropReason::Truncated)?;
    Ok(Plan {
        is_v6: false,
        first_header_len,
        later_header: later_header4(link, ip)?,
        step: step(mtu, header_len)?,
        offset: fragment & OFFSET,
        has_more: fragment & MORE_FRAGMENTS != 0,
        sum,
    })
}

/// The headers of a later part: the same, but of the options only those that every fragment has.
fn later_header4(link: &[u8], ip: &[u8]) -> Result<ArrayVec<u8, HEADERS_LEN_MAX>, DropReason> {
    let mut later = ArrayVec::new();
    let (fixed, mut options) = ip.split_at_checked(ipv4::HEADER_LEN).ok_or(DropReason::Truncated)?;
    let fits = |written: Result<(), _>| written.map_err(|_: arrayvec::CapacityError| DropReason::TooBig);
    fits(later.try_extend_from_slice(link))?;
    fits(later.try_extend_from_slice(fixed))?;
    // End of the list, or no operation: one byte each. An option that lies about its length ends the list.
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest.first()) {
            (0, _) => break,
            (1, _) => 1,
            (_, Some(len)) if (2..=options.len()).contains(&usize::from(*len)) => usize::from(*len),
            _ => break,
        };
        let (option, rest) = options.split_at_checked(len).ok_or(DropReason::Truncated)?;
        if kind & COPIED != 0 {
            fits(later.try_extend_from_slice(option))?;
        }
        options = rest;
    }
    while !(later.len() - link.len()).is_multiple_of(4) {
        fits(later.try_push(0).map_err(|_| arrayvec::CapacityError::new(())))?;
    }
    let words = ((later.len() - link.len()) / 4) as u8;
    if let Some(first) = later.get_mut(link.len()) {
        *first = 0x40 | words;
    }
    Ok(later)
}

fn prepare6<P: PacketBuf>(
    packet: &mut P,
    mtu: u16,
    identifications: &mut Identifications,
) -> Result<Plan, DropReason> {
    let ip = packet.data().get(L3_AT..).ok_or(DropReason::Truncated)?;
    let header = Ipv6(ip.first_chunk().ok_or(DropReason::Truncated)?);
    let (next_header, payload_len) = (header.next_header(), header.payload_len());
    // Only what the director itself has sent may be cut on its way (RFC 8200 section 5), and that has none of these.
    if matches!(next_header, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT) {
        return Err(DropReason::TooBig);
    }
    take_whole(packet, L3_AT + ipv6::HEADER_LEN + payload_len)?;
    let [a, b, c, d] = identifications.next_of_ipv6().to_be_bytes();
    packet::insert(packet, L3_AT + ipv6::HEADER_LEN, &[next_header, 0, 0, 0, a, b, c, d])?;
    if let Some(place) = packet.data_mut().get_mut(L3_AT + 6) {
        *place = ipv6::FRAGMENT;
    }
    let header_len = ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN;
    let first_header_len = L3_AT + header_len;
    let headers = packet.data().get(..first_header_len).ok_or(DropReason::Truncated)?;
    Ok(Plan {
        is_v6: true,
        first_header_len,
        later_header: headers.iter().copied().collect(),
        step: step(mtu, header_len)?,
        offset: 0,
        has_more: false,
        sum: 0,
    })
}

/// Bytes of data in a part of at most `mtu` bytes.
fn step(mtu: u16, header_len: usize) -> Result<usize, DropReason> {
    let len = usize::from(mtu).min(PART_LEN_MAX);
    let step = len.checked_sub(header_len).ok_or(DropReason::TooBig)? & !7;
    if step == 0 { Err(DropReason::TooBig) } else { Ok(step) }
}

/// Cuts link padding off. What lies in more than one segment of its buffer cannot be read here: `docs/rules.md` says so.
fn take_whole<P: PacketBuf>(packet: &mut P, len: usize) -> Result<(), DropReason> {
    if !packet.truncate(len) || packet.data().len() != len {
        return Err(DropReason::TooBig);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{IpFragOffset, NetSlice, SlicedPacket};
    use proptest::prelude::*;

    use super::*;
    use crate::index::PortIndex;
    use crate::memory::{MemoryDevice, MemoryPacket};

    fn identifications() -> Identifications {
        Identifications::new(WorkerIndex(3), 7)
    }

    fn frame4(options: &[u8], dont_fragment: bool, data_len: usize) -> Vec<u8> {
        let mut header = etherparse::Ipv4Header::new(
            data_len as u16,
            64,
            etherparse::IpNumber::EXPERIMENTAL_AND_TESTING_0,
            [198, 51, 100, 7],
            [10, 0, 0, 11],
        )
        .unwrap();
        header.options = options.try_into().unwrap();
        header.set_payload_len(data_len).unwrap();
        (header.identification, header.dont_fragment) = (0x1234, dont_fragment);
        header.header_checksum = header.calc_header_checksum();
        let mut frame = [[2; 6], [4; 6]].concat();
        frame.extend([8, 0]);
        frame.extend(header.to_bytes());
        frame.extend((0..data_len).map(|n| (n * 7 % 251) as u8));
        frame
    }

    fn frame6(data_len: usize) -> Vec<u8> {
        let addresses = crate::wire::AddressPair6::new([0x20; 16].into(), [0xfd; 16].into());
        let mut frame = [[2; 6], [4; 6]].concat();
        frame.extend([0x86, 0xdd]);
        frame.extend(ipv6::header(0, data_len as u16, 253, addresses));
        frame.extend((0..data_len).map(|n| (n * 7 % 251) as u8));
        frame
    }

    fn cut_to(frame: Vec<u8>, mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut device = MemoryDevice::with_ports(1);
        let packet = MemoryPacket::new(frame, PortIndex(0));
        let parts = cut(packet, mtu, &mut identifications(), &mut device)?;
        Ok(parts.iter().map(|part| part.data().to_vec()).collect())
    }

    /// Offset, whether more follow, identification and data, from an independent decoder.
    fn decoded(part: &[u8]) -> (IpFragOffset, bool, u32, Vec<u8>) {
        let sliced = SlicedPacket::from_ethernet(part).unwrap();
        match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len) + L3_AT, part.len());
                assert!(!header.dont_fragment);
                let data = ip.payload().payload.to_vec();
                (header.fragment_offset, header.more_fragments, header.identification.into(), data)
            }
            NetSlice::Ipv6(ip) => {
                assert_eq!(usize::from(ip.header().payload_length()) + L3_AT + 40, part.len());
                let (headers, _, data) =
                    etherparse::Ipv6Extensions::from_slice(ip.header().next_header(), &part[54..]).unwrap();
                let fragment = headers.fragment.unwrap();
                (fragment.fragment_offset, fragment.more_fragments, fragment.identification, data.to_vec())
            }
            NetSlice::Arp(_) => panic!("ARP"),
        }
    }

    fn assert_whole(parts: &[Vec<u8>], mtu: usize, data: &[u8]) {
        let mut whole = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let (offset, has_more, identification, data) = decoded(part);
            assert_eq!(usize::from(offset.value()) * 8, whole.len());
            assert_eq!(has_more, number + 1 < parts.len());
            assert_eq!(identification, decoded(&parts[0]).2);
            assert!(part.len() <= L3_AT + mtu);
            whole.extend(data);
        }
        assert_eq!(whole, data);
    }

    proptest! {
        #[test]
        fn the_parts_make_up_the_packet(data_len in 0usize..1_900, mtu in 300u16..1_500, is_v6 in any::<bool>(), df in any::<bool>()) {
            let (frame, header_len) = if is_v6 { (frame6(data_len), 54) } else { (frame4(&[], df, data_len), 34) };
            let parts = cut_to(frame.clone(), mtu).unwrap();
            assert_whole(&parts, mtu.into(), &frame[header_len..]);
            prop_assert!(parts.iter().all(|part| part[..12] == frame[..12]));
        }

        #[test]
        fn no_bytes_upset_it(frame in proptest::collection::vec(any::<u8>(), 0..120), is_v6 in any::<bool>(), mtu in 0u16..200) {
            let mut frame = frame;
            if let Some(ethertype) = frame.get_mut(12..14) {
                ethertype.copy_from_slice(if is_v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            let _ = cut_to(frame, mtu);
        }
    }

    #[test]
    fn a_fragment_is_cut_further() {
        let mut frame = frame4(&[], false, 1_000);
        let (offset, has_more) = (100_u16, true);
        frame[20..22].copy_from_slice(&(offset | MORE_FRAGMENTS).to_be_bytes());
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        let parts = cut_to(frame, 500).unwrap();
        let found: Vec<_> =
            parts.iter().map(|part| decoded(part)).map(|part| (part.0.value(), part.1)).collect();
        assert_eq!(found, [(100, true), (160, true), (220, has_more)]);
    }

    #[test]
    fn later_parts_have_the_options_that_are_copied() {
        // Of UOA, which is not, a no operation, a copied option of four bytes, and padding.
        let options = [31, 8, 0, 53, 198, 51, 100, 7, 1, 0x94, 4, 0, 0, 0, 0, 0];
        let frame = frame4(&options, false, 900);
        let parts = cut_to(frame.clone(), 500).unwrap();
        assert_whole(&parts, 500, &frame[50..]);
        assert_eq!((parts[0][14], &parts[0][34..50]), (0x49, &options[..]));
        assert_eq!((parts[1][14], &parts[1][34..38]), (0x46, &[0x94, 4, 0, 0][..]));
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong_as_it_was() {
        let mut frame = frame4(&[], false, 900);
        frame[24] ^= 0x55;
        let wrong = checksum::sum(&frame[14..34]);
        for part in cut_to(frame, 500).unwrap() {
            assert_eq!(checksum::sum(&part[14..34]), wrong);
        }
    }

    #[test]
    fn with_too_few_buffers_nothing_leaves() {
        let mut device = MemoryDevice { reserve_room: Some(1), ..MemoryDevice::with_ports(1) };
        let packet = MemoryPacket::new(frame4(&[], false, 1_400), PortIndex(0));
        let cut = cut(packet, 600, &mut identifications(), &mut device).map(|parts| parts.len());
        assert_eq!(cut, Err(DropReason::ReserveEmpty));
    }

    #[test]
    fn identifications_of_two_workers_never_meet() {
        let (mut one, mut two) =
            (Identifications::new(WorkerIndex(0), 1), Identifications::new(WorkerIndex(63), 1));
        let of_one: HashSet<_> = (0..1_000).map(|_| one.next_of_ipv6()).collect();
        assert_eq!(of_one.len(), 1_000, "each its own");
        assert!((0..1_000).all(|_| !of_one.contains(&two.next_of_ipv6())));
        let mut seen = HashSet::new();
        for worker in 0..3 {
            let mut identifications = Identifications::new(WorkerIndex(worker), 0xffff_0000 + 77);
            identifications.share_among(3);
            // All there are but zero.
            assert!((0..0x1_0000 / 3 - 1).all(|_| seen.insert(identifications.next_of_ipv4())));
        }
        assert!(!seen.contains(&0));
    }
}
