//! Whether a TLS handshake is completed (RFC 8446 section 2), with a certificate that the rules trust.

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Failure, Job, Limit};
use crate::rules::Tls;

/// Completes the handshake and hangs up.
pub(super) async fn check(job: &Job, tls: &Tls, limit: Limit) -> Result<(), Failure> {
    let stream = super::connect(job, limit).await?;
    secured(job, stream, tls, limit).await.map(drop)
}

/// The same stream with TLS.
pub(super) async fn secured(
    job: &Job,
    stream: TcpStream,
    tls: &Tls,
    limit: Limit,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = tls.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(job.asked_for.ip().into()));
    let handshake = async {
        tls.connector().connect(name, stream).await.map_err(|error| match error.raw_os_error() {
            Some(_) => Failure::of_io(&error),
            None => Failure::backend(format!("TLS: {error}")),
        })
    };
    limit.wait("TLS handshake", handshake).await
}
