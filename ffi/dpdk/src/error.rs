//! What can go wrong, said so that the reader knows which call failed, on what, why, and what to do.

use std::ffi::{CStr, CString, c_int};
use std::fmt;

use dpdk_sys as sys;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A request that DPDK refused, or that was refused before it reached DPDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A DPDK function failed.
    Call {
        /// The function, as DPDK's reference names it.
        call: &'static str,
        /// What it was asked to work on: a device, a pool, a port.
        subject: String,
        /// The positive `errno` value (DPDK adds a few of its own above 1000).
        errno: i32,
        /// What DPDK wrote to its log during the call; may be empty.
        log: String,
    },
    /// [`crate::Eal::init`] was called before; DPDK starts once per process, even after it was stopped.
    AlreadyInitialised,
    /// An EAL argument that is not an option.
    StrayArgument {
        /// The first such argument.
        argument: String,
    },
    /// A name or argument with a NUL byte inside, which C cannot take.
    NulByte {
        /// The text, the NUL shown as `\0`.
        text: String,
    },
    /// No port of that name.
    PortMissing {
        /// The name asked for.
        name: String,
        /// The ports there are.
        known: Vec<String>,
    },
    /// The port is in use by another [`crate::Port`].
    PortTaken {
        /// The port's name.
        name: String,
    },
    /// [`crate::Port::start`] before [`crate::Port::configure`].
    PortNotConfigured {
        /// The port's name.
        name: String,
    },
    /// [`crate::Port::configure`] or [`crate::Port::start`] after the queues were handed out.
    PortStarted {
        /// The port's name.
        name: String,
    },
    /// More queues than the device has.
    QueueCount {
        /// The port's name.
        name: String,
        /// "receive" or "transmit".
        direction: &'static str,
        /// Queues asked for.
        asked: u16,
        /// Queues the device has at most.
        max: u16,
    },
    /// A ring size that is not a power of two, or below 2.
    RingSize {
        /// The size asked for.
        asked: u32,
    },
    /// The thread has an lcore id already: it is registered, or it is the one that called [`crate::Eal::init`].
    ThreadRegistered,
}

impl Error {
    /// The failure of `call` on `subject` with a positive `errno`.
    pub(crate) fn call(call: &'static str, subject: impl Into<String>, errno: i32) -> Self {
        Self::Call { call, subject: subject.into(), errno, log: String::new() }
    }

    /// The failure of `call`, which left its reason in `rte_errno`.
    pub(crate) fn last(call: &'static str, subject: impl Into<String>) -> Self {
        // SAFETY: reads a thread-local integer of librte_eal.
        Self::call(call, subject, unsafe { sys::xd_errno() })
    }

    /// What the operator can do about it, where that is known.
    fn remedy(&self) -> Option<&'static str> {
        const ENOMEM: i32 = 12;
        const EEXIST: i32 = 17;
        const ENAMETOOLONG: i32 = 36;
        let Self::Call { call, errno, .. } = self else { return None };
        Some(match (*call, *errno) {
            ("rte_dev_probe", _) => {
                "check the driver's name, the interface or file named in the device arguments, and privileges (root, \
                 or CAP_NET_ADMIN and CAP_NET_RAW)"
            }
            ("rte_eal_init", _) => {
                "check the EAL options, free memory and huge pages, and that no other process uses \
                                    this --file-prefix"
            }
            ("rte_pktmbuf_pool_create" | "rte_ring_create", ENOMEM) => {
                "reserve more huge pages (vm.nr_hugepages), raise `-m`, or ask for fewer mbufs"
            }
            (_, EEXIST) => "the name is in use; choose another",
            (_, ENAMETOOLONG) => "choose a shorter name",
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { call, subject, errno, log } => {
                write!(f, "{call}({subject}): {}", reason(call, *errno))?;
                for line in log.lines().filter(|line| !line.ends_with(SAYS_NOTHING)) {
                    write!(f, "; DPDK says: {line}")?;
                }
                if let Some(remedy) = self.remedy() {
                    write!(f, "; {remedy}")?;
                }
                Ok(())
            }
            Self::AlreadyInitialised => write!(f, "DPDK was initialised before; it starts once per process"),
            Self::StrayArgument { argument } => {
                write!(f, "EAL argument `{argument}` is not an option; options begin with `-`")
            }
            Self::NulByte { text } => write!(f, "`{text}` has a NUL byte inside"),
            Self::PortMissing { name, known } if known.is_empty() => {
                write!(f, "no port `{name}`; DPDK has no port at all")
            }
            Self::PortMissing { name, known } => {
                write!(f, "no port `{name}`; there are: {}", known.join(", "))
            }
            Self::PortTaken { name } => write!(f, "port `{name}` is in use already"),
            Self::PortNotConfigured { name } => {
                write!(f, "port `{name}` must be configured before it starts")
            }
            Self::PortStarted { name } => {
                write!(f, "port `{name}` has started; its queues are handed out once")
            }
            Self::QueueCount { name, direction, asked, max } => write!(
                f,
                "port `{name}`: {asked} {direction} queues asked for, 1 to {max} possible; use fewer workers, or \
                 raise the device's queue count in its arguments"
            ),
            Self::RingSize { asked } => write!(f, "ring size {asked} is not a power of two of at least 2"),
            Self::ThreadRegistered => write!(f, "this thread is registered with DPDK already"),
        }
    }
}

impl std::error::Error for Error {}

/// Turns DPDK's "0 or negative errno" into a `Result`.
pub(crate) fn check(call: &'static str, subject: &str, rc: c_int) -> Result<()> {
    if rc < 0 { Err(Error::call(call, subject, -rc)) } else { Ok(()) }
}

/// A C string of `text`.
pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::NulByte { text: text.replace('\0', "\\0") })
}

/// The last line DPDK logs of any device it could not attach.
const SAYS_NOTHING: &str = "EAL: Failed to attach device on primary process";

/// DPDK's text for an errno, its own codes included.
fn reason(call: &str, errno: i32) -> String {
    // Virtual devices' drivers return a bare -1, which is no errno: "Operation not permitted" would mislead.
    if errno == 1 && (call.starts_with("rte_dev_") || call.starts_with("rte_eth_")) {
        return "the driver refused".into();
    }
    // EAL's early failures set none at all.
    if errno == 0 {
        return "failed".into();
    }
    // SAFETY: takes any integer; the string stands in this thread's buffer and is copied at once.
    let text = unsafe { CStr::from_ptr(sys::rte_strerror(errno)) };
    format!("{} (errno {errno})", text.to_string_lossy())
}
