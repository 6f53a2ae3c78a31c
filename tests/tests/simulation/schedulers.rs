//! IPVS's recorded sequences of `rr wrr lc wlc` against the whole line: the connections of each recording are opened, and
//! closed, as they were then; who gets each, and how many active and inactive ones each backend has in the end, is asked.
//!
//! `dataplane/tests/conformance.rs` compares the schedulers alone. Here their loads are what parse, lookup, admit and the
//! state machine make of real packets. IPVS keeps its list newest first, so backends stand in reverse order.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{BACKENDS, Config, FRONT, PORT_MACS, Policy, Service, Way as HopWay, backend_address};
use crate::director::{Director, Fate};
use crate::packet::{ACK, Endpoint, FIN, L4, Packet, SYN, TTL};
use crate::random::Random;

const RECORDINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance/ipvs/sched");
/// Table entries: more than any recording takes.
const CAPACITY: u32 = 4_096;

/// The recorded runs of a scheduler, or what is written down of them here.
fn runs(kind: &str) -> Vec<Value> {
    let file = Path::new(RECORDINGS).join(format!("{kind}.json"));
    let Ok(text) = fs::read_to_string(&file) else {
        println!("{kind}: no recordings of IPVS at {RECORDINGS}: compared with the few written down here");
        return few().into_iter().filter(|run| run["scheduler"] == kind).collect();
    };
    serde_json::from_str::<Value>(&text).expect("recordings in JSON")["runs"]
        .as_array()
        .expect("runs")
        .clone()
}

fn few() -> Vec<Value> {
    let run = |scheduler: &str, pattern: &str, weights: &[u32], sequence: &[usize]| json!({ "scheduler": scheduler, "pattern": pattern, "lag": 7, "forward": "masq", "weights_in_add_order": weights, "sequence": sequence });
    vec![
        run("rr", "syn_hold", &[5, 1, 3], &[2, 1, 0, 2, 1, 0]),
        run("wrr", "syn_hold", &[5, 1, 3], &[2, 1, 0, 0, 0, 2, 0, 2, 0, 2, 1, 0]),
        run("lc", "syn_hold", &[2, 0, 3], &[2, 0, 2, 0, 2, 0]),
        run("wlc", "syn_hold", &[5, 1, 3], &[2, 1, 0, 0, 2, 0, 0, 2, 0, 2, 1, 0]),
        run("wlc", "lag_close", &[5, 1, 3], &[2, 1, 0, 0, 2, 0, 0, 2, 2, 1, 0, 0]),
    ]
}

/// A director of one worker with the servers of a recording.
struct Bench {
    director: Director,
    service: Service,
}

impl Bench {
    fn new(run: &Value) -> Self {
        let weights = run["weights_in_add_order"].as_array().expect("weights");
        let weight = |id: usize| weights[id].as_u64().expect("a weight") as u16;
        let service = Service {
            tcp: run["pattern"] != "udp",
            vip: Ipv4Addr::new(203, 0, 113, 10),
            l4_port: 80,
            fullnat: run["forward"] == "masq",
            scheduler: ["rr", "wrr", "lc", "wlc"]
                .into_iter()
                .find(|name| run["scheduler"] == *name)
                .expect("a scheduler that was recorded"),
            backends: (0..weights.len()).rev().map(|id| (id, weight(id))).collect(),
            states: ["up"; BACKENDS],
            policy: Policy::PLAIN,
            is_there: true,
        };
        let config = Config { services: vec![service.clone()], ways: [HopWay::default(); BACKENDS] };
        let mut random = Random::new(1);
        let mut director = Director::new(1, CAPACITY, &mut random).that_begins_with_the_first();
        director.publish(&config, 0, &mut random);
        director.set_time(100);
        director.deliver_publications(100);
        director.turn(0);
        Self { director, service }
    }

    /// A packet of the connection of this number; the backend it went to.
    fn send(&mut self, connection: usize, flags: u8) -> Option<usize> {
        let number = connection as u16 + 1;
        let [high, low] = number.to_be_bytes();
        let source: Endpoint = (Ipv4Addr::new(198, 18, high, low), 20_000 + number);
        let l4 = if self.service.tcp { L4::Tcp { seq: 1, ack: 1, flags } } else { L4::Udp };
        let packet = Packet { source, destination: self.service.endpoint(), ttl: TTL, l4, payload: vec![] };
        let frame = packet.frame(PORT_MACS[FRONT.as_usize()], HopWay::default().mac(9));
        self.director.receive(0, FRONT, frame, 1);
        let turn = self.director.turn(0);
        let [(1, Fate::Sent(_, frame))] = &turn.taken[..] else { return None };
        let (to, ..) = Packet::read(frame);
        (0..BACKENDS).find(|id| HopWay::default().mac(*id) == to)
    }

    /// Active and inactive connections of a backend.
    fn counts(&self, id: usize) -> (u64, u64) {
        let mut slots = 0..self.director.backend_slots();
        let slot = slots.find(|slot| {
            self.director.backend_at(0, *slot).is_some_and(|endpoint| endpoint.0 == backend_address(id))
        });
        let (held, active) = self.director.held(0, slot.expect("the backend has a slot"));
        (active, held - active)
    }
}

/// What `ipvsadm -Ln` showed afterwards, by server in the order of adding: active and inactive connections.
fn recorded_counts(run: &Value) -> Vec<(u64, u64)> {
    let lines = run["ipvsadm_Ln_after"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut counts: Vec<(String, (u64, u64))> = lines
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let ["->", server, _, _, active, inactive] = words[..] else { return None };
            Some((server.to_owned(), (active.parse().ok()?, inactive.parse().ok()?)))
        })
        .collect();
    // Servers' addresses rise in the order of adding; all have as many digits.
    counts.sort();
    counts.into_iter().map(|(_, counts)| counts).collect()
}

/// Plays a recording; how many choices were compared.
fn play(run: &Value) -> usize {
    let mut bench = Bench::new(run);
    let (pattern, lag) = (run["pattern"].as_str().expect("a pattern"), run["lag"].as_u64().unwrap_or(0));
    let sequence = run["sequence"].as_array().expect("a sequence");
    let what = json!([run["scheduler"], run["weights_in_add_order"], pattern, run["forward"]]);
    for (connection, expected) in sequence.iter().enumerate() {
        let chosen = bench.send(connection, SYN);
        assert_eq!(chosen.map(|id| id as u64), expected.as_u64(), "connection {connection} of {what}");
        if matches!(pattern, "est_hold" | "close_each" | "lag_close") {
            bench.send(connection, ACK);
        }
        let closing = match pattern {
            "close_each" => Some(connection),
            "lag_close" => connection.checked_sub(lag as usize),
            _ => None,
        };
        closing.into_iter().for_each(|closing| _ = bench.send(closing, FIN | ACK));
    }
    for (id, (active, inactive)) in recorded_counts(run).into_iter().enumerate() {
        // IPVS counts no flow of UDP as active, and Crossdock every one: on purpose.
        let expected = if pattern == "udp" { (inactive, active) } else { (active, inactive) };
        assert_eq!(bench.counts(id), expected, "connections of server {id} after {what}");
    }
    sequence.len()
}

#[test]
fn connections_go_through_the_line_to_the_backends_recorded_from_ipvs() {
    for kind in ["rr", "wrr", "lc", "wlc"] {
        let runs = runs(kind);
        let compared: usize = runs.iter().map(play).sum();
        println!("{kind}: {compared} choices of {} runs are IPVS's, through the line", runs.len());
        assert!(compared > 0, "{kind}: nothing was compared");
    }
}

#[test]
fn the_cases_written_down_here_hold_as_well() {
    assert!(few().iter().map(play).sum::<usize>() > 0);
}
