//! Routes of links.

use atoll_proto::api::{CreateLink, ErrorBody, Link};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::sync::Arc;

use super::{error::Answer, extract::JsonBody};
use crate::services::{Services, access::Caller};

/// Makes a link that opens a port of a sandbox to whoever has it.
#[utoipa::path(post, path = "/sandboxes/{id}/links", operation_id = "create_link", tag = "sandboxes",
    request_body = CreateLink, params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = Link), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<CreateLink>,
) -> Answer<(StatusCode, Json<Link>)> {
    Ok((StatusCode::CREATED, Json(services.link(&caller, &id, body.value).await?)))
}
