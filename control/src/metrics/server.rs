//! `/metrics` on the API's socket, and on a TCP address where the rules name one. There is nothing else on that address.

use std::net::{SocketAddr, TcpListener as StdTcpListener};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use super::{OPENMETRICS, TEXT, openmetrics, text};
use crate::api::connections;
use crate::api::server::Reporter;

/// Where they are, as everywhere.
pub const METRICS_PATH: &str = "/metrics";

/// A TCP address that scrapers ask.
#[derive(Debug)]
pub struct Endpoint(TcpListener);

impl Endpoint {
    /// Listens there.
    ///
    /// # Errors
    /// When the address is in use, or not of this machine.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let what = || {
            format!(
                "[control] metrics = \"{address}\": see who listens there (ss -tlnp), or name another address"
            )
        };
        let listener = StdTcpListener::bind(address).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        Ok(Self(TcpListener::from_std(listener).with_context(what)?))
    }

    /// Where it listens: with port 0 in the rules, at one that was free.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers scrapers until the runtime ends.
    pub fn serve<R: Reporter>(self, director: R) -> impl Future<Output = ()> + use<R> {
        let router = Router::new().route(METRICS_PATH, get(metrics::<R>)).with_state(director);
        connections::serve(self.0, router)
    }
}

/// The metrics, in the format that is asked for.
pub async fn metrics<R: Reporter>(State(reporter): State<R>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_openmetrics = accepted.contains("application/openmetrics-text");
    let snapshot = reporter.metrics();
    // Some megabytes where there are thousands of backends: not on control's own thread.
    let written = spawn_blocking(move || {
        let whole = openmetrics(snapshot);
        if wants_openmetrics { whole } else { text(&whole) }
    });
    let body = written.await.unwrap_or_default();
    ([(CONTENT_TYPE, if wants_openmetrics { OPENMETRICS } else { TEXT })], body).into_response()
}
