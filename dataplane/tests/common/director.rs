//! A director of one worker on the memory twin, and the clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::{FlowTable, HashSecret, Rewrite};
use dataplane::index::{BackendIndex, EntryIndex, PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::persistence::Templates;
use dataplane::rules::{Mode, Ruleset, Service};
use dataplane::time::{Clock, Millis};
use dataplane::verdict::DropReason;
use dataplane::worker::{Publication, RulesQueue, Worker};

use super::rules::{FRONT, PORT_MACS, states};

/// Any two words serve as a secret here: tests want the same run every time.
pub(crate) const SECRET: HashSecret = HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);

/// A clock that stands still until somebody moves it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestClock(Arc<AtomicU32>);

impl TestClock {
    pub(crate) fn advance(&self, ms: u32) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&mut self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// One worker with everything it needs.
pub(crate) struct Director {
    pub(crate) worker: Worker<MemoryDevice, TestClock>,
    pub(crate) clock: TestClock,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) queue: RulesQueue,
}

impl Director {
    /// Worker 0 of one, with these rules in force and room for plenty of flows.
    pub(crate) fn new(rules: Ruleset) -> Self {
        Self::with(rules, WorkerIndex(0), 4_096)
    }

    /// Any worker, and as many table entries as said.
    pub(crate) fn with(rules: Ruleset, index: WorkerIndex, capacity: u32) -> Self {
        let table = FlowTable::new(capacity, Backing::Plain, SECRET).unwrap();
        let state = LineState::new(table, index, &PORT_MACS, 0);
        let (clock, counters, queue) = (TestClock::default(), Arc::default(), RulesQueue::default());
        let device = MemoryDevice::with_ports(PORT_MACS.len());
        let worker = Worker::new(device, clock.clone(), index, state, Arc::clone(&counters), queue.clone());
        let mut director = Self { worker, clock, counters, queue };
        let states = states(rules.services.len());
        let templates = Some(Templates::new(1_024, [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]));
        director.queue.publish(Publication { ruleset: Arc::new(rules), states, templates }).unwrap();
        director.worker.turn();
        director
    }

    /// Puts other rules in force; states and templates stay.
    pub(crate) fn publish(&mut self, rules: Ruleset) {
        let publication = Publication { ruleset: Arc::new(rules), states: vec![], templates: None };
        self.queue.publish(publication).unwrap();
        self.worker.turn();
    }

    /// Lets `frame` in by `port`.
    pub(crate) fn receive(&mut self, port: PortIndex, frame: impl Into<Box<[u8]>>) {
        let ports = &mut self.worker.device_mut().ports;
        ports[port.as_usize()].incoming.push_back(MemoryPacket::new(frame, port));
    }

    /// Turns until nothing waits any more.
    pub(crate) fn turn(&mut self) {
        while self.worker.turn() {}
    }

    /// Lets `frame` in by `port` and gives what comes out, with the port it leaves by.
    pub(crate) fn pass(
        &mut self,
        port: PortIndex,
        frame: impl Into<Box<[u8]>>,
    ) -> Option<(PortIndex, Vec<u8>)> {
        self.receive(port, frame);
        self.turn();
        let mut sent = self.sent();
        assert!(sent.len() <= 1, "one packet in, {} out", sent.len());
        sent.pop()
    }

    /// A frame of a client: in by the front port; what leaves.
    pub(crate) fn send(&mut self, frame: impl Into<Box<[u8]>>) -> Option<Vec<u8>> {
        self.pass(FRONT, frame).map(|(_, frame)| frame)
    }

    /// Everything sent since the last call, port by port, each in order.
    pub(crate) fn sent(&mut self) -> Vec<(PortIndex, Vec<u8>)> {
        let ports = self.worker.device_mut().ports.iter_mut().enumerate();
        ports
            .flat_map(|(port, queues)| {
                let port = PortIndex(port as u16);
                std::mem::take(&mut queues.outgoing).into_iter().map(move |packet| (port, data(&packet)))
            })
            .collect()
    }

    /// Turns once a millisecond for so long.
    pub(crate) fn wait(&mut self, ms: u32) {
        for _ in 0..ms {
            self.clock.advance(1);
            self.worker.turn();
        }
    }

    /// Every drop reason counted so far, with its count.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = |reason: &DropReason| (*reason, self.counters.dropped(*reason).value());
        DropReason::ALL.iter().map(counted).filter(|(_, count)| *count > 0).collect()
    }

    /// Connections held: two table entries for each of FullNAT, one for each of DR.
    pub(crate) fn table_used(&self) -> u32 {
        self.worker.line().state.table.used()
    }

    /// Fails unless every packet that came in left, was punted, steered, or dropped for a reason.
    pub(crate) fn assert_balanced(&mut self) {
        let counters = Arc::clone(&self.counters);
        let device = self.worker.device_mut();
        let (mut received, mut sent) = (0, 0);
        for number in 0..device.ports.len() as u16 {
            let traffic = counters.port(PortIndex(number));
            received += traffic.rx.packets.value();
            sent += traffic.tx.packets.value();
        }
        received +=
            counters.own_resets.value() + counters.steered_in.value() + counters.from_slow_path.value();
        let (punted, steered) = (counters.punted.value(), counters.steered.value());
        let dropped = counters.dropped_total();
        let waiting = counters.fragments_waiting.value();
        assert_eq!(
            received,
            sent + punted + steered + dropped + waiting,
            "received = {sent} sent + {punted} punted + {steered} steered + {dropped} dropped + {waiting} waiting"
        );
        assert_eq!(punted, device.ports.iter().map(|port| port.punted.len() as u64).sum::<u64>());
        let replied = counters.resets.value()
            + counters.unreachables.value()
            + counters.too_bigs.value()
            + counters.own_resets.value();
        let left = counters.forwarded.value() + replied;
        assert_eq!(left, sent + counters.dropped(DropReason::TxRefused).value());
    }

    /// Fails unless the table holds exactly the connections that were opened and not closed.
    pub(crate) fn assert_table_adds_up(&self) {
        let line = self.worker.line();
        let held: u64 = (0..line.rules.backends.len())
            .map(|index| {
                let index = BackendIndex(index as u32);
                let backend = self.counters.backend(index);
                let held = backend.opened.value() - backend.closed.value();
                let services = line.rules.services.iter().flatten();
                let service = services
                    .into_iter()
                    .find(|service| service.members.iter().any(|member| member.backend == index));
                let is_one_way = |service: &Service| matches!(service.mode, Mode::Dr | Mode::Tunnel);
                let paired = service.is_some_and(|service| !is_one_way(service));
                held * if paired { 2 } else { 1 }
            })
            .sum();
        assert_eq!(u64::from(self.table_used()), held, "entries in use, entries of the connections held");
        for (index, active) in self.active_connections().into_iter().enumerate() {
            let counted = self.counters.backend(BackendIndex(index as u32)).active.value();
            assert_eq!(counted, active, "active connections of backend {index}");
            let backend = BackendIndex(index as u32);
            let load = self.counters.load(backend);
            let held = self.counters.backend(backend).held();
            let told = (u64::from(load.active), u64::from(load.active + load.inactive));
            assert_eq!(told, (active, held), "the load of backend {index}, as schedulers see it");
        }
    }
}

impl Director {
    /// Active connections in the table, by backend.
    fn active_connections(&self) -> Vec<u64> {
        let line = self.worker.line();
        let mut active = vec![0; line.rules.backends.len()];
        let table = &line.state.table;
        let entries = (0..table.entry_count()).filter_map(|index| table.entry(EntryIndex(index)));
        // The second entry of a pair is the same connection.
        for entry in entries.filter(|entry| entry.is_used() && !entry.rewrite.is_to_client()) {
            active[entry.backend().as_usize()] += u64::from(entry.state.is_active());
        }
        active
    }
}

/// The bytes of a packet.
pub(crate) fn data(packet: &MemoryPacket) -> Vec<u8> {
    dataplane::packet::PacketBuf::data(packet).to_vec()
}
