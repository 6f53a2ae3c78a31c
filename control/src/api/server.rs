//! The server's end. Only its owner may talk to it: the socket's mode is 0600.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::STATUS_PATH;
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
    listener: Option<UnixListener>,
}

impl Socket {
    /// Takes the path. A socket that a dead process left is removed; one that answers is not.
    ///
    /// # Errors
    /// When another process listens there, or the file system refuses.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("[control] socket = \"{}\"", path.display());
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(what)?;
        }
        if path.exists() {
            if UnixStream::connect(path).is_ok() {
                bail!("{}: another process answers there; give this one a socket of its own", what());
            }
            fs::remove_file(path).with_context(what)?;
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
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
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

async fn status<R: Reporter>(State(reporter): State<R>) -> Json<Report> {
    Json(reporter.report())
}
