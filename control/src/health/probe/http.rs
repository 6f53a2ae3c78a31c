//! Whether an HTTP/1.1 request gets the right answer (RFC 9112).

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, driven};
use crate::rules::HttpCheck;

/// Bytes of an answer's head; hyper's least is 8,192.
const HEAD_BYTES_MAX: usize = 16_384;
/// Bytes of a body in which a text is looked for.
const BODY_BYTES_MAX: usize = 65_536;

/// Sends the request over a fresh connection and judges the answer.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    check: &HttpCheck,
    target: SocketAddr,
) -> Result<(), Failure> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let request = request(check, target)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        let status = answer.status().as_u16();
        if !check.status.contains(status) {
            return Err(Failure::backend(format!("status {status}, wanted {}", check.status)));
        }
        match &check.body {
            Some(text) => contains(answer.into_body(), text).await,
            None => Ok(()),
        }
    };
    driven(answer, connection).await
}

fn request(check: &HttpCheck, target: SocketAddr) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    let builder = Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header("host", host)
        .header("user-agent", concat!("crossdock/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close");
    // The rules were checked; what hyper does not take all the same is not the backend's fault.
    builder.body(Empty::new()).map_err(|error| Failure::OfThisHost(format!("not checked: {error}")))
}

async fn contains(mut body: Incoming, text: &str) -> Result<(), Failure> {
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| told(&error))?.into_data() else { continue };
        seen.extend_from_slice(&piece);
        if seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(());
        }
        if seen.len() > BODY_BYTES_MAX {
            return Err(Failure::backend(format!(
                "no {text:?} in the first {BODY_BYTES_MAX} bytes of the body"
            )));
        }
    }
    Err(Failure::backend(format!("no {text:?} in the body")))
}

/// What hyper says, with its cause: "invalid HTTP version parsed".
fn told(error: &hyper::Error) -> Failure {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(error) => Failure::of_io(error),
        None => Failure::backend(format!("no valid answer to HTTP: {error}")),
    }
}
