//! Direct routing: the frame goes to the backend's MAC, the packet stays as it is but for its TTL, which a
//! director lowers as any router does (RFC 1812 section 5.3.1; so does IPVS).

use super::split;
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::flow::Entry;
use crate::verdict::DropReason;
use crate::wire::ipv4::{Ipv4, Ipv4Mut};

#[inline(always)]
pub(super) fn rewrite(
    data: &mut [u8],
    shape: Shape,
    entry: &Entry,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let frame = split(data, shape)?;
    if Ipv4(frame.ipv4).ttl() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    *frame.macs = next_hop.macs;
    Ipv4Mut(frame.ipv4).lower_ttl(entry.ip_delta);
    Ok(())
}
