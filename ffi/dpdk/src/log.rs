//! DPDK's log: to stderr line by line, except that the lines of a failing call go into its error.
//!
//! DPDK returns an errno and writes the reason to its log ("Couldn't open in.pcap"). An operator needs both in one
//! message. By default DPDK also copies every line to syslog; this replaces that.
//! Guide: DPDK Programmer's Guide 22.11, "Log Library".

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::io::Write;

use dpdk_sys as sys;

use crate::error::{Error, Result, check};

thread_local! {
    /// The lines of the call that this thread is [explaining](explain); `None` sends them to stderr.
    static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// How much DPDK says. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may surprise. The level after start.
    Warning,
    /// What happened that matters.
    Notice,
    /// What happened.
    Info,
    /// Everything the drivers were built to say.
    Debug,
}

/// Sets how much DPDK and its drivers say from now on, on stderr.
///
/// # Errors
/// [`Error::Call`] when DPDK refuses the level.
pub fn set_log_level(level: LogLevel) -> Result<()> {
    let level = match level {
        LogLevel::Error => sys::XD_LOG_ERR,
        LogLevel::Warning => sys::XD_LOG_WARNING,
        LogLevel::Notice => sys::XD_LOG_NOTICE,
        LogLevel::Info => sys::XD_LOG_INFO,
        LogLevel::Debug => sys::XD_LOG_DEBUG,
    };
    // SAFETY: the pattern is a NUL-terminated string; the call only sets integers.
    let rc = unsafe { sys::rte_log_set_level_pattern(c"*".as_ptr(), level) };
    check("rte_log_set_level_pattern", "*", rc)
}

/// Takes DPDK's log over. Before `rte_eal_init`, so that its lines are seen too.
pub(crate) fn take_over() -> Result<()> {
    // SAFETY: `write` has the signature of `xd_log_write`, and lives as long as the program.
    check("rte_openlog_stream", "stderr", unsafe { sys::xd_log_redirect(Some(write)) })
}

/// Runs `call`; when it fails, the lines DPDK logged on this thread meanwhile become part of the error. When it
/// succeeds they go to stderr, but for those that mean nothing.
pub(crate) fn explain<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    KEPT.set(Some(Vec::new()));
    let mut result = call();
    let lines = KEPT.take().unwrap_or_default();
    match &mut result {
        Err(Error::Call { log, .. }) => log.push_str(String::from_utf8_lossy(&lines).trim()),
        _ => {
            lines.split_inclusive(|&byte| byte == b'\n').filter(|line| !is_harmless(line)).for_each(to_stderr)
        }
    }
    result
}

/// What drivers call an error though the call succeeds and nothing is missing.
const HARMLESS: [&str; 7] = [
    // net_tap cannot add the qdisc that its flow rules would need; we use none.
    "tap_nl_dump_ext_ack(): Specified qdisc kind is unknown",
    "qdisc_create_multiq(): Could not add multiq qdisc",
    "failed to create multiq qdisc",
    "Disabling rte flow support",
    // There are no secondary processes to tell: --no-shconf, --in-memory.
    "Failed to send start req to secondary",
    "Failed to register mp action callback",
    // Pages of 2 MiB do.
    "No free 1048576 kB hugepages reported",
];

fn is_harmless(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    HARMLESS.iter().any(|harmless| line.contains(harmless))
}

/// DPDK's log stream writes here. Never unwinds into C: nothing in it panics.
///
/// # Safety
/// `text` points to `bytes` readable bytes, as the C library promises a cookie stream's write function.
unsafe extern "C" fn write(_cookie: *mut c_void, text: *const c_char, bytes: usize) -> isize {
    // SAFETY: promised by the caller; the slice is not kept.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), bytes) };
    let kept = KEPT.try_with(|kept| match kept.try_borrow_mut() {
        Ok(mut kept) => kept.as_mut().is_some_and(|lines| {
            lines.extend_from_slice(text);
            true
        }),
        Err(_) => false,
    });
    if kept != Ok(true) {
        to_stderr(text);
    }
    bytes.cast_signed()
}

/// A log that cannot be written is no reason to stop.
fn to_stderr(text: &[u8]) {
    let _ = std::io::stderr().write_all(text);
}
