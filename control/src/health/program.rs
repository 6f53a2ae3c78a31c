//! Programs of the operator's: checks and hooks. No shell, no standard input, an environment that does not depend on how Crossdock was
//! started, and an end at their timeout, for them and for what they started.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::Failure;
use crate::rules::Argv;

/// What is kept of what a program writes to its standard error; the rest is read and forgotten.
const TOLD_BYTES_MAX: usize = 200;
/// For what is still in the pipe of a program that has ended.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// How a program ended.
#[derive(Debug)]
pub(super) enum End {
    /// With an exit code, or by a signal; and the first line it wrote to standard error.
    Exit(ExitStatus, String),
    /// It was killed when its time was up.
    TimedOut,
}

/// Its process group ends with this.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(pid) = self.0.id() else { return };
        // Not yet waited for, so the group is still this one's.
        let _ = killpg(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
}

/// Runs a program to its end, or its timeout.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn run(
    argv: &Argv,
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<End, Failure> {
    let [program, arguments @ ..] = argv.0.as_slice() else {
        return Err(Failure::OfThisHost("not checked: no program is named".to_owned()));
    };
    let deadline = Instant::now() + limit;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let cannot = |error| Failure::OfThisHost(format!("not checked: {program} cannot be started: {error}"));
    let mut group = Group(command.spawn().map_err(cannot)?);
    let mut stderr = group.0.stderr.take();
    let mut told = Vec::new();
    let ended = timeout_at(deadline, async {
        loop {
            tokio::select! {
                status = group.0.wait() => return status,
                is_open = hear(&mut stderr, &mut told) => if !is_open { stderr = None },
            }
        }
    });
    let Ok(status) = ended.await else { return Ok(End::TimedOut) };
    let status = status.map_err(cannot)?;
    let _ = timeout(LAST_WORDS, async { while hear(&mut stderr, &mut told).await {} }).await;
    let told = String::from_utf8_lossy(&told).lines().next().unwrap_or_default().trim().to_owned();
    Ok(End::Exit(status, told))
}

/// Reads a piece; false when there is no more. For ever where nothing is left to be read from.
async fn hear(stderr: &mut Option<ChildStderr>, told: &mut Vec<u8>) -> bool {
    let Some(stderr) = stderr else { return std::future::pending().await };
    let mut piece = [0; 1_024];
    let len = stderr.read(&mut piece).await.unwrap_or(0);
    let room = TOLD_BYTES_MAX.saturating_sub(told.len());
    told.extend(piece.iter().take(len.min(room)));
    len > 0
}
