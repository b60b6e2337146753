//! One sandbox for each user, at `/v1/sandbox/{userId}`: made and woken by the same call, and made anew with the same
//! volumes after it was removed.

use atoll_core::sandbox::Sandbox;
use atoll_proto::api::{ErrorBody, UserSandbox};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    http::{error::Answer, extract::Query},
    services::{Services, access::Caller, convert, error::ServiceError, sandboxes::Move, users::Volumes},
};

/// The routes, with their whole paths.
pub fn api() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::new()
        .routes(routes!(make, get, delete))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
}

type UserId = Result<Path<String>, PathRejection>;

fn named(user: UserId) -> Result<String, ServiceError> {
    let refuse = |_| ServiceError::invalid("userId", "is not UTF-8, percent-encoded");
    user.map(|Path(user)| user).map_err(refuse)
}

fn shown(services: &Services, sandbox: Sandbox) -> UserSandbox {
    convert::user_sandbox(services.shown(sandbox))
}

/// Makes the user's sandbox, or wakes the one that they have.
///
/// The same call again gives the same sandbox. It is made from the server's template for users, with the user's volumes.
#[utoipa::path(post, path = "/v1/sandbox/{userId}", operation_id = "make_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user: any printable name, percent-encoded")),
    responses((status = 200, body = UserSandbox, description = "It was there"),
        (status = 201, body = UserSandbox, description = "It was made"),
        (status = 400, body = ErrorBody), (status = 409, body = ErrorBody), (status = 507, body = ErrorBody)))]
async fn make(
    State(services): State<Arc<Services>>,
    caller: Caller,
    user: UserId,
) -> Answer<(StatusCode, Json<UserSandbox>)> {
    let user = named(user)?;
    let (sandbox, made) = services.make_user_sandbox(&caller, &user).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(shown(&services, sandbox))))
}

/// Gets the user's sandbox, as it is.
#[utoipa::path(get, path = "/v1/sandbox/{userId}", operation_id = "get_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user")),
    responses((status = 200, body = UserSandbox), (status = 404, body = ErrorBody)))]
async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    user: UserId,
) -> Answer<Json<UserSandbox>> {
    let user = named(user)?;
    Ok(Json(shown(&services, services.user_sandbox(&caller, &user).await?)))
}

/// Takes the user's sandbox down and keeps their volumes.
///
/// With `volumes=delete` those are removed, too, whether there is a sandbox or not.
#[utoipa::path(delete, path = "/v1/sandbox/{userId}", operation_id = "delete_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user"),
        ("volumes" = Option<String>, Query, description = "`keep`, as when absent, or `delete`")),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "Another sandbox has one of the volumes")))]
async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    user: UserId,
    query: Query,
) -> Answer<StatusCode> {
    let volumes = match query.get("volumes") {
        None | Some("keep") => Volumes::Keep,
        Some("delete") => Volumes::Delete,
        Some(other) => {
            let problem = format!("{other:?} is neither keep nor delete");
            return Err(ServiceError::invalid("volumes", problem).into());
        }
    };
    services.delete_user_sandbox(&caller, &named(user)?, volumes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts or wakes the user's sandbox.
#[utoipa::path(post, path = "/v1/sandbox/{userId}/start", operation_id = "start_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user")),
    responses((status = 200, body = UserSandbox), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn start(services: State<Arc<Services>>, caller: Caller, user: UserId) -> Answer<Json<UserSandbox>> {
    moved(&services, &caller, user, Move::Start).await
}

/// Ends the processes of the user's sandbox and keeps its files.
#[utoipa::path(post, path = "/v1/sandbox/{userId}/stop", operation_id = "stop_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user")),
    responses((status = 200, body = UserSandbox), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn stop(services: State<Arc<Services>>, caller: Caller, user: UserId) -> Answer<Json<UserSandbox>> {
    moved(&services, &caller, user, Move::Stop).await
}

/// Stops the user's sandbox and starts it again.
#[utoipa::path(post, path = "/v1/sandbox/{userId}/restart", operation_id = "restart_user_sandbox", tag = "per-user",
    params(("userId" = String, Path, description = "The user")),
    responses((status = 200, body = UserSandbox), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn restart(services: State<Arc<Services>>, caller: Caller, user: UserId) -> Answer<Json<UserSandbox>> {
    moved(&services, &caller, user, Move::Restart).await
}

async fn moved(
    services: &Services,
    caller: &Caller,
    user: UserId,
    change: Move,
) -> Answer<Json<UserSandbox>> {
    let user = named(user)?;
    let sandbox = services.move_user_sandbox(caller, &user, change).await?;
    Ok(Json(shown(services, sandbox)))
}
