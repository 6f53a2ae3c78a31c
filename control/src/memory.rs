//! What DPDK's memory stands on, and how much of it there must be.
//!
//! Huge pages are taken with `--in-memory` and plain memory with `--no-huge --no-shconf`: either way nothing stays
//! behind in /dev/hugepages or /run/dpdk, however the process ends. (DPDK 22.11 refuses `--no-huge` together with
//! `--in-memory`.)

use std::fs;
use std::path::Path;

use crate::rules::Memory;

/// Bytes DPDK itself needs beside the mempool: rings, device data, the memory allocator's own.
const OVERHEAD_BYTES: u64 = 48 << 20;
const MIB: u64 = 1 << 20;
/// An mbuf with its 2,048-byte buffer, headroom, object header and the gap that spreads objects over channels.
const BYTES_PER_MBUF_HUGE: u64 = 2_560;
/// No object crosses a page (`rte_mempool_op_calc_mem_size_helper`), so on plain memory each mbuf has one of its own:
/// measured with testpmd, 32,767 mbufs need 140 MiB, 131,071 need 525.
const BYTES_PER_MBUF_PLAIN: u64 = 4_096;
const HUGE_PAGE_BYTES: u64 = 2 << 20;
const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// The memory that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// 2 MiB pages.
    Huge,
    /// Ordinary memory.
    Plain,
}

/// Huge pages were demanded and there are too few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewHugePages {
    /// Pages needed.
    pub needed: u64,
    /// Pages free.
    pub free: u64,
}

impl std::fmt::Display for TooFewHugePages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { needed, free } = self;
        write!(
            f,
            "[dataplane] memory = \"huge\" needs {needed} free huge pages of 2 MiB and there are {free}: \
             echo {} > /proc/sys/vm/nr_hugepages, or say memory = \"auto\"",
            // Rounded up, so that flow tables find some as well.
            (needed - free).next_multiple_of(64) + 512
        )
    }
}

impl std::error::Error for TooFewHugePages {}

/// Chooses for a mempool of `mbuf_count`.
///
/// # Errors
/// When huge pages are demanded and there are too few.
pub fn choose(wanted: Memory, mbuf_count: u32) -> Result<Chosen, TooFewHugePages> {
    decide(
        wanted,
        pool_bytes(mbuf_count, BYTES_PER_MBUF_HUGE).div_ceil(HUGE_PAGE_BYTES),
        free_huge_pages(Path::new(FREE_HUGE_PAGES)),
    )
}

fn decide(wanted: Memory, needed: u64, free: u64) -> Result<Chosen, TooFewHugePages> {
    match wanted {
        Memory::Plain => Ok(Chosen::Plain),
        Memory::Huge if free < needed => Err(TooFewHugePages { needed, free }),
        Memory::Auto if free < needed => Ok(Chosen::Plain),
        Memory::Huge | Memory::Auto => Ok(Chosen::Huge),
    }
}

/// The EAL options that ask for it.
pub fn eal_arguments(chosen: Chosen, mbuf_count: u32) -> Vec<String> {
    match chosen {
        Chosen::Huge => vec!["--in-memory".into()],
        Chosen::Plain => {
            let mib = pool_bytes(mbuf_count, BYTES_PER_MBUF_PLAIN).div_ceil(MIB);
            vec!["--no-huge".into(), "--no-shconf".into(), "-m".into(), mib.to_string()]
        }
    }
}

fn pool_bytes(mbuf_count: u32, bytes_per_mbuf: u64) -> u64 {
    u64::from(mbuf_count) * bytes_per_mbuf + OVERHEAD_BYTES
}

/// Free 2 MiB pages; 0 where the kernel has none to offer.
fn free_huge_pages(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_taken_when_there_are_enough_and_demanded_only_when_asked() {
        assert_eq!(decide(Memory::Auto, 40, 39), Ok(Chosen::Plain));
        assert_eq!(decide(Memory::Auto, 40, 40), Ok(Chosen::Huge));
        assert_eq!(decide(Memory::Plain, 40, 400), Ok(Chosen::Plain));
        let error = decide(Memory::Huge, 40, 39).unwrap_err();
        assert!(error.to_string().contains("needs 40 free huge pages of 2 MiB and there are 39"), "{error}");
    }

    #[test]
    fn plain_memory_and_in_memory_are_never_asked_for_together() {
        assert_eq!(eal_arguments(Chosen::Huge, 1_000), ["--in-memory"]);
        assert_eq!(eal_arguments(Chosen::Plain, 65_536), ["--no-huge", "--no-shconf", "-m", "304"]);
    }
}
