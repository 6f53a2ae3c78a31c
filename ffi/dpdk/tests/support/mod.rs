//! What the tests share: one EAL per test process, and pools that must be full again at the end of a test.
#![allow(dead_code, missing_docs)] // Each test binary uses its own part.

use std::ops::Deref;

use dpdk::{DATA_ROOM_BYTES_DEFAULT, Eal, Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};

/// EAL without huge pages or hardware, under a name of its own.
pub(crate) fn eal(name: &str) -> Eal {
    Eal::init(&eal_args(name)).expect("EAL starts without huge pages, as root")
}

pub(crate) fn eal_args(name: &str) -> Vec<String> {
    let prefix = format!("--file-prefix=xd-{name}-{}", std::process::id());
    ["--no-huge", "-m", "128", "--no-pci", "--no-telemetry", "--no-shconf", "-l", "0", &prefix]
        .map(String::from)
        .to_vec()
}

/// A mempool for one test (capsule's idea): leaving the test with an mbuf missing fails it.
pub(crate) struct TestPool(Mempool);

impl TestPool {
    pub(crate) fn new(eal: &Eal, name: &str) -> Self {
        Self(
            Mempool::create(eal, name, 2047, 32, DATA_ROOM_BYTES_DEFAULT, None)
                .expect("128 MB hold this pool"),
        )
    }

    /// An mbuf with these bytes.
    pub(crate) fn mbuf(&self, bytes: &[u8]) -> Mbuf {
        let mut mbuf = self.0.alloc().expect("the pool has mbufs");
        mbuf.append(bytes.len().try_into().expect("at most 64 KiB")).expect("room").copy_from_slice(bytes);
        mbuf
    }
}

impl Deref for TestPool {
    type Target = Mempool;

    fn deref(&self) -> &Mempool {
        &self.0
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.in_use(), 0, "mbufs are missing from the test's pool");
        }
    }
}

/// Attaches, configures and starts a port with one queue each way.
pub(crate) fn single_queue_port(eal: &Eal, devargs: &str, pool: &Mempool) -> (Port, RxQueue, TxQueue) {
    let mut port = Port::attach(eal, devargs).expect("the device attaches");
    port.configure(&PortConfig::default(), pool).expect("the port configures");
    let (rx, tx) = port.start().expect("the port starts");
    let (Ok([rx]), Ok([tx])) = (<[_; 1]>::try_from(rx), <[_; 1]>::try_from(tx)) else {
        panic!("one queue each")
    };
    (port, rx, tx)
}
