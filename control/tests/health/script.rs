//! `check = "script"`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use control::health::Failure;

use crate::netns::NetNs;
use crate::servers::directory;
use crate::{check, fault};

fn script(directory: &Path, name: &str, body: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path.display().to_string()
}

#[test]
fn a_script_is_told_whom_it_checks_and_says_by_its_exit_code_how_he_is() {
    let (namespace, files) = (NetNs::new(), directory());
    let good = script(
        files.path(),
        "good",
        "echo \"$CROSSDOCK_SERVICE $CROSSDOCK_BACKEND $CROSSDOCK_ADDRESS $CROSSDOCK_PORT $1\" > \"$2\"; env >> \"$2\"",
    );
    let bad = script(files.path(), "bad", "echo 'replication is 90 s late' >&2; echo more >&2; exit 3");
    let loud = script(files.path(), "loud", "head -c 1000000 /dev/zero >&2; exit 1");
    let told = files.path().join("told");
    namespace.block_on(async || {
        let argv = |path: &str, more: &str| {
            format!("check = \"script\"\nargv = [\"{path}\"{more}]\ntimeout = \"2s\"")
        };
        let words = format!(", \"two words; $(none)\", \"{}\"", told.display());
        check(&argv(&good, &words)).await.expect("exit code 0");
        let said = fs::read_to_string(&told).expect("what the script saw");
        assert!(said.starts_with("web 192.0.2.11:80 127.0.0.1 80 two words; $(none)\n"), "{said}");
        assert!(!said.contains("CARGO"), "the environment is its own: {said}");
        assert_eq!(fault(&argv(&bad, "")).await, "exit code 3: replication is 90 s late");
        let loud = fault(&argv(&loud, "")).await;
        assert!(
            loud.starts_with("exit code 1: ") && loud.chars().count() < 400 && !loud.contains('\0'),
            "{loud}"
        );
        let none = check(&argv("/nonexistent/check", "")).await.expect_err("it cannot be started");
        assert!(matches!(&none, Failure::OfThisHost(why) if why.contains("No such file")), "{none:?}");
    });
}

/// Also what it started, which holds its standard error open.
#[test]
fn a_script_that_hangs_is_killed_with_all_it_started() {
    let (namespace, files) = (NetNs::new(), directory());
    let pids = files.path().join("pids");
    let body = format!("sleep 1000 & echo $! $$ > {}; trap '' TERM; wait; sleep 1000", pids.display());
    let hanging = script(files.path(), "hanging", &body);
    namespace.block_on(async || {
        let late = fault(&format!("check = \"script\"\nargv = [\"{hanging}\"]\ntimeout = \"500ms\"")).await;
        assert_eq!(late, "the script did not end within 500ms");
    });
    let is_gone = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Killed and not yet waited for by whoever inherited it.
        stat.is_empty() || stat.contains(") Z ")
    };
    let pids = fs::read_to_string(pids).expect("the script had begun");
    let began = std::time::Instant::now();
    while !pids.split_whitespace().all(is_gone) {
        assert!(began.elapsed() < crate::LONG, "left behind: {pids}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(pids.split_whitespace().count(), 2);
}
