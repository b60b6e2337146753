//! `atoll.agent.v1.Exec`: commands with everything a native exec needs, on one stream each.

use std::sync::Arc;
use std::time::Duration;

use atoll_proto::agent::v1::__buffa::oneof::run_event::Event as WireEvent;
use atoll_proto::agent::v1::__buffa::oneof::run_request::Message;
use atoll_proto::agent::v1::*;
use connectrpc::{InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;

use super::follow::{AbortOnDrop, Event, Follow, events};
use super::keepalive;
use crate::app::App;
use crate::errors::ApiError;
use crate::plan::Command as Planned;
use crate::process::{self, KillOnDrop, Process, ProcessError};
use crate::pty;
use crate::ring::{Piece, Source};
use crate::table::StartOptions;

/// The service.
pub struct ExecService(pub Arc<App>);

impl ExecService {
    async fn begin(&self, first: Option<Message>) -> Result<Begun, ApiError> {
        match first {
            Some(Message::Start(start)) => {
                let closes_input = start.stdin && !start.tty.is_set();
                let (process, guard) = self.0.table.start(self.options(*start)?).await?;
                Ok(Begun { process, guard, after: 0, closes_input })
            }
            Some(Message::Attach(attach)) => {
                let process = self.find(attach.id)?;
                Ok(Begun { process, guard: None, after: attach.after_sequence, closes_input: false })
            }
            _ => Err(ApiError::BadRequest("the first message must be start or attach".into())),
        }
    }

    fn options(&self, start: Start) -> Result<StartOptions, ApiError> {
        let account = self.0.account(Some(&start.user))?;
        let cwd = self.0.working_directory(&start.cwd, &account)?;
        let size = start.tty.into_option().map(|size| pty::Size::new(size.cols, size.rows));
        Ok(StartOptions {
            command: Planned {
                argv: start.argv,
                env: start.env.into_iter().collect(),
                cwd,
                terminal: size.is_some(),
            },
            account,
            tag: Some(start.tag).filter(|tag| !tag.is_empty()),
            size,
            stdin: start.stdin,
            detached: start.detached,
            own: false,
            guarded: !start.detached,
            timeout: (start.timeout_ms > 0).then(|| Duration::from_millis(start.timeout_ms)),
            grace: Duration::from_millis(start.kill_grace_ms),
        })
    }

    fn find(&self, id: u64) -> Result<Arc<Process>, ApiError> {
        self.0.table.by_id(id).ok_or_else(|| ApiError::NotFound(format!("command {id} not found")))
    }
}

/// A command with a client at it.
struct Begun {
    process: Arc<Process>,
    guard: Option<KillOnDrop>,
    after: u64,
    closes_input: bool,
}

impl Exec for ExecService {
    async fn run(
        &self,
        context: RequestContext,
        mut requests: InboundStream<RunRequest>,
    ) -> ServiceResult<ServiceStream<RunEvent>> {
        let first = match requests.next().await {
            Some(request) => request?.to_owned_message().message,
            None => None,
        };
        let Begun { process, guard, after, closes_input } = self.begin(first).await?;
        let input = forward(Arc::clone(&self.0), Arc::clone(&process), requests, closes_input);
        let follow = Follow {
            process,
            after,
            keepalive: keepalive(&context),
            deadline: context.deadline(),
            kill_at_deadline: guard.is_some(),
            _held: (guard, Some(AbortOnDrop(tokio::spawn(input)))),
        };
        Response::stream_ok(events(follow).map(|event| event.map(wire)))
    }

    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListCommandsRequest>,
    ) -> ServiceResult<ListCommandsResponse> {
        let commands = self.0.table.all().iter().map(|process| command(process)).collect();
        Response::ok(ListCommandsResponse { commands, ..Default::default() })
    }

    async fn signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SignalRequest>,
    ) -> ServiceResult<SignalResponse> {
        self.find(request.id)?.signal(request.signal).map_err(ApiError::from)?;
        Response::ok(SignalResponse::default())
    }
}

/// Passes on what the client sends. The end of its messages is the end of the command's input.
async fn forward(
    app: Arc<App>,
    process: Arc<Process>,
    mut requests: InboundStream<RunRequest>,
    closes_input: bool,
) {
    while let Some(request) = requests.next().await {
        let Ok(request) = request else { return };
        let Some(message) = request.to_owned_message().message else { continue };
        if let Err(ProcessError::Ended) = pass_on(&app, &process, message).await {
            return;
        }
    }
    if closes_input {
        // It may have been closed before.
        let _ = process.close_input().await;
    }
}

async fn pass_on(app: &App, process: &Process, message: Message) -> Result<(), ProcessError> {
    match message {
        Message::Stdin(data) => {
            if process.description.command.terminal {
                app.table.touch_terminal();
            }
            process.write(&data).await
        }
        Message::CloseStdin(_) => process.close_input().await,
        Message::Signal(signal) => process.signal(signal),
        Message::Resize(size) => process.resize(pty::Size::new(size.cols, size.rows)),
        Message::Start(_) | Message::Attach(_) => Ok(()),
    }
}

fn wire(event: Event) -> RunEvent {
    let (sequence, event): (u64, WireEvent) = match event {
        Event::Started { id, pid } => (0, Started { id, pid, ..Default::default() }.into()),
        Event::Piece(piece) => (piece.sequence, output(&piece)),
        Event::Gap { pieces, next } => (next - 1, WireEvent::Gap(pieces)),
        Event::Exit(exit) => (0, exit_message(exit).into()),
        Event::KeepAlive => (0, KeepAlive::default().into()),
    };
    RunEvent { sequence, event: Some(event), ..Default::default() }
}

fn output(piece: &Piece) -> WireEvent {
    let data = piece.data.to_vec();
    match piece.source {
        Source::Stdout => WireEvent::Stdout(data),
        Source::Stderr => WireEvent::Stderr(data),
        Source::Terminal => WireEvent::Tty(data),
    }
}

/// How a command ended, on the wire.
pub fn exit_message(exit: process::Exit) -> Exit {
    Exit {
        code: exit.code(),
        signal: exit.signal.unwrap_or(0),
        timed_out: exit.timed_out,
        oom_killed: exit.oom_killed,
        duration_ms: u64::try_from(exit.duration.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    }
}

fn command(process: &Process) -> Command {
    let description = &process.description;
    Command {
        id: description.id,
        pid: process.pid.unsigned_abs(),
        argv: description.command.argv.clone(),
        cwd: description.command.cwd.clone(),
        user: description.user.clone(),
        tty: description.command.terminal,
        detached: description.detached,
        tag: description.tag.clone().unwrap_or_default(),
        started_at_ms: description.started_at_ms,
        last_sequence: process.last_sequence(),
        exit: process.exit().map(exit_message).into(),
        ..Default::default()
    }
}
