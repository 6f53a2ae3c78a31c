//! The command line's end.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::problem::Problem;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take: a socket that has no room for another caller, a machine that is far away.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Where a Crossdock is asked.
#[derive(Clone, Debug)]
pub enum Place {
    /// At its socket.
    Socket(PathBuf),
    /// Over TCP, by TLS.
    Remote(Box<RemotePlace>),
}

/// Another machine's Crossdock, and what proves who is who.
#[derive(Clone, Debug)]
pub struct RemotePlace {
    /// `name:port`, or an address and a port.
    authority: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl<P: AsRef<Path>> From<P> for Place {
    fn from(socket: P) -> Self {
        Self::Socket(socket.as_ref().to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.display().fmt(f),
            Self::Remote(remote) => write!(f, "https://{}", remote.authority),
        }
    }
}

impl RemotePlace {
    /// The one at `url` (`https://host:port`), whose certificate `ca` vouches for; the client shows `certificate`, whose private
    /// key is `key`. All are PEM files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(url: &str, ca: &Path, certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let authority = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
        let parsed: Authority =
            authority.parse().with_context(|| format!("{url:?} is no https://HOST:PORT"))?;
        let (Some(port), host) = (parsed.port_u16(), parsed.host()) else {
            bail!("{url:?} has no port: write https://HOST:PORT");
        };
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no host"))?;
        let pem = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem(ca)?) {
            roots.add(root.with_context(|| ca.display().to_string())?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem(certificate)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.with_context(|| certificate.display().to_string())?;
        let private = PrivateKeyDer::from_pem_slice(&pem(key)?).with_context(|| key.display().to_string())?;
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .with_context(|| certificate.display().to_string())?;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { authority, name, tls: Arc::new(tls) })
    }
}

/// Nobody answers.
#[derive(Debug)]
pub struct NobodyThere {
    place: Place,
    reason: std::io::Error,
}

impl fmt::Display for NobodyThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = &self.place;
        match self.reason.kind() {
            _ if matches!(socket, Place::Remote(_)) => {
                write!(
                    f,
                    "{socket}: no Crossdock answers there that takes this certificate, and has one that is believed"
                )
            }
            ErrorKind::PermissionDenied => write!(
                f,
                "{socket}: this user may not talk to Crossdock; be root, or let `[control] group` name a group you are in"
            ),
            _ => write!(f, "{socket}: no Crossdock answers there; is it running, and is this its socket?"),
        }
    }
}

impl std::error::Error for NobodyThere {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// It answers that it will not.
#[derive(Debug)]
pub struct Refused(pub Problem);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { detail, help, .. } = &self.0;
        f.write_str(detail)?;
        help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

impl std::error::Error for Refused {}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// How.
    pub method: Method,
    /// For what, with its query string.
    pub path: String,
    /// What goes along: its media type, then itself.
    pub body: Option<(&'static str, Bytes)>,
    /// Only if this is the revision of the rules in force.
    pub revision: Option<u64>,
}

impl Question {
    /// For this, with nothing going along.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    fn request(self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", "crossdock");
        if let Some(revision) = self.revision {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let body = match self.body {
            Some((media_type, body)) => {
                request = request.header(header::CONTENT_TYPE, media_type);
                body
            }
            None => Bytes::new(),
        };
        request.body(Full::new(body))
    }
}

/// Asks the Crossdock behind `socket` for `path` and returns the body.
///
/// # Errors
/// When nobody answers there, not in time, or not with success.
pub async fn get(place: impl Into<Place>, path: &str) -> anyhow::Result<Bytes> {
    let place = place.into();
    timeout(PATIENCE, ask(place.clone(), Question::new(Method::GET, path)))
        .await
        .with_context(|| format!("{place}: no answer within {PATIENCE:?}"))?
}

/// Asks for something that may take its time, and returns the body.
///
/// # Errors
/// When nobody answers there, or not with success.
pub async fn ask(place: impl Into<Place>, question: Question) -> anyhow::Result<Bytes> {
    Answer::begin(place, question).await?.whole().await
}

/// Either kind of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(place: &Place) -> Result<Box<dyn Stream>, NobodyThere> {
    let connected = timeout(CONNECT_PATIENCE, async {
        Ok(match place {
            Place::Socket(socket) => Box::new(connect_socket(socket).await?) as Box<dyn Stream>,
            Place::Remote(remote) => {
                let RemotePlace { authority, name, tls } = remote.as_ref();
                let stream = TcpStream::connect(authority).await?;
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await?)
            }
        })
    });
    let connected = connected.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    connected.map_err(|reason| NobodyThere { place: place.clone(), reason })
}

/// A socket whose queue is full says so at once, so that is tried again.
async fn connect_socket(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            connected => return connected,
        }
    }
}

/// An answer with success, whose body comes piece by piece. Dropping it ends the connection: the server sees that nobody
/// reads on.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Answer {
    /// Asks, and waits until the answer begins.
    ///
    /// # Errors
    /// [`NobodyThere`], or [`Refused`], or whatever else went wrong on the way.
    pub async fn begin(place: impl Into<Place>, question: Question) -> anyhow::Result<Self> {
        let place = place.into();
        let (mut sender, connection) = http1::handshake(TokioIo::new(connect(&place).await?)).await?;
        let connection = tokio::spawn(connection);
        let path = question.path.clone();
        let response = sender.send_request(question.request()?).await?;
        let status = response.status();
        let answer = Self { body: response.into_body(), connection };
        if status != StatusCode::OK {
            let body = answer.whole().await?;
            match serde_json::from_slice(&body) {
                Ok(problem) => bail!(Refused(problem)),
                Err(_) => bail!("{path}: {status}: {}", String::from_utf8_lossy(&body)),
            }
        }
        Ok(answer)
    }

    /// The next piece of the body; `None` after the last.
    ///
    /// # Errors
    /// When the body ends before its end.
    pub async fn next_piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(piece) = frame.context("the answer ends before its end")?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// All that is left of the body.
    ///
    /// # Errors
    /// When the body ends before its end.
    pub async fn whole(mut self) -> anyhow::Result<Bytes> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next_piece().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
