//! The network between clients, director and backends: it delays, reorders, doubles and loses. And what is to happen
//! when, in simulated milliseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dataplane::index::PortIndex;
use dataplane::wire::ethernet::MacAddress;

use crate::packet::{Endpoint, Packet};
use crate::random::Random;

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A packet reaches the director.
    ToDirector { packet: Packet, port: PortIndex, from: MacAddress },
    /// A packet reaches a client.
    ToClient(Packet),
    /// A packet reaches a backend.
    ToBackend(usize, Packet),
    /// A client has something to do.
    ClientWakes(usize),
    /// A connection of a backend has something to do: the backend, its peer, its own endpoint.
    BackendWakes(usize, Endpoint, Endpoint),
    /// The rules change.
    RulesChange,
    /// The network around the backends changes.
    WaysChange,
    /// The clients' routers change places.
    RoutersChange,
}

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// Packets lost, in percent.
    pub(crate) loss: u64,
    /// Packets that arrive twice, in percent.
    pub(crate) doubles: u64,
    /// The least time a packet takes, in milliseconds.
    pub(crate) delay_ms: u64,
    /// What may be added to it, differently for each packet: so packets overtake each other.
    pub(crate) jitter_ms: u64,
}

impl Quality {
    pub(crate) fn random(random: &mut Random) -> Self {
        Self {
            loss: random.pick(&[0, 0, 1, 4, 10]),
            doubles: random.pick(&[0, 0, 2, 10]),
            delay_ms: random.between(0, 10),
            jitter_ms: random.pick(&[0, 0, 3, 20]),
        }
    }
}

/// Events in the order of their time, and of their coming among those of one time.
#[derive(Debug)]
pub(crate) struct Network {
    quality: Quality,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: std::collections::HashMap<u64, Event>,
    count: u64,
}

impl Network {
    pub(crate) fn new(quality: Quality) -> Self {
        Self { quality, events: BinaryHeap::new(), bodies: std::collections::HashMap::new(), count: 0 }
    }

    /// Lets `event` happen at `at`.
    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count)));
        self.bodies.insert(self.count, event);
    }

    /// Carries a packet that leaves at `now`, or loses it.
    pub(crate) fn carry(&mut self, now: u64, event: Event, random: &mut Random) {
        let Quality { loss, doubles, delay_ms, jitter_ms } = self.quality;
        let copies = 1 + u64::from(random.chance(doubles));
        for _ in 0..copies {
            if !random.chance(loss) {
                self.schedule(now + delay_ms + random.between(0, jitter_ms), event.clone());
            }
        }
    }

    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((at, _))| *at)
    }

    /// The next event, if it is due at `now`.
    pub(crate) fn take(&mut self, now: u64) -> Option<Event> {
        let Reverse((at, number)) = *self.events.peek()?;
        if at > now {
            return None;
        }
        self.events.pop();
        self.bodies.remove(&number)
    }
}
