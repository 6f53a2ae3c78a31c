//! Whether a program of the operator's ends with exit code 0.

use std::os::unix::process::ExitStatusExt;

use tokio::sync::Semaphore;

use super::{Failure, Job};
use crate::health::program::{self, End};
use crate::rules::Argv;

/// Programs under way at once: a process costs what a thousand sockets do.
static PLACES: Semaphore = Semaphore::const_new(64);

pub(super) async fn check(job: &Job, argv: &Argv) -> Result<(), Failure> {
    // Never closed. Waiting for a place is not the program's time.
    let _place = PLACES.acquire().await;
    let environment = [
        ("CROSSDOCK_SERVICE", job.service.clone()),
        ("CROSSDOCK_BACKEND", job.backend.clone()),
        ("CROSSDOCK_ADDRESS", job.target.ip().to_string()),
        ("CROSSDOCK_PORT", job.target.port().to_string()),
    ];
    let limit = job.health.timeout;
    let (status, told) = match program::run(argv, &environment, limit).await? {
        End::Exit(status, told) => (status, told),
        End::TimedOut => return Err(Failure::backend(format!("the script did not end within {limit:?}"))),
    };
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
    };
    Err(Failure::backend(if told.is_empty() { how } else { format!("{how}: {told}") }))
}
