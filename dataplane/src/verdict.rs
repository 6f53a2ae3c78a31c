//! What a stage decided about a packet.

/// The fate of a packet. One byte: the drop reasons fill the niche, so there is no room for another field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves by the port its stage chose.
    Forward,
    /// Belongs to another worker: the same buffer crosses to it over a ring.
    Steer,
    /// Not load-balanced: the kernel twin of the port it came in by gets it, untouched.
    Punt,
    /// A fragment: after parse, one whose flow is to be found out; after that, one that waits for the first of its datagram.
    Hold,
    /// Its sender is told with a TCP RST that there is no such connection: the same buffer, turned around, leaves by the
    /// port it came in by.
    ReplyReset,
    /// Its sender is told with ICMP destination unreachable (port unreachable, of a ping host unreachable) that nobody takes
    /// it; likewise.
    ReplyUnreachable,
    /// Its sender is told with ICMP how long a packet may be to fit (RFC 1191, RFC 8201); likewise, turned around already.
    ReplyTooBig,
    /// Leaves in fragments, by the port that the packet names as its own ([`crate::packet::PacketBuf::port`]).
    ForwardInParts,
    /// An ICMP error about a packet of a tunnel's that this director sent; then made into one about the packet within, which
    /// leaves by the port that it names as its own.
    Relay,
    /// Freed, and counted once under its reason.
    Drop(DropReason),
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

const _: () = assert!(size_of::<Verdict>() == 1);

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped: one drop, one reason, one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in summaries, `status` and metrics: lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// A sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its headers do.
    Truncated = "truncated",
    /// A unicast frame to another station's MAC, seen because the segment flooded it.
    OtherStation = "other_station",
    /// The frame's VLAN tags are not those of the port.
    OtherVlan = "other_vlan",
    /// The port's driver delivered the beginning only: the packet is longer than its buffers.
    CutByDriver = "cut_by_driver",
    /// Its headers lie in several buffers, and the first has no room for them.
    HeadersScattered = "headers_scattered",
    /// The IPv4 version or header length is impossible (RFC 791 section 3.1).
    Ipv4Header = "ipv4_header",
    /// The IPv4 total length exceeds the frame or is shorter than the headers.
    Ipv4Length = "ipv4_length",
    /// The IPv4 header checksum is wrong, of a packet that would leave in IPv6, where nothing would tell (RFC 7915 section 4.1).
    Ipv4Checksum = "ipv4_checksum",
    /// The IPv6 version is impossible (RFC 8200 section 3).
    Ipv6Header = "ipv6_header",
    /// The IPv6 payload length exceeds the frame, or is that of a jumbogram (RFC 8200 section 3, RFC 2675).
    Ipv6Length = "ipv6_length",
    /// More IPv6 extension headers than are looked at (RFC 8504 section 5.3).
    Ipv6Extensions = "ipv6_extensions",
    /// The TCP data offset is impossible (RFC 9293 section 3.1).
    TcpHeader = "tcp_header",
    /// TCP control bits that no honest sender sets together (RFC 9293 section 3.10.7), in a segment to a service.
    TcpFlags = "tcp_flags",
    /// An SCTP packet without a chunk, or a first chunk of a length that is impossible (RFC 9260 section 3.2).
    SctpHeader = "sctp_header",
    /// The UDP length is shorter than its header or longer than the packet (RFC 768).
    UdpLength = "udp_length",
    /// A UDP datagram without checksum: that came so in IPv6, where none is none, to a service that rewrites l4_ports or
    /// addresses (RFC 8200 section 8.1); or that would have to get one in IPv6, and lies in several buffers (RFC 7915 section 4.5).
    UdpChecksum = "udp_checksum",
    /// A later fragment of a datagram whose first one belongs to no connection: it was refused itself.
    Fragment = "fragment",
    /// A fragment whose offset or length is impossible (RFC 791 section 3.1, RFC 8200 section 4.5).
    FragmentLength = "fragment_length",
    /// A first fragment that ends within its TCP, UDP or ICMP header, or a later one that reaches into it (RFC 1858, RFC 3128).
    FragmentTiny = "fragment_tiny",
    /// A fragment that covers what another one of its datagram covered, or any that comes after such a one (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment whose datagram's first one did not come in time, or whose datagram had to give way to others.
    FragmentTimeout = "fragment_timeout",
    /// No room for one more fragment that waits for the first of its datagram, or for one more hole in a datagram.
    FragmentsFull = "fragments_full",
    /// A fragment of an SCTP packet whose l4_ports may change: how its checksum moves depends on the length of all of it.
    FragmentSctp = "fragment_sctp",
    /// A fragment of a connection between an IPv4 and an IPv6 end, which is not translated.
    FamilyFragment = "family_fragment",
    /// A packet of a connection between an IPv4 and an IPv6 end that is on a way its header names: an IPv4 source route or an IPv6
    /// routing header that is not used up (RFC 7915 sections 4.1 and 5.1).
    SourceRoute = "source_route",
    /// An ICMP error about a connection between an IPv4 and an IPv6 end that has no name in the other family (RFC 7915
    /// sections 4.2 and 5.2).
    Untranslatable = "untranslatable",
    /// An ICMP error that quotes no whole header, a later fragment, or a packet that its destination did not send; and one to
    /// be translated whose checksum is wrong, its own or that of the IPv4 header it quotes (RFC 5508 section 4.1).
    IcmpQuote = "icmp_quote",
    /// An ICMP error about a packet of a tunnel's that this director sent, of which no client is told: it quotes too little, no
    /// connection of the worker's, or says nothing about the packet within; or its checksum is wrong.
    TunnelError = "tunnel_error",
    /// The TTL would reach zero here.
    TtlExpired = "ttl_expired",
    /// No backend of the service accepts connections (all weights are 0).
    NoBackend = "no_backend",
    /// Every backend that could take it is at its connection threshold.
    BackendFull = "backend_full",
    /// The service has as many connections as its rules allow.
    ConnectionLimit = "connection_limit",
    /// The service has as many half-open connections as its rules allow.
    HalfOpenLimit = "half_open_limit",
    /// More new connections a second than the service's rules allow.
    RateLimit = "rate_limit",
    /// A TCP segment of no known connection, which the rules say to drop, or a RST of none, which is never answered.
    NoFlow = "no_flow",
    /// A RST outside the sequence numbers that its receiver may take, to a service that checks (RFC 5961 section 3).
    RstOutOfWindow = "rst_out_of_window",
    /// To be answered, and its source address is not that of one other host.
    Unanswerable = "unanswerable",
    /// To be answered, and this worker has answered as many as it may in a second.
    ReplyLimit = "reply_limit",
    /// Its buffer has no room for the headers to be put in front.
    NoHeadroom = "no_headroom",
    /// Longer than its way takes, and neither may it be cut nor can its sender be told; or longer than an IP packet can be.
    TooBig = "too_big",
    /// To be cut into fragments, and the worker's reserve has no buffers left.
    ReserveEmpty = "reserve_empty",
    /// A fragment of a tunnel packet to an address where tunnels end: nobody can unwrap it before it is put together.
    DecapFragment = "decap_fragment",
    /// A tunnel header that a receiver must discard (RFC 2784 section 2.2, draft-ietf-intarea-gue section 3).
    DecapHeader = "decap_header",
    /// What the tunnel carries is no IP packet, or longer than the packet around it.
    DecapPacket = "decap_packet",
    /// A tunnel within a tunnel, both of which end here.
    DecapNested = "decap_nested",
    /// The way through the tunnel was congested, and the packet within does not know ECN (RFC 6040 section 4.2).
    DecapCongestion = "decap_congestion",
    /// The next hop towards the backend has no known MAC yet.
    NextHopUnresolved = "next_hop_unresolved",
    /// No free local address and port, or identifier of a ping, for a connection to this backend.
    NoLocalPort = "no_local_port",
    /// The backend's address is of another family than the client's, and the service does not translate.
    OtherFamily = "other_family",
    /// The flow table is full of connections that are all in use.
    TableFull = "table_full",
    /// More stations on the client side than the worker can remember.
    ClientStationsFull = "client_stations_full",
    /// Not load-balanced, and the port has no kernel twin to hand it to.
    NoTwin = "no_twin",
    /// The ring to the slow path is full.
    SlowPathFull = "slow_path_full",
    /// The ring to the worker that owns the flow is full.
    SteerFull = "steer_full",
    /// It lies in several buffers, and the port it would leave by sends packets of one only.
    SegmentsUnsent = "segments_unsent",
    /// The port refused it: its transmit queue is full or the device is gone.
    TxRefused = "tx_refused",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_apart() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(!reason.meaning().is_empty());
            let same = DropReason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
        }
    }
}
