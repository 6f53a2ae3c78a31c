//! `/v1/rules`, `/v1/changes`, `/v1/revisions`, `/v1/services`: the rules in force, and how they are changed.
//!
//! Every change is a transaction. It is answered when all workers have it, or refused and nothing of it is in force. `If-Match: "7"`
//! makes one that is refused (412) unless revision 7 is in force; `?dry_run=true` one that only tells what would change.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection, StringRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::connections::Caller;
use super::problem::Problem;
use super::server::Reporter;
use super::{CHANGES_PATH, REVISIONS_PATH, ROLLBACK_PATH, RULES_PATH, SERVICES_PATH};
use crate::changes::{Changer, Edit, Outcome, Refusal, Request, Revision, Wanted};
use crate::report::ServiceReport;
use crate::rules::{Document, Values, nearest};

/// The media type of a rules file, as TOML's specification has it (toml.io, version 1.0, "MIME Type").
pub const TOML: &str = "application/toml";

/// Whoever has rules that can be changed.
pub trait Changes: Clone + Send + Sync + 'static {
    /// Where changes are asked for.
    fn changer(&self) -> Changer;
    /// The rules as typed, of the revision in force or another one, with its number; nothing where it is not remembered.
    fn document(&self, revision: Option<u64>) -> Option<(u64, Document)>;
    /// The revisions that are remembered, the newest first.
    fn revisions(&self) -> Vec<Revision>;
}

/// Changes that are made together, or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// In this order.
    pub edits: Vec<Edit>,
}

/// How a change is meant.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Meant {
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Where to go back to.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    /// The revision whose rules shall be in force again; the one before without it.
    to: Option<u64>,
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

/// The routes.
pub(super) fn routes<C: Changes + Reporter>() -> Router<C> {
    Router::new()
        .route(RULES_PATH, get(rules::<C>).put(replace::<C>))
        .route(CHANGES_PATH, post(transaction::<C>))
        .route(REVISIONS_PATH, get(revisions::<C>))
        .route(&format!("{REVISIONS_PATH}/{{revision}}"), get(revision::<C>))
        .route(ROLLBACK_PATH, post(rollback::<C>))
        .route(SERVICES_PATH, get(services::<C>).post(add_service::<C>))
        .route(
            &format!("{SERVICES_PATH}/{{service}}"),
            get(service::<C>).patch(set_service::<C>).delete(remove_service::<C>),
        )
        .route(&format!("{SERVICES_PATH}/{{service}}/backends"), post(add_backend::<C>))
        .route(
            &format!("{SERVICES_PATH}/{{service}}/backends/{{backend}}"),
            patch(set_backend::<C>).merge(delete(remove_backend::<C>)),
        )
}

/// What a query string says of a change.
pub(super) trait Meaning: DeserializeOwned {
    /// Whether it is only told what would change.
    fn is_rehearsal(&self) -> bool;
}

impl Meaning for Meant {
    fn is_rehearsal(&self) -> bool {
        self.dry_run
    }
}

impl Meaning for Back {
    fn is_rehearsal(&self) -> bool {
        self.dry_run
    }
}

/// A change as it was asked for: of whom, by whom, when it shall hold, and whether in earnest.
pub(super) struct Asked<C, Q = Meant> {
    director: C,
    expected: Option<u64>,
    by: String,
    query: Q,
}

impl<C: Changes, Q: Meaning> FromRequestParts<C> for Asked<C, Q> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, director: &C) -> Result<Self, Problem> {
        let Query(query) = Query::try_from_uri(&parts.uri)
            .map_err(|error: QueryRejection| Problem::bad_request(error.body_text()))?;
        let caller = parts.extensions.get::<Caller>();
        let by = caller.map_or_else(|| "the API".to_owned(), Caller::to_string);
        Ok(Self { director: director.clone(), expected: expected(&parts.headers)?, by, query })
    }
}

impl<C: Changes, Q: Meaning> Asked<C, Q> {
    async fn make(self, wanted: Wanted) -> Result<Json<Outcome>, Problem> {
        let is_rehearsal = self.query.is_rehearsal();
        let request = Request { wanted, expected: self.expected, is_rehearsal, by: self.by };
        Ok(Json(self.director.changer().change(request).await?))
    }

    async fn edit(self, edit: Edit) -> Result<Json<Outcome>, Problem> {
        self.make(Wanted::Edits(vec![edit])).await
    }
}

/// The revision that `If-Match` names (RFC 9110 section 13.1.1); `*` is any.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.trim_matches('"').parse().map(Some).map_err(|_| {
        Problem::bad_request(format!("if-match: {text:?} is no revision"))
            .help("a number, as `etag` of /v1/rules has it: \"7\"")
    })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Stale { revision } => Self {
                revision: Some(revision),
                ..Self::new(StatusCode::PRECONDITION_FAILED, detail)
                    .help("look at the rules in force, and ask again for what is still to be changed")
            },
            Refusal::Edit(error) => {
                let status = if error.is_missing { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
                Self { help: error.help, ..Self::new(status, detail) }
            }
            Refusal::Invalid(diagnostics) => Self {
                report: Some(diagnostics.plain()),
                ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
                    .help("the report shows each error, where it is, and a way out")
            },
            Refusal::NeedsRestart(_) => Self::new(StatusCode::CONFLICT, detail)
                .help("write it into the rules file and restart Crossdock"),
            Refusal::Forgotten { .. } => Self::new(StatusCode::NOT_FOUND, detail)
                .help(format!("{REVISIONS_PATH} lists those that are remembered")),
            Refusal::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
                .help("the rules before are in force; the log says more"),
        }
    }
}

/// A body, or what is wrong with it in this API's own words.
fn json<T>(body: Body<T>) -> Read<T> {
    body.map(|Json(body)| body).map_err(|error| Problem::new(error.status(), error.body_text()))
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Read<T> = Result<T, Problem>;

/// The rules in force, as a rules file
///
/// Comments are kept. `etag` is the revision.
#[utoipa::path(get, path = RULES_PATH, responses((status = 200, description = "TOML", body = String, content_type = TOML)))]
pub(super) async fn rules<C: Changes>(State(director): State<C>) -> Read<Response> {
    text_of(director.document(None), None)
}

/// The rules of a revision that is remembered
#[utoipa::path(get, path = "/v1/revisions/{revision}", responses(
    (status = 200, description = "TOML", body = String, content_type = TOML),
    (status = 404, description = "It is not remembered", body = Problem),
))]
pub(super) async fn revision<C: Changes>(
    State(director): State<C>,
    revision: Result<Path<u64>, PathRejection>,
) -> Read<Response> {
    let Path(revision) = revision.map_err(|error| Problem::bad_request(error.body_text()))?;
    text_of(director.document(Some(revision)), Some(revision))
}

fn text_of(found: Option<(u64, Document)>, revision: Option<u64>) -> Read<Response> {
    let (revision, document) = found.ok_or(Refusal::Forgotten { revision, oldest: 0 })?;
    let headers = [(header::CONTENT_TYPE, TOML.to_owned()), (header::ETAG, format!("\"{revision}\""))];
    Ok((headers, document.text()).into_response())
}

/// Put a whole rules file in force
///
/// Services that are the same keep their connections. Files that the rules name are looked for beside the file that Crossdock was started with.
#[utoipa::path(put, path = RULES_PATH, params(Meant), request_body(content = String, content_type = TOML), responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 409, description = "Part of it needs a restart", body = Problem),
    (status = 412, description = "Another revision is in force", body = Problem),
    (status = 422, description = "It has errors", body = Problem),
))]
pub(super) async fn replace<C: Changes>(
    asked: Asked<C>,
    body: Result<String, StringRejection>,
) -> Read<Json<Outcome>> {
    let text = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    asked.make(Wanted::Rules(text)).await
}

/// Make several changes together, or none
#[utoipa::path(post, path = CHANGES_PATH, params(Meant), request_body = Transaction, responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 404, description = "What is to be changed is not there", body = Problem),
    (status = 412, description = "Another revision is in force", body = Problem),
    (status = 422, description = "The rules would have errors", body = Problem),
))]
pub(super) async fn transaction<C: Changes>(asked: Asked<C>, body: Body<Transaction>) -> Read<Json<Outcome>> {
    let Transaction { edits } = json(body)?;
    asked.make(Wanted::Edits(edits)).await
}

/// The revisions that are remembered, the newest first
#[utoipa::path(get, path = REVISIONS_PATH, responses((status = 200, description = "Revisions", body = Vec<Revision>)))]
pub(super) async fn revisions<C: Changes>(State(director): State<C>) -> Json<Vec<Revision>> {
    Json(director.revisions())
}

/// Go back to the rules of an earlier revision
#[utoipa::path(post, path = ROLLBACK_PATH, params(Back), responses(
    (status = 200, description = "In force, as a new revision", body = Outcome),
    (status = 404, description = "It is not remembered", body = Problem),
    (status = 412, description = "Another revision is in force", body = Problem),
))]
pub(super) async fn rollback<C: Changes>(asked: Asked<C, Back>) -> Read<Json<Outcome>> {
    let to = asked.query.to;
    asked.make(Wanted::Back(to)).await
}

/// The services in force, with what was counted
#[utoipa::path(get, path = SERVICES_PATH, responses((status = 200, description = "Services", body = Vec<ServiceReport>)))]
pub(super) async fn services<R: Reporter>(State(director): State<R>) -> Json<Vec<ServiceReport>> {
    Json(director.report().services)
}

/// One service
#[utoipa::path(get, path = "/v1/services/{service}", responses(
    (status = 200, description = "The service", body = ServiceReport),
    (status = 404, description = "There is none", body = Problem),
))]
pub(super) async fn service<R: Reporter>(
    State(director): State<R>,
    Path(name): Path<String>,
) -> Read<Json<ServiceReport>> {
    let services = director.report().services;
    let near = nearest(&name, services.iter().map(|service| service.name.as_str())).map(str::to_owned);
    services.into_iter().find(|service| service.name == name).map(Json).ok_or_else(|| {
        let problem = Problem::new(StatusCode::NOT_FOUND, format!("there is no service {name:?}"));
        match near {
            Some(near) => problem.help(format!("is {near:?} meant?")),
            None => problem,
        }
    })
}

/// Add a service
///
/// The body has the keys of `[[service]]` in the rules file.
#[utoipa::path(post, path = SERVICES_PATH, params(Meant), request_body = Object, responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 409, description = "There is one with that name", body = Problem),
    (status = 422, description = "The rules would have errors", body = Problem),
))]
pub(super) async fn add_service<C: Changes>(asked: Asked<C>, body: Body<Values>) -> Read<Json<Outcome>> {
    asked.edit(Edit::AddService { service: json(body)? }).await
}

/// Change settings of a service
///
/// Keys that are not named stay as they are; `null` takes one out.
#[utoipa::path(patch, path = "/v1/services/{service}", params(Meant), request_body = Object, responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 404, description = "There is none", body = Problem),
    (status = 422, description = "The rules would have errors", body = Problem),
))]
pub(super) async fn set_service<C: Changes>(
    asked: Asked<C>,
    Path(service): Path<String>,
    body: Body<Values>,
) -> Read<Json<Outcome>> {
    asked.edit(Edit::SetService { service, set: json(body)? }).await
}

/// Remove a service
#[utoipa::path(delete, path = "/v1/services/{service}", params(Meant), responses(
    (status = 200, description = "Gone", body = Outcome),
    (status = 404, description = "There is none", body = Problem),
))]
pub(super) async fn remove_service<C: Changes>(
    asked: Asked<C>,
    Path(service): Path<String>,
) -> Read<Json<Outcome>> {
    asked.edit(Edit::RemoveService { service }).await
}

/// Add a backend to a service
///
/// The body has the keys of `[[service.backend]]` in the rules file.
#[utoipa::path(post, path = "/v1/services/{service}/backends", params(Meant), request_body = Object, responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 404, description = "There is no such service", body = Problem),
    (status = 409, description = "It has that backend", body = Problem),
    (status = 422, description = "The rules would have errors", body = Problem),
))]
pub(super) async fn add_backend<C: Changes>(
    asked: Asked<C>,
    Path(service): Path<String>,
    body: Body<Values>,
) -> Read<Json<Outcome>> {
    asked.edit(Edit::AddBackend { service, backend: json(body)? }).await
}

/// Change settings of a backend
#[utoipa::path(patch, path = "/v1/services/{service}/backends/{backend}", params(Meant), request_body = Object, responses(
    (status = 200, description = "In force", body = Outcome),
    (status = 404, description = "There is none", body = Problem),
    (status = 422, description = "The rules would have errors", body = Problem),
))]
pub(super) async fn set_backend<C: Changes>(
    asked: Asked<C>,
    Path((service, backend)): Path<(String, String)>,
    body: Body<Values>,
) -> Read<Json<Outcome>> {
    asked.edit(Edit::SetBackend { service, backend, set: json(body)? }).await
}

/// Remove a backend
#[utoipa::path(delete, path = "/v1/services/{service}/backends/{backend}", params(Meant), responses(
    (status = 200, description = "Gone", body = Outcome),
    (status = 404, description = "There is none", body = Problem),
))]
pub(super) async fn remove_backend<C: Changes>(
    asked: Asked<C>,
    Path((service, backend)): Path<(String, String)>,
) -> Read<Json<Outcome>> {
    asked.edit(Edit::RemoveBackend { service, backend }).await
}
