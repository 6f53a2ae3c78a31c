//! Mbufs from thread to thread: all arrive, in order, as the same mbufs, and none is lost when the ends go.

mod support;

use std::thread;

use dpdk::{Burst, Mempool, Port, ring};
use support::{TestPool, eal};

const PACKETS: u64 = 200_000;

#[test]
fn mbufs_cross_between_registered_threads() {
    let eal = eal("ring");
    let pool = TestPool::new(&eal, "ring");
    let (mut producer, mut consumer) = ring::channel(&eal, "cross", 256).expect("a ring");

    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_all(&pool, &mut consumer));
        let (pool, producer) = (&pool, &mut producer);
        scope.spawn(move || send_all(pool, producer, || receiver.is_finished()));
    });
    assert!(consumer.is_empty());
    what_stays_in_a_ring_goes_with_it(&pool);
    assert_eq!(pool.in_use(), 0);

    // Registering switched DPDK's multi-process channel off; attaching devices goes on working.
    drop(Port::attach(&eal, "net_null0").expect("attach after threads were registered"));
}

fn send_all(pool: &Mempool, producer: &mut ring::Producer, given_up: impl Fn() -> bool) {
    let _registration = dpdk::thread::register(pool.eal()).expect("an lcore id");
    assert_eq!(dpdk::thread::register(pool.eal()).unwrap_err(), dpdk::Error::ThreadRegistered);
    let mut burst = Burst::new();
    let mut next = 0;
    while next < PACKETS || !burst.is_empty() {
        while next < PACKETS && !burst.is_full() {
            let Some(mut mbuf) = pool.alloc() else { break };
            let address = mbuf.mbuf_address() as u64;
            let bytes = mbuf.append(16).expect("room");
            bytes[..8].copy_from_slice(&next.to_ne_bytes());
            bytes[8..].copy_from_slice(&address.to_ne_bytes());
            burst.push(mbuf).expect("not full");
            next += 1;
        }
        if producer.push(&mut burst) == 0 {
            assert!(!given_up(), "the receiver has failed");
            thread::yield_now();
        }
    }
}

fn receive_all(pool: &Mempool, consumer: &mut ring::Consumer) {
    let _registration = dpdk::thread::register(pool.eal()).expect("an lcore id");
    let mut burst = Burst::new();
    let mut expected = 0;
    while expected < PACKETS {
        if consumer.pop(&mut burst) == 0 {
            thread::yield_now();
        }
        for mbuf in burst.drain() {
            assert_eq!(mbuf.data()[..8], expected.to_ne_bytes(), "in order, none missing");
            assert_eq!(mbuf.data()[8..], (mbuf.mbuf_address() as u64).to_ne_bytes(), "the same mbuf");
            expected += 1;
        }
    }
}

fn what_stays_in_a_ring_goes_with_it(pool: &TestPool) {
    let (mut producer, mut consumer) = ring::channel(pool.eal(), "full", 64).expect("a ring");
    let mut burst = Burst::new();
    for round in 0..3 {
        while !burst.is_full() {
            burst.push(pool.mbuf(&[round])).expect("not full");
        }
        let fits = [32, 31, 0][usize::from(round)];
        assert_eq!(producer.push(&mut burst), fits, "a ring of 64 holds 63");
        assert_eq!(burst.len(), 32 - fits, "what does not fit stays in the burst");
    }
    assert_eq!((producer.len(), consumer.len()), (63, 63));
    let mut out = Burst::new();
    assert_eq!(consumer.pop(&mut out), 32);
    drop((producer, consumer));
    assert_eq!(pool.in_use(), 64, "32 in each burst, none in the ring");
}
