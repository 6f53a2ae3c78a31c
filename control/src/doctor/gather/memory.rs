//! Huge pages as the kernel counts them by node, and where they are mounted. Read first: the kernel's
//! admin-guide/mm/hugetlbpage.

use std::collections::BTreeSet;

use crate::doctor::facts::HugePages;
use crate::launch::share_cores;
use crate::machine::Machine;
use crate::rules::Rules;
use crate::table_memory;

const NODES: &str = "/sys/devices/system/node";
/// The same counts without nodes, on a kernel without NUMA.
const ALL: &str = "/sys/kernel/mm/hugepages";

pub(super) fn huge_pages(machine: &Machine) -> Vec<HugePages> {
    let nodes = machine.list(NODES).into_iter().filter_map(|name| name.strip_prefix("node")?.parse().ok());
    let mut nodes: Vec<usize> = nodes.collect();
    nodes.sort_unstable();
    let by_node = nodes.iter().flat_map(|node| of(machine, *node, &format!("{NODES}/node{node}/hugepages")));
    let by_node: Vec<_> = by_node.collect();
    if by_node.is_empty() { of(machine, 0, ALL) } else { by_node }
}

fn of(machine: &Machine, node: usize, directory: &str) -> Vec<HugePages> {
    let sizes = machine.list(directory).into_iter();
    let row = |name: String| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file: &str| machine.number(&format!("{directory}/{name}/{file}")).unwrap_or(0);
        Some(HugePages { node, kib, total: number("nr_hugepages"), free: number("free_hugepages") })
    };
    sizes.filter_map(row).collect()
}

/// Why the flow tables do not fit, in the words of the start.
pub(super) fn refusal(rules: Option<&Rules>) -> Option<String> {
    let dataplane = &rules?.dataplane;
    let allowed = affinity::get_thread_affinity().ok()?;
    let workers = share_cores(&dataplane.workers, &allowed).ok()?.workers.len();
    let checked = table_memory::check(dataplane.memory, dataplane.max_flows, workers as u16);
    checked.err().map(|refusal| refusal.to_string())
}

/// Page sizes in KiB of mounted hugetlbfs; one without a size has the kernel's default.
pub(super) fn mounts(machine: &Machine) -> BTreeSet<u64> {
    let mounts = machine.read("/proc/mounts").unwrap_or_default();
    let default = || {
        let meminfo = machine.read("/proc/meminfo")?;
        let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let sizes = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let is_huge = fields.next() == Some("hugetlbfs");
        let size = fields.next()?.split(',').find_map(|option| option.strip_prefix("pagesize="));
        is_huge.then(|| size.map_or_else(|| default().unwrap_or(2_048), kib))
    });
    sizes.collect()
}

/// `2M` and `1024M` as mount shows them, `1G` as it is typed.
fn kib(size: &str) -> u64 {
    let (number, unit) =
        size.split_at(size.len() - size.bytes().rev().take_while(u8::is_ascii_alphabetic).count());
    let factor = match unit {
        "K" | "k" => 1,
        "G" | "g" => 1 << 20,
        _ => 1 << 10,
    };
    number.parse::<u64>().unwrap_or(0).saturating_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::made_up;

    #[test]
    fn pages_are_counted_by_node_and_mounts_by_size() {
        let (_directory, machine) = made_up(&[
            ("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "512\n"),
            ("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "500\n"),
            ("/sys/devices/system/node/node10/hugepages/hugepages-1048576kB/nr_hugepages", "2\n"),
            ("/sys/devices/system/node/online", "0,10\n"),
            (
                "/proc/mounts",
                "none /a hugetlbfs rw,relatime 0 0\nnone /b hugetlbfs rw,pagesize=1024M 0 0\nproc /proc proc rw 0 0\n",
            ),
            ("/proc/meminfo", "MemTotal: 1 kB\nHugepagesize:       2048 kB\n"),
        ]);
        let pages = huge_pages(&machine);
        assert_eq!(pages[0], HugePages { node: 0, kib: 2_048, total: 512, free: 500 });
        assert_eq!(pages[1], HugePages { node: 10, kib: 1_048_576, total: 2, free: 0 });
        assert_eq!(mounts(&machine), BTreeSet::from([2_048, 1_048_576]));
        assert_eq!([kib("1G"), kib("2M"), kib("64k"), kib("")], [1 << 20, 2_048, 64, 0]);
    }

    #[test]
    fn a_kernel_without_nodes_counts_all_the_same() {
        let (_directory, machine) =
            made_up(&[("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8")]);
        assert_eq!(huge_pages(&machine), [HugePages { node: 0, kib: 2_048, total: 8, free: 0 }]);
    }
}
