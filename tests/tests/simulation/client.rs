//! A client: opens connections, asks, and checks that what it gets is meant for it and comes from one backend.

use std::net::Ipv4Addr;

use crate::backend::from_segment;
use crate::message::{Question, Wish, who_answered};
use crate::packet::{Endpoint, L4, Packet, TTL};
use crate::random::Random;
use crate::tcp::{Heard, Segment, Tcp, reset_for};

/// l4_ports a client uses in turn: few, so that they are used again soon.
const L4_PORTS: u16 = 3;
/// How long a client waits for the answer to a datagram.
const ANSWER_MS: u64 = 300;
/// How long it waits for anything at all, in milliseconds: longer than either end sends something again.
const PATIENCE_MS: u64 = 40_000;
/// How often it asks before it gives up.
const DATAGRAM_TRIES_MAX: u32 = 16;

/// How a session goes on and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client closes.
    Closes,
    /// The backend closes.
    BackendCloses,
    /// The client resets.
    Resets,
    /// The backend resets.
    BackendResets,
    /// The client falls silent, without a word.
    Vanishes,
}

/// A connection, or a flow of datagrams, as the client sees it.
#[derive(Debug)]
struct Session {
    own: Endpoint,
    service: Endpoint,
    number: u32,
    /// `None` for datagrams.
    tcp: Option<Tcp>,
    ending: Ending,
    questions: u32,
    asked: u32,
    answered: u32,
    /// Who answered, on a TCP connection.
    backend: Option<usize>,
    /// Pause before the next question, in milliseconds.
    pause_ms: u64,
    /// When the next step is due: a question, or the end of waiting.
    due: Option<u64>,
    tries: u32,
    /// When it heard something last: it does not wait for ever.
    heard_at: u64,
}

/// How the sessions of a client ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// As they should.
    pub(crate) done: u64,
    /// Never opened: nobody answered, or a reset did.
    pub(crate) refused: u64,
    /// Broken off when they were open.
    pub(crate) broken: u64,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    id: u32,
    address: Ipv4Addr,
    sessions: u32,
    session: Option<Session>,
    /// Pauses between questions at most, in milliseconds.
    pause_max_ms: u64,
    pub(crate) outcome: Outcome,
    /// The wake time asked for last.
    wakes_at: u64,
}

impl Client {
    pub(crate) fn new(id: u32, pause_max_ms: u64) -> Self {
        let [_, _, high, low] = (id + 1).to_be_bytes();
        Self {
            id,
            address: Ipv4Addr::new(198, 18, high, low),
            sessions: 0,
            session: None,
            pause_max_ms,
            outcome: Outcome::default(),
            wakes_at: 0,
        }
    }

    /// The client with this address.
    pub(crate) fn id_of(address: Ipv4Addr) -> usize {
        let [_, _, high, low] = address.octets();
        usize::from(u16::from_be_bytes([high, low])) - 1
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.session.is_none()
    }

    /// Whether a wake at `now` is one it still wants.
    pub(crate) fn wants_to_wake(&self, now: u64) -> bool {
        self.wakes_at <= now
    }

    /// When it wants to be woken; tells it once.
    pub(crate) fn next_wake(&mut self, now: u64) -> Option<u64> {
        let session = self.session.as_ref()?;
        let tcp = session.tcp.as_ref().and_then(Tcp::wakes_at);
        let patience = session.heard_at + PATIENCE_MS;
        let at = session.due.into_iter().chain(tcp).fold(patience, u64::min).max(now + 1);
        self.wakes_at = at;
        Some(at)
    }

    /// Begins a session with the service that listens there.
    pub(crate) fn begin(
        &mut self,
        service: Endpoint,
        tcp: bool,
        now: u64,
        random: &mut Random,
    ) -> Vec<Packet> {
        self.sessions += 1;
        let l4_port = 20_000 + (self.sessions % u32::from(L4_PORTS)) as u16;
        let endings = [
            Ending::Closes,
            Ending::Closes,
            Ending::Closes,
            Ending::BackendCloses,
            Ending::BackendCloses,
            Ending::Resets,
            Ending::BackendResets,
            Ending::Vanishes,
        ];
        let mut out = Vec::new();
        let end = tcp.then(|| Tcp::connect(random.word() as u32, now, &mut out));
        let mut session = Session {
            own: (self.address, l4_port),
            service,
            number: self.sessions,
            tcp: end,
            ending: random.pick(&endings),
            questions: random.between(1, 6) as u32,
            asked: 0,
            answered: 0,
            backend: None,
            pause_ms: random.between(0, self.pause_max_ms),
            due: None,
            tries: 0,
            heard_at: now,
        };
        let mut packets = session.packets(out);
        if !tcp {
            packets.push(session.ask_datagram(self.id, now));
        }
        self.session = Some(session);
        packets
    }

    /// Goes on: asks, sends again, gives up.
    pub(crate) fn wake(&mut self, now: u64) -> Vec<Packet> {
        let Some(mut session) = self.session.take() else { return vec![] };
        let (id, mut out) = (self.id, Vec::new());
        if session.heard_at + PATIENCE_MS <= now {
            self.lose_patience(&session);
            return vec![];
        }
        if let Some(tcp) = &mut session.tcp {
            let was_open = tcp.is_open();
            if !tcp.tick(now, &mut out) {
                self.end(if was_open { End::Broken } else { End::Refused });
                return session.packets(out);
            }
        }
        if session.due.is_some_and(|due| due <= now) {
            session.due = None;
            match session.step(id, now, &mut out) {
                Step::Goes(packets) => {
                    let mut all = session.packets(out);
                    all.extend(packets);
                    self.session = Some(session);
                    return all;
                }
                Step::Ends(end) => {
                    self.end(end);
                    return session.packets(out);
                }
            }
        }
        let packets = session.packets(out);
        self.session = Some(session);
        packets
    }

    /// What a client makes of silence: where the backend was to reset, the reset was lost.
    fn lose_patience(&mut self, session: &Session) {
        let is_over = session.ending == Ending::BackendResets && session.asked == session.questions;
        self.end(if is_over { End::Done } else { End::Broken });
    }

    /// Takes a packet.
    pub(crate) fn receive(&mut self, packet: &Packet, now: u64, random: &mut Random) -> Vec<Packet> {
        if packet.l4 == L4::Unreachable {
            self.hear_unreachable(&packet.payload);
            return vec![];
        }
        let ours = self.session.as_ref().is_some_and(|session| {
            let is_tcp = session.tcp.is_some();
            session.own == packet.destination
                && session.service == packet.source
                && is_tcp == (packet.protocol() == 6)
        });
        if !ours {
            // A connection of the past: its stack says that there is none.
            let reset =
                reset_for(packet).map(|segment| from_segment(packet.destination, packet.source, segment));
            return reset.into_iter().collect();
        }
        let Some(mut session) = self.session.take() else { return vec![] };
        session.heard_at = now;
        if session.tcp.is_none() {
            session.hear_datagram(self.id, &packet.payload, now, random);
            self.session = Some(session);
            return vec![];
        }
        let mut out = Vec::new();
        let end = session.hear(self.id, packet, now, &mut out);
        let packets = session.packets(out);
        match end {
            Some(end) => self.end(end),
            None => self.session = Some(session),
        }
        packets
    }

    /// An ICMP error about what it sent: nobody takes it. An open TCP connection goes on (RFC 1122 section 4.2.3.9).
    fn hear_unreachable(&mut self, quoted: &[u8]) {
        let Some(session) = &self.session else { return };
        let word = |at: usize| *quoted[at..].first_chunk::<4>().expect("a header and 8 bytes are quoted");
        let [a, b, c, d] = word(20);
        let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let (source, destination) = (Ipv4Addr::from(word(12)), Ipv4Addr::from(word(16)));
        let is_ours = (session.own, session.service) == ((source, ports.0), (destination, ports.1));
        if !is_ours || session.tcp.as_ref().is_some_and(Tcp::is_open) {
            return;
        }
        let was_answered = session.answered > 0;
        self.session = None;
        self.end(if was_answered { End::Broken } else { End::Refused });
    }

    fn end(&mut self, end: End) {
        match end {
            End::Done => self.outcome.done += 1,
            End::Refused => self.outcome.refused += 1,
            End::Broken => self.outcome.broken += 1,
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Refused,
    Broken,
}

/// What a session does next.
enum Step {
    Goes(Vec<Packet>),
    Ends(End),
}

impl Session {
    fn packets(&self, out: Vec<Segment>) -> Vec<Packet> {
        out.into_iter().map(|segment| from_segment(self.own, self.service, segment)).collect()
    }

    fn question(&self, client: u32, number: u32) -> Question {
        let is_last = number + 1 == self.questions;
        let wish = match self.ending {
            Ending::BackendCloses if is_last => Wish::Close,
            Ending::BackendResets if is_last => Wish::Reset,
            _ => Wish::Answer,
        };
        Question { client, connection: self.number, number, wish }
    }

    fn ask_datagram(&mut self, client: u32, now: u64) -> Packet {
        self.tries += 1;
        self.due = Some(now + ANSWER_MS);
        let payload = self.question(client, self.asked).bytes();
        Packet { source: self.own, destination: self.service, ttl: TTL, l4: L4::Udp, payload }
    }

    /// What is due: the next question, or the same datagram again, or the end.
    fn step(&mut self, client: u32, now: u64, out: &mut Vec<Segment>) -> Step {
        if self.tcp.is_none() {
            if self.asked >= self.questions {
                return Step::Ends(End::Done);
            }
            if self.tries >= DATAGRAM_TRIES_MAX {
                return Step::Ends(if self.answered > 0 { End::Broken } else { End::Refused });
            }
            return Step::Goes(vec![self.ask_datagram(client, now)]);
        }
        let question = self.question(client, self.asked);
        let (asked, questions, ending) = (self.asked, self.questions, self.ending);
        let Some(tcp) = &mut self.tcp else { return Step::Goes(vec![]) };
        if tcp.is_closed() {
            return Step::Ends(End::Done);
        }
        if asked < questions {
            self.asked += 1;
            tcp.send(question.bytes(), now, out);
            return Step::Goes(vec![]);
        }
        match ending {
            Ending::Resets => {
                tcp.abort(out);
                Step::Ends(End::Done)
            }
            Ending::Vanishes => Step::Ends(End::Done),
            _ => {
                tcp.close(now, out);
                Step::Goes(vec![])
            }
        }
    }

    /// A segment for a TCP session; how that ended, if it did.
    fn hear(&mut self, client: u32, packet: &Packet, now: u64, out: &mut Vec<Segment>) -> Option<End> {
        let mut tcp = self.tcp.take()?;
        let was_open = tcp.is_open();
        for heard in tcp.receive(packet, now, out) {
            match heard {
                Heard::Opened => self.due = Some(now + self.pause_ms),
                Heard::Message(bytes) => {
                    self.check_answer(client, &bytes, self.answered);
                    let backend = who_answered(&bytes);
                    let first = *self.backend.get_or_insert(backend);
                    assert_eq!(first, backend, "{:?} changed its backend", self.own);
                    self.answered += 1;
                    self.due = Some(now + self.pause_ms);
                }
                Heard::PeerClosed => tcp.close(now, out),
                Heard::Reset => {
                    let wanted = self.ending == Ending::BackendResets && self.asked == self.questions;
                    let is_ending = wanted || tcp.is_closed();
                    return Some(match (is_ending, was_open) {
                        (true, _) => End::Done,
                        (false, true) => End::Broken,
                        (false, false) => End::Refused,
                    });
                }
            }
        }
        if tcp.is_closed() && self.due.is_none() {
            // Time for the other end's last words (TIME_WAIT, if a short one).
            self.due = Some(now + 500);
        }
        self.tcp = Some(tcp);
        None
    }

    fn hear_datagram(&mut self, client: u32, bytes: &[u8], now: u64, random: &mut Random) {
        let answer = Question::read(bytes);
        assert_eq!(answer.client, client, "an answer to another client");
        if (answer.connection, answer.number) != (self.number, self.asked) {
            // Late, or twice.
            return;
        }
        self.answered += 1;
        self.asked += 1;
        self.tries = 0;
        self.due = Some(now + random.between(0, self.pause_ms));
    }

    fn check_answer(&self, client: u32, bytes: &[u8], number: u32) {
        let expected = self.question(client, number);
        assert_eq!(Question::read(bytes), expected, "the answer {:?} got", self.own);
    }
}
