//! Through net_ring, DPDK's own loopback: what is sent comes back, the same mbuf in the same buffer.

mod support;

use dpdk::Burst;
use support::{TestPool, eal, single_queue_port};

#[test]
fn bursts_come_back_in_order_in_the_same_buffers() {
    let eal = eal("loopback");
    let pool = TestPool::new(&eal, "loopback");
    let (port, mut rx, mut tx) = single_queue_port(&eal, "net_ring0", &pool);

    let mut sent = Burst::new();
    for i in 0..32u8 {
        sent.push(pool.mbuf(&[i; 60])).expect("room for 32");
    }
    assert!(sent.is_full());
    assert!(sent.push(pool.mbuf(b"one too many")).is_err(), "a full burst gives the mbuf back");
    let addresses: Vec<_> = sent.iter().map(|mbuf| (mbuf.mbuf_address(), mbuf.buffer_address())).collect();
    assert_eq!(tx.transmit(&mut sent), 32);
    assert!(sent.is_empty());

    let mut received = Burst::new();
    assert_eq!(rx.receive(&mut received), 32);
    assert_eq!(rx.receive(&mut received), 0, "a full burst takes no more");
    let back: Vec<_> = received.iter().map(|mbuf| (mbuf.mbuf_address(), mbuf.buffer_address())).collect();
    assert_eq!(back, addresses, "the mbufs and their buffers are those that were sent");
    for (i, mbuf) in received.iter().enumerate() {
        assert_eq!(mbuf.data(), [i as u8; 60]);
        assert_eq!(mbuf.rss_hash(), None);
    }
    let stats = port.stats().expect("net_ring counts");
    assert_eq!((stats.rx_packets, stats.tx_packets), (32, 32));

    // Taken out one by one, or in bulk by drop: both give the mbufs back.
    assert_eq!(received.drain().take(3).count(), 3);
    assert_eq!(pool.in_use(), 0);

    // What is under way when the port closes comes back too: TestPool counts when it is dropped, after the port.
    sent.push(pool.mbuf(b"never fetched")).expect("room");
    assert_eq!(tx.transmit(&mut sent), 1);
    assert_eq!(pool.in_use(), 1);
}
