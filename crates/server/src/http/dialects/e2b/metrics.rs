//! What sandboxes use. There is no history: what is told is what is measured now.

use atoll_core::phase::Phase;
use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;

use super::{find, shape::E2bError};
use crate::{
    http::{error::Answer, extract::Query},
    services::{Services, access::Caller, error::ServiceError, measure::Measured},
};

/// Most sandboxes that one call asks about.
const MOST: usize = 100;

/// One measurement.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    timestamp_unix: i64,
    cpu_count: u64,
    /// Of all its CPUs together, 100 each.
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

/// The newest measurement of each sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct Metrics {
    sandboxes: BTreeMap<String, Metric>,
}

impl Metric {
    fn of(it: &Measured) -> Self {
        Self {
            timestamp: it.at,
            timestamp_unix: it.at.as_second(),
            cpu_count: it.cpu_count,
            cpu_used_pct: it.cpu_used_pct,
            mem_used: it.memory_used,
            mem_total: it.memory_total,
            mem_cache: it.memory_cache,
            disk_used: it.disk_used,
            disk_total: it.disk_total,
        }
    }
}

/// What a sandbox uses now, unless it rests or now is not between `start` and `end`.
#[utoipa::path(get, path = "/sandboxes/{id}/metrics", operation_id = "e2b_get_metrics", tag = "e2b",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("start" = Option<i64>, Query, description = "Seconds since the epoch"),
        ("end" = Option<i64>, Query, description = "Seconds since the epoch")),
    responses((status = 200, body = [Metric]), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn of_one(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<Vec<Metric>>> {
    let (start, end) = (query.number("start")?.unwrap_or(i64::MIN), query.number("end")?.unwrap_or(i64::MAX));
    if start > end {
        return Err(ServiceError::invalid("start", "is after `end`").into());
    }
    let sandbox = find(&services, &caller, &id).await?;
    if sandbox.phase != Phase::Running {
        return Ok(Json(Vec::new()));
    }
    let measured = services.measure(&sandbox).await?;
    let within = (start..=end).contains(&measured.at.as_second());
    Ok(Json(if within { vec![Metric::of(&measured)] } else { Vec::new() }))
}

/// What several sandboxes use now; those that rest or are not there are left out.
#[utoipa::path(get, path = "/sandboxes/metrics", operation_id = "e2b_get_metrics_of_several", tag = "e2b",
    params(("sandbox_ids" = String, Query, description = "Up to 100 ids, with commas between")),
    responses((status = 200, body = Metrics), (status = 400, body = E2bError), (status = 401, body = E2bError)))]
pub async fn of_several(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Json<Metrics>> {
    let ids: Vec<&str> =
        query.all("sandbox_ids").flat_map(|ids| ids.split(',')).filter(|id| !id.is_empty()).collect();
    if ids.len() > MOST {
        return Err(ServiceError::invalid("sandbox_ids", format!("has {MOST} ids at most")).into());
    }
    let mut sandboxes = BTreeMap::new();
    for id in ids {
        let Ok(sandbox) = find(&services, &caller, id).await else { continue };
        if sandbox.phase == Phase::Running
            && let Ok(measured) = services.measure(&sandbox).await
        {
            sandboxes.insert(id.to_owned(), Metric::of(&measured));
        }
    }
    Ok(Json(Metrics { sandboxes }))
}
