//! Routes that show containers and take them down.

use atoll_core::sandbox::Sandbox;
use atoll_proto::api::ErrorBody;
use axum::{
    Json,
    extract::{Path, State},
};
use std::sync::Arc;

use super::{
    containers_of, find,
    types::{ContainerInfo, Deleted, DeletedAll},
};
use crate::{
    http::error::Answer,
    services::{Services, access::Caller},
};

/// A sandbox as a container.
pub fn info(services: &Services, sandbox: Sandbox) -> ContainerInfo {
    let at = services.base.driver.location(sandbox.id());
    ContainerInfo::of(sandbox, at, &services.base.config.kata)
}

/// Lists the containers of the caller's tenant, newest first.
#[utoipa::path(get, path = "/api/kata", operation_id = "kata_list", tag = "kata",
    responses((status = 200, body = Vec<ContainerInfo>), (status = 401, body = ErrorBody)))]
pub async fn list(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<Vec<ContainerInfo>>> {
    let all = services.all(&caller, containers_of(&caller)).await?;
    Ok(Json(all.into_iter().map(|sandbox| info(&services, sandbox)).collect()))
}

/// Gets a container by its pod's name or its sandbox's id.
#[utoipa::path(get, path = "/api/kata/{podName}", operation_id = "kata_get", tag = "kata",
    params(("podName" = String, Path, description = "Name of the pod, or id of the sandbox")),
    responses((status = 200, body = ContainerInfo), (status = 404, body = ErrorBody)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<ContainerInfo>> {
    let sandbox = find(&services, &caller, &name).await?;
    Ok(Json(info(&services, sandbox)))
}

/// Takes a container down with its files.
#[utoipa::path(delete, path = "/api/kata/{podName}", operation_id = "kata_delete", tag = "kata",
    params(("podName" = String, Path, description = "Name of the pod, or id of the sandbox")),
    responses((status = 200, body = Deleted), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Json<Deleted>> {
    let sandbox = find(&services, &caller, &name).await?;
    services.delete(&caller, sandbox.id().as_str()).await?;
    let pod_name = services.base.config.kata.name_of(sandbox.id());
    let message = format!("Container {pod_name} deleted successfully");
    Ok(Json(Deleted { success: true, message, pod_name }))
}

/// Takes every container of the caller's tenant down.
#[utoipa::path(delete, path = "/api/kata", operation_id = "kata_delete_all", tag = "kata",
    responses((status = 200, body = DeletedAll), (status = 401, body = ErrorBody)))]
pub async fn delete_all(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<DeletedAll>> {
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for sandbox in services.all(&caller, containers_of(&caller)).await? {
        let name = services.base.config.kata.name_of(sandbox.id());
        match services.delete(&caller, sandbox.id().as_str()).await {
            Ok(()) => deleted.push(name),
            Err(error) => {
                tracing::warn!(sandbox = %sandbox.id(), %error, "a container stays");
                failed.push(name);
            }
        }
    }
    Ok(Json(DeletedAll {
        deleted_count: deleted.len(),
        failed_count: failed.len(),
        deleted_pods: deleted,
        failed_pods: failed,
    }))
}
