//! One worker on plain memory, and what becomes of a packet there.

use std::sync::Arc;

use control::rules::Rules;
use control::rules::build::{Builder, PortFacts, static_next_hops};
use control::rules::slots::NoWorkers;
use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::packet::PacketBuf;
use dataplane::time::{Clock, Millis};
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{RulesQueue, Worker};

use crate::rules::STATION;

/// Time that stands still.
struct Still;

impl Clock for Still {
    fn now(&mut self) -> Millis {
        Millis(0)
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Sent(Vec<u8>),
    /// To the kernel, as these bytes.
    Punted(Vec<u8>),
    Dropped,
}

/// A director of one worker.
pub(crate) struct Director {
    worker: Worker<MemoryDevice, Still>,
    builder: Builder,
    queue: RulesQueue,
}

impl Director {
    pub(crate) fn new(rules: &str) -> Self {
        let mac: MacAddress = STATION.parse().unwrap();
        let builder =
            Builder::new(vec![PortFacts { mac, is_station: false, mtu: 1_500, udp_offload: None }], 1);
        let (counters, queue) = (Arc::<WorkerCounters>::default(), RulesQueue::default());
        let table =
            FlowTable::new(1_024, Backing::Plain, HashSecret::new([3 << 60 | 7, 5 << 59 | 9])).unwrap();
        let mut device = MemoryDevice::with_ports(1);
        device.ports[0].twin = true;
        let state = LineState::new(table, WorkerIndex(0), &[mac], 0);
        let worker = Worker::new(device, Still, WorkerIndex(0), state, counters, queue.clone());
        let mut director = Self { worker, builder, queue };
        director.publish(rules);
        director
    }

    /// Puts rules in force; what is known stays known.
    pub(crate) fn publish(&mut self, rules: &str) {
        let rules =
            Rules::parse("katran", rules).unwrap_or_else(|errors| panic!("{}{rules}", errors.plain()));
        let built = self.builder.build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
        self.queue.publish(built.publication(|| 0)).ok().unwrap();
        while self.worker.turn() {}
    }

    pub(crate) fn pass(&mut self, frame: &[u8]) -> Fate {
        let packet = MemoryPacket::new(frame, PortIndex(0));
        self.worker.device_mut().ports[0].incoming.push_back(packet);
        while self.worker.turn() {}
        let port = &mut self.worker.device_mut().ports[0];
        let sent = port.outgoing.drain(..).next();
        let punted = port.punted.drain(..).next();
        match (sent, punted) {
            (Some(sent), _) => Fate::Sent(sent.data().to_vec()),
            (None, Some(punted)) => Fate::Punted(punted.data().to_vec()),
            (None, None) => Fate::Dropped,
        }
    }
}

pub(crate) fn shown(fate: &Fate) -> String {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    match fate {
        Fate::Sent(bytes) => format!("sent {}", hex(bytes)),
        Fate::Punted(bytes) => format!("kernel {}", hex(bytes)),
        Fate::Dropped => "dropped".to_owned(),
    }
}
