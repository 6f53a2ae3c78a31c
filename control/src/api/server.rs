//! The server's end: the socket, and which path leads where. Only the socket's owner may talk to it (mode 0600), or a group
//! that the rules name too (0660).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::get;
use axum::{Json, Router};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, chown};
use tokio::net::UnixListener;

use super::changes::{self, Changes};
use super::explain::{self, Explainer};
use super::flows;
use super::socket_path::{self, Occupant};
use super::{OPENAPI_PATH, STATUS_PATH, connections, openapi};
use crate::metrics::{METRICS_PATH, Snapshot, metrics};
use crate::report::Report;

/// Whoever can tell how things stand.
pub trait Reporter: Clone + Send + Sync + 'static {
    /// How things stand now.
    fn report(&self) -> Report;

    /// The same, with what only `/metrics` tells.
    fn metrics(&self) -> Snapshot;
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
    /// Takes the path, for its owner and, where one is given, for this group: a name or a number. A socket that a dead process
    /// left is removed; one that answers, and any other file, is not.
    ///
    /// # Errors
    /// When another process listens there, or a file that is no socket is there, or there is no such group, or the file system
    /// refuses.
    pub fn bind(path: &Path, group: Option<&str>) -> anyhow::Result<Self> {
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
        let group = group.map(group_id).transpose()?;
        // From its first moment it is nobody else's; other threads, which would make files meanwhile, there are none yet.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.with_context(what)?;
        if let Some(group) = group {
            chown(path, None, Some(group)).with_context(what)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(what)?;
        }
        let inode = fs::symlink_metadata(path).with_context(what)?.ino();
        Ok(Self { path: path.to_owned(), inode, listener: Some(listener) })
    }

    /// Answers requests until the runtime ends.
    pub fn serve<R: Reporter + Explainer + Changes>(
        &mut self,
        director: R,
    ) -> Option<impl Future<Output = ()> + use<R>> {
        Some(connections::serve(self.listener.take()?, routes(director)))
    }
}

/// Everything there is.
pub(super) fn routes<R: Reporter + Explainer + Changes>(director: R) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status::<R>))
        .route(OPENAPI_PATH, get(openapi::document))
        .route(METRICS_PATH, get(metrics::<R>))
        .merge(flows::routes())
        .merge(explain::routes())
        .merge(changes::routes())
        .fallback(openapi::no_such_path)
        .method_not_allowed_fallback(openapi::no_such_method)
        // `connections` has a bound of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(director)
}

/// The group called so, or with this number.
fn group_id(group: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let what = || format!("[control] group = \"{group}\"");
    let found = Group::from_name(group).with_context(what)?;
    found.map(|group| group.gid).with_context(|| {
        format!("{}: this machine has no such group; `groupadd --system {group}` makes it", what())
    })
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // Gone meanwhile is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What was counted since the start
#[utoipa::path(get, path = STATUS_PATH, responses((status = 200, description = "How things stand now", body = Report)))]
pub(super) async fn status<R: Reporter>(State(reporter): State<R>) -> Json<Report> {
    Json(reporter.report())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::api::flows::{FlowSource, Names};
    use crate::explain::World;
    use crate::flows::walks::Walkers;

    /// Nothing to tell, and no workers.
    #[derive(Clone)]
    struct Nothing;

    impl Reporter for Nothing {
        fn report(&self) -> Report {
            Report::default()
        }

        fn metrics(&self) -> Snapshot {
            Snapshot::default()
        }
    }

    impl FlowSource for Nothing {
        fn walkers(&self) -> Walkers {
            Walkers::new([])
        }

        fn names(&self, before: &Arc<Names>) -> Arc<Names> {
            Arc::clone(before)
        }
    }

    impl Changes for Nothing {
        fn changer(&self) -> crate::changes::Changer {
            crate::changes::queue::queue().0
        }

        fn document(&self, _revision: Option<u64>) -> Option<(u64, crate::rules::Document)> {
            None
        }

        fn revisions(&self) -> Vec<crate::changes::Revision> {
            Vec::new()
        }
    }

    impl Explainer for Nothing {
        fn world(&self) -> World {
            unreachable!("nobody asks")
        }
    }

    async fn answer(method: &str, path: &str) -> (StatusCode, serde_json::Value) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = routes(Nothing).oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn whatever_is_asked_wrongly_is_answered_with_what_to_do() {
        for (method, path, status, told) in [
            ("GET", "/v1/staus", 404, "is /v1/status meant?"),
            ("GET", "/favicon.ico", 404, "/v1/openapi.json lists all there is"),
            ("POST", "/v1/status", 405, "the header `allow` tells"),
            ("GET", "/v1/flows?colour=red", 400, "unknown field `colour`"),
            ("DELETE", "/v1/flows", 400, "say which connections to delete"),
        ] {
            let (found, problem) = answer(method, path).await;
            assert_eq!(found.as_u16(), status, "{method} {path}: {problem}");
            assert_eq!(problem["status"], status);
            let said = format!("{} {}", problem["detail"], problem["help"]);
            assert!(said.contains(told), "{method} {path}: {said}");
        }
    }

    #[tokio::test]
    async fn the_api_describes_itself() {
        let (status, document) = answer("GET", "/v1/openapi.json").await;
        assert_eq!(status, StatusCode::OK);
        for path in ["/v1/status", "/v1/flows", "/v1/flows/count"] {
            assert!(document["paths"][path].is_object(), "{path}: {document}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_and_a_groups_where_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (own, shared) = (directory.path().join("own"), directory.path().join("shared"));
        let _own = Socket::bind(&own, None).unwrap();
        assert_eq!(mode(&own), 0o600);
        // Its own group, which anybody may give a file to.
        let group = fs::metadata(&own).unwrap().gid();
        let _shared = Socket::bind(&shared, Some(&group.to_string())).unwrap();
        assert_eq!((mode(&shared), fs::metadata(&shared).unwrap().gid()), (0o660, group));
        let error =
            format!("{:#}", Socket::bind(&directory.path().join("no"), Some("no-such-group")).unwrap_err());
        assert!(error.contains("this machine has no such group"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.toml");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path, None).unwrap_err().to_string();
        assert!(error.contains("a file that is no socket is there; remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_refused_and_a_dead_one_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let first = Socket::bind(&path, None).unwrap();
        let error = Socket::bind(&path, None).unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let second = Socket::bind(&path, None).unwrap();
        // Somebody else's by now.
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(second);
        assert!(path.exists());
    }
}
