//! Whether a service takes one more connection, by the limits of its rules. Counted over all workers: at the bound two
//! of them may take one at the same moment, so as many connections as there are other workers may be too many.

use super::Admission;
use crate::verdict::DropReason;

impl Admission<'_> {
    pub(super) fn check_limits(&self) -> Result<(), DropReason> {
        let (limits, peers) = (&self.service.policy.limits, &self.state.peers);
        if limits
            .connections
            .is_some_and(|most| peers.service_connections(self.index, self.counters) >= u64::from(most))
        {
            return Err(DropReason::ConnectionLimit);
        }
        if limits
            .half_open
            .is_some_and(|most| peers.service_half_open(self.index, self.counters) >= u64::from(most))
        {
            return Err(DropReason::HalfOpenLimit);
        }
        // Last: a token is not given back.
        match limits.rate {
            Some(rate) if !self.service.rate.take(rate, self.now) => Err(DropReason::RateLimit),
            _ => Ok(()),
        }
    }
}
