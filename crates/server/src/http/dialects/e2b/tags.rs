//! Tags of templates.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::sync::Arc;

use super::{
    shape::E2bError,
    template_types::{AssignTags, AssignedTags, ListedTag, RemoveTags},
};
use crate::{
    http::{error::Answer, extract::JsonBody},
    services::{Services, access::Caller},
};

/// Lets more tags point to the build that a tag points to.
#[utoipa::path(post, path = "/templates/tags", operation_id = "e2b_assign_tags", tag = "e2b", request_body = AssignTags,
    responses((status = 201, body = AssignedTags), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn assign(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<AssignTags>,
) -> Answer<(StatusCode, Json<AssignedTags>)> {
    let AssignTags { target, tags } = body.value;
    let (build_id, tags) = services.assign_tags(&caller, &target, &tags).await?;
    Ok((StatusCode::CREATED, Json(AssignedTags { tags, build_id })))
}

/// Takes tags away.
#[utoipa::path(delete, path = "/templates/tags", operation_id = "e2b_remove_tags", tag = "e2b", request_body = RemoveTags,
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn remove(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<RemoveTags>,
) -> Answer<StatusCode> {
    services.remove_tags(&caller, &body.value.name, &body.value.tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a template's tags.
#[utoipa::path(get, path = "/templates/{id}/tags", operation_id = "e2b_list_tags", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template")),
    responses((status = 200, body = [ListedTag]), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Vec<ListedTag>>> {
    let tags = services.template_tags(&caller, &id).await?;
    Ok(Json(tags.into_iter().map(ListedTag::from).collect()))
}
