//! A network of namespaces: a client, a director, three backends, a switch. Drawn in `scripts/lib/lab.sh`, which also makes it.
//!
//! Labs take turns on a machine (a lock file): a poll-mode worker takes a whole core, and tests that starve each other
//! would fail for reasons of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::process::{Process, until};

/// The VIP of all labs.
pub const VIP: &str = "192.0.2.100";
/// The client's address on the VIP's network.
pub const CLIENT: &str = "192.0.2.10";
/// How many backends a lab has; their roles are `backend1` and so on.
pub const BACKENDS: usize = 3;

/// Where the sources are, and with them `scripts/` and `configs/`.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A lab; dropping it removes everything it made.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: TempDir,
    _turn: Flock<File>,
}

impl Lab {
    /// Client, then the director between two networks: `front` and `back` in its namespace. For FullNAT.
    ///
    /// # Panics
    ///
    /// When it cannot be made: no root, or a tool is missing. So do all functions here.
    #[must_use]
    pub fn two_arms() -> Self {
        Self::make("lab_two_arms")
    }

    /// Everybody on one network, the VIP on every backend's loopback. The director's interface is `front`. For DR.
    #[must_use]
    pub fn one_arm() -> Self {
        Self::make(&format!("lab_one_arm {VIP}"))
    }

    fn make(shape: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root: run scripts/test");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("xd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let turn = take_turn();
        let directory =
            tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in("/tmp").expect("a directory");
        // From here on Drop cleans up, also when the shell fails halfway.
        let lab = Self { name, directory, _turn: turn };
        lab.shell(&format!("lab_sweep; {shape}"));
        lab
    }

    /// Runs functions of `scripts/lib/lab.sh`.
    fn shell(&self, script: &str) {
        let library = top().join("scripts/lib/lab.sh");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(format!(
                "source {}; LAB_NAME={}; LAB_DIRECTORY={}; {script}",
                library.display(),
                self.name,
                self.directory().display()
            ))
            .output()
            .expect("bash");
        assert!(output.status.success(), "lab: {script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A directory of its own for rules, logs and sockets.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The namespace of `client`, `director`, `switch` or `backend1` to `backend3`.
    #[must_use]
    pub fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    /// Runs a program in a namespace to its end.
    #[must_use]
    pub fn run(&self, role: &str, argv: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.namespace(role)])
            .args(argv)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{argv:?}: {e}"))
    }

    /// Runs a program that must succeed; its stdout.
    pub fn succeed(&self, role: &str, argv: &[&str]) -> String {
        let output = self.run(role, argv);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{role}: {argv:?}: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// Starts a program that runs until it is dropped.
    #[must_use]
    pub fn start(&self, role: &str, name: &str, argv: &[&str]) -> Process {
        let namespace = self.namespace(role);
        let argv = [&["ip", "netns", "exec", namespace.as_str()], argv].concat();
        Process::start(name, self.directory(), &argv)
    }

    /// The answer to a GET by the client, over a connection of its own.
    pub fn fetch(&self, url: &str) -> String {
        self.succeed("client", &["curl", "-sS", "--fail", "-m", "10", url])
    }

    /// What the kernel counts on an interface: (received, sent) packets.
    #[must_use]
    pub fn interface_packets(&self, role: &str, interface: &str) -> (u64, u64) {
        let text = self.succeed(role, &["ip", "-json", "-stats", "link", "show", interface]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("ip writes JSON");
        let packets = |way: &str| json[0]["stats64"][way]["packets"].as_u64().expect("a counter");
        (packets("rx"), packets("tx"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let prefix = format!("{}-", self.name);
        let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
        for entry in namespaces.flatten() {
            let namespace = entry.file_name().to_string_lossy().into_owned();
            if namespace.starts_with(&prefix) {
                let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
            }
        }
    }
}

fn take_turn() -> Flock<File> {
    let path = std::env::temp_dir().join("crossdock-lab.lock");
    let file = File::options().create(true).append(true).open(&path).expect("the labs' lock file");
    Flock::lock(file, FlockArg::LockExclusive).unwrap_or_else(|(_, e)| panic!("{}: {e}", path.display()))
}

/// nginx on every backend, the VIP's l4_port being `l4_port` there.
#[derive(Debug)]
pub struct WebServers {
    directories: Vec<PathBuf>,
    _processes: Vec<Process>,
}

impl WebServers {
    /// Starts them and waits until each answers itself.
    #[must_use]
    pub fn start(lab: &Lab, l4_port: u16) -> Self {
        let mut directories = Vec::new();
        let mut processes = Vec::new();
        for number in 1..=BACKENDS {
            let role = format!("backend{number}");
            lab.shell(&format!("lab_nginx_files {number} {l4_port}"));
            let directory = lab.directory().join(&role);
            let conf = directory.join("nginx.conf").display().to_string();
            let log = directory.join("error.log").display().to_string();
            processes.push(lab.start(&role, &format!("nginx{number}"), &["nginx", "-c", &conf, "-e", &log]));
            let answers = || lab.run(&role, &["curl", "-sf", "http://127.0.0.1:8000/"]).status.success();
            assert!(
                until(Duration::from_secs(10), answers),
                "nginx of {role}: {}",
                processes[number - 1].stderr()
            );
            directories.push(directory);
        }
        Self { directories, _processes: processes }
    }

    /// Replaces what every backend serves as `/big`.
    pub fn serve_big(&self, content: &[u8]) {
        for directory in &self.directories {
            fs::write(directory.join("big"), content).expect("the file to serve");
        }
    }

    /// The access log of each backend: a line a request, which begins `CONNECTION CLIENT:L4_PORT`.
    #[must_use]
    pub fn logs(&self) -> Vec<Vec<String>> {
        let log = |d: &PathBuf| fs::read_to_string(d.join("access.log")).unwrap_or_default();
        self.directories.iter().map(|d| log(d).lines().map(str::to_owned).collect()).collect()
    }

    /// Requests per backend.
    #[must_use]
    pub fn requests(&self) -> Vec<usize> {
        self.logs().iter().map(Vec::len).collect()
    }
}
