//! A child process that does not outlive its test.
//!
//! Dropping it ends it (SIGTERM, then SIGKILL). When the test program itself is killed, the kernel ends it: it runs under
//! `setpriv --pdeathsig` (prctl(2), `PR_SET_PDEATHSIG`), which counts from the thread that started it; so a process must be
//! started by the thread of the test that uses it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long an ending process may take before it is killed, or is a failure.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A running child with its output in files.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `argv`; `NAME.out` and `NAME.err` in `directory` take what it writes.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, directory: &Path, argv: &[&str]) -> Self {
        let stdout = directory.join(format!("{name}.out"));
        let stderr = directory.join(format!("{name}.err"));
        let create = |path: &Path| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .args(argv)
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .spawn()
            .unwrap_or_else(|e| panic!("setpriv {argv:?}: {e}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// Its process id. `setpriv` and `ip netns exec` replace themselves, so it is the program's own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What it has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When it has already been waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits in 31 bits"));
        kill(pid, signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// The exit status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let ended = until(limit, || {
            status = self.ended();
            status.is_some()
        });
        assert!(ended, "{} has not ended within {limit:?}; stderr:\n{}", self.name, self.stderr());
        status.expect("it has ended")
    }

    /// Sends SIGTERM and waits ten seconds at most.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(END_LIMIT)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        if !until(END_LIMIT, || self.ended().is_some()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- stderr of {}:\n{}", self.name, self.stderr());
        }
    }
}

/// Asks every few milliseconds until `done` or until `limit` has passed; false is the latter.
#[must_use]
pub fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
