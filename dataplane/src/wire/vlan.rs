//! VLAN tags between the MAC addresses and the EtherType of a frame: none, one (802.1Q), or two (QinQ, 802.1ad).
//!
//! Read first: IEEE 802.1Q-2018 section 9 (the tag), section 6.9.1 (frames tagged with VID 0 carry a priority and belong to
//! no VLAN). Not here: who tags and untags, which is [`crate::stage::framing`].

use std::fmt;

use crate::verdict::DropReason;
use crate::wire::ethernet;

/// EtherType of a customer VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (802.1ad), the outer one of QinQ.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Bytes of one tag: EtherType, priority, VID.
pub const TAG_LEN: usize = 4;
/// The largest VID; 4,095 is reserved (802.1Q table 9-2).
pub const VID_MAX: u16 = 4_094;
/// Tags that a port's frames can have.
const TAGS_MAX: usize = 2;
/// Where the tags begin, and where the EtherType of an untagged frame is.
pub(crate) const TAGS_AT: usize = ethernet::HEADER_LEN - 2;

/// The tags that every frame on a port's wire has, ready-made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VlanTags {
    /// As in a frame, with priority 0; what follows `len` is zero.
    bytes: [u8; TAGS_MAX * TAG_LEN],
    /// Bytes of the tags: 0, 4 or 8.
    len: u8,
}

impl VlanTags {
    /// No tag: what comes in with a priority (VID 0) is taken without, what belongs to a VLAN is not.
    pub const NONE: Self = Self { bytes: [0; TAGS_MAX * TAG_LEN], len: 0 };

    /// One 802.1Q tag. `vid` is 1 to [`VID_MAX`]; higher bits are cut off.
    pub const fn single(vid: u16) -> Self {
        let [a, b, c, d] = tag(ETHERTYPE_VLAN, vid);
        Self { bytes: [a, b, c, d, 0, 0, 0, 0], len: 4 }
    }

    /// QinQ: an 802.1ad tag, behind it an 802.1Q one.
    pub const fn double(outer: u16, inner: u16) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (tag(ETHERTYPE_QINQ, outer), tag(ETHERTYPE_VLAN, inner));
        Self { bytes: [a, b, c, d, e, f, g, h], len: 8 }
    }

    /// The tags as they stand in a frame.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Bytes of the tags: 0, 4 or 8.
    pub const fn len(self) -> u16 {
        self.len as u16
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The VIDs, the outer one first.
    pub fn vids(&self) -> impl Iterator<Item = u16> {
        self.bytes().chunks_exact(TAG_LEN).filter_map(|tag| tag.last_chunk()).map(|tci| vid(*tci))
    }

    /// Bytes to take out of `frame` behind the MAC addresses, where it has exactly these tags, whatever their priority;
    /// `stripped` is the tag control information of an outer tag that the port took out and delivered beside the frame.
    ///
    /// The outer tag of two may have either EtherType: many switches send 0x8100 there, and DPDK's af_packet driver, which
    /// gets the tag beside the frame, puts it back as that.
    ///
    /// # Errors
    /// [`DropReason::OtherVlan`] for any other tags, [`DropReason::Truncated`] where the frame ends within them.
    pub fn taken_off(self, frame: &[u8], stripped: Option<u16>) -> Result<u16, DropReason> {
        let mut behind = frame.get(TAGS_AT..).ok_or(DropReason::Truncated)?;
        let stripped = stripped.map(|tci| vid(tci.to_be_bytes()));
        let mut wanted = self.vids().peekable();
        let mut in_frame = 0;
        if let Some(vid) = stripped {
            take(&mut wanted, vid)?;
        }
        // One tag more than there can be, so that a third is seen.
        for _ in 0..=TAGS_MAX {
            let Some((ethertype, rest)) = behind.split_first_chunk() else {
                return Err(DropReason::Truncated);
            };
            let is_outer = in_frame == 0 && stripped.is_none() && self.len > TAG_LEN as u8;
            match u16::from_be_bytes(*ethertype) {
                ETHERTYPE_VLAN => {}
                ETHERTYPE_QINQ if is_outer => {}
                ETHERTYPE_QINQ => return Err(DropReason::OtherVlan),
                _ if wanted.peek().is_none() => return Ok(in_frame),
                _ => return Err(DropReason::OtherVlan),
            }
            let (tci, rest) = rest.split_first_chunk().ok_or(DropReason::Truncated)?;
            take(&mut wanted, vid(*tci))?;
            (in_frame, behind) = (in_frame + TAG_LEN as u16, rest);
        }
        Err(DropReason::OtherVlan)
    }
}

/// Passes a tag with this VID: the next one wanted, or, where none is, one that has a priority alone.
fn take(wanted: &mut impl Iterator<Item = u16>, vid: u16) -> Result<(), DropReason> {
    match wanted.next() {
        Some(next) if next == vid => Ok(()),
        None if vid == 0 => Ok(()),
        _ => Err(DropReason::OtherVlan),
    }
}

const fn vid(tci: [u8; 2]) -> u16 {
    u16::from_be_bytes(tci) & 0x0fff
}

const fn tag(ethertype: u16, vid: u16) -> [u8; TAG_LEN] {
    let ([a, b], [c, d]) = (ethertype.to_be_bytes(), (vid & 0x0fff).to_be_bytes());
    [a, b, c, d]
}

/// The VIDs as the rules have them: `untagged`, `100`, `[200, 100]`.
impl fmt::Display for VlanTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut vids = self.vids();
        match (vids.next(), vids.next()) {
            (None, _) => f.write_str("untagged"),
            (Some(vid), None) => write!(f, "{vid}"),
            (Some(outer), Some(inner)) => write!(f, "[{outer}, {inner}]"),
        }
    }
}

impl fmt::Debug for VlanTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanTags({self})")
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{EtherType, PacketBuilder, SingleVlanHeader, VlanId, VlanPcp};
    use proptest::prelude::*;

    use super::*;

    /// Two MACs, then tags as (EtherType, TCI), then an empty IPv4 packet's beginning.
    fn frame(tags: &[(u16, u16)]) -> Vec<u8> {
        let mut frame = vec![2; TAGS_AT];
        for (ethertype, tci) in tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0]);
        frame
    }

    #[test]
    fn tags_are_those_that_an_independent_encoder_writes() {
        let id = |vid| VlanId::try_new(vid).unwrap();
        let mut twice = Vec::new();
        let link = PacketBuilder::ethernet2([1; 6], [2; 6]).double_vlan(id(200), id(100));
        link.ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut twice, &[]).unwrap();
        let tags = VlanTags::double(200, 100);
        assert_eq!(tags.bytes(), &twice[12..20]);
        assert_eq!(tags.taken_off(&twice, None), Ok(8));
        let header = SingleVlanHeader {
            pcp: VlanPcp::try_new(5).unwrap(),
            drop_eligible_indicator: true,
            vlan_id: id(4_094),
            ether_type: EtherType::IPV4,
        };
        let bytes = header.to_bytes();
        let once = [&[9; 12], &ETHERTYPE_VLAN.to_be_bytes()[..], &bytes, &[0x45]].concat();
        assert_eq!(VlanTags::single(4_094).taken_off(&once, None), Ok(4), "whatever its priority");
        assert_eq!(VlanTags::single(4_094).vids().collect::<Vec<_>>(), [4_094]);
    }

    #[test]
    fn exactly_these_tags_and_no_others() {
        const Q: u16 = ETHERTYPE_VLAN;
        const AD: u16 = ETHERTYPE_QINQ;
        let (none, one, two) = (VlanTags::NONE, VlanTags::single(100), VlanTags::double(200, 100));
        let taken = |tags: VlanTags, found: &[(u16, u16)]| tags.taken_off(&frame(found), None).ok();
        assert_eq!([none, one, two].map(|tags| taken(tags, &[])), [Some(0), None, None]);
        assert_eq!([none, one, two].map(|tags| taken(tags, &[(Q, 100)])), [None, Some(4), None]);
        assert_eq!([none, one, two].map(|tags| taken(tags, &[(AD, 200), (Q, 100)])), [None, None, Some(8)]);
        assert_eq!(taken(two, &[(Q, 200), (Q, 100)]), Some(8), "0x8100 outside too");
        assert_eq!(taken(two, &[(Q, 100), (Q, 200)]), None, "the other way round");
        assert_eq!(taken(two, &[(AD, 200), (AD, 100)]), None, "0x88a8 within");
        assert_eq!(taken(two, &[(AD, 200)]), None);
        assert_eq!(taken(one, &[(Q, 101)]), None);
        assert_eq!(taken(one, &[(AD, 100)]), None, "another kind of VLAN");
        assert_eq!(taken(none, &[(AD, 0)]), None);
        assert_eq!(taken(one, &[(Q, 100), (Q, 7)]), None, "one tag more");
        assert_eq!(taken(two, &[(AD, 200), (Q, 100), (Q, 7)]), None);
        assert_eq!(taken(none, &[(Q, 0xe000)]), Some(4), "a priority alone");
        assert_eq!(taken(one, &[(Q, 0)]), None);
    }

    #[test]
    fn a_tag_beside_the_frame_counts_as_the_outer_one() {
        const Q: u16 = ETHERTYPE_VLAN;
        let beside =
            |tags: VlanTags, tci, found: &[(u16, u16)]| tags.taken_off(&frame(found), Some(tci)).ok();
        assert_eq!(beside(VlanTags::single(100), 0x6064, &[]), Some(0));
        assert_eq!(beside(VlanTags::single(100), 101, &[]), None);
        assert_eq!(beside(VlanTags::double(200, 100), 200, &[(Q, 100)]), Some(4));
        assert_eq!(beside(VlanTags::double(200, 100), 200, &[]), None);
        assert_eq!(beside(VlanTags::NONE, 0, &[]), Some(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_what_is_taken_off_is_there(
            bytes in proptest::collection::vec(prop_oneof![Just(0x81), Just(0), Just(100), any::<u8>()], 0..40),
            stripped in proptest::option::of(any::<u16>()),
        ) {
            for tags in [VlanTags::NONE, VlanTags::single(100), VlanTags::double(0x81, 100)] {
                match tags.taken_off(&bytes, stripped) {
                    Ok(len) => prop_assert!(usize::from(len) + ethernet::HEADER_LEN <= bytes.len()),
                    Err(reason) => prop_assert!(matches!(reason, DropReason::OtherVlan | DropReason::Truncated)),
                }
            }
        }
    }
}
