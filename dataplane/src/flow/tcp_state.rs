//! The state of a connection as a director sees it, after Linux IPVS: same states, transitions and default
//! timeouts (recorded from a running kernel; `ip_vs_proto_tcp` with `secure_tcp = 0`). Not RFC 9293's machine:
//! a director watches both ends and must never be stricter than they are.
//!
//! States of SCTP associations (RFC 9260 section 4) have IPVS's names and timeouts too; their transitions are the RFC's, as
//! far as packets show them.

use crate::wire::ipv4::{PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::PROTOCOL_ICMPV6;
use crate::wire::sctp::Chunk;
use crate::wire::tcp::TcpFlags;

/// The state of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen yet.
    #[default]
    None,
    /// The client's SYN passed: half-open.
    SynRecv,
    /// The server opened towards the client.
    SynSent,
    /// Both ends talk.
    Established,
    /// The server closed first.
    FinWait,
    /// The client closed first.
    CloseWait,
    /// Both closed.
    TimeWait,
    /// Reset.
    Close,
    /// A UDP flow: no states, one timeout.
    Udp,
    /// SCTP, the client's INIT passed: half-open.
    SctpInit,
    /// The server's INIT ACK passed, with a cookie: half-open.
    SctpCookieReplied,
    /// The client gave the cookie back: half-open until the server says that it was right.
    SctpCookieEchoed,
    /// Both ends talk SCTP.
    SctpEstablished,
    /// One end has no more data.
    SctpShutdownSent,
    /// Nor has the other.
    SctpShutdownAckSent,
    /// The association is over, or was aborted.
    SctpClosed,
    /// Pings of ICMP or ICMPv6: no states, one timeout.
    Icmp,
}

/// Who sent the segment, and whether the director sees the other way at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client, and the server's answers come back through the director.
    Client,
    /// The server.
    Server,
    /// The client, and the server's answers bypass the director (DR, tunnel).
    ClientOnly,
}

impl TcpState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::None,
        Self::SynRecv,
        Self::SynSent,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::TimeWait,
        Self::Close,
        Self::Udp,
        Self::SctpInit,
        Self::SctpCookieReplied,
        Self::SctpCookieEchoed,
        Self::SctpEstablished,
        Self::SctpShutdownSent,
        Self::SctpShutdownAckSent,
        Self::SctpClosed,
        Self::Icmp,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The state after a segment with `flags`. Priority RST, SYN, FIN, ACK.
    pub const fn after(self, flags: TcpFlags, sender: Sender) -> Self {
        if !matches!(self.protocol(), PROTOCOL_TCP) {
            return self;
        }
        if flags.has(TcpFlags::RST) {
            return self.after_rst(sender);
        }
        if flags.has(TcpFlags::SYN) {
            return self.after_syn(sender);
        }
        if flags.has(TcpFlags::FIN) {
            return self.after_fin(sender);
        }
        match self {
            Self::None | Self::SynRecv if flags.has(TcpFlags::ACK) => Self::Established,
            state => state,
        }
    }

    const fn after_rst(self, sender: Sender) -> Self {
        match (self, sender) {
            // A client that resets its own SYN: the server may still answer it, so the entry waits as half-open.
            (Self::SynRecv, Sender::Client | Sender::ClientOnly) => Self::SynRecv,
            // So it is recorded: a server that takes its own SYN back leaves the entry as it is.
            (Self::SynSent, Sender::Server) => Self::SynSent,
            (Self::TimeWait, _) => {
                if matches!(sender, Sender::Server) {
                    Self::TimeWait
                } else {
                    Self::Close
                }
            }
            _ => Self::Close,
        }
    }

    const fn after_syn(self, sender: Sender) -> Self {
        match (self, sender) {
            (Self::Established, _) => Self::Established,
            (Self::SynSent, Sender::Client | Sender::ClientOnly) => Self::Established,
            (_, Sender::Client | Sender::ClientOnly) => Self::SynRecv,
            (Self::SynRecv, Sender::Server) => Self::SynRecv,
            (_, Sender::Server) => Self::SynSent,
        }
    }

    const fn after_fin(self, sender: Sender) -> Self {
        match (self, sender) {
            // The first segment seen of a connection that was made elsewhere ([`crate::rules::NoFlow::Schedule`]).
            (Self::None, _) => Self::Close,
            (Self::SynRecv, _) => Self::TimeWait,
            (Self::Established, Sender::Client) => Self::CloseWait,
            (Self::Established, Sender::Server | Sender::ClientOnly) => Self::FinWait,
            (Self::FinWait, Sender::Client) => Self::TimeWait,
            (Self::CloseWait, Sender::Server) => Self::TimeWait,
            (state, _) => state,
        }
    }

    /// The state of an SCTP association after its first packet, which the client sent. Where that is no INIT the association
    /// was made elsewhere ([`crate::rules::NoFlow::Schedule`]).
    pub const fn of_first_chunk(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Init => Self::SctpInit,
            Chunk::CookieEcho => Self::SctpCookieEchoed,
            _ => Self::SctpEstablished.after_chunk(chunk, Sender::Client),
        }
    }

    /// The state of an SCTP association after a packet whose first chunk is `chunk`.
    pub const fn after_chunk(self, chunk: Chunk, sender: Sender) -> Self {
        let is_opening = self.is_half_open() || matches!(self, Self::SctpClosed);
        match (chunk, sender) {
            (Chunk::Abort | Chunk::ShutdownComplete, _) => Self::SctpClosed,
            // An INIT in the midst of an association is answered, and does not end it (RFC 9260 section 5.2.2).
            (Chunk::Init, Sender::Client | Sender::ClientOnly) if is_opening => Self::SctpInit,
            (Chunk::InitAck, Sender::Server) if matches!(self, Self::SctpInit) => Self::SctpCookieReplied,
            (Chunk::CookieEcho, Sender::Client) if is_opening => Self::SctpCookieEchoed,
            // What the server says to it is not seen.
            (Chunk::CookieEcho, Sender::ClientOnly) if is_opening => Self::SctpEstablished,
            (Chunk::CookieAck, Sender::Server) if is_opening => Self::SctpEstablished,
            (Chunk::Shutdown, _) if matches!(self, Self::SctpEstablished) => Self::SctpShutdownSent,
            (Chunk::ShutdownAck, _) if matches!(self, Self::SctpEstablished | Self::SctpShutdownSent) => {
                Self::SctpShutdownAckSent
            }
            _ => self,
        }
    }

    /// The IP protocol number of connections in this state. Of pings it is that of IPv6: an IPv4 flow knows its own.
    #[inline]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Udp => PROTOCOL_UDP,
            Self::Icmp => PROTOCOL_ICMPV6,
            Self::SctpInit
            | Self::SctpCookieReplied
            | Self::SctpCookieEchoed
            | Self::SctpEstablished
            | Self::SctpShutdownSent
            | Self::SctpShutdownAckSent
            | Self::SctpClosed => PROTOCOL_SCTP,
            _ => PROTOCOL_TCP,
        }
    }

    /// Whether the handshake, three-way or four-way, is not complete: first to go when the table is full.
    #[inline(always)]
    pub const fn is_half_open(self) -> bool {
        matches!(
            self,
            Self::None
                | Self::SynRecv
                | Self::SynSent
                | Self::SctpInit
                | Self::SctpCookieReplied
                | Self::SctpCookieEchoed
        )
    }

    /// Whether a SYN from the client opens a connection anew, to be scheduled like any other: the one before is
    /// over. IPVS does so by default (`conn_reuse_mode = 1`); with mode 2, where answers bypass the director, also after the
    /// client's FIN, as nothing more can be seen of such a connection.
    #[inline(always)]
    pub const fn is_over(self, answers_bypass: bool) -> bool {
        matches!(self, Self::TimeWait | Self::Close | Self::SctpClosed)
            || (answers_bypass && matches!(self, Self::FinWait | Self::SctpShutdownAckSent))
    }

    /// Whether IPVS counts the connection as active; UDP counts too (see docs/schedulers.md), and so do pings.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::SynRecv
                | Self::SynSent
                | Self::Established
                | Self::Udp
                | Self::SctpEstablished
                | Self::Icmp
        )
    }

    /// The idle time a connection in this state is kept, in milliseconds: IPVS's defaults.
    pub const fn timeout_ms(self) -> u32 {
        match self {
            Self::None => 2_000,
            Self::SynRecv => 60_000,
            Self::SynSent | Self::FinWait | Self::TimeWait => 120_000,
            Self::Established => 900_000,
            Self::CloseWait => 60_000,
            Self::Close => 10_000,
            Self::Udp => 300_000,
            // IPVS has none. The least that RFC 5508 (REQ-1) allows, and what RFC 6146 (section 4) gives them.
            Self::Icmp => 60_000,
            // IPVS's INIT1: a client that means it goes on within that.
            Self::SctpInit => 4_000,
            Self::SctpEstablished => 900_000,
            Self::SctpCookieReplied
            | Self::SctpCookieEchoed
            | Self::SctpShutdownSent
            | Self::SctpShutdownAckSent
            | Self::SctpClosed => 61_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TcpState::*;
    use super::*;

    const SYN: u8 = 0x02;
    const FIN: u8 = 0x11;
    const ACK: u8 = 0x10;
    const RST: u8 = 0x04;

    /// The table in the recorded behaviour of IPVS (conformance/ipvs, section 1): client SYN FIN ACK RST, server SYN FIN ACK RST.
    const RECORDED: [(TcpState, [TcpState; 8]); 7] = [
        (SynRecv, [SynRecv, TimeWait, Established, SynRecv, SynRecv, TimeWait, Established, Close]),
        (Established, [Established, CloseWait, Established, Close, Established, FinWait, Established, Close]),
        (FinWait, [SynRecv, TimeWait, FinWait, Close, SynSent, FinWait, FinWait, Close]),
        (CloseWait, [SynRecv, CloseWait, CloseWait, Close, SynSent, TimeWait, CloseWait, Close]),
        (TimeWait, [SynRecv, TimeWait, TimeWait, Close, SynSent, TimeWait, TimeWait, TimeWait]),
        (Close, [SynRecv, Close, Close, Close, SynSent, Close, Close, Close]),
        (SynSent, [Established, SynSent, SynSent, Close, SynSent, SynSent, SynSent, SynSent]),
    ];

    #[test]
    fn transitions_are_those_recorded_from_ipvs() {
        for (state, expected) in RECORDED {
            for (column, expected) in expected.into_iter().enumerate() {
                let sender = if column < 4 { Sender::Client } else { Sender::Server };
                let flags = [SYN, FIN, ACK, RST][column % 4];
                assert_eq!(state.after(TcpFlags(flags), sender), expected, "{state:?} {sender:?} {flags:#x}");
            }
        }
    }

    #[test]
    fn where_answers_bypass_the_director_a_client_fin_waits() {
        assert_eq!(Established.after(TcpFlags(FIN), Sender::ClientOnly), FinWait);
        assert_eq!(FinWait.after(TcpFlags(FIN), Sender::ClientOnly), FinWait);
        assert_eq!(SynRecv.after(TcpFlags(ACK), Sender::ClientOnly), Established);
    }

    #[test]
    fn a_connection_may_begin_in_the_middle_as_with_sloppy_tcp() {
        // behaviour.json: "first packet of a flow is [A]" and "[FA]", `sloppy_tcp=1`.
        assert_eq!(None.after(TcpFlags(ACK), Sender::Client), Established);
        assert_eq!(None.after(TcpFlags(FIN), Sender::Client), Close);
    }

    #[test]
    fn an_association_opens_with_four_packets_and_closes_with_three() {
        let walk = |steps: &[(Chunk, Sender)]| {
            let [(first, _), rest @ ..] = steps else { panic!("none") };
            rest.iter().fold(vec![TcpState::of_first_chunk(*first)], |mut states, (chunk, sender)| {
                states.push(states[states.len() - 1].after_chunk(*chunk, *sender));
                states
            })
        };
        use Chunk::*;
        let (client, server) = (Sender::Client, Sender::Server);
        let opened = [(Init, client), (InitAck, server), (CookieEcho, client), (CookieAck, server)];
        let closed = [(Other, server), (Shutdown, client), (ShutdownAck, server), (ShutdownComplete, client)];
        assert_eq!(
            walk(&[opened, closed].concat()),
            [
                SctpInit,
                SctpCookieReplied,
                SctpCookieEchoed,
                SctpEstablished,
                SctpEstablished,
                SctpShutdownSent,
                SctpShutdownAckSent,
                SctpClosed
            ]
        );
        let only = [Init, Init, CookieEcho, Other, ShutdownAck].map(|chunk| (chunk, Sender::ClientOnly));
        assert_eq!(
            walk(&only),
            [SctpInit, SctpInit, SctpEstablished, SctpEstablished, SctpShutdownAckSent],
            "where answers bypass the director"
        );
        assert!(SctpShutdownAckSent.is_over(true) && !SctpShutdownAckSent.is_over(false));
    }

    #[test]
    fn an_association_is_not_ended_by_an_init_and_is_by_an_abort() {
        for state in [SctpEstablished, SctpShutdownSent, SctpShutdownAckSent] {
            for sender in [Sender::Client, Sender::Server, Sender::ClientOnly] {
                assert_eq!(state.after_chunk(Chunk::Init, sender), state);
                assert_eq!(state.after_chunk(Chunk::Abort, sender), SctpClosed);
            }
        }
        assert_eq!(SctpClosed.after_chunk(Chunk::Init, Sender::Client), SctpInit, "with `reuse = \"never\"`");
        assert_eq!(TcpState::of_first_chunk(Chunk::Other), SctpEstablished, "made elsewhere");
        assert_eq!(TcpState::of_first_chunk(Chunk::Abort), SctpClosed);
        assert_eq!(SctpEstablished.after(TcpFlags(RST), Sender::Client), SctpEstablished, "no TCP segment");
    }

    #[test]
    fn udp_and_pings_have_no_states() {
        assert_eq!(Udp.after(TcpFlags(RST), Sender::Client), Udp);
        assert_eq!(Icmp.after(TcpFlags(RST), Sender::Server), Icmp);
    }
}
