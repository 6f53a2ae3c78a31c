//! What it costs to find where a packet goes when its scheduler is overruled: a million prefixes of clients, and server IDs in
//! QUIC connection IDs. `cargo run --release -p dataplane --example routes [PREFIXES]` prints medians of nine runs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use dataplane::index::BackendIndex;
use dataplane::prefix::Prefix;
use dataplane::rules::route::{Configuration, DatagramIds, PrefixTable, QuicLb, Routes, Target};
use dataplane::wire::ipv4::PROTOCOL_UDP;
use dataplane::wire::tcp::TcpFlags;

const RUNS: usize = 9;
const LOOKUPS: usize = 1 << 16;

/// A generator that needs no seed: every run measures the same (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..RUNS).map(|_| run()).collect();
    times.sort();
    times[RUNS / 2]
}

/// Nanoseconds a call, over all of `inputs`.
fn cost<T>(inputs: &[T], mut call: impl FnMut(&T) -> bool) -> (f64, usize) {
    let mut found = 0;
    let time = median(|| {
        let begin = Instant::now();
        found = inputs.iter().filter(|input| black_box(call(black_box(input)))).count();
        begin.elapsed()
    });
    (time.as_secs_f64() * 1e9 / inputs.len() as f64, found)
}

fn prefixes(name: &str, count: usize, mut address: impl FnMut() -> IpAddr, lens: (u64, u64)) {
    let mut numbers = Numbers(1);
    let list: Vec<(Prefix, Target)> = (0..count)
        .map(|_| {
            let len = lens.0 + numbers.next() % (lens.1 - lens.0 + 1);
            (Prefix::new(address(), len as u8), (numbers.next() % 1_000) as Target)
        })
        .collect();
    let mut table = PrefixTable::default();
    let build = median(|| {
        let begin = Instant::now();
        table = PrefixTable::new(list.iter().copied());
        begin.elapsed()
    });
    let addresses: Vec<IpAddr> = (0..LOOKUPS).map(|_| address()).collect();
    let (nanoseconds, found) = cost(&addresses, |address| table.find(*address).is_some());
    println!(
        "{name}: {count} prefixes built in {:.0} ms, {:.1} MB; a lookup {nanoseconds:.0} ns ({found} of {LOOKUPS} found)",
        build.as_secs_f64() * 1e3,
        table.size() as f64 / 1e6,
    );
}

fn connection_ids(name: &str, server_id_len: usize, nonce_len: usize, key: Option<[u8; 16]>) {
    let mut quic_lb = QuicLb::default();
    let is_set =
        Configuration::new(server_id_len, nonce_len, key, false).is_ok_and(|made| quic_lb.set(0, made));
    assert!(is_set, "a configuration that the draft allows");
    let datagrams = Some(DatagramIds::QuicLb(Box::new(quic_lb)));
    let server_ids = (0..100).map(|id| (id, BackendIndex(id as u32))).collect();
    let routes = Routes { datagrams, server_ids, ..Routes::default() };
    let mut numbers = Numbers(2);
    let packets: Vec<[u8; 40]> = (0..LOOKUPS)
        .map(|_| {
            let mut packet = [0; 40];
            packet.chunks_mut(8).for_each(|to| to.copy_from_slice(&numbers.next().to_le_bytes()));
            // A UDP header that claims all of it, a short header, and an ID of the first configuration.
            packet[4..6].copy_from_slice(&40u16.to_be_bytes());
            (packet[8], packet[9]) = (0x40, packet[9] & 0x1f);
            packet
        })
        .collect();
    let (nanoseconds, _) = cost(&packets, |packet| {
        routes.named(PROTOCOL_UDP, TcpFlags(0), &packet[..]) != dataplane::rules::route::Named::Nobody
    });
    println!("{name}: {nanoseconds:.1} ns a packet");
}

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let mut numbers = Numbers(3);
    prefixes("IPv4", count, || Ipv4Addr::from_bits(numbers.next() as u32).into(), (8, 32));
    let mut numbers = Numbers(4);
    let ipv6 = || {
        // Within 2000::/3, as what is routed.
        let high = u128::from(numbers.next() >> 3 | 1 << 61);
        Ipv6Addr::from_bits(high << 64 | u128::from(numbers.next())).into()
    };
    prefixes("IPv6", count, ipv6, (16, 64));
    let key = Some([7; 16]);
    connection_ids("server ID in the clear", 3, 7, None);
    connection_ids("encrypted, one pass", 8, 8, key);
    connection_ids("encrypted, four passes, three undone", 3, 7, key);
    connection_ids("encrypted, four passes, four undone", 10, 5, key);
}
