//! One sandbox: seen, ended, given more time, paused.

use atoll_core::sandbox::Sandbox;
use atoll_proto::api::UpdateSandbox;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use super::{create::seconds, find, rests, shape::E2bError, types::SandboxDetail};
use crate::{
    http::{error::Answer, extract::JsonBody},
    services::{Services, access::Caller, error::ServiceError, sandboxes::Move},
};

/// Most seconds that a refresh gives.
const LONGEST_REFRESH: i64 = 3600;

/// Gets a sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}", operation_id = "e2b_get_sandbox", tag = "e2b",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = SandboxDetail), (status = 401, body = E2bError), (status = 404, body = E2bError)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<SandboxDetail>> {
    let sandbox = find(&services, &caller, &id).await?;
    Ok(Json(SandboxDetail::of(&services, sandbox)))
}

/// Takes a sandbox down.
#[utoipa::path(delete, path = "/sandboxes/{id}", operation_id = "e2b_kill_sandbox", tag = "e2b",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 401, body = E2bError), (status = 404, body = E2bError)))]
pub async fn kill(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    find(&services, &caller, &id).await?;
    services.delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When a sandbox is to end.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeout {
    /// Seconds from now.
    #[schema(minimum = 0)]
    pub timeout: i64,
    /// Whether it is to end no earlier than it would.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extend_only: bool,
}

/// Sets when a sandbox ends.
#[utoipa::path(post, path = "/sandboxes/{id}/timeout", operation_id = "e2b_set_timeout", tag = "e2b", request_body = Timeout,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError),
        (status = 409, body = E2bError, description = "It is paused, and has no end")))]
pub async fn timeout(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Timeout>,
) -> Answer<StatusCode> {
    let after = seconds("timeout", body.value.timeout)?;
    let sandbox = find(&services, &caller, &id).await?;
    if rests(&sandbox) {
        return Err(paused(&id, "and has no end; connect to it first").into());
    }
    match body.value.extend_only {
        true => keep_for(&services, &caller, &sandbox, after).await?,
        false => end_after(&services, &caller, &id, Some(after)).await.map(drop)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// For how long a sandbox is kept at least.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Refresh {
    /// Seconds from now, 3600 at most.
    #[schema(minimum = 0, maximum = 3600)]
    pub duration: Option<i64>,
}

/// Keeps a sandbox for a while, and never ends it earlier.
#[utoipa::path(post, path = "/sandboxes/{id}/refreshes", operation_id = "e2b_refresh_sandbox", tag = "e2b", request_body = Refresh,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError)))]
pub async fn refresh(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Refresh>,
) -> Answer<StatusCode> {
    let after = seconds("duration", body.value.duration.unwrap_or_default())?;
    if after > LONGEST_REFRESH {
        return Err(ServiceError::invalid("duration", format!("is {LONGEST_REFRESH} s at most")).into());
    }
    let sandbox = find(&services, &caller, &id).await?;
    keep_for(&services, &caller, &sandbox, after).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a pause is to keep.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Pause {
    /// `false` ends the processes and keeps the files alone.
    pub memory: Option<bool>,
}

/// Pauses a sandbox until it is connected to.
#[utoipa::path(post, path = "/sandboxes/{id}/pause", operation_id = "e2b_pause_sandbox", tag = "e2b", request_body = Pause,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError),
        (status = 409, body = E2bError, description = "It is paused already")))]
pub async fn pause(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Pause>,
) -> Answer<StatusCode> {
    let sandbox = find(&services, &caller, &id).await?;
    if rests(&sandbox) {
        return Err(paused(&id, "already").into());
    }
    let without_memory = body.value.memory == Some(false) && services.base.driver.keeps_files(&sandbox);
    // What is paused has no end: otherwise its time-out would take it down.
    end_after(&services, &caller, &id, None).await?;
    let change = if without_memory { Move::Stop } else { Move::Pause };
    if let Err(error) = services.change_phase(&caller, &id, change).await {
        services.base.driver.set_deadline(sandbox.id(), sandbox.deadline).await?;
        return Err(error.into());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A refusal of what cannot be done to one that rests.
pub fn paused(id: &str, what: &str) -> ServiceError {
    ServiceError::Conflict { code: "paused", message: format!("sandbox {id} is paused {what}") }
}

/// Sets the deadline; `None` is never.
pub async fn end_after(
    services: &Services,
    caller: &Caller,
    id: &str,
    after: Option<i64>,
) -> Result<Sandbox, ServiceError> {
    services.update(caller, id, UpdateSandbox { ttl: Some(after), ..UpdateSandbox::default() }).await
}

/// Sets the deadline, unless it is later already.
pub async fn keep_for(
    services: &Services,
    caller: &Caller,
    sandbox: &Sandbox,
    after: i64,
) -> Result<(), ServiceError> {
    let asked =
        u64::try_from(after).ok().and_then(|it| atoll_core::lifecycle::later(services.base.world.now(), it));
    if sandbox.deadline.is_some_and(|deadline| asked.is_none_or(|asked| deadline < asked)) {
        end_after(services, caller, sandbox.id().as_str(), Some(after)).await?;
    }
    Ok(())
}
