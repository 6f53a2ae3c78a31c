//! `crossdock explain`: what would happen to a packet, step by step, and why.
//!
//! The packet walks the very line of the workers, on plain memory, by the ruleset in force (or one made from a file), as a new
//! connection to an empty flow table; connections that workers hold, and loads and limits over all workers, are asked for where
//! a director runs. Nothing of it is counted, and no worker notices. `walk` has the walk, `frame` the packet's words.
//!
//! What it cannot know: whose turn it is (`rr` and the like), and which clients return, as each worker keeps that for itself. It
//! says so.

mod frame;
mod text;
mod walk;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::bail;
use dataplane::counters::WorkerCounters;
use dataplane::index::PortIndex;
use dataplane::rules::Ruleset;
use dataplane::stage::framing::Framing;
use dataplane::wire::ethernet::MacAddress;
use dataplane::wire::tcp::TcpFlags;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use frame::flow_of_frame;

use crate::replay;
use crate::rules::build::{Builder, NextHop, PortFacts, static_next_hops};
use crate::rules::slots::NoWorkers;
use crate::rules::{Port, Protocol, Rules, Workers, nearest};

/// What is asked: about a packet told by its flow, or about a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    /// `tcp`, `udp`, `sctp` or `icmp` (a ping, whose identifier is the port of `from`), with `from` and `to`.
    pub protocol: Option<String>,
    /// Where it comes from: an address and l4_port.
    #[schema(value_type = Option<String>)]
    pub from: Option<SocketAddr>,
    /// Where it goes.
    #[schema(value_type = Option<String>)]
    pub to: Option<SocketAddr>,
    /// TCP: the flags that are set, `syn` where none are named.
    pub flags: Vec<String>,
    /// The frame itself, as hexadecimal digits, instead of all of these.
    pub frame: Option<String>,
    /// The port that it comes in by; the first where none is named.
    pub port: Option<String>,
}

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// The stage.
    pub stage: String,
    /// What it found, a sentence each.
    pub found: Vec<String>,
}

/// The ends of a flow, as its packets have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp` and so on, or the protocol's number.
    pub protocol: String,
    /// Where it comes from.
    #[schema(value_type = String)]
    pub from: SocketAddr,
    /// Where it goes.
    #[schema(value_type = String)]
    pub to: SocketAddr,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The port it comes in by.
    pub port: String,
    /// The headers it comes with, the outermost first.
    pub before: Vec<String>,
    /// The walk.
    pub steps: Vec<Step>,
    /// `forwarded`, `answered`, `kernel`, `waits` or `dropped`.
    pub verdict: String,
    /// Why it is dropped: the name of the counter.
    pub reason: Option<String>,
    /// Its flow, once it is known to have one.
    pub flow: Option<Flow>,
    /// The open connection that it belongs to; what is said of a new one is then not about it.
    pub connection: Option<String>,
    /// The worker that owns it.
    pub worker: u16,
    /// The service that takes it.
    pub service: Option<String>,
    /// The backend that gets it.
    pub backend: Option<String>,
    /// The port it leaves by.
    pub port_out: Option<String>,
    /// The headers it leaves with, the outermost first; those of the first where it leaves in pieces.
    pub after: Vec<String>,
}

/// What there is to be explained.
#[derive(Clone, Debug)]
pub struct World {
    /// As written.
    pub rules: Arc<Rules>,
    /// As the workers read them.
    pub ruleset: Arc<Ruleset>,
    /// The names of services, by slot.
    pub services: Vec<Option<String>>,
    /// The workers' counters; none where no director runs.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// The MACs of the ports.
    pub macs: Vec<MacAddress>,
    /// Addresses whose next hop is made up, as no `[[neighbour]]` names it.
    pub made_up: BTreeSet<IpAddr>,
}

/// The MAC of next hops that are made up; locally administered.
const SOME_NEXT_HOP: MacAddress = MacAddress([2, 0, 0, 0, 0xbe, 1]);

impl World {
    /// Of the rules that `builder` made last.
    pub fn new(
        rules: Arc<Rules>,
        builder: &Builder,
        counters: Vec<Arc<WorkerCounters>>,
        macs: Vec<MacAddress>,
    ) -> Self {
        let slots = builder.services();
        let mut services = vec![None; slots.len()];
        for service in &rules.services {
            if let Some(slot) = service.key().and_then(|key| slots.find(&key)) {
                services[slot] = Some(service.name.clone());
            }
        }
        Self {
            rules,
            ruleset: Arc::clone(builder.last()),
            services,
            counters,
            macs,
            made_up: BTreeSet::new(),
        }
    }

    /// Of rules that no director runs: next hops and MACs that are not written are made up.
    ///
    /// # Errors
    /// More services or backends than the line has room for.
    pub fn offline(rules: Rules) -> anyhow::Result<Self> {
        let macs: Vec<_> =
            rules.ports.iter().enumerate().map(|(index, port)| replay::port_mac(index, port)).collect();
        let facts = macs.iter().zip(&rules.ports).map(|(mac, port)| PortFacts {
            mac: *mac,
            is_station: port.kernel,
            mtu: port.mtu.unwrap_or(0),
            udp_offload: None,
        });
        let worker_count = match &rules.dataplane.workers {
            Workers::Auto => 1,
            Workers::Cores(cores) => cores.len() as u16,
        };
        let mut builder = Builder::new(facts.collect(), worker_count);
        let (mut next_hops, own) = (static_next_hops(&rules), rules.own_addresses());
        let mut made_up = BTreeSet::new();
        for address in rules.services.iter().flat_map(|service| service.addresses()) {
            if !own.contains(&address) && !next_hops.contains_key(&address) {
                let port = port_towards(&rules, address);
                next_hops.insert(address, NextHop { port, mac: SOME_NEXT_HOP, is_on_link: true });
                made_up.insert(address);
            }
        }
        builder.build(&rules, &next_hops, &NoWorkers)?;
        Ok(Self { made_up, ..Self::new(Arc::new(rules), &builder, Vec::new(), macs) })
    }

    fn service_name(&self, slot: usize) -> Option<&str> {
        self.services.get(slot)?.as_deref()
    }

    fn port_name(&self, port: PortIndex) -> &str {
        self.rules.ports.get(port.as_usize()).map_or("?", |port| &port.name)
    }

    /// How frames look on the wire of a port, as far as the rules say.
    fn framing(&self, port: PortIndex) -> Framing {
        let tags = self.rules.ports.get(port.as_usize()).and_then(|port: &Port| port.vlan);
        Framing { tags, ..Framing::PLAIN }
    }

    fn port_index(&self, name: Option<&str>) -> anyhow::Result<PortIndex> {
        let Some(name) = name else { return Ok(PortIndex(0)) };
        let names = self.rules.ports.iter().map(|port| port.name.as_str());
        match names.clone().position(|there| there == name) {
            Some(index) => Ok(PortIndex(index as u16)),
            None => match nearest(name, names.clone()) {
                Some(near) => bail!("the rules have no port \"{name}\"; is \"{near}\" meant?"),
                None => bail!(
                    "the rules have no port \"{name}\"; they have {}",
                    names.collect::<Vec<_>>().join(", ")
                ),
            },
        }
    }
}

/// The port on whose network an address is, or the last: the backends' side comes after the clients'.
fn port_towards(rules: &Rules, address: IpAddr) -> PortIndex {
    let on_link = |port: &Port| port.addresses.iter().any(|network| network.contains(&address));
    let last = rules.ports.len().saturating_sub(1);
    PortIndex(rules.ports.iter().position(on_link).unwrap_or(last) as u16)
}

impl Question {
    /// The frame that is asked about. `station` is the MAC of the port it comes in by; one that is told by its flow has no tags.
    fn frame(&self, station: MacAddress) -> anyhow::Result<(Vec<u8>, bool)> {
        match (&self.frame, &self.protocol, self.from, self.to) {
            (Some(digits), None, None, None) if self.flags.is_empty() => Ok((bytes_of(digits)?, true)),
            (None, Some(protocol), Some(from), Some(to)) => {
                let protocol = protocol_of(protocol)?;
                let flags = self.tcp_flags(protocol)?;
                Ok((frame::made_up(protocol, (from, to), flags, station)?, false))
            }
            _ => bail!("say a protocol, `from` and `to`, or a frame"),
        }
    }

    fn tcp_flags(&self, protocol: Protocol) -> anyhow::Result<TcpFlags> {
        if protocol != Protocol::Tcp && !self.flags.is_empty() {
            bail!("{protocol} has no flags");
        }
        if self.flags.is_empty() {
            return Ok(TcpFlags::SYN);
        }
        let all =
            [("syn", TcpFlags::SYN), ("ack", TcpFlags::ACK), ("fin", TcpFlags::FIN), ("rst", TcpFlags::RST)];
        self.flags.iter().try_fold(TcpFlags(0), |set, word| {
            match all.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
                Some((_, flag)) => Ok(TcpFlags(set.0 | flag.0)),
                None => bail!("{word:?} is no flag; allowed: syn, ack, fin, rst"),
            }
        })
    }
}

fn protocol_of(text: &str) -> anyhow::Result<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
    match all.into_iter().find(|protocol| protocol.to_string().eq_ignore_ascii_case(text)) {
        Some(protocol) => Ok(protocol),
        None => bail!("{text:?} is not a protocol; allowed: {}", all.map(|p| p.to_string()).join(", ")),
    }
}

/// The bytes that hexadecimal digits stand for.
fn bytes_of(digits: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let text = str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    };
    match pairs.map(byte).collect() {
        Some(bytes) => Ok(bytes),
        None => bail!("`frame` is an even number of hexadecimal digits"),
    }
}

/// A frame as `Question::frame` has it.
pub fn digits_of(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Explains what would happen.
///
/// # Errors
/// A question that is none, or about a port that is not there.
pub fn explain(world: &World, question: &Question) -> anyhow::Result<Explanation> {
    let port = world.port_index(question.port.as_deref())?;
    let station = world.macs.get(port.as_usize()).copied().unwrap_or_default();
    let (frame, is_from_wire) = question.frame(station)?;
    let before = frame::described(&frame);
    let mut answer = Explanation { port: world.port_name(port).to_owned(), before, ..Explanation::default() };
    walk::walk(world, port, frame, is_from_wire, &mut answer)?;
    Ok(answer)
}
