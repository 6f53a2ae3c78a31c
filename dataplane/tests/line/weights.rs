//! New connections spread by weight, through the whole line.

use std::net::Ipv4Addr;

use dataplane::index::BackendIndex;
use dataplane::rules::Mode;

use crate::common::frames::SYN;
use crate::common::rules::{ServiceSpec, TCP, VIP};
use crate::common::{Director, Frame, ruleset};

/// Connections opened at each backend after `count` clients came.
fn opened(scheduler: &'static str, mode: Mode, weights: &'static [u16], count: u16) -> Vec<u64> {
    let spec = ServiceSpec { protocol: TCP, l4_port: 80, mode, scheduler, weights };
    let mut director = Director::new(ruleset(1, &[spec]));
    for number in 0..count {
        let client = (Ipv4Addr::new(198, 51, 100, (number % 50) as u8), 2_000 + number);
        assert!(director.send(Frame::tcp(client, (VIP, 80), SYN).bytes()).is_some());
        // A retransmitted SYN is no new connection.
        assert!(director.send(Frame::tcp(client, (VIP, 80), SYN).bytes()).is_some());
    }
    (0..weights.len())
        .map(|index| director.counters.backend(BackendIndex(index as u32)).opened.value())
        .collect()
}

#[test]
fn weighted_round_robin_is_exact() {
    for mode in [Mode::Dr, Mode::Fullnat] {
        assert_eq!(opened("wrr", mode, &[5, 3, 1], 900), [500, 300, 100]);
        assert_eq!(opened("wrr", mode, &[5, 0, 1], 600), [500, 0, 100]);
    }
}

#[test]
fn round_robin_leaves_out_who_has_no_weight_and_looks_at_no_other() {
    assert_eq!(opened("rr", Mode::Fullnat, &[7, 0, 1], 900), [450, 0, 450]);
}

#[test]
fn maglev_hashing_spreads_by_weight_within_a_few_percent_and_leaves_out_who_has_none() {
    let opened = opened("mh", Mode::Dr, &[2, 1, 0, 1], 4_000);
    assert_eq!(opened[2], 0);
    // 4,000 connections at probability 1/2: a standard deviation of 32; 1 % of the table is uneven besides.
    assert!(opened[0].abs_diff(2_000) < 200 && opened[1].abs_diff(1_000) < 200, "{opened:?}");
}
