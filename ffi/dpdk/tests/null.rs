//! The null device: an endless source and a bottomless sink. What a port and its queues promise, on the simplest one.

mod support;

use dpdk::{Burst, Error, Port, PortConfig};
use support::{TestPool, eal, single_queue_port};

#[test]
fn null_ports_start_once_and_close_with_their_last_queue() {
    let eal = eal("null");
    let pool = TestPool::new(&eal, "null");
    the_source_fills_and_the_sink_empties(&pool);
    queues_are_handed_out_once_and_keep_the_port(&pool);
    every_queue_of_a_port_works(&pool);
    rss_is_set_and_read_back(&pool);
}

fn the_source_fills_and_the_sink_empties(pool: &TestPool) {
    let (mut port, mut rx, mut tx) = single_queue_port(pool.eal(), "net_null0,size=128", pool);
    let info = port.info().expect("info");
    assert_eq!(info.driver, "net_null");
    assert!(info.rx_queues_max >= 1 && info.mtu_min <= 1500, "{info:?}");
    assert!(port.link().expect("link").up);
    port.set_promiscuous(true).expect("promiscuous");

    let mut burst = Burst::new();
    assert_eq!(rx.receive(&mut burst), 32);
    assert!(burst.iter().all(|mbuf| mbuf.data().len() == 128 && mbuf.port() == port.id()));
    let first_kept = burst[3].mbuf_address();
    drop(burst.drain().take(3));
    assert!(burst.is_empty(), "a drain that is dropped early frees the rest");
    assert_eq!(rx.receive(&mut burst), 32);
    assert_ne!(first_kept, 0);
    assert_eq!(tx.transmit(&mut burst), 32);
    let stats = port.stats().expect("stats");
    assert_eq!((stats.rx_packets, stats.tx_packets), (64, 32));
}

fn queues_are_handed_out_once_and_keep_the_port(pool: &TestPool) {
    let eal = pool.eal();
    let mut port = Port::attach(eal, "net_null1").expect("attach");
    let name = || String::from("net_null1");
    assert_eq!(port.start().unwrap_err(), Error::PortNotConfigured { name: name() });
    let greedy = PortConfig { rx_queue_count: 60_000, ..PortConfig::default() };
    let max = port.info().expect("info").rx_queues_max;
    let refused = Error::QueueCount { name: name(), direction: "receive", asked: 60_000, max };
    assert_eq!(port.configure(&greedy, pool).unwrap_err(), refused);
    let none = PortConfig { tx_queue_count: 0, ..PortConfig::default() };
    assert!(matches!(port.configure(&none, pool), Err(Error::QueueCount { asked: 0, .. })));
    port.configure(&PortConfig::default(), pool).expect("configure");
    let (rx, tx) = port.start().expect("start");
    assert_eq!(port.start().unwrap_err(), Error::PortStarted { name: name() });
    assert_eq!(
        port.configure(&PortConfig::default(), pool).unwrap_err(),
        Error::PortStarted { name: name() }
    );

    drop((port, tx));
    assert_eq!(Port::attach(eal, "net_null1").unwrap_err(), Error::PortTaken { name: name() });
    assert_eq!(Port::find(eal, "net_null1").unwrap_err(), Error::PortTaken { name: name() });
    let mut burst = Burst::new();
    let mut rx = rx;
    assert_eq!(rx[0].receive(&mut burst), 32, "the port runs while a queue is alive");
    drop(rx);
    let gone = Port::find(eal, "net_null1").unwrap_err();
    assert_eq!(
        gone,
        Error::PortMissing { name: name(), known: vec![] },
        "the last queue took the device along"
    );
    Port::attach(eal, "net_null1").expect("the name is free again");
}

fn every_queue_of_a_port_works(pool: &TestPool) {
    let mut port = Port::attach(pool.eal(), "net_null2").expect("attach");
    let config = PortConfig { rx_queue_count: 3, tx_queue_count: 3, ..PortConfig::default() };
    port.configure(&config, pool).expect("configure");
    port.configure(&config, pool).expect("configuring again is allowed until the start");
    let (rx, tx) = port.start().expect("start");
    assert_eq!((rx.len(), tx.len()), (3, 3));
    let mut burst = Burst::new();
    for (index, (mut rx, mut tx)) in rx.into_iter().zip(tx).enumerate() {
        assert_eq!((usize::from(rx.index()), usize::from(tx.index())), (index, index));
        assert_eq!(rx.receive(&mut burst), 32);
        assert_eq!(tx.transmit(&mut burst), 32);
    }
}

fn rss_is_set_and_read_back(pool: &TestPool) {
    let mut port = Port::attach(pool.eal(), "net_null3").expect("attach");
    let info = port.info().expect("info");
    assert_eq!((info.hash_key_bytes, info.reta_size), (0, 128), "what net_null pretends to have");
    let key: Vec<u8> = (0..40).collect();
    let queues = PortConfig { rx_queue_count: 4, tx_queue_count: 4, ..PortConfig::default() };
    let config = PortConfig { rss_key: Some(key.clone()), ..queues };
    port.configure(&config, pool).expect("configure");
    let _queues = port.start().expect("start");
    let redirection_table: Vec<u16> = (0..128).map(|bucket| 3 - bucket % 4).collect();
    port.set_redirection_table(&redirection_table).expect("set");
    let settings = port.rss().expect("rss");
    assert_eq!((settings.key.len(), settings.redirection_table), (40, redirection_table));
    let too_long = vec![0; 8_192];
    assert!(matches!(port.set_redirection_table(&too_long), Err(Error::Call { .. })));

    let mut ring = Port::attach(pool.eal(), "net_ring3").expect("attach");
    ring.configure(&PortConfig::default(), pool).expect("configure");
    let _queues = ring.start().expect("start");
    assert!(matches!(ring.rss(), Err(Error::Call { .. })), "net_ring has no RSS");
}
