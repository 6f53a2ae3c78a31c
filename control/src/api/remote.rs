//! The API on TCP: by TLS alone, and only for whoever shows a certificate that the rules' `client_ca` vouches for.
//!
//! Certificates are read with the rules, so that a reload brings new ones; connections that are open keep those they began with.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use anyhow::Context;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::changes::Changes;
use super::connections::{self, Caller, Listener};
use super::explain::Explainer;
use super::server::{Reporter, routes};

/// Where it is asked, and by which certificates.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
}

impl Remote {
    /// Listens there. What comes by `tls` is for connections from then on.
    ///
    /// # Errors
    /// When the address is in use, or not of this machine.
    pub fn bind(address: SocketAddr, tls: watch::Receiver<Arc<ServerConfig>>) -> anyhow::Result<Self> {
        let what = || {
            format!(
                "[control] listen = \"{address}\": see who listens there (ss -tlnp), or name another address"
            )
        };
        let listener = StdTcpListener::bind(address).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        Ok(Self { listener: TcpListener::from_std(listener).with_context(what)?, tls })
    }

    /// Where it listens: with port 0 in the rules, at one that was free.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the runtime ends.
    pub fn serve<R: Reporter + Explainer + Changes>(self, director: R) -> impl Future<Output = ()> + use<R> {
        connections::serve(self, routes(director))
    }
}

impl Listener for Remote {
    type Stream = Stream;

    async fn next(&self) -> io::Result<(Stream, Option<Caller>)> {
        let (stream, peer) = self.listener.accept().await?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls.borrow()));
        Ok((Stream::Greeting(Box::new(acceptor.accept(stream))), Some(Caller::Remote(peer))))
    }
}

/// A connection, whose handshake is made by whoever first reads from it: who is slow at it keeps nobody waiting.
pub enum Stream {
    /// The handshake is not complete.
    Greeting(Box<Accept<TcpStream>>),
    /// It is.
    Open(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn poll_open(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<Pin<&mut TlsStream<TcpStream>>>> {
        if let Self::Greeting(accept) = self {
            *self = Self::Open(Box::new(ready!(Pin::new(accept.as_mut()).poll(cx))?));
        }
        Poll::Ready(match self {
            Self::Open(stream) => Ok(Pin::new(stream.as_mut())),
            Self::Greeting(_) => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_shutdown(cx)
    }
}
