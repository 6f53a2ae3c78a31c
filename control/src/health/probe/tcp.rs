//! Whether a TCP connection is accepted (RFC 9293 section 3.5).

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Failure, Limit};

/// Connects, and resets the connection: so neither end remembers it (TIME-WAIT), which at thousands of checks a second would
/// use up the ports of this host.
pub(super) async fn check(target: SocketAddr, limit: Limit) -> Result<(), Failure> {
    let connect = async { TcpStream::connect(target).await.map_err(|error| Failure::of_io(&error)) };
    let stream = limit.wait("connection", connect).await?;
    // It is closed in any case.
    let _ = stream.set_zero_linger();
    Ok(())
}
