//! What the line needs of a packet buffer: DPDK's mbuf behind it in service, plain memory in tests.
//!
//! A packet owns its buffer; dropping it gives the buffer back. Nothing here copies payload.

use crate::index::PortIndex;

/// A frame in a buffer, and the port it came in by.
pub trait PacketBuf {
    /// The bytes of the first segment, from the Ethernet destination on.
    fn data(&self) -> &[u8];

    /// The same bytes, to rewrite headers in place.
    fn data_mut(&mut self) -> &mut [u8];

    /// Length in bytes over all segments; at least `data().len()`.
    fn packet_len(&self) -> usize;

    /// The port it came in by.
    fn port(&self) -> PortIndex;

    /// Notes the port it came in by, for a packet that crosses a ring.
    fn set_port(&mut self, port: PortIndex);
}
