//! Where the fields of `rte_mbuf` are, as the C compiler of this build saw them.
//!
//! The offsets come from `dpdk-sys/wrapper.h`, so a DPDK release that moves a field needs no change here; widths are
//! checked there too.

use std::marker::PhantomData;
use std::ptr::NonNull;

use dpdk_sys as sys;

/// A field of `rte_mbuf`: its offset, and its width as a type.
pub(crate) struct Field<T>(usize, PhantomData<T>);

pub(crate) const BUF_ADDR: Field<*mut u8> = Field::at(sys::XD_MBUF_BUF_ADDR);
/// Offset of the first data byte from `BUF_ADDR`.
pub(crate) const DATA_OFF: Field<u16> = Field::at(sys::XD_MBUF_DATA_OFF);
/// Segments of the packet; valid in the first one.
pub(crate) const NB_SEGS: Field<u16> = Field::at(sys::XD_MBUF_NB_SEGS);
pub(crate) const PORT: Field<u16> = Field::at(sys::XD_MBUF_PORT);
pub(crate) const OL_FLAGS: Field<u64> = Field::at(sys::XD_MBUF_OL_FLAGS);
/// Bytes of all segments; valid in the first one.
pub(crate) const PKT_LEN: Field<u32> = Field::at(sys::XD_MBUF_PKT_LEN);
/// Bytes of this segment.
pub(crate) const DATA_LEN: Field<u16> = Field::at(sys::XD_MBUF_DATA_LEN);
pub(crate) const HASH_RSS: Field<u32> = Field::at(sys::XD_MBUF_HASH_RSS);
/// Bytes of this segment's buffer, headroom included.
pub(crate) const BUF_LEN: Field<u16> = Field::at(sys::XD_MBUF_BUF_LEN);
/// The next segment, null in the last.
pub(crate) const NEXT: Field<*mut sys::rte_mbuf> = Field::at(sys::XD_MBUF_NEXT);

/// The outer VLAN tag's control information, where the flags say that the port took the tag out.
pub(crate) const VLAN_TCI: Field<u16> = Field::at(sys::XD_MBUF_VLAN_TCI);

impl<T: Copy> Field<T> {
    const fn at(offset: u32) -> Self {
        Self(offset as usize, PhantomData)
    }

    /// # Safety
    /// `mbuf` is a live mbuf that no other thread writes.
    #[inline(always)]
    pub(crate) unsafe fn read(&self, mbuf: NonNull<sys::rte_mbuf>) -> T {
        // SAFETY: the field lies within the mbuf, aligned, and of this width: wrapper.h asserts it.
        unsafe { mbuf.as_ptr().byte_add(self.0).cast::<T>().read() }
    }

    /// # Safety
    /// `mbuf` is a live mbuf that no other thread reads or writes, and `value` keeps its other fields true.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, mbuf: NonNull<sys::rte_mbuf>, value: T) {
        // SAFETY: the field lies within the mbuf, aligned, and of this width: wrapper.h asserts it.
        unsafe { mbuf.as_ptr().byte_add(self.0).cast::<T>().write(value) }
    }
}
