//! What a stage decided about a packet.

/// The fate of a packet. One byte: the drop reasons fill the niche.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves by the port its stage chose.
    Forward,
    /// Belongs to another worker: the same buffer crosses to it over a ring.
    Steer,
    /// Not load-balanced: the kernel twin of the port it came in by gets it, untouched.
    Punt,
    /// Freed, and counted once under its reason.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Verdict>() == 1);

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped: one drop, one reason, one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in summaries, `status` and metrics: lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// A sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its headers do.
    Truncated = "truncated",
    /// A unicast frame to another station's MAC, seen because the segment flooded it.
    OtherStation = "other_station",
    /// The IPv4 version or header length is impossible (RFC 791 section 3.1).
    Ipv4Header = "ipv4_header",
    /// The IPv4 total length exceeds the frame or is shorter than the headers.
    Ipv4Length = "ipv4_length",
    /// The TCP data offset is impossible (RFC 9293 section 3.1).
    TcpHeader = "tcp_header",
    /// The UDP length is shorter than its header or longer than the packet (RFC 768).
    UdpLength = "udp_length",
    /// A fragment to a VIP: later fragments carry no ports, so its flow is not known.
    Fragment = "fragment",
    /// The TTL would reach zero here.
    TtlExpired = "ttl_expired",
    /// No backend of the service accepts connections (all weights are 0).
    NoBackend = "no_backend",
    /// The next hop towards the backend has no known MAC yet.
    NextHopUnresolved = "next_hop_unresolved",
    /// No free local address and port for a connection to this backend.
    NoLocalPort = "no_local_port",
    /// The flow table is full of connections that are all in use.
    TableFull = "table_full",
    /// More stations on the client side than the worker can remember.
    ClientStationsFull = "client_stations_full",
    /// Not load-balanced, and the port has no kernel twin to hand it to.
    NoTwin = "no_twin",
    /// The ring to the slow path is full.
    SlowPathFull = "slow_path_full",
    /// The ring to the worker that owns the flow is full.
    SteerFull = "steer_full",
    /// The port refused it: its transmit queue is full or the device is gone.
    TxRefused = "tx_refused",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_apart() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(!reason.meaning().is_empty());
            let same = DropReason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
        }
    }
}
