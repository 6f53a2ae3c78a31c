//! The server's end. Only its owner may talk to it: the socket's mode is 0600.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::STATUS_PATH;
use super::socket_path::{self, Occupant};
use crate::report::Report;

/// Whoever can tell how things stand.
pub trait Reporter: Clone + Send + Sync + 'static {
    /// How things stand now.
    fn report(&self) -> Report;
}

/// The socket, removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// What tells our socket from one that somebody else has put there since.
    inode: u64,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Takes the path. A socket that a dead process left is removed; one that answers, and any other file, is not.
    ///
    /// # Errors
    /// When another process listens there, or a file that is no socket is there, or the file system refuses.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("[control] socket = \"{}\"", path.display());
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(what)?;
        }
        match socket_path::remove_dead(path).with_context(what)? {
            Occupant::Nobody => {}
            Occupant::Listener => {
                bail!("{}: another process listens there; give this one a socket of its own", what())
            }
            Occupant::NoSocket(_) => {
                bail!("{}: a file that is no socket is there; remove it, or name another path", what())
            }
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
        let inode = fs::symlink_metadata(path).with_context(what)?.ino();
        Ok(Self { path: path.to_owned(), inode, listener: Some(listener) })
    }

    /// Answers requests until the runtime ends.
    pub fn serve<R: Reporter>(
        &mut self,
        reporter: R,
    ) -> Option<impl Future<Output = io::Result<()>> + use<R>> {
        let router = Router::new().route(STATUS_PATH, get(status::<R>)).with_state(reporter);
        let listener = self.listener.take()?;
        Some(async move { axum::serve(listener, router).await })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // Gone meanwhile is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn status<R: Reporter>(State(reporter): State<R>) -> Json<Report> {
    Json(reporter.report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.toml");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("a file that is no socket is there; remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_refused_and_a_dead_one_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let second = Socket::bind(&path).unwrap();
        // Somebody else's by now.
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(second);
        assert!(path.exists());
    }
}
