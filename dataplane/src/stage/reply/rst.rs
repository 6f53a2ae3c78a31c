//! A segment turned into the RST that refuses it. Read first: RFC 9293 sections 3.5.2 and 3.10.7.1.

use super::back;
use crate::burst::Shape;
use crate::flow::FlowKey;
use crate::packet::PacketBuf;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use crate::wire::ipv4::{self, PROTOCOL_TCP};
use crate::wire::tcp::{self, Tcp, TcpFlags};
use crate::wire::{Addresses, ipv6};

/// The least frame Ethernet carries, without its FCS (IEEE 802.3 clause 4A.4.2).
const FRAME_LEN_MIN: usize = 60;

/// A RST of flow `key`.
pub(super) struct Rst {
    pub(super) key: FlowKey,
    pub(super) sequence: u32,
    pub(super) acknowledgment: Option<u32>,
}

impl Rst {
    /// Bytes of its frame: Ethernet, IP and TCP headers without options, at least what Ethernet carries.
    pub(super) fn frame_len(&self) -> usize {
        (ethernet::HEADER_LEN + self.ip_header_len() + tcp::HEADER_LEN).max(FRAME_LEN_MIN)
    }

    /// Where its headers lie.
    pub(super) fn shape(&self) -> Shape {
        let l4_at = ethernet::HEADER_LEN + self.ip_header_len();
        Shape {
            l3_at: ethernet::HEADER_LEN as u16,
            l4_at: l4_at as u16,
            ip_len: (self.ip_header_len() + tcp::HEADER_LEN) as u16,
            tcp_flags: TcpFlags::RST,
            is_v6: self.key.addresses.is_v6(),
        }
    }

    fn ip_header_len(&self) -> usize {
        if self.key.addresses.is_v6() { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN }
    }

    /// Writes the frame, which has its length; `macs` are destination and source. What is left behind the RST is zeros:
    /// it must not be the data that was there.
    pub(super) fn write(&self, frame: &mut [u8], macs: [u8; 12]) -> Result<(), DropReason> {
        const IP_LEN: usize = ipv4::HEADER_LEN + tcp::HEADER_LEN;
        let Self { key, sequence, acknowledgment } = *self;
        let (link, rest) =
            frame.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>().ok_or(DropReason::Truncated)?;
        let (ip, rest) = rest.split_at_mut_checked(self.ip_header_len()).ok_or(DropReason::Truncated)?;
        let (tcp, padding) = rest.split_first_chunk_mut().ok_or(DropReason::Truncated)?;
        let ethertype = match key.addresses {
            Addresses::V4(pair) => {
                ip.copy_from_slice(&ipv4::header(0, IP_LEN as u16, PROTOCOL_TCP, pair));
                ETHERTYPE_IPV4
            }
            Addresses::V6(pair) => {
                ip.copy_from_slice(&ipv6::header(0, tcp::HEADER_LEN as u16, PROTOCOL_TCP, pair));
                ETHERTYPE_IPV6
            }
        };
        let ([a, b, c, d, e, f, g, h, i, j, k, l], [m, n]) = (macs, ethertype.to_be_bytes());
        *link = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
        *tcp = tcp::reset(key.addresses, key.ports, sequence, acknowledgment);
        padding.fill(0);
        Ok(())
    }
}

/// Turns the segment of flow `key` around.
pub(super) fn turn_around<P: PacketBuf>(
    packet: &mut P,
    shape: Shape,
    key: &FlowKey,
) -> Result<(), DropReason> {
    let data = packet.data();
    let macs = back(Ethernet(data.first_chunk().ok_or(DropReason::Truncated)?));
    let l4_at = usize::from(shape.l4_at);
    let segment = data.get(l4_at..).and_then(|l4| l4.first_chunk()).ok_or(DropReason::Truncated)?;
    let (sequence, acknowledgment) = numbers(Tcp(segment), shape.l4_len());
    let rst = Rst { key: key.reversed(), sequence, acknowledgment };
    // Every segment is at least as long as a RST, if not as the least frame; a longer one is cut.
    let len = data.len().min(rst.frame_len());
    if !packet.truncate(len) {
        return Err(DropReason::Truncated);
    }
    rst.write(packet.data_mut(), *macs.first_chunk().ok_or(DropReason::Truncated)?)
}

/// Sequence and, where it has one, acknowledgment number of the RST for a segment of `l4_len` bytes.
fn numbers(segment: Tcp<'_>, l4_len: usize) -> (u32, Option<u32>) {
    if segment.flags().has(TcpFlags::ACK) {
        return (segment.acknowledgment(), None);
    }
    (0, Some(segment.sequence().wrapping_add(segment.sequence_len(l4_len))))
}
