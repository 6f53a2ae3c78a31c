//! Which thread takes net_tap's signal.
//!
//! For every packet in a TAP the kernel sends the process a real-time signal, the first free one above `SIGRTMIN`. The
//! handler counts, and net_tap reads only when the count has moved; until the first signal it tries every time
//! (`drivers/net/tap/rte_eth_tap.c`: `tap_trigger_cb`, `pmd_rx_burst`). Four things follow:
//!
//! * Open in every thread, it interrupts workers and tokio once per packet: the kernel prefers the first thread, then
//!   takes any. So all block it but the slow-path thread, which it also wakes.
//! * Blocked there too, the signals pile up to `RLIMIT_SIGPENDING`, which all processes of the user share, and once the
//!   handler has run, nothing is ever read again.
//! * What cannot be queued beyond that limit comes as plain `SIGIO` (`fs/fcntl.c`, `send_sigio_to_task`), whose default
//!   action ends the process. So every thread, this one too, blocks `SIGIO`: one stays pending, and does nothing.
//! * A packet whose signal was lost that way waits in the TAP for the next one's.
//!
//! Threads inherit the mask of the one that starts them, EAL's own threads included, so [`block`] comes before
//! `Eal::init` and before any other thread.

use nix::sys::signal::{SigSet, Signal};

/// Keeps net_tap's signals, and `SIGIO`, from the calling thread and the threads it starts from now on.
pub fn block() {
    let mut signals = real_time();
    signals.add(Signal::SIGIO);
    // Its one error is an unknown operation.
    let _ = signals.thread_block();
}

/// Lets them come to the calling thread, `SIGIO` excepted.
pub(super) fn open() {
    block();
    // As above.
    let _ = real_time().thread_unblock();
}

/// All real-time signals: which of them net_tap found free is not known outside it.
fn real_time() -> SigSet {
    let mut signals = SigSet::all();
    Signal::iterator().for_each(|signal| signals.remove(signal));
    signals
}
