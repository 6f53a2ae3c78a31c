//! What the rules say about a service's scheduler, and the scheduler made from it.
//!
//! Not a place of checks: which settings suit which scheduler, [`SchedulerKind`] tells and control checks.

use std::fmt;
use std::net::IpAddr;

use super::hash::HashKey;
use super::ipvs::IpvsTable;
use super::least_connection::Least;
use super::locality::Locality;
use super::maglev::MaglevTable;
use super::ring::Ring;
use super::two_choices::TwoChoices;
use super::{Scheduler, WeightedRoundRobin};
use crate::rules::service::Member;

/// The schedulers by the names that LVS users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection.
    Wlc,
    /// Locality-based least connection.
    Lblc,
    /// Locality-based least connection with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Maglev hashing.
    Mh,
    /// Power of two choices.
    Twos,
    /// Consistent hashing on a ring, as DPVS has it.
    Conhash,
}

impl SchedulerKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 15] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Lblc,
        Self::Lblcr,
        Self::Dh,
        Self::Sh,
        Self::Sed,
        Self::Nq,
        Self::Fo,
        Self::Ovf,
        Self::Mh,
        Self::Twos,
        Self::Conhash,
    ];

    /// The name in the rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Mh => "mh",
            Self::Twos => "twos",
            Self::Conhash => "conhash",
        }
    }

    /// What is hashed unless the rules say otherwise; `None` where nothing is.
    pub const fn default_hash(self) -> Option<HashKey> {
        match self {
            Self::Sh | Self::Conhash => Some(HashKey::Source),
            Self::Dh | Self::Lblc | Self::Lblcr => Some(HashKey::Destination),
            // As in the paper; IPVS hashes the source alone.
            Self::Mh => Some(HashKey::FiveTuple),
            _ => None,
        }
    }

    /// Whether the hash alone names the member, so that a client has one it belongs to.
    pub const fn is_hashing(self) -> bool {
        matches!(self, Self::Dh | Self::Sh | Self::Mh | Self::Conhash)
    }

    /// Whether a weight is a share of the connections and nothing else: no rank, and no bound of a member's load.
    pub const fn has_shares(self) -> bool {
        !matches!(self, Self::Rr | Self::Lc | Self::Lblc | Self::Lblcr | Self::Dh | Self::Fo | Self::Ovf)
    }

    /// Whether it asks what its members have to do.
    pub const fn reads_loads(self) -> bool {
        matches!(
            self,
            Self::Lc | Self::Wlc | Self::Lblc | Self::Lblcr | Self::Sed | Self::Nq | Self::Ovf | Self::Twos
        )
    }

    /// Whether its table is a Maglev table, unless it is to choose as IPVS does.
    pub const fn has_maglev_table(self) -> bool {
        matches!(self, Self::Dh | Self::Sh | Self::Mh)
    }

    /// Whether each worker keeps a [`super::LocalityCache`] for it.
    pub const fn has_cache(self) -> bool {
        matches!(self, Self::Lblc | Self::Lblcr)
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A scheduler and its flags, as the rules have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// Which one.
    pub kind: SchedulerKind,
    /// What is hashed; of no meaning to those that do not hash.
    pub hash: HashKey,
    /// Whether clients of a member that takes no connection are hashed to another one (IPVS: `sh-fallback`,
    /// `mh-fallback`). Without it they are refused.
    pub fallback: bool,
    /// Slots of a Maglev table, a prime; `None` sizes it by the members.
    pub maglev_slots: Option<u32>,
    /// Whether a Maglev table's slots have second choices.
    pub second_chance: bool,
}

impl SchedulerSettings {
    /// The scheduler as it is when the rules only name it.
    pub const fn new(kind: SchedulerKind) -> Self {
        let hash = match kind.default_hash() {
            Some(hash) => hash,
            None => HashKey::FiveTuple,
        };
        Self { kind, hash, fallback: true, maglev_slots: None, second_chance: false }
    }

    /// Whether members' weights may be multiplied by one number and nothing changes. In IPVS's tables weights are
    /// numbers of slots.
    pub const fn has_shares(self) -> bool {
        self.kind.has_shares() && !self.hash.is_ipvs()
    }
}

impl From<SchedulerKind> for SchedulerSettings {
    fn from(kind: SchedulerKind) -> Self {
        Self::new(kind)
    }
}

/// As a report names it: what differs from the scheduler's defaults in parentheses.
impl fmt::Display for SchedulerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flags = Vec::new();
        if self.kind.default_hash().is_some_and(|hash| hash != self.hash) {
            flags.push(format!("hash {}", self.hash));
        }
        if !self.fallback {
            flags.push("no fallback".to_owned());
        }
        if self.second_chance {
            flags.push("second chance".to_owned());
        }
        flags.extend(self.maglev_slots.map(|slots| format!("{slots} slots")));
        match &flags[..] {
            [] => write!(f, "{}", self.kind),
            flags => write!(f, "{} ({})", self.kind, flags.join(", ")),
        }
    }
}

/// What a hash table knows of a member besides its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its address.
    pub address: IpAddr,
    /// Its l4_port, host order.
    pub l4_port: u16,
    /// Its weight, or when that is 0 the last one that it had: without fallback, and in IPVS's Maglev table, a
    /// quiesced member keeps its slots.
    pub weight_kept: u32,
}

/// Why a table cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// More members than a slot can name.
    TooManyMembers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
    /// Fewer slots than members with a weight: some would never get a connection.
    TooFewSlots {
        /// How many slots the rules ask for.
        slots: usize,
        /// How many members have a weight.
        count: usize,
    },
}

impl Scheduler {
    /// The scheduler for `members`, whose seats are in the same order.
    ///
    /// # Errors
    /// [`TableError`] when its table cannot have a place for every member.
    pub fn new(settings: SchedulerSettings, members: &[Member], seats: &[Seat]) -> Result<Self, TableError> {
        let SchedulerSettings { kind, hash, fallback, maglev_slots, second_chance } = settings;
        let hashed = |kind| -> Result<Self, TableError> {
            if hash.is_ipvs() {
                return IpvsTable::new(settings, members, seats).map(Self::Ipvs);
            }
            // First and second change places while the first takes nothing: it keeps its slots.
            let seats = hash_seats(kind, fallback && !second_chance, members, seats);
            if kind == SchedulerKind::Conhash {
                return Ring::new(&seats, hash, fallback).map(Self::Ring);
            }
            let slots = maglev_slots.map(|slots| slots as usize);
            let table = MaglevTable::new(&seats, slots, hash, fallback)?;
            let table = if second_chance { table.with_second_choices(&seats)? } else { table };
            Ok(Self::Maglev(table))
        };
        Ok(match kind {
            SchedulerKind::Rr => Self::RoundRobin,
            SchedulerKind::Wrr => Self::WeightedRoundRobin(WeightedRoundRobin::new(members)),
            SchedulerKind::Lc => Self::Least(Least::Connection),
            SchedulerKind::Wlc => Self::Least(Least::WeightedConnection),
            SchedulerKind::Sed => Self::Least(Least::ExpectedDelay),
            SchedulerKind::Nq => Self::Least(Least::NeverQueue),
            SchedulerKind::Lblc => Self::Locality(Locality { hash, replicates: false }),
            SchedulerKind::Lblcr => Self::Locality(Locality { hash, replicates: true }),
            SchedulerKind::Fo => Self::Failover,
            SchedulerKind::Ovf => Self::Overflow,
            SchedulerKind::Twos => Self::TwoChoices(TwoChoices::new(members)),
            SchedulerKind::Dh | SchedulerKind::Sh | SchedulerKind::Mh | SchedulerKind::Conhash => {
                hashed(kind)?
            }
        })
    }
}

/// The seats with the weight that their slots are by: a quiesced member has none where others take its slots, and else
/// those it had. Destination hashing knows only those with a weight and those without.
fn hash_seats(kind: SchedulerKind, gives_slots: bool, members: &[Member], seats: &[Seat]) -> Vec<Seat> {
    let seat = |(member, seat): (&Member, &Seat)| {
        let weight = if gives_slots { member.weight } else { seat.weight_kept };
        Seat { weight_kept: if kind == SchedulerKind::Dh { weight.min(1) } else { weight }, ..*seat }
    };
    members.iter().zip(seats).map(seat).collect()
}
