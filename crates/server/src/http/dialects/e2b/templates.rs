//! Templates: found by name, listed, deleted. A template's id is its name.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{AppendHeaders, IntoResponse, Response},
};
use std::sync::Arc;

use super::{
    list::NEXT_TOKEN,
    shape::E2bError,
    snapshots,
    template_types::{ChangeTemplate, ChangedTemplate, DetailedTemplate, FoundTemplate, ListedTemplate},
};
use crate::{
    http::{
        error::Answer,
        extract::{JsonBody, Query},
    },
    services::{
        Services,
        access::Caller,
        error::{Kind, ServiceError},
    },
};

/// Most templates of a page, and how many it has where nobody says.
const PAGE: usize = 100;

/// Lists the tenant's templates.
#[utoipa::path(get, path = "/templates", operation_id = "e2b_list_templates", tag = "e2b",
    responses((status = 200, body = [ListedTemplate]), (status = 401, body = E2bError)))]
pub async fn list_v1(
    State(services): State<Arc<Services>>,
    caller: Caller,
) -> Answer<Json<Vec<ListedTemplate>>> {
    let all = services.listed_templates(&caller).await?;
    Ok(Json(all.iter().map(ListedTemplate::of).collect()))
}

/// Lists the tenant's templates by name, page by page.
#[utoipa::path(get, path = "/v2/templates", operation_id = "e2b_list_templates_v2", tag = "e2b",
    params(("limit" = Option<usize>, Query, description = "Items of a page: 1 to 100"),
        ("nextToken" = Option<String>, Query, description = "What the page before said in `X-Next-Token`")),
    responses((status = 200, body = [ListedTemplate]), (status = 400, body = E2bError), (status = 401, body = E2bError)))]
pub async fn list_v2(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Response> {
    let limit = query.number("limit")?.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(ServiceError::invalid("limit", format!("is 1 to {PAGE}")).into());
    }
    let mut all = services.listed_templates(&caller).await?;
    // A token is the name that the page before ended with; every name can stand in a header.
    all.retain(|it| query.get("nextToken").is_none_or(|after| it.name.as_str() > after));
    let more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().filter(|_| more).map(|it| (NEXT_TOKEN, it.name.clone()));
    let items: Vec<ListedTemplate> = all.iter().map(ListedTemplate::of).collect();
    Ok((AppendHeaders(next), Json(items)).into_response())
}

/// Gets a template with its builds.
#[utoipa::path(get, path = "/templates/{id}", operation_id = "e2b_get_template", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template")),
    responses((status = 200, body = DetailedTemplate), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<DetailedTemplate>> {
    Ok(Json(DetailedTemplate::of(services.listed_template(&caller, &id).await?)))
}

/// Says which template a name means.
#[utoipa::path(get, path = "/templates/aliases/{alias}", operation_id = "e2b_find_template", tag = "e2b",
    params(("alias" = String, Path, description = "`name` or `name:tag`")),
    responses((status = 200, body = FoundTemplate), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn find(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(alias): Path<String>,
) -> Answer<Json<FoundTemplate>> {
    let template_id = services.existing_template(&caller, &alias).await?;
    Ok(Json(FoundTemplate { template_id, public: false }))
}

/// Changes a template: it stays its tenant's.
#[utoipa::path(patch, path = "/v2/templates/{id}", operation_id = "e2b_change_template_v2", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template")), request_body = ChangeTemplate,
    responses((status = 200, body = ChangedTemplate), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn change(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<ChangeTemplate>,
) -> Answer<Json<ChangedTemplate>> {
    let listed = services.listed_template(&caller, &id).await?;
    if body.value.public == Some(true) {
        let problem = "a template is its tenant's alone here; leave it out, or set it to false";
        return Err(ServiceError::invalid("public", problem).into());
    }
    Ok(Json(ChangedTemplate { names: vec![listed.name] }))
}

/// Changes a template, at the older path.
#[utoipa::path(patch, path = "/templates/{id}", operation_id = "e2b_change_template", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template")), request_body = ChangeTemplate,
    responses((status = 200, body = ChangedTemplate), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn change_v1(
    services: State<Arc<Services>>,
    caller: Caller,
    id: Path<String>,
    body: JsonBody<ChangeTemplate>,
) -> Answer<Json<ChangedTemplate>> {
    change(services, caller, id, body).await
}

/// Forgets a template with its versions, builds and tags, or removes a snapshot.
#[utoipa::path(delete, path = "/templates/{id}", operation_id = "e2b_delete_template", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template, or id or name of the snapshot")),
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let deleted = match snapshots::is_id(&id) {
        true => Err(ServiceError::NotFound(format!("template {id:?}"))),
        false => services.delete_built(&caller, &id).await,
    };
    match deleted {
        Err(error) if !matches!(error.classify().0, Kind::NotFound | Kind::BadInput) => Err(error)?,
        Err(unknown) if !snapshots::remove(&services, &caller, &id).await? => Err(unknown)?,
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
