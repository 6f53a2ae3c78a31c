//! The order in which things are dropped does not matter, and DPDK's start leaves the thread as it was.

mod support;

use std::thread::available_parallelism;

use dpdk::{Burst, DATA_ROOM_BYTES_DEFAULT, Eal, Error, Mempool};
use support::{eal, eal_args, single_queue_port};

#[test]
fn mbufs_stay_good_when_everything_else_is_gone() {
    let cores = available_parallelism().expect("an affinity");
    let eal = eal("lifetime");
    assert_eq!(available_parallelism().expect("an affinity"), cores, "EAL pins the thread; that is undone");

    let pool = Mempool::create(&eal, "lifetime", 255, 0, DATA_ROOM_BYTES_DEFAULT, None).expect("a pool");
    let (port, mut rx, tx) = single_queue_port(&eal, "net_null0", &pool);
    let mut burst = Burst::new();
    assert_eq!(rx.receive(&mut burst), 32);
    let mut mbuf = pool.alloc().expect("an mbuf");
    drop((eal, pool));
    assert_eq!(rx.receive(&mut burst), 0, "a full burst");
    burst.clear();
    assert_eq!(rx.receive(&mut burst), 32, "the port keeps DPDK and its pool");
    drop((port, rx, tx));

    mbuf.append(4).expect("room").copy_from_slice(b"good");
    std::thread::spawn(move || assert_eq!(mbuf.data(), b"good"))
        .join()
        .expect("freed on a thread unknown to DPDK");
    drop(burst);
    assert_eq!(Eal::init(&eal_args("lifetime2")).unwrap_err(), Error::AlreadyInitialised);
}
