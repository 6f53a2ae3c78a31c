//! Ports with RSS, simulated: each delivers a packet to the worker its key and redirection table say. Nothing crosses
//! then; and when a port does not keep to it, connections are the same ones all the same.

use std::sync::Arc;

use proptest::prelude::*;

use dataplane::index::{PortIndex, WorkerIndex};
use dataplane::rules::{ClientPart, Rss, Ruleset, Vip};

use crate::common::frames::{ACK, Decoded, Endpoint, SYN};
use crate::common::rules::{BACK, FRONT, ONE_OF_EACH, PORT_MACS, VIP};
use crate::common::{Frame, ruleset};
use crate::workers::{Team, client};

/// What a NIC's hardware does: a key and a table of queues, one a worker.
struct Nic {
    key: [u8; 40],
    redirection_table: Vec<usize>,
}

impl Nic {
    /// As control sets it up for these rules.
    fn as_set_up(key: [u8; 40], rules: &Ruleset) -> Self {
        let owners = rules.rss.as_ref().unwrap().owners();
        Self { key, redirection_table: owners.iter().map(|owner| owner.as_usize()).collect() }
    }

    /// The worker on whose queue a frame arrives.
    fn queue(&self, frame: &Frame) -> usize {
        let endpoint = |(address, _): Endpoint| address.octets();
        let l4_port = |(_, l4_port): Endpoint| l4_port.to_be_bytes();
        let (source, destination) = (frame.source, frame.destination);
        let input = [&endpoint(source)[..], &endpoint(destination), &l4_port(source), &l4_port(destination)];
        let hash = cpu::toeplitz(&self.key, &input.concat()) as usize;
        self.redirection_table[hash & (self.redirection_table.len() - 1)]
    }
}

fn with_vip(vip: Vip, rules: Ruleset) -> Ruleset {
    Ruleset { vips: Arc::new([(VIP, vip)].into_iter().collect()), vips_are_plain: vip == Vip::PLAIN, ..rules }
}

fn rules_with_rss(key: &[u8], bucket_count: usize, worker_count: u16) -> Ruleset {
    let rss = Rss::new(key, bucket_count, worker_count);
    Ruleset { rss: Some(Arc::new(rss)), ..ruleset(worker_count, &ONE_OF_EACH) }
}

/// A connection of client `number`: SYN there, SYN and ACK back, ACK there. The worker and the backend's packets; each
/// frame arrives where `queue` says.
fn handshake(
    team: &mut Team,
    number: u16,
    l4_port: u16,
    mut queue: impl FnMut(PortIndex, &Frame) -> usize,
) -> (usize, Decoded) {
    let question = Frame::tcp(client(number), (VIP, l4_port), SYN);
    let (owner, port, there) = team.pass(queue(FRONT, &question), FRONT, &question).expect("forwarded");
    assert_eq!(port, BACK);
    if there.source != client(number) {
        let answer = Frame::tcp(there.destination, there.source, SYN | ACK);
        let answer = Frame { to: PORT_MACS[1], from: there.to, ..answer };
        let (worker, port, back) = team.pass(queue(BACK, &answer), BACK, &answer).expect("forwarded");
        assert_eq!((worker, port), (owner, FRONT));
        assert_eq!((back.source, back.destination), ((VIP, l4_port), client(number)));
    }
    let more = Frame::tcp(client(number), (VIP, l4_port), ACK);
    let (worker, _, again) = team.pass(queue(FRONT, &more), FRONT, &more).expect("forwarded");
    assert_eq!((worker, again.source, again.to), (owner, there.source, there.to));
    (owner, there)
}

fn steered(team: &Team) -> u64 {
    team.0.iter().map(|director| director.counters.steered.value()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_arrives_by_rss_is_with_its_owner(
        key: [u8; 40], bucket_bits in 5u32..10, worker_count in 2u16..17
    ) {
        let rules = rules_with_rss(&key, 1 << bucket_bits, worker_count);
        prop_assume!(rules.rss.as_ref().unwrap().is_fit_for_local_ports());
        let nic = Nic::as_set_up(key, &rules);
        let mut team = Team::with(&rules);
        for number in 0..100 {
            for l4_port in [80, 8080] {
                handshake(&mut team, number, l4_port, |_, frame| nic.queue(frame));
            }
        }
        prop_assert_eq!(steered(&team), 0);
        let busy = team.0.iter().filter(|director| director.counters.forwarded.value() > 0).count();
        prop_assert!(busy > 1, "{busy} of {worker_count} workers have work");
        team.assert_balanced();
    }

    #[test]
    fn where_a_port_does_not_keep_to_it_packets_cross_and_arrive(
        key: [u8; 40], other_key: [u8; 40], worker_count in 2u16..5,
        arrivals in proptest::collection::vec(0usize..4, 3 * 120)
    ) {
        let rules = rules_with_rss(&key, 128, worker_count);
        prop_assume!(rules.rss.as_ref().unwrap().is_fit_for_local_ports());
        let nic = Nic::as_set_up(key, &rules);
        let (mut by_rules, mut as_it_comes) = (Team::with(&rules), Team::with(&rules));
        // The front port has another key and its table the other way round; at the back anything arrives anywhere.
        let mut table = nic.redirection_table.clone();
        table.reverse();
        let front = Nic { key: other_key, redirection_table: table };
        let mut arrivals = arrivals.into_iter().map(|at| at % usize::from(worker_count));
        for number in 0..60 {
            for l4_port in [80, 8080] {
                let (owner, _) = handshake(&mut by_rules, number, l4_port, |_, frame| nic.queue(frame));
                let (same, _) = handshake(&mut as_it_comes, number, l4_port, |port, frame| match port {
                    FRONT => front.queue(frame),
                    _ => arrivals.next().unwrap(),
                });
                prop_assert_eq!(owner, same, "the owner follows from the packet, not from where it arrived");
            }
        }
        prop_assert!(steered(&as_it_comes) > 0);
        as_it_comes.assert_balanced();
    }

    #[test]
    fn a_vip_that_is_no_longer_persistent_goes_back_to_rss(key: [u8; 40], worker_count in 2u16..5) {
        let part_before = Some(ClientPart::Network { host_bits: 0 });
        let vip = Vip { part: ClientPart::Endpoint, part_before };
        let rules = with_vip(vip, rules_with_rss(&key, 128, worker_count));
        prop_assume!(rules.rss.as_ref().unwrap().is_fit_for_local_ports());
        let nic = Nic::as_set_up(key, &rules);
        let mut team = Team::with(&rules);
        for number in 0..60 {
            for l4_port in [80, 8080] {
                let (owner, _) = handshake(&mut team, number, l4_port, |_, frame| nic.queue(frame));
                let question = Frame::tcp(client(number), (VIP, l4_port), SYN);
                prop_assert_eq!(owner, nic.queue(&question), "new connections are where packets arrive");
            }
        }
        team.assert_balanced();
    }

    #[test]
    fn clients_of_a_persistent_vip_meet_and_their_answers_need_not_cross(
        key: [u8; 40], worker_count in 2u16..5, host_bits in 0u8..9
    ) {
        let part = ClientPart::Network { host_bits };
        let rules = with_vip(Vip { part, part_before: None }, rules_with_rss(&key, 128, worker_count));
        prop_assume!(rules.rss.as_ref().unwrap().is_fit_for_local_ports());
        let nic = Nic::as_set_up(key, &rules);
        let mut team = Team::with(&rules);
        let mut answers_crossed = 0;
        for number in 0..60 {
            let (owner, there) = handshake(&mut team, number, 8080, |_, frame| nic.queue(frame));
            let question = Frame::tcp(client(number), (VIP, 8080), SYN);
            let flow = dataplane::flow::FlowKey::new(question.source, question.destination, 6);
            prop_assert_eq!(WorkerIndex(owner as u16), rules.owner_by(part, &flow));
            let answer = Frame::tcp(there.destination, there.source, ACK);
            answers_crossed += usize::from(nic.queue(&answer) != owner);
        }
        prop_assert_eq!(answers_crossed, 0);
        prop_assert!(steered(&team) > 0, "the port knows nothing of persistence");
        team.assert_balanced();
    }
}
