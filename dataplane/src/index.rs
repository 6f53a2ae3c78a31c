//! Indices into the tables of the line: one newtype each, so that two of them cannot be swapped.

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The index as the number a slice takes.
            #[inline(always)]
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index! {
    /// A port (a NIC, real or virtual), in the order of the rules file. Below [`PORTS_MAX`].
    PortIndex(u16)
}
index! {
    /// A worker. Below [`WORKERS_MAX`].
    WorkerIndex(u16)
}
index! {
    /// A service's slot. Below [`SERVICES_MAX`]; not reused before its last flow is gone.
    ServiceIndex(u16)
}
index! {
    /// A backend's slot. Below [`BACKENDS_MAX`]; not reused before its last flow is gone.
    BackendIndex(u32)
}
index! {
    /// A row of a worker's table of client-side stations ([`crate::adjacency::ClientStations`]).
    AdjacencyIndex(u16)
}
index! {
    /// A 64-byte entry of the flow table. [`EntryIndex::NONE`] is no entry.
    EntryIndex(u32)
}

impl EntryIndex {
    /// No entry: the flow is unknown.
    pub const NONE: Self = Self(u32::MAX);
}

/// Ports of one director.
pub const PORTS_MAX: usize = 32;
/// Workers of one director: each has its own queue on every port.
pub const WORKERS_MAX: usize = 64;
/// Slots for services, running and retired.
pub const SERVICES_MAX: usize = 16_384;
/// Slots for backends, running and retired: 64 bytes of counters each and worker.
pub const BACKENDS_MAX: usize = 32_768;
