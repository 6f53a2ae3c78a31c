//! The API's own description, made from the code: OpenAPI 3.1, at [`super::OPENAPI_PATH`].

use axum::Json;
use axum::http::StatusCode;
use axum::http::Uri;
use utoipa::OpenApi;

use super::problem::Problem;
use super::{changes, explain, flows, server};
use crate::rules::nearest;

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Crossdock",
        description = "The load balancer's API. Whatever goes wrong is told as problem details (RFC 9457) with \
                       `detail`, what is wrong, and `help`, what to do."
    ),
    paths(
        server::status,
        flows::list,
        flows::count,
        flows::delete,
        explain::answer,
        changes::rules,
        changes::replace,
        changes::transaction,
        changes::revisions,
        changes::revision,
        changes::rollback,
        changes::services,
        changes::service,
        changes::add_service,
        changes::set_service,
        changes::remove_service,
        changes::add_backend,
        changes::set_backend,
        changes::remove_backend,
    ),
    components(schemas(Problem))
)]
pub struct Document;

pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

/// What is said of a path that is none.
pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let document = Document::openapi();
    let paths = document.paths.paths.keys().map(String::as_str).filter(|path| !path.contains('{'));
    let problem = Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()));
    match nearest(uri.path(), paths) {
        Some(near) => problem.help(format!("is {near} meant? {} lists all there is", super::OPENAPI_PATH)),
        None => problem.help(format!("{} lists all there is", super::OPENAPI_PATH)),
    }
}

/// What is said of a method that a path does not have; the header `allow` tells those it has.
pub(super) async fn no_such_method(uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} has no such method", uri.path()))
        .help(format!("the header `allow` tells which it has, and {} what they do", super::OPENAPI_PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_versioned_and_says_what_it_is_for() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() >= 3);
        for (path, methods) in paths {
            assert!(path.starts_with("/v1/"), "{path}");
            for (method, operation) in methods.as_object().unwrap() {
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.is_empty(), "{method} {path}");
            }
        }
    }
}
