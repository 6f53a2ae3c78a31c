//! A slice of fixed length on huge pages, touched at creation: the memory of flow tables.
//!
//! A flow table is read at random; on 4 KiB pages nearly every packet costs a TLB miss beside the cache miss.
//! Read first: mmap(2) on MAP_HUGETLB, and the kernel's admin-guide/mm/hugetlbpage and transhuge.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

/// What memory a [`HugeSlice`] stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// As a request: huge pages when enough are free, else plain memory. Never the answer of
    /// [`HugeSlice::backing`].
    Auto,
    /// Reserved 2 MiB pages (hugetlbfs).
    Huge,
    /// Ordinary anonymous memory. The kernel is asked for transparent huge pages and may or may not give
    /// some.
    Plain,
}

/// `len` elements of `T` at a fixed place, all of them written, so that no page fault is left for later.
pub struct HugeSlice<T: Copy> {
    memory: region::Region<T>,
    backing: Backing,
}

impl<T: Copy> HugeSlice<T> {
    /// Allocates `len` elements on the requested memory and sets each to `value`.
    ///
    /// # Errors
    /// `InvalidInput` when the slice would be larger than `isize::MAX` bytes; otherwise what mmap says, with
    /// the size and a way out: usually that too few huge pages are free (`Backing::Huge`) or that memory is
    /// short.
    pub fn filled(len: usize, value: T, request: Backing) -> io::Result<Self> {
        let (memory, backing) = match request {
            Backing::Huge => (region::Region::filled(len, value, Backing::Huge)?, Backing::Huge),
            Backing::Plain => (region::Region::filled(len, value, Backing::Plain)?, Backing::Plain),
            Backing::Auto => match region::Region::filled(len, value, Backing::Huge) {
                Ok(memory) => (memory, Backing::Huge),
                Err(_) => (region::Region::filled(len, value, Backing::Plain)?, Backing::Plain),
            },
        };
        Ok(Self { memory, backing })
    }

    /// What the slice stands on: `Huge` or `Plain`.
    pub fn backing(&self) -> Backing {
        self.backing
    }
}

impl<T: Copy> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        self.memory.as_slice()
    }
}

impl<T: Copy> DerefMut for HugeSlice<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.as_mut_slice()
    }
}

impl<T: Copy> fmt::Debug for HugeSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugeSlice")
            .field("len", &self.len())
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

/// The mapping itself.
#[cfg(all(target_os = "linux", not(miri)))]
mod region {
    use super::Backing;
    use std::io;
    use std::ptr::{self, NonNull};

    const HUGE_PAGE_BYTES: usize = 2 << 20;
    /// The least page size of any Linux; mappings are aligned to at least this.
    const PAGE_BYTES: usize = 4096;

    /// Owns one private anonymous mapping whose first `len` elements are initialised.
    pub(super) struct Region<T: Copy> {
        elements: NonNull<T>,
        len: usize,
        mapped_bytes: usize,
    }

    impl<T: Copy> Region<T> {
        pub(super) fn filled(len: usize, value: T, backing: Backing) -> io::Result<Self> {
            const { assert!(align_of::<T>() <= PAGE_BYTES, "a mapping is aligned to a page, not to more") };
            let mapped_bytes = len
                .checked_mul(size_of::<T>())
                .and_then(|bytes| bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .ok_or_else(|| too_large::<T>(len))?;
            let elements = map(mapped_bytes, backing)?.cast::<T>();
            // Owns the mapping from here on: it goes when the pages cannot be had.
            let region = Self { elements, len, mapped_bytes };
            if backing == Backing::Huge {
                region.populate()?;
            }
            for index in 0..len {
                // SAFETY: the mapping holds `len` elements (mapped_bytes >= len * size_of::<T>()), is
                // writable, aligned for T (asserted above) and nobody else knows of it yet; the offset fits
                // isize (checked above).
                unsafe { elements.add(index).write(value) };
            }
            Ok(region)
        }

        /// Takes the pages now. A control group's limit (hugetlb.2MB.max) is not looked at when they are reserved
        /// but when they are touched, and a touch it refuses is a SIGBUS. Kernels before 5.14 do not know the call;
        /// there the first touch decides.
        fn populate(&self) -> io::Result<()> {
            // SAFETY: exactly the mapping that `map` made; populating changes no content.
            let rc = unsafe {
                libc::madvise(self.elements.as_ptr().cast(), self.mapped_bytes, libc::MADV_POPULATE_WRITE)
            };
            match io::Error::last_os_error() {
                error if rc != 0 && error.raw_os_error() != Some(libc::EINVAL) => Err(error),
                _ => Ok(()),
            }
        }

        #[inline(always)]
        pub(super) fn as_slice(&self) -> &[T] {
            // SAFETY: `len` elements from `elements` on are mapped, aligned and were all written in `filled`;
            // they stay until `drop`, and `&self` keeps writers away.
            unsafe { std::slice::from_raw_parts(self.elements.as_ptr(), self.len) }
        }

        #[inline(always)]
        pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
            // SAFETY: as in `as_slice`; `&mut self` makes this the only reference.
            unsafe { std::slice::from_raw_parts_mut(self.elements.as_ptr(), self.len) }
        }
    }

    impl<T: Copy> Drop for Region<T> {
        fn drop(&mut self) {
            // SAFETY: exactly the range that `map` made, unmapped once; no reference outlives self, and T is
            // Copy, so the elements need no drop.
            unsafe { libc::munmap(self.elements.as_ptr().cast(), self.mapped_bytes) };
        }
    }

    // SAFETY: a Region owns its elements as a Box<[T]> would; the pointer is shared with nobody.
    unsafe impl<T: Copy + Send> Send for Region<T> {}
    // SAFETY: `&Region` gives out `&[T]` and nothing else.
    unsafe impl<T: Copy + Sync> Sync for Region<T> {}

    /// A fresh zeroed mapping of `bytes`, a multiple of the huge page size.
    fn map(bytes: usize, backing: Backing) -> io::Result<NonNull<libc::c_void>> {
        let huge = backing == Backing::Huge;
        // The kernel reserves the huge pages here, so that other processes cannot take them before they are touched
        // (hugetlbfs_reserv).
        let extra_flags = if huge { libc::MAP_HUGETLB | libc::MAP_HUGE_2MB } else { 0 };
        // SAFETY: a new private anonymous mapping at an address the kernel chooses; no memory of ours is
        // touched.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra_flags,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(map_error(bytes, huge, &io::Error::last_os_error()));
        }
        if !huge {
            // SAFETY: advice on the range just mapped; it changes no contents. Its result is not looked at: a
            // kernel without transparent huge pages refuses, and then small pages do.
            unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
        }
        NonNull::new(address).ok_or_else(|| io::Error::other("mmap returned address zero"))
    }

    fn map_error(bytes: usize, huge: bool, cause: &io::Error) -> io::Error {
        let text = if huge {
            let pages = bytes / HUGE_PAGE_BYTES;
            format!(
                "mmap of {pages} huge pages of 2 MiB: {cause}; \
                 reserve them with `sysctl vm.nr_hugepages=N` or use plain memory"
            )
        } else {
            format!("mmap of {bytes} bytes: {cause}")
        };
        io::Error::new(cause.kind(), text)
    }

    fn too_large<T>(len: usize) -> io::Error {
        let text = format!("{len} elements of {} bytes are more than an address space holds", size_of::<T>());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    }
}

/// The portable twin, for Miri and other systems: the heap. It has no huge pages to give.
#[cfg(not(all(target_os = "linux", not(miri))))]
mod region {
    use super::Backing;
    use std::io;

    pub(super) struct Region<T: Copy>(Box<[T]>);

    impl<T: Copy> Region<T> {
        pub(super) fn filled(len: usize, value: T, backing: Backing) -> io::Result<Self> {
            if backing == Backing::Huge {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "no huge pages here; use plain memory",
                ));
            }
            let mut elements = Vec::new();
            elements.try_reserve_exact(len).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{len} elements: {error}"))
            })?;
            elements.resize(len, value);
            Ok(Self(elements.into_boxed_slice()))
        }

        pub(super) fn as_slice(&self) -> &[T] {
            &self.0
        }

        pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
            &mut self.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(align(64))]
    struct Line([u32; 16]);

    #[test]
    fn every_element_is_written_and_aligned_and_writable() {
        let mut lines = HugeSlice::filled(100_000, Line([7; 16]), Backing::Auto).unwrap();
        assert_eq!(lines.len(), 100_000);
        assert!(lines.iter().all(|line| *line == Line([7; 16])));
        assert_eq!(lines.as_ptr().addr() % 64, 0);
        lines[99_999].0[15] = 8;
        assert_eq!(lines[99_999].0[15], 8);
        assert_ne!(lines.backing(), Backing::Auto);
    }

    #[test]
    fn plain_is_plain_and_empty_is_empty() {
        assert_eq!(HugeSlice::filled(3, 1_u8, Backing::Plain).unwrap().backing(), Backing::Plain);
        assert!(HugeSlice::filled(0, 1_u64, Backing::Auto).unwrap().is_empty());
        assert_eq!(HugeSlice::filled(5, (), Backing::Plain).unwrap().len(), 5);
    }

    /// Whether the machine has huge pages or not: the request is either met or refused with the way out.
    #[test]
    fn huge_is_huge_or_says_what_to_do() {
        match HugeSlice::filled(1, 0_u8, Backing::Huge) {
            Ok(slice) => assert_eq!(slice.backing(), Backing::Huge),
            Err(error) => assert!(error.to_string().contains("plain memory"), "{error}"),
        }
    }

    #[test]
    fn what_cannot_exist_is_an_error_and_not_a_crash() {
        let error = HugeSlice::filled(usize::MAX / 2, 0_u64, Backing::Auto).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        HugeSlice::filled(1 << 45, 0_u64, Backing::Huge).unwrap_err();
    }

    #[test]
    fn crosses_threads() {
        let mut slice = HugeSlice::filled(10, 1_u32, Backing::Plain).unwrap();
        let sum = std::thread::spawn(move || {
            slice[0] = 5;
            slice.iter().sum::<u32>()
        });
        assert_eq!(sum.join().unwrap(), 14);
    }
}
