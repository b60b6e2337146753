//! The route that runs a command and tells what it writes, line by line.

use atoll_proto::{
    api::ErrorBody,
    executor::{Execute, Lines},
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use futures::{Stream, StreamExt, stream};
use std::sync::Arc;

use super::{find, types::ExecutionEvent};
use crate::{
    http::{error::Answer, extract::JsonBody, sse},
    services::{
        Services,
        access::Caller,
        error::ServiceError,
        exec::{Command, Happened, Run},
    },
};

/// Runs a line of the shell and streams what it writes.
///
/// Each event is one `data:` line and tells one line of output. The command is killed, with its whole process group, when
/// its time is up or the caller leaves.
#[utoipa::path(post, path = "/api/kata/{podName}/execute", operation_id = "kata_execute", tag = "kata",
    params(("podName" = String, Path, description = "Name of the pod, or id of the sandbox")), request_body = Execute,
    responses((status = 200, body = ExecutionEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn execute(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
    body: JsonBody<Execute>,
) -> Answer<Response> {
    let command = command(&body.value)?;
    let sandbox = find(&services, &caller, &name).await?;
    let (mut run, input) = services.run(&caller, sandbox.id().as_str(), command, "stream").await?;
    drop(input);
    // A command that does not even start is an error of the request.
    let first = run.next().await?;
    Ok(sse::lines(events(run, first)))
}

fn command(ask: &Execute) -> Result<Command, ServiceError> {
    let timeout = ask.timeout().map_err(|(field, problem)| ServiceError::invalid(field, problem))?;
    Ok(Command { argv: ask.argv(), timeout: Some(timeout.as_secs_f64()), ..Command::default() })
}

/// Turns what happens into events, until the end.
struct Telling {
    run: Run,
    pid: u32,
    stdout: Lines,
    stderr: Lines,
}

fn events(run: Run, first: Option<Happened>) -> impl Stream<Item = ExecutionEvent> + Send {
    let mut telling = Telling { run, pid: 0, stdout: Lines::default(), stderr: Lines::default() };
    let begun = first.map(|first| telling.tell(first)).unwrap_or_default();
    let rest = stream::unfold(Some(telling), async |telling| telling?.next().await);
    stream::iter(begun).chain(rest.flat_map(stream::iter))
}

impl Telling {
    async fn next(mut self) -> Option<(Vec<ExecutionEvent>, Option<Self>)> {
        match self.run.next().await {
            Ok(None) => None,
            Ok(Some(happened)) => Some((self.tell(happened), Some(self))),
            // These clients know no event for it: it is told where a person looks, and the end is one of no exit code.
            Err(error) => Some((self.broken(&error), None)),
        }
    }

    fn tell(&mut self, happened: Happened) -> Vec<ExecutionEvent> {
        let pid = self.pid;
        match happened {
            Happened::Started { pid } => {
                self.pid = pid;
                Vec::new()
            }
            Happened::Stdout(piece) => output(pid, "Stdout", self.stdout.feed(&piece)),
            Happened::Stderr(piece) => output(pid, "Stderr", self.stderr.feed(&piece)),
            Happened::Ended(exit) => self.end(exit.exit_code, exit.timed_out),
        }
    }

    fn end(&mut self, exit_code: i32, timed_out: bool) -> Vec<ExecutionEvent> {
        let mut last = output(self.pid, "Stdout", self.stdout.end());
        last.extend(output(self.pid, "Stderr", self.stderr.end()));
        last.push(ExecutionEvent::Completed { pid: self.pid, exit_code, timed_out });
        last
    }

    fn broken(&mut self, error: &ServiceError) -> Vec<ExecutionEvent> {
        let mut last = output(self.pid, "Stderr", [error.tell().error]);
        last.extend(self.end(-1, false));
        last
    }
}

fn output(pid: u32, stream: &'static str, lines: impl IntoIterator<Item = String>) -> Vec<ExecutionEvent> {
    lines.into_iter().map(|data| ExecutionEvent::Output { pid, stream, data }).collect()
}
