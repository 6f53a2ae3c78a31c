//! What is said to a request that cannot be followed: "problem details", a small JSON document.
//!
//! Read first: RFC 9457. `type` is left out, which stands for `about:blank`: the status says what kind of problem it is, and
//! `detail` and `help` are for people.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request that was not followed, and why. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The status in words.
    pub title: String,
    /// The status of the answer, once more.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The revision of the rules in force, where the request named another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Every error in rules that were refused, as `crossdock check` prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

impl Problem {
    /// One with a status of 400 and more.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            help: None,
            revision: None,
            report: None,
        }
    }

    /// The request itself is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same, and what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_json_of_its_own_type_and_leaves_out_what_is_not_there() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "no service \"wbe\"").help("is \"web\" meant?");
        let text = serde_json::to_string(&problem).unwrap();
        assert_eq!(
            text,
            r#"{"title":"Not Found","status":404,"detail":"no service \"wbe\"","help":"is \"web\" meant?"}"#
        );
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
