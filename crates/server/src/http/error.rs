//! Errors as answers: one shape, one status for each kind.

use atoll_proto::api::ErrorBody;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::services::error::{Kind, ServiceError};

/// What a handler fails with.
pub struct ApiError(pub ServiceError);

/// What a handler gives.
pub type Answer<T> = Result<T, ApiError>;

impl<E: Into<ServiceError>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The status of an answer of that kind.
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::BadInput => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Kind::BadGateway => StatusCode::BAD_GATEWAY,
        Kind::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What an answer tells of an error, beside its body: for whoever says it in another shape.
#[derive(Clone)]
pub struct Told(pub ErrorBody);

fn telling(status: StatusCode, body: ErrorBody) -> Response {
    let mut response = (status, Json(&body)).into_response();
    response.extensions_mut().insert(Told(body));
    response
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (kind, _) = self.0.classify();
        let mut response = telling(status(kind), self.0.tell());
        if let Some(seconds) = self.0.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if kind == Kind::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// An answer of this shape that no service made.
pub fn plain(status: StatusCode, code: &str, message: &str) -> Response {
    let body = ErrorBody { error: message.to_owned(), code: code.to_owned(), field: None };
    telling(status, body)
}
