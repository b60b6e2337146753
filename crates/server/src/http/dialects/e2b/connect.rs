//! Connecting to a sandbox: one that rests is woken, one that runs gets time.

use atoll_core::{phase::Phase, sandbox::Sandbox};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use super::{
    create::{STOP_SOON, seconds},
    find, rests,
    sandboxes::{end_after, keep_for},
    shape::E2bError,
    types::MadeSandbox,
};
use crate::{
    http::{error::Answer, extract::JsonBody},
    services::{Services, access::Caller, error::ServiceError, sandboxes::Move},
};

/// Seconds until the end where the caller says nothing, by path.
const TIMEOUT_RESUME: i64 = 15;
const TIMEOUT_CONNECT: i64 = 300;

/// How a sandbox is to be connected to.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Connect {
    /// Seconds from now until it ends.
    #[schema(minimum = 0)]
    pub timeout: Option<i64>,
    /// `false` starts one that rests anew, on its files.
    pub memory: Option<bool>,
    /// What happens at its end. It cannot be changed any more.
    pub auto_pause: Option<bool>,
}

type Connected = Answer<(StatusCode, Json<MadeSandbox>)>;

/// Connects to a sandbox; one that rests is resumed.
#[utoipa::path(post, path = "/sandboxes/{id}/connect", operation_id = "e2b_connect_sandbox", tag = "e2b", request_body = Connect,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = MadeSandbox, description = "It runs"), (status = 201, body = MadeSandbox, description = "It was resumed"),
        (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError), (status = 409, body = E2bError)))]
pub async fn connect_v1(
    services: State<Arc<Services>>,
    caller: Caller,
    id: Path<String>,
    body: JsonBody<Connect>,
) -> Connected {
    connect_v2(services, caller, id, body).await
}

/// Connects to a sandbox; one that rests is resumed.
#[utoipa::path(post, path = "/v2/sandboxes/{id}/connect", operation_id = "e2b_connect_sandbox_v2", tag = "e2b", request_body = Connect,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = MadeSandbox, description = "It runs"), (status = 201, body = MadeSandbox, description = "It was resumed"),
        (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError), (status = 409, body = E2bError)))]
pub async fn connect_v2(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Connect>,
) -> Connected {
    let asked = body.value;
    let timeout = seconds("timeout", asked.timeout.unwrap_or(TIMEOUT_CONNECT))?;
    let sandbox = find(&services, &caller, &id).await?;
    if rests(&sandbox) {
        return woken(&services, &caller, &sandbox, timeout, asked.memory).await;
    }
    let sandbox = services.settled(sandbox).await?;
    keep_for(&services, &caller, &sandbox, timeout).await?;
    Ok((StatusCode::OK, Json(MadeSandbox::of(&services, &sandbox))))
}

/// Resumes a sandbox that rests.
#[utoipa::path(post, path = "/sandboxes/{id}/resume", operation_id = "e2b_resume_sandbox", tag = "e2b", request_body = Connect,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 201, body = MadeSandbox), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError, description = "It runs")))]
pub async fn resume(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Connect>,
) -> Connected {
    let timeout = seconds("timeout", body.value.timeout.unwrap_or(TIMEOUT_RESUME))?;
    let sandbox = find(&services, &caller, &id).await?;
    refuse_change(&sandbox, body.value.auto_pause)?;
    if !rests(&sandbox) {
        let message = format!("sandbox {id} is running already");
        return Err(ServiceError::Conflict { code: "running", message }.into());
    }
    woken(&services, &caller, &sandbox, timeout, body.value.memory).await
}

/// Its end comes first: with the one that has passed it would be put to rest again at once.
async fn woken(
    services: &Services,
    caller: &Caller,
    sandbox: &Sandbox,
    timeout: i64,
    memory: Option<bool>,
) -> Connected {
    let id = sandbox.id().as_str();
    end_after(services, caller, id, Some(timeout)).await?;
    let change = match (sandbox.phase, memory) {
        (Phase::Stopped, _) => Move::Start,
        (_, memory) if is_anew(sandbox, memory) && services.base.driver.keeps_files(sandbox) => Move::Restart,
        _ => Move::Resume,
    };
    let sandbox = services.change_phase(caller, id, change).await?;
    Ok((StatusCode::CREATED, Json(MadeSandbox::of(services, &sandbox))))
}

/// Whether only its files are to be kept. Its processes may not have ended yet where that was said when it was made.
fn is_anew(sandbox: &Sandbox, memory: Option<bool>) -> bool {
    memory == Some(false) || sandbox.spec.lifecycle.stop_after == Some(STOP_SOON)
}

/// What happens at its end was said when it was made.
fn refuse_change(sandbox: &Sandbox, auto_pause: Option<bool>) -> Result<(), ServiceError> {
    let pauses = sandbox.spec.lifecycle.on_deadline == atoll_core::template::OnDeadline::Pause;
    if auto_pause.is_some_and(|asked| asked && !pauses) {
        let problem = "was not asked for when the sandbox was made, and cannot be changed";
        return Err(ServiceError::invalid("autoPause", problem));
    }
    Ok(())
}
