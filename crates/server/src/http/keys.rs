//! Routes of API keys.

use atoll_proto::api::{CreateKey, ErrorBody, Key, KeyList};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::sync::Arc;

use super::{error::Answer, extract::JsonBody};
use crate::services::{Services, access::Caller};

/// Lists keys: every one for an admin, the tenant's own for a member.
#[utoipa::path(get, path = "/keys", operation_id = "list_keys", tag = "keys", responses((status = 200, body = KeyList)))]
pub async fn list(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<KeyList>> {
    Ok(Json(services.keys(&caller).await?))
}

/// Makes a key.
///
/// The secret is in this answer only.
#[utoipa::path(post, path = "/keys", operation_id = "create_key", tag = "keys", request_body = CreateKey,
    responses((status = 201, body = Key), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn create(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<CreateKey>,
) -> Answer<(StatusCode, Json<Key>)> {
    Ok((StatusCode::CREATED, Json(services.create_key(&caller, body.value).await?)))
}

/// Revokes a key: the next request with it is refused.
#[utoipa::path(delete, path = "/keys/{id}", operation_id = "delete_key", tag = "keys", params(("id" = String, Path, description = "Id of the key")),
    responses((status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    services.delete_key(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
