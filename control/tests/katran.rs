//! Packets as Katran forwards them: `../shared/conformance/katran-fixtures.json` beside the repository (its `meta` tells how
//! it was recorded) against the line on plain memory, with rules that say the same. Where that file is not there, the few
//! cases written down here are compared instead.
//!
//! A backend that Katran's ring chose may be another one here: then the bytes that the recording names may differ, and
//! the outer destination must still be a real of the packet's own VIP. Where Crossdock is different and means to be, [`DIFFERENT`] says what
//! becomes of the packet, and `docs/katran.md` why; a case listed there that is equal fails too. The same packets go through `crossdock replay` as captures.

mod crossdock;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use control::rules::Rules;
use control::rules::build::{Builder, PortFacts, static_next_hops};
use control::rules::slots::NoWorkers;
use cpu::Backing;
use dataplane::adjacency::Adjacency;
use dataplane::checks::carry::{CheckCarrier, ToBackend};
use dataplane::checks::{Check, Checks};
use dataplane::counters::WorkerCounters;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::packet::PacketBuf;
use dataplane::rules::{Carrier, Encapsulation, Source, Tunnel};
use dataplane::time::{Clock, Millis};
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{RulesQueue, Worker};
use serde_json::{Value, json};

/// The MAC that recorded frames are sent to, and that Katran's have as their source.
const STATION: &str = "02:00:00:00:00:00";
/// Katran's default router.
const ROUTER: &str = "00:00:de:ad:be:af";

/// Cases that are not equal: the set, its cases, the words by which `docs/katran.md` says why, and what is the case here.
const DIFFERENT: &[(&str, &[u64], &str, Here)] = &[
    ("ipip_base", &[12], "IPv4 options", Here::Carried),
    ("gue_base", &[10], "IPv4 options", Here::Carried),
    // The outer source and the checksum over it; of GUE the UDP source port and that checksum.
    ("ipip_base", &[19, 20], "by port alone", Here::Differs(&[(24, 2), (26, 4)])),
    ("gue_base", &[17, 18], "by port alone", Here::Differs(&[(34, 2), (40, 2)])),
    ("ipip_tpr", &[14], "by port alone", Here::Differs(&[(24, 2), (26, 4)])),
    ("ipip_base", &[8, 9], "echo to a VIP", Here::Kernel),
    ("gue_base", &[6, 7], "echo to a VIP", Here::Kernel),
    ("ipip_base", &[14], "a fragment of nothing known", Here::Kernel),
    ("gue_base", &[12], "a fragment of nothing known", Here::Kernel),
    ("ipip_icmp_toobig", &[1], "what does not fit", Here::Dropped),
    ("ipip_icmp_toobig", &[2], "what does not fit", Here::ToldTooBig),
    ("gue_xpop_decap", &[6], "out of a tunnel to a VIP", Here::Carried),
    ("gue_decap_stats", &[1, 2], "out of a tunnel to a VIP", Here::Carried),
    ("gue_egress_decap", &[1, 2, 3], "out of a tunnel from a VIP", Here::KernelUnwrapped),
    ("xdpdecap_ipip", &[3, 4], "fragments outside of tunnels", Here::Kernel),
    ("xdpdecap_gue", &[4, 5], "fragments outside of tunnels", Here::Kernel),
];

/// What becomes of a packet of which Katran makes something else.
#[derive(Clone, Copy, Debug)]
enum Here {
    /// The kernel's, as it came.
    Kernel,
    /// The kernel's, out of its tunnel and otherwise as it came.
    KernelUnwrapped,
    Dropped,
    /// To one of its VIP's own reals, in the tunnel; but for hops and their checksum as it came, or as it was in its own tunnel.
    Carried,
    /// Sent as Katran does but for these bytes, offset and length, and those of the backend.
    Differs(&'static [(usize, usize)]),
    /// An ICMPv6 packet too big to its sender, with all that fits 1,280 bytes.
    ToldTooBig,
}

impl Here {
    /// Whether it is the case.
    fn is(self, set: &Value, case: &Value, fate: &Fate) -> bool {
        let input = hex(&text(case, "input_hex"));
        match (self, fate) {
            (Self::Kernel, Fate::Punted(punted)) => *punted == input,
            (Self::KernelUnwrapped, Fate::Punted(punted)) => {
                punted.len() < input.len() && input.ends_with(&punted[14..])
            }
            (Self::Dropped, Fate::Dropped) => true,
            (Self::Carried, Fate::Sent(sent)) => {
                let (Some(inner), Some(real)) = (inner(sent), outer_destination(sent)) else { return false };
                // Behind the hops, and IPv4's checksum.
                let rest = &inner[if inner[0] >> 4 == 6 { 8 } else { 12 }..];
                reals_of(set, sent).contains(&real) && input.ends_with(rest)
            }
            (Self::Differs(ranges), Fate::Sent(sent)) => {
                let recorded = hex(&text(case, "expected_hex"));
                let differs =
                    ranges.iter().all(|(at, len)| recorded.get(*at..at + len) != sent.get(*at..at + len));
                differs && is_as_recorded(case, set, &recorded, sent, ranges)
            }
            (Self::ToldTooBig, Fate::Sent(sent)) => {
                let (to, from) = (&input[6..12], &input[..6]);
                sent.len() == 14 + 1_280
                    && sent.starts_with(&[to, from, &[0x86, 0xdd]].concat())
                    && (sent[20], &sent[54..56]) == (58, &[2, 0][..])
                    && sent[62..] == input[14..14 + 1_232]
            }
            _ => false,
        }
    }
}

/// Time that stands still.
struct Still;

impl Clock for Still {
    fn now(&mut self) -> Millis {
        Millis(0)
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Sent(Vec<u8>),
    /// To the kernel, as these bytes.
    Punted(Vec<u8>),
    Dropped,
}

/// A director of one worker.
struct Director {
    worker: Worker<MemoryDevice, Still>,
    builder: Builder,
    queue: RulesQueue,
}

impl Director {
    fn new(rules: &str) -> Self {
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
    fn publish(&mut self, rules: &str) {
        let rules =
            Rules::parse("katran", rules).unwrap_or_else(|errors| panic!("{}{rules}", errors.plain()));
        let built = self.builder.build(&rules, &static_next_hops(&rules), &NoWorkers).unwrap();
        self.queue.publish(built.publication(|| 0)).ok().unwrap();
        while self.worker.turn() {}
    }

    fn pass(&mut self, frame: &[u8]) -> Fate {
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

fn is_gue(set: &str) -> bool {
    set.starts_with("gue") || set == "xdpdecap_gue"
}

/// Rules that say what a set's configuration does.
fn rules(set: &Value) -> String {
    let (name, config) = (text(set, "name"), &set["config"]);
    let mut rules = format!(
        "[[port]]\nname = \"p\"\ndevice = \"null\"\nkernel = true\nmac = \"{STATION}\"\n\
         addresses = [\"10.0.13.37/24\", \"fc00:2307::1337/64\"]\n"
    );
    if let Some(addresses) = decap_addresses(&name) {
        let (kind, port) = if is_gue(&name) { ("gue", "gue_port = 9886\n") } else { ("ipip", "") };
        write!(rules, "[decap]\naddresses = {addresses:?}\nencapsulations = \"{kind}\"\n{port}").unwrap();
    }
    for real in list(config, "reals") {
        let address = text(real, "address");
        write!(rules, "[[neighbour]]\naddress = \"{address}\"\nmac = \"{ROUTER}\"\nport = \"p\"\n").unwrap();
    }
    for vip in list(config, "vips") {
        rules += &service(set, vip);
    }
    rules
}

/// Where Katran's configuration for a set has tunnels end; it is not in the recording, and is read off its packets.
fn decap_addresses(set: &str) -> Option<Vec<&'static str>> {
    match set {
        "gue_xpop_decap" => Some(vec!["fc00:1404::1", "fc00:2307::1337"]),
        "gue_egress_decap" => Some(vec!["fc00:1405::1"]),
        "gue_decap_stats" => Some(vec!["fc00:2307::1337"]),
        "xdpdecap_ipip" | "xdpdecap_gue" => Some(vec!["172.16.100.1", "100::2"]),
        _ => None,
    }
}

/// Where clients of these prefixes go, likewise.
const ROUTES: [(&str, &str); 4] = [
    ("192.168.0.0/17", "fc00::2307:1"),
    ("192.168.100.0/24", "fc00::2307:2"),
    ("fc00:2::/64", "fc00::2307:10"),
    ("fc00:2307::/32", "fc00::2307:4"),
];

fn service(set: &Value, vip: &Value) -> String {
    let (name, address) = (text(set, "name"), text(vip, "address"));
    let is_tcp = vip["proto"] == 6;
    let has = |flag: &str| list(vip, "flag_names").iter().any(|name| name == flag);
    let server_ids = match () {
        () if has("F_QUIC_VIP") => "server_ids = { datagrams = \"mvfst\" }\n",
        () if has("F_UDP_STABLE_ROUTING_VIP") => {
            "server_ids = { datagrams = \"offset\", offset = 1, length = 3 }\n"
        }
        () if is_tcp && name == "ipip_tpr" => "server_ids = { tcp_option = 0xb7 }\n",
        () => "",
    };
    let is_routed = has("F_SRC_ROUTING") && name == "gue_lpm_src";
    let mut service = format!(
        "[[service]]\nname = \"vip{}\"\nlisten = \"{}\"\nmode = \"tunnel\"\nscheduler = \"mh\"\nannounce = \"external\"\n\
         no_backend = \"drop\"\nttl = \"{}\"\n{}{}{server_ids}tunnel = {}\nbackend = [{}]\n",
        vip["vip_num"],
        listen(vip),
        // Katran lowers it where it takes a packet out of a tunnel, and nowhere else.
        if name == "gue_xpop_decap" { "lower" } else { "keep" },
        if is_tcp { "no_flow = \"schedule\"\n" } else { "" },
        if has("F_UDP_FLOW_MIGRATION") { "on_remove = \"move\"\n" } else { "" },
        tunnel(&name),
        backends(set, vip, !server_ids.is_empty(), is_routed).join(", "),
    );
    for (from, backend) in
        ROUTES.iter().filter(|(from, _)| is_routed && from.contains(':') == address.contains(':'))
    {
        write!(service, "[[service.route]]\nfrom = \"{from}\"\nbackend = \"[{backend}]\"\n").unwrap();
    }
    service
}

fn listen(vip: &Value) -> String {
    let address = text(vip, "address");
    let network = match vip["cidr_prefix_len"].as_u64().unwrap() {
        0 => address.clone(),
        len => format!("{address}/{len}"),
    };
    let vips = if address.contains(':') { format!("[{network}]") } else { network };
    let l4_port = match vip["port"].as_u64().unwrap() {
        0 => "*".to_owned(),
        l4_port => l4_port.to_string(),
    };
    format!("{} {vips}:{l4_port}", if vip["proto"] == 6 { "tcp" } else { "udp" })
}

fn tunnel(set: &str) -> &'static str {
    if is_gue(set) {
        "{ encapsulation = \"gue\", port = 9886, dont_fragment = false, udp_checksum = true }"
    } else {
        "{ source = \"per-flow\", dont_fragment = false }"
    }
}

/// The VIP's reals. Katran's server IDs and routes lead to any real there is: here a backend of the service that gets
/// nothing, or next to nothing, by itself.
fn backends(set: &Value, vip: &Value, has_ids: bool, is_routed: bool) -> Vec<String> {
    let own: Vec<_> = list(vip, "reals").iter().map(|real| text(real, "address")).collect();
    let all = list(&set["config"], "reals").iter().map(|real| text(real, "address"));
    let (mut backends, is_v4_alone) = (Vec::new(), text(set, "name").starts_with("gue_udp_migration"));
    for address in all.filter(|address| own.contains(address) || has_ids || is_routed) {
        let ids = set["config"]["server_ids"].as_object().into_iter().flatten();
        let ids: Vec<_> = ids.filter(|(_, real)| **real == *address).map(|(id, _)| id.as_str()).collect();
        let id = if has_ids { format!(", server_id = [{}]", ids.join(", ")) } else { String::new() };
        let weight = match (own.contains(&address), is_routed) {
            (true, _) => 1_000,
            (false, is_routed) => u32::from(is_routed),
        };
        // Where a VIP has reals of both families, and Katran's ring chose one of the first: the recording says nothing of the other.
        let is_left_out = is_v4_alone && own.contains(&"10.0.0.2".to_owned()) && address != "10.0.0.2";
        let is_left_out =
            is_left_out || is_v4_alone && !own.contains(&"10.0.0.2".to_owned()) && !address.contains(':');
        if !is_left_out {
            backends.push(format!("{{ address = \"{}\", weight = {weight}{id} }}", quoted(&address)));
        }
    }
    backends
}

/// An address as an endpoint is written.
fn quoted(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// What a case asks for.
fn expected(case: &Value) -> Fate {
    let bytes = hex(&text(case, "expected_hex"));
    match text(case, "expected_action").as_str() {
        "XDP_TX" | "TC_ACT_REDIRECT" => Fate::Sent(bytes),
        "XDP_PASS" | "TC_ACT_UNSPEC" => Fate::Punted(bytes),
        "XDP_DROP" => Fate::Dropped,
        other => panic!("{other}"),
    }
}

/// Whether the packet that was sent is the recorded one, or differs where another backend makes a difference, and in `more`.
fn is_as_recorded(case: &Value, set: &Value, recorded: &[u8], sent: &[u8], more: &[(usize, usize)]) -> bool {
    if sent == recorded {
        return true;
    }
    let (mut with, mut without) = (recorded.to_vec(), sent.to_vec());
    let is_chosen = case["backend_choice"] == "hash"
        && outer_destination(sent).is_some_and(|real| reals_of(set, sent).contains(&real));
    if with.len() != without.len() || !is_chosen {
        return false;
    }
    for (at, len) in mask(case, recorded).into_iter().chain(more.iter().copied()) {
        with[at..at + len].fill(0);
        without[at..at + len].fill(0);
    }
    with == without
}

/// Bytes that another backend changes, as the recording has them. It has none where the ring's next real was of the other
/// family: then those of outer IPv6, destination and UDP checksum.
fn mask(case: &Value, recorded: &[u8]) -> Vec<(usize, usize)> {
    let recorded_ranges = case["mask_if_other_backend"].as_array().into_iter().flatten();
    let ranges: Vec<_> = recorded_ranges
        .map(|range| (range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize))
        .collect();
    match (ranges.is_empty() && recorded[14] >> 4 == 6, recorded[20]) {
        (true, UDP) => vec![(38, 16), (60, 2)],
        (true, _) => vec![(38, 16)],
        (false, _) => ranges,
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The packet in a tunnel.
fn inner(frame: &[u8]) -> Option<&[u8]> {
    let (header_len, protocol) = match frame.get(14)? >> 4 {
        4 => (20, *frame.get(23)?),
        6 => (40, *frame.get(20)?),
        _ => return None,
    };
    frame.get(14 + header_len + if protocol == UDP { 8 } else { 0 }..)
}

/// The reals of the VIP that the packet in a tunnel is to: of the most specific one, as Katran finds it. An ICMP error is to the VIP of
/// what it quotes, whose l4_port is not looked for.
fn reals_of(set: &Value, sent: &[u8]) -> Vec<IpAddr> {
    let Some(packet) = inner(sent) else { return Vec::new() };
    let (vip, protocol, l4): (IpAddr, _, _) = if packet[0] >> 4 == 6 {
        (<[u8; 16]>::try_from(&packet[24..40]).unwrap().into(), packet[6], &packet[40..])
    } else {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        (<[u8; 4]>::try_from(&packet[16..20]).unwrap().into(), packet[9], &packet[header_len..])
    };
    let l4_port = u64::from(u16::from_be_bytes([l4[2], l4[3]]));
    let is_it = |listens: &&Value| {
        let has_port = matches!(protocol, TCP | UDP);
        is_within(vip, &text(listens, "address"), listens["cidr_prefix_len"].as_u64().unwrap())
            && (!has_port || listens["proto"] == protocol)
            && (!has_port || listens["port"] == l4_port || listens["port"] == 0)
    };
    let vips = list(&set["config"], "vips").iter().filter(is_it);
    let most_specific = vips
        .max_by_key(|vip| (vip["port"] != 0, vip["cidr_prefix_len"] == 0, vip["cidr_prefix_len"].as_u64()));
    let reals = most_specific.into_iter().flat_map(|vip| list(vip, "reals"));
    reals.map(|real| text(real, "address").parse().unwrap()).collect()
}

/// Whether an address is that of a VIP, or in the network of one.
fn is_within(address: IpAddr, vip: &str, prefix_len: u64) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let vip: IpAddr = vip.parse().unwrap();
    let ((a, len), (b, other_len)) = (bits(address), bits(vip));
    let prefix_len = if prefix_len == 0 { len } else { prefix_len };
    len == other_len && (a ^ b).leading_zeros() as u64 >= prefix_len
}

fn outer_destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(14)? >> 4 {
        4 => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}

/// The cases of a set that are not as recorded, each with what became of its packet, and in words; `before` is the set whose packets came
/// before, by other rules.
fn differing(set: &Value, before: Option<&Value>) -> BTreeMap<u64, (Fate, String)> {
    let mut director = Director::new(&rules(before.unwrap_or(set)));
    if let Some(before) = before {
        list(before, "cases").iter().for_each(|case| drop(director.pass(&hex(&text(case, "input_hex")))));
        director.publish(&rules(set));
    }
    let mut differing = BTreeMap::new();
    for case in list(set, "cases") {
        let (expected, fate) = (expected(case), director.pass(&hex(&text(case, "input_hex"))));
        let is_equal = match (&expected, &fate) {
            (Fate::Sent(recorded), Fate::Sent(sent)) => is_as_recorded(case, set, recorded, sent, &[]),
            (expected, fate) => expected == fate,
        };
        if !is_equal {
            let index = case["index"].as_u64().unwrap();
            let words = format!(
                "{}\n  recorded {}\n  here     {}",
                text(case, "name"),
                shown(&expected),
                shown(&fate)
            );
            differing.insert(index, (fate, words));
        }
    }
    differing
}

fn shown(fate: &Fate) -> String {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    match fate {
        Fate::Sent(bytes) => format!("sent {}", hex(bytes)),
        Fate::Punted(bytes) => format!("kernel {}", hex(bytes)),
        Fate::Dropped => "dropped".to_owned(),
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Sets of clients' packets that Crossdock claims. `gue_origin_icmp_toobig` is not as recorded in Katran itself; health checks are
/// [`health_checks_are_carried_as_katran_carries_them`].
fn claimed(set: &Value) -> bool {
    let name = text(set, "name");
    name != "gue_origin_icmp_toobig" && !name.starts_with("healthcheck")
}

fn why_different(set: &str, index: u64) -> Option<(&'static str, Here)> {
    let case = DIFFERENT.iter().find(|(name, cases, ..)| *name == set && cases.contains(&index));
    case.map(|(_, _, why, here)| (*why, *here))
}

/// The recorded sets; `None` where the file is not there.
fn recorded() -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/katran-fixtures.json");
    match fs::read(&path) {
        Ok(recorded) => {
            let recorded: Value = serde_json::from_slice(&recorded).unwrap();
            Some(recorded["sets"].as_array().unwrap().clone())
        }
        Err(_) => {
            println!("{} is not there", path.display());
            None
        }
    }
}

/// The set whose packets came before those of this one.
fn before<'s>(set: &Value, sets: &'s [Value]) -> Option<&'s Value> {
    let before = (set["name"] == "gue_udp_migration_2_real2_down").then_some("gue_udp_migration_1")?;
    sets.iter().find(|set| set["name"] == before)
}

#[test]
fn packets_are_forwarded_as_katran_forwards_them() {
    let recorded = recorded();
    let is_recorded = recorded.is_some();
    let sets = recorded.unwrap_or_else(|| written_down().as_array().unwrap().clone());
    let (mut equal, mut all, mut problems) = (0, 0, String::new());
    for set in sets.iter().filter(|set| claimed(set)) {
        let name = text(set, "name");
        let differing = differing(set, before(set, &sets));
        let count = list(set, "cases").len();
        println!("{name}: {} of {count} equal", count - differing.len());
        (equal, all) = (equal + count - differing.len(), all + count);
        for case in list(set, "cases") {
            let index = case["index"].as_u64().unwrap();
            match (differing.get(&index), why_different(&name, index)) {
                (Some((_, found)), None) => writeln!(problems, "{name} {index}: {found}").unwrap(),
                (None, Some((why, _))) => {
                    writeln!(problems, "{name} {index} is equal, and not \"{why}\"").unwrap()
                }
                (Some((fate, found)), Some((_, here))) if !here.is(set, case, fate) => {
                    writeln!(problems, "{name} {index} is not {here:?}: {found}").unwrap()
                }
                _ => {}
            }
        }
    }
    println!("{equal} of {all} cases are equal");
    assert!(problems.is_empty(), "{problems}");
    if is_recorded {
        let in_file: usize = sets.iter().map(|set| list(set, "cases").len()).sum();
        assert_eq!((in_file, all, equal), (171, 161, 136), "cases in the file, run here, equal");
    }
}

/// A capture of the inputs of a set, a millisecond apart.
fn capture(set: &Value) -> Vec<u8> {
    let mut capture = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (number, case) in list(set, "cases").iter().enumerate() {
        let frame = hex(&text(case, "input_hex"));
        let len = frame.len() as u32;
        capture.extend([1_700_000_000, number as u32 * 1_000, len, len].map(u32::to_le_bytes).concat());
        capture.extend(frame);
    }
    capture
}

/// The frames of a capture, by the case whose packet they came of.
fn frames(capture: &[u8]) -> BTreeMap<usize, Vec<u8>> {
    let mut rest = &capture[24..];
    let mut frames = BTreeMap::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        let (frame, further) = behind.split_at(number(8));
        // Nanoseconds, as replay writes them.
        assert!(frames.insert(number(4) / 1_000_000, frame.to_vec()).is_none(), "one packet in, one out");
        rest = further;
    }
    frames
}

/// The sets as captures through the binary: what it sends is, packet by packet, what is compared with the recordings above. Which packets the kernel gets
/// a capture does not tell, but how many; and rules do not change within one, so a set that comes after another is left out.
#[test]
fn crossdock_replay_sends_the_same_packets() {
    let Some(sets) = recorded() else { return };
    let mut compared = 0;
    for set in sets.iter().filter(|set| claimed(set) && before(set, &sets).is_none()) {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        // The port's MTU is the device's, which replay has none of.
        let rules = rules(set).replacen("kernel = true\n", "kernel = true\nmtu = 1500\n", 1);
        fs::write(file("rules.toml"), &rules).unwrap();
        fs::write(file("in.pcap"), capture(set)).unwrap();
        let counters = crossdock::replay_json(&file("rules.toml"), &file("in.pcap"), &file("out.pcap"));
        let mut director = Director::new(&rules);
        let (mut sent, mut punted) = (BTreeMap::new(), 0);
        for (number, case) in list(set, "cases").iter().enumerate() {
            match director.pass(&hex(&text(case, "input_hex"))) {
                Fate::Sent(frame) => drop(sent.insert(number, frame)),
                Fate::Punted(_) => punted += 1,
                Fate::Dropped => {}
            }
            compared += 1;
        }
        assert_eq!(frames(&fs::read(file("out.pcap")).unwrap()), sent, "{}", set["name"]);
        assert_eq!(counters["packets"]["punted"], punted, "{}", set["name"]);
    }
    assert_eq!(compared, 157);
}

/// Katran's program for health checks tunnels what the checker sends to a VIP, to the real that the socket's mark names. Here the address
/// that the checker connects to names the backend, and the connection has a port of the director's own: with the source
/// and the VIP of the recording all else is the same. Of GUE the recording tells to leave out the source port, which is random there, and
/// with that goes the checksum, of which Katran has none over IPv6 either, and Crossdock must (RFC 8200 section 8.1).
#[test]
fn health_checks_are_carried_as_katran_carries_them() {
    let Some(sets) = recorded() else { return };
    let mut compared = 0;
    for set in sets.iter().filter(|set| text(set, "name").starts_with("healthcheck")) {
        let is_gue = text(set, "name").ends_with("gue");
        for case in list(set, "cases") {
            let (input, recorded) = (hex(&text(case, "input_hex")), hex(&text(case, "expected_hex")));
            let real = set["config"]["fwmark_to_real"][case["skb_mark"].to_string()].as_str();
            let (verdict, sent) = carried(&input, real, is_gue);
            compared += 1;
            if real.is_none() {
                assert_eq!((verdict, &sent), (ToBackend::Other, &recorded), "{}", text(case, "name"));
                continue;
            }
            assert_eq!(verdict, ToBackend::By(PortIndex(0)), "{}", text(case, "name"));
            let outer_len = recorded.len() - input.len();
            let inner_at = 14 + outer_len;
            // The inner l4_port and the checksum over it; of GUE the outer ones.
            let is_v6 = input[14] >> 4 == 6;
            let is_tcp = input[if is_v6 { 20 } else { 23 }] == TCP;
            let l4_at = inner_at + if is_v6 { 40 } else { 20 };
            let mut ranges = vec![(l4_at, 2), (l4_at + if is_tcp { 16 } else { 6 }, 2)];
            if is_gue {
                ranges.extend([(inner_at - 8, 2), (inner_at - 2, 2)]);
            }
            let without = |frame: &[u8]| {
                let mut frame = frame.to_vec();
                ranges.iter().for_each(|(at, len)| frame[*at..at + len].fill(0));
                frame
            };
            assert_eq!(without(&sent), without(&recorded), "{}", text(case, "name"));
        }
    }
    assert_eq!(compared, 8);
}

/// What becomes of a packet that the kernel sends to its own destination, where that is the check address of a backend with this
/// address; and of one to no check address.
fn carried(frame: &[u8], real: Option<&str>, is_gue: bool) -> (ToBackend, Vec<u8>) {
    let (source, vip): (IpAddr, IpAddr) = if frame[14] >> 4 == 6 {
        let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
        (address(22).into(), address(38).into())
    } else {
        let address = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap();
        (address(26).into(), address(30).into())
    };
    let tunnel = Tunnel {
        carrier: if is_gue { Carrier::Gue { has_header: false, l4_port: 9_886 } } else { Carrier::Ipip },
        source: Source::Fixed { v4: "10.0.13.37".parse().ok(), v6: "fc00:2307::1337".parse().ok() },
        dont_fragment: false,
        lowers_ttl: false,
        ..Tunnel::default()
    };
    let (router, own) = (ROUTER.parse().unwrap(), "00:ff:de:ad:be:af".parse().unwrap());
    let check = real.map(|real| Check {
        address: vip,
        vip,
        source,
        next_hop: Adjacency::resolved(router, own, PortIndex(0)),
        encapsulation: Encapsulation::new(&tunnel, None, real.parse().unwrap()),
    });
    let checks = Checks::new([check].into(), []);
    let mut packet = MemoryPacket::new(frame, PortIndex(0));
    let mut carrier = CheckCarrier::new(HashSecret::new([3 << 60 | 7, 5 << 59 | 9]));
    let verdict = carrier.to_backend(&mut packet, &checks, Millis(0));
    (verdict, packet.data().to_vec())
}

#[test]
fn the_reference_says_why_what_is_different_is() {
    let reference = include_str!("../../docs/katran.md");
    for (set, cases, why, _) in DIFFERENT {
        let row = reference.lines().find(|line| line.starts_with("| ") && line.contains(why));
        assert!(row.is_some_and(|row| row.contains(set)), "{set} {cases:?}: {why}");
    }
}

/// A client of each family in IP in IP, and one in GUE, put together by hand from the formulas.
fn written_down() -> Value {
    const UDP: &str = "45b80022000700004011fe3e0a0203040a64646430390050000e1b396c6966746564";
    const TCP: &str = "6000000000140640fc000002000000000000000000000005fc000001000000000000000000000001\
                       3039005000000009000000005002200067460000";
    const OUTER_4: &str = "0000deadbeaf020000000000080045b8003600000000400489bfac103a340a000009";
    const OUTER_6: &str = "0000deadbeaf02000000000086dd60000000003c2940010000000000000000000000303900\
                           05fc000000000000000000000000000009";
    const OUTER_GUE: &str = "0000deadbeaf02000000000086dd6b800000002a1140fc002307000000000000000000001337\
                             fc000000000000000000000000000009333d269e002af363";
    let vip = |number: u8, address: &str, proto: u8, real: &str| {
        json!({ "vip_num": number, "address": address, "port": 80, "proto": proto, "cidr_prefix_len": 0,
                "reals": [{ "address": real }] })
    };
    let case = |index: u8, ethertype: &str, packet: &str, outer: &str| {
        json!({ "index": index, "name": "written down", "input_hex": format!("020000000000020000000099{ethertype}{packet}"),
                "expected_action": "XDP_TX", "expected_hex": format!("{outer}{packet}") })
    };
    let (v4, v6) = ("10.0.0.9", "fc00::9");
    json!([
        { "name": "ipip_written_down",
          "config": { "reals": [{ "address": v4 }, { "address": v6 }],
                      "vips": [vip(0, "10.100.100.100", 17, v4), vip(1, "fc00:1::1", 6, v6)] },
          "cases": [case(1, "0800", UDP, OUTER_4), case(2, "86dd", TCP, OUTER_6)] },
        { "name": "gue_written_down",
          "config": { "reals": [{ "address": v6 }], "vips": [vip(0, "10.100.100.100", 17, v6)] },
          "cases": [case(1, "0800", UDP, OUTER_GUE)] },
    ])
}

#[test]
fn the_cases_that_are_written_down_are_equal() {
    for set in written_down().as_array().unwrap() {
        assert!(differing(set, None).is_empty());
    }
}
