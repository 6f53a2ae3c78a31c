//! The program under test: `crossdock run` in a lab's director namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Lab, top};
use crate::process::{Process, until};

/// How long a start or a reload may take before it is a failure. Generous: CI machines are slow and shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary of this build: cargo puts it two directories above a test program, whatever the profile and target directory.
///
/// # Panics
///
/// When it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this test");
    let directory = program.ancestors().nth(2).expect("target/PROFILE/deps/PROGRAM");
    let binary = directory.join("crossdock");
    assert!(binary.exists(), "{} is missing: cargo build -p control --bin crossdock", binary.display());
    binary
}

/// A file of `configs/`, with one worker on the machine's last core so that counts are exact and one core is enough, and
/// on plain memory, so that it does not matter how many huge pages others on this machine have taken.
///
/// # Panics
///
/// When there is no such file, or it no longer says `workers = "auto"` and `memory  = "auto"`.
#[must_use]
pub fn rules(name: &str) -> String {
    let path = top().join("configs").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let last_core = std::thread::available_parallelism().expect("the number of cores").get() - 1;
    let text = replaced(&text, r#"memory  = "auto""#, r#"memory  = "plain""#);
    replaced(&text, r#"workers = "auto""#, &format!("workers = [{last_core}]"))
}

/// `text` with `from` replaced.
///
/// # Panics
///
/// When `from` does not occur: the test would then test something else than it says.
#[must_use]
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the rules do not say: {from}");
    text.replace(from, to)
}

/// The rules with workers on the first two cores: half of all packets arrive at the worker that does not own them.
///
/// # Panics
///
/// When the rules do not say who works.
#[must_use]
pub fn with_two_workers(text: &str) -> String {
    with_workers(text, 2)
}

/// The rules with so many workers, which share the first two cores.
///
/// # Panics
///
/// When the rules do not say who works.
#[must_use]
pub fn with_workers(text: &str, count: usize) -> String {
    let workers = text.lines().find(|line| line.starts_with("workers")).expect("a line that says workers");
    let cores: Vec<_> = (0..count).map(|worker| (worker % 2).to_string()).collect();
    replaced(text, workers, &format!("workers = [{}]", cores.join(", ")))
}

/// A running Crossdock.
#[derive(Debug)]
pub struct Director {
    process: Process,
    rules: PathBuf,
    socket: PathBuf,
}

impl Director {
    /// Starts it with these rules and waits until it answers `status` and knows the next hop of every backend: until then a
    /// connection to that backend is dropped, and the client tries again a second later.
    ///
    /// # Panics
    ///
    /// When it ends or does not become ready.
    #[must_use]
    pub fn start(lab: &Lab, rules: &str) -> Self {
        Self::spawn(lab, rules).ready()
    }

    /// Waits until it answers `status` and knows the next hop of every backend.
    ///
    /// # Panics
    ///
    /// When it ends or does not become ready.
    #[must_use]
    pub fn ready(mut self) -> Self {
        let mut ended = None;
        let ready = until(PATIENCE, || {
            ended = self.process.ended();
            ended.is_some() || self.try_status().is_some_and(|status| knows_next_hops(&status))
        });
        assert!(ended.is_none() && ready, "not ready ({ended:?}); stderr:\n{}", self.stderr());
        self
    }

    /// Starts it without waiting for anything.
    #[must_use]
    pub fn spawn(lab: &Lab, rules: &str) -> Self {
        Self::spawn_with(lab, rules, &[])
    }

    /// The same, with more options of `crossdock run`.
    #[must_use]
    pub fn spawn_with(lab: &Lab, rules: &str, options: &[&str]) -> Self {
        let socket = lab.directory().join("crossdock.sock");
        let path = lab.directory().join("rules.toml");
        write_rules(&path, &socket, rules);
        let (binary, file) = (binary().display().to_string(), path.display().to_string());
        let mut argv = vec![binary.as_str(), "run", "-c", &file, "--summary", "json"];
        argv.extend(options);
        Self { process: lab.start("director", "crossdock", &argv), rules: path, socket }
    }

    /// Puts these rules in the file, and says nothing to anybody.
    pub fn write_rules(&self, rules: &str) {
        write_rules(&self.rules, &self.socket, rules);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// A command of `crossdock`, asked of this director: its words, then its options.
    #[must_use]
    pub fn command(&self, words: &[&str], options: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words).arg("--socket").arg(&self.socket).args(options);
        command
    }

    /// Its API's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `crossdock status --json`, when it answers.
    #[must_use]
    pub fn try_status(&self) -> Option<Value> {
        let output = self.command(&["status"], &["--json"]).output().expect("crossdock status");
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("status --json is JSON"))
    }

    /// Puts these rules in the file, sends SIGHUP, and waits until they are in force.
    ///
    /// # Panics
    ///
    /// When it says anything else, also that nothing has changed.
    pub fn reload(&self, rules: &str) {
        let said = self.ask_to_reload(rules);
        assert!(said.contains("reload: in force as revision "), "the reload is in force: {said}");
    }

    /// Puts these rules in the file, sends SIGHUP, and waits until they are refused. Returns what it said.
    ///
    /// # Panics
    ///
    /// When it says anything else.
    pub fn refused_reload(&self, rules: &str) -> String {
        let said = self.ask_to_reload(rules);
        assert!(said.contains("reload refused, the running rules stay in force"), "it refuses: {said}");
        said
    }

    /// Returns when stderr has something new to say about a reload, good or bad. One event is one write, so it is whole.
    fn ask_to_reload(&self, rules: &str) -> String {
        let before = self.stderr().len();
        write_rules(&self.rules, &self.socket, rules);
        self.process.signal(Signal::SIGHUP);
        let said = || self.stderr()[before..].to_owned();
        let answers = |said: &str| said.contains("reload: ") || said.contains("reload refused");
        assert!(until(PATIENCE, || answers(&said())), "nothing was said about the reload: {}", said());
        said()
    }

    /// `crossdock status --json`.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("no status; stderr:\n{}", self.stderr()))
    }

    /// SIGTERM; the summary it ends with (`run --summary json`: the last line of stdout).
    ///
    /// # Panics
    ///
    /// When it fails or the line is not JSON.
    pub fn stop(mut self) -> Value {
        let status = self.process.stop();
        assert!(status.success(), "{status}; stderr:\n{}", self.stderr());
        let stdout = self.process.stdout();
        let last = stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("the summary is not JSON ({e}): {last:?}"))
    }
}

fn knows_next_hops(status: &Value) -> bool {
    let services = status["services"].as_array().expect("services");
    services
        .iter()
        .flat_map(|s| s["backends"].as_array().expect("backends"))
        .all(|b| !b["next_hop"].is_null())
}

/// The rules with a socket of the lab's own in front.
fn write_rules(path: &Path, socket: &Path, rules: &str) {
    let text = format!("[control]\nsocket = \"{}\"\n\n{rules}", socket.display());
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
