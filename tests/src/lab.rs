//! A network of namespaces: a client, a director, three backends, a switch, in one shape a router. Drawn in `scripts/lib/lab.sh`,
//! which also makes it.
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
/// The IPv6 VIP of the routed lab.
pub const VIP6: &str = "2001:db8:1::100";
/// How many backends a lab has; their roles are `backend1` and so on.
pub const BACKENDS: usize = 3;

/// Where the sources are, and with them `scripts/` and `configs/`.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// IPv4 or IPv6, for what is tested the same way in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Each of them.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The VIP.
    #[must_use]
    pub fn vip(self) -> &'static str {
        match self {
            Self::Ipv4 => VIP,
            Self::Ipv6 => VIP6,
        }
    }

    /// The client's address in the routed lab.
    #[must_use]
    pub fn client(self) -> &'static str {
        match self {
            Self::Ipv4 => "198.51.100.10",
            Self::Ipv6 => "2001:db8:c::10",
        }
    }

    /// Where the VIP serves `path`, which begins with a slash.
    #[must_use]
    pub fn url(self, path: &str) -> String {
        match self {
            Self::Ipv4 => format!("http://{VIP}{path}"),
            Self::Ipv6 => format!("http://[{VIP6}]{path}"),
        }
    }
}

/// A lab; dropping it removes everything it made.
#[derive(Debug)]
pub struct Lab {
    name: String,
    ipv6: bool,
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
        Self::make("lab_two_arms", false)
    }

    /// Everybody on one network, the VIP on every backend's loopback. The director's interface is `front`. For DR.
    #[must_use]
    pub fn one_arm() -> Self {
        Self::make(&format!("lab_one_arm {VIP}"), false)
    }

    /// Both families; the client behind a router, the director between two networks (`front`, `back`), and a way from the
    /// backends to the client that does not pass the director. For every mode.
    #[must_use]
    pub fn routed() -> Self {
        Self::make("lab_routed", true)
    }

    /// Every backend owns the VIPs, and tells nobody: for direct return and tunnels. Of the routed lab, as are the next four.
    pub fn own_vips(&self) {
        self.shell(&format!("lab_own_vip {VIP} {VIP6}"));
    }

    /// The backends' gateway is the director, as for masquerading.
    pub fn answer_through_director(&self) {
        for number in 1..=BACKENDS {
            self.shell(&format!("lab_gateway backend{number} 10.0.0.5 2001:db8:2::5"));
        }
    }

    /// The director's kernel reaches the client through the router. When the director runs: the route is its twin's.
    pub fn route_director(&self) {
        let front = "xd-front";
        self.succeed("director", &["ip", "route", "add", "default", "via", "192.0.2.1", "dev", front]);
        // Without IPv6 addresses in the rules the twin has no IPv6 route, and needs none.
        let _ = self
            .run("director", &["ip", "-6", "route", "add", "default", "via", "2001:db8:1::1", "dev", front]);
    }

    /// Client and director reach each other over a link of `mtu` bytes that neither knows of.
    pub fn narrow(&self, mtu: u16) {
        self.shell(&format!("lab_narrow {mtu}"));
    }

    /// The router loses one packet in `one_in`, either way.
    pub fn lossy(&self, one_in: u32) {
        self.shell(&format!("lab_lossy {one_in}"));
    }

    /// The director's kernel gets nothing that arrives on these interfaces; packet sockets still do. Crossdock does this itself
    /// for `af_packet:`, and cannot know that it should where a device is named in DPDK's words.
    pub fn hide_from_kernel(&self, interfaces: &[&str]) {
        for interface in interfaces {
            let chain = format!(
                "add table netdev {interface}\n\
                 add chain netdev {interface} in {{ type filter hook ingress device {interface} priority 0; policy drop; }}"
            );
            self.succeed("director", &["nft", &chain]);
        }
    }

    fn make(shape: &str, ipv6: bool) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root: run scripts/test");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("xd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let turn = take_turn();
        let directory =
            tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in("/tmp").expect("a directory");
        // From here on Drop cleans up, also when the shell fails halfway.
        let lab = Self { name, ipv6, directory, _turn: turn };
        lab.shell(&format!("lab_sweep; {shape}"));
        lab
    }

    /// Lets the kernel tag what leaves an interface and untag what comes in: VLAN `inner`, within VLAN `outer` unless that is
    /// 0. What comes with other tags does not pass.
    pub fn put_in_vlan(&self, role: &str, interface: &str, outer: u16, inner: u16) {
        self.shell(&format!("lab_vlan {role} {interface} {outer} {inner}"));
    }

    /// Undoes [`Lab::put_in_vlan`].
    pub fn put_in_no_vlan(&self, role: &str, interface: &str) {
        self.shell(&format!("lab_no_vlan {role} {interface}"));
    }

    /// Runs functions of `scripts/lib/lab.sh`.
    fn shell(&self, script: &str) {
        let library = top().join("scripts/lib/lab.sh");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(format!(
                "source {}; LAB_NAME={}; LAB_DIRECTORY={}; LAB_IPV6={}; {script}",
                library.display(),
                self.name,
                self.directory().display(),
                if self.ipv6 { "yes" } else { "no" },
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

    /// The namespace of `client`, `router`, `director`, `switch` or `backend1` to `backend3`.
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

/// Starts nginx on a backend that has its files, and waits until it answers.
fn start_nginx(lab: &Lab, number: usize) -> Process {
    let role = format!("backend{number}");
    let directory = lab.directory().join(&role);
    let [conf, log] = ["nginx.conf", "error.log"].map(|file| directory.join(file).display().to_string());
    let process = lab.start(&role, &format!("nginx{number}"), &["nginx", "-c", &conf, "-e", &log]);
    let answers = || lab.run(&role, &["curl", "-sf", "http://127.0.0.1:8000/"]).status.success();
    assert!(until(Duration::from_secs(30), answers), "nginx of {role}: {}", process.stderr());
    process
}

/// nginx on every backend, the VIP's l4_port being `l4_port` there.
#[derive(Debug)]
pub struct WebServers {
    directories: Vec<PathBuf>,
    namespaces: Vec<String>,
    processes: Vec<Process>,
}

impl WebServers {
    /// Starts them and waits until each answers itself.
    #[must_use]
    pub fn start(lab: &Lab, l4_port: u16) -> Self {
        Self::start_with(lab, l4_port, "")
    }

    /// The same with more words for nginx's `listen`, such as `proxy_protocol`.
    #[must_use]
    pub fn start_with(lab: &Lab, l4_port: u16, words: &str) -> Self {
        let mut directories = Vec::new();
        let mut namespaces = Vec::new();
        let mut processes = Vec::new();
        for number in 1..=BACKENDS {
            let role = format!("backend{number}");
            lab.shell(&format!("lab_nginx_files {number} {l4_port} '{words}'"));
            directories.push(lab.directory().join(&role));
            processes.push(start_nginx(lab, number));
            namespaces.push(lab.namespace(&role));
        }
        Self { directories, namespaces, processes }
    }

    /// Ends the server of backend `number`, from 1: its connections are closed, new ones refused.
    pub fn stop(&mut self, number: usize) {
        self.processes[number - 1].stop();
    }

    /// Starts it again, and waits until it answers.
    pub fn start_again(&mut self, lab: &Lab, number: usize) {
        self.processes[number - 1] = start_nginx(lab, number);
    }

    /// Replaces what every backend serves as `/big`.
    pub fn serve_big(&self, content: &[u8]) {
        for directory in &self.directories {
            fs::write(directory.join("big"), content).expect("the file to serve");
        }
    }

    /// What a client has PUT to `/up/NAME`, from the backend that got it; it is gone there then.
    ///
    /// # Panics
    ///
    /// When none has it.
    #[must_use]
    pub fn take_upload(&self, name: &str) -> Vec<u8> {
        let mut files = self.directories.iter().map(|directory| directory.join("up").join(name));
        let file = files.find(|file| file.exists()).expect("a backend that has the upload");
        let content = fs::read(&file).expect("the upload");
        fs::remove_file(&file).expect("the upload is ours");
        content
    }

    /// The access log of each backend: a line a request, which begins `CONNECTION CLIENT:L4_PORT`.
    ///
    /// nginx answers first and writes the line afterwards, in one turn of its only process. So each is asked for something
    /// else before its log is read: by that answer it has written the lines of all answers before. One that has ended
    /// writes no more.
    #[must_use]
    pub fn logs(&self) -> Vec<Vec<String>> {
        for namespace in &self.namespaces {
            let curl = ["netns", "exec", namespace, "curl", "-s", "-m", "10", "http://127.0.0.1:8000/"];
            let _answer = Command::new("ip").args(curl).output();
        }
        let log = |d: &PathBuf| fs::read_to_string(d.join("access.log")).unwrap_or_default();
        self.directories.iter().map(|d| log(d).lines().map(str::to_owned).collect()).collect()
    }

    /// Requests per backend.
    #[must_use]
    pub fn requests(&self) -> Vec<usize> {
        self.logs().iter().map(Vec::len).collect()
    }
}
