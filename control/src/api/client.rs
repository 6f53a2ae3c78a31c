//! The command line's end.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::problem::Problem;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a socket may have no room for another caller.
const FULL_PATIENCE: Duration = Duration::from_secs(2);

/// Nobody answers.
#[derive(Debug)]
pub struct NobodyThere {
    socket: PathBuf,
    reason: std::io::Error,
}

impl fmt::Display for NobodyThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match self.reason.kind() {
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
pub async fn get(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    timeout(PATIENCE, ask(socket, Question::new(Method::GET, path)))
        .await
        .with_context(|| format!("{}: no answer within {PATIENCE:?}", socket.display()))?
}

/// Asks for something that may take its time, and returns the body.
///
/// # Errors
/// When nobody answers there, or not with success.
pub async fn ask(socket: &Path, question: Question) -> anyhow::Result<Bytes> {
    Answer::begin(socket, question).await?.whole().await
}

/// A connection. A socket whose queue is full says so at once, so that is tried again.
async fn connect(socket: &Path) -> Result<UnixStream, NobodyThere> {
    let connected = timeout(FULL_PATIENCE, async {
        loop {
            match UnixStream::connect(socket).await {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
                connected => return connected,
            }
        }
    });
    let connected = connected.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    connected.map_err(|reason| NobodyThere { socket: socket.to_owned(), reason })
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
    pub async fn begin(socket: &Path, question: Question) -> anyhow::Result<Self> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(connect(socket).await?)).await?;
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
