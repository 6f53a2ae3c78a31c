//! Why rules that are valid cannot be put in force.

use std::fmt;

use dataplane::prefix::Prefix;
use dataplane::rules::scheduler::TableError;

use crate::rules::slots::SlotsFull;
use crate::rules::steering::ChangedTwice;

/// Why rules that are valid cannot be put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Too many services, counting removed ones that still have connections.
    Services(SlotsFull),
    /// The persistence of a VIP's services changed twice.
    Steering(ChangedTwice),
    /// The persistence of services in mode nat changed where several workers share the traffic.
    NatSteering {
        /// A VIP of theirs.
        vip: Prefix,
    },
    /// Too many backends, counting removed ones that still have connections.
    Backends(SlotsFull),
    /// A service's backends do not fit the table of its scheduler.
    Table(TableError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = |f: &mut fmt::Formatter<'_>, what, slots_max| {
            write!(
                f,
                "more than {slots_max} {what}, removed ones with open connections included; remove some, or wait for their connections to end"
            )
        };
        match self {
            Self::Services(SlotsFull { slots_max }) => full(f, "services", slots_max),
            Self::Backends(SlotsFull { slots_max }) => full(f, "backends", slots_max),
            Self::Table(TableError::TooManyMembers { count, count_max }) => write!(
                f,
                "a service whose scheduler hashes has {count} backends; at most {count_max} are possible: spread them over several services"
            ),
            Self::Table(TableError::TooFewSlots { slots, count }) => write!(
                f,
                "`maglev_slots` is {slots} and a service has {count} backends with a weight; leave `maglev_slots` out, or let it be 100 times as many"
            ),
            Self::NatSteering { vip } => write!(
                f,
                "the persistence of services on {vip} decides which worker gets the answers of their backends (mode \"nat\"): with several workers it can be changed by a restart only"
            ),
            Self::Steering(ChangedTwice { vip }) => write!(
                f,
                "the persistence of services on {vip} has changed twice while connections from before the first change are open; wait until they have ended, or restart"
            ),
        }
    }
}

impl std::error::Error for BuildError {}
