//! Routes of volumes.

use atoll_proto::api::{ErrorBody, VolumeList};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::sync::Arc;

use super::{error::Answer, extract::Query};
use crate::services::{Services, access::Caller};

/// Lists volumes by tenant, owner and name.
#[utoipa::path(get, path = "/volumes", operation_id = "list_volumes", tag = "volumes",
    params(("owner" = Option<String>, Query, description = "Only this user's")),
    responses((status = 200, body = VolumeList), (status = 501, body = ErrorBody)))]
pub async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Json<VolumeList>> {
    Ok(Json(services.volumes(&caller, query.get("owner")).await?))
}

/// Removes a volume of a user of one's own tenant, with everything on it.
///
/// One that a sandbox has is refused, also while that rests.
#[utoipa::path(delete, path = "/volumes/{owner}/{name}", operation_id = "remove_volume", tag = "volumes",
    params(("owner" = String, Path, description = "The user whose it is"),
        ("name" = String, Path, description = "Name of the volume")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn remove(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
) -> Answer<StatusCode> {
    services.delete_volume(&caller, &owner, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
