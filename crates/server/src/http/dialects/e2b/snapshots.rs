//! Snapshots and forks. Theirs may keep memory; ours keep files, which is what their `memory: false` asks for.

use atoll_core::{
    id::{SandboxId, SnapshotId},
    request::Ttl,
    snapshot::{Snapshot, SnapshotQuery},
};
use atoll_proto::api::CreateSandbox;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode},
    response::{AppendHeaders, IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use super::{
    create::seconds, find, list::NEXT_TOKEN, rests, sandboxes::paused, shape::E2bError, types::MadeSandbox,
};
use crate::{
    http::{
        error::Answer,
        extract::{JsonBody, Query},
        page,
    },
    services::{Services, access::Caller, error::ServiceError},
};

/// Seconds that a fork lives where nobody says.
const FORK_TIMEOUT: i64 = 15;

/// A snapshot to be taken.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct SnapshotRequest {
    /// What to call it: `name` or `name:tag`.
    pub name: Option<String>,
    /// Whether memory is to be kept. It never is: sandboxes begin with the files alone.
    pub memory: Option<bool>,
}

/// A snapshot.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotInfo {
    /// What to name as `templateID` to make a sandbox from it.
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
    /// What it is called.
    names: Vec<String>,
}

impl SnapshotInfo {
    fn of(snapshot: Snapshot) -> Self {
        Self { snapshot_id: snapshot.id.to_string(), names: snapshot.names }
    }
}

/// Keeps the files of a sandbox, which goes on.
#[utoipa::path(post, path = "/sandboxes/{id}/snapshots", operation_id = "e2b_take_snapshot", tag = "e2b",
    request_body = SnapshotRequest, params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = SnapshotInfo), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError), (status = 501, body = E2bError),
        (status = 503, body = E2bError)))]
pub async fn take(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<SnapshotRequest>,
) -> Answer<(StatusCode, Json<SnapshotInfo>)> {
    find(&services, &caller, &id).await?;
    let name = body.value.name.filter(|name| !name.is_empty());
    let taken = services.take_snapshot(&caller, &id, name).await?;
    Ok((StatusCode::CREATED, Json(SnapshotInfo::of(taken))))
}

/// Lists snapshots, newest first, page by page.
#[utoipa::path(get, path = "/snapshots", operation_id = "e2b_list_snapshots", tag = "e2b",
    params(("sandboxID" = Option<String>, Query, description = "Only those taken of this sandbox"),
        ("name" = Option<String>, Query, description = "Only those with this name"),
        ("limit" = Option<usize>, Query, description = "Items of a page: 1 to 1000"),
        ("nextToken" = Option<String>, Query, description = "What the page before said in `X-Next-Token`")),
    responses((status = 200, body = [SnapshotInfo]), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 501, body = E2bError)))]
pub async fn list(State(services): State<Arc<Services>>, caller: Caller, query: Query) -> Answer<Response> {
    let asked = query.get("sandboxID").map(SandboxId::parse);
    let (limit, cursor) = (page::limit(&query)?, page::position(&query, "nextToken")?);
    let Ok(source) = asked.transpose() else {
        return Ok(Json(Vec::<SnapshotInfo>::new()).into_response());
    };
    let (tenant, name) = (Some(caller.tenant.clone()), query.get("name").map(str::to_owned));
    let query = SnapshotQuery { tenant, source, name, limit, cursor, ..SnapshotQuery::default() };
    let page = services.snapshots(&caller, query).await?;
    let next = page.next.and_then(|next| HeaderValue::from_str(&page::token(&next)).ok());
    let items: Vec<SnapshotInfo> = page.items.into_iter().map(SnapshotInfo::of).collect();
    Ok((AppendHeaders(next.map(|next| (NEXT_TOKEN, next))), Json(items)).into_response())
}

/// What is to be made of a sandbox.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ForkRequest {
    /// Seconds until the forks end; 15 when absent.
    #[schema(minimum = 0)]
    pub timeout: Option<i64>,
    /// How many; 1 when absent.
    #[schema(minimum = 1, maximum = 20)]
    pub count: Option<i64>,
}

/// What became of one fork.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForkResult {
    /// It runs.
    Sandbox(Box<MadeSandbox>),
    /// It could not be made.
    Error(E2bError),
}

/// Makes sandboxes that begin with the files of one that is there.
#[utoipa::path(post, path = "/sandboxes/{id}/fork", operation_id = "e2b_fork_sandbox", tag = "e2b",
    request_body = ForkRequest, params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = [ForkResult]), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError), (status = 501, body = E2bError),
        (status = 503, body = E2bError)))]
pub async fn fork(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<ForkRequest>,
) -> Answer<(StatusCode, Json<Vec<ForkResult>>)> {
    let ttl = Ttl::Seconds(seconds("timeout", body.value.timeout.unwrap_or(FORK_TIMEOUT))?);
    if rests(&find(&services, &caller, &id).await?) {
        return Err(paused(&id, "and cannot be forked; connect to it first").into());
    }
    let forks = services.fork(&caller, &id, body.value.count.unwrap_or(1), ttl).await?;
    let told = |fork| match fork {
        Ok(sandbox) => ForkResult::Sandbox(Box::new(MadeSandbox::of(&services, &sandbox))),
        Err(error) => ForkResult::Error(E2bError::of(&error)),
    };
    Ok((StatusCode::CREATED, Json(forks.into_iter().map(told).collect())))
}

/// Whether a text can only be the id of a snapshot, or of none.
pub fn is_id(text: &str) -> bool {
    SnapshotId::parse(text.split(':').next().unwrap_or_default()).is_ok()
}

/// Removes the snapshot of that id or name, if it is one.
pub async fn remove(services: &Services, caller: &Caller, text: &str) -> Result<bool, ServiceError> {
    let Some(snapshot) = services.find_snapshot(caller, text).await? else { return Ok(false) };
    services.remove_snapshot(snapshot.id).await.map(|()| true)
}

/// The sandbox that a snapshot's id or name leads to, where it leads to one: as large as that was which it was taken of.
pub async fn recipe(
    services: &Services,
    caller: &Caller,
    text: &str,
) -> Result<Option<CreateSandbox>, ServiceError> {
    Ok(services.find_snapshot(caller, text).await?.map(|snapshot| CreateSandbox {
        cpu: Some(snapshot.limits.cpu.to_string()),
        memory: Some(snapshot.limits.memory.to_string()),
        disk: Some(snapshot.limits.disk.to_string()),
        pids: Some(snapshot.limits.pids),
        ..CreateSandbox::of_image(snapshot.reference())
    }))
}

/// What names a snapshot's sandbox for these clients: its snapshot.
pub fn template_id(image: &str) -> &str {
    image.strip_prefix("snapshot:").filter(|id| SnapshotId::parse(id).is_ok()).unwrap_or(image)
}
