//! Whom a command asks: shared by all commands that talk to a running Crossdock.

use std::path::PathBuf;

use clap::Args;
use control::api::SOCKET_DEFAULT;
use control::api::client::{self, Place, Question, RemotePlace};
use hyper::body::Bytes;

/// Whom to ask
#[derive(Args, Clone, Debug)]
pub(super) struct Where {
    /// The socket of the Crossdock to ask
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub(super) socket: PathBuf,
    /// Another machine's Crossdock, by its `[control] listen`: https://HOST:PORT
    #[arg(long, value_name = "URL", requires_all = ["ca", "cert", "key"], conflicts_with = "socket")]
    url: Option<String>,
    /// With --url: the certificates that vouch for it (PEM)
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// With --url: the certificate to show (PEM)
    #[arg(long, value_name = "FILE", requires = "url")]
    cert: Option<PathBuf>,
    /// With --url: its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "url")]
    key: Option<PathBuf>,
}

impl Where {
    /// As the client knows it.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let Self { socket, url, ca, cert, key } = self;
        Ok(match (url, ca, cert, key) {
            (Some(url), Some(ca), Some(cert), Some(key)) => {
                Place::Remote(Box::new(RemotePlace::new(url, ca, cert, key)?))
            }
            _ => Place::Socket(socket.clone()),
        })
    }

    /// Asks, and returns the body.
    ///
    /// # Errors
    /// When nobody answers there, or not with success.
    pub(super) fn ask(&self, question: Question) -> anyhow::Result<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(client::ask(self.place()?, question))
    }
}

/// Whom to ask, and how the answer is printed
#[derive(Args, Clone, Debug)]
pub(super) struct Target {
    #[command(flatten)]
    at: Where,
    /// Print the API's JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Target {
    /// Asks, and returns the body.
    ///
    /// # Errors
    /// When nobody answers there, or not with success.
    pub(super) fn ask(&self, question: Question) -> anyhow::Result<Bytes> {
        self.at.ask(question)
    }
}
