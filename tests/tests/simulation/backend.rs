//! A backend: answers every question with the question and its own name, and finds out when one connection carries two
//! clients' questions.

use std::collections::BTreeMap;

use crate::message::{Question, Wish};
use crate::packet::{Endpoint, L4, Packet, RST, SYN, TTL};
use crate::random::Random;
use crate::tcp::{Heard, Segment, Tcp, reset_for};

/// A connection of a backend.
#[derive(Debug)]
struct Connection {
    tcp: Tcp,
    /// The client's and its connection's number.
    whose: Option<(u32, u32)>,
    next_number: u32,
}

/// A backend.
#[derive(Debug)]
pub(crate) struct Backend {
    id: usize,
    /// By peer and own endpoint.
    connections: BTreeMap<(Endpoint, Endpoint), Connection>,
    pub(crate) questions: u64,
}

impl Backend {
    pub(crate) fn new(id: usize) -> Self {
        Self { id, connections: BTreeMap::new(), questions: 0 }
    }

    /// Takes a packet; what it sends, and when it wants to be woken for this connection.
    pub(crate) fn receive(
        &mut self,
        packet: &Packet,
        now: u64,
        random: &mut Random,
    ) -> (Vec<Packet>, Option<u64>) {
        let L4::Tcp { seq, flags, .. } = packet.l4 else {
            self.questions += 1;
            let answer = Question::read(&packet.payload).answer(self.id);
            return (vec![reply(packet, L4::Udp, answer)], None);
        };
        let ends = (packet.source, packet.destination);
        let mut out = Vec::new();
        if flags & (SYN | RST) == SYN {
            let is_new = self.connections.get(&ends).is_none_or(|known| !known.tcp.began_with(seq));
            if is_new {
                // What was there before is its client's business no more: the same endpoint begins anew.
                let tcp = Tcp::accept(random.word() as u32, seq, now, &mut out);
                self.connections.insert(ends, Connection { tcp, whose: None, next_number: 0 });
                return self.sent(ends, out);
            }
        }
        let Some(connection) = self.connections.get_mut(&ends) else {
            out.extend(reset_for(packet));
            return self.sent(ends, out);
        };
        for heard in connection.tcp.receive(packet, now, &mut out) {
            match heard {
                Heard::Message(bytes) => {
                    self.questions += 1;
                    connection.hear(self.id, Question::read(&bytes), now, &mut out);
                }
                Heard::PeerClosed => connection.tcp.close(now, &mut out),
                Heard::Opened => {}
                Heard::Reset => {
                    self.connections.remove(&ends);
                    break;
                }
            }
        }
        if self.connections.get(&ends).is_some_and(|connection| connection.tcp.is_dead()) {
            self.connections.remove(&ends);
        }
        self.sent(ends, out)
    }

    /// Sends again what was not acknowledged.
    pub(crate) fn wake(&mut self, peer: Endpoint, own: Endpoint, now: u64) -> (Vec<Packet>, Option<u64>) {
        let mut out = Vec::new();
        if let Some(connection) = self.connections.get_mut(&(peer, own))
            && !connection.tcp.tick(now, &mut out)
        {
            self.connections.remove(&(peer, own));
        }
        self.sent((peer, own), out)
    }

    fn sent(&self, (peer, own): (Endpoint, Endpoint), out: Vec<Segment>) -> (Vec<Packet>, Option<u64>) {
        let packets = out.into_iter().map(|segment| from_segment(own, peer, segment)).collect();
        (packets, self.connections.get(&(peer, own)).and_then(|connection| connection.tcp.wakes_at()))
    }
}

impl Connection {
    fn hear(&mut self, id: usize, question: Question, now: u64, out: &mut Vec<Segment>) {
        let whose = (question.client, question.connection);
        assert_eq!(*self.whose.get_or_insert(whose), whose, "two clients on one connection of backend {id}");
        assert_eq!(question.number, self.next_number, "backend {id} lost a question of {whose:?}");
        self.next_number += 1;
        match question.wish {
            Wish::Reset => self.tcp.abort(out),
            Wish::Answer => self.tcp.send(question.answer(id), now, out),
            Wish::Close => {
                self.tcp.send(question.answer(id), now, out);
                self.tcp.close(now, out);
            }
        }
    }
}

/// The packet of a segment.
pub(crate) fn from_segment(source: Endpoint, destination: Endpoint, segment: Segment) -> Packet {
    let Segment { seq, ack, flags, payload } = segment;
    Packet { source, destination, ttl: TTL, l4: L4::Tcp { seq, ack, flags }, payload }
}

fn reply(to: &Packet, l4: L4, payload: Vec<u8>) -> Packet {
    Packet { source: to.destination, destination: to.source, ttl: TTL, l4, payload }
}
