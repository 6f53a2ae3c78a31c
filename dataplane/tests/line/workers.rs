//! Two workers: a connection belongs to one of them, packets that came to the other cross over, and rules
//! change under way.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::rules::{ClientPart, Persistence, Ruleset, Vip};
use dataplane::worker::Publication;

use super::{ipv6, persistence};
use crate::common::frames::{ACK, Decoded, Endpoint, SYN};
use crate::common::rules::{BACK, FRONT, ONE_OF_EACH, PORT_MACS, ServiceSpec, VIP, with_service};
use crate::common::{Director, Frame, ruleset};

/// Several workers of one director; the test carries what they steer to each other.
pub(crate) struct Team(pub(crate) Vec<Director>);

impl Team {
    fn new(worker_count: u16, services: &[ServiceSpec]) -> Self {
        Self::with(&ruleset(worker_count, services))
    }

    /// As many workers as the rules say.
    pub(crate) fn with(rules: &Ruleset) -> Self {
        let director = |index| Director::with(rules.clone(), WorkerIndex(index), 8_192);
        Self((0..rules.worker_count).map(director).collect())
    }

    /// Turns all of them until nothing waits, carrying what is steered.
    pub(crate) fn turn(&mut self) {
        let mut rounds = 0;
        while self.0.iter_mut().any(|director| director.worker.turn()) {
            rounds += 1;
            assert!(rounds < 10_000, "a packet that goes from worker to worker for ever");
            for index in 0..self.0.len() {
                for (owner, packet) in std::mem::take(&mut self.0[index].worker.device_mut().steered_out) {
                    assert_ne!(owner.as_usize(), index, "a packet steered to where it is");
                    self.0[owner.as_usize()].worker.device_mut().steered_in.push_back(packet);
                }
            }
        }
    }

    /// Lets a frame in at worker `at`; what leaves, and which worker sent it.
    pub(crate) fn pass(
        &mut self,
        at: usize,
        port: PortIndex,
        frame: &Frame,
    ) -> Option<(usize, PortIndex, Decoded)> {
        self.0[at].receive(port, frame.bytes());
        self.turn();
        let mut sent: Vec<_> = (self.0.iter_mut().enumerate())
            .flat_map(|(worker, director)| director.sent().into_iter().map(move |out| (worker, out)))
            .collect();
        assert!(sent.len() <= 1);
        sent.pop().map(|(worker, (port, frame))| (worker, port, Decoded::from(&frame)))
    }

    /// Likewise with the bytes of a frame, of any kind.
    pub(crate) fn pass_bytes(
        &mut self,
        at: usize,
        port: PortIndex,
        frame: Vec<u8>,
    ) -> Option<(usize, Vec<u8>)> {
        self.0[at].receive(port, frame);
        self.turn();
        let sent = self.0.iter_mut().enumerate();
        let mut sent: Vec<_> = sent
            .flat_map(|(worker, director)| director.sent().into_iter().map(move |(_, frame)| (worker, frame)))
            .collect();
        assert!(sent.len() <= 1);
        sent.pop()
    }

    /// Puts rules in force at every worker.
    pub(crate) fn publish(&mut self, rules: &Ruleset) {
        self.0.iter_mut().for_each(|director| director.publish(rules.clone()));
    }

    pub(crate) fn assert_balanced(&mut self) {
        for director in &mut self.0 {
            director.assert_balanced();
            director.assert_table_adds_up();
        }
        let sum = |counter: fn(&Director) -> u64| self.0.iter().map(counter).sum::<u64>();
        let steered = sum(|director| director.counters.steered.value());
        assert_eq!(steered, sum(|director| director.counters.steered_in.value()));
    }
}

pub(crate) fn client(number: u16) -> Endpoint {
    (Ipv4Addr::new(198, 51, 100, (number % 7) as u8), 3_000 + number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn wherever_packets_arrive_one_worker_handles_the_connection(
        worker_count in 2u16..5, arrivals in proptest::collection::vec(0usize..4, 4 * 60)
    ) {
        let mut team = Team::new(worker_count, &ONE_OF_EACH);
        let mut owners = HashMap::new();
        let mut arrivals = arrivals.into_iter().map(|at| at % usize::from(worker_count));
        let mut at = || arrivals.next().unwrap();
        for number in 0..60 {
            let question = Frame::tcp(client(number), (VIP, 8080), SYN);
            let (owner, port, there) = team.pass(at(), FRONT, &question).unwrap();
            prop_assert_eq!(port, BACK);
            prop_assert_eq!(owner, usize::from(there.source.1 % worker_count), "the owner's own local port");
            owners.insert(number, owner);
            let answer = Frame::tcp(there.destination, there.source, SYN | ACK);
            let answer = Frame { to: PORT_MACS[1], from: there.to, ..answer };
            let (worker, port, back) = team.pass(at(), BACK, &answer).unwrap();
            prop_assert_eq!((worker, port), (owner, FRONT));
            prop_assert_eq!((back.source, back.destination), ((VIP, 8080), client(number)));
            let more = Frame::tcp(client(number), (VIP, 8080), ACK);
            let (worker, _, there_again) = team.pass(at(), FRONT, &more).unwrap();
            prop_assert_eq!((worker, there_again.source), (owner, there.source));
            let direct = Frame::tcp(client(number), (VIP, 80), SYN);
            let (worker, _, _) = team.pass(at(), FRONT, &direct).unwrap();
            prop_assert_eq!(worker, owner, "a client's endpoint has one owner, whatever the service");
        }
        let workers: HashSet<_> = owners.values().collect();
        prop_assert!(workers.len() > 1, "60 clients on one worker");
        team.assert_balanced();
    }
}

/// The rules of `revision`: mostly as they were, now and then with other weights.
fn revised(revision: u64) -> Ruleset {
    let services = ONE_OF_EACH.map(|spec| ServiceSpec {
        weights: match revision % 6 {
            0 => &[1, 1],
            2 => &[1, 9],
            3 => &[4, 1],
            _ => spec.weights,
        },
        ..spec
    });
    Ruleset { revision, ..ruleset(2, &services) }
}

#[test]
fn established_flows_keep_their_backend_over_a_thousand_publications() {
    let mut team = Team::new(2, &ONE_OF_EACH);
    let mut places: HashMap<(u16, u16), Decoded> = HashMap::new();
    for revision in 2..1_002u64 {
        // Rules change while packets wait: those of one burst see one ruleset, all flows keep theirs.
        let number = (revision % 200) as u16;
        for l4_port in [80, 8080] {
            let new = !places.contains_key(&(number, l4_port));
            let flags = if new { SYN } else { ACK };
            let frame = Frame::tcp(client(number), (VIP, l4_port), flags);
            for director in &team.0 {
                let publication =
                    Publication { ruleset: Arc::new(revised(revision)), states: vec![], templates: None };
                director.queue.publish(publication).expect("one publication a turn is taken up");
            }
            let (_, _, out) = team.pass((revision % 2) as usize, FRONT, &frame).expect("forwarded");
            let place = places.entry((number, l4_port)).or_insert_with(|| out.clone());
            assert_eq!((place.to, place.source, place.destination), (out.to, out.source, out.destination));
        }
        assert!(team.0.iter().all(|director| director.counters.revision.value() == revision));
    }
    assert_eq!(places.len(), 400);
    team.assert_balanced();
    assert!(team.0.iter().all(|director| director.drops().is_empty()));
}

/// Persistent services for each client address on ports 80 (DR) and 8080 (FullNAT), steered as `vip` says.
fn persistent(revision: u64, vip: Vip) -> Ruleset {
    let persistence =
        Some(Persistence { timeout_ms: 300_000, prefix_len: 32, prefix_len6: 128, leaves_drained: false });
    let services = ONE_OF_EACH.map(|spec| ServiceSpec { scheduler: "rr", weights: &[1, 1, 1], ..spec });
    let mut rules = ruleset(3, &services);
    for index in 0..ONE_OF_EACH.len() {
        rules = with_service(rules, index, |service| service.policy.persistence = persistence);
    }
    Ruleset { revision, vips: Arc::new([(VIP, vip)].into_iter().collect()), ..rules }
}

const BY_ADDRESS: ClientPart = ClientPart::Network { host_bits: 0 };

fn client_from(address: u8, l4_port: u16) -> Endpoint {
    (Ipv4Addr::new(198, 51, 100, address), l4_port)
}

#[test]
fn a_client_whose_packets_come_to_several_workers_has_one_backend() {
    let mut team = Team::new(3, &ONE_OF_EACH);
    team.publish(&persistent(2, Vip { part: BY_ADDRESS, part_before: None }));
    let mut backends: HashMap<(u8, u16), HashSet<_>> = HashMap::new();
    for number in 0..600u16 {
        let (address, l4_port) = ((number % 40) as u8, [80, 8080][usize::from(number) % 2]);
        let frame = Frame::tcp(client_from(address, 2_000 + number), (VIP, l4_port), SYN);
        let (_, _, out) = team.pass(usize::from(number / 7 % 3), FRONT, &frame).unwrap();
        backends.entry((address, l4_port)).or_default().insert(out.to);
    }
    assert!(backends.values().all(|backends| backends.len() == 1), "{backends:?}");
    let used: HashSet<_> = backends.values().flatten().collect();
    assert_eq!(used.len(), 6, "three of each service");
    let templates = team.0.iter().map(|director| director.counters.templates_used.value());
    assert_eq!(templates.clone().sum::<u64>(), 40);
    assert!(templates.clone().all(|count| count > 0));
    team.assert_balanced();
}

/// Of one network, to any port of the group, by whichever worker: one owner, one template, one backend.
#[test]
fn a_network_of_ipv6_has_one_backend_for_a_port_group_whichever_worker_it_comes_to() {
    let mut team = Team::with(&persistence::group_of_ipv6(3));
    let mut places: HashMap<u16, HashSet<(usize, u8)>> = HashMap::new();
    for number in 0..600u16 {
        let (network, l4_port) = (number % 40, [80, 443][usize::from(number / 40) % 2]);
        let source = (persistence::host_of(network, number), 2_000 + number);
        let at = usize::from(number / 7 % 3);
        let (worker, frame) = team.pass_bytes(at, FRONT, ipv6::syn(source, l4_port)).unwrap();
        places.entry(network).or_default().insert((worker, frame[5]));
    }
    assert!(places.values().all(|places| places.len() == 1), "{places:?}");
    let used: HashSet<_> = places.values().flatten().collect();
    assert_eq!(used.len(), 9, "three backends by each of three workers");
    let templates = team.0.iter().map(|director| director.counters.templates_used.value());
    assert_eq!(templates.sum::<u64>(), 40);
    team.assert_balanced();
}

#[test]
fn connections_made_before_a_service_became_persistent_go_on_where_they_are() {
    let mut team = Team::new(3, &ONE_OF_EACH);
    let mut plain = persistent(2, Vip::PLAIN);
    for index in 0..ONE_OF_EACH.len() {
        plain = with_service(plain, index, |service| service.policy.persistence = None);
    }
    team.publish(&plain);
    let mut places = HashMap::new();
    for number in 0..120u16 {
        let client = client_from((number % 20) as u8, 2_000 + number);
        let frame = Frame::tcp(client, (VIP, 8080), SYN);
        let (worker, _, out) = team.pass(usize::from(number % 3), FRONT, &frame).unwrap();
        places.insert(client, (worker, out.to, out.source));
    }
    let changing = Vip { part: BY_ADDRESS, part_before: Some(ClientPart::Endpoint) };
    team.publish(&persistent(3, changing));
    for (number, (client, place)) in places.iter().enumerate() {
        let frame = Frame::tcp(*client, (VIP, 8080), ACK);
        let (worker, _, out) = team.pass(number % 3, FRONT, &frame).unwrap();
        assert_eq!((worker, out.to, out.source), *place);
    }
    // New connections of a client meet at one worker, and find their backend there, while the change lasts and after.
    let mut backends: HashMap<u8, HashSet<_>> = HashMap::new();
    let mut made = HashMap::new();
    for number in 0..200u16 {
        let client = client_from((number % 20) as u8, 5_000 + number);
        let frame = Frame::tcp(client, (VIP, 8080), SYN);
        let (worker, _, out) = team.pass(usize::from(number % 3), FRONT, &frame).unwrap();
        backends.entry((number % 20) as u8).or_default().insert((worker, out.to));
        made.insert(client, (worker, out.to));
    }
    team.publish(&persistent(4, Vip { part: BY_ADDRESS, part_before: None }));
    for number in 0..200u16 {
        let client = client_from((number % 20) as u8, 6_000 + number);
        let (worker, _, out) =
            team.pass(usize::from(number % 3), FRONT, &Frame::tcp(client, (VIP, 8080), SYN)).unwrap();
        backends.entry((number % 20) as u8).or_default().insert((worker, out.to));
    }
    assert!(backends.values().all(|backends| backends.len() == 1), "{backends:?}");
    for (client, place) in made {
        let (worker, _, out) = team.pass(0, FRONT, &Frame::tcp(client, (VIP, 8080), ACK)).unwrap();
        assert_eq!((worker, out.to), place);
    }
    assert!(team.0.iter().all(|director| director.drops().is_empty()));
    team.assert_balanced();
}
