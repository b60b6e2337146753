//! The end of a build: a sandbox of its result, as those will be that are made of the template, with the start command
//! running until the ready command succeeds.

use atoll_core::{build::Level, template::TemplateSpec};
use atoll_proto::{
    agent::v1::{AgentClient, InfoRequest, StartCommand, start_command::State},
    api,
};
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

use super::{
    Failure,
    journal::Lines,
    stage::{Stage, ended},
    work::Work,
};
use crate::services::{
    agent::Agent,
    error::ServiceError,
    exec::{Command, Happened, exit_of},
    ready::pause,
};

const STEP: &str = "finalize";
/// So much of what the start command wrote is put into the log.
const TAIL: u64 = 64 << 10;

/// Tries a recipe, where it has anything to try.
pub async fn run(work: &mut Work, spec: &TemplateSpec) -> Result<(), Failure> {
    if spec.start_command.is_none() && spec.ready_command.is_none() {
        return Ok(());
    }
    let ask = api::CreateSandbox {
        cpu: spec.cpu.clone(),
        memory: spec.memory.clone(),
        env: spec.env.clone(),
        user: spec.user.clone(),
        workdir: spec.workdir.clone(),
        start_command: spec.start_command.clone(),
        ..api::CreateSandbox::of_image(&spec.image)
    };
    let (stage, begun) = Stage::of(&work.services, &work.caller, &work.build, ask).await?;
    work.stage = Some(stage);
    begun.ended().await?;
    work.journal.say(Level::Info, STEP, "Running the start command, waiting for the ready command");
    let outcome = until_ready(work, spec).await;
    note_output(work).await;
    if outcome.is_ok() {
        work.journal.say(Level::Info, STEP, "Template is ready");
    }
    outcome
}

async fn until_ready(work: &Work, spec: &TemplateSpec) -> Result<(), Failure> {
    let limit = work.services.base.config.limits.build_ready_for;
    let until = work.until.min(Instant::now() + limit);
    for attempt in 0.. {
        check_start(work).await?;
        let why = match &spec.ready_command {
            None => return Ok(()),
            Some(ready) => try_ready(work, ready, until).await?,
        };
        let Some(why) = why else { return check_start(work).await };
        if Instant::now() >= until {
            return Err(Failure::new(format!("the ready command did not succeed in time: {why}")));
        }
        work.journal.say(Level::Debug, STEP, format!("Template is not ready: {why}"));
        tokio::time::sleep(pause(attempt)).await;
    }
    Ok(())
}

/// Runs the ready command once; gives why it did not succeed.
async fn try_ready(work: &Work, ready: &[String], until: Instant) -> Result<Option<String>, Failure> {
    let Some(stage) = &work.stage else { return Err(Failure::new("there is no sandbox to try")) };
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let command = Command { argv: ready.to_vec(), timeout: Some(left.as_secs_f64()), ..Command::default() };
    let mut lines = Lines::default();
    let exit = stage.run(command, |happened| {
        if let Happened::Stdout(piece) | Happened::Stderr(piece) = happened {
            work.journal.lines(Level::Debug, STEP, "[ready]: ", &mut lines, piece);
        }
    });
    let exit = exit.await?;
    Ok((exit.exit_code != 0).then(|| ended(&exit)))
}

/// A start command may end, but not otherwise than well.
async fn check_start(work: &Work) -> Result<(), Failure> {
    let Some(command) = start_command(work).await? else { return Ok(()) };
    match command.state.as_known() {
        Some(State::STATE_FAILED) => {
            Err(Failure::new(format!("the start command did not start: {}", command.error)))
        }
        Some(State::STATE_EXITED) => {
            let exit = command.exit.into_option().map(|exit| exit_of(&exit)).unwrap_or_default();
            if exit.exit_code == 0 {
                Ok(())
            } else {
                Err(Failure::new(format!("the start command failed: {}", ended(&exit))))
            }
        }
        _ => Ok(()),
    }
}

async fn start_command(work: &Work) -> Result<Option<StartCommand>, ServiceError> {
    let Some(stage) = &work.stage else { return Ok(None) };
    let sandbox = work.services.sandbox(&work.caller, stage.id()).await?;
    let client = AgentClient::new(work.services.agents.reach(&sandbox).await?, Agent::calls());
    match client.info(InfoRequest::default()).await {
        Ok(info) => Ok(info.into_owned().start_command.into_option()),
        Err(error) => Err(work.services.agents.explain(sandbox.id(), error).await),
    }
}

/// What the start command wrote so far, into the log.
async fn note_output(work: &Work) {
    let Some(stage) = &work.stage else { return };
    let Ok((_, mut log)) = work.services.logs(&work.caller, stage.id(), TAIL, false).await else { return };
    let mut lines = Lines::default();
    while let Some(Ok(piece)) = log.next().await {
        work.journal.lines(Level::Info, STEP, "[start]: ", &mut lines, &piece);
    }
    work.journal.last_line(Level::Info, STEP, "[start]: ", &mut lines);
}
