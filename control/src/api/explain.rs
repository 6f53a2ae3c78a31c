//! `/v1/explain`: what would happen to a packet, and why.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};

use super::flows::FlowSource;
use super::problem::Problem;
use crate::explain::{Explanation, Flow, Question, World, explain};
use crate::flows::{Connection, Query};

/// Whoever has rules in force.
pub trait Explainer: FlowSource {
    /// What there is to be explained.
    fn world(&self) -> World;
}

/// The route below [`super::EXPLAIN_PATH`].
pub(super) fn routes<E: Explainer>() -> Router<E> {
    Router::new().route(super::EXPLAIN_PATH, post(answer::<E>))
}

/// Explain what would happen to a packet
///
/// It walks the line as a new connection would. Nothing is sent, and nothing is counted.
#[utoipa::path(post, path = super::EXPLAIN_PATH, request_body = Question, responses(
    (status = 200, description = "The walk, step by step", body = Explanation),
    (status = 400, description = "A question that is none", body = Problem),
))]
pub(super) async fn answer<E: Explainer>(
    State(director): State<E>,
    question: Result<Json<Question>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Json(question) = question.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let explained = explain(&director.world(), &question);
    let mut explanation = explained.map_err(|error| Problem::bad_request(format!("{error:#}")))?;
    if let Some(flow) = &explanation.flow {
        explanation.connection = connection(&director, flow).await?;
    }
    Ok(Json(explanation))
}

/// The connection that a packet belongs to, as its worker tells it.
async fn connection<E: Explainer>(director: &E, flow: &Flow) -> Result<Option<String>, Problem> {
    let names = director.names(&Arc::default());
    let walkers = director.walkers();
    let (Ok(protocol), Ok(client), Ok(vip)) =
        (flow.protocol.parse(), flow.from.to_string().parse(), flow.to.to_string().parse())
    else {
        return Ok(None);
    };
    let query = Query { protocol: Some(protocol), client: Some(client), vip: Some(vip), ..Query::default() };
    let filter = query.resolve(names.iter(), walkers.worker_count());
    let filter = filter.map_err(|error| Problem::bad_request(error.to_string()))?;
    let mut walk = walkers.list(&filter, None)?;
    while let Some(batch) = walk.next_batch().await {
        if let Some((worker, record)) = batch.first() {
            let connection = Connection::new(*worker, record, names.of(record.service));
            return Ok(Some(told(&connection)));
        }
    }
    Ok(None)
}

fn told(connection: &Connection<'_>) -> String {
    let Connection { worker, state, mode, idle_ms, expires_ms, .. } = connection;
    let backend =
        connection.backend.map_or_else(|| "a backend that has left".to_owned(), |to| to.to_string());
    let local = connection.local.map_or_else(String::new, |local| format!(" from {local}"));
    let (idle, rest) = (idle_ms / 1_000, expires_ms / 1_000);
    format!(
        "worker {worker} sends it to {backend}{local}, mode {mode}, state {state}, idle {idle} s, forgotten after {rest} s more"
    )
}
