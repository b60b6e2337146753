//! Routes of templates.

use atoll_proto::api::{ErrorBody, RollbackTemplate, Template, TemplateList, TemplateSpec};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::sync::Arc;

use super::{
    error::Answer,
    extract::{JsonBody, Query},
};
use crate::services::{Services, access::Caller};

/// Lists the newest version of each template.
#[utoipa::path(get, path = "/templates", operation_id = "list_templates", tag = "templates", responses((status = 200, body = TemplateList)))]
pub async fn list(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<TemplateList>> {
    Ok(Json(services.templates(&caller).await?))
}

/// Makes the next version of a template.
///
/// The newest version's own spec makes none.
#[utoipa::path(put, path = "/templates/{name}", operation_id = "put_template", tag = "templates", request_body = TemplateSpec,
    params(("name" = String, Path, description = "Name of the template")),
    responses((status = 200, body = Template), (status = 400, body = ErrorBody)))]
pub async fn put(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
    body: JsonBody<TemplateSpec>,
) -> Answer<Json<Template>> {
    Ok(Json(services.put_template(&caller, &name, body.value).await?))
}

/// Gets the newest version of a template, or the one that `version` names.
#[utoipa::path(get, path = "/templates/{name}", operation_id = "get_template", tag = "templates",
    params(("name" = String, Path, description = "Name of the template"),
        ("version" = Option<i64>, Query, description = "Version; the newest when absent")),
    responses((status = 200, body = Template), (status = 404, body = ErrorBody)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
) -> Answer<Json<Template>> {
    Ok(Json(services.template(&caller, &name, query.number("version")?).await?))
}

/// Lists every version of a template, newest first.
#[utoipa::path(get, path = "/templates/{name}/versions", operation_id = "list_template_versions", tag = "templates",
    params(("name" = String, Path, description = "Name of the template")),
    responses((status = 200, body = TemplateList), (status = 404, body = ErrorBody)))]
pub async fn versions(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<TemplateList>> {
    Ok(Json(services.template_versions(&caller, &name).await?))
}

/// Makes the recipe of an earlier version the newest again, as a version of its own.
#[utoipa::path(post, path = "/templates/{name}/rollback", operation_id = "roll_template_back", tag = "templates",
    request_body = RollbackTemplate, params(("name" = String, Path, description = "Name of the template")),
    responses((status = 200, body = Template), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn rollback(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
    body: JsonBody<RollbackTemplate>,
) -> Answer<Json<Template>> {
    Ok(Json(services.roll_template_back(&caller, &name, body.value.target_version).await?))
}

/// Forgets a template with all its versions.
///
/// Sandboxes made from it live on.
#[utoipa::path(delete, path = "/templates/{name}", operation_id = "delete_template", tag = "templates",
    params(("name" = String, Path, description = "Name of the template")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    services.delete_template(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
