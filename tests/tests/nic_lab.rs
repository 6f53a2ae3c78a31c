//! `scripts/nic-lab` on one kind of NIC: the real binary on emulated PCI NICs in a QEMU guest, HTTP and UDP through them.
//! The script itself says what failed; the other kinds are `scripts/nic-lab --all`.

use std::process::{Command, Stdio};

use testbed::director::binary;
use testbed::lab::top;

#[test]
fn two_workers_on_two_queues_of_a_virtio_nic_behind_an_iommu() {
    let mut command = Command::new(top().join("scripts/nic-lab"));
    command
        .args(["--kind", "virtio-net", "--driver", "vfio-pci", "--workers", "2", "--binary"])
        .arg(binary());
    let ended = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{}\n{out}\n{err}", ended.status);
    let row = out.lines().last().unwrap_or_default();
    assert!(row.starts_with("| virtio-net | vfio-pci | 2 | huge |"), "{out}\n{err}");
}
