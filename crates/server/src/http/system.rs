//! Routes of the server itself.

use atoll_proto::api::{Doctor, ErrorBody, Version};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

use super::{
    auth,
    error::{Answer, plain},
};
use crate::services::{Services, access::Caller, error::ServiceError};

/// What the server finds about its machine, and how to mend it.
#[utoipa::path(get, path = "/doctor", operation_id = "doctor", tag = "system",
    responses((status = 200, body = Doctor), (status = 403, body = ErrorBody)))]
pub async fn doctor(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<Doctor>> {
    Ok(Json(services.doctor(&caller).await?))
}

/// Version of the server.
#[utoipa::path(get, path = "/version", operation_id = "version", tag = "system", responses((status = 200, body = Version)))]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Says that the process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether sandboxes can be made and remembered now.
pub async fn readyz(State(services): State<Arc<Services>>) -> Response {
    match services.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &format!("not ready: {}", error.tell().error))
        }
    }
}

/// Every metric, as Prometheus reads it.
pub async fn metrics(State(services): State<Arc<Services>>, headers: HeaderMap) -> Answer<Response> {
    if !services.base.config.metrics_public {
        services.access.caller(auth::secret(&headers)).await?.must_be_admin()?;
    }
    let phases = services.count_phases().await?;
    let named: Vec<(String, i64)> =
        phases.into_iter().map(|(phase, count)| (format!("{phase:?}").to_lowercase(), count)).collect();
    let text = services.base.metrics.write(&named);
    let text = text.map_err(|error| ServiceError::Internal(format!("metrics: {error}")))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
