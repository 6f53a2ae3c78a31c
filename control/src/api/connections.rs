//! Who is connected: as many as there are seats, each for as long as it asks or is answered.
//!
//! A socket that anybody may hold open must not be one that anybody can block. When all seats are taken, whoever has been
//! silent longest gives his up; nobody who is being answered does. A request's head must come within [`HEAD_PATIENCE`], and
//! an answer that its reader does not take is broken off after [`SILENCE_MAX`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Uid, User};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, interval, sleep, timeout};
use tower::ServiceExt;
use tracing::warn;

use super::problem::Problem;

/// Connections at a time. Whoever needs more than this many of one load balancer at once asks it wrongly.
pub const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the body of a request may take. Meanwhile its connection is as silent as any other.
pub const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a request's body: rules of some thousand services.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a connection lives on which not a byte moves: long enough for somebody who reads a listing page by page.
pub const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How often silence is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait when the system has no descriptor for another connection.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head, and of what is kept of an answer until it is taken.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// One connection's seat.
#[derive(Debug)]
struct Seat {
    origin: Instant,
    /// When a byte last moved, in milliseconds after `origin`.
    moved_at_ms: AtomicU64,
    /// Requests that are being followed.
    requests: AtomicUsize,
    /// Somebody else needs the seat.
    leave: Notify,
}

impl Seat {
    fn touch(&self) {
        self.moved_at_ms.store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Returns when nothing has moved for too long, or when the seat is needed.
    async fn is_lost(&self) {
        let mut look = interval(LOOK_EVERY);
        let mut leave = pin!(self.leave.notified());
        loop {
            tokio::select! {
                () = &mut leave => return,
                _ = look.tick() => {
                    let moved_at = Duration::from_millis(self.moved_at_ms.load(Ordering::Relaxed));
                    if !self.is_busy() && self.origin.elapsed().saturating_sub(moved_at) > SILENCE_MAX {
                        return;
                    }
                }
            }
        }
    }
}

/// A request under way.
struct Busy(Arc<Seat>);

impl Busy {
    fn begin(seat: &Arc<Seat>) -> Self {
        seat.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seat))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All seats.
#[derive(Debug)]
struct Seats {
    origin: Instant,
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    freed: Notify,
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a seat to take, and asks the most silent connection to leave if there is none.
    async fn wait_for_one(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let taken = self.lock();
                if taken.len() < CONNECTIONS_MAX {
                    return;
                }
                let idle = taken.values().filter(|seat| !seat.is_busy());
                if let Some(seat) = idle.min_by_key(|seat| seat.moved_at_ms.load(Ordering::Relaxed)) {
                    seat.leave.notify_one();
                }
            }
            freed.await;
        }
    }

    fn take(self: &Arc<Self>, number: u64) -> Taken {
        let seat = Arc::new(Seat {
            origin: self.origin,
            moved_at_ms: AtomicU64::new(self.origin.elapsed().as_millis() as u64),
            requests: AtomicUsize::new(0),
            leave: Notify::new(),
        });
        self.lock().insert(number, Arc::clone(&seat));
        Taken { seats: Arc::clone(self), number, seat }
    }
}

/// A seat, free again when this is dropped.
struct Taken {
    seats: Arc<Seats>,
    number: u64,
    seat: Arc<Seat>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
        self.seats.freed.notify_one();
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this machine, as the kernel knows him (unix(7), SO_PEERCRED).
    Local {
        /// The user he was when he connected.
        uid: u32,
        /// His process, where it can be seen from here.
        pid: Option<i32>,
    },
    /// Somebody with a certificate.
    Remote(SocketAddr),
}

/// For the list of revisions.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(address) => write!(f, "a certificate, from {address}"),
            Self::Local { uid, pid } => {
                match User::from_uid(Uid::from_raw(*uid)) {
                    Ok(Some(user)) => f.write_str(&user.name)?,
                    _ => write!(f, "user {uid}")?,
                }
                pid.iter().try_for_each(|pid| write!(f, ", process {pid}"))
            }
        }
    }
}

/// Where connections come from.
pub(crate) trait Listener {
    /// One of them.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next one, and who it is if the system knows.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Caller>)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<Caller>)> {
        let (stream, _) = self.accept().await?;
        let caller = stream.peer_cred().ok().map(|peer| Caller::Local { uid: peer.uid(), pid: peer.pid() });
        Ok((stream, caller))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<Caller>)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, None))
    }
}

/// Answers whoever connects, for ever.
pub(crate) async fn serve(listener: impl Listener, router: Router) {
    let seats = Arc::new(Seats { origin: Instant::now(), taken: Mutex::default(), freed: Notify::new() });
    for number in 0.. {
        seats.wait_for_one().await;
        let (stream, caller) = match listener.next().await {
            Ok(next) => next,
            Err(reason) => {
                warn!("the API's socket: {reason}");
                sleep(EXHAUSTION_PAUSE).await;
                continue;
            }
        };
        tokio::spawn(converse(stream, caller, router.clone(), seats.take(number)));
        // A flood of connections must not keep those that are there from being heard.
        yield_now().await;
    }
}

/// One connection, from its first request to its last.
async fn converse<S>(stream: S, caller: Option<Caller>, router: Router, taken: Taken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let seat = Arc::clone(&taken.seat);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (seat, router) = (Arc::clone(&seat), router.clone());
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        async move {
            let (head, body) = request.into_parts();
            // Only who has said all he has to say is being answered: half a body keeps nobody else out.
            let body = match whole(body).await {
                Ok(body) => body,
                Err(problem) => return Ok(problem.into_response()),
            };
            let _busy = Busy::begin(&seat);
            router.oneshot(Request::from_parts(head, Body::from(body))).await
        }
    });
    let io = TokioIo::new(Watched { stream, seat: Arc::clone(&seat) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(BUFFER_BYTES_MAX);
    tokio::select! {
        // Whatever went wrong between him and us, he knows it or is gone.
        _ = builder.serve_connection(io, service) => {}
        () = seat.is_lost() => {}
    }
}

/// The body of a request, unless it is too long or takes too long.
async fn whole(body: Incoming) -> Result<Bytes, Problem> {
    let collected = timeout(BODY_PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let collected = collected.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the body has not come within {BODY_PATIENCE:?}"))
    })?;
    collected.map(Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("the body is longer than {} MiB", BODY_BYTES_MAX >> 20);
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
        }
        Problem::bad_request(error.to_string())
    })
}

/// A stream that notes when bytes move.
struct Watched<S> {
    stream: S,
    seat: Arc<Seat>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.seat.touch();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.seat.touch();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::routing::{get, post};
    use hyper::Method;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::api::client::{self, Question};

    /// A socket behind which `router` answers, in a directory that goes with the test.
    fn serving(router: Router) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        tokio::spawn(serve(UnixListener::bind(&path).unwrap(), router));
        (directory, path)
    }

    async fn connected(path: &Path) -> UnixStream {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => yield_now().await,
                stream => return stream.unwrap(),
            }
        }
    }

    async fn ask(path: &Path) -> String {
        let body = client::ask(path, Question::new(Method::GET, "/")).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn ten_thousand_who_say_nothing_keep_nobody_from_being_answered() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (_directory, path) = serving(Router::new().route("/", get(async || "here")));
        let mut silent = Vec::new();
        for _ in 0..10_000 {
            silent.push(connected(&path).await);
        }
        assert_eq!(ask(&path).await, "here");
        // Of all of them, those who came last still have a seat.
        let mut byte = [0];
        assert_eq!(silent[0].read(&mut byte).await.unwrap(), 0, "the first had to leave");
        let last = silent.last_mut().unwrap();
        last.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
    }

    #[tokio::test]
    async fn who_is_being_answered_keeps_his_seat() {
        let gate = Arc::new(Semaphore::new(0));
        let gate_of_answers = Arc::clone(&gate);
        let wait = async move || {
            gate_of_answers.acquire().await.unwrap().forget();
            "at last"
        };
        let (_directory, path) = serving(Router::new().route("/", get(wait)));
        let answers: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { ask(&path).await })
            })
            .collect();
        let late = tokio::spawn({
            let path = path.clone();
            async move { ask(&path).await }
        });
        gate.add_permits(CONNECTIONS_MAX + 1);
        for answer in answers {
            assert_eq!(answer.await.unwrap(), "at last");
        }
        assert_eq!(late.await.unwrap(), "at last");
    }

    /// The clock stands still but where everybody waits, and then goes to the next that somebody waits for.
    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_waited_for_no_longer_than_it_may_take() {
        let (_directory, path) = serving(Router::new().route("/", get(async || "here")));
        let mut slow = connected(&path).await;
        slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).await.unwrap();
        assert!((HEAD_PATIENCE..SILENCE_MAX).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
    #[tokio::test(start_paused = true)]
    async fn half_a_body_is_waited_for_no_longer_than_it_may_take() {
        let (_directory, path) = serving(Router::new().route("/", post(async || "here")));
        let mut slow = connected(&path).await;
        slow.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        let began = Instant::now();
        let mut answer = [0; 512];
        let len = slow.read(&mut answer).await.unwrap();
        assert!(answer[..len].starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer[..len]));
        assert!((BODY_PATIENCE..SILENCE_MAX).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn half_bodies_keep_nobody_out_and_long_ones_are_refused() {
        let (_directory, path) =
            serving(Router::new().route("/", get(async || "here").post(async || "taken")));
        let mut halves = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 10 {
            let mut half = connected(&path).await;
            half.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
            halves.push(half);
        }
        assert_eq!(ask(&path).await, "here");
        let long = Bytes::from(vec![b'x'; BODY_BYTES_MAX + 1]);
        let question = Question { body: Some(("text/plain", long)), ..Question::new(Method::POST, "/") };
        let refused = client::ask(&path, question).await.unwrap_err();
        let refused: &client::Refused = refused.downcast_ref().expect("a problem");
        assert_eq!(refused.0.status, 413, "{refused}");
    }
}
