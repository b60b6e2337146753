//! Errors in the shape of E2B's API, with the hints by which its clients try again or do not.

use atoll_proto::api::ErrorBody;
use axum::{
    Json,
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::error::{Told, status},
    services::error::ServiceError,
};

/// Says whether the same request may work later; without it, clients guess by the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// An error, as these clients read it.
#[derive(Debug, Serialize, ToSchema)]
pub struct E2bError {
    /// The status.
    pub code: u16,
    /// One sentence.
    pub message: String,
    /// Stable, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// What paths of theirs begin with, those that are not served included: their clients read no other shape.
const PATHS: [&str; 9] = [
    "sandboxes",
    "templates",
    "snapshots",
    "volumes",
    "volumecontent",
    "secrets",
    "teams",
    "nodes",
    "access-tokens",
];

/// Whether a path is one of their API's.
pub fn is_theirs(path: &str) -> bool {
    let rest = path.trim_start_matches('/');
    let rest = ["v2/", "v3/"].iter().find_map(|version| rest.strip_prefix(version)).unwrap_or(rest);
    PATHS.contains(&rest.split('/').next().unwrap_or_default())
}

impl E2bError {
    /// An error that is part of an answer.
    pub fn of(error: &ServiceError) -> Self {
        Self::told(their_status(status(error.classify().0)), error.tell())
    }

    fn told(status: StatusCode, told: ErrorBody) -> Self {
        let error_code = Some(their_code(&told.code).to_owned());
        Self { code: status.as_u16(), message: told.error, error_code }
    }
}

/// Says errors of everything behind it in their shape.
pub async fn in_their_shape(request: Request, next: Next) -> Response {
    reshaped(next.run(request).await)
}

/// The same answer, in their shape if it is an error of ours.
pub fn reshaped(mut response: Response) -> Response {
    let Some(Told(told)) = response.extensions_mut().remove::<Told>() else { return response };
    let status = their_status(response.status());
    let error = E2bError::told(status, told);
    let mut answer: Response<Body> = (status, Json(error)).into_response();
    if let Some(seconds) = response.headers().get(header::RETRY_AFTER) {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.clone());
    }
    if status.is_server_error() {
        let again = if response.status() == StatusCode::SERVICE_UNAVAILABLE { "true" } else { "false" };
        answer.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static(again));
    }
    answer
}

/// They have no status for a full machine but "busy".
fn their_status(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::INSUFFICIENT_STORAGE => StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::CONFLICT,
        other => other,
    }
}

fn their_code(code: &str) -> &str {
    match code {
        "idempotency_mismatch" => "idempotency_request_mismatch",
        "exhausted" => "sandbox_capacity_unavailable",
        "internal" => "internal_server_error",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_paths_are_told_from_ours() {
        for path in ["/sandboxes", "/v2/sandboxes/x", "/v3/templates", "/volumes/x", "/teams"] {
            assert!(is_theirs(path), "{path}");
        }
        for path in ["/", "/v1/sandbox/x", "/api/v1/sandboxes", "/v2", "/sandboxes-x", "/docs"] {
            assert!(!is_theirs(path), "{path}");
        }
    }
}
