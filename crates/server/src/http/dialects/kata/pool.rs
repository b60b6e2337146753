//! Routes of a pool of warm containers, which there is not: a user's container is found or made, and the pool is said to
//! be empty.

use atoll_core::{owner::check_owner, phase::Phase, sandbox::Sandbox};
use atoll_proto::api::{CreateSandbox, ErrorBody};
use axum::{Json, extract::State};
use std::sync::Arc;

use super::{
    containers::info,
    containers_of,
    types::{Allocate, ContainerInfo, CreateContainer, PoolStatus},
};
use crate::{
    http::{error::Answer, extract::JsonBody},
    services::{Services, access::Caller, error::ServiceError, sandboxes::Begun},
};

/// Gives the container of a user: the newest that they have, else a new one, when it is ready.
#[utoipa::path(post, path = "/api/kata/allocate", operation_id = "kata_allocate", tag = "kata", request_body = Allocate,
    responses((status = 200, body = ContainerInfo), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn allocate(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<Allocate>,
) -> Answer<Json<ContainerInfo>> {
    let owner = body.value.user_id;
    check_owner("userId", &owner)?;
    let ask = CreateContainer::default().request()?;
    let ask = CreateSandbox { owner: Some(owner), ..ask };
    let begun = services.one_of_owner(&caller, containers_of(&caller), ask).await?;
    Ok(Json(info(&services, in_time(&services, begun).await?)))
}

async fn in_time(services: &Services, begun: Begun) -> Result<Sandbox, ServiceError> {
    let patience = services.base.config.kata.ready_timeout;
    let late = |_| ServiceError::Busy {
        code: "not_ready",
        message: format!(
            "the container is not ready within {} s; it is still being made",
            patience.as_secs()
        ),
        retry_after: 5,
    };
    tokio::time::timeout(patience, begun.ended()).await.map_err(late)?
}

/// Tells how many containers the caller's tenant has.
#[utoipa::path(get, path = "/api/kata/pool/status", operation_id = "kata_pool_status", tag = "kata",
    responses((status = 200, body = PoolStatus), (status = 401, body = ErrorBody)))]
pub async fn status(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<PoolStatus>> {
    Ok(Json(count(&services.all(&caller, containers_of(&caller)).await?)))
}

fn count(all: &[Sandbox]) -> PoolStatus {
    let number = |of: fn(&Sandbox) -> bool| all.iter().filter(|sandbox| of(sandbox)).count();
    let creating = number(|it| it.phase == Phase::Creating);
    let allocated = number(|it| it.phase != Phase::Creating && it.spec.owner.is_some());
    let total = all.len();
    PoolStatus {
        creating,
        allocated,
        manual: total - creating - allocated,
        total,
        utilization_percentage: 100.0 * allocated as f64 / total.max(1) as f64,
        allocated_count: allocated,
        total_count: total,
        ..PoolStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    #[test]
    fn nobody_is_counted_twice() {
        let of = |n: u8, phase: Phase, owner: Option<&str>| {
            let mut made = sandbox(n);
            (made.phase, made.spec.owner) = (phase, owner.map(str::to_owned));
            made
        };
        assert_eq!(count(&[]), PoolStatus::default());
        let all = [
            of(1, Phase::Creating, Some("a")),
            of(2, Phase::Running, Some("a")),
            of(3, Phase::Paused, None),
            of(4, Phase::Failed, None),
        ];
        let told = count(&all);
        assert_eq!((told.creating, told.allocated, told.manual, told.total), (1, 1, 2, 4));
        assert_eq!((told.warm, told.target_size, told.total_count), (0, 0, 4));
        assert!((told.utilization_percentage - 25.0).abs() < f64::EPSILON);
    }
}
