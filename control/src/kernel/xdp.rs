//! Takes the XDP program of an `af_xdp` port off its interface when nobody else can.
//!
//! libxdp, below DPDK's `net_af_xdp`, attaches its redirect program (`xsk_def_prog`) to the interface and detaches it when
//! the port is closed. The attachment belongs to the interface, not to the process: after a SIGKILL it stays. It then
//! passes every packet to the kernel, so nothing breaks, but native XDP on the interface is taken, and a machine
//! should look as it did before. So a child waits on a pipe whose other end is ours; whatever ends us closes it.
//!
//! The child is a shell and `ip`, in a process group of its own, because Ctrl-C is ours to handle. A kill of a whole control group
//! takes it along; the next start of an `af_xdp` port then finds the program, uses it, and removes it at its end.
//! Read first: <https://docs.kernel.org/networking/af_xdp.html>; ip-link(8) on `xdp off`.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::error::KernelError;

/// Ends when its standard input does, and takes off what is still there; what is not there is no error.
const WATCH: &str = r#"read -r _; exec ip link set dev "$1" xdp off 2>/dev/null"#;

/// Detaches the interface's XDP program when it is dropped, or when this process is gone without dropping it.
///
/// Close the port first: a port whose program is taken away receives nothing.
#[derive(Debug)]
pub struct XdpGuard {
    child: Child,
}

impl XdpGuard {
    /// Starts to watch over an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Io`] when the shell cannot be started.
    pub fn install(ifname: &str) -> Result<Self, KernelError> {
        let spawned = Command::new("sh")
            .args(["-c", WATCH, "crossdock-xdp-guard", ifname])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => Ok(Self { child }),
            Err(source) => {
                Err(KernelError::Io { what: format!("watch over the XDP program of {ifname}"), source })
            }
        }
    }
}

impl Drop for XdpGuard {
    fn drop(&mut self) {
        // wait() closes our end of the pipe first, which is the sign. How the child ends changes nothing any more.
        let _ = self.child.wait();
    }
}
