//! Direct routing: the frame goes to the backend's MAC, the packet stays as it is but for its TTL, which a
//! director lowers as any router does (RFC 1812 section 5.3.1; so does IPVS).

use super::Frame;
use crate::adjacency::Adjacency;
use crate::flow::Entry;
use crate::verdict::DropReason;
use crate::wire::ipv4::{Ipv4, Ipv4Mut};

#[inline(always)]
pub(super) fn rewrite(mut frame: Frame<'_>, entry: &Entry, next_hop: &Adjacency) -> Result<(), DropReason> {
    if Ipv4(frame.ipv4).ttl() <= 1 {
        return Err(DropReason::TtlExpired);
    }
    frame.set_macs(next_hop);
    Ipv4Mut(frame.ipv4).lower_ttl(entry.ip_delta);
    Ok(())
}
