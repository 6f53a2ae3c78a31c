//! IPVS's recorded state machine against the whole line: every transition that was recorded from a running kernel is
//! walked through parse, lookup, admit and rewrite; then the state and the time that the connection is kept are asked.
//!
//! The recordings lie beside the repository, not in it. Where they are not, the transitions written down in `states` stand
//! in for them, and the test says so.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use dataplane::flow::expiry::SWEEP_PERIOD_MS;
use dataplane::flow::tcp_state::TcpState;
use serde_json::Value;

use crate::config::{BACK, BACKENDS, Config, FRONT, PORT_MACS, Policy, Service, Way as HopWay};
use crate::director::{Director, Fate};
use crate::packet::{ACK, Endpoint, FIN, L4, Packet, RST, SYN, TTL};
use crate::random::Random;
use crate::states::{self, Way};

const RECORDINGS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance/ipvs/tcp_states.json");
const RECORDED_BEHAVIOUR: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance/ipvs/behaviour.json");
const CLIENT: Endpoint = (Ipv4Addr::new(198, 18, 0, 1), 5_000);
const ALL: [TcpState; 7] = {
    use TcpState::*;
    [SynRecv, Established, FinWait, CloseWait, TimeWait, Close, SynSent]
};

/// One recorded transition.
#[derive(Clone, Debug)]
struct Transition {
    is_fullnat: bool,
    /// The events that lead to the state it begins in.
    path: Vec<String>,
    event: String,
    /// The state after it by IPVS's name; `(no entry)` where there is no connection.
    to: String,
    /// Change of active connections.
    active: i64,
    /// The time it is kept from then on, in seconds: as read from the kernel right after, where that has recorded it.
    expires_s: Option<u64>,
}

/// An event as the recordings name it: `i:` from the client, `o:` from the server, then the control bits.
fn flags_of(event: &str) -> (bool, u8) {
    let bits = [('S', SYN), ('A', ACK), ('F', FIN), ('R', RST)];
    let (side, letters) = event.split_once(':').expect("a side and control bits");
    let flags =
        bits.iter().filter(|(letter, _)| letters.contains(*letter)).fold(0, |all, (_, bit)| all | bit);
    (side == "o", flags)
}

fn recorded() -> Option<Vec<Transition>> {
    let text = fs::read_to_string(Path::new(RECORDINGS)).ok()?;
    let recordings: Value = serde_json::from_str(&text).expect("recordings in JSON");
    let mut transitions = Vec::new();
    for table in recordings["tables"].as_array().expect("tables") {
        // Other values of secure_tcp are another state machine, which Crossdock does not have.
        if table["secure_tcp"] != 0 {
            continue;
        }
        for (from, events) in table["transitions"].as_object().expect("transitions") {
            let path = table["paths"][from].as_array().expect("a path to each state");
            for (event, seen) in events.as_object().expect("events") {
                transitions.push(Transition {
                    is_fullnat: table["forward"] == "masq",
                    path: path.iter().map(|event| event.as_str().expect("a name").to_owned()).collect(),
                    event: event.clone(),
                    to: seen["to"].as_str().expect("a state").to_owned(),
                    active: seen["dActive"].as_i64().expect("a number"),
                    expires_s: seen["expires"].as_u64(),
                });
            }
        }
    }
    Some(transitions)
}

/// The same, made from what is written down in `states`.
fn built_in() -> Vec<Transition> {
    let paths = [
        (TcpState::SynRecv, "i:S"),
        (TcpState::Established, "i:S i:A"),
        (TcpState::FinWait, "i:S i:A o:FA"),
        (TcpState::CloseWait, "i:S i:A i:FA"),
        (TcpState::TimeWait, "i:S i:FA"),
        (TcpState::Close, "i:S o:R"),
        (TcpState::SynSent, "i:S i:FA o:SA"),
    ];
    let mut transitions = Vec::new();
    for (from, path) in paths {
        for event in ["i:S", "i:FA", "i:A", "i:R", "i:SA", "o:S", "o:SA", "o:FA", "o:A", "o:R"] {
            let (is_answer, flags) = flags_of(event);
            let to = states::after(from, flags, if is_answer { Way::Backend } else { Way::Client });
            transitions.push(Transition {
                is_fullnat: true,
                path: path.split(' ').map(str::to_owned).collect(),
                event: event.to_owned(),
                to: states::name(to).to_owned(),
                active: i64::from(to.is_active()) - i64::from(from.is_active()),
                expires_s: None,
            });
        }
    }
    transitions
}

/// Recordings, or what stands in for them.
fn transitions() -> Vec<Transition> {
    recorded().unwrap_or_else(|| {
        println!(
            "no recordings of IPVS at {RECORDINGS}: compared with the transitions written down in states.rs"
        );
        built_in()
    })
}

/// A director of one worker and one service, and one connection to it.
struct Bench {
    director: Director,
    now: u64,
    service: Service,
    /// The endpoint that the backend sees.
    local: Endpoint,
    /// The state that a SYN met.
    closed: Option<TcpState>,
}

impl Bench {
    fn new(is_fullnat: bool) -> Self {
        Self::with(is_fullnat, Policy::PLAIN)
    }

    fn with(is_fullnat: bool, policy: Policy) -> Self {
        let mut random = Random::new(1);
        let service = Service {
            tcp: true,
            vip: Ipv4Addr::new(203, 0, 113, 10),
            l4_port: 80,
            fullnat: is_fullnat,
            scheduler: "rr",
            backends: vec![(0, 1), (1, 1)],
            states: ["up"; BACKENDS],
            policy,
            is_there: true,
        };
        let config = Config { services: vec![service.clone()], ways: [HopWay::default(); BACKENDS] };
        let mut director = Director::new(1, 64, &mut random);
        director.publish(&config, 0, &mut random);
        let mut bench = Self { director, now: 100, service, local: CLIENT, closed: None };
        bench.wait(0);
        bench
    }

    /// Lets `ms` pass, and the hand go round what there is.
    fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.director.set_time(self.now);
        self.director.deliver_publications(self.now);
        for _ in 0..3 {
            self.director.turn(0);
        }
    }

    /// One segment, from the client or from its backend; where it went.
    fn segment(&mut self, is_answer: bool, flags: u8) -> Option<Packet> {
        let service = self.service.endpoint();
        let (port, source, destination) = match is_answer {
            true => (BACK, self.backend().expect("an answer needs a connection"), self.local),
            false => (FRONT, CLIENT, service),
        };
        let packet =
            Packet { source, destination, ttl: TTL, l4: L4::Tcp { seq: 1, ack: 1, flags }, payload: vec![] };
        let frame = packet.frame(PORT_MACS[port.as_usize()], HopWay::default().mac(9));
        self.director.receive(0, port, frame, 1);
        let turn = self.director.turn(0);
        let [(1, Fate::Sent(_, frame))] = &turn.taken[..] else { return None };
        let (_, _, out) = Packet::read(frame);
        if !is_answer {
            self.local = out.source;
        }
        Some(out)
    }

    fn play(&mut self, event: &str) {
        let (is_answer, flags) = flags_of(event);
        self.segment(is_answer, flags);
    }

    /// Opens a connection, ends it as said, and opens it again: whether that goes to another backend.
    fn goes_elsewhere_after(&mut self, closing: &[&str]) -> bool {
        ["i:S", "i:A"].iter().chain(closing).for_each(|event| self.play(event));
        let before = self.backend();
        self.closed = self.state();
        self.play("i:S");
        self.backend() != before
    }

    fn state(&self) -> Option<TcpState> {
        self.director.connections(0).next().map(|entry| entry.state)
    }

    /// Active connections of all backends.
    fn active(&self) -> i64 {
        (0..self.director.backend_slots()).map(|slot| self.director.held(0, slot).1 as i64).sum()
    }

    fn backend(&self) -> Option<Endpoint> {
        let slot = self.director.connections(0).next()?.backend().as_usize();
        self.director.backend_at(0, slot)
    }
}

/// IPVS also makes a connection of a SYN with ACK, and follows a FIN without; Crossdock does neither: no honest end sends
/// such segments (RFC 9293 section 3.10.7).
fn is_deliberate(transition: &Transition) -> bool {
    (transition.path.is_empty() && transition.event == "i:SA") || transition.event == "i:F"
}

#[test]
fn every_recorded_transition_leads_through_the_line_to_the_recorded_state_and_timeout() {
    let mut seen: BTreeMap<bool, usize> = BTreeMap::new();
    let mut timed = 0;
    for transition in transitions().into_iter().filter(|transition| !is_deliberate(transition)) {
        let mut bench = Bench::new(transition.is_fullnat);
        transition.path.iter().for_each(|event| bench.play(event));
        let active_before = bench.active();
        bench.play(&transition.event);
        assert_eq!(bench.active() - active_before, transition.active, "active connections: {transition:?}");
        let name = bench.state().map_or("(no entry)", states::name);
        assert_eq!(name, transition.to, "{transition:?}");
        *seen.entry(transition.is_fullnat).or_default() += 1;
        let Some(state) = bench.state() else { continue };
        let timeout_ms = states::timeout_ms(state);
        if let Some(expires_s) = transition.expires_s {
            // Whole seconds, cut off, and the kernel had a moment to pass.
            assert!((timeout_ms / 1_000).abs_diff(expires_s) <= 1, "{timeout_ms} ms: {transition:?}");
            timed += 1;
        }
        bench.wait(timeout_ms);
        assert_eq!(bench.state(), Some(state), "forgotten before {timeout_ms} ms: {transition:?}");
        bench.wait(u64::from(SWEEP_PERIOD_MS) + 1);
        assert_eq!(bench.state(), None, "held beyond {timeout_ms} ms: {transition:?}");
    }
    println!("transitions compared, by whether answers pass the director: {seen:?}; {timed} with their time");
    assert!(seen[&true] >= 60, "{seen:?}");
    if recorded().is_some() {
        // Of the client's side alone there are about half as many.
        assert!(seen.get(&false).is_some_and(|count| *count >= 30), "direct routing: {seen:?}");
        assert!(timed >= 90, "{timed} with the time they are kept");
    }
}

#[test]
fn the_witness_knows_the_same_states() {
    for transition in transitions().into_iter().filter(|transition| !is_deliberate(transition)) {
        let mut state = TcpState::None;
        for event in transition.path.iter().chain([&transition.event]) {
            let (is_answer, flags) = flags_of(event);
            let way = match (is_answer, transition.is_fullnat) {
                (true, _) => Way::Backend,
                (false, true) => Way::Client,
                (false, false) => Way::ClientAlone,
            };
            if state == TcpState::None && flags & (SYN | RST | FIN | ACK) != SYN {
                break;
            }
            state = states::after(state, flags, way);
        }
        if state != TcpState::None {
            assert_eq!(states::name(state), transition.to, "{transition:?}");
        }
    }
}

#[test]
fn the_lines_timeouts_are_those_written_down_here() {
    for state in ALL {
        assert_eq!(u64::from(state.timeout_ms()), states::timeout_ms(state), "{state:?}");
    }
}

/// A SYN on a connection that is over is scheduled anew. `rr` goes on to the other backend then.
#[test]
fn a_port_that_is_used_again_is_scheduled_anew_once_the_connection_is_over() {
    for (is_fullnat, closing) in [(true, &["i:FA", "o:FA"][..]), (false, &["i:FA"]), (true, &["i:R"])] {
        let mut bench = Bench::new(is_fullnat);
        assert!(bench.goes_elsewhere_after(closing), "{closing:?}");
        assert_eq!(bench.state(), Some(TcpState::SynRecv));
        assert_eq!(bench.director.connections(0).count(), 1);
    }
    let mut bench = Bench::new(true);
    assert!(!bench.goes_elsewhere_after(&["i:FA"]), "half closed is not over");
}

/// IPVS's `conn_reuse_mode` 0, 1 and 2 are `reuse = "never"`, `"when-closed"` and `"when-over"`.
#[test]
fn a_port_that_is_used_again_goes_where_it_was_recorded_to_go_by_conn_reuse_mode() {
    let cases = recorded_reuse().unwrap_or_else(|| {
        println!("no recordings of IPVS at {RECORDED_BEHAVIOUR}: compared with the cases written down here");
        vec![
            (0, true, TcpState::TimeWait, false),
            (1, true, TcpState::TimeWait, true),
            (1, false, TcpState::FinWait, false),
            (2, false, TcpState::FinWait, true),
        ]
    });
    assert!(cases.len() >= 4, "{cases:?}");
    for (mode, is_fullnat, closed, is_elsewhere) in cases {
        let reuse = ["never", "when-closed", "when-over"][mode];
        let mut bench = Bench::with(is_fullnat, Policy { reuse, ..Policy::PLAIN });
        let closing: &[&str] = if closed == TcpState::TimeWait { &["i:FA", "o:FA"] } else { &["i:FA"] };
        let went_elsewhere = bench.goes_elsewhere_after(closing);
        assert_eq!(bench.closed, Some(closed), "conn_reuse_mode = {mode}");
        assert_eq!(went_elsewhere, is_elsewhere, "conn_reuse_mode = {mode}, after {closed:?}");
        assert_eq!(bench.state(), Some(TcpState::SynRecv));
    }
}

/// By mode: whether answers pass the director, the state that the SYN met, whether it went to another backend.
fn recorded_reuse() -> Option<Vec<(usize, bool, TcpState, bool)>> {
    let text = fs::read_to_string(Path::new(RECORDED_BEHAVIOUR)).ok()?;
    let recordings: Value = serde_json::from_str(&text).expect("recordings in JSON");
    let case = |record: &Value| {
        let (mode, rest) = record["what"].as_str()?.strip_prefix("conn_reuse_mode=")?.split_once(' ')?;
        // "TCP 01:59  TIME_WAIT   CLIENT VIP BACKEND"
        let words = |key: &str| -> Option<Vec<String>> {
            let line = record[key].get(0)?.as_str()?;
            Some(line.split_whitespace().map(str::to_owned).collect())
        };
        let (before, after) = (words("before")?, words("after")?);
        let state = ALL.into_iter().find(|state| states::name(*state) == before[2])?;
        Some((mode.parse().ok()?, rest.starts_with("-m"), state, before[5] != after[5]))
    };
    Some(recordings["records"].as_array()?.iter().filter_map(case).collect())
}
