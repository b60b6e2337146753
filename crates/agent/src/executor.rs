//! The executor's own API, for whoever is in the sandbox's network: a command in, the lines that it writes out, as
//! server-sent events. Only where the configuration names its port. A translation onto the process table: commands run as
//! the default user, and end with their caller. It must not know who calls.

use std::sync::Arc;
use std::time::Duration;

use atoll_proto::executor::{Execute, Lines};
use bytes::Bytes;
use connectrpc::ConnectError;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::json;

use crate::app::App;
use crate::errors::ApiError;
use crate::http::{Body, full};
use crate::plan::Command;
use crate::process::Exit;
use crate::ring::{Piece, Source};
use crate::rpc::follow::{Event, Follow, events};
use crate::table::StartOptions;

/// More than this is no command: the kernel takes no argument so long.
const BODY_LIMIT: usize = 256 << 10;
/// A comment goes out after so long without an event.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What no client sees: it only says that the stream lives.
const COMMENT: &str = ":\n\n";

/// Answers one request.
pub async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/healthz") => Ok(Response::new(full("Healthy"))),
        ("POST", "/api/execute") => execute(app, &read(request).await?).await,
        (method, path) => {
            Err(ApiError::NotFound(format!("{method} {path}: there are POST /api/execute and GET /healthz")))
        }
    }
}

async fn read(request: Request<Incoming>) -> Result<Vec<u8>, ApiError> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BadRequest(format!("the body broke off: {error}")))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() > BODY_LIMIT {
            return Err(ApiError::BadRequest(format!("the body has more than {BODY_LIMIT} bytes")));
        }
    }
    Ok(bytes)
}

async fn execute(app: &Arc<App>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    app.table.touch();
    let ask: Execute =
        serde_json::from_slice(body).map_err(|error| ApiError::BadRequest(format!("body: {error}")))?;
    let (process, guard) = app.table.start(options(app, &ask)?).await?;
    let pid = process.pid;
    let follow = Follow {
        process,
        after: 0,
        keepalive: KEEPALIVE,
        deadline: None,
        kill_at_deadline: false,
        _held: (guard, None),
    };
    let mut telling = Telling { pid, stdout: Lines::default(), stderr: Lines::default() };
    let frames = events(follow).map(move |event| Ok(Frame::data(Bytes::from(telling.tell(event)))));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

fn options(app: &App, ask: &Execute) -> Result<StartOptions, ApiError> {
    let timeout = ask.timeout();
    let timeout = timeout.map_err(|(field, problem)| ApiError::BadRequest(format!("{field} {problem}")))?;
    let account = app.account(None)?;
    let cwd = app.working_directory("", &account)?;
    Ok(StartOptions {
        command: Command { argv: ask.argv(), cwd, ..Command::default() },
        account,
        tag: None,
        size: None,
        stdin: false,
        detached: false,
        own: false,
        guarded: true,
        timeout: Some(timeout),
        grace: Duration::ZERO,
    })
}

/// Turns what a command does into events.
struct Telling {
    pid: i32,
    stdout: Lines,
    stderr: Lines,
}

impl Telling {
    fn tell(&mut self, event: Result<Event, ConnectError>) -> String {
        match event {
            Ok(Event::Piece(piece)) => self.piece(&piece),
            Ok(Event::Exit(exit)) => self.exit(exit),
            // Without a deadline there is no error; a reader who holds the writer back misses nothing.
            Ok(Event::Started { .. } | Event::KeepAlive | Event::Gap { .. }) | Err(_) => COMMENT.to_owned(),
        }
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let (name, lines) = match piece.source {
            Source::Stderr => ("Stderr", self.stderr.feed(&piece.data)),
            Source::Stdout | Source::Terminal => ("Stdout", self.stdout.feed(&piece.data)),
        };
        lines.iter().map(|line| self.output(name, line)).collect()
    }

    fn exit(&mut self, exit: Exit) -> String {
        let rest = [("Stdout", self.stdout.end()), ("Stderr", self.stderr.end())];
        let rest: String =
            rest.iter().filter_map(|(name, line)| Some(self.output(name, line.as_ref()?))).collect();
        let kind = "CompletedEvent";
        let (code, timed_out) = (exit.code(), exit.timed_out);
        let data = json!({"$type": kind, "pid": self.pid, "exitCode": code, "timedOut": timed_out});
        format!("{rest}event: {kind}\ndata: {data}\n\n")
    }

    fn output(&self, stream: &str, line: &str) -> String {
        let kind = "OutputEvent";
        let data = json!({"$type": kind, "pid": self.pid, "stream": stream, "data": line});
        format!("event: {kind}\ndata: {data}\n\n")
    }
}
