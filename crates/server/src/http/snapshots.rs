//! Routes of snapshots and forks.

use atoll_core::{id::SandboxId, request::Ttl, snapshot::SnapshotQuery};
use atoll_proto::api::{ErrorBody, Fork, ForkList, ForkSandbox, NewSnapshot, Snapshot, SnapshotList};
use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

use super::{
    error::Answer,
    extract::{JsonBody, Query},
    page,
};
use crate::services::{Services, access::Caller, convert, error::ServiceError};

/// Keeps the files of a running, paused or stopped sandbox as they are now.
///
/// A running one stands still for some milliseconds. Its volumes, memory and processes are not in the snapshot. Sandboxes
/// are made from it with `snapshot:ID` as their image, as often as one likes.
#[utoipa::path(post, path = "/sandboxes/{id}/snapshots", operation_id = "take_snapshot", tag = "snapshots",
    request_body = NewSnapshot, params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = Snapshot), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 501, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub async fn take(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<NewSnapshot>,
) -> Answer<Response> {
    let taken = services.take_snapshot(&caller, &id, body.value.name).await?;
    let location = format!("/api/v1/snapshots/{}", taken.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(convert::snapshot(taken))).into_response())
}

/// Lists snapshots, newest first.
#[utoipa::path(get, path = "/snapshots", operation_id = "list_snapshots", tag = "snapshots",
    params(("sandbox" = Option<String>, Query, description = "Only those taken of this sandbox"),
        ("name" = Option<String>, Query, description = "Only those with this name; one without a tag stands for all tags"),
        ("limit" = Option<usize>, Query, description = "Items of a page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before")),
    responses((status = 200, body = SnapshotList), (status = 400, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Json<SnapshotList>> {
    let page = services.snapshots(&caller, snapshot_query(&query)?).await?;
    let next_cursor = page.next.as_ref().map(page::token);
    Ok(Json(SnapshotList { items: page.items.into_iter().map(convert::snapshot).collect(), next_cursor }))
}

fn snapshot_query(query: &Query) -> Result<SnapshotQuery, ServiceError> {
    let source = query.get("sandbox").map(SandboxId::parse).transpose();
    let source = source.map_err(|invalid| ServiceError::invalid("sandbox", invalid.problem))?;
    let (limit, cursor) = (page::limit(query)?, page::position(query, "cursor")?);
    let name = query.get("name").map(str::to_owned);
    Ok(SnapshotQuery { source, name, limit, cursor, ..SnapshotQuery::default() })
}

/// Gets a snapshot.
#[utoipa::path(get, path = "/snapshots/{id}", operation_id = "get_snapshot", tag = "snapshots",
    params(("id" = String, Path, description = "Id of the snapshot")),
    responses((status = 200, body = Snapshot), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Snapshot>> {
    Ok(Json(convert::snapshot(services.snapshot(&caller, &id).await?)))
}

/// Removes a snapshot. Sandboxes that were made from it keep their files.
#[utoipa::path(delete, path = "/snapshots/{id}", operation_id = "delete_snapshot", tag = "snapshots",
    params(("id" = String, Path, description = "Id of the snapshot")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    services.delete_snapshot(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes sandboxes like a running, paused or stopped one, which begin with its files as they are now.
///
/// Limits, environment, network, labels and owner are the source's. Its memory and processes are not in them: a start
/// command starts anew. One with volumes is refused. Each fork succeeds or fails by itself.
#[utoipa::path(post, path = "/sandboxes/{id}/fork", operation_id = "fork_sandbox", tag = "snapshots",
    request_body = ForkSandbox, params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = ForkList), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 501, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub async fn fork(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<ForkSandbox>,
) -> Answer<(StatusCode, Json<ForkList>)> {
    let ForkSandbox { count, ttl } = body.value;
    let ttl = ttl.map_or(Ttl::Template, |ttl| ttl.map_or(Ttl::Never, Ttl::Seconds));
    let forks = services.fork(&caller, &id, count.unwrap_or(1), ttl).await?;
    let told = |fork| match fork {
        Ok(sandbox) => Fork::Sandbox(Box::new(services.shown(sandbox))),
        Err(error) => Fork::Error(ServiceError::tell(&error)),
    };
    Ok((StatusCode::CREATED, Json(ForkList { items: forks.into_iter().map(told).collect() })))
}
