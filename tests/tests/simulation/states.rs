//! The states of a TCP connection as Linux IPVS keeps them: the recorded transitions and timeouts, written down a
//! second time so that the dataplane's own table is not its own judge. `tcp_states.rs` holds both against the recordings.

use dataplane::flow::tcp_state::TcpState;

use crate::packet::{ACK, FIN, RST, SYN};

/// Who sent a segment, and what of the connection passes the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client; answers pass too.
    Client,
    /// From the backend.
    Backend,
    /// From the client; answers bypass the director.
    ClientAlone,
}

/// What follows a client's SYN, FIN, ACK, RST and a backend's SYN, FIN, ACK, RST.
const TRANSITIONS: [(TcpState, [TcpState; 8]); 7] = {
    use TcpState::*;
    [
        (SynRecv, [SynRecv, TimeWait, Established, SynRecv, SynRecv, TimeWait, Established, Close]),
        (Established, [Established, CloseWait, Established, Close, Established, FinWait, Established, Close]),
        (FinWait, [SynRecv, TimeWait, FinWait, Close, SynSent, FinWait, FinWait, Close]),
        (CloseWait, [SynRecv, CloseWait, CloseWait, Close, SynSent, TimeWait, CloseWait, Close]),
        (TimeWait, [SynRecv, TimeWait, TimeWait, Close, SynSent, TimeWait, TimeWait, TimeWait]),
        (Close, [SynRecv, Close, Close, Close, SynSent, Close, Close, Close]),
        (SynSent, [Established, SynSent, SynSent, Close, SynSent, SynSent, SynSent, SynSent]),
    ]
};

/// The state after a segment with `flags`: RST goes before SYN, SYN before FIN, FIN before ACK.
pub(crate) fn after(state: TcpState, flags: u8, way: Way) -> TcpState {
    let Some(column) = [SYN, FIN, ACK, RST]
        .iter()
        .position(|bit| *bit == [RST, SYN, FIN, ACK].into_iter().find(|bit| flags & bit != 0).unwrap_or(0))
    else {
        return state;
    };
    if state == TcpState::None {
        return TcpState::SynRecv;
    }
    if way == Way::ClientAlone && column == 1 {
        match state {
            TcpState::Established | TcpState::FinWait => return TcpState::FinWait,
            _ => {}
        }
    }
    let column = if way == Way::Backend { column + 4 } else { column };
    TRANSITIONS.iter().find(|(from, _)| *from == state).map_or(state, |(_, to)| to[column])
}

/// How long an idle connection is kept in `state`, in milliseconds.
pub(crate) fn timeout_ms(state: TcpState) -> u64 {
    match state {
        TcpState::None => 2_000,
        TcpState::SynSent | TcpState::FinWait | TcpState::TimeWait => 120_000,
        TcpState::SynRecv | TcpState::CloseWait => 60_000,
        TcpState::Established => 900_000,
        TcpState::Close => 10_000,
        TcpState::Udp => 300_000,
        other => panic!("{other:?}: the simulation sends neither SCTP nor pings"),
    }
}

/// The name IPVS gives a state.
pub(crate) fn name(state: TcpState) -> &'static str {
    match state {
        TcpState::None => "NONE",
        TcpState::SynRecv => "SYN_RECV",
        TcpState::SynSent => "SYN_SENT",
        TcpState::Established => "ESTABLISHED",
        TcpState::FinWait => "FIN_WAIT",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::Udp => "UDP",
        other => panic!("{other:?}: the simulation sends neither SCTP nor pings"),
    }
}
