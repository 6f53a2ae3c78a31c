//! What the kernel lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Raises the number of files that may be open to what the administrator allows: each check under way has a socket, each idle
/// client of the API another. The lower limit that a shell gives (1,024) is for programs that use `select`.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(reason) = raised {
        warn!("the limit of open files stays as it is: {reason}");
    }
}
