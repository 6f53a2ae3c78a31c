//! What all hash tables have in common: the member in the flow's slot, and where the search goes from there.

use super::Loads;
use crate::rules::service::Member;

/// How far a table is searched for a member that takes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probing {
    /// Whether it is searched at all (IPVS: `sh-fallback`, `mh-fallback`).
    pub(super) fallback: bool,
    /// Slots looked at before the members are, one after the other: a bound on the work of a newcomer for whom
    /// hardly anybody is left.
    pub(super) slots_max: usize,
}

impl Probing {
    /// The first member with a weight that takes the connection, of those `slot` names by number of the probe.
    pub(super) fn find(
        self,
        members: &[Member],
        loads: &impl Loads,
        slot: impl Fn(usize) -> Option<usize>,
    ) -> Option<usize> {
        let takes = |index: &usize| {
            members.get(*index).is_some_and(|member| member.weight > 0) && loads.takes(*index)
        };
        let first = slot(0)?;
        if takes(&first) {
            return Some(first);
        }
        if !self.fallback {
            return None;
        }
        let first = first.min(members.len());
        let rest = || (first..members.len()).chain(0..first).find(takes);
        (1..self.slots_max).filter_map(slot).find(takes).or_else(rest)
    }
}
