//! What a scheduler may ask of the members while it chooses: how much each has to do, and whether it takes a
//! connection at all. It reads counters and changes nothing.

use arrayvec::ArrayVec;

use crate::counters::WorkerCounters;
use crate::peers::Peers;
use crate::rules::scheduler::{Load, Loads};
use crate::rules::{FullBackends, Member};

/// Members tried for one connection: those without a known MAC, or without a free local port, are passed over.
pub const ATTEMPTS_MAX: usize = 4;

/// Members that were chosen for a connection and could not take it.
pub type Tried = ArrayVec<usize, ATTEMPTS_MAX>;

/// The members of a service as one worker sees them.
#[derive(Clone, Copy, Debug)]
pub struct MemberLoads<'a> {
    /// The members asked about.
    pub members: &'a [Member],
    /// The worker's counters.
    pub counters: &'a WorkerCounters,
    /// The other workers.
    pub peers: &'a Peers,
    /// Who is at its connection threshold; `None` where no member has one, and who was may be no longer.
    pub full: Option<&'a FullBackends>,
    /// Who could not take this connection.
    pub tried: &'a Tried,
}

impl Loads for MemberLoads<'_> {
    #[inline]
    fn load(&self, member: usize) -> Load {
        let Some(member) = self.members.get(member) else { return Load::default() };
        self.peers.load(member.backend, self.counters)
    }

    #[inline]
    fn takes(&self, member: usize) -> bool {
        let is_full = |member: &Member| self.full.is_some_and(|full| full.has(member.backend));
        !self.tried.contains(&member) && self.members.get(member).is_some_and(|member| !is_full(member))
    }
}
