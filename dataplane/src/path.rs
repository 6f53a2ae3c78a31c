//! What workers tell control of the ways through tunnels: how long a packet may be, as a router on the way says. Control
//! remembers it for all workers, and forgets it after a while.
//!
//! Read first: RFC 1191 section 6.3 and RFC 8201 section 4 (for how long), RFC 2003 section 5.1 (a tunnel's soft state).

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Reports of one worker on their way. More are lost: whatever is sent too long is reported on again.
const REPORTS_MAX: usize = 256;

/// A way that has become narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// Where the tunnel leads.
    pub destination: IpAddr,
    /// Bytes of the longest IP packet that fits the way, the outer header included.
    pub mtu: u16,
}

/// The queue from one worker to control.
#[derive(Clone, Debug)]
pub struct PathReports(Arc<ArrayQueue<PathReport>>);

impl Default for PathReports {
    fn default() -> Self {
        Self(Arc::new(ArrayQueue::new(REPORTS_MAX)))
    }
}

impl PathReports {
    /// The worker: tells it, if there is room.
    pub fn tell(&self, report: PathReport) {
        let _ = self.0.push(report);
    }

    /// Control: the oldest that it has not heard yet.
    pub fn hear(&self) -> Option<PathReport> {
        self.0.pop()
    }
}
