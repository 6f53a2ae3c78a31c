//! How long a packet may be on the way through tunnels, as routers there say; believed for ten minutes, then tried anew.
//!
//! Read first: RFC 1191 section 6.3, RFC 8201 section 4, RFC 2003 section 5.1. Whether a router is to be believed at all the line has
//! decided (`dataplane::stage::tunnel_error`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::path::PathReport;

/// How long a router is believed: RFC 1191's recommendation, and RFC 8201's. Whoever repeats itself is believed for longer.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// One way.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// Bytes of the longest IP packet, the outer header included.
    mtu: u16,
    until: Duration,
}

/// The ways on which less fits than the port says, by where they lead.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths(BTreeMap<IpAddr, Path>);

impl Paths {
    /// Takes up what was reported at `now`; whether that makes the way narrower than it was.
    pub(super) fn hear(&mut self, report: PathReport, now: Duration) -> bool {
        let heard = Path { mtu: report.mtu, until: now + BELIEVED_FOR };
        let known = self.0.entry(report.destination).or_insert(Path { mtu: u16::MAX, ..heard });
        if report.mtu > known.mtu {
            // About a packet that was sent before the other report came.
            return false;
        }
        let is_news = report.mtu < known.mtu;
        *known = heard;
        is_news
    }

    /// Forgets what is too old at `now`.
    pub(super) fn advance_to(&mut self, now: Duration) {
        self.0.retain(|_, path| path.until > now);
    }

    /// Whether anything is too old at `now`.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.0.values().any(|path| path.until <= now)
    }

    /// Bytes of the longest packet on the way to `destination`, where a router has said so.
    pub(super) fn mtu(&self, destination: &IpAddr) -> Option<u16> {
        self.0.get(destination).map(|path| path.mtu)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));

    fn report(mtu: u16) -> PathReport {
        PathReport { destination: BACKEND, mtu }
    }

    #[test]
    fn the_narrowest_is_believed_until_it_is_old_and_what_is_said_again_is_new() {
        let second = Duration::from_secs;
        let mut paths = Paths::default();
        assert!(paths.hear(report(1_400), second(0)));
        assert!(!paths.hear(report(1_450), second(1)), "of a packet before");
        assert!(!paths.hear(report(1_400), second(300)), "again");
        paths.advance_to(second(899));
        assert_eq!((paths.is_due(second(899)), paths.mtu(&BACKEND)), (false, Some(1_400)));
        assert!(paths.hear(report(1_300), second(899)));
        assert!(paths.is_due(second(1_499)));
        paths.advance_to(second(1_499));
        assert_eq!(paths.mtu(&BACKEND), None);
        assert!(paths.hear(report(1_400), second(1_500)), "news again");
    }
}
