//! Losses that an operator can mend, and what to do: in the log, each at most every ten seconds, and in `status`.

use std::time::{Duration, Instant};

use dataplane::counters::WorkerCounters;
use dataplane::verdict::DropReason;

/// How long a reason stays silent after it was told.
const SILENCE: Duration = Duration::from_secs(10);

/// What mends a reason; reasons that are the packet's own fault have no remedy here.
pub(crate) const fn remedy(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::NoBackend => "give a backend of the service a weight above 0",
        DropReason::NoLocalPort => "give the port towards the backends more local_addresses",
        DropReason::TableFull => "raise [dataplane] max_flows",
        DropReason::FragmentsFull => "raise [dataplane] fragments, or see who sends datagrams in pieces",
        DropReason::ClientStationsFull => "put a router between the director and that many stations",
        DropReason::NextHopUnresolved => "see that the backend answers ARP, or name it in [[neighbour]]",
        DropReason::SlowPathFull => "see what floods the director itself; crossdock status counts it by port",
        DropReason::SteerFull => "give the workers more cores, or fewer flows that arrive on the wrong one",
        DropReason::OtherVlan => "see that the switch sends this port the VLAN of its `vlan`, and no other",
        DropReason::CutByDriver => {
            "af_packet's ring takes frames of up to 1,982 bytes: switch off what makes longer ones, on the interface and on \
             whatever sends to it (ethtool -K IFACE gro off gso off tso off), or use af_xdp. Fragments are reassembled by \
             the kernel before they come here, and cut if that is too long: there only af_xdp helps"
        }
        DropReason::SegmentsUnsent => {
            "send by a device that takes packets in several buffers, such as a NIC or af_packet"
        }
        DropReason::TxRefused => "see whether the port's link is up and fast enough",
        _ => return None,
    })
}

/// What was told, and when.
#[derive(Debug)]
pub(super) struct Advice {
    /// By reason: packets at the last look that was told, and when that was.
    told: Vec<(u64, Option<Instant>)>,
}

impl Default for Advice {
    fn default() -> Self {
        Self { told: vec![(0, None); DropReason::ALL.len()] }
    }
}

impl Advice {
    /// What is worth saying now, a sentence each.
    pub(super) fn look(&mut self, workers: &[&WorkerCounters], now: Instant) -> Vec<String> {
        let of = |reason| workers.iter().map(|worker| worker.dropped(reason).value()).sum::<u64>();
        let mut said = Vec::new();
        for (reason, (before, when)) in DropReason::ALL.iter().zip(&mut self.told) {
            let (count, Some(remedy)) = (of(*reason), remedy(*reason)) else { continue };
            let is_silent = when.is_some_and(|when| now.duration_since(when) < SILENCE);
            if count == *before || is_silent {
                continue;
            }
            let more = count - *before;
            let meaning = reason.meaning();
            said.push(format!("{more} packets dropped as {}: {meaning} To do: {remedy}.", reason.name()));
            (*before, *when) = (count, Some(now));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_then_again_after_a_while_and_only_when_there_is_more() {
        let counters = WorkerCounters::default();
        let mut advice = Advice::default();
        let start = Instant::now();
        let mut look = |ms| advice.look(&[&counters], start + Duration::from_millis(ms));
        assert!(look(0).is_empty());
        counters.dropped(DropReason::NoLocalPort).add(3);
        counters.dropped(DropReason::Truncated).add(3);
        let said = look(50);
        assert_eq!(said.len(), 1, "a truncated packet is nobody's to mend: {said:?}");
        assert!(said[0].starts_with("3 packets dropped as no_local_port"), "{said:?}");
        assert!(said[0].contains("local_addresses"), "{said:?}");
        counters.dropped(DropReason::NoLocalPort).add(2);
        assert!(look(5_000).is_empty());
        assert!(look(10_051)[0].starts_with("2 packets dropped"));
        assert!(look(30_000).is_empty());
    }
}
