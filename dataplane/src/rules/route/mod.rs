//! What overrules a service's scheduler: a server ID in the packet, and the prefix that its client's address has.
//!
//! A server ID names the backend that a connection is with already, so it goes before everything else: before the flow table
//! (a QUIC client that got its address from somebody else's NAT entry), persistence and the scheduler. A prefix says where a
//! new connection goes, so it goes before persistence and the scheduler only.
//!
//! Built by control. Which backends take what is not decided here: see `stage/admit/route.rs`.

mod ids;
mod prefix;
mod quic_lb;
mod server_ids;

use std::net::IpAddr;
use std::sync::Arc;

pub use prefix::{PrefixTable, TARGETS_MAX, Target};
pub use quic_lb::{
    CONFIGURATIONS_MAX, Configuration, LengthError, NONCE_LEN_MIN, PLAINTEXT_LEN_MAX, QuicLb,
    SERVER_ID_LEN_MAX,
};
pub use server_ids::ServerIds;

use crate::index::BackendIndex;
use crate::wire::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::quic::Quic;
use crate::wire::tcp::TcpFlags;
use crate::wire::udp;

/// What a service's rules say overrules its scheduler.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Where datagrams have a server ID.
    pub datagrams: Option<DatagramIds>,
    /// The kind of the TCP option that has a server ID; segments with SYN have none that counts.
    pub tcp_option: Option<u8>,
    /// Whose server ID it is.
    pub server_ids: ServerIds,
    /// Where clients go by their addresses.
    pub prefixes: Option<PrefixRoutes>,
}

/// Where datagrams have a server ID.
#[derive(Clone, Debug)]
pub enum DatagramIds {
    /// In QUIC connection IDs, after draft-ietf-quic-load-balancers.
    QuicLb(Box<QuicLb>),
    /// In QUIC connection IDs as mvfst makes them and Katran reads them.
    Mvfst,
    /// So many bytes at a fixed place of the payload, the highest first; 0 names nobody.
    At {
        /// Bytes of payload before it.
        offset: u16,
        /// Its bytes, 1 to 8.
        len: u8,
    },
}

/// Where clients go by their addresses.
#[derive(Clone, Debug)]
pub struct PrefixRoutes {
    /// The prefixes: shared over rulesets, as backends come and go and a million prefixes stay.
    pub table: Arc<PrefixTable>,
    /// The backend of each target; `None` where it is not the service's now.
    pub targets: Box<[Option<BackendIndex>]>,
}

/// Whom a packet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Nobody: it has no server ID, or none that can be read.
    Nobody,
    /// A server ID that no backend has.
    Stranger,
    /// This backend, whatever its state.
    Backend(BackendIndex),
}

impl Routes {
    /// Whether packets may name backends.
    pub fn has_server_ids(&self) -> bool {
        self.datagrams.is_some() || self.tcp_option.is_some()
    }

    /// A trace of the server ID of a datagram, the same for the same ID and `seed` and hardly for another, where it costs less
    /// than to read the ID; never 0.
    pub fn trace(&self, seed: u32, l4: &[u8]) -> Option<u32> {
        let Some(DatagramIds::QuicLb(quic_lb)) = &self.datagrams else { return None };
        let Quic::Short { destination_and_rest } = Quic::parse(payload(l4)?)? else { return None };
        Some(cpu::crc32c(seed, quic_lb.encrypted(destination_and_rest)?).max(1))
    }

    /// Whom a packet names. `l4` is its TCP or UDP header and what follows, as far as its IP header claims and its first
    /// segment has it.
    pub fn named(&self, protocol: u8, flags: TcpFlags, l4: &[u8]) -> Named {
        let id = match protocol {
            PROTOCOL_UDP => self.datagrams.as_ref().and_then(|ids| ids.server_id(payload(l4)?)),
            PROTOCOL_TCP if !flags.has(TcpFlags::SYN) => {
                self.tcp_option.and_then(|kind| ids::of_tcp_option(l4, kind))
            }
            _ => None,
        };
        match id.map(|id| self.server_ids.backend(id)) {
            None => Named::Nobody,
            Some(None) => Named::Stranger,
            Some(Some(backend)) => Named::Backend(backend),
        }
    }
}

impl DatagramIds {
    fn server_id(&self, payload: &[u8]) -> Option<u128> {
        if let Self::At { offset, len } = *self {
            return ids::of_datagram(payload, offset.into(), len.into());
        }
        let header = Quic::parse(payload)?;
        // A client's random bytes would name somebody now and then, and by choosing them it would choose its server.
        if header.may_be_of_clients_making() {
            return None;
        }
        let id = header.destination();
        match self {
            Self::QuicLb(quic_lb) => {
                quic_lb.server_id(id, matches!(header, Quic::Long { .. }).then_some(id.len()))
            }
            Self::Mvfst => ids::of_mvfst(id),
            Self::At { .. } => None,
        }
    }
}

impl PrefixRoutes {
    /// The backend that clients with `address` go to, whatever its state.
    pub fn backend(&self, address: IpAddr) -> Option<BackendIndex> {
        *self.targets.get(usize::from(self.table.find(address)?))?
    }
}

/// The payload of a datagram, without what may fill the frame behind it.
fn payload(l4: &[u8]) -> Option<&[u8]> {
    let header: &[u8; udp::HEADER_LEN] = l4.first_chunk()?;
    let len = u16::from_be_bytes([header[udp::LENGTH_AT], header[udp::LENGTH_AT + 1]]);
    let end = l4.len().min(len.into());
    l4.get(udp::HEADER_LEN..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::Prefix;

    const ONE: BackendIndex = BackendIndex(1);

    fn datagram(payload: &[u8]) -> Vec<u8> {
        let header = etherparse::UdpHeader {
            source_port: 1,
            destination_port: 443,
            length: (payload.len() + 8) as u16,
            checksum: 0,
        };
        [&header.to_bytes()[..], payload].concat()
    }

    fn mvfst() -> Routes {
        let server_ids = [(1026, ONE), (197_634, ONE)].into_iter().collect();
        Routes { datagrams: Some(DatagramIds::Mvfst), server_ids, ..Routes::default() }
    }

    fn named(routes: &Routes, payload: &[u8]) -> Named {
        routes.named(PROTOCOL_UDP, TcpFlags(0), &datagram(payload))
    }

    #[test]
    fn katrans_recorded_packets_name_whom_they_named_there() {
        let routes = mvfst();
        let id = |first: u8| [first, 0, 0x83, 4, 5, 6, 7, 0];
        let long = |first: u8| [&[first, 0xfa, 0xce, 0xb0, 1, 8][..], &id(0x41), &[0, 1]].concat();
        assert_eq!(named(&routes, &long(0xcf)), Named::Nobody, "Initial");
        assert_eq!(named(&routes, &long(0xdf)), Named::Nobody, "0-RTT");
        assert_eq!(named(&routes, &long(0xee)), Named::Backend(ONE), "Handshake");
        assert_eq!(named(&routes, &[&[0][..], &id(0x41)].concat()), Named::Backend(ONE), "short header");
        assert_eq!(named(&routes, &[0, 0x41, 0x11, 0, 0, 0, 0]), Named::Stranger);
        assert_eq!(named(&routes, &[0, 0x80, 3, 4, 2, 5, 6, 7, 0]), Named::Backend(ONE), "version 2");
        assert_eq!(named(&routes, &[]), Named::Nobody);
    }

    #[test]
    fn what_fills_the_frame_behind_a_datagram_is_not_read() {
        let routes = mvfst();
        let padded = [&datagram(&[0])[..], &[0x41, 0, 0x83, 4, 5]].concat();
        assert_eq!(routes.named(PROTOCOL_UDP, TcpFlags(0), &padded), Named::Nobody);
    }

    #[test]
    fn a_syn_names_nobody() {
        let server_ids = [(1025, ONE)].into_iter().collect();
        let routes = Routes { tcp_option: Some(0xb7), server_ids, ..Routes::default() };
        let mut header = etherparse::TcpHeader::new(1, 2, 3, 4).to_bytes().to_vec();
        header[12] = 7 << 4;
        header.extend([0xb7, 6, 1, 4, 0, 0, 1, 1]);
        assert_eq!(routes.named(PROTOCOL_TCP, TcpFlags::ACK, &header), Named::Backend(ONE));
        assert_eq!(routes.named(PROTOCOL_TCP, TcpFlags::SYN, &header), Named::Nobody);
        assert_eq!(routes.named(PROTOCOL_UDP, TcpFlags(0), &header), Named::Nobody);
    }

    #[test]
    fn a_prefix_leads_to_a_backend_that_is_there() {
        let prefix = |address: &str, target| (Prefix::new(address.parse::<IpAddr>().unwrap(), 24), target);
        let table = Arc::new(PrefixTable::new([prefix("198.51.100.0", 0), prefix("192.0.2.0", 1)]));
        let routes = PrefixRoutes { table, targets: [Some(ONE), None].into() };
        assert_eq!(routes.backend("198.51.100.7".parse().unwrap()), Some(ONE));
        assert_eq!(routes.backend("192.0.2.7".parse().unwrap()), None, "not the service's now");
        assert_eq!(routes.backend("203.0.113.1".parse().unwrap()), None);
    }
}
