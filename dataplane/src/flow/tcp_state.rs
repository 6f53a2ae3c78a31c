//! The state of a connection as a director sees it, after Linux IPVS: same states, transitions and default
//! timeouts (recorded from a running kernel; `ip_vs_proto_tcp` with `secure_tcp = 0`). Not RFC 9293's machine:
//! a director watches both ends and must never be stricter than they are.

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
    /// The state after a segment with `flags`. Priority RST, SYN, FIN, ACK.
    pub const fn after(self, flags: TcpFlags, sender: Sender) -> Self {
        if matches!(self, Self::Udp) {
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
            Self::SynRecv if flags.has(TcpFlags::ACK) => Self::Established,
            state => state,
        }
    }

    const fn after_rst(self, sender: Sender) -> Self {
        match (self, sender) {
            // A client that resets its own SYN: the server may still answer it, so the entry waits as half-open.
            (Self::SynRecv, Sender::Client | Sender::ClientOnly) => Self::SynRecv,
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
            (Self::SynRecv, _) => Self::TimeWait,
            (Self::Established, Sender::Client) => Self::CloseWait,
            (Self::Established, Sender::Server | Sender::ClientOnly) => Self::FinWait,
            (Self::FinWait, Sender::Client) => Self::TimeWait,
            (Self::CloseWait, Sender::Server) => Self::TimeWait,
            (state, _) => state,
        }
    }

    /// Whether the three-way handshake is not complete: first to go when the table is full.
    #[inline(always)]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::None | Self::SynRecv | Self::SynSent)
    }

    /// Whether a SYN from the client opens a connection anew, to be scheduled like any other: the one before is
    /// over. IPVS does so by default (`conn_reuse_mode = 1`), where answers bypass the director also after the
    /// client's FIN (mode 2), as nothing more can be seen of such a connection.
    #[inline(always)]
    pub const fn is_over(self, answers_bypass: bool) -> bool {
        matches!(self, Self::TimeWait | Self::Close) || (answers_bypass && matches!(self, Self::FinWait))
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
        (SynSent, [Established, SynSent, SynSent, Close, SynSent, SynSent, SynSent, Close]),
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
    fn udp_has_no_states() {
        assert_eq!(Udp.after(TcpFlags(RST), Sender::Client), Udp);
    }
}
