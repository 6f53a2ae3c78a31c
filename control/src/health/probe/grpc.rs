//! The gRPC health checking protocol: `grpc.health.v1.Health/Check` over HTTP/2.
//!
//! Its two messages have one field each, so they are written and read here; what is left of gRPC is a POST with five bytes before
//! the message (grpc/grpc, doc/health-checking.md and doc/PROTOCOL-HTTP2.md).

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, driven};

/// Bytes of an answer; a good one has seven.
const ANSWER_BYTES_MAX: usize = 4_096;

/// Values of `HealthCheckResponse.ServingStatus`.
const SERVING: u8 = 1;
const STATUS_NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks over a fresh connection and judges the answer.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: &str,
    target: SocketAddr,
) -> Result<(), Failure> {
    let request = request(service, target)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(told)?;
    let answer = async { judge(sender.send_request(request).await.map_err(told)?).await };
    driven(answer, connection).await
}

fn request(service: &str, target: SocketAddr) -> Result<Request<Full<Bytes>>, Failure> {
    // Field 1, of a length that fits seven bits: the rules see to that.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service.as_bytes());
    }
    // Not compressed, and so long.
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{target}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("crossdock/", env!("CARGO_PKG_VERSION")))
        .body(Full::from(body))
        .map_err(|error| Failure::OfThisHost(format!("not checked: {error}")))
}

async fn judge(answer: Response<Incoming>) -> Result<(), Failure> {
    if answer.status() != 200 {
        return Err(Failure::backend(format!("HTTP status {} in place of gRPC's", answer.status().as_u16())));
    }
    // An answer that is an error has no body, and its status among the headers.
    grpc_status(answer.headers())?;
    let mut body = answer.into_body();
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(told)?;
        if let Some(trailers) = frame.trailers_ref() {
            grpc_status(trailers)?;
        }
        if let Ok(piece) = frame.into_data() {
            message.extend_from_slice(&piece);
        }
        if message.len() > ANSWER_BYTES_MAX {
            return Err(Failure::backend("an answer longer than gRPC's health protocol knows"));
        }
    }
    match serving_status(&message) {
        Some(SERVING) => Ok(()),
        Some(status) => {
            let name = STATUS_NAMES.get(usize::from(status)).unwrap_or(&"another status");
            Err(Failure::backend(format!("gRPC: {name}, wanted SERVING")))
        }
        None => Err(Failure::backend("no valid answer to gRPC's health protocol")),
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(status) = headers.get("grpc-status").filter(|status| *status != "0") else { return Ok(()) };
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let status = String::from_utf8_lossy(status.as_bytes()).into_owned();
    Err(Failure::backend(format!("gRPC status {status} {}", text("grpc-message")).trim_end()))
}

/// The number in field 1; a message without it has 0 (Protocol Buffers, "Encoding").
fn serving_status(body: &[u8]) -> Option<u8> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f] => Some(*status),
        _ => None,
    }
}

fn told(error: hyper::Error) -> Failure {
    Failure::backend(format!("no valid answer to HTTP/2: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_protocol_buffers_write_them() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0), "0 is not written");
        for broken in
            [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 0xff]]
        {
            assert_eq!(serving_status(broken), None, "{broken:?}");
        }
    }
}
