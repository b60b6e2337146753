//! Routes of directories as tar archives.

use atoll_proto::api::{ErrorBody, Uploaded};
use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

use super::{
    error::Answer,
    extract::Query,
    files::{place, receive},
};
use crate::services::{Services, access::Caller, files::Shape};

/// Reads a directory as a tar archive.
///
/// An archive without its end is one that broke off.
#[utoipa::path(get, path = "/sandboxes/{id}/archive", operation_id = "read_archive", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("path" = String, Query, description = "The directory"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 200, body = [u8], content_type = "application/x-tar"), (status = 404, body = ErrorBody)))]
pub async fn read(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let answer = services.download(&caller, &id, &place(&query)?, Shape::Directory).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::new(answer.into_body())).into_response())
}

/// Unpacks a tar archive into a directory, which is made.
///
/// Nothing of a broken one is left.
#[utoipa::path(put, path = "/sandboxes/{id}/archive", operation_id = "write_archive", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("path" = String, Query, description = "The directory"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    request_body(content = [u8], content_type = "application/x-tar"),
    responses((status = 200, body = Uploaded), (status = 400, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub async fn write(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    request: Request,
) -> Answer<Json<Uploaded>> {
    Ok(Json(receive(&services, &caller, &id, &place(&query)?, Shape::Directory, request).await?))
}
