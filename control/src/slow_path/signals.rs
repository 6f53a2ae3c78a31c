//! Which thread takes net_tap's signal.
//!
//! net_tap reads from a TAP only after a signal has said that something is there: it asks the kernel for a real-time
//! signal (the first free one above `SIGRTMIN`) per packet, sent to the process, and its handler counts
//! (`drivers/net/tap/rte_eth_tap.c`: `tap_trigger_cb`, `pmd_rx_burst`). Three things follow:
//!
//! * Blocked in every thread, the handler never runs and the twin's receive queue stays silent for ever.
//! * Left open in every thread, the kernel prefers the main thread and then any other: workers and tokio would be
//!   interrupted once per packet. So all block it but the slow-path thread, which is also woken by it.
//! * Real-time signals queue, up to `RLIMIT_SIGPENDING` for all processes of the user. Beyond that the kernel sends
//!   plain `SIGIO` instead (`fs/fcntl.c`, `send_sigio_to_task`), whose default action ends the process. So every thread,
//!   this one too, blocks `SIGIO`: one stays pending, and does nothing.
//!
//! A mask is inherited by the threads a thread starts, EAL's own included, so [`block`] belongs at the top of `main`, before
//! `Eal::init`.

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
