//! Routes of commands that take no input while they run.

use atoll_proto::api::{Encoding, ErrorBody, ExecEvent, ExecRequest, ExecResponse, ProcessList};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use std::sync::Arc;

use super::{
    error::Answer,
    extract::{JsonBody, Query, wants_events},
    sse,
};
use crate::services::{
    Services,
    access::Caller,
    exec::{Feeding, Happened, Run},
    text::{self, Decoder},
};

/// Runs a command.
///
/// The answer comes at its end, with all it wrote; with `Accept: text/event-stream` as a stream of `ExecEvent`; with
/// `detached` at its start. A command that is not detached is killed, with its whole process group, when the caller
/// leaves. As in a shell, exit code 127 says that the program was not found, 126 that it cannot be run.
#[utoipa::path(post, path = "/sandboxes/{id}/exec", operation_id = "exec", tag = "commands", request_body = ExecRequest,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = ExecResponse), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 502, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub async fn exec(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody<ExecRequest>,
) -> Answer<Response> {
    if !wants_events(&headers) {
        return Ok(Json(services.exec(&caller, &id, body.value).await?).into_response());
    }
    let encoding = body.value.encoding;
    let (run, feeding) = services.run_fed(&caller, &id, body.value, "stream").await?;
    Ok(sse::events(events(run, feeding, encoding)))
}

/// Turns what happens into events, until the end.
struct Telling {
    run: Run,
    _feeding: Feeding,
    encoding: Encoding,
    stdout: Decoder,
    stderr: Decoder,
}

fn events(run: Run, feeding: Feeding, encoding: Encoding) -> impl Stream<Item = ExecEvent> + Send {
    let (stdout, stderr) = (Decoder::default(), Decoder::default());
    let telling = Telling { run, _feeding: feeding, encoding, stdout, stderr };
    let pieces = stream::unfold(Some(telling), async |telling| telling?.next().await);
    futures::StreamExt::flat_map(pieces, stream::iter)
}

impl Telling {
    async fn next(mut self) -> Option<(Vec<ExecEvent>, Option<Self>)> {
        match self.run.next().await {
            Ok(None) => None,
            Ok(Some(Happened::Ended(exit))) => {
                let mut last = self.rest();
                last.push(ExecEvent::Exit(exit));
                Some((last, None))
            }
            Ok(Some(happened)) => {
                let event = self.event(happened);
                Some((event.into_iter().collect(), Some(self)))
            }
            Err(error) => Some((vec![ExecEvent::Error { error: error.tell() }], None)),
        }
    }

    fn event(&mut self, happened: Happened) -> Option<ExecEvent> {
        let encode = |decoder: &mut Decoder, piece: &[u8]| match self.encoding {
            Encoding::Text => decoder.feed(piece),
            Encoding::Base64 => text::encode(piece, Encoding::Base64),
        };
        let event = match happened {
            Happened::Started { pid } => return Some(ExecEvent::Started { pid }),
            Happened::Stdout(piece) => ExecEvent::Stdout { data: encode(&mut self.stdout, &piece) },
            Happened::Stderr(piece) => ExecEvent::Stderr { data: encode(&mut self.stderr, &piece) },
            Happened::Ended(exit) => return Some(ExecEvent::Exit(exit)),
        };
        let empty =
            matches!(&event, ExecEvent::Stdout { data } | ExecEvent::Stderr { data } if data.is_empty());
        (!empty).then_some(event)
    }

    /// What waited for the rest of a character that never came.
    fn rest(&mut self) -> Vec<ExecEvent> {
        let (stdout, stderr) = (self.stdout.end(), self.stderr.end());
        let events = [ExecEvent::Stdout { data: stdout }, ExecEvent::Stderr { data: stderr }];
        let told = |event: &ExecEvent| matches!(event, ExecEvent::Stdout { data } | ExecEvent::Stderr { data } if !data.is_empty());
        events.into_iter().filter(told).collect()
    }
}

/// Lists the commands that run.
#[utoipa::path(get, path = "/sandboxes/{id}/processes", operation_id = "list_processes", tag = "commands",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = ProcessList), (status = 404, body = ErrorBody)))]
pub async fn processes(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<ProcessList>> {
    Ok(Json(services.processes(&caller, &id).await?))
}

/// Sends a signal, 15 (SIGTERM) when none is named, to the process group of a command.
#[utoipa::path(delete, path = "/sandboxes/{id}/processes/{pid}", operation_id = "signal_process", tag = "commands",
    params(("id" = String, Path, description = "Id of the sandbox"), ("pid" = u32, Path, description = "Process id"),
        ("signal" = Option<i32>, Query, description = "Number of the signal")),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn signal(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((id, pid)): Path<(String, String)>,
    query: Query,
) -> Answer<StatusCode> {
    let refuse = |_| crate::services::error::ServiceError::invalid("pid", "is a number");
    let pid = pid.parse().map_err(refuse)?;
    services.signal(&caller, &id, pid, query.number("signal")?.unwrap_or(15)).await?;
    Ok(StatusCode::NO_CONTENT)
}
