//! `/v1/flows`: the connections themselves. GET lists them, a line of JSON each, as the workers come upon them; DELETE
//! forgets them. The query string is a [`Query`].
//!
//! A listing is made as fast as its reader takes it, and no faster: what it has not taken stays in the workers' tables. So
//! neither the reader's pace nor the number of connections costs memory, or stops anything.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use dataplane::flow::filter::Filter;
use dataplane::index::ServiceIndex;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::flows::walks::{Batch, TooManyWalks, Walk, Walkers};
use crate::flows::{Connection, Query};

/// Bytes of a line, about.
const LINE_BYTES: usize = 256;

/// The services in force, by their slots: what a worker tells has numbers only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The revision they are of.
    pub revision: u64,
    /// By [`ServiceIndex`].
    pub services: Vec<Option<String>>,
}

impl Names {
    /// The name of a service; none for one that has left the rules.
    pub fn of(&self, service: ServiceIndex) -> Option<&str> {
        self.services.get(service.as_usize())?.as_deref()
    }

    /// Every service in force.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceIndex, &str)> + Clone {
        let slots = self.services.iter().enumerate();
        slots.filter_map(|(slot, name)| Some((ServiceIndex(slot as u16), name.as_deref()?)))
    }
}

/// Whoever has workers with connections.
pub trait FlowSource: Clone + Send + Sync + 'static {
    /// The workers.
    fn walkers(&self) -> Walkers;
    /// The services in force: `before`, if they are still those.
    fn names(&self, before: &Arc<Names>) -> Arc<Names>;
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counted {
    /// So many matched.
    pub count: u64,
}

/// How many connections were deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// So many matched, and are gone.
    pub deleted: u64,
}

impl From<TooManyWalks> for Problem {
    fn from(reason: TooManyWalks) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.to_string())
    }
}

/// The routes below [`super::FLOWS_PATH`] and [`super::FLOWS_COUNT_PATH`].
pub(super) fn routes<S: FlowSource>() -> Router<S> {
    let flows: MethodRouter<S> = get(list::<S>).delete(delete::<S>);
    Router::new().route(super::FLOWS_PATH, flows).route(super::FLOWS_COUNT_PATH, get(count::<S>))
}

/// What is asked for, and by which filter the workers find it.
struct Asked<S> {
    source: S,
    walkers: Walkers,
    names: Arc<Names>,
    query: Query,
    filter: Filter,
}

impl<S: FlowSource> Asked<S> {
    fn read(source: S, text: Option<&str>) -> Result<Self, Problem> {
        let query: Query = serde_urlencoded::from_str(text.unwrap_or_default())
            .map_err(|error| Problem::bad_request(error.to_string()))?;
        let (walkers, names) = (source.walkers(), source.names(&Arc::default()));
        let filter = query.resolve(names.iter(), walkers.worker_count());
        let filter = filter.map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Self { source, walkers, names, query, filter })
    }
}

/// List connections
///
/// A line of JSON each, unsorted, as the workers come upon them while traffic goes on. One that lives while the list is made is in
/// it, once; twice if it was moved in the table meanwhile.
#[utoipa::path(get, path = super::FLOWS_PATH, params(Query), responses(
    (status = 200, description = "The connections, a line each", body = Connection<'static>, content_type = "application/x-ndjson"),
    (status = 400, description = "A condition that cannot be read", body = Problem),
    (status = 503, description = "Too many listings are under way", body = Problem),
))]
pub(super) async fn list<S: FlowSource>(
    State(source): State<S>,
    RawQuery(text): RawQuery,
) -> Result<Response, Problem> {
    let asked = Asked::read(source, text.as_deref())?;
    let walk = asked.walkers.list(&asked.filter, asked.query.worker)?;
    let lines = stream::unfold((walk, asked.source, asked.names), next_lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// What [`list`] keeps from one piece of its answer to the next.
type Listing<S> = (Walk, S, Arc<Names>);

async fn next_lines<S: FlowSource>(
    (mut walk, source, names): Listing<S>,
) -> Option<(Result<Bytes, serde_json::Error>, Listing<S>)> {
    // A reader that is always ready must not keep the director's one thread to itself.
    yield_now().await;
    let batch = walk.next_batch().await?;
    let names = source.names(&names);
    Some((lines(&batch, &names), (walk, source, names)))
}

fn lines(batch: &Batch, names: &Names) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::with_capacity(batch.len() * LINE_BYTES);
    for (worker, record) in batch {
        serde_json::to_writer(&mut text, &Connection::new(*worker, record, names.of(record.service)))?;
        text.push(b'\n');
    }
    Ok(text.into())
}

/// Count connections
#[utoipa::path(get, path = super::FLOWS_COUNT_PATH, params(Query), responses(
    (status = 200, description = "How many match", body = Counted),
    (status = 400, description = "A condition that cannot be read", body = Problem),
    (status = 503, description = "Too many listings are under way", body = Problem),
))]
pub(super) async fn count<S: FlowSource>(
    State(source): State<S>,
    RawQuery(text): RawQuery,
) -> Result<Json<Counted>, Problem> {
    let asked = Asked::read(source, text.as_deref())?;
    let count = asked.walkers.count(&asked.filter, asked.query.worker)?.finish().await;
    Ok(Json(Counted { count }))
}

/// Forget connections
///
/// The next packet of each is that of an unknown one. A query without a condition would be all of them, and is more likely a
/// mistake: all is said by `idle=0s`.
#[utoipa::path(delete, path = super::FLOWS_PATH, params(Query), responses(
    (status = 200, description = "How many are gone", body = Deleted),
    (status = 400, description = "A condition that cannot be read, or none", body = Problem),
    (status = 503, description = "Too many listings are under way", body = Problem),
))]
pub(super) async fn delete<S: FlowSource>(
    State(source): State<S>,
    RawQuery(text): RawQuery,
) -> Result<Json<Deleted>, Problem> {
    let asked = Asked::read(source, text.as_deref())?;
    if asked.query.is_empty() {
        return Err(Problem::bad_request("say which connections to delete; idle=0s means all"));
    }
    let deleted = asked.walkers.delete(&asked.filter, asked.query.worker)?.finish().await;
    Ok(Json(Deleted { deleted }))
}
