//! Network namespaces that no failure can leave behind: they have no name, only a file handle of this
//! process.

use std::{
    fs::File,
    future::Future,
    io::{BufRead, BufReader},
    os::fd::AsRawFd,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

/// A wait that ends a test which would hang; no test measures time with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace with `lo` up. The kernel removes it, its veth pairs included, when this is dropped and
/// the last process in it has ended; killing the test does that too.
pub(crate) struct NetNs {
    file: File,
}

impl NetNs {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let namespace = Self { file: made.join().expect("the thread that makes a namespace") };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            work()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a future on a current-thread runtime, as control does, inside the namespace.
    pub(crate) fn block_on<F: Future<Output = ()>>(&self, future: impl FnOnce() -> F + Send) {
        self.inside(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime
                .block_on(async { tokio::time::timeout(PATIENCE, future()).await.expect("the test hangs") });
        });
    }

    /// Starts a shell command inside, its output piped.
    pub(crate) fn spawn(&self, script: &str) -> Child {
        self.inside(|| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            shell.spawn().expect("sh")
        })
    }

    /// Runs a shell command inside and returns how it ended.
    pub(crate) fn attempt(&self, script: &str) -> Output {
        self.spawn(script).wait_with_output().expect("sh")
    }

    /// Runs a shell command inside that has to succeed; returns what it printed.
    pub(crate) fn run(&self, script: &str) -> String {
        let output = self.attempt(script);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}\n{stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    }

    /// Lays a veth pair from `here` in this namespace to `there` in `peer`, both up, checksums computed.
    pub(crate) fn cable(&self, here: &str, peer: &NetNs, there: &str) {
        let handle = format!("/proc/{}/fd/{}", std::process::id(), peer.file.as_raw_fd());
        self.run(&format!(
            "ip link add {here} type veth peer name {there} && ip link set {there} netns {handle}"
        ));
        for (namespace, ifname) in [(self, here), (peer, there)] {
            namespace.run(&format!("ethtool -K {ifname} tx off && ip link set {ifname} up"));
        }
    }

    /// tcpdump on an interface, already listening; it ends with its first packet. See [`captured`].
    pub(crate) fn capture(&self, ifname: &str, filter: &str) -> Child {
        let script = format!("exec timeout 30 tcpdump -nn -l --immediate-mode -c 1 -i {ifname} '{filter}'");
        let mut child = self.spawn(&script);
        let said = BufReader::new(child.stderr.as_mut().expect("a pipe")).lines().map_while(Result::ok);
        assert!(said.take(5).any(|line| line.contains("listening on")), "tcpdump did not start");
        child
    }

    /// The kernel's number for an interface.
    pub(crate) fn ifindex(&self, ifname: &str) -> u32 {
        let shown = self.run(&format!("ip -o link show dev {ifname}"));
        shown.split(':').next().and_then(|number| number.parse().ok()).expect("an interface number")
    }

    /// The MAC of an interface.
    pub(crate) fn mac(&self, ifname: &str) -> [u8; 6] {
        let shown = self.run(&format!("ip -o link show dev {ifname}"));
        let text = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC");
        let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
        bytes.try_into().expect("six bytes")
    }

    /// Whether anybody on `ifname` answers ARP for `address`.
    pub(crate) fn arp_answered(&self, ifname: &str, address: &str) -> bool {
        let output = self.attempt(&format!("arping -f -c 3 -w 2 -I {ifname} {address}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("Sent"),
            "arping did not run: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.status.success()
    }
}

/// The packet that a [`NetNs::capture`] ended with, or nothing after thirty seconds without one.
pub(crate) fn captured(child: Child) -> String {
    String::from_utf8_lossy(&child.wait_with_output().expect("tcpdump").stdout).into_owned()
}
