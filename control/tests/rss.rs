//! Ports agree on one RSS key and one redirection table. On net_null, which keeps what it is told and hashes nothing: what
//! ports with RSS do is shown by `dataplane/tests/line/rss.rs` (simulated) and `scripts/nic-lab --workers 4` (QEMU's).

#![forbid(unsafe_code)]

use control::rss::{Agreement, Spreading};
use dataplane::index::PortIndex;
use dpdk::{DATA_ROOM_BYTES_DEFAULT, Eal, Mempool, Port, PortConfig, RxQueue, TxQueue};

const WORKERS: u16 = 4;

#[test]
fn ports_that_can_are_told_the_same() {
    let prefix = format!("--file-prefix=xd-rss-{}", std::process::id());
    let args = ["--no-huge", "-m", "64", "--no-pci", "-l", "0", "--no-telemetry", "--no-shconf", &prefix];
    let eal = Eal::init(&args.map(String::from)).expect("EAL starts without huge pages, as root");
    let pool = Mempool::create(&eal, "packets", 4_095, 32, DATA_ROOM_BYTES_DEFAULT, None).expect("a pool");
    let mut agreement = Agreement::new(WORKERS);

    let (mut ring, _queues) = started(&eal, &pool, &agreement, "net_ring0", 1);
    let info = ring.info().expect("info");
    assert_eq!(agreement.set_up(PortIndex(0), &mut ring, &info, 1), Spreading::Unknown);

    let mut tables = Vec::new();
    for (index, devargs, queues) in
        [(1, "net_null0", WORKERS), (2, "net_null1", WORKERS), (3, "net_null2", 3)]
    {
        let (mut port, _queues) = started(&eal, &pool, &agreement, devargs, queues);
        let info = port.info().expect("info");
        assert_eq!(agreement.set_up(PortIndex(index), &mut port, &info, queues), Spreading::Rss);
        tables.push(port.rss().expect("settings").redirection_table);
    }
    let rss = agreement.finish().expect("ports with RSS");
    let watched: Vec<_> = (0..5).filter(|port| rss.watches(PortIndex(*port))).collect();
    assert_eq!(watched, [1, 2, 3]);
    let owners: Vec<_> = rss.owners().iter().map(|owner| owner.0).collect();
    assert_eq!((&tables[0], &tables[1]), (&owners, &owners), "a queue has its worker's number");
    let within: Vec<_> = owners.iter().map(|owner| owner % 3).collect();
    assert_eq!(tables[2], within, "where there are fewer queues the last worker's packets come by the first");

    // One key for all: net_null has one of its own, which cannot be set at configuration.
    let (single, _queues) = started(&eal, &pool, &agreement, "net_null3", 1);
    assert_eq!(agreement.key_for(&single.info().expect("info"), 1), None, "one queue needs no key");
}

type Queues = (Vec<RxQueue>, Vec<TxQueue>);

fn started(eal: &Eal, pool: &Mempool, agreement: &Agreement, devargs: &str, queues: u16) -> (Port, Queues) {
    let mut port = Port::attach(eal, devargs).expect("attach");
    let info = port.info().expect("info");
    let config = PortConfig {
        rx_queue_count: queues,
        tx_queue_count: queues,
        rss_key: agreement.key_for(&info, queues),
        ..PortConfig::default()
    };
    port.configure(&config, pool).expect("configure");
    let queues = port.start().expect("start");
    (port, queues)
}
