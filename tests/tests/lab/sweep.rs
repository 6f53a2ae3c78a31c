//! What a killed lab left is swept by the next one, and nothing else is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testbed::lab::{Lab, top};

/// One more than the kernel's largest possible pid (`PID_MAX_LIMIT`, 2^22), so nobody's.
const NOBODY: u32 = (1 << 22) + 1;

fn namespace(name: &str) -> PathBuf {
    let made = Command::new("ip").args(["netns", "add", name]).status().expect("ip");
    assert!(made.success(), "ip netns add {name}");
    PathBuf::from("/run/netns").join(name)
}

fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from("/tmp").join(name);
    fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

fn remove(path: &PathBuf) {
    if path.starts_with("/run/netns") {
        let _ = Command::new("ip").args(["netns", "delete"]).arg(path.file_name().expect("a name")).status();
    } else {
        let _ = fs::remove_dir(path);
    }
}

#[test]
fn the_sweep_takes_only_what_a_dead_lab_left() {
    // Holds the labs' turn, and its own namespaces are those of a live owner.
    let lab = Lab::one_arm();
    let pid = std::process::id();
    let orphans = [
        namespace(&format!("xd-{NOBODY}-client")),
        namespace(&format!("xd-{NOBODY}-3-backend1")),
        directory(&format!("xd-{NOBODY}-3.aB3dE6")),
    ];
    let strangers = [
        namespace(&format!("xd-prod{pid}-1")),
        namespace(&format!("xd-{NOBODY}-prod{pid}")),
        directory(&format!("xd-prod{pid}.aB3dE6")),
        directory(&format!("xd-{NOBODY}.{pid}-notes")),
    ];
    let library = top().join("scripts/lib/lab.sh");
    let script = format!("source {}; lab_sweep", library.display());
    let swept = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().expect("bash");
    let left = orphans.iter().filter(|path| path.exists()).cloned().collect::<Vec<_>>();
    let taken = strangers.iter().filter(|path| !path.exists()).cloned().collect::<Vec<_>>();
    orphans.iter().chain(&strangers).filter(|path| path.exists()).for_each(remove);
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    assert!(left.is_empty(), "left by a lab that is gone: {left:?}");
    assert!(taken.is_empty(), "taken from somebody else: {taken:?}");
    lab.succeed("client", &["true"]);
    assert!(lab.directory().exists(), "the files of a live owner");
}
