//! Whether the rules file has changed, for `run --watch`: looked at twice a second, and taken only when it has stayed the same
//! since the last look, so that a file which is being written is not read by half.
//!
//! Looked at and not notified of: it may be a link that is turned (as Kubernetes does), lie on a network, or not be there for a
//! moment, and one stat(2) costs microseconds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What tells one content from another: device, inode, size, and the time of the last change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// A file that is looked at.
pub(super) struct FileWatch {
    path: PathBuf,
    /// As it was read last.
    taken: Option<Stamp>,
    /// At the last look.
    seen: Option<Stamp>,
    looked_at: Option<Instant>,
}

impl FileWatch {
    /// The file as it is now is the one that was read.
    pub(super) fn new(path: &Path) -> Self {
        let stamp = stamp(path);
        Self { path: path.to_owned(), taken: stamp, seen: stamp, looked_at: None }
    }

    /// Whether it has changed and stays as it is now. A file that is gone has not changed: there is nothing to read.
    pub(super) fn has_settled(&mut self, now: Instant) -> bool {
        if self.looked_at.is_some_and(|at| now.duration_since(at) < LOOK_EVERY) {
            return false;
        }
        self.looked_at = Some(now);
        let stamp = stamp(&self.path);
        let is_still = stamp == self.seen;
        self.seen = stamp;
        if stamp.is_none() || !is_still || stamp == self.taken {
            return false;
        }
        self.taken = stamp;
        true
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_once_when_it_is_written_whole_and_not_while_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(&path);
        let begin = Instant::now();
        let mut looks = (1..).map(|look| begin + look * LOOK_EVERY);
        let mut settled = || watch.has_settled(looks.next().unwrap());
        assert!(!settled());
        fs::write(&path, "half").unwrap();
        assert!(!settled(), "it may still be written");
        fs::write(&path, "a whole").unwrap();
        assert!(!settled(), "it was");
        assert!(settled());
        assert!(!settled(), "once");
        fs::remove_file(&path).unwrap();
        assert!(!settled() && !settled());
        // As editors and Kubernetes do it.
        fs::write(directory.path().join("new"), "a whole").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert!(!settled());
        assert!(settled());
    }
}
