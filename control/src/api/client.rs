//! The command line's end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the Crossdock behind `socket` for `path` and returns the body.
///
/// # Errors
/// When nobody answers there, not in time, or not with success.
pub async fn get(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    timeout(PATIENCE, ask(socket, path))
        .await
        .with_context(|| format!("{}: no answer within {PATIENCE:?}", socket.display()))?
}

async fn ask(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("{}: no Crossdock answers there; is it running, and is this its socket?", socket.display())
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "crossdock").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if status != StatusCode::OK {
        bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}
