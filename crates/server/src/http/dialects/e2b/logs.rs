//! What a sandbox's start command wrote, line by line. Its log has no times: each line has that of the sandbox's beginning.

use axum::{
    Json,
    extract::{Path, State},
};
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;

use super::{find, shape::E2bError};
use crate::{
    http::{error::Answer, extract::Query},
    services::{Services, access::Caller, error::ServiceError},
};

/// Bytes of the log's end that are looked at.
const TAIL: u64 = 1 << 20;
/// Lines where nobody says how many, and the most.
const LINES: usize = 1000;

/// A line.
#[derive(Debug, Serialize, ToSchema)]
pub struct Line {
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    line: String,
}

/// A line, with what newer clients want beside it.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogEntry {
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    message: String,
    level: &'static str,
    fields: BTreeMap<String, String>,
}

/// The log, in both forms.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsV1 {
    logs: Vec<Line>,
    log_entries: Vec<LogEntry>,
}

/// The log, in the newer form.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogsV2 {
    logs: Vec<LogEntry>,
}

/// What the start command wrote.
#[utoipa::path(get, path = "/sandboxes/{id}/logs", operation_id = "e2b_get_logs", tag = "e2b",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("limit" = Option<usize>, Query, description = "At most so many lines, 1000 when absent")),
    responses((status = 200, body = LogsV1), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn logs_v1(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<LogsV1>> {
    let (timestamp, lines) = lines(&services, &caller, &id, &query).await?;
    let logs = lines.iter().map(|line| Line { timestamp, line: line.clone() }).collect();
    Ok(Json(LogsV1 { logs, log_entries: entries(timestamp, lines) }))
}

/// What the start command wrote.
#[utoipa::path(get, path = "/v2/sandboxes/{id}/logs", operation_id = "e2b_get_logs_v2", tag = "e2b",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("limit" = Option<usize>, Query, description = "At most so many lines, 1000 when absent")),
    responses((status = 200, body = LogsV2), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn logs_v2(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<LogsV2>> {
    let (timestamp, lines) = lines(&services, &caller, &id, &query).await?;
    Ok(Json(LogsV2 { logs: entries(timestamp, lines) }))
}

fn entries(timestamp: Timestamp, lines: Vec<String>) -> Vec<LogEntry> {
    let entry = |message| LogEntry { timestamp, message, level: "info", fields: BTreeMap::new() };
    lines.into_iter().map(entry).collect()
}

/// The last lines, oldest first.
async fn lines(
    services: &Services,
    caller: &Caller,
    id: &str,
    query: &Query,
) -> Result<(Timestamp, Vec<String>), ServiceError> {
    let limit = query.number("limit")?.unwrap_or(LINES);
    if limit > LINES {
        return Err(ServiceError::invalid("limit", format!("is {LINES} at most")));
    }
    find(services, caller, id).await?;
    let (sandbox, stream) = services.logs(caller, id, TAIL, false).await?;
    let bytes: Vec<Vec<u8>> = stream.try_collect().await?;
    let text = String::from_utf8_lossy(&bytes.concat()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    let last = all.iter().skip(all.len().saturating_sub(limit));
    Ok((sandbox.spec.created_at, last.map(|line| (*line).to_owned()).collect()))
}
