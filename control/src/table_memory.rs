//! Whether the flow tables fit into the memory there is, asked before it is taken.
//!
//! The tables are touched at start. Where that is more than the machine has, the kernel does not refuse it: it ends a
//! process, and not always this one. Reserved huge pages are different: what is not there is refused when it is asked for. The
//! mempool is not counted here, it is small beside the tables (see [`crate::memory`]). Read proc(5) on meminfo, and the
//! kernel's admin-guide/cgroup-v2 on memory.max.

use std::fmt;
use std::fs;
use std::path::Path;

use dataplane::flow::FlowTable;

use crate::rules::Memory;

/// The flow tables need more than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLittleMemory {
    /// `[dataplane] max_flows`.
    pub max_flows: u32,
    /// Workers, each with a table.
    pub worker_count: u16,
    /// Bytes that are there.
    pub available: u64,
}

impl fmt::Display for TooLittleMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_flows, worker_count, available } = *self;
        let workers = if worker_count == 1 { "one worker".into() } else { format!("{worker_count} workers") };
        let needed = megabytes(bytes_needed(max_flows, worker_count));
        write!(
            f,
            "[dataplane] max_flows = {max_flows} needs {needed} MB of memory for the flow tables of {workers}, \
             and {} MB are available: ",
            megabytes(available)
        )?;
        match fitting(worker_count, available) {
            0 => f.write_str("free some memory, or use fewer workers"),
            flows => write!(f, "say max_flows = {flows} or less, use fewer workers, or free some memory"),
        }
    }
}

impl std::error::Error for TooLittleMemory {}

/// Asks whether the tables of so many workers fit.
///
/// # Errors
/// When they do not, with what would.
pub fn check(wanted: Memory, max_flows: u32, worker_count: u16) -> Result<(), TooLittleMemory> {
    let proc = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let huge =
        field(&proc, "HugePages_Free:").unwrap_or(0) * field(&proc, "Hugepagesize:").unwrap_or(0) * 1_024;
    let plain = plain_available(&proc, &fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    decide(wanted, max_flows, worker_count, huge, plain)
}

fn decide(
    wanted: Memory,
    max_flows: u32,
    worker_count: u16,
    huge: u64,
    plain: Option<u64>,
) -> Result<(), TooLittleMemory> {
    // A kernel that does not say what is available is not asked twice.
    let available = match (wanted, plain) {
        (Memory::Huge, _) | (_, None) => return Ok(()),
        (Memory::Plain, Some(plain)) => plain,
        // A part of a table that finds no huge pages stands on plain memory.
        (Memory::Auto, Some(plain)) => plain.saturating_add(huge),
    };
    if bytes_needed(max_flows, worker_count) <= available {
        return Ok(());
    }
    Err(TooLittleMemory { max_flows, worker_count, available })
}

fn bytes_needed(max_flows: u32, worker_count: u16) -> u64 {
    FlowTable::bytes_for(max_flows) as u64 * u64::from(worker_count)
}

/// The most thousands of flows whose tables fit.
fn fitting(worker_count: u16, available: u64) -> u64 {
    const SOME: u32 = 1_000_000;
    let flows =
        u128::from(available) * u128::from(SOME) / u128::from(bytes_needed(SOME, worker_count.max(1)));
    flows as u64 / 1_000 * 1_000
}

/// What the machine and every control group that this process is in leave it, in bytes.
fn plain_available(meminfo: &str, cgroup: &str) -> Option<u64> {
    let machine = field(meminfo, "MemAvailable:")? * 1_024;
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let groups = Path::new(own).ancestors().filter_map(|group| {
        let group = Path::new("/sys/fs/cgroup").join(group);
        group_available(&|file| fs::read_to_string(group.join(file)).ok())
    });
    groups.chain([machine]).min()
}

/// What one control group leaves: its bound less what it holds; files' pages make room.
fn group_available(read: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let bound: u64 = read("memory.max")?.trim().parse().ok()?;
    let held: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let files = field(&stat, "inactive_file").unwrap_or(0) + field(&stat, "active_file").unwrap_or(0);
    Some(bound.saturating_sub(held.saturating_sub(files)))
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == name)?;
        words.next()?.parse().ok()
    })
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let gigabytes = |number: u64| number * 1_000_000_000;
        assert_eq!(decide(Memory::Plain, 20_000_000, 1, 0, Some(gigabytes(2))), Ok(()));
        assert_eq!(
            decide(Memory::Huge, 20_000_000, 1, 0, Some(0)),
            Ok(()),
            "huge pages answer for themselves"
        );
        assert_eq!(decide(Memory::Auto, 20_000_000, 2, gigabytes(2), Some(gigabytes(2))), Ok(()));
        assert_eq!(decide(Memory::Auto, 20_000_000, 2, 0, None), Ok(()), "nobody knows");
        let refused = decide(Memory::Auto, 20_000_000, 2, 0, Some(gigabytes(2))).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("max_flows = 20000000 needs 30"), "{text}");
        assert!(text.contains("of 2 workers, and 2000 MB are available"), "{text}");
        let fits = fitting(2, gigabytes(2)) as u32;
        assert!(text.contains(&format!("say max_flows = {fits} or less")), "{text}");
        assert_eq!(decide(Memory::Auto, fits, 2, 0, Some(gigabytes(2))), Ok(()));
        assert!(decide(Memory::Auto, fits + 10_000, 2, 0, Some(gigabytes(2))).is_err());
    }

    #[test]
    fn a_control_group_leaves_its_bound_less_what_it_holds_but_for_files() {
        let group = |max: &'static str| {
            move |file: &str| match file {
                "memory.max" => Some(max.to_owned()),
                "memory.current" => Some("900\n".into()),
                "memory.stat" => Some("anon 500\ninactive_file 300\nactive_file 100\n".into()),
                _ => None,
            }
        };
        assert_eq!(group_available(&group("1000\n")), Some(500));
        assert_eq!(group_available(&group("max\n")), None, "no bound");
        assert_eq!(group_available(&|_| None), None);
    }

    #[test]
    fn this_machine_says_what_is_available() {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(plain_available(&meminfo, &cgroup).is_some_and(|bytes| bytes > 1_000_000));
    }
}
