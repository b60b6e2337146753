//! Route of the start command's log.

use atoll_proto::api::{ErrorBody, Logs};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::sync::Arc;

use super::{
    error::Answer,
    extract::{Query, wants_events},
    sse,
};
use crate::services::{Services, access::Caller, convert};

/// Bytes of the log that are sent when the caller names no number.
const TAIL: u64 = 1 << 20;

/// One piece of the log, as an event.
#[derive(Serialize)]
struct LogEvent {
    event: &'static str,
    data: String,
}

/// What the start command wrote and what happened to the sandbox.
///
/// With `follow=true` the log alone, as plain text that goes on while it is written, or as events named `log` with
/// `Accept: text/event-stream`.
#[utoipa::path(get, path = "/sandboxes/{id}/logs", operation_id = "get_logs", tag = "sandboxes",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("tail" = Option<u64>, Query, description = "Only the last so many bytes; 1 MiB when absent"),
        ("follow" = Option<bool>, Query, description = "Go on with what comes")),
    responses((status = 200, description = "As text alone where that is asked for, and where it is followed",
        content((Logs = "application/json"), (String = "text/plain"))), (status = 404, body = ErrorBody)))]
pub async fn logs(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: Query,
) -> Answer<Response> {
    let follow = query.switch("follow")?.unwrap_or(false);
    let tail = query.number("tail")?.unwrap_or(TAIL);
    let (sandbox, stream) = services.logs(&caller, &id, tail, follow).await?;
    if !follow {
        let bytes: Vec<Vec<u8>> = stream.try_collect().await?;
        let logs = String::from_utf8_lossy(&bytes.concat()).into_owned();
        let events = sandbox.history.into_iter().map(convert::transition).collect();
        return Ok(Json(Logs { logs, events }).into_response());
    }
    let stream = sse::until(stream, services.base.stopping.clone());
    if wants_events(&headers) {
        let pieces = stream.filter_map(async |piece| piece.ok());
        return Ok(sse::events(
            pieces.map(|piece| LogEvent { event: "log", data: String::from_utf8_lossy(&piece).into_owned() }),
        ));
    }
    let body = Body::from_stream(stream.map_ok(Bytes::from));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}
