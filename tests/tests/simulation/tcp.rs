//! One end of a TCP connection, as small as it can be and still survive loss, duplicates and reordering: one segment
//! in flight at a time, sent again until it is acknowledged (RFC 9293 without windows or congestion control).
//!
//! Sequence numbers are real ones: a director that resets a connection must know them, and one that mixed up two
//! connections would be found out by them.

use std::collections::VecDeque;

use crate::packet::{ACK, FIN, L4, Packet, RST, SYN};

/// How long the first acknowledgment is waited for, in milliseconds; doubled each time.
const RETRANSMIT_MS: u64 = 150;
/// The longest such wait.
const RETRANSMIT_MAX_MS: u64 = 2_000;
/// How often a segment is sent before the end gives up.
const TRIES_MAX: u32 = 14;
/// Messages that wait to be sent at most.
const MESSAGES_MAX: usize = 64;

/// What an end noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The handshake is complete.
    Opened,
    /// The next message of the other end.
    Message(Vec<u8>),
    /// The other end sends no more.
    PeerClosed,
    /// The other end, or somebody in its name, reset the connection.
    Reset,
}

/// A segment to be sent: sequence number, acknowledgment, control bits, payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// SYN sent.
    Opening,
    /// SYN received, SYN and ACK sent.
    Answering,
    /// Both know each other.
    Open,
    /// Reset or given up.
    Dead,
}

#[derive(Clone, Debug)]
struct InFlight {
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
}

impl InFlight {
    /// Sequence numbers it takes: SYN and FIN take one each.
    fn len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.flags & (SYN | FIN) != 0)
    }
}

/// One end.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    state: State,
    send_next: u32,
    receive_next: u32,
    /// The sequence number of the other end's SYN.
    peer_initial: u32,
    in_flight: Option<InFlight>,
    outgoing: VecDeque<Vec<u8>>,
    wants_close: bool,
    fin_sent: bool,
    fin_received: bool,
    tries: u32,
    /// When the segment in flight is sent again, in milliseconds of the simulation.
    retransmit_at: Option<u64>,
}

impl Tcp {
    fn new(state: State, initial: u32, peer_initial: u32) -> Self {
        Self {
            state,
            send_next: initial,
            receive_next: peer_initial.wrapping_add(1),
            peer_initial,
            in_flight: None,
            outgoing: VecDeque::new(),
            wants_close: false,
            fin_sent: false,
            fin_received: false,
            tries: 0,
            retransmit_at: None,
        }
    }

    /// The end that opens.
    pub(crate) fn connect(initial: u32, now: u64, out: &mut Vec<Segment>) -> Self {
        let mut end = Self::new(State::Opening, initial, 0);
        end.launch(SYN, Vec::new(), now, out);
        end
    }

    /// The end that got a SYN with this sequence number.
    pub(crate) fn accept(initial: u32, syn_seq: u32, now: u64, out: &mut Vec<Segment>) -> Self {
        let mut end = Self::new(State::Answering, initial, syn_seq);
        end.launch(SYN | ACK, Vec::new(), now, out);
        end
    }

    /// Sends `message` as soon as what was to be sent before is acknowledged.
    pub(crate) fn send(&mut self, message: Vec<u8>, now: u64, out: &mut Vec<Segment>) {
        assert!(self.outgoing.len() < MESSAGES_MAX, "an end that asks without waiting for answers");
        self.outgoing.push_back(message);
        self.go_on(now, out);
    }

    /// Sends a FIN after everything else.
    pub(crate) fn close(&mut self, now: u64, out: &mut Vec<Segment>) {
        self.wants_close = true;
        self.go_on(now, out);
    }

    /// Resets the connection.
    pub(crate) fn abort(&mut self, out: &mut Vec<Segment>) {
        out.push(self.segment(self.send_next, RST | ACK, Vec::new()));
        self.die();
    }

    /// Both sent and acknowledged their last.
    pub(crate) fn is_closed(&self) -> bool {
        self.fin_sent && self.in_flight.is_none() && self.fin_received
    }

    /// Whether the handshake is complete and nobody gave up.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it was reset or given up.
    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// Whether this SYN is the one the connection began with.
    pub(crate) fn began_with(&self, syn_seq: u32) -> bool {
        self.peer_initial == syn_seq
    }

    /// When [`Self::tick`] wants to be called, in milliseconds.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        self.retransmit_at
    }

    /// Sends again what was not acknowledged in time. False when it was sent often enough: the end is dead.
    pub(crate) fn tick(&mut self, now: u64, out: &mut Vec<Segment>) -> bool {
        let Some(in_flight) =
            self.in_flight.clone().filter(|_| self.retransmit_at.is_some_and(|at| at <= now))
        else {
            return self.state != State::Dead;
        };
        if self.tries >= TRIES_MAX {
            self.die();
            return false;
        }
        self.tries += 1;
        self.retransmit_at = Some(now + (RETRANSMIT_MS << self.tries.min(8)).min(RETRANSMIT_MAX_MS));
        out.push(self.segment(in_flight.seq, in_flight.flags, in_flight.payload));
        true
    }

    /// Takes a segment of the other end.
    pub(crate) fn receive(&mut self, packet: &Packet, now: u64, out: &mut Vec<Segment>) -> Vec<Heard> {
        let L4::Tcp { seq, ack, flags } = packet.l4 else { return vec![] };
        if self.state == State::Dead {
            return vec![];
        }
        if flags & RST != 0 {
            return self.hear_reset(seq, ack, flags);
        }
        let mut heard = Vec::new();
        match self.state {
            State::Opening => {
                if flags & (SYN | ACK) != SYN | ACK || ack != self.send_next {
                    return heard;
                }
                self.receive_next = seq.wrapping_add(1);
                self.acknowledged();
                self.state = State::Open;
                heard.push(Heard::Opened);
                out.push(self.acknowledgment());
                self.go_on(now, out);
                return heard;
            }
            State::Answering if flags & SYN != 0 => {
                if seq.wrapping_add(1) == self.receive_next {
                    self.launch_again(out);
                }
                return heard;
            }
            _ if flags & SYN != 0 => {
                // A duplicate of the handshake: the acknowledgment of it was lost.
                out.push(self.acknowledgment());
                return heard;
            }
            _ => {}
        }
        if flags & ACK != 0 && ack == self.send_next && self.in_flight.is_some() {
            self.acknowledged();
            if self.state == State::Answering {
                self.state = State::Open;
                heard.push(Heard::Opened);
            }
        }
        self.hear_payload(seq, flags, &packet.payload, &mut heard, out);
        self.go_on(now, out);
        heard
    }

    fn hear_reset(&mut self, seq: u32, ack: u32, flags: u8) -> Vec<Heard> {
        // RFC 9293 section 3.10.7.3 and RFC 5961 section 3.2: what does not fit exactly is not believed.
        let fits = match self.state {
            State::Opening => flags & ACK != 0 && ack == self.send_next,
            _ => seq == self.receive_next,
        };
        if !fits {
            return vec![];
        }
        self.die();
        vec![Heard::Reset]
    }

    fn hear_payload(
        &mut self,
        seq: u32,
        flags: u8,
        payload: &[u8],
        heard: &mut Vec<Heard>,
        out: &mut Vec<Segment>,
    ) {
        if payload.is_empty() && flags & FIN == 0 {
            return;
        }
        if seq == self.receive_next && self.state == State::Open {
            if !payload.is_empty() {
                self.receive_next = self.receive_next.wrapping_add(payload.len() as u32);
                heard.push(Heard::Message(payload.to_vec()));
            }
            if flags & FIN != 0 {
                self.receive_next = self.receive_next.wrapping_add(1);
                self.fin_received = true;
                heard.push(Heard::PeerClosed);
            }
        }
        out.push(self.acknowledgment());
    }

    /// Launches what comes next, if nothing is in flight.
    fn go_on(&mut self, now: u64, out: &mut Vec<Segment>) {
        if self.state != State::Open || self.in_flight.is_some() {
            return;
        }
        if let Some(message) = self.outgoing.pop_front() {
            self.launch(ACK, message, now, out);
        } else if self.wants_close && !self.fin_sent {
            self.fin_sent = true;
            self.launch(FIN | ACK, Vec::new(), now, out);
        }
    }

    fn launch(&mut self, flags: u8, payload: Vec<u8>, now: u64, out: &mut Vec<Segment>) {
        let in_flight = InFlight { seq: self.send_next, flags, payload };
        out.push(self.segment(in_flight.seq, flags, in_flight.payload.clone()));
        self.send_next = self.send_next.wrapping_add(in_flight.len());
        self.in_flight = Some(in_flight);
        self.tries = 0;
        self.retransmit_at = Some(now + RETRANSMIT_MS);
    }

    fn launch_again(&self, out: &mut Vec<Segment>) {
        if let Some(in_flight) = &self.in_flight {
            out.push(self.segment(in_flight.seq, in_flight.flags, in_flight.payload.clone()));
        }
    }

    fn acknowledged(&mut self) {
        self.in_flight = None;
        self.retransmit_at = None;
    }

    fn acknowledgment(&self) -> Segment {
        self.segment(self.send_next, ACK, Vec::new())
    }

    fn segment(&self, seq: u32, flags: u8, payload: Vec<u8>) -> Segment {
        let ack = if flags & ACK != 0 { self.receive_next } else { 0 };
        Segment { seq, ack, flags, payload }
    }

    fn die(&mut self) {
        self.state = State::Dead;
        self.acknowledged();
    }
}

/// The RST that an end sends for a segment of a connection it does not know (RFC 9293 section 3.5.2); none for a RST.
pub(crate) fn reset_for(packet: &Packet) -> Option<Segment> {
    let L4::Tcp { seq, ack, flags } = packet.l4 else { return None };
    if flags & RST != 0 {
        return None;
    }
    if flags & ACK != 0 {
        return Some(Segment { seq: ack, ack: 0, flags: RST, payload: Vec::new() });
    }
    let len = packet.payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
    Some(Segment { seq: 0, ack: seq.wrapping_add(len), flags: RST | ACK, payload: Vec::new() })
}
