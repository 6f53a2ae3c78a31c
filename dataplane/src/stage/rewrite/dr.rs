//! Direct routing: the frame goes to the backend's MAC, the packet stays as it is but for its TTL or hop limit, which a
//! director lowers as any router does (RFC 1812 section 5.3.1, RFC 8200 section 3; so does IPVS), unless the rules say
//! that it is kept.

use super::{Frame, Frame6};
use crate::adjacency::Adjacency;
use crate::burst::Shape;
use crate::verdict::DropReason;
use crate::wire::checksum::TTL_LOWERED;
use crate::wire::ipv4::{Ipv4, Ipv4Mut};
use crate::wire::ipv6::{Ipv6, Ipv6Mut};

#[inline(always)]
pub(super) fn rewrite(
    data: &mut [u8],
    shape: Shape,
    lowers_ttl: bool,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    if shape.is_v6 {
        rewrite6(data, shape, lowers_ttl, next_hop)
    } else {
        rewrite4(data, shape, lowers_ttl, next_hop)
    }
}

#[inline(always)]
pub(super) fn rewrite4(
    data: &mut [u8],
    shape: Shape,
    lowers_ttl: bool,
    next_hop: &Adjacency,
) -> Result<(), DropReason> {
    let mut frame = Frame::split(data, shape)?;
    // One that has none left should not have come (RFC 791 section 3.2): it goes nowhere, kept or lowered.
    if Ipv4(frame.ipv4).ttl() <= u8::from(lowers_ttl) {
        return Err(DropReason::TtlExpired);
    }
    if lowers_ttl {
        Ipv4Mut(frame.ipv4).lower_ttl(TTL_LOWERED);
    }
    frame.set_macs(next_hop);
    Ok(())
}

#[inline(always)]
fn rewrite6(data: &mut [u8], shape: Shape, lowers_ttl: bool, next_hop: &Adjacency) -> Result<(), DropReason> {
    let mut frame = Frame6::split(data, shape)?;
    if Ipv6(frame.ipv6).hop_limit() <= u8::from(lowers_ttl) {
        return Err(DropReason::TtlExpired);
    }
    if lowers_ttl {
        Ipv6Mut(frame.ipv6).lower_hop_limit();
    }
    frame.set_macs(next_hop);
    Ok(())
}
