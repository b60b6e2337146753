//! `process.Process`: commands as the E2B SDK knows them. A lost client never ends a command here.

use std::sync::Arc;
use std::time::Duration;

use atoll_proto::agent::process::__buffa::oneof::process_event::Event as WireEvent;
use atoll_proto::agent::process::__buffa::oneof::process_event::data_event::Output as WireOutput;
use atoll_proto::agent::process::__buffa::oneof::process_input::Input;
use atoll_proto::agent::process::__buffa::oneof::process_selector::Selector;
use atoll_proto::agent::process::__buffa::oneof::stream_input_request::Event as InputEvent;
use atoll_proto::agent::process::process_event::{DataEvent, EndEvent, KeepAlive, StartEvent};
use atoll_proto::agent::process::*;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;

use super::follow::{Event, Follow, events};
use super::{basic_user, keepalive};
use crate::app::App;
use crate::errors::ApiError;
use crate::plan::Command;
use crate::process::{Exit, Process as Running, ProcessError};
use crate::pty::Size;
use crate::ring::{Piece, Source};
use crate::table::StartOptions;

/// The service.
pub struct ProcessService(pub Arc<App>);

impl ProcessService {
    fn find(&self, selector: &ProcessSelector) -> Result<Arc<Running>, ApiError> {
        let (found, name) = match &selector.selector {
            Some(Selector::Pid(pid)) => {
                (i32::try_from(*pid).ok().and_then(|pid| self.0.table.by_pid(pid)), format!("pid {pid}"))
            }
            Some(Selector::Tag(tag)) => (self.0.table.by_tag(tag), format!("tag {tag}")),
            None => return Err(ApiError::BadRequest("the process is not named".into())),
        };
        found.ok_or_else(|| ApiError::NotFound(format!("process with {name} not found")))
    }

    fn options(&self, context: &RequestContext, request: StartRequest) -> Result<StartOptions, ApiError> {
        let account = self.0.account(basic_user(context.headers()).as_deref())?;
        let config = request.process.into_option().unwrap_or_default();
        let cwd = match config.cwd.as_deref() {
            Some(cwd) if !cwd.is_empty() => crate::paths::resolve(cwd, &account.home)?,
            _ => self.0.working_directory("", &account)?,
        };
        let size = request.pty.into_option().map(|pty| size(&pty));
        Ok(StartOptions {
            command: Command {
                argv: [config.cmd].into_iter().chain(config.args).collect(),
                env: config.envs.into_iter().collect(),
                cwd,
                terminal: size.is_some(),
            },
            account,
            tag: request.tag,
            size,
            stdin: request.stdin.unwrap_or(true),
            detached: false,
            own: false,
            guarded: false,
            timeout: context.time_remaining(),
            grace: Duration::ZERO,
        })
    }

    async fn input(&self, process: &Running, input: ProcessInput) -> Result<(), ApiError> {
        let (data, terminal) = match input.input {
            Some(Input::Stdin(data)) => (data, false),
            Some(Input::Pty(data)) => (data, true),
            None => return Ok(()),
        };
        if terminal != process.description.command.terminal {
            return Err(ApiError::BadRequest("the process has the other kind of input".into()));
        }
        if terminal {
            self.0.table.touch_terminal();
        }
        Ok(process.write(&data).await?)
    }

    async fn stream(&self, mut requests: InboundStream<StreamInputRequest>) -> Result<(), ConnectError> {
        let mut process = None;
        while let Some(request) = requests.next().await {
            match (request?.to_owned_message().event, &process) {
                (Some(InputEvent::Start(start)), _) => process = Some(self.find(&start.process)?),
                (Some(InputEvent::Data(data)), Some(process)) => {
                    self.input(process, data.input.into_option().unwrap_or_default()).await?;
                }
                (Some(InputEvent::Data(_)), None) => {
                    return Err(ApiError::BadRequest("the process is not named".into()).into());
                }
                (Some(InputEvent::Keepalive(_)) | None, _) => {}
            }
        }
        Ok(())
    }
}

impl Process for ProcessService {
    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let running = self.0.table.all().into_iter().filter(|process| process.is_running());
        Response::ok(ListResponse {
            processes: running.map(|process| info(&process)).collect(),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let process = self.find(&request.to_owned_message().process)?;
        let follow = Follow {
            after: process.last_sequence(),
            process,
            keepalive: keepalive(&context),
            deadline: context.deadline(),
            kill_at_deadline: false,
            _held: (None, None),
        };
        let app = Arc::clone(&self.0);
        let responses = events(follow).filter_map(move |event| {
            let told = told(&app, event);
            let response = |event| ConnectResponse { event: Some(event).into(), ..Default::default() };
            async move { told.map(|event| event.map(response)) }
        });
        Response::stream_ok(responses)
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let options = self.options(&context, request.to_owned_message())?;
        let (process, _) = self.0.table.start(options).await.map_err(ApiError::from)?;
        let follow = Follow {
            process,
            after: 0,
            keepalive: keepalive(&context),
            deadline: context.deadline(),
            kill_at_deadline: true,
            _held: (None, None),
        };
        let app = Arc::clone(&self.0);
        let responses = events(follow).filter_map(move |event| {
            let told = told(&app, event);
            let response = |event| StartResponse { event: Some(event).into(), ..Default::default() };
            async move { told.map(|event| event.map(response)) }
        });
        Response::stream_ok(responses)
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.find(&request.process)?;
        if let Some(pty) = request.pty.as_option() {
            process.resize(size(pty)).map_err(ApiError::from)?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        self.stream(requests).await?;
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.find(&request.process)?;
        self.input(&process, request.input.into_option().unwrap_or_default()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.find(&request.process)?;
        process.signal(request.signal.to_i32()).map_err(ApiError::from)?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let process = self.find(&request.to_owned_message().process)?;
        match process.close_input().await {
            // It is closed: that is what was asked for.
            Err(ProcessError::InputClosed) if !process.description.command.terminal => {}
            closed => closed.map_err(ApiError::from)?,
        }
        Response::ok(CloseStdinResponse::default())
    }
}

fn size(pty: &PTY) -> Size {
    Size::new(pty.size.cols, pty.size.rows)
}

fn info(process: &Running) -> ProcessInfo {
    let description = &process.description;
    let mut argv = description.command.argv.iter().cloned();
    let config = ProcessConfig {
        cmd: argv.next().unwrap_or_default(),
        args: argv.collect(),
        envs: description.command.env.clone().into_iter().collect(),
        cwd: Some(description.command.cwd.clone()),
        ..Default::default()
    };
    ProcessInfo {
        config: config.into(),
        pid: process.pid.unsigned_abs(),
        tag: description.tag.clone(),
        ..Default::default()
    }
}

/// What a follower is told of an event. A command that ends with its sandbox has no end of its own to tell.
fn told(app: &App, event: Result<Event, ConnectError>) -> Option<Result<ProcessEvent, ConnectError>> {
    match event {
        Ok(Event::Exit(exit)) if exit.signal.is_some() && app.stopping.borrow().is_some() => {
            Some(Err(ConnectError::unavailable("the sandbox is being stopped")))
        }
        Ok(event) => wire(event).map(Ok),
        Err(error) => Some(Err(error)),
    }
}

/// This protocol has no word for a gap.
fn wire(event: Event) -> Option<ProcessEvent> {
    let event: WireEvent = match event {
        Event::Started { pid, .. } => StartEvent { pid, ..Default::default() }.into(),
        Event::Piece(piece) => DataEvent { output: Some(output(&piece)), ..Default::default() }.into(),
        Event::Gap { .. } => return None,
        Event::Exit(exit) => end(exit).into(),
        Event::KeepAlive => KeepAlive::default().into(),
    };
    Some(ProcessEvent { event: Some(event), ..Default::default() })
}

fn output(piece: &Piece) -> WireOutput {
    let data = piece.data.to_vec();
    match piece.source {
        Source::Stdout => WireOutput::Stdout(data),
        Source::Stderr => WireOutput::Stderr(data),
        Source::Terminal => WireOutput::Pty(data),
    }
}

/// In the words of Go's `os.ProcessState`, which clients compare with.
fn end(exit: Exit) -> EndEvent {
    let status = match (exit.status, exit.signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(libc::SIGKILL)) => "signal: killed".into(),
        (None, Some(libc::SIGTERM)) => "signal: terminated".into(),
        (None, signal) => format!("signal: {}", signal.unwrap_or(0)),
    };
    EndEvent {
        exit_code: exit.status.unwrap_or(-1),
        exited: exit.status.is_some(),
        error: (exit.status != Some(0)).then(|| status.clone()),
        status,
        ..Default::default()
    }
}
