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
    /// A 64-byte entry of the flow table, below 2^31. [`EntryIndex::NONE`] is no entry; one from
    /// [`EntryIndex::without_flow`] stands for a packet that has a backend and no flow.
    EntryIndex(u32)
}

impl ServiceIndex {
    /// No service: above every slot.
    pub const NONE: Self = Self(u16::MAX);
}

impl BackendIndex {
    /// No backend: above every slot.
    pub const NONE: Self = Self(u32::MAX);
}

impl EntryIndex {
    /// No entry: the flow is unknown.
    pub const NONE: Self = Self(u32::MAX);
    const WITHOUT_FLOW: u32 = 1 << 31;
    const HAS_SECOND: u32 = 1 << 30;
    const BACKEND_BITS: u32 = BACKENDS_MAX.ilog2();

    /// No entry, but a backend: of a packet that is scheduled by itself.
    pub const fn without_flow(backend: BackendIndex) -> Self {
        Self(Self::WITHOUT_FLOW | backend.0)
    }

    /// The same with the backend that gets the packet if the first does not know it; another one than the first.
    pub const fn with_second_choice(self, second: BackendIndex) -> Self {
        Self(self.0 | Self::HAS_SECOND | second.0 << Self::BACKEND_BITS)
    }

    /// The backend of a packet that is scheduled by itself.
    #[inline]
    pub const fn backend_without_flow(self) -> Option<BackendIndex> {
        // No backend is its own second choice, so [`EntryIndex::NONE`], all ones, stands for no two of them.
        if self.0 & Self::WITHOUT_FLOW == 0 || self.0 == Self::NONE.0 {
            return None;
        }
        Some(BackendIndex(self.0 & (BACKENDS_MAX as u32 - 1)))
    }

    /// The second choice of a packet that is scheduled by itself.
    #[inline]
    pub const fn second_choice(self) -> Option<BackendIndex> {
        if self.0 & Self::HAS_SECOND == 0 || self.backend_without_flow().is_none() {
            return None;
        }
        Some(BackendIndex(self.0 >> Self::BACKEND_BITS & (BACKENDS_MAX as u32 - 1)))
    }
}

/// Ports of one director.
pub const PORTS_MAX: usize = 32;
/// Workers of one director: each has its own queue on every port.
pub const WORKERS_MAX: usize = 64;
/// Slots for services, running and retired.
pub const SERVICES_MAX: usize = 16_384;
/// Slots for backends, running and retired: 64 bytes of counters each and worker.
pub const BACKENDS_MAX: usize = 32_768;
/// Two of them and two bits fit in an [`EntryIndex`].
const _: () = assert!(BACKENDS_MAX.is_power_of_two() && BACKENDS_MAX.ilog2() <= 15);
