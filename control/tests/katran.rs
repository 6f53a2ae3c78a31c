//! Packets as Katran forwards them: `../shared/conformance/katran-fixtures.json` beside the repository (its `meta` tells how
//! it was recorded) against the line on plain memory, with rules that say the same. Where that file is not there, the few
//! cases written down here are compared instead.
//!
//! A backend that Katran's ring chose may be another one here: then the bytes that the recording names may differ, and
//! the outer destination must still be a backend of the VIP. Where Crossdock is different and means to be, or does not do
//! what the case is about, [`DIFFERENT`] and `docs/katran.md` say why; a case listed there that is equal fails too.

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
use dataplane::counters::WorkerCounters;
use dataplane::flow::{FlowTable, HashSecret};
use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::line::LineState;
use dataplane::memory::{MemoryDevice, MemoryPacket};
use dataplane::packet::PacketBuf;
use dataplane::time::{Clock, Millis};
use dataplane::wire::ethernet::MacAddress;
use dataplane::worker::{RulesQueue, Worker};
use serde_json::{Value, json};

/// The MAC that recorded frames are sent to, and that Katran's have as their source.
const STATION: &str = "02:00:00:00:00:00";
/// Katran's default router.
const ROUTER: &str = "00:00:de:ad:be:af";

/// Cases that are not equal: the set, its cases, and the words by which `docs/katran.md` says why.
const DIFFERENT: &[(&str, &[u64], &str)] = &[
    ("ipip_base", &[12], "IPv4 options"),
    ("gue_base", &[10], "IPv4 options"),
    ("ipip_base", &[19, 20], "by port alone"),
    ("gue_base", &[17, 18], "by port alone"),
    ("ipip_tpr", &[14], "by port alone"),
    ("ipip_base", &[8, 9], "echo to a VIP"),
    ("gue_base", &[6, 7], "echo to a VIP"),
    ("ipip_base", &[14], "a fragment of nothing known"),
    ("gue_base", &[12], "a fragment of nothing known"),
    ("ipip_icmp_toobig", &[1, 2], "what does not fit"),
    ("gue_xpop_decap", &[6], "out of a tunnel to a VIP"),
    ("gue_decap_stats", &[1, 2], "out of a tunnel to a VIP"),
    ("gue_egress_decap", &[1, 2, 3], "out of a tunnel from a VIP"),
    ("xdpdecap_ipip", &[3, 4], "fragments outside of tunnels"),
    ("xdpdecap_gue", &[4, 5], "fragments outside of tunnels"),
];

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

/// Whether the packet that was sent is the recorded one, or differs where another backend makes a difference.
fn is_as_recorded(case: &Value, set: &Value, recorded: &[u8], sent: &[u8]) -> bool {
    if sent == recorded {
        return true;
    }
    let (mut with, mut without) = (recorded.to_vec(), sent.to_vec());
    let is_chosen =
        case["backend_choice"] == "hash" && outer_destination(sent).is_some_and(|real| is_real(set, real));
    if with.len() != without.len() || !is_chosen {
        return false;
    }
    for (at, len) in mask(case, recorded) {
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
    if ranges.is_empty() && recorded[14] >> 4 == 6 { vec![(38, 16), (60, 2)] } else { ranges }
}

fn outer_destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(14)? >> 4 {
        4 => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}

fn is_real(set: &Value, address: IpAddr) -> bool {
    list(&set["config"], "reals").iter().any(|real| text(real, "address").parse() == Ok(address))
}

/// The cases of a set that are not as recorded, each with what became of its packet; `before` is the set whose packets came
/// before, by other rules.
fn differing(set: &Value, before: Option<&Value>) -> BTreeMap<u64, String> {
    let mut director = Director::new(&rules(before.unwrap_or(set)));
    if let Some(before) = before {
        list(before, "cases").iter().for_each(|case| drop(director.pass(&hex(&text(case, "input_hex")))));
        director.publish(&rules(set));
    }
    let mut differing = BTreeMap::new();
    for case in list(set, "cases") {
        let (expected, fate) = (expected(case), director.pass(&hex(&text(case, "input_hex"))));
        let is_equal = match (&expected, &fate) {
            (Fate::Sent(recorded), Fate::Sent(sent)) => is_as_recorded(case, set, recorded, sent),
            (expected, fate) => expected == fate,
        };
        if !is_equal {
            let index = case["index"].as_u64().unwrap();
            differing.insert(
                index,
                format!(
                    "{}\n  recorded {}\n  here     {}",
                    text(case, "name"),
                    shown(&expected),
                    shown(&fate)
                ),
            );
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

/// Sets that Crossdock claims. `gue_origin_icmp_toobig` is not as recorded in Katran itself; health checks are no
/// clients' packets, and come with the health checker.
fn claimed(set: &Value) -> bool {
    let name = text(set, "name");
    name != "gue_origin_icmp_toobig" && !name.starts_with("healthcheck")
}

fn why_different(set: &str, index: u64) -> Option<&'static str> {
    DIFFERENT.iter().find(|(name, cases, _)| *name == set && cases.contains(&index)).map(|(_, _, why)| *why)
}

#[test]
fn packets_are_forwarded_as_katran_forwards_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/katran-fixtures.json");
    let sets = match fs::read(&path) {
        Ok(recorded) => serde_json::from_slice::<Value>(&recorded).unwrap()["sets"].clone(),
        Err(_) => {
            println!("{} is not there: the cases written down here instead", path.display());
            written_down()
        }
    };
    let (mut equal, mut all, mut problems) = (0, 0, String::new());
    let sets = sets.as_array().unwrap();
    for set in sets.iter().filter(|set| claimed(set)) {
        let name = text(set, "name");
        let before = (name == "gue_udp_migration_2_real2_down").then_some("gue_udp_migration_1");
        let before = before.and_then(|before| sets.iter().find(|set| set["name"] == before));
        let differing = differing(set, before);
        let count = list(set, "cases").len();
        println!("{name}: {} of {count} equal", count - differing.len());
        (equal, all) = (equal + count - differing.len(), all + count);
        for case in list(set, "cases") {
            let index = case["index"].as_u64().unwrap();
            match (differing.get(&index), why_different(&name, index)) {
                (Some(found), None) => writeln!(problems, "{name} {index}: {found}").unwrap(),
                (None, Some(why)) => {
                    writeln!(problems, "{name} {index} is equal, and not \"{why}\"").unwrap()
                }
                _ => {}
            }
        }
    }
    println!("{equal} of {all} cases are equal");
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn the_reference_says_why_what_is_different_is() {
    let reference = include_str!("../../docs/katran.md");
    for (set, cases, why) in DIFFERENT {
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
        assert_eq!(differing(set, None), BTreeMap::new());
    }
}
