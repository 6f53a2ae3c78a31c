//! The XDP program of an `af_xdp` port: another's is left alone, ours goes when nobody else can take it.
//!
//! libxdp, below DPDK's `net_af_xdp`, attaches its redirect program to the interface and detaches it when the port is
//! closed. The attachment belongs to the interface, not to the process: after a SIGKILL it stays. It then
//! passes every packet to the kernel, so nothing breaks, but native XDP on the interface is taken, and a machine
//! should look as it did before. So a child waits on a pipe whose other end is ours; whatever ends us closes it.
//!
//! The child is a shell and `ip`, in a process group of its own, because Ctrl-C is ours to handle. It takes off what has
//! a name that libxdp gives, and only where nothing was there before. A kill of a whole control group takes the child
//! along; the next start then finds the program, says so, uses it and leaves it.
//! Read first: <https://docs.kernel.org/networking/af_xdp.html>; ip-link(8) on `xdp off`.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::KernelError;

/// libxdp's own: the redirect to AF_XDP sockets, and what it puts in front where there is a bpffs, to hold several.
const LIBXDP_PROGRAMS: [&str; 2] = ["xsk_def_prog", "xdp_dispatcher"];

/// Ends when its standard input does, and takes off libxdp's program if it is still there.
const WATCH: &str = r#"read -r _
ip -o link show dev "$1" | grep -qE 'prog/xdp id [0-9]+ name (xsk_def_prog|xdp_dispatcher) ' || exit 0
exec ip link set dev "$1" xdp off"#;

/// How long the guard of a Crossdock that was killed just now may take to take the program off. It needs some 10 ms.
const GUARD_PATIENCE: Duration = Duration::from_secs(1);

/// Detaches the interface's XDP program when it is dropped, or when this process is gone without dropping it.
///
/// Close the port first: a port whose program is taken away receives nothing.
#[derive(Debug)]
pub struct XdpGuard {
    /// None where a program of libxdp's was there before: it is not ours to remove.
    child: Option<Child>,
    found: Option<Program>,
}

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The kernel's number for it.
    pub id: u64,
    /// At most 15 bytes; empty where the kernel or `ip` does not tell.
    pub name: String,
}

impl XdpGuard {
    /// Starts to watch over an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::XdpTaken`] when another program is there, [`KernelError::Io`] when the shell or `ip` cannot be
    /// started or `ip` says nothing that can be read.
    pub fn install(ifname: &str) -> Result<Self, KernelError> {
        let found = programs_once_guards_are_done(ifname)?;
        if let Some(foreign) = found.iter().find(|program| !is_libxdps(program)) {
            return Err(KernelError::XdpTaken { ifname: ifname.into(), program: foreign.clone() });
        }
        if let Some(program) = found.into_iter().next() {
            return Ok(Self { child: None, found: Some(program) });
        }
        let spawned = Command::new("sh")
            .args(["-c", WATCH, "crossdock-xdp-guard", ifname])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => Ok(Self { child: Some(child), found: None }),
            Err(source) => {
                Err(KernelError::Io { what: format!("watch over the XDP program of {ifname}"), source })
            }
        }
    }

    /// libxdp's program that was there before: another program's AF_XDP sockets, or what a killed one left.
    pub fn found(&self) -> Option<&Program> {
        self.found.as_ref()
    }
}

impl Drop for XdpGuard {
    fn drop(&mut self) {
        // wait() closes our end of the pipe first, which is the sign. How the child ends changes nothing any more.
        let _ = self.child.as_mut().map(Child::wait);
    }
}

fn is_libxdps(program: &Program) -> bool {
    LIBXDP_PROGRAMS.contains(&program.name.as_str())
}

/// What is on the interface; libxdp's own gets a little time to go.
fn programs_once_guards_are_done(ifname: &str) -> Result<Vec<Program>, KernelError> {
    let started = Instant::now();
    loop {
        let found = programs(ifname)?;
        if !found.iter().any(is_libxdps) || started.elapsed() > GUARD_PATIENCE {
            return Ok(found);
        }
        sleep(Duration::from_millis(20));
    }
}

fn programs(ifname: &str) -> Result<Vec<Program>, KernelError> {
    let failed = |source| KernelError::Io { what: format!("ask ip for the XDP program of {ifname}"), source };
    let argv = ["-json", "-details", "link", "show", "dev", ifname];
    let output = Command::new("ip").args(argv).stdin(Stdio::null()).output().map_err(failed)?;
    parse(&output.stdout).map_err(|error| failed(error.into()))
}

/// From what `ip -json -details link show dev` prints: `[{"xdp":{"attached":[{"prog":{"id":7,"name":"..."}}]}}]`.
fn parse(json: &[u8]) -> serde_json::Result<Vec<Program>> {
    let links: Value = serde_json::from_slice(json)?;
    let attached = links[0]["xdp"]["attached"].as_array().map(Vec::as_slice).unwrap_or_default();
    let program = |attached: &Value| Program {
        id: attached["prog"]["id"].as_u64().unwrap_or_default(),
        name: attached["prog"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    Ok(attached.iter().map(program).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        // iproute2 6.1 on Linux 6.18, shortened.
        let json = br#"[{"ifindex":2,"ifname":"xb","mtu":1500,"xdp":{"mode":1,
            "prog":{"id":713,"name":"foreign_pass","tag":"614b434cd8324ecc","jited":1},
            "attached":[{"mode":1,"prog":{"id":713,"name":"foreign_pass","tag":"614b434cd8324ecc","jited":1}}]}}]"#;
        let found = parse(json).unwrap();
        assert_eq!(found, [Program { id: 713, name: "foreign_pass".into() }]);
        assert!(!is_libxdps(&found[0]));
        assert!(is_libxdps(&Program { id: 1, name: "xsk_def_prog".into() }));
        assert!(!is_libxdps(&Program { id: 1, name: String::new() }), "an unknown one is another's");
        assert_eq!(parse(br#"[{"ifname":"xb","mtu":1500}]"#).unwrap(), []);
    }
}
