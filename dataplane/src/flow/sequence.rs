//! What a director notes of a TCP sender's numbers, where the rules ask for it: the end of what it sent, and what it
//! expects next. So a RST can be judged (RFC 5961 section 3), and one can be made that its receiver takes.
//!
//! Read first: RFC 9293 section 3.4. Numbers are compared modulo 2^32. Not a window: a director that saw no option of
//! the handshake knows no scale, so what a sender may send is not checked, only what ends a connection.

use super::tcp_state::TcpState;
use crate::rules::{Fate, OnTimeout, Policy};
use crate::wire::ipv4::PROTOCOL_TCP;
use crate::wire::tcp::{Tcp, TcpFlags};

/// The largest window a receiver can offer (RFC 7323 section 2.3).
const WINDOW_MAX: u32 = 1 << 30;
/// How far behind the end of what its sender sent a RST may lie where nothing tells what the receiver expects.
const BEHIND_MAX: u32 = 1 << 20;
/// How far ahead of that end it may lie: what its sender sent besides may have been lost on its way here.
const AHEAD_MAX: u32 = 1 << 20;

/// Why the packets of a flow are looked at beyond their rewriting, and what is known of their numbers. 0 for nearly
/// all flows, so that one compare tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch(u8);

impl Watch {
    /// The connection is half-open: its next packet may change its state.
    const OPENING: u8 = 1;
    /// Numbers are noted.
    const NUMBERS: u8 = 1 << 1;
    /// A RST is judged by them.
    const CHECKS_RST: u8 = 1 << 2;
    /// Both ends are told when the connection expires.
    const TELLS_ON_TIMEOUT: u8 = 1 << 3;
    /// [`Numbers::sent`] is known.
    const SENT: u8 = 1 << 4;
    /// [`Numbers::expected`] is known.
    const EXPECTED: u8 = 1 << 5;
    /// A one-way connection that holds a row of the client-side stations, to answer the client by.
    const HOLDS_STATION: u8 = 1 << 6;
    /// The backend is told who the client is, and that is not done yet or changes the numbers.
    const KEEPS_ADDRESS: u8 = 1 << 7;

    /// What `policy` asks of a new connection.
    pub fn new(policy: &Policy, protocol: u8) -> Self {
        if protocol != PROTOCOL_TCP {
            return Self::default();
        }
        let tells_on_timeout = policy.on_timeout == OnTimeout::Reset;
        let numbers =
            tells_on_timeout || policy.checks_rst || policy.on_remove == Fate::Reset || policy.ends_drains;
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        Self(
            bit(numbers, Self::NUMBERS)
                | bit(policy.checks_rst, Self::CHECKS_RST)
                | bit(tells_on_timeout, Self::TELLS_ON_TIMEOUT),
        )
    }

    /// With the connection in `state`.
    #[must_use]
    pub const fn in_state(self, state: TcpState) -> Self {
        if matches!(state, TcpState::SynRecv) {
            Self(self.0 | Self::OPENING)
        } else {
            Self(self.0 & !Self::OPENING)
        }
    }

    /// With a row of the client-side stations.
    #[must_use]
    pub const fn holding_station(self) -> Self {
        Self(self.0 | Self::HOLDS_STATION)
    }

    /// With a backend that is told who the client is; with `numbers` noted where a header shifts them.
    #[must_use]
    pub const fn keeping_address(self, numbers: bool) -> Self {
        Self(self.0 | Self::KEEPS_ADDRESS | if numbers { Self::NUMBERS } else { 0 })
    }

    /// With a backend that has been told.
    #[must_use]
    pub const fn address_told(self) -> Self {
        Self(self.0 & !Self::KEEPS_ADDRESS)
    }

    /// Whether the backend is told who the client is.
    pub const fn keeps_address(self) -> bool {
        self.0 & Self::KEEPS_ADDRESS != 0
    }

    /// Whether there is any reason to look. A row of the stations is none.
    #[inline(always)]
    pub const fn is_set(self) -> bool {
        self.0 & !Self::HOLDS_STATION != 0
    }

    /// Whether numbers are noted.
    pub const fn notes_numbers(self) -> bool {
        self.0 & Self::NUMBERS != 0
    }

    /// Whether a RST is judged.
    pub const fn checks_rst(self) -> bool {
        self.0 & Self::CHECKS_RST != 0
    }

    /// Whether both ends are told when the connection expires.
    pub const fn tells_on_timeout(self) -> bool {
        self.0 & Self::TELLS_ON_TIMEOUT != 0
    }

    /// Whether a one-way connection holds a row of the client-side stations.
    pub const fn holds_station(self) -> bool {
        self.0 & Self::HOLDS_STATION != 0
    }
}

/// The numbers of one sender; [`Watch`] says which of them are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// One more than the last sequence number it used.
    sent: u32,
    /// The sequence number it expects next: its latest acknowledgment.
    expected: u32,
}

impl Numbers {
    /// What a flow of datagrams, which has no numbers, keeps in their place: the trace of the server ID that it was found right
    /// with ([`crate::stage::reroute`]); 0 is none.
    pub const fn of_trace(trace: u32) -> Self {
        Self { sent: trace, expected: 0 }
    }

    /// That trace.
    pub const fn trace(self) -> u32 {
        self.sent
    }

    /// Notes a segment of the sender with so many bytes of TCP header and data.
    pub fn note(&mut self, watch: &mut Watch, segment: Tcp<'_>, l4_len: usize) {
        let flags = segment.flags();
        if flags.has(TcpFlags::RST) {
            return;
        }
        let end = segment.sequence().wrapping_add(segment.sequence_len(l4_len));
        // Of two numbers the later is the one less than half of all ahead. What was sent again is no news; a SYN is,
        // whatever came before.
        let is_later = end.wrapping_sub(self.sent) < 1 << 31;
        if watch.0 & Watch::SENT == 0 || is_later || flags.has(TcpFlags::SYN) {
            self.sent = end;
            watch.0 |= Watch::SENT;
        }
        // The latest, not the highest: one forged number then does no lasting harm.
        if flags.has(TcpFlags::ACK) {
            self.expected = segment.acknowledgment();
            watch.0 |= Watch::EXPECTED;
        }
    }

    /// Takes back what a segment said the sender expects.
    pub const fn hold_expected(&mut self, expected: u32) {
        self.expected = expected;
    }

    /// One more than the last sequence number the sender used, if it sent any.
    pub const fn sent(self, watch: Watch) -> Option<u32> {
        if watch.0 & Watch::SENT != 0 { Some(self.sent) } else { None }
    }

    /// The sequence number the sender expects next, if it said so.
    pub const fn expected(self, watch: Watch) -> Option<u32> {
        if watch.0 & Watch::EXPECTED != 0 { Some(self.expected) } else { None }
    }
}

/// What is known of one end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// One more than the last sequence number it used.
    pub sent: Option<u32>,
    /// The sequence number it expects next.
    pub expected: Option<u32>,
}

/// What becomes of a RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RstVerdict {
    /// Its receiver may take it: it passes, and ends the connection.
    Ends,
    /// It lies ahead of all that was seen: it passes and changes nothing. A receiver that is in doubt asks its sender
    /// (RFC 5961 section 3.2, "challenge ACK"), and the answer ends the connection.
    Passes,
    /// No receiver would take it.
    Dropped,
}

/// Judges a RST of `from`. `to` is `None` where the director does not see that end.
pub fn judge_rst(rst: Tcp<'_>, from: End, to: Option<End>) -> RstVerdict {
    let Some(sent) = from.sent else {
        // It refuses a SYN, which its RST must acknowledge (RFC 9293 section 3.10.7.3).
        let to_sent = to.and_then(|to| to.sent);
        let refuses =
            rst.flags().has(TcpFlags::ACK) && to_sent.is_none_or(|sent| rst.acknowledgment() == sent);
        return if refuses { RstVerdict::Ends } else { RstVerdict::Dropped };
    };
    let (start, window_max) = match to.and_then(|to| to.expected) {
        Some(expected) => (expected, WINDOW_MAX),
        None => (sent.wrapping_sub(BEHIND_MAX), BEHIND_MAX),
    };
    let sequence = rst.sequence();
    if sequence.wrapping_sub(start) <= sent.wrapping_sub(start).min(window_max) {
        RstVerdict::Ends
    } else if sequence.wrapping_sub(sent) <= AHEAD_MAX {
        RstVerdict::Passes
    } else {
        RstVerdict::Dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AddressPair, PortPair, tcp};

    fn noting() -> Watch {
        Watch::new(&Policy { checks_rst: true, ..Policy::default() }, PROTOCOL_TCP)
    }

    /// A header with these numbers and flags.
    fn segment(sequence: u32, acknowledgment: u32, flags: u8) -> [u8; tcp::HEADER_LEN] {
        let mut bytes =
            tcp::reset(AddressPair::default(), PortPair::default(), sequence, Some(acknowledgment));
        bytes[tcp::FLAGS_AT] = flags;
        bytes
    }

    fn end(sent: u32, expected: u32) -> End {
        End { sent: Some(sent), expected: Some(expected) }
    }

    #[test]
    fn nothing_is_noted_unless_the_rules_ask() {
        let asks = |policy: Policy| Watch::new(&policy, PROTOCOL_TCP).notes_numbers();
        assert!(!asks(Policy::default()) && !Watch::new(&Policy::default(), PROTOCOL_TCP).is_set());
        assert!(asks(Policy { on_timeout: OnTimeout::Reset, ..Policy::default() }));
        assert!(asks(Policy { on_remove: Fate::Reset, ..Policy::default() }));
        assert!(asks(Policy { checks_rst: true, ..Policy::default() }));
        assert!(!Watch::new(&Policy { checks_rst: true, ..Policy::default() }, 17).is_set(), "UDP has none");
    }

    #[test]
    fn a_sender_s_numbers_advance_over_the_wrap_and_do_not_go_back() {
        let (mut numbers, mut watch) = (Numbers::default(), noting());
        let mut note = |sequence, acknowledgment, flags, data_len| {
            numbers.note(
                &mut watch,
                Tcp(&segment(sequence, acknowledgment, flags)),
                tcp::HEADER_LEN + data_len,
            );
            (numbers.sent(watch), numbers.expected(watch))
        };
        assert_eq!(note(u32::MAX - 9, 0, 0x02, 0), (Some(u32::MAX - 8), None), "a SYN takes a number");
        assert_eq!(note(u32::MAX - 8, 500, 0x10, 0), (Some(u32::MAX - 8), Some(500)));
        assert_eq!(note(u32::MAX - 8, 500, 0x18, 100), (Some(91), Some(500)));
        assert_eq!(note(u32::MAX - 8, 700, 0x18, 50), (Some(91), Some(700)), "sent again");
        assert_eq!(note(0, 9, 0x14, 0), (Some(91), Some(700)), "a RST tells nothing");
        assert_eq!(note(91, 700, 0x11, 0), (Some(92), Some(700)), "so does a FIN");
        assert_eq!(note(5, 0, 0x02, 0), (Some(6), Some(700)), "a new SYN begins anew");
    }

    #[test]
    fn a_rst_is_taken_from_what_the_receiver_expects_to_what_the_sender_sent() {
        use RstVerdict::{Dropped, Ends, Passes};
        let judge = |sequence, from, to| judge_rst(Tcp(&segment(sequence, 0, 0x04)), from, to);
        let (client, server) = (end(2_000, 90_000), end(95_000, 1_500));
        for (sequence, expected) in [
            (0, Dropped),
            (1_499, Dropped),
            (1_500, Ends),
            (2_000, Ends),
            (2_001, Passes),
            (2_000 + AHEAD_MAX, Passes),
            (2_001 + AHEAD_MAX, Dropped),
        ] {
            assert_eq!(judge(sequence, client, Some(server)), expected, "{sequence}");
        }
        assert_eq!(judge(u32::MAX, end(5, 0), Some(end(0, u32::MAX - 1))), Ends, "over the wrap");
        let far_apart = Some(end(0, 6_000 + (1 << 30)));
        assert_eq!(judge(AHEAD_MAX + 7_000, end(1, 0), far_apart), Dropped, "never all numbers");
    }

    #[test]
    fn a_rst_of_one_who_sent_nothing_acknowledges_the_syn_it_refuses() {
        let refuses = |acknowledgment, flags| {
            let to = Some(End { sent: Some(1_001), expected: None });
            judge_rst(Tcp(&segment(0, acknowledgment, flags)), End::default(), to) == RstVerdict::Ends
        };
        assert!(refuses(1_001, 0x14) && !refuses(1_000, 0x14) && !refuses(1_001, 0x04));
    }

    #[test]
    fn where_one_end_is_not_seen_a_rst_lies_close_behind_what_was_sent() {
        let judge = |sequence| judge_rst(Tcp(&segment(sequence, 0, 0x04)), end(5_000_000, 1), None);
        assert_eq!([judge(5_000_000), judge(5_000_000 - BEHIND_MAX)], [RstVerdict::Ends; 2]);
        assert_eq!(judge(5_000_001), RstVerdict::Passes);
        assert_eq!(judge(5_000_000 - BEHIND_MAX - 1), RstVerdict::Dropped);
    }
}
