//! Health checks of backends that own the VIP: a check of such a backend must be a packet to the VIP, and the VIP is this
//! director's own. So each of them has a check address, which nobody else has: a connection that the kernel makes to it
//! goes to the VIP, by the way that the service's packets take to that backend, and the answers come back from the check address.
//!
//! Not a stage, and not the workers': the slow path carries such packets between the kernel twins and the ports, so it
//! calls [`carry`]. The line knows nothing of them: no flow, no scheduler, no limit and no counter of a service. Read first:
//! docs/decisions/0011-health-checks.md.

pub mod carry;
mod slots;

use std::net::IpAddr;

use crate::adjacency::Adjacency;
use crate::index::BackendIndex;
use crate::prefix::Prefix;
use crate::rules::{AddressMap, AddressSet, Encapsulation};

/// How one backend is checked. All addresses but the tunnel's are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The check address: to it the kernel talks.
    pub address: IpAddr,
    /// To it the backend is talked to; it answers from there.
    pub vip: IpAddr,
    /// By it the backend is talked to; where its answers go, an address of this director's own.
    pub source: IpAddr,
    /// The way to the backend.
    pub next_hop: Adjacency,
    /// What is put in front; `None` where the backend is on the link.
    pub encapsulation: Option<Encapsulation>,
}

/// The checks of all backends that have a check address, immutable.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// By [`BackendIndex`].
    rows: Box<[Option<Check>]>,
    by_address: AddressMap<BackendIndex>,
    sources: AddressSet,
}

impl Checks {
    /// From the check of each backend, by [`BackendIndex`], and the networks of check addresses: what is to an address of theirs
    /// that nobody has goes nowhere.
    pub fn new(rows: Box<[Option<Check>]>, networks: impl IntoIterator<Item = Prefix>) -> Self {
        let checks = || rows.iter().enumerate().filter_map(|(at, row)| Some((at, row.as_ref()?)));
        let taken = checks().map(|(at, check)| (check.address.into(), BackendIndex(at as u32)));
        let all = networks.into_iter().map(|network| (network, BackendIndex::NONE));
        let by_address = taken.chain(all).collect();
        let sources = checks().map(|(_, check)| check.source).collect();
        Self { by_address, sources, rows }
    }

    /// Whether nobody is checked so.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(Option::is_none)
    }

    /// The check of the backend at `index`.
    pub fn get(&self, index: BackendIndex) -> Option<&Check> {
        self.rows.get(index.as_usize())?.as_ref()
    }

    /// The backend with this check address; [`BackendIndex::NONE`] where it is nobody's, `None` of any other address.
    fn find(&self, address: IpAddr) -> Option<BackendIndex> {
        self.by_address.find(address)
    }
}
