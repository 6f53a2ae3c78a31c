//! The Environment Abstraction Layer: DPDK's start and end in this process.
//!
//! Guide: DPDK Programmer's Guide 22.11, "Environment Abstraction Layer"; options: Linux guide, "EAL parameters".

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::error::{Error, Result, c_string};
use crate::log;

/// DPDK starts once per process, so this is set once and stays.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// A running DPDK. Clones are handles to the same one.
///
/// Pools, ports, rings and registered threads each hold one. When the last is gone DPDK is stopped
/// (`rte_eal_cleanup`), unless mbufs are still out: then its memory stays mapped until the process ends, because an
/// [`crate::Mbuf`] is a bare pointer and must stay good wherever it is.
#[derive(Debug, Clone)]
pub struct Eal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pools: Mutex<Vec<Pool>>,
    claimed_ports: Mutex<BTreeSet<u16>>,
}

/// A pool that lives until DPDK stops.
#[derive(Debug, Clone, Copy)]
struct Pool(NonNull<sys::rte_mempool>);

// SAFETY: a mempool's functions may be called from any thread (Programmer's Guide, "Mempool Library"); the pointer
// is good until `Shared` is dropped.
unsafe impl Send for Pool {}

impl Eal {
    /// Starts DPDK with EAL options (`["--no-pci", "-l", "0"]`; no program name).
    ///
    /// Drivers come from DPDK's plugin directory. The log goes to stderr at warning level unless `args` have a
    /// `--log-level`. EAL pins the calling thread to its main lcore; the thread gets its own affinity back here.
    /// Started so that nothing is left behind, even when the process is killed: `--in-memory` with huge pages, or
    /// `--no-huge --no-shconf`, and `--no-telemetry` with either.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] on every call but the first of a process, even when the first failed: DPDK's own
    /// state is not fit for a second try. [`Error::Call`] with DPDK's reason, [`Error::StrayArgument`],
    /// [`Error::NulByte`].
    pub fn init(args: &[String]) -> Result<Self> {
        let stray = args.iter().find(|argument| argument.as_str() == "--");
        if let Some(argument) = stray {
            return Err(Error::StrayArgument { argument: argument.clone() });
        }
        let mut argv = leaked_argv(args)?;
        if INITIALISED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        log::take_over()?;
        let affinity = Affinity::of_this_thread();
        let parsed = log::explain(|| {
            // SAFETY: first and only call in this process. `argv` has argc strings that are never freed, as EAL
            // may keep pointers into them, and a null after the last.
            let parsed = unsafe { sys::rte_eal_init(c_int_len(argv.len() - 1), argv.as_mut_ptr()) };
            if parsed < 0 { Err(Error::last("rte_eal_init", args.join(" "))) } else { Ok(parsed) }
        });
        affinity.restore();
        remove_empty_runtime_directory();
        let understood = usize::try_from(parsed?).unwrap_or(0);
        let eal = Self(Arc::new(Shared { pools: Mutex::default(), claimed_ports: Mutex::default() }));
        // EAL moves words that are not options to the end, and returns how many it used.
        match argv.get(understood + 1) {
            Some(&word) if !word.is_null() => Err(Error::StrayArgument { argument: leaked_text(word) }),
            _ => Ok(eal),
        }
    }

    /// Notes a pool, which from now on lives until DPDK stops.
    pub(crate) fn keep_pool(&self, pool: NonNull<sys::rte_mempool>) {
        lock(&self.0.pools).push(Pool(pool));
    }

    /// Claims a port for one [`crate::Port`]; false when it is taken.
    pub(crate) fn claim_port(&self, port_id: u16) -> bool {
        lock(&self.0.claimed_ports).insert(port_id)
    }

    /// Gives a claimed port back.
    pub(crate) fn release_port(&self, port_id: u16) {
        lock(&self.0.claimed_ports).remove(&port_id);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let pools = self.pools.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: pools live until here. No handle to DPDK is left, so the count can only fall.
        let out: u32 =
            pools.iter().map(|pool| unsafe { sys::rte_mempool_in_use_count(pool.0.as_ptr()) }).sum();
        if out > 0 {
            return;
        }
        // SAFETY: EAL is initialised and runs once. Every port, ring, pool handle and registration holds this
        // `Shared`, and every mbuf is back in its pool, so nothing can reach DPDK's memory any more.
        unsafe { sys::rte_eal_cleanup() };
    }
}

/// With `--no-shconf --no-telemetry` (and with `--in-memory`) DPDK makes its directory under /run/dpdk, puts nothing
/// into it and forgets it. Removed at the start, it cannot be left behind by a process that is killed.
fn remove_empty_runtime_directory() {
    // SAFETY: the string is static and NUL-terminated, and empty where EAL did not come as far as to name one.
    let path = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    // Fails where something is in it, which is as it should be.
    let _ = std::fs::remove_dir(OsStr::from_bytes(path.to_bytes()));
}

/// No code under these locks can panic half-way through a change, so a poisoned lock is as good as new.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Program name, default log level, `args` and a final null; the strings are leaked, once per process.
fn leaked_argv(args: &[String]) -> Result<Vec<*mut c_char>> {
    let words = ["crossdock", "--log-level=*:warning"].into_iter().chain(args.iter().map(String::as_str));
    let strings = words.map(c_string).collect::<Result<Vec<_>>>()?;
    let mut argv: Vec<_> = strings.into_iter().map(|word| word.into_raw()).collect();
    argv.push(std::ptr::null_mut());
    Ok(argv)
}

fn leaked_text(word: *const c_char) -> String {
    // SAFETY: only called with words of `leaked_argv`, which are NUL-terminated and never freed.
    unsafe { CStr::from_ptr(word) }.to_string_lossy().into_owned()
}

fn c_int_len(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// The cores a thread may run on.
struct Affinity(Option<sys::rte_cpuset_t>);

impl Affinity {
    fn of_this_thread() -> Self {
        let mut set = MaybeUninit::<sys::rte_cpuset_t>::zeroed();
        // SAFETY: `set` is writable and of the size passed.
        let rc = unsafe { sys::sched_getaffinity(0, size_of::<sys::rte_cpuset_t>(), set.as_mut_ptr()) };
        // SAFETY: a set of bits, for which zero bytes are a value; the call filled it when it returned 0.
        Self((rc == 0).then(|| unsafe { set.assume_init() }))
    }

    /// Best effort: a thread that stays pinned works all the same.
    fn restore(self) {
        if let Some(mut set) = self.0 {
            // SAFETY: `set` is a whole cpu set; DPDK copies it into the thread's own record.
            unsafe { sys::rte_thread_set_affinity(&raw mut set) };
        }
    }
}
