//! `crossdock replay`: the line on capture files, on plain memory; no DPDK, no root.
//!
//! The time is the capture's: connections expire when the packets' timestamps say so. Next hops are the rules'
//! `[[neighbour]]`. Every run gives the same result.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cpu::Backing;
use dataplane::counters::WorkerCounters;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::packet::PacketBuf;
use dataplane::stage::framing::Framing;
use dataplane::time::{Clock, Millis};
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{RulesQueue, Worker};

use crate::capture::{CaptureReader, CaptureWriter};
use crate::report::{self, Accounts, Report};
use crate::rules::build::{Builder, PortFacts, static_next_hops};
use crate::rules::slots::NoWorkers;
use crate::rules::{Memory, Port, Rules};
use crate::table_memory;

/// Nobody attacks a file, and two runs shall give the same connections the same places.
const SECRET: HashSecret = HashSecret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
/// A turn of the idle worker stands for this much time.
const STEP_MS: u32 = 1;

/// The capture's time, in milliseconds from its first packet.
#[derive(Clone, Debug, Default)]
struct VirtualClock(Rc<Cell<u32>>);

impl Clock for VirtualClock {
    fn now(&mut self) -> Millis {
        Millis(self.0.get())
    }
}

/// A director of one worker on files.
struct Replay {
    worker: Worker<MemoryDevice, VirtualClock>,
    clock: VirtualClock,
    counters: Arc<WorkerCounters>,
    builder: Builder,
    accounts: Accounts,
}

/// Sends the packets of `input` through the line of `rules` and writes those that leave to `output`, each with the
/// time its packet came in. They enter by the port named `port`, or by the first.
///
/// # Errors
/// A file that cannot be read or written, is no capture, or ends before its end; no port of that name; more
/// services or backends than the line has room for.
pub fn replay(rules: &Rules, input: &Path, output: &Path, port: Option<&str>) -> anyhow::Result<Report> {
    let port = port_index(rules, port)?;
    let mut reader = CaptureReader::open(input).with_context(|| input.display().to_string())?;
    if is_same_file(input, output) {
        bail!("{}: input and output are the same file", output.display());
    }
    let mut replay = Replay::new(rules)?;
    let mut writer = CaptureWriter::create(output).with_context(|| output.display().to_string())?;
    let (mut first, mut latest) = (None, Duration::ZERO);
    while let Some(packet) = reader.next_packet().with_context(|| input.display().to_string())? {
        // Packets of several interfaces may lie in the file a little out of order: time stands still then.
        latest = latest.max(packet.time);
        let first = *first.get_or_insert(latest);
        replay.advance_to(latest - first);
        let memory = MemoryPacket::new(packet.frame, port).with_packet_len(packet.wire_len);
        for sent in replay.pass(port, memory) {
            let written = writer.write(packet.time, sent.packet_len(), sent.data());
            written.with_context(|| output.display().to_string())?;
        }
    }
    writer.finish().with_context(|| output.display().to_string())?;
    Ok(replay.report(latest - first.unwrap_or(latest), rules))
}

/// Backends that cannot be reached, by service and address: no `[[neighbour]]` says how.
pub fn unreachable_backends(rules: &Rules) -> Vec<String> {
    let (next_hops, own) = (static_next_hops(rules), rules.own_addresses());
    let of_service = |service: &std::sync::Arc<crate::rules::Service>| {
        let is_unknown = |address: &_| !next_hops.contains_key(address) && !own.contains(address);
        let addresses = service.addresses().filter(is_unknown);
        addresses.map(|address| format!("{}: {address}", service.name)).collect::<Vec<_>>()
    };
    rules.services.iter().flat_map(of_service).collect()
}

fn port_index(rules: &Rules, name: Option<&str>) -> anyhow::Result<PortIndex> {
    let Some(name) = name else { return Ok(PortIndex(0)) };
    let Some(index) = rules.ports.iter().position(|port| port.name == name) else {
        let names: Vec<_> = rules.ports.iter().map(|port| port.name.as_str()).collect();
        bail!("the rules have no port \"{name}\"; they have {}", names.join(", "));
    };
    Ok(PortIndex(index as u16))
}

fn is_same_file(input: &Path, output: &Path) -> bool {
    fs::canonicalize(output).is_ok_and(|output| fs::canonicalize(input).is_ok_and(|input| input == output))
}

/// The MAC that the rules give a port, or one made up from its place.
pub(crate) fn port_mac(index: usize, port: &Port) -> MacAddress {
    port.mac.map_or(MacAddress([2, 0, 0, 0, 0, index as u8 + 1]), |mac| MacAddress(mac.0))
}

impl Replay {
    fn new(rules: &Rules) -> anyhow::Result<Self> {
        let macs: Vec<_> =
            rules.ports.iter().enumerate().map(|(index, port)| port_mac(index, port)).collect();
        // A capture holds the frames of both sides, whatever the MAC they were sent to.
        let facts = macs.iter().zip(&rules.ports).map(|(mac, port)| PortFacts {
            mac: *mac,
            is_station: false,
            mtu: port.mtu.unwrap_or(0),
            udp_offload: None,
        });
        let facts = facts.collect();
        let mut builder = Builder::new(facts, 1);
        let built = builder.build(rules, &static_next_hops(rules), &NoWorkers)?;
        let (counters, queue) = (Arc::<WorkerCounters>::default(), RulesQueue::default());
        let mut accounts = Accounts::default();
        accounts.note(&built, &builder, &[&counters]);
        queue.publish(built.publication(|| 0)).ok().context("a new queue takes the rules")?;
        table_memory::check(Memory::Plain, rules.dataplane.max_flows, 1)?;
        let table = FlowTable::new(rules.dataplane.max_flows, Backing::Plain, SECRET)
            .with_context(|| format!("memory for {} flows", rules.dataplane.max_flows))?;
        let state = LineState::new(table, WorkerIndex(0), &macs, 0).with_fragments(rules.dataplane.fragments);
        let mut device = MemoryDevice::with_ports(rules.ports.len());
        for (memory, port) in device.ports.iter_mut().zip(&rules.ports) {
            memory.twin = port.kernel;
            memory.framing = Framing { tags: port.vlan, ..Framing::PLAIN };
        }
        let clock = VirtualClock::default();
        let counted = Arc::clone(&counters);
        let worker = Worker::new(device, clock.clone(), WorkerIndex(0), state, counted, queue);
        Ok(Self { worker, clock, counters, builder, accounts })
    }

    /// Lets the worker turn until the capture has run for `elapsed`. With no connection left there is nothing that
    /// could expire, and the rest of a pause is left out; so a pause costs at most the longest timeout.
    fn advance_to(&mut self, elapsed: Duration) {
        // 32 bits of milliseconds wrap by design; see `Millis`.
        let target = Millis(elapsed.as_millis() as u32);
        while self.clock.0.get() != target.0 && self.worker.line().state.table.used() > 0 {
            self.clock.0.set(self.clock.0.get().wrapping_add(STEP_MS));
            self.worker.turn();
        }
        self.clock.0.set(target.0);
    }

    /// One packet in; those that leave.
    fn pass(&mut self, port: PortIndex, packet: MemoryPacket) -> Vec<MemoryPacket> {
        if let Some(port) = self.worker.device_mut().ports.get_mut(port.as_usize()) {
            port.incoming.push_back(packet);
        }
        self.worker.turn();
        let ports = &mut self.worker.device_mut().ports;
        // What the kernel would get is counted and goes nowhere.
        ports.iter_mut().for_each(|port| port.punted.clear());
        ports.iter_mut().flat_map(|port| port.outgoing.drain(..)).collect()
    }

    fn report(&self, elapsed: Duration, rules: &Rules) -> Report {
        let workers = [self.counters.as_ref()];
        report::report(elapsed.as_secs_f64(), rules, &self.builder, &self.accounts, &workers)
    }
}
