//! One packet buffer, owned.
//!
//! Guide: DPDK Programmer's Guide 22.11, "Mbuf Library". A packet is a chain of segments; header code looks at the
//! first only, which holds the whole packet unless a driver was told to scatter.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use crate::layout::{
    BUF_ADDR, BUF_LEN, DATA_LEN, DATA_OFF, Field, HASH_RSS, NB_SEGS, NEXT, OL_FLAGS, PKT_LEN, PORT, VLAN_TCI,
};

/// A packet in a DPDK buffer. Dropping it gives the buffer back to its pool.
///
/// One pointer wide, so that an array of mbufs is the array DPDK takes. There is no `Clone`: an mbuf has one owner,
/// and its reference count is 1 throughout.
///
/// Trusted: that a driver's `data_off` and `data_len` lie within the buffer. Debug builds check it.
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());

// SAFETY: an mbuf has one owner and no tie to a thread; its pool takes it back from any thread. Not Sync, though
// nothing speaks against it but need.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// # Safety
    /// `raw` is the first segment of a live packet with reference count 1 that nobody else owns, from a pool that
    /// lives until DPDK stops.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// The bytes of the first segment.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        let first = Segment(self.0);
        // SAFETY: the segment is ours while `&self` lives; see `Segment::start` for the bounds.
        unsafe { slice::from_raw_parts(first.start(), first.len()) }
    }

    /// The bytes of the first segment, to change in place.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let first = Segment(self.0);
        // SAFETY: as in `data`, and `&mut self` is the only way to this mbuf.
        unsafe { slice::from_raw_parts_mut(first.start(), first.len()) }
    }

    /// Bytes of all segments.
    #[inline(always)]
    pub fn packet_len(&self) -> usize {
        self.read(&PKT_LEN) as usize
    }

    /// Number of segments, at least 1.
    #[inline(always)]
    pub fn segment_count(&self) -> u16 {
        self.read(&NB_SEGS)
    }

    /// The bytes of each segment in turn.
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(Segment(self.0)), _mbuf: PhantomData }
    }

    /// The id of the port it was received on; `u16::MAX` when none.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        self.read(&PORT)
    }

    /// Notes a port id; DPDK reads it nowhere on the way out.
    #[inline(always)]
    pub fn set_port(&mut self, port: u16) {
        // SAFETY: ours through `&mut self`; no other field depends on it.
        unsafe { PORT.write(self.0, port) }
    }

    /// The RSS hash, where the port computed one for this packet.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        (self.read(&OL_FLAGS) & sys::XD_RX_RSS_HASH != 0).then(|| self.read(&HASH_RSS))
    }

    /// The control information of an outer VLAN tag that the port took out of the frame.
    #[inline]
    pub fn stripped_tag(&self) -> Option<u16> {
        (self.read(&OL_FLAGS) & sys::XD_RX_VLAN_STRIPPED != 0).then(|| self.read(&VLAN_TCI))
    }

    /// Asks the port that sends the packet for its UDP checksum, over all segments. The port must be configured for that
    /// ([`crate::PortConfig::computes_udp_checksums`]) and the packet sent with [`crate::TxQueue::transmit_prepared`]. The IP header,
    /// of `l3_len` bytes with all that belongs to it, begins `l2_len` bytes into the frame that is sent; the field of the
    /// checksum holds the sum of the pseudo header, and behind the datagram comes nothing.
    pub fn request_udp_checksum(&mut self, l2_len: u8, l3_len: u16, is_ipv6: bool) {
        // SAFETY: a live mbuf that only we own; the call writes flags and lengths, which drivers read beside a packet.
        unsafe { sys::xd_mbuf_request_udp_checksum(self.0.as_ptr(), l2_len, l3_len, is_ipv6.into()) }
    }

    /// Whether it asks the port for a checksum.
    #[inline(always)]
    pub fn requests_checksum(&self) -> bool {
        self.read(&OL_FLAGS) & sys::XD_TX_L4_MASK == sys::XD_TX_UDP_CKSUM
    }

    /// Brings the mbuf's own fields towards the cache.
    #[inline(always)]
    pub fn prefetch_fields(&self) {
        prefetch(self.0.as_ptr().cast());
    }

    /// Brings the first cache line of the packet's bytes towards the cache. Reads the mbuf's own fields.
    #[inline(always)]
    pub fn prefetch_data(&self) {
        prefetch(Segment(self.0).start());
    }

    /// Bytes free in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.read(&DATA_OFF))
    }

    /// Bytes free behind the packet, in its last segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.last_segment().tailroom()
    }

    /// Puts `n` bytes in front and returns them, whatever they held before. `None`, and no change, where the
    /// headroom is smaller.
    #[inline]
    pub fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        let offset = self.read(&DATA_OFF).checked_sub(n)?;
        let data_len = self.read(&DATA_LEN).checked_add(n)?;
        // SAFETY: ours through `&mut self`. The data now begins `n` bytes earlier and still within the buffer, and
        // both lengths say so.
        unsafe {
            DATA_OFF.write(self.0, offset);
            DATA_LEN.write(self.0, data_len);
            PKT_LEN.write(self.0, self.read(&PKT_LEN) + u32::from(n));
        }
        self.data_mut().get_mut(..usize::from(n))
    }

    /// Takes `n` bytes off the front. False, and no change, where the first segment is shorter.
    #[inline]
    #[must_use]
    pub fn trim_front(&mut self, n: u16) -> bool {
        let Some(data_len) = self.read(&DATA_LEN).checked_sub(n) else { return false };
        // SAFETY: ours through `&mut self`. `n` is at most the segment's data, so the offset stays in the buffer.
        unsafe {
            DATA_OFF.write(self.0, self.read(&DATA_OFF) + n);
            DATA_LEN.write(self.0, data_len);
            PKT_LEN.write(self.0, self.read(&PKT_LEN) - u32::from(n));
        }
        true
    }

    /// Puts `n` bytes behind the packet and returns them, whatever they held before. `None`, and no change, where
    /// the tailroom is smaller.
    #[inline]
    pub fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        let last = self.last_segment();
        if usize::from(n) > last.tailroom() {
            return None;
        }
        let old_len = last.len();
        // SAFETY: ours through `&mut self`. The tailroom holds `n` bytes, so the data ends within the buffer; the
        // memory is mapped and initialised, as all of a pool's is.
        unsafe {
            DATA_LEN.write(last.0, DATA_LEN.read(last.0) + n);
            PKT_LEN.write(self.0, self.read(&PKT_LEN) + u32::from(n));
            Some(slice::from_raw_parts_mut(last.start().add(old_len), usize::from(n)))
        }
    }

    /// Cuts the packet to `len` bytes and frees segments that are left empty. False, and no change, where it is
    /// shorter than that.
    #[must_use]
    pub fn truncate(&mut self, len: usize) -> bool {
        if len > self.packet_len() {
            return false;
        }
        let (mut segment, mut left, mut kept) = (Segment(self.0), len, 1);
        while left > segment.len() {
            let Some(next) = segment.next() else { return false };
            left -= segment.len();
            segment = next;
            kept += 1;
        }
        let rest = segment.next();
        // SAFETY: ours through `&mut self`. `left` is at most this segment's length, and `len` at most the packet's,
        // so both fit their fields. The chain ends here, so the rest has no owner but this function, which frees it.
        unsafe {
            DATA_LEN.write(segment.0, left as u16);
            PKT_LEN.write(self.0, len as u32);
            NB_SEGS.write(self.0, kept);
            NEXT.write(segment.0, std::ptr::null_mut());
            if let Some(rest) = rest {
                sys::rte_pktmbuf_free(rest.0.as_ptr());
            }
        }
        true
    }

    /// Moves bytes of further segments behind the first one's, until that has `n` or all of the packet, and frees
    /// segments that are left empty. False, and no change, where the first segment has no room for them.
    #[must_use]
    pub fn gather(&mut self, n: usize) -> bool {
        let first = Segment(self.0);
        let mut missing = n.min(self.packet_len()).saturating_sub(first.len());
        if missing > first.tailroom() {
            return false;
        }
        while missing > 0 {
            let Some(next) = first.next() else { return false };
            let moved = next.len().min(missing);
            missing -= moved;
            // SAFETY: ours through `&mut self`, and two buffers. `moved` is at most what `next` has and, as checked
            // above, what the first has room for, so it fits the 16 bits of both lengths and stays in both buffers.
            unsafe {
                next.start().copy_to_nonoverlapping(first.start().add(first.len()), moved);
                DATA_LEN.write(first.0, DATA_LEN.read(first.0) + moved as u16);
                DATA_OFF.write(next.0, DATA_OFF.read(next.0) + moved as u16);
                DATA_LEN.write(next.0, DATA_LEN.read(next.0) - moved as u16);
            }
            if next.len() == 0 {
                self.unlink(first, next);
            }
        }
        true
    }

    /// Takes `next`, which follows `before`, out of the packet and frees it.
    fn unlink(&mut self, before: Segment, next: Segment) {
        // SAFETY: ours through `&mut self`. The chain goes round `next`, which then is a packet of one segment that
        // nobody but this function owns.
        unsafe {
            NEXT.write(before.0, NEXT.read(next.0));
            NB_SEGS.write(self.0, NB_SEGS.read(self.0).saturating_sub(1));
            NEXT.write(next.0, std::ptr::null_mut());
            NB_SEGS.write(next.0, 1);
            sys::rte_pktmbuf_free(next.0.as_ptr());
        }
    }

    /// Puts the segments of `tail` behind this packet's.
    ///
    /// # Errors
    /// Gives `tail` back when the chain would have more segments than DPDK counts (65,535).
    pub fn chain(&mut self, tail: Mbuf) -> std::result::Result<(), Mbuf> {
        // SAFETY: both packets are ours and distinct; on success the head owns the tail's segments, on failure DPDK
        // changed nothing.
        if unsafe { sys::rte_pktmbuf_chain(self.0.as_ptr(), tail.0.as_ptr()) } != 0 {
            return Err(tail);
        }
        std::mem::forget(tail);
        Ok(())
    }

    /// Where the mbuf is: it stays the same from the receiving port to the sending one when nothing was copied.
    pub fn mbuf_address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Where its first segment's buffer is.
    pub fn buffer_address(&self) -> usize {
        self.read(&BUF_ADDR).addr()
    }

    #[inline(always)]
    fn read<T: Copy>(&self, field: &Field<T>) -> T {
        // SAFETY: the mbuf is live and, Mbuf being neither Sync nor Clone, no other thread writes it.
        unsafe { field.read(self.0) }
    }

    fn last_segment(&self) -> Segment {
        let mut last = Segment(self.0);
        while let Some(next) = last.next() {
            last = next;
        }
        last
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a live packet that only we own; its pool lives until DPDK stops, which waits for this mbuf.
        unsafe { sys::rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

/// The bytes of a packet's segments, in order.
#[derive(Debug)]
pub struct Segments<'a> {
    next: Option<Segment>,
    _mbuf: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        self.next = segment.next();
        // SAFETY: the segment belongs to the mbuf borrowed for 'a; see `Segment::start` for the bounds.
        Some(unsafe { slice::from_raw_parts(segment.start(), segment.len()) })
    }
}

/// A segment of a packet that some `Mbuf` owns. Private to this file, and never outlives the call or borrow that
/// made it: that is what its methods rely on.
#[derive(Debug, Clone, Copy)]
struct Segment(NonNull<sys::rte_mbuf>);

impl Segment {
    /// The first data byte; `len()` bytes from here lie within the buffer.
    #[inline(always)]
    fn start(self) -> *mut u8 {
        // SAFETY: a live segment (see the type). The offset lies within its buffer: pools and the methods above
        // keep it so, and drivers are trusted to.
        unsafe {
            let (offset, len) = (usize::from(DATA_OFF.read(self.0)), self.len());
            debug_assert!(
                offset + len <= usize::from(BUF_LEN.read(self.0)),
                "a driver's data lies outside its buffer"
            );
            BUF_ADDR.read(self.0).add(offset)
        }
    }

    #[inline(always)]
    fn len(self) -> usize {
        // SAFETY: a live segment (see the type).
        usize::from(unsafe { DATA_LEN.read(self.0) })
    }

    #[inline]
    fn tailroom(self) -> usize {
        // SAFETY: a live segment (see the type).
        let (buffer, offset) = unsafe { (BUF_LEN.read(self.0), DATA_OFF.read(self.0)) };
        usize::from(buffer).saturating_sub(usize::from(offset) + self.len())
    }

    #[inline]
    fn next(self) -> Option<Segment> {
        // SAFETY: a live segment (see the type); `next` is null or another segment of the same packet.
        NonNull::new(unsafe { NEXT.read(self.0) }).map(Segment)
    }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and faults on no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
