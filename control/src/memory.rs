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

/// A device that reads memory by physical addresses: a NIC on a uio driver. On plain memory DPDK knows virtual ones only, and
/// leaves such a device out ("Expecting 'PA' IOVA mode but current mode is 'VA'"), which would show as a missing port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhysicalReader {
    /// Its PCI address.
    pub address: String,
    /// The uio driver.
    pub driver: String,
}

/// The memory that is wanted cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Huge pages are demanded and there are too few.
    TooFewHugePages {
        /// Pages needed.
        needed: u64,
        /// Pages free.
        free: u64,
        /// Who cannot do without them; else the rules.
        reader: Option<PhysicalReader>,
    },
    /// Plain memory is demanded beside such a device.
    PlainForPhysicalReader(PhysicalReader),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const OR_VFIO: &str = "or give the device to vfio-pci, behind an IOMMU";
        match self {
            Self::TooFewHugePages { needed, free, reader } => {
                match reader {
                    None => f.write_str("[dataplane] memory = \"huge\"")?,
                    Some(PhysicalReader { address, driver }) => write!(f, "{address} on {driver}")?,
                }
                // Rounded up, so that flow tables find some as well.
                let wanted = (needed - free).next_multiple_of(64) + 512;
                let instead = reader.as_ref().map_or("or say memory = \"auto\"", |_| OR_VFIO);
                write!(
                    f,
                    " needs {needed} free huge pages of 2 MiB and there are {free}: \
                     echo {wanted} > /proc/sys/vm/nr_hugepages, {instead}"
                )
            }
            Self::PlainForPhysicalReader(PhysicalReader { address, driver }) => write!(
                f,
                "[dataplane] memory = \"plain\" does not go with {address} on {driver}, which reads physical addresses: \
                 say memory = \"huge\", {OR_VFIO}"
            ),
        }
    }
}

impl std::error::Error for Refused {}

/// Chooses for a mempool of `mbuf_count`, and for a device that reads physical addresses if there is one.
///
/// # Errors
/// When huge pages are needed and there are too few.
pub fn choose(wanted: Memory, mbuf_count: u32, reader: Option<PhysicalReader>) -> Result<Chosen, Refused> {
    decide(wanted, huge_pages(mbuf_count), free_huge_pages(Path::new(FREE_HUGE_PAGES)), reader)
}

/// Huge pages that a mempool of `mbuf_count` needs, and DPDK's own memory with it.
pub fn huge_pages(mbuf_count: u32) -> u64 {
    pool_bytes(mbuf_count, BYTES_PER_MBUF_HUGE).div_ceil(HUGE_PAGE_BYTES)
}

fn decide(wanted: Memory, needed: u64, free: u64, reader: Option<PhysicalReader>) -> Result<Chosen, Refused> {
    match (wanted, reader) {
        (Memory::Plain, Some(reader)) => Err(Refused::PlainForPhysicalReader(reader)),
        (Memory::Plain, None) => Ok(Chosen::Plain),
        (Memory::Huge | Memory::Auto, _) if free >= needed => Ok(Chosen::Huge),
        (Memory::Auto, None) => Ok(Chosen::Plain),
        (Memory::Huge, _) => Err(Refused::TooFewHugePages { needed, free, reader: None }),
        (Memory::Auto, reader) => Err(Refused::TooFewHugePages { needed, free, reader }),
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
        assert_eq!(decide(Memory::Auto, 40, 39, None), Ok(Chosen::Plain));
        assert_eq!(decide(Memory::Auto, 40, 40, None), Ok(Chosen::Huge));
        assert_eq!(decide(Memory::Plain, 40, 400, None), Ok(Chosen::Plain));
        let error = decide(Memory::Huge, 40, 39, None).unwrap_err();
        assert!(error.to_string().contains("needs 40 free huge pages of 2 MiB and there are 39"), "{error}");
    }

    #[test]
    fn a_device_that_reads_physical_addresses_gets_huge_pages_or_nothing() {
        let reader =
            || Some(PhysicalReader { address: "0000:03:00.0".into(), driver: "uio_pci_generic".into() });
        assert_eq!(decide(Memory::Auto, 40, 40, reader()), Ok(Chosen::Huge));
        let error = decide(Memory::Auto, 40, 39, reader()).unwrap_err().to_string();
        assert!(error.starts_with("0000:03:00.0 on uio_pci_generic needs 40 free huge pages"), "{error}");
        let error = decide(Memory::Plain, 40, 400, reader()).unwrap_err().to_string();
        assert!(error.contains("memory = \"plain\" does not go with 0000:03:00.0"), "{error}");
    }

    #[test]
    fn plain_memory_and_in_memory_are_never_asked_for_together() {
        assert_eq!(eal_arguments(Chosen::Huge, 1_000), ["--in-memory"]);
        assert_eq!(eal_arguments(Chosen::Plain, 65_536), ["--no-huge", "--no-shconf", "-m", "304"]);
    }
}
