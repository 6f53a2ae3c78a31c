//! What is refused, and in which words.

mod support;

use dpdk::{Eal, Error, LogLevel, Mempool, Port, ring, set_log_level};
use support::{TestPool, eal, eal_args};

#[test]
fn refusals_name_the_call_and_the_reason() {
    let eal = eal("errors");
    let pool = TestPool::new(&eal, "errors");

    assert_eq!(Eal::init(&eal_args("again")).unwrap_err(), Error::AlreadyInitialised);
    assert_eq!(dpdk::thread::register(&eal).unwrap_err(), Error::ThreadRegistered, "EAL's own thread");
    bad_devargs(&eal);
    bad_rings_and_pools(&pool);
    set_log_level(LogLevel::Error).expect("a level");
    let path = format!("/run/dpdk/xd-errors-{}", std::process::id());
    assert!(!std::fs::exists(&path).expect("readable"), "{path} would be left behind by a kill");
    assert!(dpdk::version().starts_with("DPDK "), "{}", dpdk::version());
}

fn bad_devargs(eal: &Eal) {
    let text = |devargs: &str| Port::attach(eal, devargs).expect_err(devargs).to_string();

    let no_driver = text("net_nonsense0");
    assert!(no_driver.contains("rte_dev_probe(net_nonsense0)"), "{no_driver}");
    let no_file = text("net_pcap0,rx_pcap=/nowhere/in.pcap");
    assert!(no_file.contains("/nowhere/in.pcap: No such file or directory"), "{no_file}");
    let no_interface = text("net_af_packet0,iface=xd-missing0");
    assert!(no_interface.contains("rte_dev_probe") && no_interface.contains("DPDK says"), "{no_interface}");
    let unknown_key = text("net_null0,colour=blue");
    assert!(
        unknown_key.contains("the driver refused") && !unknown_key.contains("permitted"),
        "{unknown_key}"
    );
    assert_eq!(text("net_\0null"), "`net_\\0null` has a NUL byte inside");

    let missing = Port::find(eal, "net_null9").unwrap_err();
    assert_eq!(missing.to_string(), "no port `net_null9`; DPDK has no port at all");
    let _port = Port::attach(eal, "net_null0").expect("attach after refusals");
    let missing = Port::find(eal, "net_null9").unwrap_err();
    assert_eq!(missing.to_string(), "no port `net_null9`; there are: net_null0");
}

fn bad_rings_and_pools(pool: &TestPool) {
    let eal = pool.eal();
    for size in [0, 1, 3, 1000, u32::MAX] {
        assert_eq!(ring::channel(eal, "odd", size).unwrap_err(), Error::RingSize { asked: size });
    }
    let _first = ring::channel(eal, "twin", 8).expect("a ring");
    let second = ring::channel(eal, "twin", 8).unwrap_err().to_string();
    assert!(second.starts_with("rte_ring_create(twin): File exists (errno 17)"), "{second}");

    let long = "a-name-much-longer-than-a-memory-zone-takes";
    let too_long = Mempool::create(eal, long, 31, 0, 512, None).unwrap_err().to_string();
    assert!(too_long.contains("rte_pktmbuf_pool_create") && too_long.contains("shorter name"), "{too_long}");
    let too_big = Mempool::create(eal, "big", 10_000_000, 0, 2176, None).unwrap_err().to_string();
    assert!(too_big.contains("Cannot allocate memory") && too_big.contains("huge pages"), "{too_big}");
}
