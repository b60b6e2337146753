//! `atoll.agent.v1.Agent`: the sandbox as a whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_proto::agent::v1::start_command::State;
use atoll_proto::agent::v1::*;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use rustix::process::Signal;

use super::exec::exit_message;
use crate::app::{self, App};
use crate::clock::now_ms;
use crate::process::Process;
use crate::{metrics, procfs};

/// The service.
pub struct AgentService(pub Arc<App>);

impl Agent for AgentService {
    async fn info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, InfoRequest>,
    ) -> ServiceResult<InfoResponse> {
        let app = &self.0;
        Response::ok(InfoResponse {
            version: app::VERSION.into(),
            boot_id: app.boot_id.clone(),
            started_at_ms: app.started_at_ms,
            sandbox_id: app.config.sandbox_id.clone(),
            start_command: start_command(app.start_command()).into(),
            ..Default::default()
        })
    }

    async fn metrics(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, MetricsRequest>,
    ) -> ServiceResult<MetricsResponse> {
        let now = metrics::measure(&self.0.config);
        Response::ok(MetricsResponse {
            timestamp_ms: now.timestamp_ms,
            cpu_micros: now.cpu_micros,
            cpu_count: now.cpu_count,
            memory_bytes: now.memory_bytes,
            memory_limit_bytes: now.memory_limit_bytes,
            memory_cache_bytes: now.memory_cache_bytes,
            disk_used_bytes: now.disk_used_bytes,
            disk_total_bytes: now.disk_total_bytes,
            pids: now.pids,
            memory_peak_bytes: now.memory_peak_bytes,
            oom_kills: self.0.table.oom_kills(),
            ..Default::default()
        })
    }

    async fn activity(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ActivityRequest>,
    ) -> ServiceResult<ActivityResponse> {
        Response::ok(activity(&self.0))
    }

    async fn shutdown(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ShutdownRequest>,
    ) -> ServiceResult<ShutdownResponse> {
        self.0.stop(request.grace_ms.map(|grace| Duration::from_millis(grace.into())));
        Response::ok(ShutdownResponse::default())
    }

    async fn freeze(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, FreezeRequest>,
    ) -> ServiceResult<FreezeResponse> {
        self.0.frozen.store(true, Ordering::Relaxed);
        procfs::signal_everything(Signal::STOP);
        Response::ok(FreezeResponse::default())
    }

    async fn thaw(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ThawRequest>,
    ) -> ServiceResult<ThawResponse> {
        procfs::signal_everything(Signal::CONT);
        self.0.frozen.store(false, Ordering::Relaxed);
        Response::ok(ThawResponse::default())
    }
}

fn start_command(command: app::StartCommand) -> Option<StartCommand> {
    let state = |state: State| StartCommand { state: state.into(), ..Default::default() };
    Some(match command {
        app::StartCommand::None => return None,
        app::StartCommand::Failed(error) => StartCommand { error, ..state(State::STATE_FAILED) },
        app::StartCommand::Started(process) => {
            let kind = if process.exit().is_some() { State::STATE_EXITED } else { State::STATE_RUNNING };
            let exit = process.exit().map(exit_message).into();
            StartCommand { pid: process.pid.unsigned_abs(), exit, ..state(kind) }
        }
    })
}

/// The start command is the sandbox's own, and keeps it awake only by what it does.
fn activity(app: &App) -> ActivityResponse {
    let mut running = app.table.all();
    running.retain(|process| process.is_running() && !process.description.own);
    let (terminals, commands): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|process| process.description.command.terminal);
    let typed = app.table.last_terminal_input_ms();
    let reasons = commands
        .iter()
        .map(|process| command_reason(process))
        .chain(terminals.iter().filter(|_| typed > 0).map(|process| terminal_reason(process, typed)));
    ActivityResponse {
        last_activity_ms: app.table.last_activity_ms(),
        awake_because: reasons.collect(),
        running_commands: u32::try_from(commands.len()).unwrap_or(u32::MAX),
        open_terminals: u32::try_from(terminals.len()).unwrap_or(u32::MAX),
        last_terminal_input_ms: typed,
        cpu_micros: metrics::cpu_micros(&procfs::entries()),
        ..Default::default()
    }
}

fn command_reason(process: &Process) -> String {
    let program = process.description.command.argv.first().map_or("", String::as_str);
    let seconds = now_ms().saturating_sub(process.description.started_at_ms) / 1000;
    format!("command '{program}' (process {}) runs since {seconds} s", process.pid)
}

fn terminal_reason(process: &Process, typed: u64) -> String {
    let seconds = now_ms().saturating_sub(typed) / 1000;
    format!("terminal (process {}) is open, last input {seconds} s ago", process.pid)
}
